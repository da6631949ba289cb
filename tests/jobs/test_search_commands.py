"""query, search, ask and sql as a person meets them: what they print, and one clear line for every mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import secondsight
from jobs.cli import main
from pipeline.event import Event
from pipeline.features.vectors import FrameFeatures
from pipeline.log import EventLog
from tests.pipeline.logs import run_record, video_result

S = 1_000_000


def at(start: float, end: float, kind: str, text: str) -> Event:
    return Event(round(start * S), round(end * S), kind, text, 0.5, 0, 0, (round(start * S),), {"level": 1})


STORY = [
    at(1, 3, "appear", "a red circle appears"),
    at(2, 6, "text", "EXIT"),
    at(4, 5, "leave", "the red circle leaves"),
    at(7, 8, "appear", "a blue square appears"),
    at(9, 10, "leave", "the blue square leaves"),
    at(20, 22, "appear", "a red circle appears"),
]
OTHER = [at(0, 2, "appear", "a green star appears"), at(30, 31, "text", "红色的圆形离开了")]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = EventLog.open(str(tmp_path_factory.mktemp("search") / "log"), create=True)
    made.begin_run(run_record())
    made.commit([video_result("a.mp4", STORY), video_result("b.mp4", OTHER)])
    return made.uri


@pytest.fixture(autouse=True)
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.search.embed import installed_embedder

    monkeypatch.setenv("SECONDSIGHT_EMBEDDER", "none")
    installed_embedder.cache_clear()


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in said(capsys, *arguments, "--format", "jsonl").splitlines()]


def test_query_around_events(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = ("query", log, "--video", "a.mp4")
    assert [r["text"] for r in rows(capsys, *a, "--after", "leave")] == [e.text for e in STORY[3:]]
    assert [r["text"] for r in rows(capsys, *a, "--before", "leave", "--count", "1")] == ["EXIT"]
    (beside,) = rows(capsys, *a, "--while", "the red circle leaves")
    assert beside["text"] == "EXIT" and beside["run_id"] == "run-1" and beside["evidence_us"] == [2 * S]
    assert rows(capsys, *a, "--while", str(beside["event_id"]))[1]["text"] == "the red circle leaves"
    assert [r["text"] for r in rows(capsys, "query", log, "--first", "--kind", "appear")] == [
        "a red circle appears",
        "a green star appears",
    ]
    assert [r["start_us"] for r in rows(capsys, "query", log, "--last")] == [20 * S, 30 * S]
    assert "while leave" in said(capsys, *a, "--while", "leave")


def test_query_of_whole_videos(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = ("query", log, "--video", "a.mp4")
    gaps = rows(capsys, *a, "--gaps", "1")
    assert [(r["start_us"], r["end_us"]) for r in gaps] == [
        (0, S), (6 * S, 7 * S), (8 * S, 9 * S), (10 * S, 20 * S), (22 * S, 60 * S)
    ]  # fmt: skip
    assert [r["events"] for r in rows(capsys, *a, "--density", "2")][:6] == [1, 2, 2, 1, 1, 0]
    assert {(r["kind"], r["events"]) for r in rows(capsys, *a, "--kinds")} == {("appear", 3), ("leave", 2), ("text", 1)}
    assert "0:00:10.000   0:00:20.000   0:00:10.000" in said(capsys, *a, "--gaps", "5")
    assert "▄██▄▄ " in said(capsys, *a, "--density", "2")
    (first,) = rows(capsys, *a, "--first")
    whole = said(capsys, *a, "--event", str(first["event_id"]))
    for line in ("appear: a red circle appears", "run-1 (signals", "0: 0:00:00.000 - 0:00:16.000, 2 frames"):
        assert line in whole
    assert json.loads(said(capsys, *a, "--event", str(first["event_id"]), "--format", "json"))[0]["windows"]


def test_query_of_several_videos_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in Python: those that have ended before are left out, and told."""
    made = EventLog.open(str(tmp_path / "log"), create=True)
    made.begin_run(run_record())
    short = video_result("short.mp4", [at(1, 2, "cut", "cut")], duration_us=3 * S)
    made.commit([video_result("a.mp4", STORY), video_result("b.mp4", OTHER), short])
    log, names = made.uri, ["a.mp4", "b.mp4", "short.mp4"]
    several = ("query", log, *(argument for name in names for argument in ("--video", name)))
    for asked in (several, ("query", log)):
        assert main([*asked, "--at", "30", "--format", "jsonl"]) == 0
        out, err = capsys.readouterr()
        assert [json.loads(line)["text"] for line in out.splitlines()] == ["红色的圆形离开了"]
        assert "(1 of 3 videos are no longer than 0:30: short.mp4)" in err
        assert [r["start_us"] for r in rows(capsys, *asked, "--between", "3", "5")] == [2 * S, 4 * S]
        assert [r["start_us"] for r in rows(capsys, *asked, "--after", "0:08", "--count", "1")] == [9 * S, 30 * S]
        before = rows(capsys, *asked, "--before", "0:08", "--count", "1")
        assert [(r["video"], r["start_us"]) for r in before] == [
            ("/archive/a.mp4", 7 * S), ("/archive/b.mp4", 0), ("/archive/short.mp4", S)
        ]  # fmt: skip
    assert secondsight.open(log).after(names, 8, 1)["start_us"].to_pylist() == [9 * S, 30 * S]
    assert main(["query", log, "--video", "short.mp4", "--video", "short.mp4", "--at", "30"]) == 1
    assert "is 0:03 long" in capsys.readouterr().err
    assert main([*several[:4], "--video", "short.mp4", "--at", "59"]) == 0
    assert "nothing" in capsys.readouterr().out
    for wrong in (("--after", "leave"), ("--before", "0123456789abcdef"), ("--while", "leave"), ("--event", "0" * 16)):
        assert "give --video NAME once" in said(capsys, *several, *wrong, status=1)


def test_sums_say_which_run_they_are_of(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    a = ("query", log, "--video", "a.mp4")
    for asked in (("--gaps", "1"), ("--density", "2"), ("--kinds",)):
        found = rows(capsys, *a, *asked)
        assert found and all(r["run_id"] == "run-1" and len(str(r["video_id"])) == 32 for r in found)
        assert "(run run-1" in said(capsys, *a, *asked)
        assert "run-1" in said(capsys, "query", log, *asked)
    opened = secondsight.open(log)
    assert {opened.gaps("a.mp4").run_id, opened.density("a.mp4").run_id, opened.kinds("a.mp4").run_id} == {"run-1"}
    assert opened.kinds().run_id is None


def test_a_kind_that_there_is_not(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is found, and a line says which kinds there are; a kind that is there and finds nothing needs none."""
    a = ("--video", "a.mp4")
    for asked in (
        ("query", log, *a, "--at", "5"),
        ("query", log, *a),
        ("query", log, *a, "--gaps", "1"),
        ("search", log, "circle", *a),
        ("ask", log, "when is a red circle there?", *a),
        ("export", log, "--format", "csv", *a),
    ):
        assert main([*asked, "--kind", "Appaer"]) == 0
        hinted = "no event here is of kind 'Appaer': did you mean appear? the kinds there are: appear, leave, text"
        assert hinted in capsys.readouterr().err, asked
        assert main([*asked, "--kind", "text"]) == 0
        assert "kinds there are" not in capsys.readouterr().err
    main(["query", log, "--kind", "zzz"])
    assert "of kind 'zzz': the kinds there are: appear" in capsys.readouterr().err
    for most in ("MOST_VIDEOS", "MOST_EVENTS"):  # of many videos they are counted all together
        with monkeypatch.context() as patch:
            patch.setattr(f"jobs.kinds.{most}", 1)
            main(["query", log, "--kind", "Appaer"])
            assert hinted in capsys.readouterr().err
            patch.setattr("jobs.kinds.MOST_ROWS", 1)
            main(["query", log, "--kind", "Appaer"])
            assert not capsys.readouterr().err


def test_a_kind_that_no_moment_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = EventLog.open(str(tmp_path / "log"), create=True)
    made.begin_run(run_record())
    watched = video_result("a.mp4", STORY)
    features = FrameFeatures.of("w:mean-1", [0, S], np.eye(2, 8, dtype=np.float32))
    made.commit([replace(watched, windows=(replace(watched.windows[0], features=features),))])
    asked = ("search", made.uri, "--like", "a.mp4", "--at", "1")
    assert main([*asked, "--kind", "appaer"]) == 0
    told = capsys.readouterr()
    assert "no moment" in told.out and "of kind 'appaer': did you mean appear? the kinds there are:" in told.err
    assert main([*asked, "--kind", "appear"]) == 0
    assert "a.mp4" in capsys.readouterr().out


def test_search_prints_what_it_finds(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    hits = rows(capsys, "search", log, "red circle leaves")
    assert hits[0]["text"] == "the red circle leaves" and hits[0]["video"] == "/archive/a.mp4"
    assert hits[0]["found_by"] == ["words"] and hits[0]["run_id"] == "run-1"
    assert [r["text"] for r in rows(capsys, "search", log, "圆形")] == ["红色的圆形离开了"]
    assert [r["start_us"] for r in rows(capsys, "search", log, "circle", "--from", "3", "--to", "19")] == [4 * S]
    assert "one letter changed" in said(capsys, "search", log, "squrae")
    assert said(capsys, "search", log, "dragon") == "no event says that\n"
    main(["search", log, "circle"])
    assert "words only: no embedder" in capsys.readouterr().err


def test_ask_shows_evidence(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = said(capsys, "ask", log, "when does the red circle leave, and what happens next?", "--around", "1")
    lines = answer.splitlines()
    assert lines[0].startswith("[1] a.mp4  0:00:04.000 - 0:00:05.000  leave: the red circle leaves")
    assert " ".join(lines[1].split()) == "[2] next 0:00:07.000 - 0:00:08.000 appear: a blue square appears"
    asked = json.loads(said(capsys, "ask", log, "红色的圆形什么时候离开？", "--format", "json"))
    assert [e["text"] for e in asked["evidence"]] == ["红色的圆形离开了"] and asked["answer"] is None
    assert "3 events fit" in said(capsys, "ask", log, "how many times does something appear?", "--video", "a.mp4")
    assert "No event of the log supports an answer" in said(capsys, "ask", log, "when does a dragon eat the moon?")


def test_a_question_names_its_video(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "ask", log, "what happens in the last 50 seconds of b.mp4?").splitlines()
    assert lines[0] == "(of b.mp4, which the question names)" and all("] b.mp4 " in line for line in lines[1:])
    asked = json.loads(said(capsys, "ask", log, "when does a red circle appear in a.mp4?", "--format", "json"))
    assert asked["question"]["videos"] == ["/archive/a.mp4"] and set(asked["videos"]) == {"/archive/a.mp4"}


def test_what_is_found_is_shown_where_the_model_is_away(
    log: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.chat.OUTAGE_S", 0.0)
    asked = ("ask", log, "red circle leaves", "--model", "openai:http://127.0.0.1:9/v1#tiny")
    assert main(list(asked)) == 3
    out, err = capsys.readouterr()
    assert out.startswith("[1] a.mp4  0:00:04.000") and "tiny gave no answer" in err and "cannot be reached" in err
    assert main([*asked, "--format", "json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["evidence"] and found["answer"] is None and "cannot be reached" in found["note"]


def test_mistakes_are_one_line(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, half = str(tmp_path / "none"), tmp_path / "half"
    (half / "_delta_log").mkdir(parents=True)
    (half / "_delta_log" / f"{0:020}.json").write_text('{"protocol":{"minRea')
    for arguments, what in (
        (["query", log, "--video", "a.mp4", "--at", "1:99"], "not a time"),
        (["query", log, "--video", "a.mp4", "--after", "1:0x"], "not a time"),
        (["query", log, "--video", "a.mp4", "--at", "100"], "1:00 long"),
        (["query", log, "--video", "a.mp5", "--at", "1"], "did you mean a.mp4"),
        (["query", log, "--after", "leave"], "give --video NAME once"),
        (["query", log, "--video", "a.mp4", "--event", "0" * 16], "has no event"),
        (["query", log, "--video", "a.mp4", "--density", "0"], "longer than nothing"),
        (["query", log, "--run", "run-9"], "runs with videos: run-1"),
        (["search", log, ""], "at least one word"),
        (["search", log, "x" * 1_000_000], "at most 1000"),
        (["search", log, "red", "--from", "soon"], "not a time"),
        (["search", log, "red", "--video", "c.mp4"], "no video 'c.mp4'"),
        (["search", log, "red", "--mode", "meaning"], "no embedder is installed"),
        (["search", log, "--image", "x.jpg"], "cannot be read: No such file"),
        (["search", log, "--image", __file__], "no picture that can be read"),
        (["search", log, "--like", "harbour.mp4"], "--like NAME and --at T go together"),
        (["search", log, "red", "--at", "0:03"], "--at goes with --like NAME"),
        (["search", log, "red", "--model", "bundled"], "--model goes with --image FILE"),
        (["search", log, "--like", "a.mp4", "--at", "1", "--model", "bundled"], "--model goes with --image"),
        (["search", log, "word", "--like", "harbour.mp4", "--at", "1"], "search by one of them"),
        (["ask", log, "what happens?"], "name what happens, or a time"),
        (["ask", log, "y" * 1_000_000], "at most 1000"),
        (["ask", log, "red", "--model", "gpt"], "write openai:URL#NAME"),
        (["ask", log, "what happens in nope.mp4?"], "no video 'nope.mp4'"),
        (["ask", log, "what happens at 100 s in a.mp4?"], "is 1:00 long"),
        (["ask", log, "what happens in a.mp4?", "--video", "b.mp4"], "is put to another video"),
        (["sql", log, "delete from events"], "only read here"),
        (["sql", log, "copy events to '/tmp/x.csv'"], "only read here"),
        (["sql", log, "select * from read_csv('/etc/passwd')"], "DuckDB"),
        (["sql", log, "select " + "1," * 500_000], "at most 65536"),
        *((face, "there is no event log here") for face in (["search", none, "x"], ["ask", none, "x"])),
        (["search", str(half), "red"], "cannot open the event log"),
    ):
        error = said(capsys, *arguments, status=1)
        assert error.startswith("secondsight: ") and what in error, arguments
        assert len(error) < 1500 and "Traceback" not in error, arguments


def test_from_python(log: str) -> None:
    opened = secondsight.open(log)
    assert opened.search("square")[0].event["text"] == "a blue square appears"
    circle = opened.anchor("a.mp4", "leave")
    assert opened.after("a.mp4", circle, 1)["text"].to_pylist() == ["a blue square appears"]
    assert opened.meanwhile("a.mp4", circle)["text"].to_pylist() == ["EXIT"]
    assert opened.before(None, "0:03", 1)["start_us"].to_pylist() == [2 * S, 0]
    assert opened.gaps("a.mp4", 20) == [(22 * S, 60 * S)] and opened.density("a.mp4", 60) == [6]
    assert opened.kinds()["appear"] == 4 and opened.last(["b.mp4"])["kind"].to_pylist() == ["text"]
    assert opened.ask("when does the blue square leave?").evidence[0].event["start_us"] == 9 * S
    assert opened.provenance(opened.first("a.mp4").to_pylist()[0])["run"]["run_id"] == "run-1"


def test_an_event_is_asked_around_whatever_its_id_begins_with(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids are hexadecimal: many begin with a digit, as times do."""
    rows = json.loads(said(capsys, "query", log, "--video", "a.mp4", "--format", "json"))
    for row in rows:
        found = json.loads(
            said(
                capsys,
                "query",
                log,
                "--video",
                "a.mp4",
                "--before",
                row["event_id"],
                "--count",
                "1",
                "--format",
                "json",
            )
        )
        assert all(f["start_us"] < row["start_us"] for f in found)
    error = said(capsys, "query", log, "--video", "a.mp4", "--before", "12a4567890abcdef", status=1)
    assert "12a4567890abcdef" in error and "not a time" not in error


def test_words_need_no_quotes(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Excluded words look like options to a shell, and words may stand behind options."""
    wanted = rows(capsys, "search", log, "red -leaves")
    assert wanted and wanted != rows(capsys, "search", log, "red")
    for words in (
        ["red", "-leaves"], ["-leaves", "red"], ["--limit", "9", "red", "-leaves"], ["red", "--limit", "9", "-leaves"],
        ["--", "red", "-leaves"], ["--mode=words", "-leaves", "--", "red"],
    ):  # fmt: skip
        found = said(capsys, "search", log, "--format", "jsonl", *words)
        assert [json.loads(line) for line in found.splitlines()] == wanted, words
    assert rows(capsys, "search", log, "circle", "-house", "-hundred") == rows(capsys, "search", log, "circle")
    for wrong in (["red", "--knid", "text"], ["red", "--limit", "-x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["search", log, *wrong])
        assert stopped.value.code == 2 and wrong[1] in capsys.readouterr().err
    assert rows(capsys, "search", log, "red", "--kind", "-leaves") == []
