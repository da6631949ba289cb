"""The Ray cluster of a run: the one that is there, or a quiet one of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

# Read by Ray when it is imported: leave CUDA_VISIBLE_DEVICES of tasks without GPUs alone; nothing is reported home.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray._private.worker as ray_worker

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Cluster:
    """`resources` as `ray.cluster_resources()` says. `ours`: started here, for this run alone."""

    resources: dict[str, float]
    ours: bool


@contextlib.contextmanager
def cluster(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address` (or $RAY_ADDRESS), else start one on this machine and end it afterwards.

    A Ray that this process is already connected to is used as it is. `cpus`: for a cluster of our own; the default is
    every CPU that this process may use, and 2 at least. Raises UsageError where no cluster answers at `address`.
    """
    if ray.is_initialized():
        yield Cluster(ray.cluster_resources(), ours=False)
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    ours = address in (None, "local")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Deaths of workers are the flow's to handle and to tell; Ray would also print them on this terminal.
    ray_worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        if ours:
            start_local(cpus)
        else:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--address {address or 'local'}: no Ray cluster: {first}") from error
    try:
        yield Cluster(ray.cluster_resources(), ours)
    finally:
        ray.shutdown()


def start_local(cpus: int | None = None) -> None:
    """Start a Ray cluster on this machine for this process, which says nothing and ends with it."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=cpus or max(2, len(os.sched_getaffinity(0))),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
