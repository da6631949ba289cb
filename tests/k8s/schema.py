"""KubeRay's CRD schemas as strict JSON Schemas, and the rules that its operator enforces beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: a tenth of the time for these large files
CLUSTER_AT = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}


def strict_schema(crd: Path) -> dict[str, Any]:
    """The schema of version v1, with fields that it does not know refused, as `kubectl --validate=strict` does."""
    versions = yaml.load(crd.read_text(), Loader=LOADER)["spec"]["versions"]
    (served,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    schema = _strict(served)
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return schema


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value if key in ("enum", "required", "default") else _strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    return made


def cluster_of(thing: dict[str, Any]) -> dict[str, Any]:
    """The cluster's specification within a RayCluster, RayJob or RayService."""
    spec: dict[str, Any] = thing["spec"]
    for key in CLUSTER_AT[thing["kind"]]:
        spec = spec[key]
    return spec


def groups_of(thing: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, group) of the head and of every worker group."""
    cluster = cluster_of(thing)
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


def operator_complaints(thing: dict[str, Any]) -> list[str]:
    """What KubeRay 1.7 refuses and the schema does not show (its notes lie with the schemas)."""
    found: list[str] = []
    spec, cluster, name = thing["spec"], cluster_of(thing), thing["metadata"]["name"]
    autoscaled = bool(cluster.get("enableInTreeAutoscaling"))
    if thing["kind"] == "RayJob":
        deletion = spec.get("deletionStrategy") or {}
        if len(name) > 47:
            found.append(f"{name}: a RayJob's name has 47 characters at most")
        if deletion.get("deletionRules") and spec.get("shutdownAfterJobFinishes"):
            found.append(f"{name}: deletionRules and shutdownAfterJobFinishes exclude each other")
        rules = [
            *(deletion.get("deletionRules") or ()),
            deletion.get("onSuccess") or {},
            deletion.get("onFailure") or {},
        ]
        if autoscaled and any(rule.get("policy") == "DeleteWorkers" for rule in rules):
            found.append(f"{name}: DeleteWorkers is refused together with the autoscaler")
        if spec.get("backoffLimit", 0) > 0 and spec.get("clusterSelector"):
            found.append(f"{name}: backoffLimit is refused with clusterSelector")
    v2 = autoscaled and (cluster.get("autoscalerOptions") or {}).get("version") == "v2"
    for group_name, group in groups_of(thing):
        if v2 and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            found.append(f"{name}/{group_name}: autoscaler v2 needs restartPolicy Never")
        if group_name != "head":
            written = {"minReplicas", "maxReplicas"} <= group.keys()
            if not written or not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
                found.append(f"{name}/{group_name}: write minReplicas <= replicas <= maxReplicas")
    return found
