"""Two replicas of two ranks watch an archive; one rank is killed in the middle; the log is whole."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import deltalake
import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jobs.run import configure, run  # noqa: E402
from jobs.watch import _counted_before  # noqa: E402
from model.registry import find_model  # noqa: E402
from pipeline.archive import fingerprint  # noqa: E402
from pipeline.decode import decode_windows  # noqa: E402
from pipeline.log import EventLog  # noqa: E402
from pipeline.probe import probe  # noqa: E402
from pipeline.reduce import reduce_events  # noqa: E402
from pipeline.video import Source  # noqa: E402
from tests.model import tiny_qwen  # noqa: E402
from workers.flow import Progress  # noqa: E402


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 8, 11 and 14 seconds, every frame another colour."""
    folder = tmp_path_factory.mktemp("archive")
    for number, seconds in enumerate((8, 11, 14)):
        random = np.random.default_rng(number)
        with av.open(str(folder / f"clip{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=4, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = 96, 64, "yuv420p", 1
            for _ in range(4 * seconds):
                picture = np.tile(random.integers(0, 255, (2, 3, 3), np.uint8), (32, 32, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny mixture of experts of random weights, and a prompt file."""
    root = tmp_path_factory.mktemp("checkpoint")
    (root / "short.toml").write_text(tiny_qwen.PROMPT_2S)
    return str(tiny_qwen.save(root / "moe", "moe", seed=3)), str(root / "short.toml")


def ranks_of_this_session() -> list[int]:
    """Process ids of the ranks that this test session's Ray runs; other sessions on the machine are left alone."""
    import ray

    session = os.path.basename(ray._private.worker._global_node.get_session_dir_path())
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"ray::_Rank" in (entry / "cmdline").read_bytes():
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if session.encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def rows(log: Path, table: str) -> list[dict[str, Any]]:
    """Rows of one of the log's tables, without our own code."""
    files = deltalake.DeltaTable(str(log)).file_uris([("record", "=", table)])
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


@pytest.mark.usefixtures("ray_session")
def test_a_killed_rank_leaves_the_log_whole(archive: Path, checkpoint: tuple[str, str], tmp_path: Path) -> None:
    model, prompt = checkpoint
    settings = {"max_new_tokens": 64, "batch_windows": 1, "prompt": prompt}
    killed: list[int] = []
    deaths: list[int] = []

    def kill_one(progress: Progress) -> None:
        """Kill a rank when both replicas are up and work is left; the driver is held up so that this can be met."""
        deaths.append(progress.replica_deaths)
        if killed or not progress.replicas:
            return
        if progress.replicas == 2 and progress.windows:
            killed.append(ranks_of_this_session()[0])
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(2.0 if killed else 0.5)

    log = tmp_path / "log"
    summary = run(str(archive), str(log), model, settings=settings, ranks=2, replicas=2, on_progress=kill_one)
    assert (summary.videos, summary.failed, summary.quarantined) == (3, 0, 0), summary.failures
    assert killed and max(deaths) == 1

    # What the ranks counted is in the run's row, and the next run can place its experts by it.
    (row,) = rows(log, "runs")
    routing = json.loads(row["totals"])["model"]["routing"]
    assert np.asarray(routing["tokens"]).shape == (4, 8) and routing["bytes_sent"] > 0
    assert 1 <= routing["rank_imbalance"] <= 2 and routing["expert_imbalance"] >= routing["rank_imbalance"]
    assert set(routing["seconds"]) == {"dispatch", "compute", "combine"}
    counted = partial(_counted_before, EventLog.open(str(log)), row["weights_hash"])
    wish = {**settings, "ranks": 2, "expert_placement": "measured"}
    placed = find_model(model).for_cluster(wish, {}, counted)  # type: ignore[attr-defined]
    assert placed["expert_load"] == routing["tokens"]

    # What one process says that watches each clip alone.
    factory = find_model(model)
    profile = factory.profile(settings)
    config, watcher = configure(profile), factory.load(settings)
    videos, events, windows = (rows(log, table) for table in ("videos", "events", "windows"))
    assert len(videos) == 3 and all(video["status"] == "done" for video in videos)
    for clip in sorted(archive.glob("*.mp4")):
        source = Source(str(clip), clip.stat().st_size)
        video = probe(source.uri, source.size_bytes, fingerprint(source), (source.uri,))
        count = config.windowing.count(video.duration_us)
        planned = [config.windowing.window(video.video_id, i, video.duration_us) for i in range(count)]
        answers = watcher.watch(list(decode_windows(video, planned, config.sampling)))
        expected = reduce_events(answers, profile.rules, video.duration_us).events
        assert expected
        mine = [e for e in events if e["video_id"] == video.video_id]
        said = sorted((e["start_us"], e["end_us"], e["kind"], e["text"]) for e in mine)
        assert said == sorted((e.start_us, e.end_us, e.kind, e.text) for e in expected)
        assert sorted(w["window"] for w in windows if w["video_id"] == video.video_id) == list(range(count))
