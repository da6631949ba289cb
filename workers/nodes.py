"""The nodes of the cluster, watched while a run goes on: which are there, which will go, which have gone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray._private.state import state

LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Nodes:
    """`alive`: node id -> what it offers; `names`: node id -> host name or address, of the dead too. `draining`: alive,
    but about to end (a spot notice, or the autoscaler removes them): nothing new should go there."""

    alive: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)

    def resources(self) -> dict[str, float]:
        """What the nodes that stay offer, added up, as `ray.cluster_resources()` says it."""
        total: dict[str, float] = {}
        for node, offers in self.alive.items():
            if node not in self.draining:
                for resource, amount in offers.items():
                    total[resource] = total.get(resource, 0.0) + amount
        return total

    def name(self, node: str) -> str:
        """What a person calls it."""
        return f"{self.names.get(node, '')} ({node[:8]})".strip() if node else ""


def look() -> Nodes:
    """Ask the cluster's control service."""
    table = state.node_table()  # ray.nodes() would start a Ray of its own where the run has ended
    return Nodes(
        alive={n["NodeID"]: n["Resources"] for n in table if n["Alive"]},
        draining=frozenset(state.get_draining_nodes()),
        dead=frozenset(n["NodeID"] for n in table if not n["Alive"]),
        names={n["NodeID"]: n.get("NodeManagerHostname") or n["NodeManagerAddress"] for n in table},
    )


class NodeWatch:
    """Looks once a second, in a thread: a control service that does not answer must not hold up the driver."""

    def __init__(self) -> None:
        self.latest = look()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="nodes").start()

    def close(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.latest = look()
            except Exception:  # noqa: BLE001 - the control service restarts, or the run has ended: look again
                continue
