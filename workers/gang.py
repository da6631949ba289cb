"""Gangs: a replica of several ranks, each its own process (and GPU), in one placement group.

Seen from the flow a gang is one replica. A coordinator actor stands for it: it owns the ranks, shares a batch out
among them and collects the answers; frames go to the ranks straight from the object store. The first rank that fails
ends the whole gang: ranks that wait in a collective for a dead one are of no use to anyone. When the coordinator ends,
Ray ends what it owns; the driver holds the places and gives them back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.util import get_node_ip_address, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from model.interface import ModelProfile, Reporting
from model.registry import find_model
from pipeline.errors import ModelError
from pipeline.event import WindowEvents
from pipeline.plan import Window
from workers.replica import actor_dead, batch_by_batch
from workers.report import add_up

START_S = 1800.0  # from the ranks' places being there to the last one warm
STALL_S = 600.0  # of one collective: a rank that neither answers nor dies ends the gang
GUARD_S = 0.25  # between two looks at whether all ranks live
EXIT_S = 1.0  # in which the error of a failed rank is told before its process ends


@dataclass(frozen=True, slots=True)
class GangPlan:
    """What the coordinator is told. `cpus` and `gpus`: of one rank. `choice`: a `workers.replica.ModelChoice`."""

    name: str
    choice: Any
    ranks: int
    cpus: float
    gpus: float
    at_once: int = 1  # windows that the model is given together
    start_s: float = START_S
    stall_s: float = STALL_S


@ray.remote(max_restarts=0, max_task_retries=0)
class _Rank:
    """One process of a gang, with its share of the model."""

    def __init__(self, plan: GangPlan, rank: int) -> None:
        self._plan, self._rank = plan, rank
        self._model: Any = None
        self._store: Any = None

    def meeting_point(self) -> tuple[str, int]:
        """Open the store where the ranks meet, on whatever port is free here. Called on rank 0."""
        from torch.distributed import TCPStore

        host = get_node_ip_address()
        wait = timedelta(seconds=self._plan.start_s)
        self._store = TCPStore(host, 0, self._plan.ranks, is_master=True, timeout=wait, wait_for_workers=False)
        return host, int(self._store.port)

    def load(self, host: str, port: int) -> str:
        """Join the others and load. Returns the id of the node. Raises ModelError where loading can never work."""
        with _ending_on_fault():
            from torch import distributed

            plan = self._plan
            if self._store is None:
                wait = timedelta(seconds=plan.start_s)
                self._store = distributed.TCPStore(host, port, plan.ranks, is_master=False, timeout=wait)
            if interface := _interface_of(get_node_ip_address()):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
                os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
            distributed.init_process_group(
                "nccl" if plan.gpus else "gloo",
                store=self._store,
                rank=self._rank,
                world_size=plan.ranks,
                timeout=timedelta(seconds=plan.stall_s),
            )
            factory: Any = find_model(plan.choice.spec)
            group = distributed.group.WORLD
            self._model = factory.load_rank(plan.choice.settings, self._rank, plan.ranks, group)
            return str(ray.get_runtime_context().get_node_id())

    def watch(
        self,
        windows: Sequence[Window],
        parcels: Sequence[ray.ObjectRef],
        at: Sequence[tuple[int, int]],
        together: bool,
    ) -> list[WindowEvents]:
        """Answers to this rank's share of a batch. Collective. Frames come as references to parcels of them and are
        fetched here, so that ones that cannot be had do not keep this rank from the others' steps."""
        with _ending_on_fault():
            missing: Exception | None = None
            batch: list[Any] = []
            try:
                wanted = sorted({parcel for parcel, _ in at})
                there = dict(zip(wanted, ray.get([parcels[parcel] for parcel in wanted]), strict=True))
                batch = [(window, there[parcel][place]) for window, (parcel, place) in zip(windows, at, strict=True)]
            except Exception as error:  # noqa: BLE001 - raised again below
                missing = error
            answers: list[WindowEvents] = []
            if not together or self._all_have(missing is None):
                answers = self._model.watch(batch, together=together)
            if missing is not None:
                raise _Missing(missing)
            return answers

    def _all_have(self, have: bool) -> bool:
        """Whether all ranks have the frames: one that does not cannot work on them together with the others."""
        import torch

        flag = torch.tensor([int(have)], device="cuda" if self._plan.gpus else "cpu")
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
        return bool(flag.item())

    def report(self) -> dict[str, Any]:
        return self._model.report() if isinstance(self._model, Reporting) else {}


class _Missing(Exception):
    """The frames of a window cannot be had; the gang is well."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@contextlib.contextmanager
def _ending_on_fault() -> Any:
    """An error that is not about the work itself ends the process, once Ray has told it: an engine that failed once
    (a lost peer, no GPU memory) would poison whatever it is given next."""
    try:
        yield
    except (ModelError, _Missing):
        raise
    except BaseException:
        end = threading.Timer(EXIT_S, os._exit, [1])
        end.daemon = True
        end.start()
        raise


@ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)
class _Coordinator:
    """Stands for the gang. Calls come one at a time."""

    def __init__(self, plan: GangPlan) -> None:
        self._plan = plan
        self._ranks: list[Any] = []

    def load(self, places: PlacementGroup) -> list[str]:
        """Ids of the ranks' nodes, when all are warm. Raises ModelError where loading can never work."""
        plan = self._plan
        ray.get(places.ready())
        self._ranks = [
            _Rank.options(  # type: ignore[attr-defined]
                num_cpus=plan.cpus,
                num_gpus=plan.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=rank),
            ).remote(plan, rank)
            for rank in range(plan.ranks)
        ]
        host, port = self._all([self._ranks[0].meeting_point.remote()], plan.start_s)[0]
        nodes: list[str] = self._all([rank.load.remote(host, port) for rank in self._ranks], plan.start_s)
        threading.Thread(target=self._guard, daemon=True, name="guard").start()
        return nodes

    def _guard(self) -> None:
        """A rank that dies while the gang is idle ends the gang: the driver sees its coordinator go."""
        while not any(map(actor_dead, self._ranks)):
            time.sleep(GUARD_S)
        time.sleep(EXIT_S)  # a call under way tells the error first
        self._end()
        os._exit(1)

    def watch(
        self, windows: Sequence[Window], parcels: Sequence[ray.ObjectRef], at: Sequence[tuple[int, int]]
    ) -> list[WindowEvents]:
        """Answers in the order of `windows`, batch after batch."""

        def watch(part: slice) -> list[WindowEvents]:
            return self._watch_batch(windows[part], parcels, at[part])

        return batch_by_batch(len(windows), self._plan.at_once, watch)

    def _watch_batch(
        self, windows: Sequence[Window], parcels: Sequence[ray.ObjectRef], at: Sequence[tuple[int, int]]
    ) -> list[WindowEvents]:
        together = len(windows) < len(self._ranks)
        shares = [list(range(len(windows)))] * len(self._ranks) if together else deal(windows, len(self._ranks))
        answers = self._all(
            [
                rank.watch.remote([windows[i] for i in share], list(parcels), [at[i] for i in share], together)
                for rank, share in zip(self._ranks, shares, strict=True)
            ]
        )
        answer_of = {
            i: said for share, part in zip(shares, answers, strict=True) for i, said in zip(share, part, strict=True)
        }
        return [answer_of[i] for i in range(len(windows))]

    def report(self) -> dict[str, Any]:
        """What the ranks' models counted, added up."""
        total: dict[str, Any] = {}
        for counted in ray.get([rank.report.remote() for rank in self._ranks]):
            total = add_up(total, counted)
        return total

    def pids(self) -> list[int]:
        """Process ids of the ranks (tests kill them)."""
        found: list[int] = ray.get([rank.__ray_call__.remote(lambda self: os.getpid()) for rank in self._ranks])
        return found

    def _all(self, refs: list[Any], within_s: float | None = None) -> list[Any]:
        """What all ranks say. The first fault ends the gang; an error about the work is raised when all are back."""
        waiting, about_work = list(refs), None
        until = None if within_s is None else time.monotonic() + within_s
        while waiting:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, waiting = ray.wait(waiting, timeout=left)
            if not ready:
                self._end()
                raise TimeoutError(f"{self._plan.name}: its ranks did not come up within {within_s:g} s")
            try:
                ray.get(ready[0])
            except Exception as error:
                cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
                loading = within_s is not None
                if loading or not isinstance(cause, (ModelError, _Missing)):
                    self._end()
                    raise
                about_work = cause.cause if isinstance(cause, _Missing) else cause
        if about_work is not None:
            raise about_work
        return list(ray.get(refs))

    def _end(self) -> None:
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)


class GangReplica:
    """A model whose ranks share its experts: a `workers.replica.Replica`."""

    def __init__(self, name: str, choice: Any, profile: ModelProfile, cpus: float, startup_s: float = 0.0) -> None:
        self.name = name
        start_s = max(START_S, startup_s)
        plan = GangPlan(name, choice, profile.ranks, cpus, profile.gpus, profile.batch_windows, start_s)
        self._places = reserve(plan)
        self._placed = self._places.ready()
        self._coordinator = _Coordinator.remote(plan)  # type: ignore[attr-defined]
        self._ready = self._coordinator.load.remote(self._places)

    def ready(self) -> ray.ObjectRef:
        return self._ready

    def watch(
        self, windows: Sequence[Window], parcels: Sequence[ray.ObjectRef], at: Sequence[tuple[int, int]]
    ) -> ray.ObjectRef:
        return self._coordinator.watch.remote(list(windows), list(parcels), list(at))

    def placed(self) -> bool:
        return bool(ray.wait([self._placed], timeout=0, fetch_local=False)[0])

    def dead(self) -> bool:
        return actor_dead(self._coordinator)

    def report(self) -> ray.ObjectRef:
        return self._coordinator.report.remote()

    def stop(self) -> None:
        ray.kill(self._coordinator, no_restart=True)
        remove_placement_group(self._places)  # which also ends whoever is still in its places


def reserve(plan: GangPlan) -> PlacementGroup:
    """One bundle per rank, on as few nodes as hold them."""
    share = {"CPU": plan.cpus, "GPU": plan.gpus}
    # A bundle cannot be empty; a byte of memory is to be had everywhere.
    bundle = {resource: amount for resource, amount in share.items() if amount} or {"memory": 1}
    return placement_group([bundle] * plan.ranks, strategy="PACK")


def deal(windows: Sequence[Window], ranks: int) -> list[list[int]]:
    """Which windows each rank gets: indices, longest windows first, always to the rank with least so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for i in sorted(range(len(windows)), key=lambda i: (windows[i].start_us - windows[i].end_us, i)):
        least = min(range(ranks), key=lambda rank: (load[rank], rank))
        shares[least].append(i)
        load[least] += windows[i].end_us - windows[i].start_us
    return shares


def _interface_of(address: str) -> str | None:
    """The network interface with this IPv4 address, so that ranks do not meet on whatever the host name resolves to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
