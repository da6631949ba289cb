"""The service as a Ray Serve application: any number of replicas, each with its own threads and caches."""

from __future__ import annotations

from typing import Any

from jobs.serve.settings import Settings
from pipeline.errors import UsageError


def deployment() -> Any:
    """The application, for `serve run` and a RayService. Raises UsageError as `service` does."""
    return service().bind()


def service() -> Any:
    """Its deployment, by whose `options` the number of replicas can be chosen. Raises UsageError where ray[serve] is
    missing, and for settings (Settings.from_environment) that are: said once here, not by every replica."""
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError("Ray Serve is not installed: pip install 'ray[serve]'") from error
    settings = Settings.from_environment()

    def build() -> Any:
        from jobs.serve.app import create_app

        return create_app(settings)

    made: Any = serve.deployment(serve.ingress(build)(), name="secondsight")
    return made.options(max_ongoing_requests=settings.limits.in_flight)
