"""A whole run, watched from outside: by Prometheus, reading the metrics page of Ray, and by a collector of traces."""

from __future__ import annotations

import gzip
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

parser = pytest.importorskip("prometheus_client.parser")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from workers.metrics import METRICS, PREFIX  # noqa: E402

BOARD = Path(__file__).parents[2] / "k8s" / "monitoring" / "grafana-dashboard.json"
RARE = {"nodes_lost_total", "replica_deaths_total", "retries_total", "expert_imbalance", "tokens_total"}  # not here

# A head of its own, whose metrics page is open; it stays until its standard input ends.
RUN = """
import sys
archive, log, port, collector = sys.argv[1:]
import workers.cluster
workers.cluster.be_patient()
import ray
ray.init(
    address="local", num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False,
    _metrics_export_port=int(port), _system_config={"metrics_report_interval_ms": 500},
)
from jobs.watch import run
settings = {"fps": 2, "window_s": 2, "overlap_s": 0, "short_side": 32}
run(archive, log, "python:jobs.bench.models:colours", settings=settings, replicas=1, trace=collector)
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector over HTTP on loopback; yields its URL and the spans that it has got."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def scrape(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of our metrics on Ray's page, by name without prefixes: (labels, value). {} where none answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            families = list(parser.text_string_to_metric_families(page.read().decode()))
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {}
    found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in families:
        for sample in family.samples:
            if sample.name.startswith(f"ray_{PREFIX}"):
                found[sample.name.removeprefix(f"ray_{PREFIX}")].append((sample.labels, sample.value))
    return found


def value(page: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(v for found, v in page.get(name, ()) if labels.items() <= found.items())


def test_a_run_is_seen_by_prometheus_and_a_collector_of_traces(tmp_path: Path, make_clip: Any, read_log: Any) -> None:
    archive, log = tmp_path / "archive", tmp_path / "log"
    for number, seconds in enumerate((4, 7)):
        make_clip(archive / f"clip{number}.mp4", seconds, number)
    (archive / "broken.mp4").write_text("no video")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with collector() as (url, spans):
        command = [sys.executable, "-c", RUN, str(archive), str(log), str(port), url]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said == "done\n", said
            windows, videos = read_log(log, "windows"), read_log(log, "videos")
            until = time.monotonic() + 60
            while value(page := scrape(port), "videos_total") < len(videos) and time.monotonic() < until:
                time.sleep(0.5)
        finally:
            process.communicate("")

    assert len(windows) == 6 and len(videos) == 3
    (run,) = read_log(log, "runs")
    totals = json.loads(run["totals"])
    assert value(page, "windows_total", run_id=run["run_id"]) == value(page, "windows_known") == len(windows)
    assert value(page, "videos_total", status="done") == 2 and value(page, "videos_total", status="failed") == 1
    assert value(page, "videos_found") == 3
    assert value(page, "events_total") == len(read_log(log, "events")) > 0
    assert value(page, "frames_total") == sum(len(w["frame_us"]) for w in windows)
    assert value(page, "video_seconds_total") == pytest.approx(totals["video_us"] / 1e6)
    assert value(page, "decode_seconds_total") == pytest.approx(sum(w["decode_s"] for w in windows))
    assert value(page, "model_seconds_total") == pytest.approx(sum(w["model_s"] for w in windows))
    assert value(page, "failures_total", stage="identify", kind="failed") == 1
    assert value(page, "queue_bytes") == 0 < value(page, "queue_budget_bytes")
    for stage in ("decode", "queue", "model"):
        assert value(page, "window_seconds_count", stage=stage) == len(windows)

    # What the dashboard asks for is on the page, but for what did not happen in this run.
    asked = set(re.findall(rf"\bray_{PREFIX}(\w+)", BOARD.read_text()))
    assert asked and asked - set(page) - RARE <= {"hours_per_hour"}
    assert {m.name for m in METRICS if m.kind != "histogram"} - set(page) <= RARE | {"hours_per_hour"}

    # One trace for each window, from its decoding to the commit of its video.
    of_trace: dict[bytes, dict[str, Any]] = defaultdict(dict)
    for span in spans:
        of_trace[span.trace_id][span.name] = span
    ways = [way for way in of_trace.values() if "window" in way]
    assert len(ways) == len(windows)
    seen = set()
    for way in ways:
        assert set(way) == {"window", "decode", "queue", "watch", "model", "reduce", "commit"}
        facts = {a.key: a.value.string_value or a.value.int_value for a in way["window"].attributes}
        seen.add((facts["secondsight.video_id"], facts["secondsight.window"]))
        assert all(span.parent_span_id for name, span in way.items() if name != "window")
        order = [way[name] for name in ("decode", "queue", "watch", "reduce", "commit")]
        assert all(a.end_time_unix_nano <= b.start_time_unix_nano for a, b in pairwise(order))
    assert seen == {(w["video_id"], w["window"]) for w in windows}
    assert [s.name for s in spans if s.name == "failed"] == ["failed"]  # the file that is no video
