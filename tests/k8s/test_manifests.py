"""k8s/: every object passes KubeRay's schemas, its operator's rules, and ours for what runs in a cluster."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import SHARED
from tests.k8s.kustomize import build
from tests.k8s.schema import cluster_of, groups_of, operator_complaints, strict_schema
from workers.metrics import METRICS, PREFIX
from workers.shares import FRAMES_BYTES, FRAMES_PART

K8S = Path(__file__).resolve().parents[2] / "k8s"
FOLDERS = sorted(p.parent.relative_to(K8S).as_posix() for p in K8S.rglob("kustomization.yaml"))
RAY = ("RayCluster", "RayJob", "RayService")
BUILT = {folder: build(K8S / folder) for folder in FOLDERS}
RAY_OBJECTS = [(folder, thing) for folder, things in BUILT.items() for thing in things if thing["kind"] in RAY]
IDS = [f"{folder}:{thing['kind']}" for folder, thing in RAY_OBJECTS]
JOBS = [(folder, thing) for folder, things in BUILT.items() for thing in things if thing["kind"] == "Job"]


def _bytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]i?)?", quantity).groups()  # type: ignore[union-attr]
    power = {"K": 1, "M": 2, "G": 3, "T": 4}.get((unit or " ")[0], 0)
    return float(number) * (1024 if (unit or "").endswith("i") else 1000) ** power


def _containers(thing: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, pod specification, container) of all pods of an object."""
    if thing["kind"] == "Job":
        pods = [("job", thing["spec"]["template"]["spec"])]
    else:
        pods = [(name, group["template"]["spec"]) for name, group in groups_of(thing)]
    if submitter := thing["spec"].get("submitterPodTemplate"):
        pods.append(("submitter", submitter["spec"]))
    for name, pod in pods:
        for container in pod["containers"]:
            yield name, pod, container


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    folder = SHARED / "kuberay"
    if not folder.is_dir():
        pytest.skip("KubeRay's schemas (../shared/kuberay) are not here")
    return {kind: strict_schema(folder / f"ray.io_{kind.lower()}s.yaml") for kind in RAY}


def test_all_three_kinds_are_there_for_cpus_for_kind_and_for_gpus() -> None:
    assert {(folder.split("/")[-1], thing["kind"]) for folder, thing in RAY_OBJECTS} == {
        ("run", "RayJob"), ("pool", "RayCluster"), ("query", "RayService"),
    }  # fmt: skip
    assert {folder for folder, _ in RAY_OBJECTS} == {
        *("run", "pool", "query", "overlays/kind/run", "overlays/kind/pool", "overlays/kind/query"),
        *("overlays/gpu/run", "overlays/gpu/pool"),
    }


@pytest.mark.parametrize(("folder", "thing"), RAY_OBJECTS, ids=IDS)
def test_schemas_know_every_field(folder: str, thing: dict[str, Any], schemas: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schemas[thing["kind"]])
    errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(thing)]
    assert not errors, (folder, errors)


def test_the_schema_check_does_find_what_is_wrong(schemas: dict[str, Any]) -> None:
    good = next(thing for _, thing in RAY_OBJECTS if thing["kind"] == "RayCluster")
    for path, value in {
        ("spec", "rayVersoin"): "2.60.0",
        ("spec", "headGroupSpec", "template", "spec", "containers", 0, "livenessProb"): {},
        ("spec", "workerGroupSpecs", 0, "maxReplicas"): "many",
        ("spec", "autoscalerOptions", "version"): "v3",
        ("spec", "authOptions", "mode"): "maybe",
    }.items():
        bad = copy.deepcopy(good)
        at: Any = bad
        for key in path[:-1]:
            at = at[key]  # type: ignore[index]
        at[path[-1]] = value
        assert not jsonschema.Draft202012Validator(schemas["RayCluster"]).is_valid(bad), path


@pytest.mark.parametrize(("folder", "thing"), RAY_OBJECTS, ids=IDS)
def test_the_operators_own_rules(folder: str, thing: dict[str, Any]) -> None:
    assert thing["apiVersion"] == "ray.io/v1" and operator_complaints(thing) == []


def test_the_operators_rules_do_find_what_is_wrong() -> None:
    job = next(thing for _, thing in RAY_OBJECTS if thing["kind"] == "RayJob")

    def complaints(**changes: Any) -> list[str]:
        bad = copy.deepcopy(job)
        for path, value in changes.items():
            at = bad
            *way, last = path.split("__")
            for key in way:
                at = at[int(key)] if key.isdecimal() else at[key]  # type: ignore[index]
            at[last] = value
        return operator_complaints(bad)

    rule = {"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}
    assert any("47" in c for c in complaints(metadata__name="x" * 48))
    assert len(complaints(spec__deletionStrategy={"deletionRules": [rule]})) == 2
    assert any("clusterSelector" in c for c in complaints(spec__clusterSelector={"a": "b"}))
    group = "spec__rayClusterSpec__workerGroupSpecs__0"
    assert any("restartPolicy" in c for c in complaints(**{f"{group}__template__spec__restartPolicy": "Always"}))
    assert any("minReplicas" in c for c in complaints(**{f"{group}__maxReplicas": 0}))


@pytest.mark.parametrize(("folder", "thing"), RAY_OBJECTS, ids=IDS)
def test_clusters_grow_want_a_token_and_survive_their_head(folder: str, thing: dict[str, Any]) -> None:
    cluster = cluster_of(thing)
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "secondsight-ray"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert f"\nray=={cluster['rayVersion']}\n" in (K8S.parent / "constraints.txt").read_text()  # what the image has
    if thing["kind"] == "RayJob":  # its driver dies with its head, and a new one goes on where the log is
        assert thing["spec"]["backoffLimit"] > 0 and thing["spec"]["shutdownAfterJobFinishes"]
    else:
        tolerance = cluster["gcsFaultToleranceOptions"]
        assert "secretKeyRef" in tolerance["redisPassword"]["valueFrom"]
        services = [o["metadata"]["name"] for o in BUILT[folder] if o["kind"] == "Service"]
        assert tolerance["redisAddress"].split(":")[0] in services


@pytest.mark.parametrize(("folder", "thing"), [*RAY_OBJECTS, *JOBS], ids=[*IDS, *(folder for folder, _ in JOBS)])
def test_pods_are_restricted_limited_and_probed(folder: str, thing: dict[str, Any]) -> None:
    for where, pod, container in _containers(thing):
        said = (folder, where)
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] >= 1000, said
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, said
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, said
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, said
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits["memory"] == requests["memory"] and limits["cpu"] and requests["cpu"], said
        assert where in ("submitter", "job") or {"livenessProbe", "readinessProbe"} <= container.keys(), said
        for variable in container.get("env", ()):
            secret = re.search(r"TOKEN|KEY|SECRET|PASSWORD", variable["name"])
            assert not secret or "secretKeyRef" in variable["valueFrom"], (said, variable)
        if gpus := limits.get("nvidia.com/gpu"):
            assert requests["nvidia.com/gpu"] == gpus, said
            assert any(t["key"] == "nvidia.com/gpu" for t in pod["tolerations"]), said
    if thing["kind"] in RAY:
        assert cluster_of(thing)["autoscalerOptions"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(("folder", "thing"), RAY_OBJECTS, ids=IDS)
def test_workers_leave_their_cluster_before_their_pods_end(
    folder: str, thing: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends a pod (a spot notice, a scale-down) first drains its Ray node, and leaves Ray the time to end."""
    from workers import drain

    asked: list[tuple[str, str, float]] = []

    def ask(*told: Any) -> bool:
        asked.append(told)
        return True

    monkeypatch.setattr(drain, "drain", ask)
    for name, group in groups_of(thing):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        if name == "head":
            assert "lifecycle" not in container, folder
            continue
        python, dash_m, module, *arguments = container["lifecycle"]["preStop"]["exec"]["command"]
        assert (python, dash_m, module) == ("python", "-m", drain.__name__)
        monkeypatch.setattr("sys.argv", [module, *arguments])
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        assert drain.main() == 2 and "RAY_ADDRESS" in capsys.readouterr().err
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", "pod-7")
        assert drain.main() == 0
        address, instance, within_s = asked.pop()
        assert (address, instance) == ("head:6379", "pod-7")
        assert 30 <= within_s <= pod["terminationGracePeriodSeconds"] - 15, (folder, name)


def test_the_checkpoint_is_put_where_runs_on_gpus_look_for_it() -> None:
    ((_, job),) = JOBS
    (container,) = job["spec"]["template"]["spec"]["containers"]
    python, dash_m, module = container["command"]
    assert (python, dash_m) == ("python", "-m") and importlib.util.find_spec(module) is not None
    (config,) = [o["data"] for o in BUILT["overlays/gpu/run"] if o["kind"] == "ConfigMap"]
    options = shlex.split(config["SECONDSIGHT_OPTIONS"])
    assert container["args"][1] == options[options.index("--model") + 1]
    assert container["args"][1].rpartition("/")[2] == container["args"][0].rpartition("/")[2]
    (mount,) = container["volumeMounts"]
    assert f"--scratch={mount['mountPath']}" in container["args"]


@pytest.mark.parametrize(("folder", "thing"), RAY_OBJECTS, ids=IDS)
def test_shared_memory_holds_the_frames(folder: str, thing: dict[str, Any]) -> None:
    for name, group in groups_of(thing):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared, store = _bytes(volume["emptyDir"]["sizeLimit"]), float(group["rayStartParams"]["object-store-memory"])
        memory = _bytes(container["resources"]["limits"]["memory"])
        assert store <= 0.95 * shared and shared <= memory / 2, (folder, name)
        if name == "decode":
            cpus = float(group["rayStartParams"].get("num-cpus", container["resources"]["limits"]["cpu"]))
            budget = FRAMES_BYTES * cpus if "kind" not in folder else 0
            assert FRAMES_PART * store >= budget * 0.99, (folder, name)


def test_gpus_are_for_gangs_and_a_laptop_has_none() -> None:
    for folder, thing in RAY_OBJECTS:
        gpus = {n: g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
                for n, g in groups_of(thing)}  # fmt: skip
        if folder.startswith("overlays/kind") or thing["kind"] == "RayService":
            assert not any(gpus.values())
        else:
            assert gpus == {"head": None, "decode": None, "gang": "8"}


def test_what_is_served_is_there_and_its_secrets_are_documented() -> None:
    services = [thing for _, thing in RAY_OBJECTS if thing["kind"] == "RayService"]
    page = (K8S.parent / "docs" / "kubernetes.md").read_text()
    for service in services:
        (app,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
        module, _, attribute = app["import_path"].partition(":")
        assert attribute == "deployment" and importlib.util.find_spec(module) is not None
    for folder, things in BUILT.items():
        for name in set(
            re.findall(r"'(?:secretName|name)': '(secondsight-(?:ray|redis|query|storage|hub))'", str(things))
        ):
            assert f"create secret generic {name} " in page, name
        if any(o["kind"] in (*RAY, "Job") for o in things):
            assert f"k8s/{folder}" in page, folder


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads((K8S / "monitoring" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [v["query"]["query"] for v in board["templating"]["list"] if isinstance(v["query"], dict)]
    used = {name for query in queries for name in re.findall(rf"ray_{PREFIX}(\w+)", query)}
    known = {m.name + ("_bucket" if m.kind == "histogram" else "") for m in METRICS}
    assert used == known
    tags = {m.name: {*m.tags, "run_id", "model", "le"} for m in METRICS}
    for query in queries:
        for name, selector in re.findall(rf"ray_{PREFIX}(\w+)\{{([^}}]*)\}}", query):
            asked = set(re.findall(r"(\w+)=~?\"", selector))
            assert asked <= tags[name.removesuffix("_bucket")], query


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_says_the_same(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    made = subprocess.run(["kubectl", "kustomize", K8S / folder], capture_output=True, text=True, check=True).stdout
    key = lambda o: (o["kind"], o["metadata"]["name"])  # noqa: E731
    assert sorted(yaml.safe_load_all(made), key=key) == sorted(BUILT[folder], key=key)
