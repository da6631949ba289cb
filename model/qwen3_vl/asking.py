"""What all models that are asked in words have in common: the prompt, the second look, and what of both is identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from model.prompts import Prompt, load_prompt, parse_prompt, read_prompt
from model.qwen3_vl.answer import answer_instructions, parse_answer
from model.qwen3_vl.verify import DENSER, Doubt
from pipeline.errors import UsageError
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.plan import Sampling, Window

DEFAULT_PROMPT = "events"
DEFAULT_MAX_PIXELS = 512 * 512  # of one frame: 256 tokens per pair of frames
VERIFY_VERSION = 5


def prompt_of(name_or_path: str, text: str = "") -> tuple[Prompt, str]:
    """The profile (from its TOML `text` where the file may not be at hand), and its system text with the form of the
    answer written out. Raises ModelError."""
    prompt = parse_prompt(name_or_path, text) if text else load_prompt(name_or_path)
    return prompt, f"{prompt.system}\n\n{answer_instructions(prompt.answer)}".strip()


def carried(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a machine without this one's files: a prompt file's content goes along. Raises ModelError."""
    if "prompt" not in settings or "prompt_text" in settings:
        return dict(settings)
    return {**settings, "prompt_text": read_prompt(settings["prompt"])}


def doubt_of(verify: Any, kinds: Any) -> Doubt | None:
    """What is looked at twice: events below the confidence `verify`, and all of `kinds`; None for nothing. Raises
    UsageError."""
    if not isinstance(verify, (int, float)) or isinstance(verify, bool) or not 0 <= verify <= 1:
        raise UsageError(f"--verify {verify}: a confidence from 0 to 1")
    if isinstance(kinds, str) or not all(isinstance(kind, str) for kind in kinds):
        raise UsageError(f"--verify-kinds: {kinds!r} is no list of kinds")
    return Doubt(float(verify), frozenset(kinds)) if verify or kinds else None


def asked(prompt: Prompt, system: str, doubt: Doubt | None) -> dict[str, Any]:
    """What of the question enters a model's identity. Raises UsageError for doubt about an unknown kind."""
    told: dict[str, Any] = {
        "prompt": prompt.name,
        "system": system,
        "user": prompt.user,
        "answer": asdict(prompt.answer),
    }
    if doubt is not None:
        kinds = prompt.answer.kinds
        if kinds is not None and (unknown := sorted(doubt.kinds - set(kinds))):
            raise UsageError(f"--verify-kinds {','.join(unknown)}: the prompt {prompt.name} knows {', '.join(kinds)}")
        told["verify"] = [VERIFY_VERSION, doubt.below, sorted(doubt.kinds)]
    return told


def sampling_of(prompt: Prompt, doubt: Doubt | None, multiple: int) -> Sampling:
    """The frames that a prompt wants, denser where some of them are for second looks."""
    return Sampling(
        fps=(prompt.fps or Sampling().fps) * (1 if doubt is None else DENSER),
        short_side=None,
        max_pixels=prompt.max_pixels or DEFAULT_MAX_PIXELS,
        multiple=multiple,
    )


def own_fps(wish: str, prompt: Prompt) -> Fraction:
    """The rate of first looks: the user's wish, where there is one, else the prompt's."""
    return Fraction(wish) if wish else prompt.fps or Sampling().fps


def relative_us(window: Window, frames: Frames) -> list[int]:
    """Times of the frames from the window's start on. A frame shown since before it counts from the start."""
    return [max(0, int(t) - window.start_us) for t in frames.time_us]


def answered(
    window: Window, times_us: Sequence[int], prompt: Prompt, text: str, together: int, stopped: bool, **counts: Any
) -> WindowEvents:
    """A window's events from an engine's text, which stopped of itself or was cut. `times_us`: of the frames, announced
    `together` at a time. `counts`: model_s, input_tokens, output_tokens."""
    text = bare(text)
    events, whole = parse_answer(text, prompt.answer, window.end_us - window.start_us, times_us, together)
    return WindowEvents(window, events, truncated=not (whole and stopped), answer=text, **counts)


def bare(text: str) -> str:
    """An answer without the thoughts before it and the fence around it that models write where nothing stops them."""
    text = text.rpartition("</think>")[2].strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].removesuffix("```").strip()
    return text


def known_only(who: str, settings: Mapping[str, Any], known: Mapping[str, Any], own: Sequence[str] = ()) -> None:
    """Raises UsageError for a setting that is not known. `own`: known ones that no user sets."""
    if unknown := sorted(set(settings) - set(known)):
        chosen = ", ".join(name for name in known if name not in own)
        raise UsageError(f"{who} has no setting {', '.join(unknown)}; known are {chosen}")


def at_least(values: object, **least: int) -> None:
    """Raises UsageError where an attribute of `values` is no whole number, or less than it must be."""
    for name, smallest in least.items():
        value = getattr(values, name)
        if type(value) is not int or value < smallest:
            raise UsageError(f"{name} = {value!r}: must be a whole number, {smallest} at least")
