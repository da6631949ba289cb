"""A served log for the tests of the service, and a client that asks it in process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.jobs.serving import Served, make_served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_clip: Any) -> Served:
    return make_served(tmp_path_factory.mktemp("served"), make_clip)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    from jobs.serve.app import create_app
    from jobs.serve.settings import LOOPBACK, Settings

    TestClient = pytest.importorskip("fastapi.testclient").TestClient
    with TestClient(create_app(Settings(str(served.log), hosts=LOOPBACK)), base_url="http://127.0.0.1") as client:
        yield client
