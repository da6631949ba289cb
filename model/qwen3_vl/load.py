"""From a checkpoint to a watcher that has already answered once."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from model.checkpoint.load import load_qwen3_vl
from model.experts.placement import Placement
from model.prompts import Prompt
from model.qwen3_vl import QwenSettings
from model.qwen3_vl.asking import own_fps
from model.qwen3_vl.files import read_text_files
from model.qwen3_vl.generate import Generator
from model.qwen3_vl.grammar import Grammar
from model.qwen3_vl.prompt import PromptBuilder
from model.qwen3_vl.verify import SecondLooks
from model.qwen3_vl.vision import FeatureCache, VisionEncoder
from model.qwen3_vl.watcher import QwenWatcher
from pipeline.errors import ModelError
from pipeline.frames import Frames
from pipeline.plan import SECOND_US, Window

#: --precision: dtype of weights and activations (None: as stored), bits of quantised experts
PRECISIONS: dict[str, tuple[torch.dtype | None, int | None]] = {
    "auto": (None, None),
    "float32": (torch.float32, None),
    "bf16": (torch.bfloat16, None),
    "fp8": (None, None),
    "int8": (None, 8),
    "int4": (None, 4),
}


def load_watcher(
    path: str,
    chosen: QwenSettings,
    prompt: Prompt,
    system: str,
    rank: int,
    ranks: int,
    group: dist.ProcessGroup | None,
) -> QwenWatcher:
    """Load one rank's share, and watch a small grey window. Collective. Raises ModelError for what cannot be used."""
    torch.set_num_threads(chosen.threads)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{path}: no GPU that torch can use here: install a CUDA build of torch, or choose the CPU")
    placement = None
    if ranks > 1 and chosen.expert_placement == "measured" and chosen.expert_load:
        placement = Placement.measured(chosen.expert_load, ranks, chosen.expert_replicas)
    dtype, bits = PRECISIONS[chosen.precision]
    loaded = load_qwen3_vl(
        path, rank, ranks, group, dtype, chosen.device, placement, bits=bits, fp8_arithmetic=chosen.precision == "fp8"
    )
    loaded.model.eval()
    files = read_text_files(loaded.checkpoint.source)
    try:
        tokenizer = Tokenizer.from_str(files.tokenizer_json)
    except Exception as error:  # tokenizers raises no narrower class
        raise ModelError(f"{path}/tokenizer.json: not a usable tokenizer: {error}") from error
    vocabulary = loaded.config.text_config.vocab_size
    if tokenizer.get_vocab_size() > vocabulary or not files.end_ids:
        raise ModelError(
            f"{path}: tokenizer and config.json do not belong together (more tokens than {vocabulary}, or no end token)"
        )
    prompts = PromptBuilder(tokenizer, files.template, system, prompt.user, files.patches.merge, files.patches.temporal)
    if prompts.video_id != loaded.config.video_token_id:
        raise ModelError(
            f"{path}: the video's token is {loaded.config.video_token_id} in config.json, "
            f"{prompts.video_id} in the tokenizer"
        )
    encoder = VisionEncoder(loaded.model.model.visual, files.patches, FeatureCache(chosen.vision_cache_mib << 20))
    generator = Generator(loaded, encoder, prompts.prefix, files.end_ids, chosen.max_new_tokens, chosen.batch_tokens)
    grammar = Grammar(files.tokenizer_json, vocabulary, min(files.end_ids))
    twice = None if chosen.doubt is None else SecondLooks(chosen.doubt, own_fps(chosen.fps, prompt))
    watcher = QwenWatcher(generator, prompts, grammar, tokenizer, files.patches, prompt.answer, twice, chosen.features)
    _warm_up(watcher)
    return watcher


def _warm_up(watcher: QwenWatcher) -> None:
    """One short answer: kernels are chosen, memory is taken, the prefix is computed, before a window waits for it."""
    side = watcher.patches.factor * 2
    pixels = np.full((2, side, side, 3), 127, np.uint8)
    times = np.array([0, SECOND_US // 2], np.int64)
    window = Window("warm-up", 0, 0, SECOND_US)
    limit = watcher.generator.max_new_tokens
    watcher.generator.max_new_tokens = min(limit, 8)
    try:
        watcher.watch([(window, Frames(pixels, times, times + SECOND_US // 2))])
    finally:
        watcher.generator.max_new_tokens = limit
