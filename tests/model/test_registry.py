"""Finding a model by the name a person gives."""

from __future__ import annotations

import pytest

from model.registry import BUILT_IN, find_model
from pipeline.errors import UsageError


def test_a_name_that_is_not_known_lists_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"--model nope: not known.*signals"):
        find_model("nope")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("python:no.such.module", "cannot be imported"),
        ("python:json:nothing", "cannot be imported"),
        ("python:json:dumps", r"no function profile"),
        ("python:", "cannot be imported"),
    ],
)
def test_an_own_model_that_is_none_is_one_clear_error(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_model(spec)


def test_built_in_models_can_be_profiled_without_settings() -> None:
    for name in BUILT_IN:
        profile = find_model(name).profile({})
        assert profile.identity.name and profile.identity.weights_hash
