"""A run's counters as Prometheus metrics, through Ray: every node's agent serves them, as `ray_secondsight_*`.

`METRICS` is the whole list; the dashboard in k8s/ uses these and no others (tests/k8s checks it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workers.live import expert_imbalance

if TYPE_CHECKING:
    from workers.report import FlowEvent, Progress, VideoTrace, WindowTrace

PREFIX = "secondsight_"
OBSERVED = 100  # windows whose times are put into the histogram in one second, at most: the others are like them


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Counters end in `_total`, as Prometheus wants it. `tags`: beside `run_id` and `model`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

METRICS: tuple[Metric, ...] = (
    Metric("videos_total", "counter", "Videos finished, by status: done, failed, quarantined, already", ("status",)),
    Metric("videos_found", "gauge", "Names found in the archive so far"),
    Metric("windows_total", "counter", "Windows answered"),
    Metric("windows_known", "gauge", "Windows of the videos taken up so far"),
    Metric("events_total", "counter", "Events of finished videos"),
    Metric("frames_total", "counter", "Frames decoded and kept"),
    Metric("video_seconds_total", "counter", "Length of video watched, overlaps counted once"),
    Metric("hours_per_hour", "gauge", "Hours of video watched in an hour, over the last minute"),
    Metric("decode_seconds_total", "counter", "Wall time that decoders took for windows"),
    Metric("model_seconds_total", "counter", "Time that models took for windows"),
    Metric("commit_seconds_total", "counter", "Time that commits to the event log took"),
    Metric("window_seconds", "histogram", "One window's time in a stage", ("stage",), _SECONDS),
    Metric("tokens_total", "counter", "Tokens of windows, by direction: input, output", ("direction",)),
    Metric(
        "expert_imbalance",
        "gauge",
        "Tokens of the busiest expert over the average's, layers averaged, of a mixture of experts",
    ),
    Metric("queue_bytes", "gauge", "Bytes of frames in flight between decoders and replicas"),
    Metric("queue_budget_bytes", "gauge", "Bytes of frames that may be in flight"),
    Metric("replicas", "gauge", "Replicas that are up"),
    Metric("replicas_wanted", "gauge", "Replicas that should be up"),
    Metric("decoders", "gauge", "Decode tasks that may run at once"),
    Metric("nodes", "gauge", "Nodes of the cluster that are alive"),
    Metric("nodes_lost_total", "counter", "Nodes lost during the run"),
    Metric("replica_deaths_total", "counter", "Replicas that died and were replaced"),
    Metric("retries_total", "counter", "Pieces of work tried again, whatever failed"),
    Metric("failures_total", "counter", "What went wrong, by stage and kind", ("stage", "kind")),
    Metric("stuck", "gauge", "Pieces of work that have not moved for a while"),
)

#: What a counter follows: a number of `Progress` that only grows.
_GROWING: dict[str, Callable[[Progress], float]] = {
    "windows_total": lambda p: p.windows,
    "events_total": lambda p: p.events,
    "frames_total": lambda p: p.frames,
    "video_seconds_total": lambda p: p.video_us / 1e6,
    "decode_seconds_total": lambda p: p.decode_s,
    "model_seconds_total": lambda p: p.model_s,
    "commit_seconds_total": lambda p: p.commit_s,
    "nodes_lost_total": lambda p: p.nodes_lost,
    "replica_deaths_total": lambda p: p.replica_deaths,
    "retries_total": lambda p: p.retries,
}

_TAGGED: dict[tuple[str, str, str], Callable[[Progress], float]] = {
    ("videos_total", "status", "done"): lambda p: p.done,
    ("videos_total", "status", "failed"): lambda p: p.failed,
    ("videos_total", "status", "quarantined"): lambda p: p.quarantined,
    ("videos_total", "status", "already"): lambda p: p.already,
    ("tokens_total", "direction", "input"): lambda p: p.input_tokens,
    ("tokens_total", "direction", "output"): lambda p: p.output_tokens,
}

_LEVELS: dict[str, Callable[[Progress], float]] = {
    "videos_found": lambda p: p.found,
    "windows_known": lambda p: p.windows_known,
    "queue_bytes": lambda p: p.bytes_in_flight,
    "queue_budget_bytes": lambda p: p.budget_bytes,
    "replicas": lambda p: p.replicas,
    "replicas_wanted": lambda p: p.replicas_wanted,
    "decoders": lambda p: p.decoders,
    "nodes": lambda p: p.nodes,
    "stuck": lambda p: len(p.stuck),
}

_FAILURES = frozenset({"failed", "quarantined", "replica_died", "node_lost", "stuck", "retry"})


class MetricsReport:
    """A `workers.report.FlowObserver` that keeps Ray's metrics up to date. Made where Ray is connected."""

    wants_traces = True

    def __init__(self, run_id: str, model: str, hours_per_hour: Callable[[], float | None] = lambda: None) -> None:
        """`hours_per_hour`: asked at each snapshot (who knows it: workers/live.py)."""
        from ray.util import metrics as ray_metrics

        tags = {"run_id": run_id, "model": model}
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            name, said, keys = PREFIX + metric.name, metric.description, (*tags, *metric.tags)
            if metric.kind == "counter":
                made: Any = ray_metrics.Counter(name, said, keys)
            elif metric.kind == "gauge":
                made = ray_metrics.Gauge(name, said, keys)
            else:
                made = ray_metrics.Histogram(name, said, list(metric.boundaries), keys)
            made.set_default_tags(tags)
            self._metrics[metric.name] = made
        self._before: dict[tuple[str, ...], float] = {}
        self._hours_per_hour = hours_per_hour
        self._second = self._observed = 0

    def snapshot(self, progress: Progress) -> None:
        for name, value in _GROWING.items():
            self._grow(name, {}, value(progress))
        for (name, tag, tagged), value in _TAGGED.items():
            self._grow(name, {tag: tagged}, value(progress))
        for name, value in _LEVELS.items():
            self._metrics[name].set(value(progress))
        if (rate := self._hours_per_hour()) is not None:
            self._metrics["hours_per_hour"].set(rate)
        if (imbalance := expert_imbalance(progress.model)) is not None:
            self._metrics["expert_imbalance"].set(imbalance)

    def event(self, event: FlowEvent) -> None:
        if event.kind in _FAILURES:
            self._metrics["failures_total"].inc(1, {"stage": event.stage, "kind": event.kind})

    def traced(self, trace: WindowTrace) -> None:
        second = trace.answered_us // 1_000_000
        self._second, self._observed = second, self._observed + 1 if second == self._second else 1
        if self._observed > OBSERVED:
            return
        seconds = self._metrics["window_seconds"]
        queued_s = max(0, trace.sent_us - trace.decoded_us) / 1e6
        for stage, took_s in (("decode", trace.decode_s), ("queue", queued_s), ("model", trace.model_s)):
            seconds.observe(took_s, {"stage": stage})

    def recorded(self, trace: VideoTrace) -> None:
        pass

    def _grow(self, name: str, tags: Mapping[str, str], value: float) -> None:
        """Let a counter follow a number: what it has grown by since the last time."""
        key = (name, *tags.values())
        grown = value - self._before.get(key, 0.0)
        if grown > 0:
            self._metrics[name].inc(grown, dict(tags))
            self._before[key] = value
