"""SQL over the log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from jobs.serve import shapes
from jobs.serve.reply import reply
from jobs.serve.site import SiteOf, answers
from jobs.serve.sql_asking import answer

router = APIRouter(prefix="/api", tags=["sql"])


class Question(BaseModel):
    sql: Annotated[str, Field(min_length=1, description="one SELECT (or WITH ... SELECT) in DuckDB's SQL")]
    limit: Annotated[int, Field(ge=1, le=10_000, description="rows of the answer at most")] = 1000


@router.post("/sql", **answers(shapes.Rows))
async def sql(request: Request, site: SiteOf, question: Question) -> Response:
    """The answer to one SELECT over the views events, videos, windows, runs and names.

    Times in columns *_us are microseconds on the video's timeline, *_at_us Unix time; what JSON does not know (dates,
    decimals, bytes) is text. `truncated` where there are more rows than `limit`: ask on with LIMIT and OFFSET.
    """
    log, limits = site.archive.uri, site.limits
    return await site.sql.run(
        lambda: reply(request, answer(site.sql_processes, log, question.sql, question.limit, limits))
    )
