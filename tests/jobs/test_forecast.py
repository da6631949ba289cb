"""Forecasts of whole runs: what is in an archive, how long a model takes for it, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main

pytest.importorskip("torch")


def test_an_archive_is_probed_and_a_run_holds_forecast_beside_fact(
    tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str], ray_session: None
) -> None:
    for number, seconds in enumerate((6, 3, 9)):
        make_clip(tmp_path / "clips" / f"{number}.mp4", seconds, number)
    (tmp_path / "clips" / "bad.mp4").write_bytes(b"no video" * 100)
    clips, log, file = str(tmp_path / "clips"), str(tmp_path / "log"), str(tmp_path / "forecast.json")
    model = "python:jobs.bench.models:wordy"
    words = ["forecast", clips, "--model", model, "--window", "2", "--fps", "2", "--short-side", "32", "--cpus", "2"]
    assert main([*words, "--calibrate", "2", "--price", "3", "--out", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(Path(file).read_text())
    archive, measured = facts["archive"], facts["calibration"]
    assert archive["hours"] == pytest.approx(18 / 3600) and archive["hours_low"] == archive["hours_high"]
    assert (archive["videos"], archive["probed"], archive["unreadable_share"]) == (4, 4, 0.25)
    windows = archive["windows"]
    assert facts["core_hours"] == pytest.approx(windows * (measured["decode_s"] + measured["model_s"]) / 3600)
    assert facts["hours"] == pytest.approx(facts["core_hours"] / 2 / 0.9) and facts["cost"] == 6 * facts["hours"]
    assert measured["features_bytes"] > 0 and measured["log_bytes"] > measured["features_bytes"]
    assert measured["events"] > 0

    run = ["run", clips, "--log", log, "--model", model, "--window", "2", "--fps", "2", "--short-side", "32"]
    assert main([*run, "--set", "cpus=0.5", "--replicas", "1", "--forecast", file]) == 3  # one is no video
    capsys.readouterr()
    assert main(["forecast", "--compare", log, "--json"]) == 0
    (compared,) = json.loads(capsys.readouterr().out)
    told, fact = compared["numbers"]["windows"]
    assert (round(told), fact) == (round(windows), fact) and told == pytest.approx(fact, rel=0.05)
    assert compared["numbers"]["hours of video"][1] == pytest.approx(18 / 3600)
    told, fact = compared["numbers"]["storage MiB"]
    kept = [f for record in ("events", "videos", "windows") for f in Path(log).glob(f"record={record}/*")]
    beside = list(Path(log).glob("_features/*"))
    assert beside and fact * 2**20 == sum(f.stat().st_size for f in (*kept, *beside))
    assert told == facts["log_bytes"] / 2**20 and told / 4 < fact < 4 * told  # in one commit or four
    assert main(["forecast", "--compare", log]) == 0
    assert "fact / forecast" in capsys.readouterr().out


def test_a_served_model_is_measured_by_the_clock_with_many_windows_at_once(
    tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.model import served_fake

    for number, seconds in enumerate((6, 3, 9)):
        make_clip(tmp_path / "clips" / f"{number}.mp4", seconds, number)
    with served_fake.running() as fake:
        fake.work_s = 1.0
        model = f"openai:{fake.url}#tiny"
        words = ["forecast", str(tmp_path / "clips"), "--model", model, "--window", "1", "--cpus", "2", "--price", "3"]
        assert main([*words, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert main([*words, "--gpu", "H100"]) == 1
        assert "what a server makes of its GPUs is measured" in capsys.readouterr().err
        asked, fake.plan = len(fake.came), [(400, {}, "no")]
        assert main(words) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1 and len(fake.came) > asked
        fake.plan, fake.work_s = [served_fake.chunks()], 0.1
        assert main(words) == 0
    told = capsys.readouterr().out
    measured, windows = facts["calibration"], facts["archive"]["windows"]
    assert fake.most_at_once >= 12 and asked >= measured["watched"] == round(windows) > 16
    assert 1.0 / windows <= measured["server_s"] < 0.5  # 1 s: one window at a time
    server_h = windows * measured["server_s"] / 3600
    cores_h = windows * (measured["decode_s"] + measured["model_s"]) / 3600
    assert facts["hours"] == pytest.approx(max(server_h, cores_h / 2) / 0.9)
    assert facts["bottleneck"] == ("server" if server_h > cores_h / 2 else "decode")
    assert facts["basis"]["model"] == "measured at the server" and facts["cost"] == 6 * facts["hours"]
    assert "s a window by the clock" in told and "the server's is not counted" in told


def test_a_calibration_sends_no_picture_that_the_run_would_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import base64

    import av
    import cv2
    import numpy as np

    from tests.model import served_fake

    clip = tmp_path / "coded.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "ultrafast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 320, 180, "yuv420p", 1
        picture = np.full((180, 320, 3), 230, np.uint8)
        code = cv2.resize(cv2.QRCodeEncoder.create().encode("A7"), (100, 100), interpolation=cv2.INTER_NEAREST)
        picture[40:140, 110:210] = code[..., None]
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())

    def seen(*words: str) -> list[str]:
        """What a reader of codes gets out of each picture that came."""
        fake.came.clear()
        assert main(["forecast", str(clip), "--model", model, "--window", "1", "--cpus", "1", *words]) == 0
        told = [message["content"] for body in fake.came for message in body["messages"]]
        parts = [part for content in told if isinstance(content, list) for part in content]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        data = [base64.b64decode(url.partition(",")[2]) for url in urls]
        pictures = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in data]
        return [cv2.QRCodeDetector().detectAndDecode(picture)[0] for picture in pictures if picture is not None]

    with served_fake.running() as fake:
        fake.facts = {"/v1/models": {"data": [{"id": "tiny", "owned_by": "somebody"}]}}
        model = f"openai:{fake.url}#tiny"
        assert set(seen()) == {"A7"}
        assert set(seen("--redact", "codes")) == {""}
    assert "to decode a window and hide in it what is to be hidden" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "forecast what?"),
        (["ARCHIVE", "--gpu", "H100"], "the signal analysers use none"),
        (["ARCHIVE", "--model", "30B-A3B"], "say on which GPUs"),
        (["ARCHIVE", "--model", "30B-A3B", "--gpu", "H9000"], "--gpu H9000: not known; there are H100"),
        (["ARCHIVE", "--model", "235B-A22B", "--gpu", "L4", "--count", "8"], "does not fit L4"),
        (["ARCHIVE", "--model", "235B-A22B", "--gpu", "H100", "--count", "2"], "one replica takes 16 H100"),
        (["ARCHIVE", "--count", "0"], "at least 1"),
        (["ARCHIVE", "--precision", "int4"], "signals has no setting 'precision'"),
        (["ARCHIVE", "--model", "python:jobs.bench.models:nothing", "--ranks", "1,2"], "--ranks 1,2: the calibration"),
        (["ARCHIVE", "--compute", "7"], "--compute 7: a share"),
        (["/nowhere"], "no such file"),
    ],
)
def test_what_cannot_be_forecast_is_one_line(
    words: list[str], said: str, tmp_path: Path, make_clip: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", 2)
    words = [str(clip) if word == "ARCHIVE" else word for word in words]
    assert main(["forecast", *words, *(["--calibrate", "0"] if words else [])]) == 1
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_model_that_is_calibrated_is_loaded_as_it_would_run(
    tmp_path: Path, make_clip: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.bench.models import colours

    told: list[tuple[str, Any]] = []

    class Noted:
        def profile(self, settings: Any) -> Any:
            told.append(("profile", dict(settings)))
            return colours.profile(settings)

        def load(self, settings: Any) -> Any:
            told.append(("load", dict(settings)))
            return colours.load(settings)

    monkeypatch.setattr("model.registry.find_model", lambda spec: Noted())
    clip = make_clip(tmp_path / "a.mp4", 2)
    assert main(["forecast", str(clip), "--model", "x", "--precision", "int4", "--ranks", "1"]) == 0
    assert told == [(name, {"precision": "int4", "ranks": 1}) for name in ("profile", "load")]
    assert "weights in int4" in capsys.readouterr().out
    told.clear()
    assert main(["forecast", str(clip), "--model", "x"]) == 0
    assert told == [("profile", {}), ("load", {})]


def test_durations_are_estimated_from_a_sample_with_an_honest_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """On archives whose truth is known, the 90% interval holds it about nine times in ten."""
    import random
    from dataclasses import replace

    from jobs.forecasting import archive
    from pipeline.plan import Windowing
    from pipeline.video import Source, Video

    video = Video("0" * 32, ("u",), 1, 1, 0, 640, 360, 0, "h264", 25.0, 0)
    held = 0
    for trial in range(60):
        draw = random.Random(trial)
        lengths = {f"v{n}": round(draw.lognormvariate(4, 1) * 1e6) for n in range(800)}
        rate = {name: draw.uniform(0.5, 1.5) for name in lengths}
        size = {name: int(lengths[name] * rate[name]) for name in lengths}
        monkeypatch.setattr(archive, "list_sources", lambda *_, size=size: (Source(n, s) for n, s in size.items()))
        monkeypatch.setattr(
            archive, "probe", lambda u, s, *_, lengths=lengths: replace(video, size_bytes=s, duration_us=lengths[u])
        )
        found = archive.look_at(["x"], Windowing(), 40, seed=trial)
        truth = sum(lengths.values()) / 3.6e9
        assert found.names == 800 and found.probed == 40 and found.low < found.hours < found.high
        held += found.low <= truth <= found.high
    assert 46 <= held <= 60


def test_a_folder_that_cannot_be_listed_is_said_to_be_left_out(
    tmp_path: Path, make_clip: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jobs.forecasting import archive
    from pipeline.archive import list_sources
    from pipeline.listing import Unlisted
    from pipeline.plan import Windowing

    make_clip(tmp_path / "a.mp4", 2)
    found = [*list_sources([str(tmp_path)]), Unlisted("s3://a/d1/", "storage", "HTTP 503")]
    monkeypatch.setattr(archive, "list_sources", lambda *_: iter(found))
    facts = archive.look_at([str(tmp_path)], Windowing(), 4)
    assert facts.names == facts.probed == 1 and "s3://a/d1/: cannot be listed" in caplog.text
