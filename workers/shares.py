"""How a cluster's CPUs, GPUs and object store are shared between replicas, decoders and frames in flight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.interface import ModelProfile

FRAMES_BYTES = 256 << 20  # of frames in flight for each replica and each decoder, at most
FRAMES_PART = 0.4  # of the object store, at most: it also holds what is being written and read
GPU_DECODERS = 8  # for each GPU, that the autoscaler is asked for at most
MOST_DECODERS = 10_000


@dataclass(frozen=True, slots=True)
class Shares:
    """Who gets what. `replica_cpus`: reserved by each process of a replica; `decode_cpus`: by each decode task;
    0 where they must make do with what is left. `needs`: what one replica takes, for people."""

    replicas: int
    replica_cpus: float
    decoders: int
    decode_cpus: float
    identifiers: int
    budget_bytes: int
    needs: str


def share_out(
    resources: Mapping[str, float],
    profile: ModelProfile,
    replicas: int | None = None,
    elastic: bool = False,
    max_replicas: int | None = None,
) -> Shares:
    """Share a cluster's `resources` (as `ray.cluster_resources()` says).

    `replicas`: how many; None: one for every GPU gang that fits, on CPUs as many as leave half of them to the
    decoders, always at least one, at most `max_replicas`. `elastic`: the cluster can grow, so what does not fit is
    still reserved.
    """
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    of_one = profile.cpus * profile.ranks
    if replicas is None:
        fit = int(gpus / (profile.gpus * profile.ranks)) if profile.gpus else int(cpus / 2 / max(of_one, 1e-9))
        fit = min(fit, profile.most_replicas or fit)
        replicas = max(1, fit if max_replicas is None else min(fit, max_replicas))
    replica_cpus = profile.cpus
    if not elastic and replicas * of_one > cpus:
        replica_cpus = 0.0
    left = int(cpus - replicas * replica_cpus * profile.ranks)
    decoders = max(1, left)
    store = resources.get("object_store_memory", 1 << 30)
    needs = f"{of_one:g} CPUs" + (f" and {profile.gpus * profile.ranks:g} GPUs" if profile.gpus else "")
    return Shares(
        replicas=replicas,
        replica_cpus=replica_cpus,
        decoders=decoders,
        decode_cpus=1.0 if left >= 1 else 0.0,
        identifiers=max(1, min(32, int(cpus) // 2)),
        budget_bytes=int(min(FRAMES_PART * store, FRAMES_BYTES * (replicas + decoders))),
        needs=needs + (f" in {profile.ranks} processes" if profile.ranks > 1 else ""),
    )


def room_for(
    replicas: int, profile: ModelProfile, decode_s: float | None, watch_s: float | None
) -> list[dict[str, float]]:
    """What the autoscaler is asked for: so many replicas and the decoders that keep them busy (`decode_s`, `watch_s`:
    of one window), as bundles; none for 0 replicas.

    Ray's autoscaler (v2) does nothing at all about a request that its largest cluster cannot hold, so decoders are
    asked for within what goes with the replicas: some for each GPU, on CPUs as many as `share_out` leaves them.
    """
    share = {"CPU": float(profile.cpus), "GPU": float(profile.gpus)}
    rank = {resource: amount for resource, amount in share.items() if amount}
    bundles = [rank] * (replicas * profile.ranks) if rank else []
    if replicas and decode_s is not None and watch_s:
        most = replicas * profile.ranks * (GPU_DECODERS * profile.gpus or profile.cpus)
        if profile.most_replicas:  # a server does the work, and the decoders may have all CPUs
            most = MOST_DECODERS
        bundles += [{"CPU": 1.0}] * int(min(MOST_DECODERS, most, round(replicas * decode_s / watch_s)))
    return bundles
