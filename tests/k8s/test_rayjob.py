"""k8s/*/run: what the entrypoint becomes on its way through KubeRay's submitter and Ray's job server to the head."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job import cli as job_cli

from jobs import run
from tests.k8s.kustomize import build

K8S = Path(__file__).resolve().parents[2] / "k8s"
FOLDERS = ("run", "overlays/kind/run", "overlays/gpu/run")
SHOWS_ITS_WORDS = "#!/bin/sh\nexec '{python}' -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n"


def _program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def _submitted(entrypoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the head is given. KubeRay 1.7 (common/job.go) joins its command with the entrypoint for `/bin/bash -ce` in
    the submitter's pod; Ray's command line puts the words that it gets together again."""
    _program(tmp_path / "submitter", "ray", SHOWS_ITS_WORDS.format(python=sys.executable))
    pasted = " ".join(["ray job submit --address http://head:8265 --no-wait", "--", entrypoint.strip(), ";"])
    got = subprocess.run(
        ["/bin/bash", "-ce", "--", pasted],
        env={"PATH": f"{tmp_path / 'submitter'}:/usr/bin:/bin"},  # its pod has no envFrom
        capture_output=True,
        text=True,
        check=True,
    )
    words = json.loads(got.stdout)
    sent: list[str] = []

    class Client:
        def submit_job(self, entrypoint: str, **_: Any) -> str:
            sent.append(entrypoint)
            return "job"

        def get_version(self) -> str:
            return "4"

    monkeypatch.setattr(job_cli, "_get_sdk_client", lambda *_, **__: Client())
    job_cli.submit.main(words[2:], standalone_mode=False)  # without `job submit`
    return sent[0]


def _on_head(command: str, config: dict[str, str], status: int, tmp_path: Path) -> tuple[int, list[str]]:
    """As Ray's job supervisor starts it, with a `secondsight` that ends with `status`: status, its words."""
    words = tmp_path / "words.json"
    text = (
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(words)!r}, 'w'))\nsys.exit({status})"
    )
    _program(tmp_path / "head", "secondsight", text)
    env = {"PATH": f"{tmp_path / 'head'}:/usr/bin:/bin", **config}
    ended = subprocess.run(command, shell=True, env=env, check=False)
    return ended.returncode, json.loads(words.read_text())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_run_gets_the_words_of_the_config_map(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = [o["data"] for o in build(K8S / folder) if o["kind"] == "ConfigMap"]
    (job,) = [o for o in build(K8S / folder) if o["kind"] == "RayJob"]
    assert job["spec"]["submissionMode"] == "K8sJobMode"
    command = _submitted(job["spec"]["entrypoint"], tmp_path, monkeypatch)
    ended, words = _on_head(command, config, 0, tmp_path)
    assert ended == 0
    assert words == [
        *("run", config["SECONDSIGHT_ARCHIVE"], "--log", config["SECONDSIGHT_LOG"]),
        *shlex.split(config["SECONDSIGHT_OPTIONS"]),
        *("--log-format", "json"),
    ]
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    assert parser.parse_args(words[1:]).archive == [config["SECONDSIGHT_ARCHIVE"]]


def test_videos_that_cannot_be_read_do_not_fail_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = [o for o in build(K8S / "run") if o["kind"] == "RayJob"]
    command = _submitted(job["spec"]["entrypoint"], tmp_path, monkeypatch)
    config = {"SECONDSIGHT_ARCHIVE": "a/ b/", "SECONDSIGHT_LOG": "log", "SECONDSIGHT_OPTIONS": ""}
    for status, expected in ((0, 0), (run.EXIT_FAILURES, 0), (1, 1), (2, 1)):
        ended, words = _on_head(command, config, status, tmp_path)
        assert ended == expected and words[:3] == ["run", "a/", "b/"], status
