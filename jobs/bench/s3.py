"""Where a benchmark puts its log: a folder, or an S3 server of its own on loopback (moto).

moto looks whether an object is there and writes it in two steps, so that two conditional puts at the same time can both
be granted (log_grants.py counts them); S3 grants one. The server here takes conditional puts one after the other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def storage(kind: str, folder: Path) -> Iterator[str]:
    """Where to put the log: a folder, or a bucket of an S3 server started here."""
    if kind == "disk":
        yield str(folder / "log")
        return
    with s3_server() as bucket:
        yield f"{bucket}/log"


@contextlib.contextmanager
def s3_server(plain: bool = False) -> Iterator[str]:
    """A moto server in a process of its own, on loopback; yields the URI of a bucket, the environment set for it.
    `plain`: as moto is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    command = [sys.executable, "-m", "jobs.bench.s3", str(port), *(["plain"] if plain else [])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(settings)
    _forget_file_systems()
    try:
        import boto3

        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the S3 server did not start")
            time.sleep(0.1)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="secondsight")
        yield "s3://secondsight"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _forget_file_systems()


def _forget_file_systems() -> None:
    """fsspec keeps each file system with the endpoint that it was made for."""
    import fsspec

    kinds: list[Any] = [fsspec.AbstractFileSystem]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind.clear_instance_cache()


def serve(port: int, plain: bool) -> None:
    """Serve S3 on loopback until killed."""
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if (
            not plain
            and environ.keys() & {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"}
            and environ["REQUEST_METHOD"] == "PUT"
        ):
            with one_at_a_time:
                return moto(environ, start_response)
        return moto(environ, start_response)

    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    serve(int(sys.argv[1]), plain="plain" in sys.argv[2:])
