"""What the tests of the flow share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_clip: Any) -> Path:
    """Three clips of different length."""
    folder = tmp_path_factory.mktemp("archive")
    for number, seconds in enumerate((6, 3, 9)):
        make_clip(folder / f"clip{number}.mp4", seconds, number)
    return folder


@pytest.fixture(scope="module")
def clips(archive: Path) -> list[Path]:
    return sorted(archive.glob("*.mp4"))
