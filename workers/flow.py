"""The flow of a run: archive -> identify -> decode -> replicas -> reduce -> log, driven by one loop in the driver.

The driver holds references and small records, never pixels. What is done next is decided by the schedule
(workers/schedule.py); here its decisions become Ray tasks, and what comes out of those is told to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any

import ray

from model.interface import ModelProfile
from pipeline.config import RunConfig
from pipeline.errors import VideoError
from pipeline.event import WindowEvents
from pipeline.plan import SECOND_US
from pipeline.video import Source, Video
from workers.commit import Log
from workers.decode import start_decode
from workers.elastic import Elastic
from workers.identify import fingerprinting, probing
from workers.intake import Intake
from workers.keeper import Keeper
from workers.outage import Outage
from workers.pool import Outcome, Pool
from workers.recorder import Recorder
from workers.replica import ModelChoice, start_replica
from workers.report import FlowObserver
from workers.report import Progress as Progress
from workers.schedule import Schedule
from workers.settings import CLUSTER_STARTUP_S, STARTUP_S
from workers.settings import Limits as Limits
from workers.settings import Tasks as Tasks
from workers.shares import Shares
from workers.streams import Streams
from workers.teller import Teller
from workers.watchdog import Watchdog
from workers.work import Answer, Batch, Parcel


class Flow:
    """One run over one archive. `run()` returns when everything is in the log, or raises what ended it, or what of the
    archive could not even be listed, when all that was found is in the log."""

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
        keeper: Keeper | None = None,
        share_again: Callable[[Mapping[str, float]], Shares] | None = None,
        ask_for: int | None = None,
        limits: Limits | None = None,
        tasks: Tasks | None = None,
        on_work: Callable[[], None] = lambda: None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        observers: Sequence[FlowObserver] = (),
    ) -> None:
        """`skip`: video_id -> status of what needs no work; `already`: names of such videos that were left out of
        `sources`. `keeper`: of windows of unfinished videos. `share_again(resources)` shares a cluster that has changed
        (None: it does not change); `ask_for`: replicas that the autoscaler is asked for. `on_work` is called once,
        before the first video is taken up (and not at all when there is nothing to do); `on_progress` about ten times a
        second."""
        self._config = config
        limits = self._limits = limits or Limits()
        tasks = tasks or Tasks()
        self._on_work: Callable[[], None] | None = on_work
        self.progress = progress = Progress()
        self._teller = Teller(progress, on_progress, observers)
        self._archive = Outage(
            "the archive's store cannot be reached",
            limits.storage_s,
            lambda why: self._teller.event("waiting", "decode", "the archive", "", why),
        )
        self._room = Outage(
            "frames find no room in Ray's object store or on its disk",
            limits.storage_s,
            lambda why: self._teller.event("waiting", "watch", "frames", "", why),
        )
        self._keeper = keeper
        self._loading: dict[Future[Collection[Answer]], Video] = {}
        self._schedule = Schedule(
            config.sampling,
            config.windowing,
            budget_bytes=limits.frames_bytes or shares.budget_bytes,
            decoders=limits.decoders or shares.decoders,
            batch_windows=profile.batch_windows,
            segment_us=round(limits.segment_s * SECOND_US),
            archive=self._archive,
            room=self._room,
        )
        startup_s = limits.startup_s or (STARTUP_S if share_again is None else CLUSTER_STARTUP_S)
        self._pool = Pool(
            lambda name: start_replica(name, choice, profile, shares.replica_cpus, startup_s),
            shares.replicas,
            startup_s,
            shares.needs,
            batch_windows=profile.batch_windows,
            answer_s=limits.answer_s,
            tell=lambda kind, name, where, detail: self._teller.event(kind, "watch", name, where, detail),
        )
        self._elastic = Elastic(
            self._schedule,
            self._pool,
            profile,
            shares,
            self._teller,
            limits.decoders,
            share_again,
            ask_for,
            self._adopt,
        )
        self._streams = Streams(
            self._schedule,
            lambda order: start_decode(
                order,
                config.windowing,
                config.sampling,
                limits.decode_bytes,
                self._elastic.decode_cpus,
                self._elastic.decode_near(),
                **tasks.given("decode"),
            ),
            limits.stall_s,
            lambda stream: self._teller.event(
                "retry", "decode", stream.order.segments[0].video.uri, stream.node, "no progress: ended, tried again"
            ),
        )
        self._recorder = Recorder(
            log, run_id, config.config_hash, profile.rules, limits.log_s, keeper, progress, self._teller
        )
        self._intake = Intake(
            sources,
            fingerprinting(shares.identifiers, limits.stall_s, self._archive, **tasks.given("fingerprint")),
            probing(shares.identifiers, limits.stall_s, self._archive, **tasks.given("probe")),
            skip or {},
            progress,
            on_video=self._take_up,
            on_failed=self._failed,
            on_name=self._recorder.committer.add_name,
        )
        self._watchdog = Watchdog(limits.quiet_s)
        self._before = sum(map(len, (already or {}).values()))  # names that did not go through the listing
        for video_id, uris in (already or {}).items():
            for uri in uris:
                self._intake.known(video_id, uri)

    def run(self) -> Progress:
        try:
            while not self._finished():
                self._intake.pump(self._schedule.wants_videos() and not self._recorder.committer.full())
                self._start()
                for ref in self._wait():
                    self._take_in(ref)
                self._recorder.pump(self._schedule.finished(), self._intake.names_of)
                self._elastic.pump(self.progress, last_videos=self._intake.ended)
                self._report()
            self.progress.model = self._pool.report()
        finally:
            self._stop()
        self._report(last=True)
        self._intake.check()
        return self.progress

    def _adopt(self, shares: Shares) -> None:
        """The cluster has grown or shrunk: so does what may be in flight and identified at once."""
        self._schedule.budget.limit = self._limits.frames_bytes or shares.budget_bytes
        for stage in self._intake.stages().values():
            stage.tasks = shares.identifiers

    # --- From names to videos.

    def _take_up(self, video: Video) -> None:
        """A content that is to be watched: at once, or when what an earlier driver left of it has been read."""
        self._begin()
        loading = self._keeper.load(video, self._config.windowing) if self._keeper is not None else None
        if loading is None:
            self._add(video, ())
        else:
            self._loading[loading] = video

    def _add(self, video: Video, kept: Collection[Answer]) -> None:
        windows = self._schedule.add(video, kept)
        self.progress.windows_known += windows - len(kept)
        self.progress.windows_kept += len(kept)
        kept_us = sum(self._fresh_us(answer) for answer in kept)
        self.progress.known_us += max(0, video.duration_us - kept_us)

    def _failed(self, video_id: str, uris: list[str], size_bytes: int, error: VideoError) -> None:
        self._begin()
        self._recorder.failed(video_id, uris, size_bytes, error)

    def _begin(self) -> None:
        if self._on_work is not None:
            self._on_work()
            self._on_work = None

    # --- From videos to answers.

    def _start(self) -> None:
        """Start what can be started: replicas, decoders, and batches on free replicas."""
        for loading in [f for f in self._loading if f.done()]:
            video, kept = self._loading.pop(loading), loading.result()
            if self._keeper is not None:
                self._keeper.loaded(video.video_id)
            self._add(video, kept)
        self._pool.pump()
        for outcome in self._pool.overdue():
            self._watched(outcome)
        self._streams.pump()
        now = time.monotonic()
        while self._pool.free:
            batch = self._schedule.next_batch(
                part=not self._streams.running,
                most=self._pool.call_windows(self._schedule.ready),
                node=self._elastic.node_of(self._pool.next_free()),
                now=now,
            )
            if batch is None:
                break
            self._pool.watch(batch)

    def _wait(self) -> list[Any]:
        """Wait until something happened; returns where."""
        refs = [*self._pool.refs(), *self._streams.refs(), *self._intake.refs()]
        if not refs:
            time.sleep(0.01)
            return []
        ready, rest = ray.wait(refs, num_returns=1, timeout=Teller.PROGRESS_S, fetch_local=False)
        if ready and rest:
            ready = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0]
        return list(ready)

    def _take_in(self, ref: Any) -> None:
        if isinstance(ref, ray.ObjectRefGenerator):
            if (parcel := self._streams.collect(ref)) is not None:
                self._decoded(parcel)
        elif not self._intake.collect(ref) and (outcome := self._pool.collect(ref)) is not None:
            self._watched(outcome)

    def _decoded(self, parcel: Parcel) -> None:
        for decoded in parcel.windows:
            self.progress.decode_s += decoded.decode_s
            self.progress.frames += len(decoded.frame_us)

    def _watched(self, outcome: Outcome) -> None:
        batch, failure, schedule = outcome.batch, outcome.failure, self._schedule
        if outcome.events is not None:
            self._answered(batch, outcome.events, outcome)
            return
        assert failure is not None
        if failure.answered:  # by a replica that failed over the rest
            done, said, batch = batch.parted(failure.answered)
            self._answered(done, said, outcome)
        if not batch.members:
            return
        if failure.what == "away":
            schedule.put_back(batch)
            return
        first = batch.members[0].window
        what = f"{schedule.name_of(first)} window {first.index}"
        self._teller.event("retry", "watch", what, outcome.replica, failure.detail)
        if failure.what == "model":
            schedule.refused(batch, failure.detail)
        elif failure.what in ("lost", "full"):
            schedule.frames_lost(batch, time.monotonic(), pause=failure.what == "full")
        else:
            schedule.replica_died(batch, failure.detail, blame=failure.what != "node")

    def _answered(self, batch: Batch, events: Sequence[WindowEvents], outcome: Outcome) -> None:
        progress = self.progress
        self._schedule.answered(batch, events, outcome.replica)
        fresh = self._schedule.fresh()
        if self._keeper is not None:
            self._keeper.note(fresh)
        for waiting, said in zip(batch.members, events, strict=True):
            window = said.window
            progress.windows += 1
            progress.video_us += window.end_us - window.start_us - self._overlap_us(window.index)
            progress.model_s += said.model_s
            progress.input_tokens += said.input_tokens
            progress.output_tokens += said.output_tokens
            self._teller.trace(waiting, said, outcome)

    def _fresh_us(self, answer: Answer) -> int:
        window = answer.decoded.window
        return window.end_us - window.start_us - self._overlap_us(window.index)

    def _overlap_us(self, index: int) -> int:
        return self._config.windowing.overlap_us if index else 0

    # --- The whole.

    def _finished(self) -> bool:
        return self._intake.ended and not self._loading and self._schedule.idle() and not len(self._streams)

    def _report(self, last: bool = False) -> None:
        progress = self.progress
        if not self._teller.due(last):
            return
        progress.found, progress.listed = self._intake.found + self._before, self._intake.listed
        progress.replicas, progress.replicas_wanted = self._pool.up, self._pool.count
        progress.replica_deaths, progress.decoders = self._pool.deaths, self._schedule.decoders.at_once
        budget = self._schedule.budget
        progress.bytes_in_flight, progress.peak_bytes = budget.in_flight, budget.peak
        progress.budget_bytes = budget.limit
        committer = self._recorder.committer
        progress.commit_s, progress.file_bytes = committer.commit_s, committer.file_bytes
        progress.waits_for = "" if last else self._pool.waits_for or self._archive.why or self._room.why
        if not last:
            progress.model = self._pool.counted()
        progress.retries = (
            self._intake.retries + self._schedule.decoders.retries + self._schedule.retries + committer.retries
        )
        suspects = chain(
            self._elastic.suspects(self._streams, committer, self._limits.quiet_s),
            self._intake.suspects(),
        )
        self._watchdog.look(progress.windows, suspects, self._teller.stuck)
        progress.stuck = () if last else self._watchdog.stuck
        self._teller.report(last)

    def _stop(self) -> None:
        """End every task and replica; what is finished goes into the log, whatever ended the run."""
        self._intake.close()
        try:
            self._elastic.close()
            self._streams.stop()
            for ref in self._intake.refs():
                ray.cancel(ref, force=True)
            self._pool.stop()
        finally:
            self._recorder.finish()
