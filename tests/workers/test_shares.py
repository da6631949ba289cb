"""How machines are shared out."""

from __future__ import annotations

import pytest

from model.interface import ModelIdentity, ModelProfile
from workers.shares import FRAMES_BYTES, FRAMES_PART, share_out

CPU_MODEL = ModelProfile(ModelIdentity("m", "w"), cpus=1.0)
GPU_GANG = ModelProfile(ModelIdentity("m", "w"), cpus=2.0, gpus=1.0, ranks=4)
STORE = {"object_store_memory": 2.0**40}


@pytest.mark.parametrize(
    ("cpus", "replicas", "decoders", "decode_cpus"),
    [(1, 1, 1, 0.0), (2, 1, 1, 1.0), (4, 2, 2, 1.0), (16, 8, 8, 1.0)],
)
def test_a_cpu_model_leaves_half_of_the_cpus_to_decoding(
    cpus: int, replicas: int, decoders: int, decode_cpus: float
) -> None:
    shares = share_out({"CPU": cpus, **STORE}, CPU_MODEL)
    assert (shares.replicas, shares.decoders, shares.decode_cpus) == (replicas, decoders, decode_cpus)
    assert shares.replicas * shares.replica_cpus + shares.decoders * shares.decode_cpus <= cpus


def test_every_gang_of_gpus_that_fits_becomes_a_replica() -> None:
    shares = share_out({"CPU": 64, "GPU": 11, **STORE}, GPU_GANG)
    assert (shares.replicas, shares.decoders) == (2, 64 - 2 * 4 * 2)
    assert shares.needs == "8 CPUs and 4 GPUs in 4 processes"


def test_more_replicas_than_cpus_share_them_here_and_wait_for_more_on_a_cluster_that_grows() -> None:
    here = share_out({"CPU": 2, **STORE}, CPU_MODEL, replicas=4)
    assert (here.replicas, here.replica_cpus, here.decoders) == (4, 0.0, 2)
    grows = share_out({"CPU": 2, **STORE}, CPU_MODEL, replicas=4, elastic=True)
    assert (grows.replicas, grows.replica_cpus, grows.decoders, grows.decode_cpus) == (4, 1.0, 1, 0.0)


def test_frames_in_flight_are_bounded_by_the_store_and_by_the_work() -> None:
    assert share_out({"CPU": 2, "object_store_memory": 100e6}, CPU_MODEL).budget_bytes == int(FRAMES_PART * 100e6)
    assert share_out({"CPU": 2, **STORE}, CPU_MODEL).budget_bytes == 2 * FRAMES_BYTES
