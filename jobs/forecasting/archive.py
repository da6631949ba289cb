"""How much there is in an archive: everything listed, a sample probed, the rest estimated from it."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.archive import list_sources
from pipeline.errors import UsageError, VideoError
from pipeline.listing import Unlisted
from pipeline.plan import Windowing
from pipeline.probe import probe
from pipeline.video import Source, Video

RESAMPLES = 2000  # of the bootstrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArchiveFacts:
    """`names` and `bytes`: all of the archive. `hours`: of video, with a 90% interval (`low`, `high`) of the estimate
    from the sample; exact where everything was probed. `unreadable`: share of the probed. `windows`: to be watched."""

    names: int
    bytes: int
    probed: int
    unreadable: float
    hours: float
    low: float
    high: float
    windows: float
    sample: tuple[Video, ...]


def look_at(
    archive: Sequence[str],
    windowing: Windowing,
    probes: int,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> ArchiveFacts:
    """List an archive and probe `probes` of its videos, drawn at random (by `seed`).

    Duration is estimated as the sample's ratio to bytes: of videos of one kind it varies less than durations do.
    Raises UsageError for an archive without videos, or where none of the sample can be read.
    """
    draw = random.Random(seed)
    drawn: list[Source] = []
    names = size = bad = 0
    for item in list_sources(archive, include, exclude):
        if isinstance(item, Unlisted):
            logger.warning("%s: cannot be listed, the forecast is of the rest: %s", item.uri, item.detail)
            continue
        if isinstance(item, VideoError):
            bad += 1
            continue
        names, size = names + 1, size + item.size_bytes
        if len(drawn) < probes:
            drawn.append(item)
        elif (place := draw.randrange(names)) < probes:  # reservoir sampling, Vitter's algorithm R
            drawn[place] = item
    if not names:
        raise UsageError("no videos found in this archive")
    videos: list[Video] = []
    for source in drawn:
        try:
            videos.append(probe(source.uri, source.size_bytes, "0" * 32, (source.uri,)))
        except VideoError:
            continue
    if not videos:
        raise UsageError(f"none of {len(drawn)} videos that were probed can be read; nothing can be forecast")
    read_bytes = sum(v.size_bytes for v in videos)
    bytes_total = size * read_bytes / max(1, sum(s.size_bytes for s in drawn))  # of those that can be read
    hours = np.array([v.duration_us for v in videos]) / 3.6e9
    weights = np.array([v.size_bytes for v in videos], dtype=float)
    total = bytes_total * hours.sum() / max(weights.sum(), 1.0)
    low = high = total
    if len(drawn) < names:
        picks = np.random.default_rng(seed).integers(0, len(videos), (RESAMPLES, len(videos)))
        low, high = np.quantile(bytes_total * hours[picks].sum(1) / weights[picks].sum(1), [0.05, 0.95])
    windows = total * sum(windowing.count(v.duration_us) for v in videos) / hours.sum()
    return ArchiveFacts(
        names + bad,
        size,
        len(drawn),
        (len(drawn) - len(videos)) / len(drawn),
        float(total),
        float(low),
        float(high),
        float(windows),
        tuple(videos),
    )
