"""A forecast as text for people."""

from __future__ import annotations

from typing import Any


def report(facts: dict[str, Any]) -> str:
    """What a run over an archive will need."""
    archive, measured, machines = facts["archive"], facts["calibration"], facts["machines"]
    exact = archive["hours_low"] == archive["hours_high"]
    spread = "" if exact else f" ({archive['hours_low']:,.2f} to {archive['hours_high']:,.2f}, 90%)"
    lines = [
        f"archive    {archive['videos']:,} videos, {_size(archive['bytes'])}, {archive['hours']:,.2f} hours{spread}, "
        f"{archive['windows']:,.0f} windows; {archive['probed']} probed"
        + (f", {archive['unreadable_share']:.0%} of them unreadable" if archive["unreadable_share"] else ""),
    ]
    if "gpu" in machines:
        lines.append(
            f"machines   {machines['count']} {machines['gpu']}: {machines['replicas']} replicas of {machines['ranks']} "
            f"ranks; {machines['cores']} cores decode"
        )
        window = facts["window"]
        lines.append(
            f"a window   {window['tokens']:,} tokens; {window['prefill_s']:.3f} s to read, {window['generate_s']:.3f} s"
            " to answer, of one GPU (computed)"
        )
    else:
        held = f", weights in {facts['precision']}" if facts["precision"] else ""
        lines.append(f"machines   {machines['cores']} cores like this machine's{held}")
    served = bool(measured) and measured["server_s"] is not None
    if measured:
        what = "ask about it" if served else "watch"
        watched = f", {measured['model_s']:.3f} s to {what}" if measured["model_s"] is not None else ""
        hidden = " and hide in it what is to be hidden" if facts["redact"] else ""
        lines.append(
            f"measured   {measured['decode_s']:.3f} s of a core to decode a window{hidden}{watched} "
            f"({measured['windows']} windows, here)"
        )
    if served:
        lines.append(
            f"server     {measured['server_s']:.3f} s a window by the clock, as many at once as a replica asks about"
        )
    lines.append(
        f"time       {_time(facts['hours'])} ({facts['hours_per_hour']:,.1f} hours of video an hour) and what starting "
        f"takes; the {facts['bottleneck']} is the bottleneck"
    )
    if "gpu_hours" in facts:
        lines.append(f"GPU-hours  {facts['gpu_hours']:,.2f}")
    else:
        lines.append(f"core-hours {facts['core_hours']:,.2f}")
    seen = facts["features_bytes"]
    within = f", {_size(seen)} of it for searching by picture (`run --set features=false`: without)" if seen else ""
    lines.append(f"storage    {_size(facts['log_bytes'])} of event log{within}")
    if facts["cost"] is not None:
        without = " for the cores; the server's is not counted" if served else ""
        lines.append(f"cost       {facts['cost']:,.2f}{without}")
    if facts["memory"]:
        counts = list(facts["memory"])
        lines.append(f"\nGiB on the fullest rank, weights in {facts['precision']}")
        lines.append(f"{'ranks':<20}" + "".join(f"{count:>10}" for count in counts))
        for part in facts["memory"][counts[0]]:
            if part == "fits":
                cells = "".join(f"{'yes' if facts['memory'][c][part] else 'no':>10}" for c in counts)
            else:
                cells = "".join(f"{facts['memory'][c][part] / 2**30:>10.2f}" for c in counts)
            lines.append(f"{part:<20}{cells}")
    if assumed := facts["basis"].get("assumed"):
        lines.append(
            f"\nassumed: {assumed['compute']:.0%} of the card's peak arithmetic, {assumed['traffic']:.0%} of its "
            f"memory traffic, {assumed['output_tokens']} tokens an answer, {assumed['batch']} windows at once on a rank"
        )
    return "\n".join(lines)


def memory_table(facts: dict[str, Any]) -> str:
    """What a model needs in memory, for each number of ranks."""
    counts = list(facts["ranks"])
    unit, size = ("GiB", 2**30) if facts["ranks"][counts[0]]["total"] >= 2**30 else ("MiB", 2**20)
    lines = [f"{facts['model']}, weights in {facts['precision']}: {unit} on the fullest rank"]
    if facts["tensors_checked"] is not None:
        lines[0] += f" (all {facts['tensors_checked']} tensors of the checkpoint are accounted for)"
    lines.append(f"{'ranks':<20}" + "".join(f"{count:>10}" for count in counts))
    for part in facts["ranks"][counts[0]]:
        cells = "".join(f"{facts['ranks'][count][part] / size:>10.2f}" for count in counts)
        lines.append(f"{part:<20}{cells}")
    kv = facts["kv_bytes_per_token"]
    lines.append(f"keys and values: {kv / 1024:.0f} KiB per token, {kv * 32768 / 2**30:.2f} GiB per 32 768 tokens")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1024:,.1f} KiB"


def _time(hours: float) -> str:
    from jobs.progress import duration

    return duration(hours * 3600)
