"""A second look: what is doubted, which frames are shown again, what becomes of an event; and through a whole model."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from model.qwen3_vl import QwenFactory
from model.qwen3_vl.verify import Doubt, first_look, judge, second_look
from pipeline.errors import UsageError
from pipeline.event import WindowEvent
from pipeline.frames import Frames
from pipeline.plan import Window

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from tests.model import qwen_ranks, tiny_qwen

S = 1_000_000


def event(start: float, end: float, text: str = "a dog", kind: str = "animal", sure: float | None = 0.3) -> WindowEvent:
    return WindowEvent(round(start * S), round(end * S), kind, text, sure)


def test_the_doubtful_are_the_unsure_and_the_chosen_kinds() -> None:
    events = [event(0, 1, sure=0.9), event(0, 1, sure=0.2), event(0, 1, sure=None), event(0, 1, kind="cut", sure=1.0)]
    assert Doubt(0.5, frozenset()).about(events) == [1, 2]
    assert Doubt(0.0, frozenset({"cut"})).about(events) == [2, 3]  # no confidence at all is no confidence
    many = [event(0, 1, sure=i / 100) for i in range(20)]
    assert Doubt(1.0, frozenset()).about(many[::-1]) == list(range(12, 20))  # the eight least sure


@pytest.mark.parametrize(
    ("claimed", "others", "seen", "verdict", "left"),
    [
        (event(2, 4), [], [event(1, 3)], "confirmed", (2, 4, "a dog")),  # shifted by a second: the same span
        (event(2, 4), [], [event(1, 3, "A Dog")], "confirmed", (2, 4, "a dog")),
        (event(2, 2.1), [], [event(1.3, 1.4)], "confirmed", (2, 2.1, "a dog")),  # short, and near
        (event(2, 4), [], [event(3, 6)], "corrected", (4, 7, "a dog")),
        (event(2, 4), [], [event(1, 3, "a cat")], "corrected", (2, 4, "a cat")),
        (event(2, 4), [event(2, 4, "a cat")], [event(1, 3, "a cat")], "struck", None),  # that is the other event
        (event(2, 4), [], [event(1, 3, kind="car")], "struck", None),
        (event(2, 4), [], [event(6, 7, "a cat")], "struck", None),
        (event(2, 4), [], [], "struck", None),
    ],
)
def test_verdicts(claimed: Any, others: Any, seen: Any, verdict: str, left: Any) -> None:
    said, kept = judge(claimed, others, seen, S)
    assert said == verdict
    if left is None:
        assert kept is None
        return
    assert kept is not None
    assert (kept.start_us, kept.end_us, kept.text) == (round(left[0] * S), round(left[1] * S), left[2])
    assert kept.attributes["look"] == verdict
    assert kept.attributes["first_start_s"] == claimed.start_us / S
    assert kept.attributes["second_start_s"] == seen[0].start_us / S + 1


def test_a_confirmed_event_is_as_sure_as_the_surer_look() -> None:
    for first, second, both in ((0.2, 0.9, 0.9), (0.4, 0.1, 0.4), (None, 0.7, 0.7), (None, None, None)):
        _, kept = judge(event(2, 4, sure=first), [], [event(2, 4, sure=second)], 0)
        assert kept is not None and kept.confidence == both


def frames(count: int, every_us: int, start_us: int = 0) -> Frames:
    times = start_us + np.arange(count, dtype=np.int64) * every_us
    return Frames(np.zeros((count, 8, 8, 3), np.uint8), times, times + every_us)


def test_the_second_look_is_denser_around_the_claim() -> None:
    window = Window("v", 3, 16 * S, 32 * S)
    dense = frames(64, S // 4, 16 * S)
    first = first_look(dense, window, Fraction(2))
    assert first.time_us.tolist() == list(range(16 * S, 32 * S, S // 2))
    look = second_look(0, event(6, 7), window, dense)
    assert look is not None and (look.window.start_us, look.window.end_us) == (round(18.5 * S), round(26.5 * S))
    assert set(np.diff(look.frames.time_us)) == {S // 4} and len(look.frames) == 32 == len(first)
    whole = second_look(0, event(0, 16), window, dense)
    assert whole is not None and (whole.window.start_us, whole.window.end_us) == (16 * S, 32 * S)
    assert len(whole.frames) == 32, "never more frames than the first look had"
    assert second_look(0, event(6, 7), window, frames(0, 1)) is None


def test_the_first_look_is_the_look_without_verification_wherever_the_window_begins() -> None:
    """Frames of 25 a second, sampled twice as densely as the model looks, in windows off the coarse grid."""
    from pipeline.plan import Sampling

    for fps in (Fraction(2), Fraction(30000, 1001), Fraction(1, 3)):
        for start in (0, S // 4, 8 * S + 7, 3600 * S + S // 2):
            window = Window("v", 0, start, start + 8 * S)

            def shown(rate: Fraction, window: Window = window) -> list[int]:
                """The frame at each grid time: those of 25 a second, presented at or before it."""
                grid = Sampling(fps=rate).times_us(window.start_us, window.end_us)
                return sorted({t // 40_000 * 40_000 for t in grid})

            dense = np.array(shown(2 * fps), np.int64)
            all_of_them = Frames(np.zeros((len(dense), 8, 8, 3), np.uint8), dense, dense + 40_000)
            assert first_look(all_of_them, window, fps).time_us.tolist() == shown(fps)
    assert len(first_look(frames(0, 1), Window("v", 0, 0, S), Fraction(2))) == 0


# --- through a model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("verify")
    tiny_qwen.save(root / "moe", "moe", seed=3)
    (root / "short.toml").write_text('user = "List."\n[answer]\nkinds = ["a", "b"]\nmax_events = 3\nmax_text = 6\n')
    return {"path": str(root / "moe"), "prompt": str(root / "short.toml")}


def test_verification_belongs_to_the_identity_and_doubles_the_frames(checkpoint: dict[str, str]) -> None:
    factory, prompt = QwenFactory(checkpoint["path"]), checkpoint["prompt"]
    plain = factory.profile({"prompt": prompt})
    seen = {json.dumps(plain.identity.settings)}
    for more in ({"verify": 0.5}, {"verify": 0.6}, {"verify_kinds": ["a"]}, {"verify": 0.5, "verify_kinds": ["a"]}):
        profile = factory.profile({"prompt": prompt, **more})
        assert profile.sampling.fps == 2 * plain.sampling.fps and profile.fps_multiple == 2
        seen.add(json.dumps(profile.identity.settings))
    assert len(seen) == 5
    assert factory.profile({"prompt": prompt, "verify": 0.0}) == plain
    for wrong in ({"verify": 1.5}, {"verify": "x"}, {"verify": True}, {"verify_kinds": "a"}, {"verify_kinds": ["z"]}):
        with pytest.raises(UsageError, match="verify"):
            factory.profile({"prompt": prompt, **wrong})


def test_both_looks_are_kept(checkpoint: dict[str, str]) -> None:
    """Every event doubted: the first look is the plain run's, each event left or struck is told with both looks."""
    factory = QwenFactory(checkpoint["path"])
    settings = {"prompt": checkpoint["prompt"], "max_new_tokens": 120}
    plain: Any = factory.load(settings)
    twice: Any = factory.load({**settings, "verify": 1.0, "verify_kinds": ["a", "b"]})
    windows = []
    for window, shown in (qwen_ranks.window(n) for n in (0, 2, 3)):  # each frame stays until the next one comes
        windows.append((window, replace(shown, end_us=np.append(shown.time_us[1:], window.end_us))))
    first = plain.watch([(window, first_look(shown, window, Fraction(2))) for window, shown in windows])
    assert any(answer.events for answer in first), "the model must claim something"
    found = twice.watch(windows)
    looked = 0
    for before, after, (window, _) in zip(first, found, windows, strict=True):
        assert after.window == window
        answer, *looks = (after.answer or "").split("\n")
        assert answer == before.answer
        told = [json.loads(line) for line in looks]
        assert len(told) == len(before.events)
        assert sum(line["look"] != "struck" for line in told) == len(after.events)
        assert all("events" in line["answer"] or not line["answer"] for line in told)
        assert after.output_tokens >= before.output_tokens
        for event in after.events:
            assert event.attributes["look"] in ("confirmed", "corrected")
            assert 0 <= event.start_us < event.end_us <= window.end_us - window.start_us
        looked += len(told)
    assert sum(twice.report()["second_looks"].values()) == looked > 0
