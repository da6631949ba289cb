"""What collectors get of a run: JSON lines, and spans that a collector of OpenTelemetry understands."""

from __future__ import annotations

import http.server
import io
import json
import logging
import threading
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.live import Stuck
from workers.journal import Journal
from workers.report import FlowEvent, Progress, VideoTrace, WindowTrace

TRACE = WindowTrace(
    video_id="a" * 32, window=3, start_us=45_000_000, end_us=61_000_000, attempt=2, decode_node="node-1",
    replica="replica-2", decode_s=0.5, model_s=1.5,
    decoded_us=1_700_000_000_000_000, sent_us=1_700_000_001_000_000, answered_us=1_700_000_003_000_000,
)  # fmt: skip
DIED = FlowEvent("replica_died", "watch", "window 3", "replica-2", "its process died", 1_700_000_000_123_000)


def test_the_journal_is_json_lines_in_order() -> None:
    out = io.StringIO()
    journal = Journal("run-1", out, interval_s=1000.0)
    journal.begin({"model": "signals"})
    progress = Progress(windows=4, stuck=(Stuck("decode", "x", "", 1),), failures=[("a", "b")], listed=True)
    journal.snapshot(progress)
    journal.snapshot(progress)  # too soon
    journal.event(DIED)
    journal.end(progress, "failed", "no replica\nat all")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("run_began", "info"), ("progress", "info"), ("replica_died", "warning"), ("run_ended", "error"),
    ]  # fmt: skip
    assert all(line["run_id"] == "run-1" and line["time"].endswith("+00:00") for line in lines)
    assert lines[2]["time"] == "2023-11-14T22:13:20.123+00:00" and lines[2]["where"] == "replica-2"
    assert lines[1]["windows"] == 4 and "stuck" not in lines[1] and lines[3]["note"] == "no replica\nat all"


def test_a_windows_way_reaches_an_otlp_collector() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from workers.tracing import TraceReport

    got: list[ExportTraceServiceRequest] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = TraceReport("run-1", "signals", f"http://127.0.0.1:{server.server_port}")
        report.traced(TRACE)
        report.event(DIED)
        report.recorded(VideoTrace("b" * 32, 1, (0, 1), (1, 2)))  # of which no window was watched
        at = TRACE.answered_us
        report.recorded(VideoTrace(TRACE.video_id, 2, (at + 500_000, at + 1_000_000), (at + 2_000_000, at + 3_000_000)))
        report.end()
        server.shutdown()
    resource = {a.key: a.value.string_value for a in got[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "secondsight" and resource["secondsight.run_id"] == "run-1"
    spans = {
        s.name: s for request in got for r in request.resource_spans for scope in r.scope_spans for s in scope.spans
    }
    second = 1_000_000_000
    times = {
        n: (s.start_time_unix_nano / second - 1.7e9, s.end_time_unix_nano / second - 1.7e9) for n, s in spans.items()
    }
    assert times.pop("replica_died")[0] == pytest.approx(0.123)
    assert times == {
        "window": (-0.5, 3.0), "decode": (-0.5, 0.0), "queue": (0.0, 1.0), "watch": (1.0, 3.0), "model": (1.5, 3.0),
        "reduce": (3.5, 4.0), "commit": (5.0, 6.0),
    }  # fmt: skip
    window = spans["window"]
    assert not window.parent_span_id
    parents = {**dict.fromkeys(("decode", "queue", "watch", "reduce", "commit"), "window"), "model": "watch"}
    for name, parent in parents.items():
        assert (spans[name].trace_id, spans[name].parent_span_id) == (window.trace_id, spans[parent].span_id)
    facts = {a.key: a.value.string_value or a.value.int_value for a in window.attributes}
    assert (facts["secondsight.window"], facts["secondsight.start_us"], facts["secondsight.attempt"]) == (
        3,
        45_000_000,
        2,
    )


def test_spans_in_a_file_and_a_file_that_cannot_be(tmp_path: Path) -> None:
    from workers.tracing import TraceReport

    report = TraceReport("run-1", "signals", str(tmp_path / "new" / "spans.jsonl"))
    report.traced(TRACE)
    report.end()
    spans = [json.loads(line) for line in (tmp_path / "new" / "spans.jsonl").read_text().splitlines()]
    assert sorted(s["name"] for s in spans) == ["decode", "model", "queue", "watch", "window"]
    with pytest.raises(UsageError, match="cannot be written"):
        TraceReport("run-1", "signals", str(tmp_path))


def test_what_python_logs_meanwhile_is_a_line_like_the_others() -> None:
    out = io.StringIO()
    handler, logger = Journal("run-1", out).handler(), logging.getLogger("tests.some.library")
    logger.addHandler(handler)
    try:
        logger.info("not that")
        logger.warning("the log is %s", "full")
        try:
            raise OSError("no\nspace")
        except OSError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["event"], first["level"], first["message"]) == ("log", "warning", "the log is full")
    assert first["logger"] == "tests.some.library" and first["run_id"] == "run-1"
    assert (second["level"], second["error"]) == ("error", "OSError: no\nspace")
