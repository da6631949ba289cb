"""What travels with a submitted job: Secondsight's own code, the files that its arguments name, and what pip installs.

Ray's working directory of a job is unpacked on every node that works on it, and is the first place where Python there
looks for modules; Ray names it by a hash of its content, so the same code is uploaded once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.registry import located
from pipeline.errors import UsageError
from pipeline.patterns import is_glob
from pipeline.storage import local_path

PACKAGES = ("pipeline", "model", "workers", "jobs")
MODULES = ("secondsight",)
MAX_BYTES = 500 << 20  # what a Ray head takes as a working directory (its HTTP upload, 512 MiB) with a margin
STOP_S = 90  # between Ctrl-C for the driver and its end by force: what is finished is committed in this time

_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True, slots=True)
class Shipment:
    """What a job needs there. `code`: ship Secondsight itself. `pip`: install its requirements on the nodes."""

    code: bool = True
    pip: bool = True
    extras: Collection[str] = ()
    more_pip: Sequence[str] = ()
    modules: Sequence[str] = ()  # files or folders of the user's own Python code
    env: Mapping[str, str] | None = None


# --- The arguments of `run`.


def run_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that a parser knows, `--help` and `--address` aside (a job finds its cluster by itself)."""
    return [a for a in parser._actions if a.dest not in ("help", "address")]


def run_arguments(actions: Sequence[argparse.Action], values: argparse.Namespace) -> list[str]:
    """The command line of `secondsight run` that gives `values` again."""
    options: list[str] = []
    names: list[str] = []
    for action in actions:
        value = getattr(values, action.dest)
        if not action.option_strings:
            names += value if isinstance(value, list) else [value]
        elif value == action.default or value is None:
            continue
        elif action.nargs == 0:
            options.append(action.option_strings[-1])
        elif action.nargs in (None, "?", 1):
            given = value if isinstance(value, list) else [value]
            options += [f"{action.option_strings[-1]}={one}" for one in given]
        else:
            options += [action.option_strings[-1], *map(str, value)]
    return [*names, *options]  # names first: an option with many values would take them in


def localise(values: argparse.Namespace, folder: Path) -> list[str]:
    """Make the arguments mean the same on another machine; returns what the user should know.

    Paths become absolute, and lists (`@FILE`, `@-`), prompts and the weights of `--redact` are copied to `folder`.
    Raises UsageError for a file that is not there.
    """
    notices: list[str] = []
    shared: list[str] = []
    archive: list[str] = []
    for number, name in enumerate(values.archive):
        if name.startswith("@") and local_path(os.path.expanduser(name[1:])) is not None:
            shipped = f"list{number}.txt"
            (folder / shipped).write_text(_list(name[1:]), encoding="utf-8", errors="surrogateescape")
            archive.append(f"@{shipped}")
        else:
            archive.append(_absolute(name, shared))
    values.archive = archive
    values.log = _absolute(values.log, shared)
    values.model = located(values.model)
    if (files := values.model.removeprefix("vllm:")).startswith("/"):
        shared.append(files)
    if getattr(values, "prompt", None) and values.prompt.endswith(".toml"):
        _copy(values.prompt, folder / Path(values.prompt).name)
        values.prompt = Path(values.prompt).name
    if getattr(values, "forecast", None):
        _copy(values.forecast, folder / "forecast.json")
        values.forecast = "forecast.json"
    if getattr(values, "redact", None):
        from pipeline.redact import parse

        values.redact = ",".join(_shipped_weights(spec, folder) for spec in parse(values.redact))
    if shared:
        notices.append("every node must see " + ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else ""))
    return notices


def _shipped_weights(spec: str, folder: Path) -> str:
    """A part of `--redact`, with the weights that it names beside the job's other files."""
    what, _, path = spec.partition("=")
    if not path:
        return spec
    _copy(path, folder / Path(path).name)
    return f"{what}={Path(path).name}"


def _absolute(name: str, shared: list[str]) -> str:
    path = local_path(os.path.expanduser(name))
    if path is None:
        return name
    shared.append(path)
    return path


def _list(name: str) -> str:
    """A list of names with the relative ones made absolute, as pipeline/archive.py reads it."""
    try:
        text = sys.stdin.read() if name == "-" else Path(os.path.expanduser(name)).read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{name}: the list cannot be read: {error.strerror}") from error
    beside = Path(os.path.abspath(os.path.expanduser(name))).parent if name != "-" else Path.cwd()
    lines = []
    for line in text.splitlines():
        entry = line.strip().removeprefix("\ufeff")
        if entry and not entry.startswith("#") and local_path(entry) is not None and not os.path.isabs(entry):
            there = beside / entry
            entry = str(there if there.exists() or is_glob(entry) else Path.cwd() / entry)
        lines.append(entry)
    return "\n".join(lines) + "\n"


# --- The runtime environment.


def runtime_env(shipment: Shipment, folder: Path) -> dict[str, Any]:
    """Ray's runtime environment for a job. `folder`: becomes its working directory; may hold files already.

    Raises UsageError for modules that are not there, and for more than the head takes.
    """
    if shipment.code:
        _copy_code(folder)
    for module in shipment.modules:
        _copy(module, folder / Path(module).resolve().name)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    if size > MAX_BYTES:
        raise UsageError(
            f"the job's files are {size >> 20} MiB, a Ray head takes {MAX_BYTES >> 20}: put what is large where the "
            "nodes see it (a shared folder, an object store, the image)"
        )
    env: dict[str, Any] = {
        "env_vars": {
            "RAY_JOB_STOP_SIGNAL": "SIGINT",  # as Ctrl-C: what is finished is committed
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
            **(shipment.env or {}),
        }
    }
    if any(folder.iterdir()):
        env["working_dir"] = str(folder)
    wanted = [*(requirements(shipment.extras) if shipment.pip else ()), *shipment.more_pip]
    if wanted:
        env["pip"] = wanted
    return env


def requirements(extras: Collection[str] = ()) -> list[str]:
    """What `pip install secondsight[extras]` asks for, Ray aside: that is the cluster's own."""
    from packaging.requirements import Requirement

    declared, known = _declared()
    if unknown := sorted(set(extras) - known):
        raise UsageError(f"--extra {unknown[0]}: there are {', '.join(sorted(known))}")
    wanted: list[str] = []
    for text in declared:
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        chosen = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if chosen and requirement.name not in ("ray", "secondsight"):
            wanted.append(str(requirement))
    return sorted(set(wanted))


def _declared() -> tuple[list[str], set[str]]:
    """Secondsight's requirements with their markers, and its extras: of the checkout where this is one (what pip noted
    at its installation may be older), else as installed."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        told = tomllib.loads(project.read_text())["project"]
        extras = told.get("optional-dependencies", {})
        marked = [f'{text} ; extra == "{extra}"' for extra, texts in extras.items() for text in texts]
        return [*told["dependencies"], *marked], set(extras)
    try:
        dist = distribution("secondsight")
    except PackageNotFoundError:
        raise UsageError("Secondsight is not installed here (pip install .): its requirements are unknown") from None
    return list(dist.requires or ()), set(dist.metadata.get_all("Provides-Extra") or ())


def _copy_code(folder: Path) -> None:
    for name in (*PACKAGES, *MODULES):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise UsageError(f"module {name!r} of Secondsight is not to be found here; reinstall it")
        origin = Path(spec.origin)
        if name in PACKAGES:
            shutil.copytree(origin.parent, folder / name, ignore=_IGNORED)
        else:
            shutil.copy(origin, folder / origin.name)
    try:  # so that the job can tell its version
        dist = distribution("secondsight")
    except PackageNotFoundError:
        return
    about = folder / f"secondsight-{dist.version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: secondsight\nVersion: {dist.version}\n")


def _copy(source: str, target: Path) -> None:
    path = Path(os.path.expanduser(source))
    try:
        if path.is_dir():
            shutil.copytree(path, target, ignore=_IGNORED)
        else:
            shutil.copy(path, target)
    except OSError as error:
        raise UsageError(f"{source}: cannot be shipped: {error.strerror or error}") from error
