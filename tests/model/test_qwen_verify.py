"""A second look: what is doubted, which frames are shown again, what becomes of an event; and through a whole model."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from model.prompts import AnswerForm
from model.qwen3_vl import QwenFactory
from model.qwen3_vl.answer import parse_answer
from model.qwen3_vl.verify import Doubt, Look, SecondLooks, first_look, judge, second_look
from pipeline.errors import UsageError
from pipeline.event import KindRule, WindowEvent, WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Window
from pipeline.reduce import reduce_events

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
        (event(2, 3), [event(6, 7)], [event(5, 5.5)], "struck", None),  # likewise, of the same words
        (event(2, 3), [event(8, 9)], [event(5, 5.5)], "corrected", (6, 6.5, "a dog")),  # which is elsewhere
        (event(2, 4), [event(6, 8)], [event(3, 6)], "corrected", (4, 7, "a dog")),  # and this goes on from the claim
        (event(2, 3), [event(3.4, 6)], [event(2.4, 5)], "struck", None),  # the other event, which begins near by
        (event(2, 4), [event(2, 4)], [event(1, 3)], "confirmed", (2, 4, "a dog")),  # said twice: still there
        (event(2, 4), [], [event(1, 3, kind="car")], "struck", None),
        (event(2, 4), [], [event(6, 7, "a cat")], "struck", None),
        (event(2, 4), [], [], "struck", None),
    ],
)
def test_verdicts(claimed: Any, others: Any, seen: Any, verdict: str, left: Any) -> None:
    look = Look(0, Window("v", 0, S, 9 * S), frames(1, S), S, False, False)
    said, kept = judge(claimed, others, [look.on_window(one) for one in seen])
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
        _, kept = judge(event(2, 4, sure=first), [], [event(2, 4, sure=second)])
        assert kept is not None and kept.confidence == both


def frames(count: int, every_us: int, start_us: int = 0) -> Frames:
    times = start_us + np.arange(count, dtype=np.int64) * every_us
    return Frames(np.zeros((count, 8, 8, 3), np.uint8), times, times + every_us)


def test_the_second_look_is_denser_around_the_claim() -> None:
    window = Window("v", 3, 16 * S, 32 * S)
    dense = frames(64, S // 4, 16 * S)
    first = first_look(dense, window, Fraction(2))
    assert first.time_us.tolist() == list(range(16 * S, 32 * S, S // 2))
    look = second_look(0, event(6, 7), window, dense, len(first))
    assert look is not None and (look.window.start_us, look.window.end_us) == (round(18.5 * S), round(26.5 * S))
    assert set(np.diff(look.frames.time_us)) == {S // 4} and len(look.frames) == 32 == len(first)
    whole = second_look(0, event(0, 16), window, dense, len(first))
    assert whole is not None and (whole.window.start_us, whole.window.end_us) == (16 * S, 32 * S)
    assert len(whole.frames) == 32, "never more frames than the first look had"
    assert second_look(0, event(6, 7), window, frames(0, 1), len(first)) is None


@pytest.mark.parametrize("every_us", [S // 3, S // 2, S, 2 * S])
@pytest.mark.parametrize("claim", [(3, 4), (2, 6), (0, 8)])
def test_of_a_video_with_few_frames_the_second_look_sees_no_fewer_than_the_first(
    every_us: int, claim: tuple[int, int]
) -> None:
    """Time-lapse, surveillance, still stretches: each frame once, however densely they are sampled."""
    window, all_of_them = Window("v", 0, 0, 8 * S), frames(8 * S // every_us, every_us)
    twice = SecondLooks(Doubt(0.5, frozenset()), Fraction(2))
    ((_, first),) = twice.first([(window, all_of_them)])
    ((look,),) = twice.needed([(window, all_of_them)], [WindowEvents(window, (event(*claim),))])
    there = (first.end_us > look.window.start_us) & (first.time_us < look.window.end_us)
    assert there.sum() <= len(look.frames) <= len(first)


def judged(window: Window, dense: Frames, claims: list[WindowEvent], answer: Any) -> tuple[WindowEvents, SecondLooks]:
    """A window's claims after second looks, each answered with the text `answer(look)`."""
    twice = SecondLooks(Doubt(0.5, frozenset()), Fraction(2))
    seen = [WindowEvents(window, tuple(claims), answer="first")]
    looks = twice.needed([(window, dense)], seen)
    again = []
    for look in looks[0]:
        times = [max(0, int(t) - look.window.start_us) for t in look.frames.time_us]
        length = look.window.end_us - look.window.start_us
        events, whole = parse_answer(answer(look), AnswerForm(kinds=None), length, times)
        again.append(WindowEvents(look.window, events, truncated=not whole, answer=answer(look)))
    (after,) = twice.judged(seen, looks, again)
    return after, twice


def test_an_answer_that_broke_off_strikes_nothing() -> None:
    window, dense = Window("v", 0, 0, 8 * S), frames(32, S // 4)
    cut = '{"events":[{"start":0.5,"en'
    after, twice = judged(window, dense, [event(2, 4)], lambda look: cut)
    (kept,) = after.events
    assert (kept.start_us, kept.end_us, kept.text, kept.confidence) == (2 * S, 4 * S, "a dog", 0.3)
    assert kept.attributes["look"] == "unanswered" and "second_text" not in kept.attributes
    assert twice.verdicts == {"confirmed": 0, "corrected": 0, "struck": 0, "unanswered": 1}
    assert after.truncated and json.loads((after.answer or "").split("\n")[1])["answer"] == cut
    # What was said before the break counts; a whole answer without the event strikes it.
    for text, verdict in (('{"events":[{"start":1.0,"end":3.0,"kind":"animal","text":"a dog"},{"st', "confirmed"),
                          ('{"events":[]}', "struck")):  # fmt: skip
        after, twice = judged(window, dense, [event(2, 4)], lambda look, text=text: text)
        assert twice.verdicts[verdict] == 1 and after.truncated == (verdict == "confirmed")


def test_what_goes_on_at_the_edge_of_a_part_is_not_going_on_at_the_edge_of_the_window() -> None:
    """A dog in the middle of two windows each: two events with a gap, not one over both."""
    windows, answers = [Window("v", n, 16 * n * S, 16 * (n + 1) * S) for n in (0, 1)], []

    def everywhere(look: Look) -> str:
        end = (look.window.end_us - look.window.start_us) / S
        return json.dumps({"events": [{"start": 0, "end": end, "kind": "animal", "text": "a dog"}]})

    for window in windows:
        after, twice = judged(window, frames(64, S // 4, window.start_us), [event(7, 8)], everywhere)
        (found,) = after.events
        assert twice.verdicts["corrected"] == 1 and (found.start_us, found.end_us) == (4 * S - S // 2, 12 * S - S // 2)
        assert not found.continues_before and not found.continues_after
        answers.append(after)
    assert len(reduce_events(answers, {"animal": KindRule()}, 32 * S).events) == 2
    # A part that begins (ends) with the window says what goes on there.
    for claim, edges in (
        (event(0, 1), (True, False)),
        (event(15, 16), (False, True)),
        (event(0, 16, "a cat"), (True, True)),
    ):
        after, _ = judged(windows[1], frames(64, S // 4, 16 * S), [claim], everywhere)
        assert (after.events[0].continues_before, after.events[0].continues_after) == edges, claim


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
        assert after.truncated or all(line["look"] != "unanswered" for line in told)
        assert after.output_tokens >= before.output_tokens
        for event in after.events:
            assert event.attributes["look"] in ("confirmed", "corrected", "unanswered")
            assert 0 <= event.start_us < event.end_us <= window.end_us - window.start_us
        looked += len(told)
    assert sum(twice.report()["second_looks"].values()) == looked > 0
