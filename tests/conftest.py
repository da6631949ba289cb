"""What all tests share: one Ray instance, and the reference videos where they lie beside the checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
