"""What a run is to be: the model's defaults with the user's wishes over them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from model.interface import ModelProfile
    from pipeline.config import RunConfig


def configure(
    profile: ModelProfile,
    fps: float | str | Fraction | None = None,
    window_s: float | None = None,
    overlap_s: float | None = None,
    short_side: int | None = None,
    tolerance_s: float | None = None,
    decoder: str | None = None,
    redact: str | None = None,
) -> RunConfig:
    """The model's defaults with the user's wishes over them. Raises UsageError for values that cannot be run."""
    from pipeline.config import RunConfig

    sampling, windowing = profile.sampling, profile.windowing
    if fps is not None:
        sampling = replace(sampling, fps=_fraction(fps) * profile.fps_multiple)
    if short_side is not None:
        if short_side < 2:
            raise UsageError(f"--short-side {short_side}: must be at least 2 pixels")
        sampling = replace(sampling, short_side=short_side)
    if tolerance_s is not None:
        if tolerance_s < 0:
            raise UsageError(f"--tolerance {tolerance_s:g}: must not be negative")
        sampling = replace(sampling, tolerance_us=round(tolerance_s * 1e6))
    if decoder is not None:
        sampling = replace(sampling, decoder=decoder)
    if redact is not None:
        from pipeline.redact import parse, pledged

        # What is wrong with it is said before anything begins, and workers must hide by the very same detectors.
        sampling = pledged(replace(sampling, redact=parse(redact)))
    if window_s is not None:
        length_us = round(window_s * 1e6)
        # A window shorter than the model's own keeps its share of overlap, not its seconds.
        overlap_us = windowing.overlap_us
        if overlap_s is None and 2 * overlap_us > length_us:
            overlap_us = length_us * windowing.overlap_us // windowing.length_us
        windowing = replace(windowing, length_us=length_us, overlap_us=overlap_us)
    if overlap_s is not None:
        windowing = replace(windowing, overlap_us=round(overlap_s * 1e6))
    who = profile.identity
    return RunConfig(sampling, windowing, who.name, who.weights_hash, who.settings)


def _fraction(value: float | str | Fraction) -> Fraction:
    try:
        return Fraction(str(value)) if not isinstance(value, Fraction) else value
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--fps {value}: not a rate; write 2, 0.5 or 30000/1001") from None
