"""Training of the bundled checkpoint: its tokens, its samples, and the hints that they carry."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jobs.demo.truth import TruthEvent, events  # noqa: E402
from jobs.demo.world import COLOURS  # noqa: E402
from jobs.train.checkpoint import prompt_tokenizer, system_text  # noqa: E402
from jobs.train.hints import CELL_CLASSES, CLASSES, cells, hints, whens  # noqa: E402
from jobs.train.samples import ACTS, Difficulty, answer, samples, told_of  # noqa: E402
from jobs.train.trainer import PROMPT, Recipe  # noqa: E402
from model.prompts import load_prompt  # noqa: E402
from model.qwen3_vl.answer import parse_answer  # noqa: E402
from pipeline.event import WindowEvent, WindowEvents  # noqa: E402
from pipeline.plan import SECOND_US  # noqa: E402
from pipeline.reduce import reduce_events  # noqa: E402

WORLD = load_prompt(str(PROMPT))
TOKENIZER = prompt_tokenizer(WORLD)
TINY = Recipe(size="tiny", batch=3, warmup=2, look_steps=0, easy_steps=1, glance_every=0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# --- tokens ---


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_can_be_written_and_read(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_the_tokenizer_is_the_same_in_every_process() -> None:
    """A run is taken up, and a checkpoint is used, elsewhere: no order may come from Python's seeded hashes."""
    script = "from jobs.train.tokens import build_tokenizer; print(build_tokenizer(('ab', 'cd', 'ef'), ()).to_str())"
    built = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(built) == 1


def test_answers_and_prompts_need_few_tokens() -> None:
    told = [
        TruthEvent(0, 2_300_000, "move", "the red circle moves left"),
        TruthEvent(SECOND_US, 8_000_000, "text", "RIVER 42"),
    ]
    text = answer(told)
    assert json.loads(text)["events"][1] == {
        "start": 1.0,
        "end": 8.0,
        "kind": "text",
        "text": "RIVER 42",
        "confidence": 0.05,
    }
    assert len(TOKENIZER.encode(text, add_special_tokens=False).ids) == 1 + 11 + 1 + 9 + 1 + 2
    lines = [line for line in system_text(WORLD).split("\n") if line]
    assert len(TOKENIZER.encode(system_text(WORLD), add_special_tokens=False).ids) == len(lines) + system_text(
        WORLD
    ).count("\n")


# --- samples ---


def test_the_same_seed_gives_the_same_samples() -> None:
    a, b = (next(samples([3, 4], WORLD, 5)) for _ in range(2))
    assert all(np.array_equal(x.pixels, y.pixels) and x.told == y.told for x, y in zip(a, b, strict=True))
    other = next(samples([3, 5], WORLD, 5))
    assert any(x.told != y.told for x, y in zip(a, other, strict=True))


def test_samples_are_what_inference_sees() -> None:
    assert WORLD.windowing is not None
    for batch in (next(samples([9, n], WORLD, 6)) for n in range(6)):
        assert len({s.pixels.shape for s in batch}) == 1
        for s in batch:
            assert s.size[0] % 32 == s.size[1] % 32 == 0
            assert s.frame_us[0] == 0 or 0 < s.frame_us[0] < 500_000
            steps = np.diff(s.frame_us)
            assert (steps >= 0).all() and len(s.frame_us) <= 16
            parsed, whole = parse_answer(answer(s.told), WORLD.answer, WORLD.windowing.length_us, s.frame_us)
            assert whole
            assert [(e.start_us, e.end_us, e.kind, e.text) for e in parsed] == [
                (e.start_us, e.end_us, e.kind, e.text) for e in s.told
            ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(16, 45))
def test_right_answers_of_all_windows_make_the_whole_truth(seed: int, seconds: int) -> None:
    """What is told of each window suffices: reduced, it is every event, once, to a tenth of a second."""
    from jobs.demo.story import story

    duration = seconds * SECOND_US
    meant = [
        e for e in events(story(np.random.default_rng(seed), duration, 1.6, 1.0))
        if e.end_us < duration - SECOND_US  # what the last frame does not show cannot be told
    ]  # fmt: skip
    assert WORLD.windowing is not None
    answers = []
    for index in range(WORLD.windowing.count(duration)):
        window = WORLD.windowing.window("v", index, duration)
        frames = [t - window.start_us for t in range(window.start_us, window.end_us, 500_000)]
        told = told_of(meant, window.start_us, window.end_us - window.start_us, frames, 16)
        found = tuple(WindowEvent(e.start_us, e.end_us, e.kind, e.text) for e in told)
        answers.append(WindowEvents(window, found))
    reduced = reduce_events(answers, WORLD.rules, duration).events
    unmatched = list(reduced)
    for event in meant:
        near = [
            r for r in unmatched
            if (r.kind, r.text) == (event.kind, event.text) and abs(r.start_us - event.start_us) <= 100_000
            and (event.kind == "cut" or abs(r.end_us - event.end_us) <= 100_000)
        ]  # fmt: skip
        assert near, f"{event} is not among {reduced}"
        unmatched.remove(near[0])
    assert not unmatched


def test_acts_are_told_only_where_half_of_them_shows() -> None:
    frames = [i * 500_000 for i in range(16)]
    for kind in ACTS:
        event = TruthEvent(7 * SECOND_US, 9 * SECOND_US, kind, "x")
        assert told_of([event], 0, 8 * SECOND_US, frames, 16) == ()
        assert told_of([event], 5 * SECOND_US, 8 * SECOND_US, frames, 16)[0].start_us == 2 * SECOND_US


def test_short_windows_show_the_end_or_the_beginning_of_their_video() -> None:
    found = [s for seed in range(6) for s in next(samples([2, seed], WORLD, 6, Difficulty(full=0.0)))]
    late = [s for s in found if s.start_us < 0]
    assert 5 < len(late) < len(found)
    for s in late:
        assert 0 <= s.start_us + s.frame_us[0] < 500_000 and s.frame_us[-1] >= 7_400_000
        assert all(e.start_us + 100_000 >= s.frame_us[0] - 500_000 for e in s.told)
        assert all(any(abs(e.start_us - t.start_us + s.start_us) <= 50_000 for t in events(s.world)) for e in s.told)


def test_hints_tell_what_is_there() -> None:
    batch = next(samples([1, 2], WORLD, 8, Difficulty(full=1.0)))
    for s in batch:
        found = hints(s)
        assert found.shape == (len(s.frame_us) // 2, len(CLASSES))
        assert (found >= 0).all() and (found < np.array(CLASSES)).all()
        for event in s.told:
            pair = next((i for i in range(len(found)) if s.frame_us[2 * i] >= event.start_us + 50_000), None)
            if event.kind == "text" and pair is not None and s.frame_us[2 * pair] < event.end_us - 100_000:
                assert found[pair, 18] > 0
            if event.kind == "frozen" and pair is not None and s.frame_us[2 * pair] < event.end_us - 100_000:
                assert found[pair, 17] == 1


def test_hints_tell_when_things_began_and_ended() -> None:
    """A window's captions are found by the words of hints, and begin and end when the answer says."""
    asked = 0
    for s in next(samples([1, 2], WORLD, 24, Difficulty(full=1.0))):
        began, ended = whens(s).reshape(len(s.frame_us) // 2, 2, -1).swapaxes(0, 1)
        words = [e for e in events(s.world) if e.kind == "text"]
        for edge, tenths in (("start_us", began[:, -1]), ("end_us", ended[:, -1])):
            times = [getattr(e, edge) - s.start_us for e in words]
            for i in np.flatnonzero(tenths >= 0):
                ago = int(tenths[i]) * 100_000
                apart = [s.frame_us[2 * i + 1] - ago - t for t in times]
                assert any(a >= 0 and (a < 100_000 or ago == 3_900_000) for a in apart)  # the last: or longer ago
                asked += 1
        for event in s.told:
            if event.kind == "text" and event.start_us > 100_000 and event.end_us < s.frame_us[-1] - 100_000:
                assert (ended[:, -1] >= 0).any() and (began[:, -1] >= 0).any()
    assert asked > 30


def test_hints_tell_what_stands_in_each_part_of_the_picture() -> None:
    """A thing's colour is found in the pixels at the place that its hint names."""
    checked = right = 0
    for s in next(samples([1, 3], WORLD, 8, Difficulty(aspects=(1.0, 0.0, 0.0, 0.0), full=1.0, spoiled=0.0))):
        rows, columns = s.size[0] // 32, s.size[1] // 32
        found = cells(s).reshape(-1, rows, columns, len(CELL_CLASSES))
        assert len(found) == len(s.frame_us) // 2
        assert ((found < np.array(CELL_CLASSES)) & ((found >= 0) | (found == -100))).all()
        times = [t + s.start_us for t in s.frame_us]
        quiet = [not any(c.start_us <= t < c.end_us for c in s.world.transitions) for t in times]
        for pair, row, column in zip(*np.nonzero(found[..., 16] > 0), strict=True):
            _, colour, x, y, *reach = found[pair, row, column, 16:32]
            if not quiet[2 * pair + 1] or min(reach) < 2 or s.pixels[2 * pair + 1].max() < 100:
                continue
            seen = s.pixels[2 * pair + 1, 32 * row + 4 * y + 2, 32 * column + 4 * x + 2].astype(int)
            far = [np.abs(seen - np.array(rgb)).sum() for rgb in COLOURS.values()]
            checked += 1
            right += int(np.argmin(far)) == colour
        shown = {word for word in found[..., 32].flatten() if word}
        assert len(shown) <= sum(e.kind == "text" for e in s.told) + 1
    assert checked > 40 and right > 0.8 * checked  # the rest changes its colour just then
