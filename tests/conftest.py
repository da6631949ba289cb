"""What all tests share: one Ray instance, small clips, a log read without our own code, and the reference videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes share the cores: torch's own threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


#: Folders and files whose tests start Ray, or use the one that a test started,
RAY = (
    "tests/system/",
    "tests/workers/",
    "tests/jobs/test_demo_command.py",
    "tests/jobs/test_forecast.py",
    "tests/jobs/test_orphan.py",
    "tests/jobs/test_run.py",
    "tests/jobs/test_submit.py",
)
#: and those whose Ray is in a process of its own.
APART = ("tests/system/test_faults.py", "tests/system/test_long_video.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts Ray first: it takes longest. Of two processes (`make test`) one does all of that but what is apart,
    with which the other begins."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a process a file at a time, and all that starts Ray to one of them."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return (
                "ray" if nodeid.startswith(RAY) and not nodeid.startswith(APART) else str(super()._split_scope(nodeid))
            )

    return Files(config, log)


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of reference videos (../shared/videos); skips where it is absent."""
    folder = SHARED / "videos"
    if not folder.is_dir():
        pytest.skip("reference videos (../shared/videos) are not here")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray instance for the whole test session: starting one takes seconds."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=1_000_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


MakeClip = Callable[..., Path]
ReadLog = Callable[[Path, str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def make_clip() -> MakeClip:
    """make_clip(path, seconds=6, seed=0): an H.264 clip of 64x48 at 5 fps whose colour changes with every frame."""

    import av
    import numpy as np

    def make(path: Path, seconds: float = 6, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=5, options={"g": "10", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.thread_count = 1
            for _ in range(round(5 * seconds)):
                picture = np.tile(random.integers(0, 255, 3, np.uint8), (48, 64, 1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path

    return make


@pytest.fixture(scope="session")
def read_log() -> ReadLog:
    """read_log(log, table): the rows of one of the log's tables, by delta-rs and pyarrow alone."""

    import deltalake
    import pyarrow.parquet as pq

    def read(log: Path, table: str) -> list[dict[str, Any]]:
        files = deltalake.DeltaTable(str(log)).file_uris([("record", "=", table)])
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    return read
