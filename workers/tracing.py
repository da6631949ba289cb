"""A window's way through the house as OpenTelemetry spans: decoded, waiting, watched, reduced, committed.

One trace per window: the span "window" from the beginning of its decoding to its answer, with the children "decode",
"queue" (its frames wait for a replica) and "watch" (away at the replica, with "model" inside, by the model's account);
after it, when the rest of its video is there, "reduce" and "commit", which it shares with the video's other windows.
Times are the driver's clock; decoding and the model's time are placed so that they end when their stage did.
Sampling and everything else by the usual environment (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, ...).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from workers.report import FlowEvent, Progress, VideoTrace, WindowTrace

FLUSH_MS = 10_000  # the longest that the end of a run waits for its last spans to leave


class TraceReport:
    """A `workers.report.FlowObserver` that sends the spans of each window to a collector, or writes them to a file."""

    wants_traces = True

    def __init__(self, run_id: str, model: str, target: str) -> None:
        """`target`: "otlp" (the collector that $OTEL_EXPORTER_OTLP_ENDPOINT names, else http://localhost:4318), a
        collector's http(s) URL, or a file for spans as JSON lines. Raises UsageError where that cannot be."""
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UsageError(f"--trace needs OpenTelemetry: pip install 'secondsight[trace]' ({error})") from error
        resource = Resource.create(
            {"service.name": "secondsight", "secondsight.run_id": run_id, "secondsight.model": model}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(target)))
        self._tracer = self._provider.get_tracer("secondsight")
        self._windows: dict[str, list[Any]] = {}  # contexts of the windows of videos that are not in the log yet

    def snapshot(self, progress: Progress) -> None:
        pass

    def event(self, event: FlowEvent) -> None:
        """What goes wrong is a span of its own, without length, so that it can be searched for beside the windows."""
        facts = {"what": event.what, "where": event.where, "detail": event.detail, "stage": event.stage}
        span = self._tracer.start_span(
            event.kind, start_time=event.at_us * 1000, attributes={f"secondsight.{k}": v for k, v in facts.items() if v}
        )
        span.end(event.at_us * 1000)

    def traced(self, trace: WindowTrace) -> None:
        from opentelemetry.trace import NonRecordingSpan, set_span_in_context

        decode_us, model_us = round(trace.decode_s * 1e6), round(trace.model_s * 1e6)
        began_us = trace.decoded_us - decode_us
        window = self._tracer.start_span(
            "window",
            start_time=began_us * 1000,
            attributes={
                "secondsight.video_id": trace.video_id,
                "secondsight.window": trace.window,
                "secondsight.start_us": trace.start_us,
                "secondsight.end_us": trace.end_us,
                "secondsight.attempt": trace.attempt,
            },
        )
        within = set_span_in_context(NonRecordingSpan(window.get_span_context()))
        self._windows.setdefault(trace.video_id, []).append(within)
        self._span("decode", began_us, trace.decoded_us, within, {"secondsight.node": trace.decode_node})
        self._span("queue", trace.decoded_us, trace.sent_us, within, {})
        watch = self._span("watch", trace.sent_us, trace.answered_us, within, {"secondsight.replica": trace.replica})
        model_began_us = max(trace.sent_us, trace.answered_us - model_us)
        self._span("model", model_began_us, trace.answered_us, set_span_in_context(watch), {})
        window.end(trace.answered_us * 1000)

    def recorded(self, trace: VideoTrace) -> None:
        for within in self._windows.pop(trace.video_id, ()):
            self._span("reduce", *trace.reduced_us, within, {})
            self._span("commit", *trace.committed_us, within, {})

    def end(self) -> None:
        """Send what is left."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()

    def _span(self, name: str, start_us: int, end_us: int, within: Any, attributes: dict[str, str]) -> Any:
        span = self._tracer.start_span(name, within, start_time=start_us * 1000, attributes=attributes)
        span.end(max(start_us, end_us) * 1000)
        return span


def _exporter(target: str) -> Any:
    if target != "otlp" and not target.startswith(("http://", "https://")):
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            return _file_exporter(open(target, "a", encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--trace {target}: cannot be written: {error.strerror}") from error
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise UsageError(f"--trace {target} needs an exporter: pip install 'secondsight[trace]' ({error})") from error
    if target == "otlp":
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=target if "/v1/" in target else f"{target.rstrip('/')}/v1/traces")


def _file_exporter(out: IO[str]) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class FileExporter(SpanExporter):
        """Spans as JSON lines."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                out.write(json.dumps(json.loads(span.to_json(indent=None))) + "\n")
            out.flush()
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            out.close()

    return FileExporter()
