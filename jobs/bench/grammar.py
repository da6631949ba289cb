"""Which grammar library keeps answers to their form at the least cost: `python -m jobs.bench.grammar`.

[--quick] a vocabulary of 32 000 instead of 151 643 tokens; [--json FILE]; [--limit S] per library.

For the schema of the `events` profile and one good answer: seconds to take in the tokenizer, milliseconds to compile
the schema, CPU microseconds per token to compute the mask and take the token (mean, median, 99th percentile), and
whether a text with quotes in it passes. Peers that are not installed are left out: pip install xgrammar outlines-core.
One thread; the tokenizer is trained here on the sources of the installed packages.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.prompts import load_prompt
from model.qwen3_vl.answer import answer_schema

END = "<|im_end|>"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SAYS = (
    "A red car turns left at the junction while two people in dark coats wait by the kerb, "
    "one of them with a blue bag; a sign reads STOP in large letters."
)

#: Masks, takes a token, and says whether it was allowed.
Step = Callable[[int], bool]
#: What a library gives to measure: seconds of setup and of compiling, and what begins an answer.
Opened = tuple[float, float, Callable[[], Step]]


def train_tokenizer(size: int) -> Tokenizer:
    """Byte-level BPE, words split as the published tokenizer does."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    bpe.decoder = decoders.ByteLevel()
    sources = sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))
    random.Random(0).shuffle(sources)
    chosen, taken = [], 0
    for source in sources:
        if taken > size * 1000:
            break
        chosen.append(str(source))
        taken += source.stat().st_size
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(chosen, trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet))
    bpe.add_special_tokens(["<|endoftext|>", "<|im_start|>", END])
    return bpe


def open_llguidance(bpe: Tokenizer, schema: dict[str, Any]) -> Opened:
    from model.qwen3_vl.grammar import Grammar

    began = time.process_time()
    grammar = Grammar(bpe.to_str(), bpe.get_vocab_size(), bpe.get_vocab()[END])
    set_up = time.process_time()
    grammar.constraint(schema)
    compiled = time.process_time()

    def begin() -> Step:
        constraint = grammar.constraint(schema)

        def step(token: int) -> bool:
            allowed = bool(constraint.allowed()[token])
            if allowed:
                constraint.take(token)
            return allowed

        return step

    return set_up - began, compiled - set_up, begin


def open_xgrammar(bpe: Tokenizer, schema: dict[str, Any]) -> Opened:
    import xgrammar

    began = time.process_time()
    size = bpe.get_vocab_size()
    names = [bpe.id_to_token(i) or "" for i in range(size)]
    info = xgrammar.TokenizerInfo(
        names, vocab_type=xgrammar.VocabType.BYTE_LEVEL, vocab_size=size, stop_token_ids=[bpe.get_vocab()[END]]
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    set_up = time.process_time()
    grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, separators=(",", ":"))
    compiled = time.process_time()

    def begin() -> Step:
        matcher, mask = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, size)

        def step(token: int) -> bool:
            matcher.fill_next_token_bitmask(mask, 0)
            return bool(matcher.accept_token(token))

        return step

    return set_up - began, compiled - set_up, begin


def open_outlines(bpe: Tokenizer, schema: dict[str, Any]) -> Opened:
    import outlines_core
    from outlines_core.json_schema import build_regex_from_schema

    began = time.process_time()
    vocabulary: dict[str, list[int]] = {}
    for i in range(bpe.get_vocab_size()):
        vocabulary.setdefault(bpe.decode([i], skip_special_tokens=False), []).append(i)
    vocabulary.pop(END)
    tokens = outlines_core.Vocabulary(bpe.get_vocab()[END], vocabulary)
    set_up = time.process_time()
    index = outlines_core.Index(build_regex_from_schema(json.dumps(schema)), tokens)
    compiled = time.process_time()

    def begin() -> Step:
        guide = outlines_core.Guide(index)

        def step(token: int) -> bool:
            allowed = token in guide.get_tokens()
            if allowed:
                guide.advance(token)
            return allowed

        return step

    return set_up - began, compiled - set_up, begin


LIBRARIES: dict[str, tuple[str, Callable[[Tokenizer, dict[str, Any]], Opened]]] = {
    "llguidance": ("llguidance", open_llguidance),
    "xgrammar": ("xgrammar", open_xgrammar),
    "outlines-core": ("outlines_core", open_outlines),
}


def measure(name: str, tokenizer: str, out: Any) -> None:
    bpe, schema = Tokenizer.from_file(tokenizer), answer_schema(load_prompt("events").answer, 16_000_000)
    event = {"start": 1.5, "end": 9.3, "kind": "vehicle", "text": SAYS, "confidence": 0.9}

    def ids(text: str) -> list[int]:
        said = json.dumps({"events": [{**event, "text": text}] * 8}, separators=(",", ":"))
        return list(bpe.encode(said, add_special_tokens=False).ids)

    set_up, compiled, begin = LIBRARIES[name][1](bpe, schema)
    step, quoted = begin(), begin()
    times, passed = [], True
    for token in ids(SAYS):
        began = time.process_time()
        passed &= step(token)
        times.append((time.process_time() - began) * 1e6)
    quotes = all(quoted(token) for token in ids('a sign reads "STOP"'))
    out.put(
        {
            "setup_s": set_up,
            "compile_ms": compiled * 1e3,
            "mean_us": statistics.mean(times),
            "median_us": statistics.median(times),
            "p99_us": statistics.quantiles(times, n=100)[98],
            "passes": passed,
            "quotes": quotes,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.grammar", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a vocabulary of 32 000 tokens, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--limit", type=float, metavar="S", help="per library (default: 60 quick, 180 else)")
    args = parser.parse_args()
    limit = args.limit or (60 if args.quick else 180)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/tokenizer.json"
        train_tokenizer(32_000 if args.quick else 151_643).save(path)
        print(
            f"{'':14} {'setup s':>8} {'compile ms':>11} {'mean us':>8} {'median':>8} {'p99':>8}   good answer   quotes"
        )
        for name, (module, _) in LIBRARIES.items():
            if importlib.util.find_spec(module) is None:
                print(f"{name:14} not installed")
                continue
            spawn = multiprocessing.get_context("spawn")
            out = spawn.Queue()
            process = spawn.Process(target=measure, args=(name, path, out))
            process.start()
            try:
                f = figures[name] = out.get(timeout=limit)
            except Exception:  # noqa: BLE001 - queue.Empty: took too long, or died
                print(f"{name:14} no result within {limit:.0f} s")
                figures[name] = None
                continue
            finally:
                process.kill()
                process.join()
            print(
                f"{name:14} {f['setup_s']:8.2f} {f['compile_ms']:11.1f} {f['mean_us']:8.0f} {f['median_us']:8.0f} "
                f"{f['p99_us']:8.0f}   {_said(f['passes']):11}   {_said(f['quotes'])}"
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


def _said(passed: bool) -> str:
    return "passes" if passed else "REFUSED"


if __name__ == "__main__":
    main()
