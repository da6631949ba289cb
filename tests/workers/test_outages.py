"""Storage that fails: what is waited for, what is a video's own fault, and what a run says of it. Without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest

from pipeline.errors import SecondsightError, VideoError
from pipeline.listing import Unlisted
from pipeline.log.records import VideoResult
from tests.workers.test_elastic import _flow
from workers.already import leading_already, unread_id


def test_a_run_that_could_not_list_a_folder_ends_with_an_error_when_it_has_done_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Log:
        rows: ClassVar[list[VideoResult]] = []

        def commit(self, results: Sequence[VideoResult]) -> None:
            self.rows.extend(results)

    folder, gone = "s3://a/2026/", "s3://a/2025/x.mp4"
    sources = [Unlisted(folder, "storage", "HTTP 503"), VideoError(gone, "vanished", "it does not exist")]
    assert leading_already(iter(sources), {unread_id(folder), unread_id(gone)}).rest is not None, "an old log's row"
    run = _flow(monkeypatch, sources)  # type: ignore[arg-type]
    run._pool.count = 0
    monkeypatch.setattr(run._recorder.committer, "_log", Log())
    with pytest.raises(SecondsightError, match=r"s3://a/2026/: HTTP 503\. What was found is in the log"):
        run.run()
    assert [(row.uris, row.status) for row in Log.rows] == [((gone,), "failed")]
    assert (run.progress.failed, run.progress.found) == (1, 2)
