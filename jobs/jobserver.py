"""A Ray cluster's job server: jobs sent, followed, stopped. Ray's own client, with errors that a person can act on."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import SecondsightError, UsageError

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
PATIENCE_S = 600.0  # for which a job server may be out of reach while a job is followed
PAUSE_S = 1.0
AGENT_S = 120.0
STOPPED_STATUS = 130  # as a command that was ended by Ctrl-C


class JobServerError(SecondsightError):
    """The job server failed, or said no."""


class JobServer:
    """The job server at `address` (http://HEAD:8265).

    `token`: sent as a bearer token. `verify`: whether its certificate must be good, or the file of the authority that
    signed it. Raises UsageError where no job server answers, or not to this token.
    """

    def __init__(self, address: str, token: str | None = None, verify: bool | str = True) -> None:
        self.address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
        if not self.address.startswith(("http://", "https://")):
            raise UsageError(f"--address {address}: write the job server's address, such as http://HEAD:8265")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with self._told(what="connecting"):
            from ray.job_submission import JobSubmissionClient

            for name in ("ray.dashboard.modules", "ray._private.runtime_env"):  # "Uploading package ..."
                for logger in [k for k in logging.root.manager.loggerDict if k.startswith(name)]:
                    logging.getLogger(logger).setLevel(logging.WARNING)
            self._client = JobSubmissionClient(self.address, headers=headers, verify=verify)

    def submit(self, entrypoint: str, job: str, **options: Any) -> str:
        """Send a job; returns its id. `options`: see JobSubmissionClient.submit_job.

        A head that has just started has no agent yet to take it, and is given `AGENT_S`.
        """
        until = time.monotonic() + AGENT_S
        while True:
            try:
                with self._told(what="submitting"):
                    return str(self._client.submit_job(entrypoint=entrypoint, submission_id=job, **options))
            except JobServerError as error:
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(PAUSE_S)

    def jobs(self) -> list[Any]:
        """Every job that was submitted (JobDetails), newest first."""
        with self._told(what="listing jobs"):
            found = [j for j in self._client.list_jobs() if j.submission_id]
        return sorted(found, key=lambda j: j.start_time or 0, reverse=True)

    def job(self, job: str) -> Any:
        """One job (JobDetails). Raises UsageError where there is none of that id."""
        with self._told(job):
            return self._client.get_job_info(job)

    def logs(self, job: str) -> str:
        """What a job's driver has printed so far."""
        with self._told(job):
            return str(self._client.get_job_logs(job))

    def stop(self, job: str, wait_s: float = 120.0) -> str:
        """Ask a job to stop, as by Ctrl-C, and wait until it has; returns its status."""
        with self._told(job):
            self._client.stop_job(job)
        until = time.monotonic() + wait_s
        while (status := self.job(job).status.value) not in ENDED and time.monotonic() < until:
            time.sleep(0.2)
        return status

    def follow(self, job: str, out: Callable[[str], object], patience_s: float = PATIENCE_S) -> Any:
        """Hand what the driver prints to `out` until the job has ended; returns the job (JobDetails) then.

        A connection that breaks is made anew for `patience_s`; nothing is handed over twice.
        """
        told = 0  # characters: the server always begins with the first
        broken_since: float | None = None

        async def read() -> None:
            nonlocal told, broken_since
            seen = 0
            async for piece in self._client.tail_job_logs(job):
                broken_since = None
                seen += len(piece)
                if seen > told:
                    out(piece[len(piece) - (seen - told) :])
                    told = seen

        while True:
            try:
                asyncio.run(read())
                details = self.job(job)
                broken_since = None
                if details.status.value in ENDED:
                    return details
            except (JobServerError, OSError, RuntimeError) as error:  # aiohttp's connection errors are OSErrors
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > patience_s:
                    raise JobServerError(
                        f"{self.address}: out of reach for {patience_s:.0f} s; the job may well go on: {error}"
                    ) from error
            time.sleep(PAUSE_S)

    @contextmanager
    def _told(self, job: str = "", what: str = "") -> Iterator[None]:
        """Around one request: what Ray's client raises, in one line."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            said = "the token was refused" if "failed" in str(error).splitlines()[0] else "it wants a token"
            raise UsageError(
                f"{self.address}: {said}: set RAY_AUTH_TOKEN, or name a file with --token-file"
                " (`ray get-auth-token` on the head prints it)"
            ) from error
        except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise JobServerError(
                f"{self.address}: no job server answers there; is it the dashboard's address (port 8265), and is it"
                " reachable from here (kubectl port-forward service/NAME-head-svc 8265)?"
            ) from error
        except (requests.exceptions.RequestException, RuntimeError, ValueError, KeyError) as error:
            said = " ".join(str(error).split())
            if job and ("404" in said[:60] or "does not exist" in said):
                raise UsageError(f"{self.address}: no job {job!r}; --list shows the jobs it knows") from error
            raise JobServerError(f"{self.address}: {what or 'asking for ' + job}: {said[:500]}") from error


def find_token(file: str | None = None) -> str | None:
    """The token for a cluster: of `file`, else as Ray looks for it ($RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH,
    ~/.ray/auth_token). Raises UsageError where a file that was named cannot be read."""
    if file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token.strip()
    named = file or os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise UsageError(f"{named}: the token cannot be read: {error}") from error
        return None
    if not token or any(c.isspace() or not c.isprintable() for c in token):
        if named:
            raise UsageError(f"{named}: holds no token")
        return None
    return token


def exit_status(details: Any) -> int:
    """What a command that waited for a job ends with: the driver's own exit status where there is one."""
    if details.status.value == "SUCCEEDED":
        return 0
    if details.status.value == "STOPPED":
        return STOPPED_STATUS
    return int(details.driver_exit_code or 1)
