"""A batch of windows at a server that answers some of them: what came is kept, and the rest is told for what it is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from model.interface import answers_of
from model.registry import find_model
from pipeline.errors import ModelAway, ModelError
from tests.model.served_fake import ANSWER, a_window, chunks


def load(fake: Any, prompt: str, **settings: Any) -> Any:
    return find_model(f"openai:{fake.url}#tiny").load({"prompt": prompt, "dialect": "openai", **settings})


def answered(error: BaseException) -> list[int]:
    """The windows whose answers an error carries, also to another process."""
    there = answers_of(pickle.loads(pickle.dumps(error)))
    assert all(len(answer.events) == 1 for answer in there)
    return [answer.window.index for answer in there]


def test_a_window_that_is_refused_costs_the_others_nothing(fake: Any, prompt: str) -> None:
    model = load(fake, prompt, in_flight=1)
    before = len(fake.came)
    fake.plan = [chunks()] * (before + 1) + [(400, {}, '{"error": {"message": "too long"}}'), chunks()]
    windows = [a_window([0], i) for i in range(4)]
    with pytest.raises(ModelError, match="too long") as caught:
        model.watch(windows)
    assert answered(caught.value) == [0, 2, 3] and len(fake.came) == before + 4
    assert len(model.watch(windows)) == 4 and len(fake.came) == before + 8, "nothing is kept in the replica"
    model.close()


@pytest.mark.parametrize("wrong", [(500, {}, "broken"), (401, {}, "expired")])
def test_answers_are_not_lost_with_the_server(fake: Any, prompt: str, wrong: Any) -> None:
    """A fault of this replica, not of the windows."""
    model = load(fake, prompt, in_flight=1, attempts=2, outage_s=0.2)
    windows = [a_window([0], i) for i in range(4)]
    fake.plan = [chunks()] * (len(fake.came) + 2) + [wrong]
    with pytest.raises(RuntimeError, match=r"broken|expired") as caught:
        model.watch(windows)
    assert answered(caught.value) == [0, 1]
    with pytest.raises(RuntimeError) as caught:
        model.watch(windows[2:])
    assert answered(caught.value) == []
    model.close()


def test_a_server_that_is_away_is_said_to_be_and_answers_that_came_are_kept(fake: Any, prompt: str) -> None:
    settings = {"in_flight": 1, "outage_s": 0.8}
    model = load(fake, prompt, **settings)
    windows = [a_window([0], i) for i in range(4)]
    fake.plan = [chunks()] * (len(fake.came) + 2) + [(503, {}, '{"error": "starting"}')]
    with pytest.raises(ModelAway, match=r"status 503: starting$") as caught:
        model.watch(windows)
    assert answered(caught.value) == [0, 1]
    away = pickle.loads(pickle.dumps(caught.value))
    assert (away.patience_s, away.after_s, str(away)) == (0.8, 0.0, str(caught.value))
    fake.plan = [(503, {"Retry-After": "40"}, "{}")]
    with pytest.raises(ModelAway) as caught:
        model.watch(windows[2:])
    assert 39 < caught.value.after_s <= 40 and answered(caught.value) == []
    factory: Any = find_model(f"openai:{fake.url}#tiny")
    fake.plan = [chunks()]
    there = factory.for_cluster({"prompt": prompt, **settings}, {}, dict)
    fake.plan = [(503, {}, "{}")]
    with pytest.raises(ModelAway):
        factory.load(there)
    model.close()


def pictures(asked: dict[str, Any]) -> list[str]:
    return [p["image_url"]["url"] for p in asked["messages"][1]["content"] if p["type"] == "image_url"]


def test_doubtful_events_are_looked_at_again(fake: Any, prompt: str) -> None:
    model = load(fake, prompt, verify=0.95)
    before = len(fake.came)
    (answer,) = model.watch([a_window([i * 250_000 for i in range(32)])])
    first, second = map(pictures, fake.came[before:])
    assert answer.events[0].attributes["look"] in ("confirmed", "corrected")
    assert len(first) == 16 and first != second
    assert sum(model.report()["second_looks"].values()) == 1
    model.close()


def test_an_event_as_long_as_its_window_is_looked_at_again_too(fake: Any, prompt: str) -> None:
    """The part is the whole window then, and has as many frames as the first look; they are others."""
    model = load(fake, prompt, verify=0.95)
    long = ANSWER.replace("0.5", "0").replace("1.5", "8")
    fake.plan = [chunks(long)] * (len(fake.came) + 1) + [chunks('{"events": []}')]
    before = len(fake.came)
    (answer,) = model.watch([a_window([i * 250_000 for i in range(32)])])
    first, second = map(pictures, fake.came[before:])
    assert len(first) == len(second) == 16 and first != second
    assert answer.events == () and model.report()["second_looks"]["struck"] == 1
    assert answer.input_tokens == 2 * 11
    model.close()


def test_a_second_look_that_is_refused_is_a_window_refused(fake: Any, prompt: str) -> None:
    model = load(fake, prompt, verify=0.95, in_flight=1)
    fake.plan = [chunks()] * (len(fake.came) + 2) + [(400, {}, "{}"), chunks()]
    with pytest.raises(ModelError, match="status 400") as caught:
        model.watch([a_window([i * 250_000 for i in range(32)], n) for n in range(2)])
    assert answered(caught.value) == [1]
    model.close()
