"""The configuration of a run: everything that changes what the log will say about a video, and its hash.

The archive is not part of it: the same configuration over more videos continues the same work.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from pipeline.errors import UsageError
from pipeline.plan import PIXELS_VERSION, Sampling, Windowing

#: Raised whenever the meaning of a stored event changes (planning, reducing, the tables).
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is sampled, how it is cut into windows, and who watches.

    `model`, `weights_hash` and `settings` are the fields of `model.interface.ModelIdentity`: the weights themselves
    count, not only a name.
    """

    sampling: Sampling
    windowing: Windowing
    model: str
    weights_hash: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.sampling.fps <= 0:
            raise UsageError(f"--fps {self.sampling.fps}: must be above 0")
        if self.windowing.length_us <= 0:
            raise UsageError("--window: must be longer than 0 seconds")
        if not 0 <= self.windowing.overlap_us < self.windowing.length_us:
            raise UsageError("--overlap: must be at least 0 and shorter than the window")

    def as_json(self) -> dict[str, Any]:
        """The whole configuration as plain JSON values; the same for equal configurations."""
        plain = {
            "schema_version": self.schema_version,
            "sampling": _sampling(self.sampling),
            "windowing": _fields(self.windowing),
            "model": {"name": self.model, "weights_hash": self.weights_hash, "settings": dict(self.settings)},
        }
        result: dict[str, Any] = json.loads(_canonical(plain))
        return result

    @property
    def config_hash(self) -> str:
        """32 hex digits: BLAKE2b-128 of the canonical JSON."""
        return hashlib.blake2b(_canonical(self.as_json()).encode(), digest_size=16).hexdigest()


def new_run_id(now: datetime | None = None) -> str:
    """A fresh run id that sorts by its start, e.g. "20260131T154500-3fa2c1"."""
    return f"{(now or datetime.now(UTC)):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """`redact` by the detectors' weights, not by where they lie; left out where nothing is hidden."""
    plain = _fields(sampling)
    del plain["redact"], plain["redact_identity"]
    plain["version"] = PIXELS_VERSION
    if sampling.redact:
        from pipeline.redact import redactor

        plain["redact"] = redactor(sampling.redact).identity
    return plain


def _fields(plan: Sampling | Windowing) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def _canonical(value: object) -> str:
    """JSON with sorted keys and no blanks. Fractions as "30000/1001"; what JSON cannot hold is a TypeError."""

    def other(thing: object) -> str:
        if isinstance(thing, Fraction):
            return str(thing)
        raise TypeError(f"{type(thing).__name__} cannot be part of a run's configuration")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=other)
