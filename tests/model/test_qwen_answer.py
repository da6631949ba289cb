"""Answers: the schema, the grammar made of it, and what is believed of hostile output."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.prompts import AnswerForm, load_prompt, names
from model.qwen3_vl.answer import TENTH_US, answer_instructions, answer_schema, parse_answer

LENGTH_US = 8_000_000
FRAMES_US = tuple(range(0, LENGTH_US, 500_000))
FORM = AnswerForm(
    ("person", "vehicle"),
    max_events=4,
    max_text=40,
    attributes={
        "severity": {"enum": ["low", "high"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
        "note": {"type": "string", "maxLength": 5},
        "sure": {"type": "boolean"},
    },
)


def event(**changes: Any) -> dict[str, Any]:
    whole = {"start": 1.0, "end": 2.5, "kind": "person", "text": "A man walks", "severity": "low", "count": 2}
    return {**whole, "note": "n", "sure": True, "confidence": 0.9, **changes}


def parse(*events: Any) -> tuple[Any, ...]:
    found, whole = parse_answer(json.dumps({"events": list(events)}), FORM, LENGTH_US, FRAMES_US)
    assert whole
    return found


def test_a_good_answer() -> None:
    (found,) = parse(event())
    assert (found.start_us, found.end_us, found.kind, found.text) == (1_000_000, 2_500_000, "person", "A man walks")
    assert found.confidence == 0.9
    assert found.attributes == {"severity": "low", "count": 2, "note": "n", "sure": True}
    assert found.evidence_us == (1_000_000, 1_500_000, 2_000_000)
    assert not found.continues_before and not found.continues_after


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 8, (0, LENGTH_US)),
        (-5, 99, (0, LENGTH_US)),
        (3, 3, (3_000_000, 3_100_000)),
        (5, 4, (4_000_000, 5_000_000)),
        (8, 8, (LENGTH_US - TENTH_US, LENGTH_US)),
        (1e300, 1e308, (LENGTH_US - TENTH_US, LENGTH_US)),
        (2, None, (2_000_000, 2_100_000)),
    ],
)
def test_times_are_clamped_to_the_window(start: Any, end: Any, expected: tuple[int, int]) -> None:
    (found,) = parse(event(start=start, end=end))
    assert (found.start_us, found.end_us) == expected
    assert found.evidence_us


def test_what_touches_the_first_or_last_pictures_may_go_on_next_door() -> None:
    # The first pair is announced as 0.2, the last as 7.2 (0.25 and 7.25 written with one decimal).
    first, last, inner = parse(event(start=0.2, end=1), event(start=5, end=7.2), event(start=0.4, end=7.1))
    assert first.continues_before and not first.continues_after
    assert last.continues_after and not last.continues_before
    assert not inner.continues_before and not inner.continues_after


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "1"}, {"start": None}, {"start": True}, {"start": [1]}, {"kind": "dragon"}, {"kind": 3},
        {"text": ""}, {"text": " \n\t"}, {"text": None}, {"text": "\u200b\u0000"},
    ],
)  # fmt: skip
def test_an_event_without_time_kind_or_text_is_left_out(changes: dict[str, Any]) -> None:
    assert parse(event(**changes), event()) == parse(event())


@pytest.mark.parametrize("odd", [3, None, "x", [], [[]], True])
def test_what_is_no_event_is_left_out(odd: Any) -> None:
    assert parse(odd, event()) == parse(event())


def test_attributes_and_confidence_are_checked() -> None:
    (found,) = parse(event(severity="extreme", count=1e9, note="much too long", sure="yes", confidence=7, extra=1))
    assert found.attributes == {"count": 9, "note": "much"} and found.confidence == 1.0


def test_texts_are_cut_and_cleaned() -> None:
    (found,) = parse(event(text="a\n\n b\u0007\ud800c" + "x" * 100))
    assert found.text.startswith("a b ?c") and len(found.text) == FORM.max_text
    found.text.encode()


@pytest.mark.parametrize(
    "answer",
    ["", "{", "[]", "null", '{"events":3}', '{"events":', "nonsense", '{"events":[NaN]}', "[" * 100_000, '{"a":' * 9999,
     '{"events":[{"start":' + "9" * 5000, '{"events":[Infinity,{"start":1}]}'],
)  # fmt: skip
def test_nonsense_has_no_events_and_raises_nothing(answer: str) -> None:
    found, whole = parse_answer(answer, FORM, LENGTH_US, FRAMES_US)
    assert found == () and whole == (answer == '{"events":[]}')


def test_a_truncated_answer_keeps_its_whole_events() -> None:
    answer = json.dumps({"events": [event(text=t) for t in ("one", "two", "three")]}, separators=(",", ":"))
    ends = [i for i, c in enumerate(answer) if c == "}"]
    for cut in range(len(answer)):
        found, whole = parse_answer(answer[:cut], FORM, LENGTH_US, FRAMES_US)
        assert not whole
        assert [e.text for e in found] == ["one", "two", "three"][: sum(cut > end for end in ends)]


def test_a_window_shorter_than_a_tenth_and_one_without_frames() -> None:
    found, _ = parse_answer(json.dumps({"events": [event()]}), FORM, 40_000, ())
    assert (found[0].start_us, found[0].end_us) == (0, 40_000) and found[0].evidence_us == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(event())), inner, max_size=9),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(json_values, max_size=6), st.integers(0, 400), st.integers(1, 10**10))
def test_whatever_comes_events_are_sound(items: list[Any], cut: int, length_us: int) -> None:
    answer = json.dumps({"events": items})
    for text in (answer, answer[:cut]):
        found, _ = parse_answer(text, FORM, length_us, FRAMES_US)
        for e in found:
            assert 0 <= e.start_us < e.end_us <= length_us and e.kind in ("person", "vehicle") and e.text
            json.dumps(dict(e.attributes), allow_nan=False)


# --- grammar ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> Any:
    pytest.importorskip("torch")
    from tests.model import tiny_qwen

    return tiny_qwen.tokenizer()


@pytest.fixture(scope="module")
def grammar(bpe: Any) -> Any:
    pytest.importorskip("llguidance")
    from model.qwen3_vl.grammar import Grammar

    return Grammar(bpe.to_str(), 1024, bpe.token_to_id("<|im_end|>"))


def accepts(grammar: Any, bpe: Any, form: AnswerForm, answer: str) -> bool:
    """Whether the grammar lets exactly this answer through, token by token by its masks, and then ends."""
    constraint = grammar.constraint(answer_schema(form, LENGTH_US))
    done = False
    for token in bpe.encode(answer, add_special_tokens=False).ids:
        if done or not constraint.allowed()[token]:
            return False
        done = constraint.take(token)
    return done


def compact(*events: Any) -> str:
    return json.dumps({"events": list(events)}, separators=(",", ":"), ensure_ascii=False)


def test_the_grammar_takes_good_answers_and_ends_with_them(grammar: Any, bpe: Any) -> None:
    assert accepts(grammar, bpe, FORM, compact())
    assert accepts(grammar, bpe, FORM, compact(event(), event(text='a "STOP" sign \\ ünï 日本')))


@pytest.mark.parametrize(
    "changes",
    [{"start": 8.1}, {"start": -1}, {"start": 1.25}, {"kind": "dragon"}, {"text": ""}, {"text": "x" * 41},
     {"severity": "x"}, {"count": 1.5}, {"count": 10}, {"note": "longer"}, {"confidence": 2}, {"more": 1}],
)  # fmt: skip
def test_the_grammar_stops_bad_answers(grammar: Any, bpe: Any, changes: dict[str, Any]) -> None:
    assert not accepts(grammar, bpe, FORM, compact(event(**changes)))


def test_the_grammar_stops_more_events_than_asked_for(grammar: Any, bpe: Any) -> None:
    assert accepts(grammar, bpe, FORM, compact(*[event()] * 4))
    assert not accepts(grammar, bpe, FORM, compact(*[event()] * 5))


@pytest.mark.parametrize("name", names())
def test_every_profile_makes_a_grammar_that_takes_its_own_example(grammar: Any, bpe: Any, name: str) -> None:
    form = load_prompt(name).answer
    example = answer_instructions(form).splitlines()[1]
    assert accepts(grammar, bpe, form, example)
    found, whole = parse_answer(example, form, LENGTH_US, FRAMES_US)
    assert whole and len(found) == 1 and set(found[0].attributes) == set(form.attributes)


def test_kinds_of_the_models_own(grammar: Any, bpe: Any) -> None:
    form = AnswerForm(None)
    said = {"start": 0, "end": 1, "kind": "bird_call", "text": "x", "confidence": 1}
    assert accepts(grammar, bpe, form, compact(said))
    assert not accepts(grammar, bpe, form, compact({**said, "kind": "Bird Call"}))
