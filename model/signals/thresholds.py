"""Every threshold of the signal analysers, with its reason. Luma and colour differences are on the 0..255 scale."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan import SECOND_US


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Defaults come from ffmpeg's filters where the field has them, else from `python -m jobs.bench.signals`."""

    # black: ffmpeg's blackdetect: pixels at most 10 % of full luma, 98 % of the picture.
    black_luma: float = 25.5
    black_share: float = 0.98
    # ... and nothing in it lit brighter than this, else small captions on black would count as black.
    black_peak: float = 64.0

    # blank: 98 % of the picture this near its median colour in every channel (grain and coding noise), and no pixel of
    # the small copy further than the peak, else a title card would count as blank.
    blank_spread: float = 10.0
    blank_share: float = 0.98
    blank_peak: float = 28.0

    # frozen: ffmpeg's freezedetect: mean absolute difference at most -60 dB (0.001 of full scale) for 2 s ...
    frozen_change: float = 0.255
    # ... but a key frame codes the same picture anew: one step of this size between steps of the other is no motion.
    frozen_pulse: float = 1.2
    # ... and no 8 x 8 px cell of the small copy changes more: a talking mouth in a drawn still is not frozen.
    frozen_cell: float = 4.0
    frozen_min_us: int = 2 * SECOND_US

    # cut: two pictures this alike in their thumbnails are one shot; no block matching is spent on them.
    cut_thumb: float = 8.0
    # cut: how little of a picture is found again in the next (see Measures.persistence) with the same colours ...
    cut_persistence: float = 0.62
    # ... raised by up to this much where the colours differ entirely.
    cut_colour: float = 0.08
    # ... and this far below what its neighbours within a second keep: fast cameras lose much all the time.
    cut_drop: float = 0.14
    # jump cut, to the same place from elsewhere: more is found again, but far less than just before and after.
    jump_persistence: float = 0.76
    jump_drop: float = 0.20
    # cut between soft pictures, whose few shapes correlate by chance: all colours are others (a flash reaches 0.78).
    cut_recolour: float = 0.85
    # cut between pictures without texture (blank to blank): difference of thumbnails.
    cut_flat: float = 20.0
    # flash: a lighter picture (mean luma) for at most this long, with the same picture before and after.
    flash_rise: float = 12.0
    flash_max_us: int = SECOND_US // 2
    flash_persistence: float = 0.66

    # dissolve, fade: pictures between must lie on the line from first to last within this share of its length ...
    mixture_residual: float = 0.35
    # ... or this, where the shots move and all else speaks for a dissolve ...
    mixture_moving: float = 0.5
    # ... one lone picture between must lie closer, for a line through one point is easily met ...
    mixture_residual_lone: float = 0.22
    # ... and each must be a true mixture, neither end.
    mixture_least: float = 0.06
    # ... that rises steadily, within this of a straight line over time.
    mixture_bend: float = 0.3
    # The line's length: rms difference of thumbnails of the two ends; below, a slow drift of light.
    mixture_length: float = 14.0
    # Longest gradual transition looked for; TRECVID's shot boundary sets have few beyond 2 s.
    mixture_max_us: int = 5 * SECOND_US // 2
    # dissolve: its ends must be different places, as for a cut ...
    dissolve_persistence: float = 0.70
    # ... or may be somewhat alike where the contrast between them dips below this share of that of the ends.
    dissolve_alike: float = 0.88
    dissolve_dip: float = 0.88
    # ... or, in soft pictures, where the fit is this close, the colours this different (histogram distance) and the
    # pictures correlate less than this: a dimmer, which fits as well, keeps the picture.
    dissolve_residual: float = 0.12
    dissolve_recolour: float = 0.5
    dissolve_correlation: float = 0.7
    # fade: contrast at its far end against its near end.
    fade_contrast: float = 0.35
    # ... which is either this low (a single colour but for coding noise) or that of the same picture: correlation.
    fade_flat: float = 4.0
    fade_likeness: float = 0.7

    # activity: a pixel of the small copy has changed when its luma differs by this (over grain and coding noise).
    activity_luma: float = 12.0
    # Share of the picture that changes within half a second: below the first it is still, from the last on high. In the
    # benchmark, things before a tripod give 0.04-0.12, a hand and a slow pan 0.26-0.56, whip pans 0.78-0.97.
    activity_levels: tuple[float, float, float] = (0.004, 0.12, 0.65)
    # A level is left downwards only below this share of its threshold, and held for at least this long: no flicker.
    activity_release: float = 0.7
    activity_hold_us: int = SECOND_US

    # text: a cell of 8 px has strokes when its morphological gradient is at least this on average ...
    stroke_edge: float = 24.0
    # ... has changed when its luma differs by this on average ...
    stroke_change: float = 8.0
    # ... and this many changed cells ask for a read: the smallest word covers that many.
    stroke_cells: int = 2
    # Where strokes change all the time, reads come this far apart; captions last at least 5/6 s (Netflix's timed text
    # style guide) ...
    read_interval_us: int = SECOND_US
    # ... but this many isolated changes are read at once.
    read_burst: float = 3.0
    # Readings below this score are noise; a text must once be read with the second score.
    text_least_score: float = 0.6
    text_score: float = 0.8
    # A ring reads as O, a bar as 1: a text has at least this many letters or digits.
    text_letters: int = 2
    # Readings this alike (with equal digits) are one text read twice.
    text_similarity: float = 0.75
    # How many line heights a line may move from read to read (credits roll).
    text_travel: float = 6.0
    # Cosine of the gradients in a text's box, above which a frame still shows it. In the benchmark, frames that show it
    # reach 0.56 at least, over moving backgrounds too, and frames that do not 0.22 at most.
    text_persistence: float = 0.42
