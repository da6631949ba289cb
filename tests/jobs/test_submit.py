"""Sending runs to a cluster: what travels along, and the whole way against a real Ray head with a token."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import submit
from jobs.cli import main
from jobs.extras import BY_MODEL, needed
from jobs.jobserver import find_token
from jobs.package import Shipment, localise, requirements, run_actions, run_arguments, runtime_env
from model.registry import BUILT_IN
from pipeline.errors import UsageError
from pipeline.live import read_live
from pipeline.log import EventLog
from tests.jobs.ray_head import Head, ray_head
from workers.metrics import METRICS, PREFIX


def _parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    submit.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "words",
    [
        ["a.mp4", "--log", "L"],
        ["s3://b/x y/*.mp4", "-odd.mp4", "--log=s3://b/log", "--fps", "30000/1001", "--set", "a=1", "--set", "b=x y"],
        ["a", "b", "--log", "L", "--retry-failed", "--ranks", "2", "--include", "*.mov", "--trace=otlp"],
    ],
)
def test_arguments_survive_being_written_out_and_read_again(words: list[str]) -> None:
    words = [w for w in words if not w.startswith("-odd")]
    parser = submit._run_parser()
    values = parser.parse_args(words)
    again = parser.parse_args(run_arguments(run_actions(parser), values))
    assert again == values


def test_paths_mean_the_same_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "beside.mp4").touch()
    (tmp_path / "lists" / "l.txt").write_text("# films\nbeside.mp4\nelse/where.mp4\n/abs.mp4\ns3://b/c.mp4\n*.mov\n")
    (tmp_path / "mine.toml").write_text("x")
    folder = tmp_path / "job"
    folder.mkdir()
    args = _parsed("clips", "s3://b/a/", "@lists/l.txt", "@s3://b/l.txt", "--log", "LOG", "--prompt", "mine.toml")
    notices = localise(args, folder)
    assert args.archive == [str(tmp_path / "clips"), "s3://b/a/", "@list2.txt", "@s3://b/l.txt"]
    assert args.log == str(tmp_path / "LOG") and args.prompt == "mine.toml" and (folder / "mine.toml").is_file()
    lines = (folder / "list2.txt").read_text().splitlines()
    here = str(tmp_path)
    assert lines == ["# films", f"{here}/lists/beside.mp4", f"{here}/else/where.mp4", "/abs.mp4", "s3://b/c.mp4",
                     f"{here}/lists/*.mov"]  # fmt: skip
    assert len(notices) == 1 and f"{here}/clips" in notices[0] and f"{here}/LOG" in notices[0]
    with pytest.raises(UsageError, match=r"nowhere\.txt: the list cannot be read"):
        localise(_parsed("@nowhere.txt", "--log", "L"), folder)


@pytest.mark.parametrize(
    ("model", "there"),
    [
        ("weights/moe", "{}/weights/moe"),
        ("weights/q.gguf", "{}/weights/q.gguf"),  # may lie on the nodes alone
        ("vllm:./weights/moe", "vllm:{}/weights/moe"),
        ("vllm:~/weights/moe", "vllm:{}/weights/moe"),
        ("vllm:org/name", "vllm:org/name"),
        ("org/name", "org/name"),
        ("s3://b/q.gguf", "s3://b/q.gguf"),
        ("openai:http://h:1/v1#q.gguf", "openai:http://h:1/v1#q.gguf"),
        ("bundled", "bundled"),  # though a folder has this name
    ],
)
def test_a_models_path_means_the_same_there(
    model: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("weights/moe", "bundled", "job"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "told.json").write_text("{}")
    args = _parsed("s3://b/a/", "--log", "s3://b/log", "--model", model, "--forecast", "told.json")
    notices = localise(args, tmp_path / "job")
    assert args.model == there.format(tmp_path)
    assert notices == ([f"every node must see {args.model.removeprefix('vllm:')}"] if "{}" in there else [])
    assert args.forecast == "forecast.json" and (tmp_path / "job" / "forecast.json").read_text() == "{}"


QWEN, GGUF, VLLM = {"torch", "transformers", "llguidance"}, {"gguf"}, {"vllm"}
OPTIONAL = {*QWEN, *GGUF, *VLLM, "s3fs", "decord2", "dlib-bin", "opentelemetry-sdk"}


@pytest.mark.parametrize(
    ("words", "packages"),
    [
        ([], set()),
        (["--model", "signals"], set()),
        (["--model", "bundled"], QWEN),
        (["--model", "org/name"], QWEN),
        (["--model", "/models/moe"], QWEN),
        (["--model", "/models/q.gguf"], QWEN | GGUF),
        (["--model", "s3://b/q.gguf"], QWEN | GGUF | {"s3fs"}),
        (["--model", "vllm:org/name"], VLLM),
        (["--model", "openai:http://h:8000/v1#q"], set()),
        (["--model", "python:my.models:one"], set()),
        (["s3://b/x.mp4"], {"s3fs"}),
        (["@s3://b/list.txt"], {"s3fs"}),
        (["--decoder", "decord"], {"decord2"}),
        (["--redact", "text,faces"], {"dlib-bin"}),
        (["--redact", "text,faces=yunet.onnx"], set()),  # OpenCV's, which is there
        (["--trace", "spans.jsonl"], {"opentelemetry-sdk"}),
    ],
)
def test_a_run_gets_the_packages_that_it_needs_and_no_others(words: list[str], packages: set[str]) -> None:
    args = _parsed("clip.mp4", *words, "--log", "L")
    assert _names(requirements(needed(args, args.archive))) & OPTIONAL == packages


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", requirement)[0] for requirement in requirements}


def test_what_is_needed_is_sent_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model, by what a list names, and by the user."""
    from jobs import jobserver

    (tmp_path / "list.txt").write_text("clip.mp4\ns3://b/y.mp4\n")
    sent: dict[str, Any] = {}

    class Server:
        address = "http://h:8265"

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def submit(self, entrypoint: str, job: str, **facts: Any) -> None:
            sent.update(facts)

    monkeypatch.setattr(jobserver, "JobServer", Server)
    words = [f"@{tmp_path}/list.txt", "--model", "vllm:org/name", "--extra", "trace", "--log", "L"]
    assert main(["submit", *words, "--address", Server.address, "--no-wait"]) == 0
    names = _names(sent["runtime_env"]["pip"])
    assert names & OPTIONAL == {"vllm", "s3fs", "opentelemetry-sdk"} and {"av", "deltalake"} <= names


def test_a_job_is_resumed_only_where_its_relative_paths_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    (there / "weights" / "moe").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    words = (
        ["clips/", "--log", "/shared/log"],
        ["s3://b/a/", "--log", "log"],
        ["@list.txt", "--log", "s3://b/log"],
        ["s3://b/a/", "--log", "s3://b/log", "--redact", "text,faces=yunet.onnx"],
        ["s3://b/a/", "/clips", "@~/l.txt", "--log", "s3://b/log", "--prompt", "ocr", "--model", "weights/moe"],
    )
    monkeypatch.chdir(there)
    sent = [submit._as_given(_parsed(*each)) for each in words]
    job = argparse.Namespace(status=argparse.Namespace(value="STOPPED"))
    server = argparse.Namespace(job=lambda number: argparse.Namespace(**vars(job), metadata={"given": sent[number]}))
    for number, each in enumerate(words):
        monkeypatch.chdir(tmp_path / "here")
        again = submit._arguments_of(server, number, _parsed())  # type: ignore[arg-type]
        assert again.archive == each[: each.index("--log")]
        assert Path.cwd() == (tmp_path / "here" if number == 4 else there)
    assert again.model == str(there / "weights" / "moe")
    monkeypatch.chdir(tmp_path / "here")
    there.rename(tmp_path / "gone")
    for number, name in enumerate(("clips/", "log", "list.txt", "yunet.onnx")):
        with pytest.raises(UsageError, match=rf"{there}, which is not here, and what {name} meant"):
            submit._arguments_of(server, number, _parsed())  # type: ignore[arg-type]
    assert submit._arguments_of(server, 4, _parsed()).log == "s3://b/log"  # type: ignore[arg-type]
    assert Path.cwd() == tmp_path / "here"


def test_every_model_that_comes_with_secondsight_has_its_extras_said() -> None:
    assert set(BUILT_IN) <= {pattern for pattern, _ in BY_MODEL}
    assert BY_MODEL[-1] == ("*", ("qwen",))
    for _, extras in BY_MODEL:
        requirements(extras)  # raises UsageError for what is none


def test_what_is_shipped_runs_without_the_checkout(tmp_path: Path) -> None:
    own = tmp_path / "own_model.py"
    own.write_text("x = 1\n")
    folder = tmp_path / "job"
    folder.mkdir()
    env = runtime_env(Shipment(extras=("s3",), more_pip=("einops",), modules=(str(own),), env={"A": "b"}), folder)
    assert env["working_dir"] == str(folder) and env["env_vars"]["A"] == "b"
    names = _names(env["pip"])
    assert {"av", "deltalake", "obstore", "s3fs", "einops"} <= names and not names & {"ray", "torch", "pytest"}
    assert not list(folder.rglob("__pycache__"))
    # In a Python that sees the shipped folder and the installed libraries, but not the checkout.
    code = "import jobs.cli, workers, own_model; from jobs.watch import _code_version; "
    code += "print(jobs.__path__[0], _code_version())"
    paths = [p for p in sys.path if "site-packages" in p]
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {paths!r}; {code}"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert said[0] == str(folder / "jobs") and re.match(r"\d+\.\d+", said[1])
    with pytest.raises(UsageError, match="--extra nonsense"):
        requirements(("nonsense",))
    assert "working_dir" not in runtime_env(Shipment(code=False, pip=False), _empty(tmp_path / "empty"))


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_tokens_are_looked_for_where_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert find_token() == "home"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "environment")
    assert find_token() == "environment"
    (tmp_path / "file").write_text("file\n")
    assert find_token(str(tmp_path / "file")) == "file"
    (tmp_path / "file").write_text("two words")
    with pytest.raises(UsageError, match="holds no token"):
        find_token(str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be read"):
        find_token(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "http://127.0.0.1:1"], "submit what?"),
        (["a.mp4", "--log", "L"], "--address: write"),
        (["--list", "--log", "L", "--address", "x:1"], "take no archive"),
        (["--list", "--address", "ray://h:10001"], "write the job server's address"),
        (["--list", "--address", "http://127.0.0.1:1"], "no job server answers there"),
        (["--list", "--address", "https://127.0.0.1:1", "--ca", "/none.pem"], "/none.pem: no such file"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", *words]) == 1
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


# --- Against a real head.


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


def test_the_whole_life_of_a_job(
    head: Head, tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        make_clip(tmp_path / "clips" / f"clip{number}.mp4", 6, number)
    log = tmp_path / "log"
    token = tmp_path / "token"
    token.write_text(head.token)
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    server = ["--token-file", str(token), "--no-pip"]
    small = ["--set", "window_s=2", "--set", "fps=2", "--set", "short_side=32", "--set", "cpus=0.5", "--replicas", "1"]

    def command(*words: str) -> tuple[int, str, str]:
        status = main(["submit", *words, *server])
        said = capsys.readouterr()
        return status, said.out, said.err

    # A wrong token, and a job that does not exist.
    (tmp_path / "wrong").write_text("0" * 64)
    assert main(["submit", "--list", "--token-file", str(tmp_path / "wrong")]) == 1
    assert "the token was refused" in capsys.readouterr().err
    assert command("--status", "nobody")[0] == 1

    # A run: its log is shown, its exit status is ours, its events are in the log.
    model = ["--model", "python:jobs.bench.models:colours"]
    status, out, err = command(str(tmp_path / "clips"), "--log", str(log), "--job", "first", *model, *small)
    assert status == 0, out + err
    assert "2 videos" in out and "every node must see" in err
    videos = EventLog.open(str(log)).snapshot()
    assert [s.state for s in read_live(str(log))] == ["done"] and videos is not None

    # Its metrics were served by the node.
    served = _metrics(head, "windows_total")
    assert sum(served) == read_live(str(log))[0].windows_done > 0

    # A slow one: left to itself, watched, stopped as by Ctrl-C, resumed.
    slow = ["--model", "python:jobs.bench.models:sleeping", "--set", "seconds=1.0", *small]
    status, out, _ = command(str(tmp_path / "clips"), "--log", str(log), "--job", "slow", "--no-wait", *slow)
    assert (status, out.strip()) == (0, "slow")
    deadline = time.monotonic() + 200
    while not any(s.state == "running" and s.windows_done for s in read_live(str(log))):
        assert time.monotonic() < deadline, command("--logs", "slow", "--no-wait")[1]
        time.sleep(0.2)
    _, out, _ = command("--list", "--json")
    listed = {job["job"]: job for job in json.loads(out)}
    assert listed["slow"]["status"] == "running" and listed["slow"]["log"] == str(log)
    assert listed["first"]["status"] == "succeeded"
    runs = [json.loads(command("--status", job, "--json")[1])["live"] for job in ("first", "slow")]
    assert [(run["job"], run["state"]) for run in runs] == [("first", "done"), ("slow", "running")]
    status, _, err = command("--resume", "slow")
    assert status == 1 and "has not ended" in err
    assert command("--stop", "slow")[:2] == (0, "slow: stopped\n")
    assert read_live(str(log))[0].state == "stopped"
    assert "what is finished is in" in command("--logs", "slow", "--no-wait")[1]
    status, out, err = command("--resume", "slow", "--job", "again")
    assert status == 0, out + err
    assert read_live(str(log))[0].state == "done"
    done = {v for config in _configs(log) for v, s in EventLog.open(str(log)).done(config).items() if s == "done"}
    assert len(done) == 2


def _configs(log: Path) -> set[str]:
    from pipeline.log.sql import select

    rows = select(EventLog.open(str(log)).snapshot(), "select distinct config_hash from runs").to_pylist()
    assert len(rows) == 2
    return {row["config_hash"] for row in rows}


def _metrics(head: Head, name: str) -> list[float]:
    """The values of one metric on the head's Prometheus page, once they are there; all the others must be, too."""
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(head.metrics, headers={"Authorization": f"Bearer {head.token}"})
        page = urllib.request.urlopen(request, timeout=20).read().decode()
        found = re.findall(rf"^ray_{PREFIX}{name}\{{[^}}]*\}} (\S+)$", page, re.M)
        if found or time.monotonic() > deadline:
            break
        time.sleep(1)
    names = set(re.findall(rf"^# TYPE (?:ray_)?{PREFIX}(\w+) ", page, re.M))
    later = {"expert_imbalance", "hours_per_hour", "failures_total", "nodes_lost_total", "replica_deaths_total"}
    unconditional = {m.name for m in METRICS} - later - {"retries_total", "tokens_total"}
    assert unconditional <= names, unconditional - names
    return [float(value) for value in found]
