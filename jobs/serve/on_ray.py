"""The service as a Ray Serve application: any number of replicas, each with its own threads and caches."""

from __future__ import annotations

from typing import Any

from jobs.serve.settings import Settings
from pipeline.errors import UsageError


def deployment() -> Any:
    """To be deployed with `serve run` or in a RayService. Raises UsageError where ray[serve] is missing, and for
    settings (Settings.from_environment) that are missing: said once here, not by every replica."""
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError("Ray Serve is not installed: pip install 'ray[serve]'") from error
    settings = Settings.from_environment()

    def build() -> Any:
        from jobs.serve.app import create_app

        return create_app(settings)

    service: Any = serve.deployment(serve.ingress(build)(), name="secondsight")
    return service.options(max_ongoing_requests=settings.limits.in_flight).bind()
