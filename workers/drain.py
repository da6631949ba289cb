"""Take the Ray node of this pod out of its cluster, before Kubernetes ends the pod (k8s/, `preStop`).

    python -m workers.drain --within 100

A spot notice reaches a pod as its end, and Ray would take it for a crash. Told of it in time, Ray starts nothing new on
the node, the drivers of runs move their replicas to other nodes (workers/elastic.py), and a raylet without work left
ends by itself. Ends after `--within` seconds at most, and at once where the node is not in a cluster any more.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import Any

PAUSE_S = 0.5
ASK_S = 5.0  # for one answer of the control service
REACH_S = 20.0  # in which it must have taken the request: a head that is gone answers nothing


def drain(address: str, instance: str, within_s: float) -> bool:
    """Drain the node of the cluster at `address` (HOST:PORT of its control service) that was started with
    RAY_CLOUD_INSTANCE_ID `instance`, and wait until it has left; False where it still works after `within_s`.

    Raises LookupError where there is no such node, RuntimeError where the cluster refuses. Ends this process where the
    cluster does not answer.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    deadline = time.time() + within_s
    silent = threading.Timer(min(within_s, REACH_S), _give_up, [address])  # Ray's client cannot be interrupted
    silent.daemon = True
    silent.start()
    client = GcsClient(address=address)
    node = _node(client, instance)
    if node is None:
        raise LookupError(f"{address}: no node {instance!r} is alive in this cluster")
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node, reason, "its pod is to end", int(deadline * 1000))
    silent.cancel()
    if not accepted:
        raise RuntimeError(f"{address}: node {instance!r} is not drained: {why}")
    while time.time() < deadline:
        if _node(client, instance) is None:
            return True
        time.sleep(PAUSE_S)
    return False


def _give_up(address: str) -> None:
    print(f"{address}: no answer", file=sys.stderr, flush=True)
    os._exit(1)


def _node(client: Any, instance: str) -> str | None:
    """The id of a living node (hexadecimal)."""
    for node_id, node in client.get_all_node_info(timeout=ASK_S).items():
        if node.instance_id == instance and node.state == node.ALIVE:
            return str(node_id.hex())
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--within", type=float, default=100.0, metavar="S", help="seconds (default: 100)")
    within_s = parser.parse_args().within
    # KubeRay sets both in every pod of a cluster.
    address, instance = os.environ.get("RAY_ADDRESS", ""), os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
    if not address or not instance:
        print("RAY_ADDRESS and RAY_CLOUD_INSTANCE_ID say which node: one of them is not set", file=sys.stderr)
        return 2
    try:
        return 0 if drain(address, instance, within_s) else 1
    except Exception as error:  # noqa: BLE001 - Ray's own, of no common type: whatever it is, the pod ends now
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
