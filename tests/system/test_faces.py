"""One log, watched by the bundled model, asked the same questions by command line, Python, HTTP and the web page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
TestClient = pytest.importorskip("fastapi.testclient").TestClient

import secondsight  # noqa: E402
from jobs.cli import main  # noqa: E402
from jobs.demo.archive import Film, write_archive  # noqa: E402
from jobs.run import run  # noqa: E402
from jobs.serve.app import create_app  # noqa: E402
from jobs.serve.settings import LOOPBACK, Settings  # noqa: E402
from tests.jobs.test_serve_page import TOKEN, browser, served_at  # noqa: E402, F401

FILMS = (
    Film("ferry.mp4", "RIVER", 24, 320, 180, Fraction(25), 50),
    Film("old pier.mkv", "MARKET", 24, 320, 180, Fraction(25), 25),
)
VIDEO = "ferry.mp4"


@dataclass(frozen=True)
class Asked:
    log: str
    archive: Path
    python: secondsight.Log
    client: Any

    def http(self, path: str, **params: Any) -> Any:
        answer = self.client.get(path, params={k: v for k, v in params.items() if v is not None})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def asked(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("faces")
    archive, log = folder / "archive", str(folder / "log")
    write_archive(archive, seed=900_778, films=FILMS)
    run([str(archive / film.file) for film in FILMS], log, "bundled", replicas=1)
    app = create_app(Settings(log, hosts=LOOPBACK))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield Asked(log, archive, secondsight.open(log), client)


Ask = Callable[..., Any]


@pytest.fixture
def cli(asked: Asked, capsys: pytest.CaptureFixture[str]) -> Ask:
    def ask(command: str, *arguments: str) -> Any:
        assert main([command, asked.log, *arguments, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def ids(rows: Any) -> list[str]:
    return [row["event_id"] for row in (rows.to_pylist() if hasattr(rows, "to_pylist") else rows)]


def test_there_is_something_to_ask_about(asked: Asked) -> None:
    kinds = asked.python.kinds()
    assert sum(kinds.values()) >= 6 and len(kinds) >= 3


def test_by_second(asked: Asked, cli: Ask) -> None:
    for second in (0, 2, 5, 8, 11):
        found = ids(asked.python.at(VIDEO, second))
        assert found == ids(cli("query", "--video", VIDEO, "--at", str(second)))
        assert found == ids(asked.http("/api/at", video=VIDEO, t=second)["events"])
    whole = ids(asked.python.between(VIDEO, 0, 24))
    assert len(whole) >= 3
    assert whole == ids(cli("query", "--video", VIDEO, "--between", "0", "0:24"))
    assert whole == ids(asked.http("/api/between", video=VIDEO, start=0, end=24)["events"])


def test_around_an_event(asked: Asked, cli: Ask) -> None:
    middle = asked.python.between(VIDEO, 0, 24).to_pylist()[2]
    anchor = asked.python.anchor(VIDEO, middle["event_id"])
    for word, python in (("before", asked.python.before), ("after", asked.python.after)):
        found = ids(python(VIDEO, anchor, 2))
        assert found == ids(cli("query", "--video", VIDEO, f"--{word}", middle["event_id"], "--count", "2"))
        assert found == ids(asked.http(f"/api/{word}", video=VIDEO, event=middle["event_id"], count=2)["events"])
    also = ids(asked.python.meanwhile(VIDEO, anchor))
    assert also == ids(cli("query", "--video", VIDEO, "--while", middle["event_id"]))
    assert also == ids(asked.http("/api/meanwhile", video=VIDEO, event=middle["event_id"])["events"])
    kind = middle["kind"]
    for end in ("first", "last"):
        found = ids(getattr(asked.python, end)(VIDEO, kinds=[kind]))
        assert found and found == ids(cli("query", "--video", VIDEO, f"--{end}", "--kind", kind))
        assert found == ids(asked.http(f"/api/{end}", video=VIDEO, kind=kind)["events"])


def test_sums_and_gaps(asked: Asked, cli: Ask) -> None:
    kinds = asked.python.kinds(VIDEO)
    assert {row["kind"]: row["events"] for row in cli("query", "--video", VIDEO, "--kinds")} == kinds
    [of_it] = asked.http("/api/kinds", video=VIDEO)["videos"]
    assert {row["kind"]: row["events"] for row in of_it["kinds"]} == kinds
    gaps = [list(span) for span in asked.python.gaps(VIDEO, 0.1)]
    [of_it] = asked.http("/api/gaps", video=VIDEO, least=0.1)["videos"]
    assert [[g["start_us"], g["end_us"]] for g in of_it["gaps"]] == gaps
    assert [[r["start_us"], r["end_us"]] for r in cli("query", "--video", VIDEO, "--gaps", "0.1")] == gaps


def test_by_words_and_by_question(asked: Asked, cli: Ask) -> None:
    text = next(e["text"] for e in asked.python.between(None, 0, 24).to_pylist() if " " in e["text"])
    word = text.split()[-1]
    found = [hit.event["event_id"] for hit in asked.python.search(word)]
    assert found and found == ids(cli("search", word))
    assert found == [hit["event"]["event_id"] for hit in asked.http("/api/search", q=word)["hits"]]
    question = f"when does {text}, and what happens next?"
    evidence = [(e.number, e.event["event_id"]) for e in asked.python.ask(question).evidence]
    assert evidence
    assert evidence == [(e["number"], e["event_id"]) for e in cli("ask", question)["evidence"]]
    said = asked.http("/api/ask", q=question)
    assert evidence == [(e["number"], e["event"]["event_id"]) for e in said["evidence"]] and said["answer"] is None


def test_by_picture(asked: Asked, cli: Ask, tmp_path: Path) -> None:
    """A still, made smaller, leads back to its own second, whoever is asked."""
    import cv2

    from pipeline.stills import still

    us = 6_300_000
    picture = still(str(asked.archive / "old pier.mkv"), us, height=120)
    path = tmp_path / "still.png"
    assert cv2.imwrite(str(path), cv2.imdecode(_bytes(picture.jpeg), cv2.IMREAD_COLOR))
    moments = asked.python.search_image(str(path), limit=4)
    own = [m for m in moments if m.name.endswith("old pier.mkv") and m.start_us - 1e6 <= us < m.end_us + 1e6]
    assert own  # among the first four: jobs.bench.pictures counts how often it is the first
    found = [(m.video_id, m.at_us) for m in moments]
    assert found == [
        (row["video_id"], round(row["at_s"] * 1e6)) for row in cli("search", "--image", str(path), "--limit", "4")
    ]
    answer = asked.client.post("/api/search/image?limit=4", content=path.read_bytes())
    assert [(m["video_id"], m["at_us"]) for m in answer.json()["moments"]] == found
    like = [(m.video_id, m.at_us) for m in asked.python.search_like("old pier.mkv", us / 1e6, limit=4)]
    rows = cli("search", "--like", "old pier.mkv", "--at", "6.3", "--limit", "4")
    assert like == [(row["video_id"], round(row["at_s"] * 1e6)) for row in rows]
    said = asked.http("/api/search/like", of="old pier.mkv", t=6.3, limit=4)
    assert like == [(m["video_id"], m["at_us"]) for m in said["moments"]]


def _bytes(data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, np.uint8)


def test_pictures_and_files(asked: Asked, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    video_id = next(v["video_id"] for v in asked.http("/api/videos")["videos"] if v["name"].endswith(VIDEO))
    assert main(["frame", asked.log, VIDEO, "5.2", "--out", str(tmp_path / "f.jpg")]) == 0
    answer = asked.client.get(f"/api/videos/{video_id}/still?t=5.2&height=2160")
    assert answer.content == (tmp_path / "f.jpg").read_bytes()
    assert main(["export", asked.log, "--format", "vtt", "--video", VIDEO, "--out", str(tmp_path / "e.vtt")]) == 0
    assert asked.client.get(f"/api/videos/{video_id}/export?format=vtt").text == (tmp_path / "e.vtt").read_text()
    assert main(["clip", asked.log, "--video", VIDEO, "--between", "2", "5", "--out", str(tmp_path / "c.mp4")]) == 0
    assert asked.client.get(f"/api/videos/{video_id}/clip?start=2&end=5").content == (tmp_path / "c.mp4").read_bytes()
    capsys.readouterr()


def test_sql_counts_what_the_others_list(asked: Asked, cli: Ask) -> None:
    [row] = cli("sql", "select count(*) as n from events")
    assert row["n"] == asked.python.sql("select count(*) as n from events")["n"][0].as_py()
    assert row["n"] == sum(asked.python.kinds().values()) == asked.http("/api/overview")["events"]


def test_the_page_shows_the_same(asked: Asked, browser: Any) -> None:  # noqa: F811
    events = asked.python.between(VIDEO, 0, 24).to_pylist()
    servers = served_at(Path(asked.log))
    address = next(servers)
    context = browser.new_context(bypass_csp=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(f"{address}#token={TOKEN}")
    page.locator(".video[role=listitem]", has_text=VIDEO).click()
    page.wait_for_selector(".event")
    shown = [row.split("\n")[1] for row in page.locator(".event").all_inner_texts()]
    assert shown == [e["text"] or e["kind"] for e in events][: len(shown)] and len(shown) == min(
        len(events), len(shown)
    )
    at = events[2]["start_us"] / 1e6 + 0.1
    page.evaluate("at => { document.querySelector('video').currentTime = at; }", at)
    on = [e["text"] for e in events if e["start_us"] / 1e6 <= at < e["end_us"] / 1e6]
    page.wait_for_function("n => document.querySelectorAll('.now .what').length === n", arg=len(on))
    assert [t.strip() for t in page.locator(".now .what").all_inner_texts()] == on
    word = events[2]["text"].split()[-1]
    page.goto(f"{address}#/search?q={word}")
    page.wait_for_selector(".hit")
    wanted = [hit.event["event_id"] for hit in asked.python.search(word, limit=24)]
    links = [a.get_attribute("href") for a in page.locator(".hit").all()]
    assert [link.split("e=")[1].split("&")[0] for link in links if link] == wanted
    context.close()
    next(servers, None)
