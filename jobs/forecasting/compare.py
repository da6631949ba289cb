"""Forecast beside fact: what was forecast of a run and what it took, both from its row in the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def show(log: str, as_json: bool) -> None:
    """Print the forecast of each run of a log beside its totals."""
    from pipeline.log import EventLog
    from pipeline.log.sql import select

    rows = select(
        EventLog.open(log).snapshot(), "select run_id, status, forecast, totals from runs order by run_id"
    ).to_pylist()
    compared = [c for row in rows if (c := beside(row))]
    if as_json:
        print(json.dumps(compared, indent=2))
        return
    if not compared:
        print(f"no run in {log} was given a forecast (run --forecast FILE)")
        return
    for run in compared:
        print(f"run {run['run_id']} ({run['status']})")
        print(f"  {'':<22}{'forecast':>12}{'fact':>12}{'fact / forecast':>18}")
        for name, (told, fact) in run["numbers"].items():
            ratio = f"{fact / told:>18.2f}" if told else ""
            print(f"  {name:<22}{told:>12,.2f}{fact:>12,.2f}{ratio}")


def beside(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The numbers of a run's forecast and its totals side by side; None where it had no forecast."""
    told, fact = json.loads(row["forecast"] or "{}"), json.loads(row["totals"] or "{}")
    if not told or not fact:
        return None
    windows = fact["windows"] or 1
    measured, mib = told.get("calibration") or {}, 2**20
    pairs = {
        "hours of video": (told["archive"]["hours"], fact["video_us"] / 3.6e9),
        "windows": (told["archive"]["windows"], fact["windows"]),
        "hours": (told["hours"], fact["elapsed_s"] / 3600),
        "decode s per window": (measured.get("decode_s"), fact["decode_s"] / windows),
        "model s per window": (measured.get("model_s"), fact["model_s"] / windows),
    }
    if told.get("log_bytes") and fact.get("file_bytes"):  # not counted by older code
        pairs["storage MiB"] = (told["log_bytes"] / mib, fact["file_bytes"] / mib)
    if measured.get("server_s") is not None:  # a request's time in a run holds that of the others beside it
        del pairs["model s per window"]
    numbers = {name: pair for name, pair in pairs.items() if pair[0] is not None}
    return {"run_id": row["run_id"], "status": row["status"], "numbers": numbers}
