"""The answers' shapes, for the OpenAPI document: `*_us` are integer microseconds on the video's own timeline, `*_at_us`
Unix time."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

NEXT = "cursor of the next page; null on the last one, and there alone: a page may end early, with nothing found"
LEFT = "how many videos the next pages will look at"


class ErrorDetail(BaseModel):
    code: str = Field(description="for programs")
    message: str = Field(description="for people: what is wrong, and what to do")


class Error(BaseModel):
    error: ErrorDetail


class Event(BaseModel):
    event_id: str
    video_id: str
    video: str = Field(description="the video's name")
    run_id: str
    start_us: int
    end_us: int
    kind: str
    text: str
    confidence: float | None
    model: str | None
    window_first: int | None = Field(description="the windows in which the model saw it")
    window_last: int | None
    evidence_us: list[int] = Field(description="times of the frames that show it")
    attributes: dict[str, Any]


class Events(BaseModel):
    video: str | None = Field(None, description="where one was asked about; the events name theirs in any case")
    video_id: str | None = None
    run_id: str | None = None
    events: list[Event]
    next: str | None = Field(None, description=NEXT)
    videos_left: int = Field(0, description=LEFT)


class Window(BaseModel):
    window: int
    start_us: int
    end_us: int
    frame_us: list[int] | None = Field(description="times of the frames that the model saw")
    model: str | None
    attempt: int | None
    replica: str | None
    truncated: bool | None
    answer: str | None = Field(description="the model's raw answer, where it was kept")


class Provenance(BaseModel):
    event: Event
    run: dict[str, Any] | None
    windows: list[Window]


class Segments(BaseModel):
    """`url`?n=0, 1, 2, ...: `length_us` of the video each, as H.264 and AAC."""

    url: str
    length_us: int
    codecs: list[str]


class Play(BaseModel):
    how: str = Field(description="direct, remux (a copy of the streams in MP4), encode (by segments), or none")
    url: str | None
    original: str
    segments: Segments | None = Field(description="what plays where a browser cannot decode the video itself")
    reason: str | None = Field(description="why there are no pictures, where there are none")


class Video(BaseModel):
    video_id: str
    name: str
    uris: list[str]
    run_id: str
    status: str
    reason: str
    duration_us: int | None
    width: int | None
    height: int | None
    rotation: int | None
    codec: str | None
    frame_rate: float | None
    size_bytes: int | None
    windows: int | None
    events: int | None
    decode_s: float | None
    model_s: float | None
    finished_at_us: int | None


class Videos(BaseModel):
    videos: list[Video]
    total: int
    next: str | None


class VideoDetail(Video):
    runs: list[Video] = Field(description="every run over it, the newest first")
    lost_us: list[dict[str, int]] = Field(description="spans that could not be decoded")
    play: Play


class Kind(BaseModel):
    kind: str
    events: int
    videos: int | None = None
    total_us: int | None = Field(None, description="how long they go on, added up")


class Strip(BaseModel):
    video_id: str
    run_id: str
    counts: list[int] = Field(description="how many events go on in each equal part of the video")


class Strips(BaseModel):
    strips: list[Strip]


class Span(BaseModel):
    start_us: int
    end_us: int


class Timeline(BaseModel):
    """Events of one video as columns, in order of start: light enough for a hundred thousand of them."""

    video_id: str
    run_id: str
    duration_us: int | None
    total: int
    offset: int
    kinds: list[str] = Field(description="the kinds, which `kind` numbers")
    start_us: list[int]
    end_us: list[int]
    kind: list[int]
    text: list[str] | None
    confidence: list[float | None] | None
    event_id: list[str] | None


class Run(BaseModel):
    run_id: str
    status: str
    model: str | None
    config_hash: str | None
    weights_hash: str | None
    code_version: str | None
    started_at_us: int | None
    finished_at_us: int | None
    videos_done: int
    videos_failed: int
    videos_quarantined: int
    events: int
    watched_us: int


class Runs(BaseModel):
    runs: list[Run]


class RunDetail(Run):
    config: dict[str, Any]
    host: dict[str, Any]
    forecast: dict[str, Any]
    totals: dict[str, Any]
    kinds: list[Kind]


class Failure(BaseModel):
    video_id: str
    name: str
    status: str
    code: str
    reason: str
    run_id: str
    finished_at_us: int | None


class FailureReason(BaseModel):
    code: str
    videos: int


class Failures(BaseModel):
    reasons: list[FailureReason]
    failures: list[Failure]
    total: int
    next: str | None


class Bar(BaseModel):
    kind: str
    counts: list[int]


class Overview(BaseModel):
    """The archive in one look. `density`: how many events of each kind begin where, all videos laid end to end."""

    log: str
    version: int
    videos: int
    done: int
    failed: int
    quarantined: int
    events: int
    duration_us: int
    kinds: list[Kind]
    reasons: list[FailureReason]
    density: list[Bar]
    runs: int
    as_of_us: int
    search: str = Field(description="what search goes by: words, both (words and meaning), none; auto: not known yet")
    pictures: bool = Field(description="whether moments can be found by how they look")
    model: str | None = Field(description="who answers questions; null: evidence only")


class Hit(BaseModel):
    event: Event
    score: float
    found_by: list[str]


class Hits(BaseModel):
    hits: list[Hit]
    mode: str
    next: str | None


class Moment(BaseModel):
    """A stretch of a video that looks like a picture: most so at `at_us`, nearly so from `start_us` to `end_us`."""

    video_id: str
    video: str
    run_id: str
    at_us: int
    start_us: int
    end_us: int
    nearness: float = Field(description="cosine: 1 for the same picture, about 0 for one that has nothing in common")
    events: list[Event] = Field(description="what is on at `at_us`")


class Moments(BaseModel):
    moments: list[Moment]
    note: str = Field(description="for people: what is not compared, as other weights watched it; else empty")


class Evidence(BaseModel):
    number: int = Field(description="what citations in the answer say, as [1]")
    role: str = Field(description="match, or what it is to match number `of`: before, while, next")
    of: int | None
    event: Event


class Answer(BaseModel):
    question: str
    videos: list[str] = Field(description="that the question names, and that it was put to therefore")
    topic: str = Field(description="the words of it that are looked for; empty where only a time is asked about")
    answer: str | None = Field(description="null without a model (that answers), or where the events support none")
    supported: bool
    exact: bool = Field(description="some event has all the words of the topic")
    total: int = Field(description="events of the topic")
    left: int = Field(description="videos that were not looked at: it would have taken too long")
    note: str = Field(description="for people: why there is no answer, or what it lacks")
    evidence: list[Evidence]


class Column(BaseModel):
    name: str
    type: str = Field(description="as Arrow names it")


class Rows(BaseModel):
    version: int = Field(description="of the log")
    columns: list[Column]
    rows: list[list[Any]]
    truncated: bool


class KindDifference(BaseModel):
    kind: str
    left: int
    right: int


class VideoDifference(BaseModel):
    video_id: str
    name: str
    left: int | None = Field(description="events in the left run; null: the run has not done it")
    right: int | None


class Comparison(BaseModel):
    left: Run
    right: Run
    kinds: list[KindDifference] = Field(description="over the videos that both runs have done")
    videos: list[VideoDifference]
    both: int
    total: int
    next: str | None


class Pair(BaseModel):
    left: int
    right: int
    overlap: float = Field(description="intersection over union in time")
    same_text: bool


class VideoComparison(BaseModel):
    video_id: str
    name: str
    duration_us: int | None
    left: list[Event]
    right: list[Event]
    pairs: list[Pair] = Field(description="places in `left` and `right` of events that are the same one")


class Live(BaseModel):
    version: int
    runs: list[dict[str, Any]] = Field(description="newest first; the fields of pipeline.live.LiveStatus")


class Still(BaseModel):
    time_us: int


class Session(BaseModel):
    lasts_s: int
