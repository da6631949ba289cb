"""The page in a real browser: it plays, seeks, searches, compares, and believes no text of a model."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.serving import FIRST, HOSTILE, SECOND, S, Served

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TOKEN = "a-token-for-the-test-0123456789"


@pytest.fixture(scope="module")
def address(served: Served) -> Iterator[str]:
    yield from served_at(served.log)


def served_at(log: Path, token: str | None = TOKEN) -> Generator[str]:
    """The address of a server as `secondsight serve` runs it, in a thread, behind a proxy that adds a prefix."""
    import uvicorn

    from jobs.serve.app import create_app
    from jobs.serve.settings import Settings

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    app = create_app(Settings(str(log), token=token))

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith("/a/sight/"):
                scope = {**scope, "path": "/not-ours"}
            scope = {**scope, "path": scope["path"].removeprefix("/a/sight")}
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(behind, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a/sight/"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium; or set CHROMIUM)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--mute-audio"], timeout=120_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that is let in. At the end: nothing was asked of another address, and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(60_000)
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    page.wait_for_selector("form.door")  # without a token there is a door
    page.goto(f"{address}#token={TOKEN}")
    page.wait_for_selector(".video[role=listitem]")
    page.reload()  # by the cookie alone
    page.wait_for_selector(".video[role=listitem]")
    yield page
    assert not wrong
    assert all(url.startswith((address, "blob:")) for url in asked)
    assert not any(TOKEN in url.split("#")[0] for url in asked)
    context.close()


def until(page: Any, condition: str) -> None:
    """Wait for a condition (asked from here: the page's policy lets nobody evaluate strings in it again and again)."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(40)


def test_archive(page: Any) -> None:
    assert page.inner_text(".figures").split("\n")[:2] == ["2", "videos"]
    names = [name.inner_text() for name in page.query_selector_all(".video b") if name.is_visible()]
    assert "harbour.mp4" in names and "broken.mp4" in names
    page.wait_for_selector(".video .thumb.there")
    page.fill("input[aria-label='Filter videos by name']", "night")
    until(page, "document.querySelectorAll('.video[role=listitem]').length === 1")
    page.fill("input[aria-label='Filter videos by name']", "")
    until(page, "document.querySelectorAll('.video[role=listitem]').length === 3")


def test_plays_and_seeks(page: Any, served: Served, address: str) -> None:
    page.goto(f"{address}#/v/{served.ids['harbour.mp4']}?run=run-a&t=1.5")
    page.wait_for_selector(".timeline canvas")
    until(page, "document.querySelector('video')?.readyState >= 2 && !document.querySelector('video').seeking")
    assert abs(page.evaluate("document.querySelector('video').currentTime") - 1.5) < 0.01
    until(page, "document.querySelectorAll('.event.on').length === 2")  # what is on now is marked
    assert {e.inner_text().split("\n")[1] for e in page.query_selector_all(".event.on")} == {
        "a red circle appears",
        "HARBOUR",
    }
    page.click(".event >> text=a red circle leaves")  # a click on an event jumps to it
    until(page, "Math.abs(document.querySelector('video').currentTime - 4) < 0.01")
    page.wait_for_selector(".drawer >> text=run-a")
    assert "3 frames" in page.inner_text(".drawer") and "what the model said" in page.text_content(".drawer")
    page.keyboard.press("Escape")
    canvas = page.query_selector(".timeline canvas")
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)  # the ruler: the middle of the video
    until(page, "Math.abs(document.querySelector('video').currentTime - 3) < 0.05")
    assert canvas.get_attribute("aria-valuetext") in ("0:02", "0:03")
    page.keyboard.press("ArrowLeft")
    until(page, "document.querySelector('video').currentTime < 0.01")
    page.click("button[aria-label=Play]")
    until(page, "document.querySelector('video').currentTime > 0.4")
    page.click("button[aria-label=Pause]")
    assert page.evaluate("document.querySelector('video').paused")


def opened(page: Any, served: Served, address: str) -> None:
    """The first clip as the first run saw it."""
    page.goto(f"{address}#/v/{served.ids['harbour.mp4']}?run=run-a")
    page.wait_for_selector(".event")


def test_hover_shows_the_moment(page: Any, served: Served, address: str) -> None:
    opened(page, served, address)
    box = page.query_selector(".timeline canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    page.mouse.move(box["x"] + box["width"] * 0.31, box["y"] + 40)
    page.wait_for_selector(".timeline .tip:not([hidden]) img")
    assert page.inner_text(".timeline .tip b").startswith("0:01.8")


def test_text_of_a_model_stays_text(page: Any, served: Served, address: str) -> None:
    opened(page, served, address)
    page.fill("input[aria-label='Filter events']", "script")
    until(page, "document.querySelectorAll('.event').length === 1")
    assert page.inner_text(".event b") == HOSTILE
    assert page.query_selector("main script, main img[src=x]") is None and page.title() not in ("1", "2")
    page.fill("input[aria-label='Filter events']", "")


def test_searches_and_jumps(page: Any) -> None:
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("circle appears")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit .thumb.there")
    assert page.inner_text(".hit mark").lower() in ("circle", "appears")
    page.click(".hit >> nth=0")
    page.wait_for_selector(".drawer h2")
    assert page.inner_text(".drawer h2") == "a red circle appears"
    until(page, "document.querySelector('video')?.readyState >= 1")


def test_a_question_is_put_to_the_video_and_kind_that_are_chosen(page: Any, served: Served, address: str) -> None:
    of = served.ids["night bus.mp4"]
    page.goto(f"{address}#/search?q=what+happens+in+the+last+2+seconds%3F&kind=shape&video={of}")
    page.wait_for_selector(".answer .evidence li")
    assert [each.inner_text() for each in page.query_selector_all(".answer .evidence b")] == ["a ball leaves"]
    page.goto(f"{address}#/search?q=when+does+a+circle+appear+in+night+bus.mp4%3F")  # and what is found beside it
    page.wait_for_selector(".hit .thumb.there")
    assert len(page.query_selector_all(".answer .evidence li")) == len(page.query_selector_all(".hit")) == 1
    with page.expect_request(lambda request: "/api/search?" in request.url) as beside:  # of both videos that are named
        page.goto(f"{address}#/search?q=a+circle+in+harbour.mp4+and+in+night+bus.mp4%3F")
    assert [name for name in ("harbour.mp4", "bus.mp4") if name in beside.value.url] == ["harbour.mp4", "bus.mp4"]


def test_runs_beside_each_other(page: Any, served: Served, address: str) -> None:
    page.goto(f"{address}#/runs")
    page.check("input[aria-label='Compare run-a']")
    page.check("input[aria-label='Compare run-b']")
    page.click("text=Compare two runs")
    page.click("table a >> text=harbour.mp4")
    page.wait_for_selector(".pairs")
    assert len(page.query_selector_all(".pairs tr.same")) == 1
    assert len(page.query_selector_all(".pairs tr.reworded")) == 1
    assert len(page.query_selector_all(".pairs tr.one-sided")) == len(FIRST) - 2
    assert len(page.query_selector_all(".timeline canvas")) == 2


def test_live_run_is_shown(page: Any, served: Served, address: str) -> None:
    from pipeline.live import LiveStatus, write_live

    page.goto(f"{address}#/")
    page.wait_for_selector(".figures b")
    now = time.time_ns() // 1000
    status = LiveStatus("run-c", "running", now, now, model="m", archive="films", videos_found=8, videos_done=2)
    write_live(str(served.log), status)
    page.wait_for_selector(".run.on >> text=Watching now")
    assert page.inner_text(".run.on .percent") == "25%"
    write_live(str(served.log), LiveStatus("run-c", "done", now, now + S, model="m", videos_found=8, videos_done=8))
    until(page, "!document.querySelector('.run.on')")


def test_a_log_that_grows_takes_nobody_from_where_they_are(browser: Any, tmp_path: Path) -> None:
    """While a run commits, the same rows are seen, the kind stays chosen, what was opened stays open."""
    from pipeline.live import LiveStatus, write_live
    from pipeline.log import EventLog
    from tests.pipeline.logs import event, run_record, video_result

    uri = str(tmp_path / "log")
    log = EventLog.open(uri, create=True)
    log.begin_run(run_record())
    log.commit([video_result(f"m{i:03}.mp4", [event(0, S, "cat"), event(S, 2 * S, "dog")]) for i in range(90)])
    now = time.time_ns() // 1000
    live = LiveStatus("run-1", "running", now, now, model="m", videos_found=95, failures=(("x.mp4", "it is broken"),))
    write_live(uri, live)
    serving = served_at(tmp_path / "log", token=None)
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(60_000)
    page.goto(next(serving))
    page.click(".chip[data-kind=cat]")
    page.click(".live summary")
    page.wait_for_selector(".count >> text=90 videos with cat")
    until(page, "(scrollTo(0, document.body.scrollHeight), document.body.textContent.includes('m089.mp4'))")
    page.focus(".video:has-text('m085.mp4')")

    def place() -> float:
        return float(page.evaluate("document.activeElement.getBoundingClientRect().top"))

    before = place()
    for i in range(5):
        log.commit([video_result(f"a{i}.mp4", [event(0, S, "cat")])])  # before all others
        write_live(uri, dataclasses.replace(live, updated_at_us=now + i, videos_done=90 + i))
    page.wait_for_selector(".count >> text=95 videos with cat")
    until(page, "document.querySelector('.figures b').textContent === '95'")
    until(page, "document.querySelector('.run .facts').textContent.includes('94 of 95')")
    assert "m085.mp4" in page.evaluate("document.activeElement.textContent") and abs(place() - before) < 60
    assert page.get_attribute(".chip[data-kind=cat]", "aria-pressed") == "true"
    assert page.evaluate("document.querySelector('.live details').open")
    page.keyboard.press("Home")
    page.focus(".skip")
    page.keyboard.press("Enter")  # to the content, which is still there
    assert page.evaluate("document.activeElement.id") == "main" and page.query_selector(".figures")
    page.close()
    serving.close()


def test_names_for_those_who_hear_the_page(page: Any, address: str) -> None:
    """Every control has a name, every picture a text (if empty), on every page."""
    for path in ("#/", "#/search?q=circle", "#/runs", "#/failures", f"#/v/{'x' * 32}", "docs.html"):
        page.goto(address + path)
        page.wait_for_selector("main > *")
        nameless = page.evaluate(
            """[...document.querySelectorAll("button, a[href], input, select, canvas, img")].filter((node) => {
                if (node.tagName === "IMG") return !node.hasAttribute("alt");
                if (node.closest("[aria-hidden=true], label")) return false;
                return !(node.getAttribute("aria-label") || node.textContent.trim() || node.title);
            }).map((node) => node.outerHTML)"""
        )
        assert nameless == [], path


def asked(page: Any, path: str, **values: str) -> Any:
    """What the documentation's page says to a question, sent by its form."""
    card = page.locator(".operation", has=page.locator(f"summary code:text-is('{path}')"))
    card.locator("summary").click()
    for name, value in values.items():
        card.locator("label", has=page.locator(f"code:text-matches('^{name}[?]?$')")).locator("input, textarea").fill(
            value
        )
    card.locator("button.main").first.click()
    return card.locator("pre")


def test_questions_are_tried_where_they_are_described(browser: Any, address: str) -> None:
    """By somebody who comes without a session, too; and a server that is gone is said to be."""
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{address}docs.html")
    answer = asked(page, "/api/at", video="harbour.mp4", t="1.5", run="run-a")
    answer.locator("input[type=password]").fill("a-wrong-token-0123456789")
    answer.locator("button").click()
    answer.get_by_text("not the token").wait_for()
    answer.locator("input[type=password]").fill(TOKEN)
    answer.locator("button").click()
    answer.get_by_text("HARBOUR").wait_for()
    status, _, body = answer.inner_text().partition("\n")
    assert status == "200"
    assert [e["text"] for e in json.loads(body)["events"]] == ["a red circle appears", "HARBOUR"]
    answer = asked(page, "/api/sql", sql="select count(*) as n from events", limit="5")
    answer.get_by_text('"columns"').wait_for()
    status, _, body = answer.inner_text().partition("\n")
    assert status == "200" and json.loads(body)["rows"] == [[len(FIRST) + 2 * len(SECOND)]]
    context.set_offline(True)
    page.locator(".operation[open] button.main").last.click()
    answer.get_by_text("does not answer").wait_for()
    context.close()


def test_phone_is_not_wider_than_it_is(browser: Any, address: str, served: Served) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{address}#token={TOKEN}")
    page.wait_for_selector(".video[role=listitem]")
    for path in ("#/", f"#/v/{served.ids['harbour.mp4']}", "#/search?q=circle", "#/runs", "#/compare/run-a/run-b"):
        page.goto(address + path)
        page.wait_for_selector(".page > *")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    context.close()


def test_a_hundred_thousand_events(browser: Any, tmp_path: Path) -> None:
    """Drawn within the time of a few frames, and no more rows in the page than can be seen."""
    from pipeline.log import EventLog
    from tests.pipeline.logs import event, run_record, video_id, video_result

    count, hour = 100_000, 3600 * S
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    events = [
        event(i * hour // count, i * hour // count + (i % 9) * 30_000, f"kind {i % 5}", f"event {i}")
        for i in range(count)
    ]
    log.commit([video_result("long.mp4", events, duration_us=hour)])
    serving = served_at(tmp_path / "log", token=None)
    page = browser.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{next(serving)}#/v/{video_id('long.mp4')}")
    page.wait_for_selector(".event b >> text=event 0")
    assert page.evaluate("document.querySelectorAll('.event').length") < 60
    page.evaluate("document.querySelector('.scroll').scrollTop = 1e9")
    page.wait_for_selector(f".event b >> text=event {count - 1}")  # the last one's text comes when it is seen
    pixels = page.evaluate(
        """(() => { const c = document.querySelector(".timeline canvas");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (d.length / 4); })()"""
    )
    assert pixels > 0.5
    page.close()
    serving.close()
