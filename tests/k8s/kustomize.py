"""What `kubectl kustomize` makes of a folder, for what k8s/ uses of it: resources, a namespace, JSON 6902 patches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches"}
CLUSTER_WIDE = {"Namespace"}


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization."""
    told = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert not set(told) - KNOWN, f"{folder}: {set(told) - KNOWN} is not understood here"
    objects: list[dict[str, Any]] = []
    for name in told.get("resources", ()):
        path = (folder / name).resolve()
        if path.is_dir():
            objects += build(path)
        else:
            objects += [thing for thing in yaml.safe_load_all(path.read_text()) if thing]
    for thing in objects:
        if "namespace" in told and thing["kind"] not in CLUSTER_WIDE:
            thing["metadata"]["namespace"] = told["namespace"]
    for patch in told.get("patches", ()):
        target = patch["target"]
        meant = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (target["kind"], target["name"])]
        assert len(meant) == 1, f"{folder}: {target} is not there"
        done = jsonpatch.apply_patch(copy.deepcopy(meant[0]), yaml.safe_load(patch["patch"]))
        objects[objects.index(meant[0])] = done
    return objects
