"""The run itself, as a Python call: watch an archive and commit what happens to an event log."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from jobs.configure import configure
from pipeline.errors import LogError, SecondsightError, UsageError
from workers.settings import Limits

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.live import State
    from pipeline.log import EventLog
    from workers.flow import Progress
    from workers.shares import Shares


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did. Videos are counted once however many names they have; `failures`: (uri, reason), the first 1000.

    `already`: videos that the log held before. `run_id` is "" when there was nothing to do.
    """

    run_id: str
    log: str
    videos: int
    already: int
    failed: int
    quarantined: int
    duplicates: int
    windows: int
    events: int
    video_s: float
    elapsed_s: float
    failures: tuple[tuple[str, str], ...]
    totals: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hours_per_hour(self) -> float:
        """Hours of video watched in an hour."""
        return self.video_s / self.elapsed_s if self.elapsed_s > 0 else 0.0


def run(
    archive: str | Sequence[str],
    log: str,
    model: str = "signals",
    *,
    settings: Mapping[str, Any] | None = None,
    ranks: int | None = None,
    prompt: str | None = None,
    precision: str | None = None,
    expert_placement: str | None = None,
    fps: float | str | Fraction | None = None,
    window_s: float | None = None,
    overlap_s: float | None = None,
    short_side: int | None = None,
    tolerance_s: float | None = None,
    decoder: str | None = None,
    redact: str | None = None,
    replicas: int | None = None,
    max_replicas: int | None = None,
    startup_s: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    retry_failed: bool = False,
    address: str | None = None,
    limits: Limits | None = None,
    trace: str | None = None,
    journal: bool = False,
    forecast: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_start: Callable[[str], None] | None = None,
) -> RunSummary:
    """Watch `archive` and commit what happens to the event log at `log`. What is left None is the model's default.

    `settings` go to the model, and so do `ranks`, `prompt`, `precision` and `expert_placement` (of a Qwen3-VL).
    `replicas`: None for as many as fit, also when nodes come and go; `max_replicas`: no more than these, and the
    cluster's autoscaler is asked for room for them; `startup_s`: how long none may be up. `address`: of a Ray cluster;
    by default $RAY_ADDRESS, else one is started here for this run. `on_start` is called with lines for the user before
    the work begins, `on_progress` about ten times a second while it runs. `trace`: where the spans of each window go
    ("otlp", a URL, a file); `journal`: JSON lines about the run on standard error. `forecast`: what was forecast of it
    (jobs/forecast.py), for its row.

    Raises UsageError for a call that cannot be meant, ModelError and LogError where model or log cannot be used;
    what is finished by then is in the log, and so it is after KeyboardInterrupt.
    """
    from model.registry import Placeable, find_model, located
    from pipeline.archive import list_sources
    from pipeline.config import new_run_id
    from pipeline.log import EventLog

    say = on_start or (lambda line: None)
    wishes = {"ranks": ranks, "prompt": prompt, "precision": precision, "expert_placement": expert_placement}
    settings = {**(settings or {}), **{name: wish for name, wish in wishes.items() if wish is not None}}
    model = located(model)
    factory = find_model(model)
    profile = factory.profile(settings)
    config = configure(profile, fps, window_s, overlap_s, short_side, tolerance_s, decoder, redact)
    if profile.fps_multiple > 1 and fps is not None:
        settings["fps"] = str(config.sampling.fps / profile.fps_multiple)
    if replicas is not None and replicas < 1:
        raise UsageError(f"--replicas {replicas}: must be at least 1")
    if startup_s is not None:
        if not 0 < startup_s <= 7 * 86400:
            raise UsageError(f"--startup {startup_s:g} s: must be above 0, and a week at most")
        limits = replace(limits or Limits(), startup_s=startup_s)
    if max_replicas is not None and (max_replicas < 1 or replicas is not None):
        raise UsageError(f"--max-replicas {max_replicas}: must be at least 1, and goes with --replicas auto")
    arguments, patience_s = [archive] if isinstance(archive, str) else list(archive), (limits or Limits()).storage_s
    sources = list_sources(arguments, include, exclude, patience_s)
    event_log = EventLog.open(log, create=True)
    committed = event_log.done(config.config_hash)
    skip = {i: s for i, s in committed.items() if s == "done"} if retry_failed else committed
    if profile.notice:
        say(profile.notice)
    from jobs.missing import done_names, forget_done, look_ahead, not_done
    from jobs.orphan import finish_orphan, orphaned_run, together, work_of

    failed, replaced = not_done(event_log, committed)
    if len(committed) > replaced:
        again = "taken up again" if retry_failed else "left; --retry-failed takes them up again"
        but = f", {failed - replaced:,} of them failed ({again})" if failed > replaced else ""
        say(f"{log} holds {len(committed) - replaced:,} videos of this configuration already{but}")
    host = _host(archive)
    missing, sources = look_ahead(sources, done_names(event_log, config.config_hash, skip))

    from workers.already import leading_already

    already = leading_already(sources, skip)
    if already.rest is None:
        event_log.record_names(already.names)
        finish_orphan(event_log, config.config_hash, host)
        return _nothing_to_do(log, already.names)

    # Ray takes seconds to start: only now that there is something to do.
    from jobs.observe import Following
    from workers.cluster import cluster
    from workers.flow import Flow
    from workers.keeper import Keeper
    from workers.replica import ModelChoice
    from workers.shares import share_out

    keeper = Keeper(log, config.config_hash)
    keeper.forget(forget_done(committed))
    say(missing.line(keeper.begun(skip)))
    run_id = new_run_id()
    begun: list[float] = []
    before: dict[str, float] = {}  # what earlier drivers of this run did

    orphan = orphaned_run(event_log, config.config_hash, host["archive"])
    if orphan is not None:
        run_id = orphan[0]
        say(f"run {run_id} lost its driver: going on with it")

    with cluster(address) as machines:
        if isinstance(factory, Placeable):
            counted = partial(_counted_before, event_log, config.weights_hash)
            settings = factory.for_cluster(settings, machines.resources, counted)
            profile = factory.profile(settings)

        def share(resources: Mapping[str, float]) -> Shares:
            return share_out(resources, profile, replicas, not machines.ours, max_replicas)

        shares = share(machines.resources)

        following = Following(log, run_id, model, archive, shares, trace=trace, journal=journal)

        def begin() -> None:
            begun.append(time.time())
            record = _run_record(run_id, config, host, begun[0], machines.resources, forecast)
            if orphan is None:
                event_log.begin_run(record)
            elif event_log.take_over_run(run_id, orphan[1], record.host, forecast):
                before.update(work_of(event_log, run_id))
            else:
                raise LogError(f"{log}: another driver has just taken over run {run_id}: let it work, or wait for it")
            following.begin(begun[0], {"log": log, "config_hash": config.config_hash}, before)

        flow = Flow(
            already.rest,
            event_log,
            run_id,
            config,
            ModelChoice(model, settings),
            profile,
            shares,
            skip=skip,
            already=already.names,
            keeper=keeper,
            share_again=None if machines.ours else share,
            ask_for=max_replicas,
            limits=limits,
            on_work=begin,
            on_progress=on_progress or (lambda progress: None),
            observers=following.all,
        )
        began = time.monotonic()
        status: State = "failed"
        why = ""
        try:
            flow.run()
            status = "done"
            if not begun:
                finish_orphan(event_log, config.config_hash, host)
            if isinstance(factory, Placeable):
                flow.progress.model = factory.summarise(settings, flow.progress.model)
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        except SecondsightError as error:
            why = str(error)
            raise
        finally:
            elapsed_s = time.monotonic() - began
            try:
                if begun:
                    with (
                        nullcontext() if status == "done" else suppress(LogError)
                    ):  # the first error is the one to tell
                        event_log.finish_run(run_id, together(flow.progress.totals(elapsed_s), before), status)
            finally:
                if begun:
                    following.end(flow.progress, status, why)
    return _summary(run_id if begun else "", log, flow.progress, elapsed_s)


def _run_record(
    run_id: str,
    config: RunConfig,
    host: Mapping[str, Any],
    started: float,
    resources: Mapping[str, float],
    forecast: Mapping[str, Any] | None = None,
) -> Any:
    from pipeline.log import RunRecord

    return RunRecord(
        run_id=run_id,
        config_hash=config.config_hash,
        config=config.as_json(),
        model=config.model,
        weights_hash=config.weights_hash,
        code_version=_code_version(),
        host={**host, "resources": {k: v for k, v in resources.items() if not k.startswith("node:")}},
        started_us=int(started * 1e6),
        forecast=forecast or {},
    )


def _host(archive: str | Sequence[str]) -> dict[str, Any]:
    """Who drives a run, and over what."""
    from jobs.orphan import boot_id, process_start

    return {
        "node": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "ray": version("ray"),
        "process": os.getpid(),
        "process_start": process_start(),
        "boot": boot_id(),
        "archive": [_absolute(name) for name in ([archive] if isinstance(archive, str) else archive)],
    }


def _absolute(name: str) -> str:
    """An argument of the archive, whole: `serve` shows the videos below these."""
    return name if "://" in name or name.startswith("@") else os.path.abspath(name)


def _counted_before(log: EventLog, weights_hash: str) -> Mapping[str, Any] | None:
    """What the model's replicas counted in the last run of the same weights that is in the log."""
    from pipeline.log.sql import select

    runs = select(log.snapshot(), "select weights_hash, totals from runs order by started_at_us desc").to_pylist()
    for run in runs:
        if run["weights_hash"] == weights_hash and (counted := json.loads(run["totals"] or "{}").get("model")):
            return dict(counted)
    return None


def _code_version() -> str:
    try:
        return version("secondsight")
    except PackageNotFoundError:
        return "unknown"


def _nothing_to_do(log: str, names: Mapping[str, Sequence[str]]) -> RunSummary:
    further = sum(len(uris) - 1 for uris in names.values())
    return RunSummary("", log, 0, len(names), 0, 0, further, 0, 0, 0.0, 0.0, ())


def _summary(run_id: str, log: str, progress: Progress, elapsed_s: float) -> RunSummary:
    return RunSummary(
        run_id=run_id,
        log=log,
        videos=progress.done,
        already=progress.already,
        failed=progress.failed,
        quarantined=progress.quarantined,
        duplicates=progress.duplicates,
        windows=progress.windows,
        events=progress.events,
        video_s=progress.video_us / 1e6,
        elapsed_s=elapsed_s,
        failures=tuple(progress.failures),
        totals=progress.totals(elapsed_s),
    )
