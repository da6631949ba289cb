"""What replicas counted, added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def add_up(one: Any, other: Any) -> Any:
    """The sum of two reports (see `model.interface.Reporting`): numbers are added, dicts by key, lists by place."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        both = {key: add_up(value, other[key]) if key in other else value for key, value in one.items()}
        return {**both, **{key: value for key, value in other.items() if key not in one}}
    if isinstance(one, list) and isinstance(other, list):
        longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
        return [add_up(a, b) for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
    return one + other
