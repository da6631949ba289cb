"""The flow of a run: archive -> identify -> decode -> replicas -> reduce -> log, driven by one loop in the driver.

The driver holds references and small records, never pixels. What is done next is decided by the schedule
(workers/schedule.py); here its decisions become Ray tasks, and what comes out of those is told to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from model.interface import ModelProfile
from pipeline.config import RunConfig
from pipeline.errors import VideoError
from pipeline.log.records import VideoResult
from pipeline.plan import SECOND_US
from pipeline.video import Source, Video
from workers.already import unread_id
from workers.commit import Committer, Log, video_result
from workers.decode import start_decode
from workers.identify import Listing, Stage, fingerprinting, probing
from workers.pool import Outcome, Pool
from workers.replica import ModelChoice, start_replica
from workers.report import FlowObserver
from workers.report import Progress as Progress
from workers.schedule import Schedule
from workers.shares import Shares
from workers.streams import Streams

logger = logging.getLogger(__name__)

IDENTIFY_AHEAD = 32  # videos that are known and wait for a decoder
REPORT_S = 0.1
SNAPSHOT_S = 1.0  # between two looks of an observer
MAX_NOTES = 1000  # failures kept for the summary; the log has all of them


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used up.

    `stall_s`: time without progress in one decode task, or in opening one video. `decode_bytes`: private memory that
    decoding may add to its process. `startup_s`: until the first replica is up. `segment_s`: length of video that
    one decode task reads. `frames_bytes`: frames in flight (None: by the size of the cluster).
    """

    stall_s: float = 120.0
    decode_bytes: int | None = 4 << 30
    startup_s: float = 900.0
    segment_s: float = 300.0
    frames_bytes: int | None = None


class Flow:
    """One run over one archive. `run()` returns when everything is in the log, or raises what ended it."""

    def __init__(
        self,
        sources: Iterable[Source | VideoError],
        log: Log,
        run_id: str,
        config: RunConfig,
        choice: ModelChoice,
        profile: ModelProfile,
        shares: Shares,
        *,
        skip: Mapping[str, str] | None = None,
        already: Mapping[str, Sequence[str]] | None = None,
        limits: Limits | None = None,
        on_work: Callable[[], None] = lambda: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        observers: Sequence[FlowObserver] = (),
    ) -> None:
        """`skip`: video_id -> status of what needs no work; `already`: names of such videos that were left out of
        `sources`. `on_work` is called once, before the first video is taken up (and not at all when there is nothing
        to do); `on_progress` about ten times a second."""
        self._config, self._run_id, self._profile, self._shares = config, run_id, profile, shares
        self._limits = limits or Limits()
        self._skip = skip or {}
        self._on_work: Callable[[], None] | None = on_work
        self._on_progress, self._reported = on_progress, 0.0
        self._observers, self._shown = list(observers), 0.0
        self.progress = Progress()
        self._listing = Listing(sources)
        self._fingerprints = fingerprinting(shares.identifiers, self._limits.stall_s)
        self._probes = probing(shares.identifiers, self._limits.stall_s)
        self._names: dict[str, list[str]] = {}  # of videos that are being worked on
        self._seen: set[str] = set()  # video_ids of this run
        self._schedule = Schedule(
            config.sampling,
            config.windowing,
            budget_bytes=self._limits.frames_bytes or shares.budget_bytes,
            decoders=shares.decoders,
            batch_windows=profile.batch_windows,
            segment_us=round(self._limits.segment_s * SECOND_US),
        )
        self._streams = Streams(
            self._schedule,
            lambda order: start_decode(
                order, config.windowing, config.sampling, self._limits.decode_bytes, shares.decode_cpus
            ),
            self._limits.stall_s,
        )
        self._pool = Pool(
            lambda name: start_replica(name, choice, profile, shares.replica_cpus),
            shares.replicas,
            self._limits.startup_s,
            shares.needs,
        )
        self._committer = Committer(log)
        self._config_hash = config.config_hash
        self._before = sum(map(len, (already or {}).values()))  # names that did not go through the listing
        for video_id, uris in (already or {}).items():
            for uri in uris:
                self._known(video_id, uri)

    def run(self) -> Progress:
        try:
            while not self._finished():
                self._identify()
                self._start()
                for ref in self._wait():
                    self._take_in(ref)
                self._record()
                self._report()
            self.progress.model = self._pool.report()
        finally:
            self._stop()
        self._report(last=True)
        return self.progress

    # --- From names to videos.

    def _identify(self) -> None:
        """Take names from the listing while the schedule needs videos, and keep the identifying tasks going."""
        if self._schedule.wants_videos() and not self._committer.full():
            room = IDENTIFY_AHEAD - len(self._fingerprints) - len(self._probes)
            for entry in self._listing.take(max(0, room)):
                if isinstance(entry, VideoError):
                    self._unidentified(entry.uri, 0, entry)
                else:
                    self._fingerprints.waiting.append(entry)
        self._fingerprints.pump()
        self._probes.pump()

    def _identified(self, stage: Stage, ref: Any) -> None:
        for item, result in stage.collect(ref):
            if stage is self._fingerprints:
                self._fingerprinted(item, result)
            else:
                self._probed(item[0], item[1], result)

    def _fingerprinted(self, source: Source, result: str | VideoError) -> None:
        if isinstance(result, VideoError):
            self._unidentified(source.uri, source.size_bytes, result)
            return
        if result in self._names:
            self.progress.names += 1
            self.progress.duplicates += 1
            self._names[result].append(source.uri)
            return
        if result in self._seen or result in self._skip:
            self._known(result, source.uri)
            return
        self.progress.names += 1
        self._seen.add(result)
        self._begin()
        self._names[result] = [source.uri]
        self._probes.waiting.append((source, result))

    def _known(self, video_id: str, uri: str) -> None:
        """A name of a video that the log has, or will have without this name."""
        self.progress.names += 1
        if video_id in self._seen:
            self.progress.duplicates += 1
        else:
            self._seen.add(video_id)
            self.progress.already += 1
        self._committer.add_name(video_id, uri)

    def _probed(self, source: Source, video_id: str, result: Video | VideoError) -> None:
        if isinstance(result, VideoError):
            self._failed(video_id, self._names.pop(video_id), source.size_bytes, result)
            return
        windows = self._schedule.add(result)
        self.progress.windows_known += windows
        self.progress.known_us += result.duration_us

    def _unidentified(self, uri: str, size_bytes: int, error: VideoError) -> None:
        """Not even a fingerprint: the name stands in for the content."""
        self.progress.names += 1
        video_id = unread_id(uri)
        if video_id in self._seen:
            return
        self._seen.add(video_id)
        if video_id in self._skip:
            self.progress.already += 1
        else:
            self._failed(video_id, [uri], size_bytes, error)

    def _failed(self, video_id: str, uris: list[str], size_bytes: int, error: VideoError) -> None:
        self._begin()
        reason = f"{error.reason}: {error.detail}"
        self.progress.failed += 1
        self._note(uris[0], reason)
        self._committer.add(
            VideoResult(video_id, self._run_id, self._config_hash, tuple(uris), size_bytes, "failed", reason)
        )

    def _begin(self) -> None:
        if self._on_work is not None:
            self._on_work()
            self._on_work = None

    # --- From videos to answers.

    def _start(self) -> None:
        """Start what can be started: replicas, decoders, and batches on free replicas."""
        self._pool.pump()
        self._streams.pump()
        while self._pool.free and (batch := self._schedule.next_batch(part=not self._streams.running)) is not None:
            self._pool.watch(batch)

    def _wait(self) -> list[Any]:
        """Wait until something happened; returns where."""
        refs = [*self._pool.refs(), *self._streams.refs(), *self._fingerprints.running, *self._probes.running]
        if not refs:
            time.sleep(0.01)
            return []
        ready, rest = ray.wait(refs, num_returns=1, timeout=REPORT_S, fetch_local=False)
        if ready and rest:
            ready = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0]
        return list(ready)

    def _take_in(self, ref: Any) -> None:
        if isinstance(ref, ray.ObjectRefGenerator):
            if (decoded := self._streams.collect(ref)) is not None:
                self.progress.decode_s += decoded.decode_s
                self.progress.frames += len(decoded.frame_us)
        elif ref in self._fingerprints.running:
            self._identified(self._fingerprints, ref)
        elif ref in self._probes.running:
            self._identified(self._probes, ref)
        elif (outcome := self._pool.collect(ref)) is not None:
            self._watched(outcome)

    def _watched(self, outcome: Outcome) -> None:
        batch, failure = outcome.batch, outcome.failure
        if outcome.events is not None:
            self._schedule.answered(batch, outcome.events, outcome.replica)
            for window, said in zip(batch.windows, outcome.events, strict=True):
                self.progress.windows += 1
                seen_before_us = self._config.windowing.overlap_us if window.index else 0
                self.progress.video_us += window.end_us - window.start_us - seen_before_us
                self.progress.model_s += said.model_s
        elif failure is not None and failure.what == "model":
            self._schedule.refused(batch, failure.detail)
        elif failure is not None and failure.what == "lost":
            self._schedule.frames_lost(batch, time.monotonic())
        elif failure is not None:
            self._schedule.replica_died(batch, failure.detail)

    # --- From answers to the log.

    def _record(self) -> None:
        """Hand finished videos to the log."""
        for watched in self._schedule.finished():
            video_id = watched.video.video_id
            result, dropped = video_result(
                watched, self._names.pop(video_id), self._run_id, self._config_hash, self._profile.rules
            )
            self._committer.add(result)
            progress = self.progress
            progress.events += len(result.events)
            for cause, count in dropped.items():
                progress.dropped_events[cause] = progress.dropped_events.get(cause, 0) + count
            if watched.status == "done":
                progress.done += 1
            else:
                self._note(result.uris[0], watched.reason)
                progress.failed += watched.status == "failed"
                progress.quarantined += watched.status == "quarantined"
        self._committer.pump()

    def _finished(self) -> bool:
        return (
            self._listing.ended
            and not len(self._fingerprints)
            and not len(self._probes)
            and self._schedule.idle()
            and not len(self._streams)
        )

    def _note(self, uri: str, reason: str) -> None:
        if len(self.progress.failures) < MAX_NOTES:
            self.progress.failures.append((uri, reason))

    def _report(self, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_S and not last:
            return
        self._reported = now
        progress = self.progress
        progress.found, progress.listed = self._listing.found + self._before, self._listing.ended
        progress.replicas, progress.replica_deaths = self._pool.up, self._pool.deaths
        progress.bytes_in_flight, progress.peak_bytes = self._schedule.bytes_in_flight, self._schedule.peak_bytes
        progress.commit_s = self._committer.commit_s
        self._on_progress(progress)
        if now - self._shown >= SNAPSHOT_S or last:
            self._shown = now
            self._tell(lambda observer: observer.snapshot(progress))

    def _tell(self, say: Callable[[FlowObserver], None]) -> None:
        """Tell the observers; one that raises is not asked again: numbers beside the work do not end a run."""
        for observer in list(self._observers):
            try:
                say(observer)
            except Exception:
                logger.exception("an observer of the run failed and is left out from now on")
                self._observers.remove(observer)

    def _stop(self) -> None:
        """End every task and replica; what is finished goes into the log, whatever ended the run."""
        self._listing.close()
        try:
            self._streams.stop()
            for ref in [*self._fingerprints.running, *self._probes.running]:
                ray.cancel(ref, force=True)
            self._pool.stop()
        finally:
            self._committer.finish()
