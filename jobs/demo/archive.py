"""The demo archive: a handful of generated videos of different kinds, with the truth about them beside."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jobs.demo.encode import OWN_ZERO, Recording, encode, ticks
from jobs.demo.story import story
from jobs.demo.truth import TruthEvent, activitynet, events, on_frames
from jobs.demo.world import World
from pipeline.errors import UsageError
from pipeline.plan import SECOND_US

TRUTH_FILE = "truth.json"
VERSION = "secondsight demo 2"
SEED = 290  # chosen for its variety: every kind of event in five short films


@dataclass(frozen=True, slots=True)
class Film:
    """One video to make: `file` (its suffix chooses the container), what it is like, and under which other names the
    same bytes lie.
    """

    file: str
    title: str
    seconds: int
    width: int
    height: int
    rate: Fraction
    gop: int
    variable: bool = False
    start_us: int = 0
    copies: tuple[str, ...] = ()

    def world(self, seed: int) -> World:
        """What the film shows; the same whichever other films are made."""
        rng = np.random.default_rng([seed, zlib.crc32(self.file.encode())])
        short = min(self.width, self.height)
        return story(rng, self.seconds * SECOND_US, self.width / short, self.height / short, title=self.title)

    @property
    def recording(self) -> Recording:
        b_frames = 0 if self.variable else 2  # with them an MP4 cannot tell how long the last frame stays
        return Recording(self.width, self.height, self.rate, self.variable, self.gop, b_frames, self.start_us)


FILMS = (
    Film("first light.mp4", "FIRST LIGHT", 22, 640, 360, Fraction(25), 50, copies=("again/first light (copy).mp4",)),
    Film("harbour.mkv", "HARBOUR", 20, 768, 432, Fraction(30000, 1001), 250),
    Film("night bus.mp4", "NIGHT BUS", 22, 640, 360, Fraction(30), 60, variable=True),
    Film("paper moon.ts", "PAPER MOON", 18, 640, 480, Fraction(24), 24, start_us=3600 * SECOND_US),
    Film("window seat.mp4", "WINDOW SEAT", 18, 360, 640, Fraction(30), 90),
)


def write_archive(folder: Path, seed: int = SEED, films: Sequence[Film] = FILMS, processes: int | None = None) -> Path:
    """Make `films` in `folder` and the truth about them in `truth.json` (its path is returned). The same seed makes the
    same videos. Raises UsageError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write in {folder}")
    except OSError as error:
        raise UsageError(f"the demo archive cannot be written: {error}") from error
    processes = min(len(films), processes or len(os.sched_getaffinity(0)))
    if processes == 1:
        made = [write_film(folder, film, seed) for film in films]
    else:  # spawned, for a fork would copy whatever threads and locks the caller has
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(write_film, [folder] * len(films), films, [seed] * len(films)))
    truth = {film.file: found for film, found in zip(films, made, strict=True)}
    path = folder / TRUTH_FILE
    text = json.dumps(activitynet(truth, f"{VERSION}, seed {seed}"), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def write_film(folder: Path, film: Film, seed: int) -> tuple[dict[str, Any], list[TruthEvent]]:
    """Make one film; returns the facts about it for the truth file, and what its frames show."""
    cv2.setNumThreads(1)  # the films share the machine
    world, path = film.world(seed), folder / film.file
    when = ticks(film.recording, path.suffix, world.duration_us, seed)
    unfinished = path.with_name("." + path.name)  # hidden: not part of the archive until it is whole
    try:
        encode(unfinished, world, film.recording, when)
        os.replace(unfinished, path)
        for copy in film.copies:
            (folder / copy).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / copy)
    except OSError as error:
        raise UsageError(f"the demo archive cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)

    late = film.start_us if path.suffix in OWN_ZERO else 0
    shown = on_frames(events(world), when.times_us, when.end_us)
    facts = {
        "duration": (late + when.end_us) / SECOND_US,
        "resolution": f"{film.width}x{film.height}",
        "frames": len(when.pts),
        "copies": list(film.copies),
    }
    return facts, [TruthEvent(e.start_us + late, e.end_us + late, e.kind, e.text) for e in shown]
