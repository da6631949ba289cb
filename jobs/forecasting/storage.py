"""How much a run writes into the event log: its data files, and the features beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

from pipeline.config import RunConfig
from pipeline.log import EventLog, RunRecord, VideoResult

#: Measured on made-up answers in prose: of a window (32 frames), of an event, and of a token of the answer, which the
#: windows' rows keep (3.1 characters, of which Snappy leaves 0.44 bytes each).
WINDOW_BYTES, EVENT_BYTES, TOKEN_BYTES = 220, 70, 1.4
VIDEO_BYTES, COMMIT_BYTES = 100, 12_000  # of a video's own row; of the files of a commit, whatever they hold


def answered_bytes(tokens: float, tokens_an_event: float = 40) -> float:
    """Of a window whose answer has so many tokens, and an event in each `tokens_an_event` of them."""
    return WINDOW_BYTES + tokens / tokens_an_event * EVENT_BYTES + tokens * TOKEN_BYTES


def written_bytes(videos: int, windows: float, window_bytes: float, seconds: float) -> float:
    """Of a run of `seconds`: a commit takes up to `GROUP` videos, or those that were finished within `GROUP_S`."""
    from workers.commit import GROUP, GROUP_S

    commits = min(videos, max(1, videos / GROUP, seconds / GROUP_S))
    return windows * window_bytes + videos * VIDEO_BYTES + commits * COMMIT_BYTES


def measured_bytes(results: Sequence[VideoResult], config: RunConfig) -> tuple[float, float]:
    """Of a window with its events and features, as an event log with these results has it, and of these the features;
    the commit's share is in neither."""
    plain = [replace(r, windows=tuple(replace(w, features=None) for w in r.windows)) for r in results]
    whole, without = _logged(results, config), _logged(plain, config)
    return whole, max(0.0, whole - without)


def _logged(results: Sequence[VideoResult], config: RunConfig) -> float:
    run_id, count = results[0].run_id, sum(len(r.windows) for r in results)
    with TemporaryDirectory(prefix="secondsight-forecast-") as folder:
        log = EventLog.open(folder, create=True)
        log.begin_run(RunRecord(run_id, config.config_hash, config.as_json(), config.model, "", "", {}, 0))
        bare = [replace(r, video_id=f"f{r.video_id[1:]}", windows=(), events=()) for r in results]
        if count > 1:  # one window: what its files take beside it is of the commit
            most = max(range(len(results)), key=lambda n: (len(results[n].events), len(results[n].windows)))
            events, windows = list(results[most].events), list(results[most].windows)
            only = events[0].window_first if events else windows[0].window.index
            bare[most] = replace(
                bare[most],
                windows=tuple(w for w in windows if w.window.index == only),
                events=tuple(e for e in events if e.window_first == only),
            )
            count -= 1
        without = log.commit(bare).file_bytes
        return max(0, log.commit(results).file_bytes - without) / count
