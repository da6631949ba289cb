"""The client of served models against a server on which everything goes wrong: one clear error, or the answer."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from model.registry import find_model
from model.served import client, dialect, retry
from model.served.address import Address, Secret, token
from model.served.client import Barred, ChatClient, Failed, TimeLimits, Unavailable, run_once
from model.served.retry import retry_after_s
from model.served.slots import STEADY, Slots
from model.served.stream import Broken, Reply, ReplyReader
from pipeline.errors import ModelAway, ModelError, UsageError
from tests.model import served_fake

BODY = {"model": "tiny", "messages": []}
QUICK = TimeLimits(connect_s=2, first_s=2, idle_s=2, total_s=5, outage_s=2, attempts=3)


chunks, ANSWER = served_fake.chunks, served_fake.ANSWER


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(retry, "FIRST_S", 0.01)
    with served_fake.running() as server:
        yield server


def ask(url: str, count: int = 1, limits: TimeLimits = QUICK, in_flight: int = 4, **more: Any) -> tuple[list[Any], Any]:
    """Replies (or errors) to `count` requests at once, and what the client counted."""

    async def work() -> tuple[list[Any], Any]:
        chat = ChatClient(Address(url, "tiny"), more.get("token"), limits, in_flight, more.get("most", 10_000))
        try:
            asked = (chat.complete(BODY) for _ in range(count))
            return await asyncio.gather(*asked, return_exceptions=True), chat.counts
        finally:
            await chat.close()

    return run_once(work)


def test_a_streamed_answer_is_put_together(fake: Any) -> None:
    (reply,), counts = ask(fake.url, token="secret")
    assert reply == Reply(ANSWER, "stop", 11, 5)
    assert (counts.requests, counts.retries) == (1, 0)
    assert fake.came == [{**BODY, "stream": True}] and fake.tokens == ["Bearer secret"]


def test_many_requests_are_in_flight_and_never_more_than_allowed(fake: Any) -> None:
    fake.work_s = 0.1
    replies, _ = ask(fake.url, count=12, in_flight=4)
    assert all(reply.text == ANSWER for reply in replies)
    assert fake.most_at_once == 4


def test_a_server_that_does_not_stream_is_understood(fake: Any) -> None:
    whole = {"choices": [{"message": {"content": "hello"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}}
    fake.plan = [(200, {"Content-Type": "application/json"}, json.dumps(whole))]
    assert ask(fake.url)[0] == [Reply("hello", "length", 3, 0)]


def test_busy_means_later_and_retry_after_is_honoured_by_all(fake: Any) -> None:
    fake.plan = [(429, {"Retry-After": "0.4"}, "slow down"), (503, {}, "{}"), chunks()]
    replies, counts = ask(fake.url, count=3, in_flight=1)
    assert [reply.text for reply in replies] == [ANSWER] * 3
    assert counts.retries == 2 and counts.waited_s > 0.35  # the others waited too: one was in flight
    fake.came.clear()
    fake.plan = [(429, {"Retry-After": "3600"}, json.dumps({"error": {"message": "quota\x1b[2J"}}))]
    (error,), _ = ask(fake.url)
    assert isinstance(error, Unavailable) and "429: quota [2J" in str(error) and "for 3600 s" in str(error)
    assert len(fake.came) == 1, "it said when, and that is too late"


def test_a_slow_server_that_says_not_now_once_is_not_gone(fake: Any) -> None:
    """What counts is since when it says nothing else, not when it answered last."""

    async def slow() -> Any:
        await asyncio.sleep(0.5)
        for data in chunks():
            yield data

    fake.plan, fake.work_s = [slow, (503, {}, ""), chunks()], 0.6
    replies, counts = ask(fake.url, count=2, limits=replace(QUICK, outage_s=0.5, first_s=20, total_s=20))
    assert [getattr(reply, "text", reply) for reply in replies] == [ANSWER] * 2 and counts.retries == 1


def test_a_batch_that_is_told_to_wait_too_long_is_not_sent_and_comes_back_spread(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what a replica has by default: 16 requests at once, 15 s of patience."""
    spread = iter([i * 0.02 for i in range(100)])
    monkeypatch.setattr(client, "spread_s", lambda seconds: next(spread))
    fake.facts["/v1/models"] = {"data": [{"id": "tiny", "owned_by": "somebody"}]}
    model: Any = find_model(f"openai:{fake.url}#tiny").load({})
    windows = [served_fake.a_window([0], i) for i in range(32)]
    before = len(fake.came)
    fake.plan, fake.work_s = [(429, {"Retry-After": "20"}, "{}")], 0.2
    with pytest.raises(ModelAway, match="status 429") as caught:
        model.watch(windows)
    assert 19 < caught.value.after_s <= 20 and len(fake.came) - before <= 16
    with pytest.raises(ModelAway) as caught:
        model.watch(windows)
    assert 18 < caught.value.after_s < 20 and len(fake.came) - before <= 16, "too early"
    model._client._resume = time.monotonic()  # as if the 20 s had passed
    fake.plan, fake.work_s, before = [chunks()], 0.5, len(fake.came)
    assert len(model.watch(windows)) == 32
    first = fake.came_at[before : before + 16]
    assert 0.25 < first[-1] - first[0] < 5
    model.close()


def test_a_request_that_waited_long_for_its_turn_is_as_patient_as_any() -> None:
    """Where others are answered the server is not away: what was told to one of them is waited for."""

    async def work() -> None:
        chat = ChatClient(Address("http://127.0.0.1:9/v1", "tiny"), None, QUICK)
        long_ago, now = time.monotonic() - 100, time.monotonic()
        chat._asked_s, chat._resume, chat._problem = 0.1, now + 0.1, "status 429"
        await chat._leave_alone(long_ago)
        assert time.monotonic() >= now + 0.1
        chat._busy_since = long_ago
        with pytest.raises(Unavailable, match="status 429; it stayed so for more than 2 s"):
            await chat._leave_alone(long_ago)
        await chat.close()

    asyncio.run(work())


@pytest.mark.parametrize("said", ["0", "Sat, 21 Nov 2020 10:00:30 GMT"])
def test_retry_after_that_names_no_time_to_come_is_still_waited_after(fake: Any, said: str) -> None:
    fake.plan = [(503, {"Retry-After": said}, "{}")]
    replies, counts = ask(fake.url, count=4, limits=replace(QUICK, outage_s=0.6))
    assert all(isinstance(error, Unavailable) for error in replies)
    assert counts.requests < 60, "0.01 s, 0.02 s, ... before each of the four is sent again"


def test_those_that_were_told_to_wait_do_not_come_back_together(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = iter([0.0, 0.3, 0.6, 0.9, *[0.0] * 50])
    monkeypatch.setattr(client, "spread_s", lambda seconds: next(spread))
    fake.plan = [(503, {"Retry-After": "0.3"}, "{}")] * 4 + [chunks()]
    replies, _ = ask(fake.url, count=4)
    assert [reply.text for reply in replies] == [ANSWER] * 4
    again = fake.came_at[4:]
    assert len(again) == 4 and max(again) - min(again) > 0.5
    waits = [retry.spread_s(1000.0) for _ in range(100)]
    assert 0 <= min(waits) < 2 and 5 < max(waits) <= retry.MOST_S / 4


def test_a_request_is_made_once_however_often_it_is_sent(fake: Any) -> None:
    made: list[int] = []

    async def work() -> Any:
        chat = ChatClient(Address(fake.url, "tiny"), None, QUICK)
        try:
            return await chat.complete(lambda: made.append(1) or BODY)
        finally:
            await chat.close()

    fake.plan = [(503, {}, ""), (500, {}, ""), chunks()]
    assert run_once(work).text == ANSWER and len(fake.came) == 3 and made == [1]


def test_after_a_timeout_half_as_many_are_in_flight(fake: Any) -> None:
    """A server with one slot that is sent more than it can answer in `first_s` ends well all the same."""
    turn = asyncio.Lock()

    async def slow() -> Any:
        async with turn:
            await asyncio.sleep(0.1)
            for data in chunks():
                yield data

    fake.plan = [slow]
    limits = TimeLimits(connect_s=20, first_s=0.5, idle_s=20, total_s=20, outage_s=20, attempts=5)
    replies, counts = ask(fake.url, count=32, limits=limits, in_flight=32)
    assert [getattr(reply, "text", reply) for reply in replies] == [ANSWER] * 32
    assert counts.retries > 0


def test_how_many_may_be_in_flight() -> None:
    async def work() -> None:
        slots = Slots(8)
        taken = [await slots.__aenter__() for _ in range(8)]
        slots.too_late(sent=time.monotonic() - 1)
        slots.too_late(sent=time.monotonic() - 2)  # was in flight beside it
        assert slots.limit == 4
        for _ in taken:
            await slots.__aexit__()
        for _ in range(4):
            await asyncio.wait_for(slots.__aenter__(), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slots.__aenter__(), 0.01)
        for _ in range(STEADY * 4):
            slots.answered()
        assert slots.limit == 5
        await asyncio.wait_for(slots.__aenter__(), 5)
        for _ in range(9):
            slots.too_late(sent=time.monotonic() + 1)
        assert slots.limit == 1

    asyncio.run(work())


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)
    assert retry_after_s({"Retry-After": "120"}) == 120
    assert retry_after_s({"Retry-After": "Sat, 21 Nov 2026 10:00:30 GMT"}, now) == 30
    assert retry_after_s({"Retry-After": "Sat, 21 Nov 2026 09:00:30 GMT"}, now) == 0
    for nothing in ("", "soon", "-5", "1e9", "9" * 400, "Sat, 99 Nov"):
        assert retry_after_s({"Retry-After": nothing}) is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((500, {}, json.dumps({"error": "out of memory"})), "status 500: out of memory"),
        (chunks()[:5], "cut short"),
        ([b"data: {"], "cut short"),
        ([b"data: nonsense\n\n"], "not JSON"),
        ([b"data: [1]\n\n"], "no JSON object"),
        ([b'data: {"choices": 3}\n\n'], "without choices"),
        ([b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'], "no text"),
        ([b'data: {"choices": [{"delta": [1]}]}\n\n'], "without a delta"),
        ([b'data: {"error": {"message": "engine died"}}\n\n'], "engine died"),
        ([b"data: " + b"x" * (1 << 21)], "a line of more than"),
        (chunks("y" * 20_000), "more than 10000 characters"),
        ((200, {"Content-Type": "application/json"}, "<html>"), "not JSON"),
        ((200, {"Content-Type": "application/json"}, '{"choices": []}'), "without choices"),
        (served_fake.dripping(chunks(), 0.05), "too long"),
    ],
)
def test_what_is_no_answer_is_asked_for_again_and_then_told(fake: Any, wrong: Any, words: str) -> None:
    slow = 0.4 if callable(wrong) else 20.0  # what drips is to take too long, on a busy machine the others are not
    limits = TimeLimits(connect_s=20, first_s=20, idle_s=20, total_s=slow, outage_s=20, attempts=2)
    fake.plan = [wrong]
    (error,), counts = ask(fake.url, limits=limits)
    assert isinstance(error, Failed) and words in str(error) and "127.0.0.1" in str(error), error
    assert counts.requests == 2
    fake.came.clear()
    fake.plan = [wrong, chunks()]
    (reply,), _ = ask(fake.url, limits=replace(limits, total_s=max(slow, 2.0)))
    assert reply.text == ANSWER


@pytest.mark.parametrize("limits", [{"first_s": 0.2}, {"first_s": 0.2, "idle_s": 9}])
def test_a_server_that_says_nothing(fake: Any, limits: dict[str, float]) -> None:
    fake.work_s = 1.0
    (error,), _ = ask(fake.url, limits=TimeLimits(**{**limits, "attempts": 1}))  # type: ignore[arg-type]
    assert isinstance(error, Failed) and "too long to begin its answer: more than first_s = 0.2 s" in str(error)
    assert "smaller in_flight" in str(error)


def test_a_server_that_falls_silent_in_the_middle(fake: Any) -> None:
    async def silent() -> Any:
        yield chunks()[0] + chunks()[1]
        await asyncio.sleep(2)

    fake.plan = [silent]
    (error,), _ = ask(fake.url, limits=TimeLimits(first_s=30, idle_s=0.2, attempts=1))
    assert isinstance(error, Failed) and "too long to go on with its answer: more than idle_s = 0.2 s" in str(error)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 307])
def test_what_is_refused_is_not_asked_again(fake: Any, status: int) -> None:
    fake.plan = [(status, {"Location": "http://127.0.0.1:9/"}, json.dumps({"object": "error", "message": "no " * 500}))]
    (error,), counts = ask(fake.url, token="secret")
    assert type(error) is (ModelError if status in (400, 413, 422) else Barred)  # of this request, or of all
    assert f"status {status}: no no" in str(error)
    assert len(str(error)) < 500 and counts.requests == 1


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_S", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"  # nobody listens
        (error,), counts = ask(url, limits=TimeLimits(connect_s=1, outage_s=0.3))
    assert isinstance(error, Unavailable) and "cannot be reached: Connection refused" in str(error)
    assert counts.requests > 2
    monkeypatch.setattr(dialect, "FIRST_CONTACT_S", 0.2)  # a wrong address is known long before outage_s (600)
    with pytest.raises(Unavailable, match=r"Connection refused; it stayed so for more than 0.2 s"):
        find_model(f"openai:{url}#tiny").profile({})


def test_that_a_server_is_waited_for_at_the_start_is_said_once(
    fake: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else of the run can be seen by then. llama.cpp and vLLM answer 503 while they load."""
    monkeypatch.setattr(client, "NOTICE_S", 0.05)
    fake.plan = [(503, {}, '{"error": {"message": "Loading model"}}')] * 5 + [chunks()]
    factory: Any = find_model(f"openai:{fake.url}#tiny")
    factory.profile({"outage_s": 60})
    (line,) = caplog.messages
    assert line == f"{fake.url}: status 503: Loading model: waiting for it, 60 s at most"
    caplog.clear()
    fake.plan = [chunks()]
    find_model(f"openai:{fake.url}#tiny").profile({})
    assert not caplog.messages


def test_bytes_may_come_in_any_pieces() -> None:
    data = b"".join(chunks("你好 – ok"))
    for size in (1, 2, 3, 1000):
        reader = ReplyReader(100)
        over = [reader.feed(data[i : i + size].replace(b"\n\n", b"\r\n\r\n")) for i in range(0, len(data), size)]
        assert any(over) and reader.end().text == "你好 – ok"
    with pytest.raises(Broken):
        ReplyReader(100).end()


def test_addresses_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Address.of("openai:http://localhost:8000/v1/#org/name#1")
    assert (found.base, found.root, found.name) == ("http://localhost:8000/v1", "http://localhost:8000", "org/name#1")
    for wrong in (
        "openai:",
        "gpt",
        "openai:ftp://x#n",
        "openai:http://x/v1",
        "openai:http://#n",
        "openai:http://x:y/#n",
    ):
        with pytest.raises(UsageError, match="openai:URL#NAME"):
            Address.of(wrong)
    with pytest.raises(UsageError, match="environment variable"):
        Address.of("openai:http://me:secret@x/v1#n")
    monkeypatch.setenv("MY_TOKEN", " abc\n")
    held = token("MY_TOKEN")
    assert held == "abc" and repr({"token": held}) == "{'token': '***'}" and isinstance(held, Secret)
    monkeypatch.setenv("MY_TOKEN", "a\nb")
    with pytest.raises(UsageError, match="MY_TOKEN"):
        token("MY_TOKEN")
