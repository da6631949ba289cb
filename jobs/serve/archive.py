"""The log as a server sees it: always close to its newest version, with what a page shows of the whole archive kept.

Lookups go through `pipeline.query`, which reads a few kilobytes. Sums over the whole log are made by DuckDB, kept in
memory, and made again when the log has grown, but never more than a tenth of the time.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from jobs.serve.reply import Problem
from pipeline.errors import LogError, UsageError
from pipeline.log import EventLog
from pipeline.log.ahead import Ahead
from pipeline.log.localstore import LocalStore
from pipeline.log.protocol import commit_path
from pipeline.log.replaced import REPLACED
from pipeline.log.sql import connect
from pipeline.log.store import open_store
from pipeline.query import Match, Query

#: How long an answer may lag behind a log on disk, and behind one in an object store (one request each time).
LOOK_S, LOOK_REMOTE_S = 0.5, 3.0

#: A log whose next commit is not seen is opened anew after this long: old commits are cleaned away.
REOPEN_S = 300.0

BINS = 240  # of the archive's density at most; fewer for few events, which would stand apart like hairs

#: The records that pages tell of: no file of `windows` is opened.
SHOWN = ("events", "videos", "runs", "names")

#: Records of no more rows than this are held in memory: each question to a view opens all its files again.
HELD_ROWS = 200_000

#: A video as pages list it: in its newest done run, else in its newest. Those that could not be watched and were
#: replaced by others since are none.
CATALOG = f"""
    create table catalog as with {REPLACED}
    select video_id, run_id, coalesce(uris[1], video_id) as name, uris, status, coalesce(reason, '') as reason,
        duration_us, width, height, rotation, codec, frame_rate, size_bytes, windows, coalesce(events, 0) as events,
        decode_s, model_s, finished_at_us, lost_us
    from videos where status = 'done' or video_id not in (from replaced)
    qualify row_number() over (
        partition by video_id order by (status = 'done') desc, finished_at_us desc, run_id desc) = 1
    order by name, video_id"""

RUNS = """
    create table run_list as
    select r.run_id, any_value(r.status) as status, any_value(r.model) as model,
        any_value(r.config_hash) as config_hash,
        any_value(r.weights_hash) as weights_hash, any_value(r.code_version) as code_version,
        any_value(r.started_at_us) as started_at_us, any_value(r.finished_at_us) as finished_at_us,
        count(*) filter (v.status = 'done') as videos_done, count(*) filter (v.status = 'failed') as videos_failed,
        count(*) filter (v.status = 'quarantined') as videos_quarantined,
        coalesce(sum(v.events), 0)::bigint as events,
        coalesce(sum(v.duration_us) filter (v.status = 'done'), 0)::bigint as watched_us,
        any_value(r.config) as config, any_value(r.host) as host, any_value(r.forecast) as forecast,
        any_value(r.totals) as totals
    from runs r left join videos v on v.run_id = r.run_id
    group by r.run_id order by started_at_us desc, r.run_id desc"""

KINDS = """
    select kind, count(*) as events, count(distinct video_id) as videos,
        sum(greatest(end_us - start_us, 0))::bigint as total_us
    from events semi join catalog using (video_id, run_id) group by kind order by events desc, kind"""

TOTALS = """
    select count(*) as videos, count(*) filter (status = 'done') as done,
        count(*) filter (status = 'failed') as failed, count(*) filter (status = 'quarantined') as quarantined,
        coalesce(sum(events) filter (status = 'done'), 0)::bigint as events,
        coalesce(sum(duration_us) filter (status = 'done'), 0)::bigint as duration_us,
        (select count(*) from run_list) as runs
    from catalog"""

REASONS = """
    select coalesce(nullif(split_part(reason, ':', 1), ''), status) as code, count(*) as videos
    from catalog where status <> 'done' group by code order by videos desc, code"""

DENSITY = """
    with placed as (
        select video_id, run_id, coalesce(sum(duration_us) over (
            order by name, video_id rows between unbounded preceding and 1 preceding), 0) as place
        from catalog where status = 'done')
    select e.kind, greatest(0, least($bins - 1, (p.place + e.start_us) * $bins // $total))::int as bin, count(*) as n
    from events e join placed p using (video_id, run_id) group by all"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the whole log at one version."""

    version: int
    made_at: float  # time.time()
    took_s: float
    connection: duckdb.DuckDBPyConnection
    overview: dict[str, Any]

    def rows(self, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
        """Raises LogError where a file of the log is gone or damaged since."""
        with _told(self.overview["log"]):
            return self._rows(sql, parameters)

    def _rows(self, sql: str, parameters: Any) -> list[dict[str, Any]]:
        cursor = self.connection.cursor()
        try:
            return _rows(cursor, sql, parameters)
        finally:
            cursor.close()


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """DuckDB's errors as a LogError."""
    try:
        yield
    except duckdb.Error as error:
        said = " ".join(str(error).split())[:300]
        raise LogError(f"{uri}: {said}; `secondsight log LOG --check` looks for damage") from error


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    answer = connection.execute(sql, parameters)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


class Archive:
    """Thread-safe. Raises LogError where there is no log."""

    def __init__(self, log: str) -> None:
        self._log = EventLog.open(log)
        self.uri = self._log.uri
        self._store = open_store(log)
        self._query = Query(log)
        local = isinstance(self._store, LocalStore)
        self._look_s = LOOK_S if local else LOOK_REMOTE_S
        self._looked = self._opened = time.monotonic()
        self._looking = threading.Lock()
        self._ahead = Ahead(self._store)
        self._facts: Facts | None = None
        self._making = threading.Lock()

    # -- lookups

    @property
    def query(self) -> Query:
        """The questions, answered from a version that is at most a moment old."""
        now = time.monotonic()
        if now - self._looked > self._look_s and self._looking.acquire(blocking=False):
            try:
                if now - self._opened > REOPEN_S or self._has_grown():
                    self._query.refresh()
                    self._opened = now
                self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self._query

    def _has_grown(self) -> bool:
        try:
            self._store.size(commit_path(self._query.version + 1))
        except FileNotFoundError:
            return False
        return True

    @property
    def version(self) -> int:
        return self.query.version

    def find(self, name: str, run: str | None = None) -> Match:
        """The video that `name` means. Raises Problem 404 with what may have been meant."""
        try:
            return self.query.find(name, run)
        except UsageError as error:
            raise Problem(404, "unknown_video", str(error)) from error

    def video_id(self, name: str) -> str:
        """The id of the video that `name` means, watched or not. Raises Problem 404."""
        try:
            if len(name) == 32 and self.query.runs_of(name.lower()):
                return name.lower()
            return self.query.resolve(name)[0]
        except UsageError as error:
            raise Problem(404, "unknown_video", str(error)) from error

    # -- the whole archive

    def facts(self) -> Facts:
        """At the newest version, or at an older one while a newer is being made, or was just now."""
        known = self._facts
        if known is not None:
            age = time.time() - known.made_at
            if age < max(1.0, 10 * known.took_s) or known.version == self.version:
                return known
        if not self._making.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._facts is known:
                self._facts = self._made()
            assert self._facts is not None
            return self._facts
        finally:
            self._making.release()

    def _made(self) -> Facts:
        began = time.monotonic()
        snapshot = self._log.snapshot()
        with _told(self.uri):
            connection = connect(snapshot, records=SHOWN, ahead=self._ahead)
            for record in SHOWN[1:]:
                if sum(file.rows for file in snapshot.files(record)) <= HELD_ROWS:
                    connection.execute(f"create table held as from {record}")
                    connection.execute(f"drop view {record}")
                    connection.execute(f"alter table held rename to {record}")
            connection.execute(CATALOG)
            connection.execute(RUNS)
            kinds = _rows(connection, KINDS)
            [totals] = _rows(connection, TOTALS)
            reasons = _rows(connection, REASONS)
            overview = {
                "log": self.uri,
                "version": snapshot.version,
                **totals,
                "kinds": kinds,
                "reasons": reasons,
                "density": self._density(connection, totals, [k["kind"] for k in kinds]),
                "as_of_us": time.time_ns() // 1000,
            }
        return Facts(snapshot.version, time.time(), time.monotonic() - began, connection, overview)

    def _density(self, connection: duckdb.DuckDBPyConnection, totals: dict[str, Any], kinds: list[str]) -> list[Any]:
        bins, total = max(48, min(BINS, totals["events"] // 2)), totals["duration_us"]
        counts = {kind: [0] * bins for kind in kinds}
        if total:
            for kind, place, n in connection.execute(DENSITY, {"bins": bins, "total": total}).fetchall():
                counts[kind][place] += n
        return [{"kind": kind, "counts": each} for kind, each in counts.items()]

    def run(self, name: str) -> dict[str, Any]:
        """The row of a run by its id or the beginning of one. Raises Problem 404."""
        facts = self.facts()
        rows = facts.rows("select * from run_list where starts_with(run_id, ?) order by run_id = ? desc", [name, name])
        if not rows or not name or (len(rows) > 1 and rows[0]["run_id"] != name):
            known = ", ".join(r["run_id"] for r in facts.rows("select run_id from run_list limit 10")) or "none"
            what = f"{len(rows)} runs begin with" if rows and name else "no run"
            raise Problem(404, "unknown_run", f"{what} {name[:100]!r}; the newest runs are: {known}")
        row = rows[0]
        return {**row, **{key: as_object(row[key]) for key in ("config", "host", "forecast", "totals")}}

    def roots(self) -> tuple[str, ...]:
        """Where the runs were told to look for videos."""
        return given(row["host"] for row in self.facts().rows("select host from run_list"))


def given(hosts: Iterable[str | None]) -> tuple[str, ...]:
    """The folders and prefixes that runs were given, by their `host` columns."""
    found: dict[str, None] = {}
    for host in hosts:
        archive = as_object(host).get("archive")
        for name in archive if isinstance(archive, list) else ():
            if isinstance(name, str) and not name.startswith("@"):
                found[_static(name)] = None
    return tuple(found)


def _static(name: str) -> str:
    """The folder above the first wildcard of a pattern; a name without one as it is."""
    at = min((name.find(c) for c in "*?[" if c in name), default=-1)
    return name if at < 0 else name[:at].rsplit("/", 1)[0]


def as_object(text: str | None) -> dict[str, Any]:
    """A column that holds a JSON object, whatever it really holds."""
    try:
        found = json.loads(text or "{}", parse_constant=lambda _: None)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def as_event(row: dict[str, Any], video: str) -> dict[str, Any]:
    """A row of `events` as it is said."""
    confidence = row["confidence"]
    return {
        "event_id": row["event_id"],
        "video_id": row["video_id"],
        "video": video,
        "run_id": row["run_id"],
        "start_us": row["start_us"],
        "end_us": row["end_us"],
        "kind": row["kind"],
        "text": row["text"],
        "confidence": None if confidence is None else round(confidence, 4),
        "model": row["model"],
        "window_first": row["window_first"],
        "window_last": row["window_last"],
        "evidence_us": row["evidence_us"] or [],
        "attributes": as_object(row["attributes"]),
    }
