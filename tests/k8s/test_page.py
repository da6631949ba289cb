"""docs/kubernetes.md: what it has people type is understood, and what it points at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
#: What is indented, with lines that end in a backslash put together.
TYPED = [line.strip() for line in re.sub(r"\\\n\s*", "", PAGE).splitlines() if line.startswith("    ")]
IN_TEXT = re.findall(r"`(secondsight [^`]+)`", PAGE)


@pytest.mark.parametrize(
    "line", [line for line in (*TYPED, *IN_TEXT) if line.startswith("secondsight ") and "-" in line]
)
def test_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)[1:]
    name = words[0]
    module = __import__(cli.COMMANDS[name][0], fromlist=["main"])
    understood = []
    monkeypatch.setattr(module, "main", lambda args: understood.append(args) or 0)
    assert cli.main(words) == 0 and understood


def test_folders_and_files_are_there() -> None:
    named = {path.rstrip(".,") for path in re.findall(r"k8s/[\w/.-]*\w", PAGE)}
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path
    for folder in re.findall(r"apply -k (k8s\S+)", PAGE):
        assert (ROOT / folder / "kustomization.yaml").is_file(), folder


def test_services_have_the_names_that_kuberay_gives() -> None:
    """`NAME-head-svc` for a RayCluster, `NAME-serve-svc` for a RayService, the RayJob's own name for its submitter."""
    manifests = "".join(path.read_text() for path in (ROOT / "k8s").rglob("*.yaml"))
    for name in re.findall(r"(?:service|svc)/(\S+)-(?:head|serve)-svc", PAGE):
        assert f"name: {name}\n" in manifests
    for name in re.findall(r"job/(\S+)", PAGE):
        assert f"name: {name}\n" in manifests
