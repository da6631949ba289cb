"""Where a run stands now: one small JSON object per run beside the log's tables, replaced every few seconds.

`_live/RUN_ID.json` is written by the driver of the run alone and read by whoever wants to know (`secondsight top`, the
web page). It is no table: nothing depends on it, and it may be deleted at any time.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from pipeline.errors import LogError
from pipeline.log.store import Store, open_store

FOLDER = "_live"
VERSION = 1
MAX_BYTES = 1 << 20  # of one object: what is larger was not written by us
SILENT_S = 30.0  # without a word from the driver, before a run is taken for dead
FORGET_S = 7 * 86400.0  # after which the object of a run that has ended is deleted

State = Literal["starting", "running", "done", "failed", "stopped"]
ENDED: frozenset[str] = frozenset({"done", "failed", "stopped"})

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Stuck:
    """What has not moved for a while. `stage`: identify, decode, watch or commit; `where`: node or replica."""

    stage: str
    what: str
    where: str
    since_us: int


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """Where a run stands. `*_at_us`: Unix time in microseconds. Counts are of this run, `videos_already` aside.

    `video_us`: length of the windows watched, overlaps counted once, of `known_us` in the videos taken up so far;
    `expected_us` guesses what is not known yet by the average. `hours_per_hour`: hours of video watched in an hour,
    lately; `left_s`: until the end at that rate. `rates`: per second and lately, "decode_frames", "watch_windows",
    "finish_videos", and how many decoders and replicas were at work on average ("decode_busy", "watch_busy").
    """

    run_id: str
    state: State
    started_at_us: int
    updated_at_us: int
    model: str = ""
    archive: str = ""
    driver: str = ""  # node and process
    job: str = ""  # the submission id of the Ray job that it is; "" where it is none
    note: str = ""  # why it ended, or what it waits for

    videos_found: int = 0
    listed: bool = False  # the listing has ended: `videos_found` is all there is
    videos_done: int = 0
    videos_failed: int = 0
    videos_quarantined: int = 0
    videos_already: int = 0
    duplicates: int = 0

    windows_done: int = 0
    windows_known: int = 0
    windows_kept: int = 0  # of windows_known, those that an earlier driver of this run had finished
    events: int = 0
    frames: int = 0

    video_us: int = 0
    known_us: int = 0
    expected_us: int = 0
    hours_per_hour: float | None = None
    left_s: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)

    decode_s: float = 0.0
    model_s: float = 0.0
    commit_s: float = 0.0
    file_bytes: int = 0  # of the log, written
    input_tokens: int = 0
    output_tokens: int = 0
    expert_imbalance: float | None = None  # busiest expert's tokens over the average's; None: the model has none

    replicas: int = 0
    replicas_wanted: int = 0
    replica_deaths: int = 0
    decoders: int = 0
    nodes: int = 0
    nodes_lost: int = 0
    retries: int = 0
    bytes_in_flight: int = 0
    budget_bytes: int = 0
    stuck: tuple[Stuck, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()  # (uri, reason), the newest last, a few
    before: Mapping[str, float] = field(default_factory=dict)  # what earlier drivers of this run did, as `work` says it

    @property
    def videos_total(self) -> int:
        """Names found so far; all there are where `listed`."""
        return self.videos_found

    @property
    def videos_finished(self) -> int:
        """Names that need no more work, whatever became of them."""
        return self.videos_done + self.videos_failed + self.videos_quarantined + self.videos_already + self.duplicates

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def silent_s(self, now_us: int | None = None) -> float:
        """Seconds since the driver last wrote."""
        return ((time.time_ns() // 1000 if now_us is None else now_us) - self.updated_at_us) / 1e6

    def is_live(self, now_us: int | None = None) -> bool:
        """Whether the run goes on: it has not ended and its driver has written within `SILENT_S`."""
        return not self.ended and self.silent_s(now_us) <= SILENT_S

    def work(self) -> dict[str, float]:
        """What has been done in this run, by earlier drivers too, under the names of a run's totals."""
        done = {name: getattr(self, told) for name, told in _WORK.items()}
        done["elapsed_s"] = (self.updated_at_us - self.started_at_us) / 1e6
        return {name: value + self.before.get(name, 0) for name, value in done.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; `read_live` understands them."""
        return {"version": VERSION, **asdict(self)}


#: A number of a run's totals (workers.report.Progress) -> its name here.
_WORK = {
    "done": "videos_done",
    "failed": "videos_failed",
    "quarantined": "videos_quarantined",
    "windows": "windows_done",
    **{
        name: name
        for name in (
            *("events", "frames", "video_us", "decode_s", "model_s", "commit_s", "input_tokens", "output_tokens"),
            *("file_bytes", "retries", "replica_deaths", "nodes_lost"),
        )
    },
}


def write_live(log_uri: str, status: LiveStatus) -> None:
    """Replace the run's object. Raises LogError where the log's store cannot be written."""
    store = open_store(log_uri)
    path = _path(status.run_id)
    data = json.dumps(status.as_json(), separators=(",", ":"), allow_nan=False).encode()  # odd file names as \\udcXX
    try:
        store.put(path, data)
    except OSError as error:
        raise LogError(f"{store.uri}/{path}: cannot write: {error.strerror or error}") from error


def read_live(log_uri: str) -> list[LiveStatus]:
    """Every run that left word, newest first; what cannot be understood is left out.

    Raises LogError where the store fails. A log without a run yet, or no log at all, gives [].
    """
    store = open_store(log_uri)
    found = [status for path, size, _ in _listed(store) if (status := _read(store, path, size)) is not None]
    return sorted(found, key=lambda s: (s.started_at_us, s.run_id), reverse=True)


def forget_live(log_uri: str, older_s: float = FORGET_S) -> int:
    """Delete the objects of runs that nobody has written for that long; returns how many."""
    store = open_store(log_uri)
    before = time.time() - older_s
    old = [path for path, _, changed in _listed(store) if changed < before]
    store.delete(old)
    return len(old)


def _path(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise LogError(f"run id {run_id!r}: only letters, digits, '.', '_' and '-', 128 at most")
    return f"{FOLDER}/{run_id}.json"


def _listed(store: Store) -> list[tuple[str, int, float]]:
    """The objects of runs; `.tmp` files of killed writers are hidden and so do not end in .json."""
    return [entry for entry in store.list(FOLDER) if not entry[0].rsplit("/", 1)[-1].startswith(".")]


def _read(store: Store, path: str, size: int) -> LiveStatus | None:
    if not path.endswith(".json") or size > MAX_BYTES:
        return None
    try:
        return parse_live(json.loads(store.read(path)))
    except (FileNotFoundError, ValueError):
        return None


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def parse_live(plain: Any) -> LiveStatus:
    """A status from plain JSON values. Unknown fields are left out, so that newer writers can be read.

    Raises ValueError where a field is of the wrong kind or a needed one is missing.
    """
    if not isinstance(plain, dict):
        raise ValueError("not a JSON object")
    values: dict[str, Any] = {}
    for each in fields(LiveStatus):
        if each.name not in plain:
            if each.default is MISSING and each.default_factory is MISSING:
                raise ValueError(f"{each.name} is missing")
            continue
        values[each.name] = _value(each.name, str(each.type), plain[each.name])
    if not _RUN_ID.fullmatch(values["run_id"]):
        raise ValueError("run_id is not a run id")
    return LiveStatus(**values)


def _value(name: str, kind: str, value: Any) -> Any:
    if name == "state":
        if value not in get_args(State):
            raise ValueError(f"state {value!r} is not known")
        return value
    if name == "stuck":
        return tuple(
            Stuck(_of(s, "stage", str), _of(s, "what", str), _of(s, "where", str), _of(s, "since_us", int))
            for s in _list(name, value)
        )
    if name == "failures":
        pairs = [tuple(pair) for pair in _list(name, value) if isinstance(pair, list)]
        return tuple(p for p in pairs if len(p) == 2 and all(isinstance(part, str) for part in p))
    if name in ("rates", "before"):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        return {k: v for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    base, _, optional = kind.partition(" | ")
    if value is None and optional == "None":
        return None
    if not isinstance(value, _KINDS[base]) or (isinstance(value, bool) and base != "bool"):
        raise ValueError(f"{name} is not of kind {base}")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _of(thing: Any, name: str, kind: type) -> Any:
    if not isinstance(thing, dict) or not isinstance(thing.get(name), kind):
        raise ValueError(f"{name} is missing or not of its kind")
    return thing[name]
