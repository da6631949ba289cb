"""The service: `create_app(Settings(log="LOG"))` for uvicorn, `jobs.serve.app:deployment` for Ray Serve.

SECONDSIGHT_LOG=s3://bucket/log SECONDSIGHT_TOKEN=... serve run jobs.serve.app:deployment
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from jobs.serve import (
    asking,
    encoding,
    exporting,
    live,
    lookalike,
    media,
    runs,
    searching,
    shapes,
    spanning,
    sql,
    videos,
)
from jobs.serve.guard import Guard
from jobs.serve.reply import Problem, problem, reply
from jobs.serve.session import LASTS_S
from jobs.serve.settings import Settings
from jobs.serve.site import Site, SiteOf, answers
from pipeline.errors import SecondsightError

WEB = Path(__file__).with_name("web")

#: What needs no token: the page, which asks for it, and probes. None of it tells anything of the log.
PUBLIC = ("", "/", "/healthz", "/readyz", "/openapi.json", "/api/session", *(f"/{file.name}" for file in WEB.iterdir()))

TITLE = "Secondsight"
DESCRIPTION = """Every second of a video archive, queryable. Times in answers are integer microseconds on the video's
own timeline; times in questions are written as people write them (45, 45.5, 1:02:45.5). Only reads."""


def create_app(settings: Settings) -> ASGIApp:
    """The ASGI application. Raises LogError where there is no log to serve."""
    site = Site(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        site.close()

    app = FastAPI(
        title=TITLE,
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # they load their parts from elsewhere: web/docs.html is our own
        redoc_url=None,
        openapi_url="/openapi.json",
        separate_input_output_schemas=False,
    )
    app.state.site, app.state.watch = site, live.Watch()
    for part in (spanning, asking, videos, searching, lookalike, sql, runs, live, exporting, media, encoding):
        app.include_router(part.router)
    _session(app)
    _errors(app)
    app.mount("/", StaticFiles(directory=WEB, html=True))
    return Guard(app, settings, site.gate, PUBLIC)


def _session(app: FastAPI) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        """For probes: the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz(site: SiteOf) -> dict[str, str]:
        """For probes: the log can be read."""
        await site.ask(lambda: site.archive.version)
        return {"status": "ok"}

    @app.post("/api/session", tags=["session"], **answers(shapes.Session))
    async def begin(request: Request, site: SiteOf) -> Response:
        """Trade the bearer token for a cookie, so that <img> and <video> may ask too."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not site.gate.open and not (scheme.lower() == "bearer" and site.gate.token_is(token.strip())):
            raise Problem(401, "token", "this is not the token of this server", headers={"WWW-Authenticate": "Bearer"})
        answer = reply(request, {"lasts_s": LASTS_S})
        if not site.gate.open:
            answer.set_cookie(
                site.gate.cookie_name,
                site.gate.cookie(),
                max_age=LASTS_S,
                path=None,  # a browser takes the folder that it asked: .../api, also behind a proxy that adds a prefix
                httponly=True,
                samesite="strict",
                secure=site.settings.secure,
            )
        return answer

    @app.delete("/api/session", tags=["session"], **answers(shapes.Session))
    async def end(request: Request, site: SiteOf) -> Response:
        """Forget the cookie."""
        answer = reply(request, {"lasts_s": 0})
        answer.set_cookie(site.gate.cookie_name, max_age=0, expires=0, path=None)
        return answer


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def ours(request: Request, error: Problem) -> Response:
        return error.reply()

    @app.exception_handler(SecondsightError)
    async def said(request: Request, error: SecondsightError) -> Response:
        return problem(error).reply()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = first["loc"][-1] if first["loc"] else "the request"
        if first["type"] == "string_pattern_mismatch":  # only times have a pattern
            message = (
                f"{where}: {str(first['input'])[:100]!r} is not a time; write seconds (45 or 45.5), m:ss or h:mm:ss"
            )
            return Problem(422, "bad_time", message).reply()
        return Problem(422, "bad_value", f"{where}: {str(first['msg'])[:300]}").reply()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return Problem(500, "internal", "the server failed at this; what it wrote to its own terminal says why").reply()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's word for a body that is no text at all
            return Problem(422, "bad_value", "the body cannot be read: it should be JSON in UTF-8").reply()
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        message = {404: "there is nothing at this address; /docs.html lists what there is"}.get(
            error.status_code, str(error.detail)
        )
        return Problem(error.status_code, code, message, headers=error.headers).reply()


def __getattr__(name: str) -> Any:
    """`deployment`, made when Ray Serve asks for it: nobody else waits for Ray, or needs its settings."""
    if name != "deployment":
        raise AttributeError(name)
    from jobs.serve.on_ray import deployment

    return deployment()
