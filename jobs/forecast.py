"""`secondsight forecast`: what a run will need, before any machine is asked for it."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.forecasting.memory import PRECISIONS
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from jobs.forecasting.archive import ArchiveFacts
    from jobs.forecasting.calibrate import Calibration
    from model.interface import ModelProfile
    from pipeline.config import RunConfig

DESCRIPTION = """\
What a run will need: hours, GPU-hours, storage, cost, memory of each rank.

With an ARCHIVE (named as for `secondsight run`): all of it is listed, a sample is probed for durations, and a short
calibration run on this machine decodes some of its windows (and watches them, where the model runs here; a served
model is asked about as many at once as in a run, and its time taken by the clock). Without one: what a Qwen3-VL needs
in memory, for each number of ranks, by part.

The calibration shows the model real pictures, and sends them to the server of a served one: --redact as for run hides
in them what is to be hidden in the run, and the time that takes is part of the forecast.

MODEL is as for `secondsight run`, or a published size of Qwen3-VL: 2B, 4B, 8B, 32B, 30B-A3B, 235B-A22B. A GPU that is
not at hand is computed from its data sheet and the assumptions that are printed; what was measured says so.

After the run: `secondsight run ... --forecast FILE` keeps the forecast (written by --out FILE) in the log's runs row
beside the fact, and `secondsight forecast --compare LOG` shows both.

examples:
  secondsight forecast --model 235B-A22B --ranks 1,2,4,8,16
  secondsight forecast s3://bucket/2026/ --model 30B-A3B --gpu H100 --count 64 --price 2.50
  secondsight forecast clips/ --cpus 32 --out forecast.json
"""

FLOW = 0.9  # share of its slowest stage's speed that a whole job reaches (`python -m jobs.bench.flow`)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", nargs="*", metavar="ARCHIVE", help="what is to be watched")
    parser.add_argument("--model", metavar="MODEL", help="who watches (default, with an archive: signals)")
    parser.add_argument(
        "--ranks", help="processes of one replica; without an archive several: 1,2,4 (default: what fits)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the weights; fp8, int8, int4: of the experts (default: as stored)"
    )
    parser.add_argument("--include", action="append", default=[], metavar="PATTERN", help="as for run")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="as for run")
    parser.add_argument("--fps", metavar="RATE", help="frames per second (default: what suits the model)")
    parser.add_argument("--window", metavar="TIME", help="what it sees at once")
    parser.add_argument("--short-side", type=int, metavar="PX", help="shorter side of the pictures")
    parser.add_argument(
        "--redact", metavar="WHAT,...", help="as for run: what no model gets to see, this calibration's included"
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument("--gpu", help="which card: H100, H200, B200, A100, L40S, L4, A10G, MI300X")
    machines.add_argument("--count", type=int, default=1, metavar="N", help="how many GPUs (default: 1)")
    machines.add_argument(
        "--cpus", type=int, metavar="N", help="cores for decoding (default: 8 for each GPU, else ours)"
    )
    machines.add_argument("--price", type=float, metavar="P", help="of an hour of a GPU; without GPUs, of a core")
    work = parser.add_argument_group("how it is found out")
    work.add_argument("--probes", type=int, default=40, metavar="N", help="videos to probe (default: 40)")
    work.add_argument(
        "--calibrate", type=float, default=20.0, metavar="S", help="seconds to decode and watch (0: none)"
    )
    work.add_argument(
        "--output-tokens", type=int, default=256, metavar="N", help="assumed, of one window (default: 256)"
    )
    work.add_argument(
        "--compute", type=float, default=0.4, metavar="F", help="assumed share of a GPU's peak arithmetic"
    )
    work.add_argument(
        "--traffic", type=float, default=0.6, metavar="F", help="assumed share of its peak memory traffic"
    )
    parser.add_argument("--compare", metavar="LOG", help="forecast and fact of the runs of an event log")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", metavar="FILE", help="also write the forecast there, for `run --forecast FILE`")


def main(args: argparse.Namespace) -> int:
    from jobs.forecasting.compare import show
    from jobs.forecasting.told import memory_table, report

    if args.compare:
        show(args.compare, args.json)
        return 0
    if not args.archive:
        if not args.model:
            raise UsageError("forecast what? Name an archive, or --model for its memory alone")
        from jobs.forecasting.memory import forecast_memory

        facts = forecast_memory(args.model, _ranks(args.ranks or "1,2,4,8,16"), args.precision)
        text = memory_table(facts)
    else:
        facts = forecast(args)
        text = report(facts)
    if args.out:
        try:
            Path(args.out).write_text(json.dumps(facts, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"--out {args.out}: cannot be written: {error.strerror}") from error
    print(json.dumps(facts, indent=2) if args.json else text)
    return 0


def forecast(args: argparse.Namespace) -> dict[str, Any]:
    """The forecast of a run over an archive, as plain JSON values. Raises UsageError, ModelError."""
    from jobs.forecasting.archive import look_at
    from jobs.forecasting.calibrate import calibrate

    if args.count < 1 or args.probes < 1 or (args.cpus is not None and args.cpus < 1):
        raise UsageError("--count, --probes and --cpus: at least 1")
    for name in ("compute", "traffic"):
        if not 0 < getattr(args, name) <= 1:
            raise UsageError(f"--{name} {getattr(args, name):g}: a share above 0, and 1 at most")
    settings = _settings(args)
    profile, config, factory = _who(args, settings)
    found = look_at(args.archive, config.windowing, args.probes, args.include, args.exclude)
    served = (args.model or "").startswith("openai:")
    if served and args.gpu:
        raise UsageError("--gpu: what a server makes of its GPUs is measured, not computed: leave it out")
    here = profile.gpus == 0 and factory is not None and not args.gpu
    measured = None
    if args.calibrate > 0:
        loaded = factory if here else None
        measured = calibrate(found.sample, config, profile, loaded, settings, args.calibrate, served)
    facts: dict[str, Any] = {
        "model": args.model or "signals",
        "redact": list(config.sampling.redact),
        "archive": {
            "videos": found.names,
            "bytes": found.bytes,
            "hours": found.hours,
            "hours_low": found.low,
            "hours_high": found.high,
            "windows": found.windows,
            "probed": found.probed,
            "unreadable_share": found.unreadable,
        },
        "calibration": None
        if measured is None
        else {name: getattr(measured, name) for name in measured.__dataclass_fields__},
    }
    if args.gpu:
        facts |= _on_gpus(args, found, measured, config)
    elif here:
        facts |= _on_cores(args, found, measured)
    else:
        raise UsageError(f"--model {args.model}: say on which GPUs: --gpu H100 --count 8")
    return facts


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the model that is calibrated here is told; on GPUs, `model_shape` is."""
    told = {"precision": args.precision, "ranks": max(_ranks(args.ranks)) if args.ranks else None}
    return {} if args.gpu else {name: value for name, value in told.items() if value is not None}


def _who(args: argparse.Namespace, settings: dict[str, Any]) -> tuple[ModelProfile, RunConfig, Any]:
    """The model's profile, the run's configuration, and the factory (None: a published size, without a checkpoint)."""
    from jobs.run import configure
    from model.checkpoint.published import PUBLISHED
    from model.registry import find_model
    from pipeline.clock import parse_time

    model = args.model or "signals"
    factory: Any = None
    if model in PUBLISHED:
        profile = _published_profile(model)
    else:
        factory = find_model(model)
        profile = factory.profile(settings)
        if settings.get("ranks", 1) > 1 and profile.gpus == 0:
            raise UsageError(f"--ranks {args.ranks}: the calibration is of one rank, here; leave it out, or say --gpu")
    window_s = parse_time(args.window) / 1e6 if args.window else None
    return profile, configure(profile, args.fps, window_s, None, args.short_side, redact=args.redact), factory


def _published_profile(model: str) -> ModelProfile:
    """As a checkpoint of that size is watched with: the sampling and the windows of the events prompt."""
    from fractions import Fraction

    from model.interface import ModelIdentity, ModelProfile
    from model.prompts import load_prompt
    from model.qwen3_vl.asking import DEFAULT_MAX_PIXELS
    from pipeline.plan import Sampling, Windowing

    prompt = load_prompt("events")
    pixels = prompt.max_pixels or DEFAULT_MAX_PIXELS
    sampling = Sampling(fps=prompt.fps or Fraction(2), short_side=None, max_pixels=pixels, multiple=32)
    return ModelProfile(ModelIdentity(model, ""), sampling, prompt.windowing or Windowing(), prompt.rules, gpus=1.0)


def _on_cores(args: argparse.Namespace, found: ArchiveFacts, measured: Calibration | None) -> dict[str, Any]:
    """A model that runs on CPUs, or is served while they decode, as measured here."""
    from jobs.forecasting.storage import written_bytes

    if measured is None or measured.model_s is None:
        raise UsageError("no window could be decoded and watched here: there is nothing to forecast from (--calibrate)")
    cores = args.cpus or len(os.sched_getaffinity(0))
    core_s = found.windows * (measured.decode_s + measured.model_s)
    server_s = found.windows * (measured.server_s or 0.0)
    hours = max(core_s / cores, server_s) / 3600 / FLOW
    bottleneck = "model" if measured.model_s > measured.decode_s else "decode"
    if server_s > 0:
        bottleneck = "server" if server_s > core_s / cores else "decode"
    return {
        "machines": {"cores": cores},
        "precision": args.precision,
        "hours": hours,
        "core_hours": core_s / 3600,
        "bottleneck": bottleneck,
        "hours_per_hour": found.hours / hours,
        "log_bytes": written_bytes(found.names, found.windows, measured.log_bytes or 0.0, 3600 * hours),
        "features_bytes": found.windows * (measured.features_bytes or 0.0),
        "cost": None if args.price is None else args.price * hours * cores,
        "memory": None,
        "basis": {
            "decode": "measured on this machine",
            "model": "measured at the server" if server_s > 0 else "measured on this machine",
            "flow": FLOW,
        },
    }


def _on_gpus(
    args: argparse.Namespace, found: ArchiveFacts, measured: Calibration | None, config: RunConfig
) -> dict[str, Any]:
    """A Qwen3-VL on GPUs: computed, beside decoding as measured here."""
    from jobs.forecasting.gpus import Assumptions, find_gpu, window_cost
    from jobs.forecasting.memory import model_shape
    from jobs.forecasting.storage import answered_bytes, written_bytes
    from model.checkpoint.memory import weights_memory

    gpu = find_gpu(args.gpu)
    assumed = Assumptions(compute=args.compute, traffic=args.traffic, output_tokens=args.output_tokens)
    if args.model is None or args.model == "signals":
        raise UsageError("--gpu: the signal analysers use none; name a Qwen3-VL with --model, or leave --gpu out")
    shape = model_shape(args.model, args.precision)
    middle = sorted(found.sample, key=lambda v: v.width * v.height)[len(found.sample) // 2]
    size = middle.width, middle.height
    experts = getattr(shape.config.text_config, "num_experts", 0) or 0
    candidates = _ranks(args.ranks) if args.ranks else [r for r in (1, 2, 4, 8, 16, 32) if experts or r == 1]
    told: dict[str, Any] = {}
    chosen = None
    for ranks in candidates:
        cost = window_cost(shape, config.sampling, config.windowing, size, gpu, ranks, assumed)
        weights = weights_memory(shape.skeleton, ranks, shape.dtype)
        total = weights.total + cost.kv_bytes + assumed.workspace
        fits = total <= 0.95 * gpu.memory * 1e9
        told[str(ranks)] = {
            **weights.parts,
            "keys and values": cost.kv_bytes,
            "workspace": assumed.workspace,
            "total": total,
            "fits": fits,
        }
        if fits and chosen is None:
            chosen = ranks, cost
    if chosen is None:
        least = min(t["total"] for t in told.values())
        raise UsageError(
            f"{args.model} does not fit {gpu.name} ({gpu.memory:.0f} GB): a rank needs {least / 1e9:.0f} GB with "
            f"--ranks {' or '.join(told)}; take more ranks, --precision fp8 or int4, or a larger card"
        )
    ranks, cost = chosen
    replicas = args.count // ranks
    if replicas < 1:
        raise UsageError(f"--count {args.count}: one replica takes {ranks} {gpu.name}")
    cores = args.cpus or 8 * args.count
    model_hours = found.windows * cost.gpu_s / (replicas * ranks) / 3600
    decode_hours = found.windows * measured.decode_s / cores / 3600 if measured else 0.0
    hours = max(model_hours, decode_hours) / FLOW
    window_bytes = answered_bytes(assumed.output_tokens) + cost.features_bytes
    return {
        "machines": {"gpu": gpu.name, "count": args.count, "replicas": replicas, "ranks": ranks, "cores": cores},
        "precision": shape.precision,
        "window": {"tokens": cost.tokens, "prefill_s": cost.prefill_s, "generate_s": cost.generate_s},
        "hours": hours,
        "gpu_hours": hours * args.count,
        "bottleneck": "decode" if decode_hours > model_hours else "model",
        "hours_per_hour": found.hours / hours,
        "log_bytes": written_bytes(found.names, found.windows, window_bytes, 3600 * hours),
        "features_bytes": found.windows * cost.features_bytes,
        "cost": None if args.price is None else args.price * hours * args.count,
        "memory": told,
        "basis": {
            "decode": "measured on this machine" if measured else "not measured: left out",
            "model": "computed, not measured",
            "flow": FLOW,
            "assumed": asdict(assumed),
        },
    }


def _ranks(text: str) -> list[int]:
    try:
        ranks = [int(number) for number in text.split(",")]
        if min(ranks) < 1:
            raise ValueError
    except ValueError:
        raise UsageError(f"--ranks {text}: expected positive numbers with commas, such as 1,2,4") from None
    return ranks
