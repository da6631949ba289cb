"""What the overview of an archive reads of its log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.serve import archive as served
from jobs.serve.app import create_app
from jobs.serve.archive import Archive
from jobs.serve.settings import LOOPBACK, Settings
from pipeline.log import EventLog
from pipeline.log.localstore import LocalStore
from tests.pipeline.logs import run_record, video_id, video_result


def data_files(log: Path) -> set[str]:
    return {str(path.relative_to(log)) for path in log.glob("record=*/*.parquet")}


@pytest.mark.parametrize("held", [served.HELD_ROWS, 0])
def test_a_grown_log_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    read, seen = LocalStore.read, list[str]()

    def noting(self: LocalStore, path: str, start: int = 0, length: int | None = None) -> bytes:
        seen.extend([path] if path.startswith("record=") else [])
        return read(self, path, start, length)

    monkeypatch.setattr(LocalStore, "read", noting)
    monkeypatch.setattr(served, "HELD_ROWS", held)
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.commit([video_result("a.mp4"), video_result("bad.mp4", status="failed", reason="corrupt: no frame")])
    archive = Archive(log.uri)
    seen.clear()
    facts = archive.facts()
    assert (facts.overview["done"], facts.overview["failed"], facts.overview["events"]) == (1, 1, 2)
    before = data_files(tmp_path / "log")
    needed = {path for path in before if not path.startswith("record=windows/")}
    assert sorted(seen) == sorted(needed), "each file once, of windows none"
    log.commit([video_result("b.mp4")])
    new = data_files(tmp_path / "log") - before
    archive._facts = None
    seen.clear()
    facts = archive.facts()
    assert (facts.overview["done"], facts.overview["events"], facts.overview["runs"]) == (2, 4, 1)
    assert sorted(seen) == sorted(path for path in new if not path.startswith("record=windows/"))
    seen.clear()
    assert facts.rows("select events from videos where video_id = ?", [video_id("b.mp4")]) == [{"events": 2}]
    assert facts.rows("select count(*) as n from events where run_id = 'run-1'") == [{"n": 4}] and not seen


def test_a_video_is_listed_by_any_of_its_names(tmp_path: Path) -> None:
    TestClient = pytest.importorskip("fastapi.testclient").TestClient
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    log.commit([replace(video_result("a.mp4"), uris=("/archive/a.mp4", "/copies/First light.mp4"))])
    log.commit([video_result("b.mp4"), video_result("c.mp4")])
    log.begin_run(run_record("run-2", "c2"))
    log.commit([replace(video_result("b.mp4", run_id="run-2", config_hash="c2"), uris=("/moved/dusk.mp4",))])
    log.record_names({video_id("c.mp4"): ["/later/100%_noon.mp4"]})
    with TestClient(create_app(Settings(log.uri, hosts=LOOPBACK)), base_url="http://127.0.0.1") as client:
        for wanted, name in (
            ("first LIGHT", "a.mp4"), ("b.mp4", "b.mp4"), ("dusk", "b.mp4"), ("100%_noon", "c.mp4"),
            (video_id("c.mp4")[:9], "c.mp4"), ("a_mp4", None), ("100%noon", None), ("night", None),
        ):  # fmt: skip
            answer = client.get("/api/videos", params={"q": wanted}).json()
            assert [v["video_id"] for v in answer["videos"]] == [video_id(name)] * (name is not None), wanted
            assert answer["total"] == len(answer["videos"])
