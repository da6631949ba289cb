"""A Ray cluster of several nodes on this machine, and what can be done to it and to the runs on it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 200 << 20}
NODE_TRIES = 4
PATIENCE_S = 1500.0  # for one run, whatever happens to it


class World:
    """A head of one CPU and `nodes` of `NODE`, each a raylet (ray.cluster_utils.Cluster)."""

    def __init__(self, nodes: int = 2) -> None:
        from ray.cluster_utils import Cluster

        from workers.cluster import be_patient

        be_patient()
        os.environ.setdefault("RAY_health_check_period_ms", "1000")  # a dead node is noticed within seconds
        os.environ.setdefault("RAY_health_check_failure_threshold", "5")
        head = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        assert self._cluster.head_node is not None
        self._session: bytes = os.path.basename(self._cluster.head_node.get_session_dir_path()).encode()
        self._nodes: dict[str, Any] = {}  # by what they are called in the cloud (RAY_CLOUD_INSTANCE_ID)
        self._added: int = 0
        for _ in range(nodes):
            self.add_node()

    def close(self) -> None:
        self._cluster.shutdown()

    def add_node(self) -> None:
        """Raises RuntimeError where none comes up: on a machine that does not give Ray's agents a second of CPU within
        half a minute."""
        for _ in range(NODE_TRIES):
            self._added += 1
            name = f"pod-{self._added}"
            with contextlib.suppress(Exception):  # of no common type: Ray raises a bare Exception
                self._nodes[name] = self._cluster.add_node(wait=False, env_vars={"RAY_CLOUD_INSTANCE_ID": name}, **NODE)
                return
        raise RuntimeError(f"no node came up in {NODE_TRIES} tries: this machine is too busy for this benchmark")

    def kill_node(self) -> bool:
        if not self._nodes:
            return False
        self._cluster.remove_node(self._nodes.pop(next(iter(self._nodes))), allow_graceful=False)
        return True

    def holds(self, node_id: str) -> bool:
        """Whether it is one of these nodes (and not the head)."""
        return any(node.node_id == node_id for node in self._nodes.values())

    def drain_node(self, node_id: str, within_s: float) -> int:
        """What a pod's `preStop` does (workers/drain.py), for the node of this id; its exit status. 0: the node has
        left, without work."""
        name = next(name for name, node in self._nodes.items() if node.node_id == node_id)
        environment = {**os.environ, "RAY_ADDRESS": self.address, "RAY_CLOUD_INSTANCE_ID": name}
        command = [sys.executable, "-m", "workers.drain", "--within", f"{within_s:g}"]
        status = subprocess.run(command, env=environment, check=False).returncode
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)
        return status

    def kill_workers(self, title: bytes, most: int, chance: random.Random) -> int:
        """Kill -9 up to `most` of this cluster's workers that do what `title` says now (Ray sets their process titles);
        how many there were."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"ray::" + title):
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    if self._session in Path(f"/proc/{parent}/cmdline").read_bytes():  # its raylet
                        found.append(int(folder.name))
        victims = chance.sample(sorted(found), min(most, len(found)))
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def start(
        self, archive: str, log: Path, environment: Mapping[str, str], options: Sequence[str]
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.run", archive, "--log", str(log), "--address", self.address]
        return subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        out, _ = process.communicate(timeout=PATIENCE_S)
        if process.returncode not in (0, 3):
            raise RuntimeError(f"run ended with status {process.returncode}: {out[-2000:]}")
        return out
