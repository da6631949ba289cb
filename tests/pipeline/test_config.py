"""The configuration hash: the same for the same work, another for any other."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from pipeline.config import RunConfig, new_run_id
from pipeline.errors import UsageError
from pipeline.plan import Sampling, Windowing

BASE = RunConfig(Sampling(), Windowing(), "m", "w", {"prompt": "é", "b": 1})


def test_equal_configurations_hash_alike_whatever_the_order_of_their_settings() -> None:
    assert BASE.config_hash == replace(BASE, settings={"b": 1, "prompt": "é"}).config_hash
    assert BASE.config_hash == replace(BASE, sampling=Sampling(fps=Fraction(4, 2))).config_hash
    assert len(BASE.config_hash) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, sampling=Sampling(fps=Fraction(30000, 1001))),
        replace(BASE, sampling=Sampling(tolerance_us=1)),
        replace(BASE, sampling=Sampling(short_side=None)),
        replace(BASE, sampling=Sampling(max_pixels=10**6)),
        replace(BASE, sampling=Sampling(multiple=32)),
        replace(BASE, sampling=Sampling(decoder="decord")),
        replace(BASE, windowing=Windowing(length_us=1_000_000, overlap_us=0)),
        replace(BASE, windowing=Windowing(overlap_us=0)),
        replace(BASE, model="n"),
        replace(BASE, weights_hash="x"),
        replace(BASE, settings={"prompt": "e", "b": 1}),
        replace(BASE, schema_version=99),
    ],
)
def test_any_difference_changes_the_hash(other: RunConfig) -> None:
    assert other.config_hash != BASE.config_hash


def test_the_whole_configuration_is_json() -> None:
    plain = json.loads(json.dumps(BASE.as_json()))
    assert plain["sampling"]["fps"] == "2"
    assert plain["windowing"] == {"length_us": 16_000_000, "overlap_us": 1_000_000}
    assert plain["model"] == {"name": "m", "weights_hash": "w", "settings": {"prompt": "é", "b": 1}}


def test_settings_that_are_not_json_are_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        _ = replace(BASE, settings={"x": object()}).config_hash


@pytest.mark.parametrize(
    ("sampling", "windowing", "said"),
    [
        (Sampling(fps=Fraction(0)), Windowing(), "--fps"),
        (Sampling(), Windowing(0, 0), "--window"),
        (Sampling(), Windowing(5, 5), "--overlap"),
        (Sampling(), Windowing(5, -1), "--overlap"),
    ],
)
def test_what_cannot_be_run_is_said(sampling: Sampling, windowing: Windowing, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RunConfig(sampling, windowing, "m", "w")


def test_run_ids_sort_by_time_and_differ() -> None:
    early, late = new_run_id(datetime(2026, 1, 2, tzinfo=UTC)), new_run_id(datetime(2026, 1, 3, tzinfo=UTC))
    assert early < late
    assert new_run_id() != new_run_id()
