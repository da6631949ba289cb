"""The Ray cluster of a run: the one that is there, or a quiet one of our own on this machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Read by Ray when it is imported: leave CUDA_VISIBLE_DEVICES of tasks without GPUs alone; nothing is reported home.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A node gives its agents so long to come up before it ends: by default too short where others use the machine.
os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")

import ray
import ray._private.services as ray_services
import ray._private.worker as ray_worker

from pipeline.errors import SecondsightError, UsageError

START_S = 120.0  # for a node of ours to come up; Ray itself gives it 30 s, too few where others use the machine


@dataclass(frozen=True, slots=True)
class Cluster:
    """`resources` as `ray.cluster_resources()` says. `ours`: started here, for this run alone."""

    resources: dict[str, float]
    ours: bool


@contextlib.contextmanager
def cluster(address: str | None = None, cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to the cluster at `address` (or $RAY_ADDRESS), else start one on this machine and end it afterwards.

    A Ray that this process is already connected to is used as it is. `cpus`: for a cluster of our own; the default is
    every CPU that this process may use, and 2 at least. Raises UsageError where no cluster answers at `address`,
    SecondsightError where none can be started.
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
    except Exception as error:  # of no common type: Ray raises a bare Exception where its node does not come up
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if ours:
            raise SecondsightError(f"Ray cannot be started on this machine: {first} (its logs: /tmp/ray)") from error
        raise UsageError(f"--address {address}: no Ray cluster: {first}") from error
    try:
        yield Cluster(ray.cluster_resources(), ours)
    finally:
        ray.shutdown()


def start_local(cpus: int | None = None) -> None:
    """Start a Ray cluster on this machine for this process, which says nothing and ends with it."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    be_patient()
    ray.init(
        address="local",
        num_cpus=cpus or max(2, len(os.sched_getaffinity(0))),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


def be_patient() -> None:
    """From now on, nodes that this process starts have `START_S` to come up."""
    if not hasattr(ray_services.get_node, "__wrapped__"):
        ray_services.get_node = _patient(ray_services.get_node)


def _patient(get_node: Any) -> Any:
    @functools.wraps(get_node)
    def get_node_patiently(*args: Any, **kwargs: Any) -> Any:
        until = time.monotonic() + START_S
        while True:
            try:
                return get_node(*args, **kwargs)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    return get_node_patiently
