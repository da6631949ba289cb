"""Who follows a run while it goes on: its live status, metrics, traces, and structured logs."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.live import LiveStatus, State

if TYPE_CHECKING:
    from workers.report import FlowObserver, Progress
    from workers.shares import Shares

log = logging.getLogger(__name__)


class Following:
    """The observers of one run: `all` of them, told of its beginning and its end."""

    def __init__(
        self,
        log_uri: str,
        run_id: str,
        model: str,
        archive: str | Sequence[str],
        shares: Shares,
        trace: str | None = None,
        journal: bool = False,
    ) -> None:
        """Made where Ray is connected. `trace`: see `workers.tracing.TraceReport`; `journal`: JSON lines on standard
        error. Raises UsageError where traces cannot be had."""
        from workers.journal import Journal
        from workers.live import LiveReport
        from workers.metrics import MetricsReport
        from workers.tracing import TraceReport

        names = [archive] if isinstance(archive, str) else list(archive)
        self._first = LiveStatus(
            run_id=run_id,
            state="starting",
            started_at_us=0,
            updated_at_us=0,
            model=model,
            archive=", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            driver=f"{platform.node()}:{os.getpid()}",
            job=_submitted_as(),
            replicas_wanted=shares.replicas,
            decoders=shares.decoders,
            budget_bytes=shares.budget_bytes,
        )
        self._live = LiveReport(log_uri, self._first)
        self._tracing = TraceReport(run_id, model, trace) if trace else None
        self._journal = Journal(run_id, sys.stderr) if journal else None
        self._handler = self._journal.handler() if self._journal is not None else None
        metrics = MetricsReport(run_id, model, self._live.hours_per_hour)
        self.all: list[FlowObserver] = [
            observer for observer in (self._live, metrics, self._tracing, self._journal) if observer is not None
        ]

    def begin(self, started_s: float, facts: dict[str, Any], before: Mapping[str, float]) -> None:
        """The run is in the log. `facts`: for the structured log; `before`: what earlier drivers of it did."""
        self._live.begin(int(started_s * 1e6), before)
        if self._journal is not None and self._handler is not None:
            logging.getLogger().addHandler(self._handler)
            self._journal.begin({"model": self._first.model, "archive": self._first.archive, **facts})

    def end(self, progress: Progress, state: State, note: str = "") -> None:
        """The last word to everyone; what cannot be told disturbs nothing."""
        tells: list[Callable[[], None]] = [lambda: self._live.end(progress, state, note)]
        if (journal := self._journal) is not None:
            tells.append(lambda: journal.end(progress, state, note))
        if (tracing := self._tracing) is not None:
            tells.append(tracing.end)
        for tell in tells:
            try:
                tell()
            except Exception:
                log.exception("the end of the run could not be told to one who follows it")
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)


def _submitted_as() -> str:
    """The submission id of the job that this driver is; "" where it was not sent to a job server."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    try:
        return str(json.loads(os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return ""
