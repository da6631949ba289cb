"""What Ray's autoscaler (v2) makes of a cluster's manifest when a run asks it for room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint

from tests.k8s.schema import cluster_of


def grown(thing: dict[str, Any], bundles: Sequence[dict[str, float]]) -> dict[str, int]:
    """How many pods of each worker group there will be for `bundles` (of `request_resources`); {} where the largest
    cluster that the manifest allows cannot hold them: the autoscaler then does nothing about them."""
    config = AutoscalingConfig(
        _derive_autoscaling_config_from_ray_cr({"metadata": thing["metadata"], "spec": cluster_of(thing)}),
        skip_content_hash=True,
    )
    asked = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    counted = [ResourceRequestUtil.make({k: v for k, v in bundle if v}) for bundle in asked.elements()]
    constraint = ClusterResourceConstraint(resource_requests=ResourceRequestUtil.group_by_count(counted))
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            disable_launch_config_check=True,
            cluster_resource_constraints=[constraint],
        )
    )
    if reply.infeasible_cluster_resource_constraints:
        return {}
    return {launch.instance_type: launch.count for launch in reply.to_launch}
