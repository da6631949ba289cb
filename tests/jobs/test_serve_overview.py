"""What the overview of an archive reads of its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.serve import archive as served
from jobs.serve.archive import Archive
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
