"""What runs here, and how well: engine x checkpoint x precision, as the table of the README.

`python -m jobs.bench.engines [--quick] [--json FILE] [--served openai:URL#NAME ...] [--write README.md]`

Films of the generated world that training never saw are shown to the bundled checkpoint by each engine and precision,
window by window, in one process and one thread. `same answers`: windows whose raw answer is, character by character,
that of transformers' own `generate` in float32 under the same grammar. `F1`: of the events against what was drawn, at
an overlap of 0.5; `text`: the share of found texts that are right to the letter. `weights`: what the loaded model
holds. `a window`: CPU seconds, of served models wall seconds with one request at a time. What cannot run here is said
to be not run, and why. Under the table: what FP8 costs in scores, and what else its figures do not tell of themselves.

`transformers serve` is started here, with the bundled checkpoint. --served openai:URL#NAME adds other servers of it,
which you started.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from jobs.bench.engines_table import Row, as_table, notes, write_between
from jobs.bench.server_process import TransformersServer
from jobs.bench.truth import BUNDLED, MOMENTS, SEED, films
from jobs.demo.archive import write_archive
from model.checkpoint.packed import PackedLinear
from model.checkpoint.store_fp8 import store_fp8
from model.experts.blocks import SESSION_BYTES, BlockExperts
from model.interface import Model
from model.qwen3_vl import QwenFactory
from model.qwen3_vl.grammar import forbid
from model.qwen3_vl.patches import patchify
from model.registry import find_model
from model.served import ServedFactory
from pipeline.decode.windows import decode_windows
from pipeline.errors import SecondsightError
from pipeline.evaluate import Prediction, evaluate
from pipeline.event import WindowEvents
from pipeline.frames import Frames
from pipeline.groundtruth import read_truth
from pipeline.plan import Window
from pipeline.probe import probe
from pipeline.reduce import reduce_events

Shown = dict[str, list[tuple[Window, Frames]]]  # by film: its windows
#: Why no server of a kind stands in the table where none ran.
NOT_SERVED = {
    "transformers": f"it needs {', '.join(TransformersServer.NEEDED)} (the dev extra)",
    "llamacpp": "its Qwen3-VL merges patches 2 by 2, the bundled model 4 by 4; a whole job with random weights ran "
    "(tests/system/test_llama_server.py)",
    "vllm": "no GPU",
    "sglang": "no GPU",
}


class Stock:
    """transformers' own model and `generate`, greedy, one window at a time, held to the same grammar; prompts and
    parsing are ours (proved equal to its processor's in tests/model/test_qwen_prompt.py)."""

    def __init__(self, checkpoint: str, watcher: Any, dtype: torch.dtype) -> None:
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).eval()
        self._watcher = watcher

    def watch(self, batch: Sequence[tuple[Window, Frames]]) -> list[WindowEvents]:
        return [self._one(window, frames) for window, frames in batch]

    def close(self) -> None:
        """Nothing outlives it."""

    def _one(self, window: Window, frames: Frames) -> WindowEvents:
        from model.qwen3_vl.generate import Answer

        request = self._watcher._request(window, frames)
        if request is None:
            return WindowEvents(window, ())
        ends = sorted(self._watcher.generator._end_ids)
        length, over = len(request.prompt), False

        def held(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal over
            if ids.shape[1] > length and not over:
                over = request.constraint.take(int(ids[0, -1]))
            if over:
                scores.fill_(float("-inf"))
                scores[:, ends[0]] = 0.0
            else:
                forbid(scores, [request.constraint])
            return scores

        patches = patchify(request.video, self._watcher.patches)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=request.prompt.ids[None],
                mm_token_type_ids=request.prompt.types[None],
                attention_mask=torch.ones_like(request.prompt.ids)[None],
                pixel_values_videos=patches.reshape(-1, patches.shape[-1]).to(self.model.dtype),
                video_grid_thw=torch.tensor([request.prompt.grid]),
                do_sample=False,
                max_new_tokens=self._watcher.generator.max_new_tokens,
                eos_token_id=ends,
                logits_processor=[held],
            )
        tokens = [t for t in out[0, length:].tolist() if t not in ends]
        said: WindowEvents = self._watcher._events(window, frames, request, Answer(tokens, over, 0.0))
        return said


def show(folder: Path, quick: bool) -> tuple[Shown, dict[str, Any], Any]:
    """The films' windows with their frames, the truth about them, and the profile they were sampled by."""
    groups = films(True)
    chosen = [some[0] for some in groups.values()][:2] if quick else [film for some in groups.values() for film in some]
    truth = read_truth(write_archive(folder / "archive", SEED, chosen))
    profile = QwenFactory(str(BUNDLED), prompt=str(BUNDLED / "world.toml")).profile({})
    shown: Shown = {}
    for film in chosen:
        path = folder / "archive" / film.file
        video = probe(str(path), path.stat().st_size, film.file, (str(path),))
        count = profile.windowing.count(video.duration_us)
        windows = [profile.windowing.window(film.file, i, video.duration_us) for i in range(count)]
        shown[film.file] = list(decode_windows(video, windows, profile.sampling))
    return shown, {film.file: truth[film.file] for film in chosen}, profile


def watched(model: Model, shown: Shown, wall: bool = False) -> tuple[dict[str, list[WindowEvents]], float]:
    """Every film's answers, and seconds per window: of this process's CPU, or by the clock."""
    clock = time.perf_counter if wall else time.process_time
    began = clock()
    answers = {name: [a for one in windows for a in model.watch([one])] for name, windows in shown.items()}
    return answers, (clock() - began) / sum(map(len, shown.values()))


def scored(
    answers: Mapping[str, Sequence[WindowEvents]], truth: Mapping[str, Any], rules: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    """F1 at an overlap of 0.5, and the share of exact texts."""
    predicted, spans = {}, {}
    for name, said in answers.items():
        duration_us = max(answer.window.end_us for answer in said)
        reduced = reduce_events(said, rules, duration_us).events
        predicted[name] = [Prediction(e.start_us, e.end_us, e.kind, e.text, e.confidence) for e in reduced]
        spans[name] = [(answer.window.start_us, answer.window.end_us) for answer in said]
    scores = evaluate(truth, predicted, spans, MOMENTS)
    return scores.f1(0.5), scores.exact_text


def texts(answers: Mapping[str, Sequence[WindowEvents]]) -> list[str | None]:
    return [answer.answer for said in answers.values() for answer in said]


def held_mib(model: Any) -> float | None:
    """MiB of the weights that a model in this process holds."""
    if isinstance(model, Stock):
        return float(sum(p.nbytes for p in model.model.parameters()) / 2**20)
    if (generator := getattr(model, "generator", None)) is None:
        return None
    loaded = generator.loaded
    rest = sum(p.nbytes for p in loaded.model.parameters())
    rest += sum(module.nbytes for module in loaded.model.modules() if isinstance(module, PackedLinear))
    return float(rest + sum(layer.weights.nbytes for layer in loaded.lockstep.layers)) / 2**20


def sessions_mib(model: Any) -> float:
    """MiB of `held_mib` that are ONNX Runtime's sessions."""
    if (generator := getattr(model, "generator", None)) is None:
        return 0.0
    held = [layer.weights for layer in generator.loaded.lockstep.layers]
    return sum(w.count for w in held if isinstance(w, BlockExperts)) * SESSION_BYTES / 2**20


def here(folder: Path, shown: Shown, truth: Mapping[str, Any], rules: Mapping[str, Any]) -> Iterator[Row]:
    """The bundled checkpoint in this process, by transformers and by us, in every precision."""
    ours = QwenFactory(str(BUNDLED), prompt=str(BUNDLED / "world.toml"))
    reference: list[str | None] = []

    def measured(engine: str, precision: str, model: Model) -> Row:
        answers, window_s = watched(model, shown)
        said = texts(answers)
        reference[:] = reference or said
        same = sum(a == b for a, b in zip(said, reference, strict=True))
        f1, text = scored(answers, truth, rules)
        held, idle = held_mib(model), sessions_mib(model)
        return Row(engine, "bundled", precision, "", same, len(said), f1, text, held, window_s, idle)

    watcher: Any = ours.load({"precision": "float32"})
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        yield measured("transformers `generate`", name, Stock(str(BUNDLED), watcher, dtype))
        gc.collect()
    yield measured("secondsight", "float32", watcher)
    for precision in ("bf16", "int8", "int4"):
        yield measured("secondsight", precision, ours.load({"precision": precision}))
        gc.collect()
    stored = QwenFactory(str(store_fp8(str(BUNDLED), folder / "fp8")), prompt=str(BUNDLED / "world.toml"))
    yield measured("secondsight", "FP8 as stored", stored.load({}))
    if torch.cuda.is_available():
        yield measured("secondsight, CUDA", "bf16", ours.load({"precision": "bf16", "device": "cuda"}))
    else:
        yield Row("secondsight, CUDA and NCCL", "any", "any", "no GPU")


def served(
    specs: Sequence[str], folder: Path, shown: Shown, truth: Mapping[str, Any], rules: Mapping[str, Any]
) -> Iterator[Row]:
    """`transformers serve`, servers that were named, and those that were not."""
    known: set[str] = set()
    if all(importlib.util.find_spec(name) for name in TransformersServer.NEEDED):
        known.add("transformers")
        own = TransformersServer(BUNDLED, folder)
        try:
            own.wait()
        except RuntimeError:  # costs its own row only, not those measured before it or those that follow
            said = own.log.read_text().strip() or "it said nothing"
            yield Row("served: transformers", "bundled", "-", f"it did not come up: {said.splitlines()[-1]}")
        else:
            yield from _served([own.spec], known, shown, truth, rules)
        finally:
            own.kill()
    yield from _served(specs, known, shown, truth, rules)
    for dialect, why in NOT_SERVED.items():
        if dialect not in known:
            yield Row(f"served: {dialect}", "-", "-", why)


def _served(
    specs: Sequence[str], known: set[str], shown: Shown, truth: Mapping[str, Any], rules: Mapping[str, Any]
) -> Iterator[Row]:
    """Each server; its kind is added to `known`."""
    for spec in specs:
        factory = find_model(spec)
        if not isinstance(factory, ServedFactory):
            raise SystemExit(f"--served {spec}: write openai:URL#NAME")
        chosen = {"prompt": str(BUNDLED / "world.toml"), "in_flight": 1, "pictures": "png"}
        try:
            identity = factory.profile(chosen).identity
            server = identity.settings["server"]
            model = factory.load(chosen)
            model.watch(next(iter(shown.values()))[:1])  # what a server does only once is not counted
            answers, window_s = watched(model, shown, wall=True)
            model.close()
        except (SecondsightError, RuntimeError) as error:
            yield Row(f"served: {Path(spec.partition('#')[2]).name}", "-", "-", str(error))
            continue
        known.add(server["dialect"])
        name = f"served: {server['dialect']} {server['version']}".strip() + f", {identity.settings['frames']}"
        f1, text = scored(answers, truth, rules)
        windows = len(texts(answers))
        yield Row(name, "bundled", "the server's", "", None, windows, f1, text, None, window_s)


def elsewhere() -> Iterator[Row]:
    """What needs other machines or weights than these."""
    why = "vLLM is not installed" if importlib.util.find_spec("vllm") is None else "no GPU"
    yield Row("vLLM in process", "any", "bf16, FP8", why)
    yield Row("secondsight", "2B to 235B-A22B, published", "any", "the weights cannot be had here")
    yield Row(
        "secondsight, GGUF",
        "published",
        "Q4_K to Q8_0",
        "likewise; logits of small files equal (tests/model/test_gguf.py)",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.engines", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short films instead of ten, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--served", action="append", default=[], metavar="openai:URL#NAME", help="one more server")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table there, between the marks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        shown, truth, profile = show(Path(name), args.quick)
        count = sum(map(len, shown.values()))
        print(f"{len(shown)} films, {count} windows, {sum(map(len, truth.values()))} events")
        known = shown, truth, profile.rules
        for row in chain(here(Path(name), *known), served(args.served, Path(name), *known)):
            rows.append(row)
            print(" ".join(row.cells()), flush=True)
    rows += elsewhere()
    table = f"{as_table(rows)}\n\n{notes(rows, sum(map(len, truth.values())))}"
    print(f"\n{table}")
    if args.write:
        write_between(args.write, table)
    if args.json:
        told = {"films": len(shown), "windows": count, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
