"""k8s/*/run: a run's cluster grows to what its manifest allows, by what the run asks Ray's autoscaler for."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs import run
from model import signals
from model.interface import ModelIdentity, ModelProfile
from tests.k8s.autoscaler import grown
from tests.k8s.kustomize import build
from tests.k8s.schema import groups_of
from workers.shares import room_for, share_out

K8S = Path(__file__).resolve().parents[2] / "k8s"


def _job(folder: str) -> tuple[dict[str, Any], argparse.Namespace, ModelProfile]:
    """The RayJob, the options of its run, and the profile of the model that they name."""
    objects = {o["kind"]: o for o in build(K8S / folder)}
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    options = objects["ConfigMap"]["data"]["SECONDSIGHT_OPTIONS"]
    args = parser.parse_args(["ARCHIVE", "--log", "LOG", *shlex.split(options)])
    if args.model == "signals":
        return objects["RayJob"], args, signals.profile({})
    assert "device=cuda" in args.settings  # also while no GPU is there yet
    return objects["RayJob"], args, ModelProfile(ModelIdentity(args.model, ""), gpus=1.0, ranks=args.ranks)


@pytest.mark.parametrize(("folder", "grows"), [("run", "decode"), ("overlays/gpu/run", "gang")])
def test_a_run_grows_to_the_largest_cluster_and_never_asks_for_more(folder: str, grows: str) -> None:
    job, args, profile = _job(folder)
    largest = {name: group["maxReplicas"] for name, group in groups_of(job) if name != "head"}
    assert args.max_replicas and args.replicas == "auto"
    for decode_s in (None, 0.01, 1.0, 100.0):  # beside 1 s of a replica, for a window
        pods = grown(job, room_for(args.max_replicas, profile, decode_s, 1.0))
        assert pods, f"decoders of {decode_s} s are more than the cluster can hold: nothing is started"
        assert all(count <= largest[name] for name, count in pods.items())
        if grows == "gang":
            assert pods["gang"] == largest["gang"]
    assert pods[grows] == largest[grows]
    more = grown(job, room_for(args.max_replicas + 1, profile, 100.0, 1.0))
    assert not more or set(more) != set(pods)  # does not fit, or would take pods of another kind


def test_on_a_laptop_there_is_nothing_to_grow() -> None:
    job, args, _ = _job("overlays/kind/run")
    assert args.max_replicas is None and {g["maxReplicas"] for n, g in groups_of(job) if n != "head"} == {1}


def test_replicas_take_the_half_of_the_largest_cluster_that_decoders_leave() -> None:
    job, args, profile = _job("run")
    (decode,) = [group for name, group in groups_of(job) if name == "decode"]
    cpus = int(decode["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) * decode["maxReplicas"]
    shares = share_out({"CPU": cpus}, profile, elastic=True, max_replicas=args.max_replicas)
    assert shares.replicas == args.max_replicas and shares.decoders == cpus - shares.replicas


def test_decoders_of_a_served_model_are_not_bound_to_its_replicas() -> None:
    served = ModelProfile(ModelIdentity("served", ""), most_replicas=2)
    assert room_for(2, served, 3.0, 0.1) == [{"CPU": 1.0}] * 62
    assert room_for(2, ModelProfile(ModelIdentity("own", "")), 3.0, 0.1) == [{"CPU": 1.0}] * 4
    assert room_for(0, served, 3.0, 0.1) == []
