"""The small files of a Qwen3-VL checkpoint: tokenizer, chat template, preprocessor, end tokens. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.checkpoint.index import MOST_JSON, read_json
from model.checkpoint.source import Source, read
from model.qwen3_vl.sizes import PatchConfig
from pipeline.errors import ModelError

#: Architectures that are known: model_type, and what there is of it.
KINDS = {"qwen3_vl": "Qwen3-VL, dense: 2B, 4B, 8B, 32B", "qwen3_vl_moe": "mixture of experts: 30B-A3B, 235B-A22B"}


@dataclass(frozen=True, slots=True)
class TextFiles:
    """`config` is config.json. `digest` changes when any file does that has a say in what the model reads."""

    config: Mapping[str, Any]
    tokenizer_json: str
    template: str
    patches: PatchConfig
    end_ids: frozenset[int]
    digest: str

    @property
    def mixture(self) -> bool:
        return self.config["model_type"] == "qwen3_vl_moe"


def read_text_files(source: Source) -> TextFiles:
    """Raises ModelError naming the file that is missing or not to be used."""
    config = read_json(source, "config.json")
    if config.get("model_type") not in KINDS:
        known = "; ".join(f"{kind} ({what})" for kind, what in KINDS.items())
        raise ModelError(
            f"{source.path}: model_type {ascii(config.get('model_type'))[:80]} is not a known architecture: {known}"
        )
    tokenizer = _text(source, "tokenizer.json")
    if tokenizer is None:
        raise ModelError(f"{source.path}: tokenizer.json does not exist: download it beside the weights")
    template = _template(source)
    preprocessor = _optional(source, "video_preprocessor_config.json") or _optional(source, "preprocessor_config.json")
    vision = config.get("vision_config")
    generation = _optional(source, "generation_config.json") or {}
    said = [config, preprocessor, generation.get("eos_token_id"), tokenizer, template]
    return TextFiles(
        config,
        tokenizer,
        template,
        PatchConfig.of_files(preprocessor, vision if isinstance(vision, dict) else {}),
        _end_ids(generation, config),
        hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest(),
    )


def _template(source: Source) -> str:
    """The chat template, from whichever of the three places the checkpoint's era keeps it in."""
    if (plain := _text(source, "chat_template.jinja")) is not None:
        return plain
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = (_optional(source, name) or {}).get("chat_template")
        if isinstance(found, list):  # several by name
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}.get("default")
        if isinstance(found, str):
            return found
    raise ModelError(
        f"{source.path}: no chat template (chat_template.jinja, chat_template.json, tokenizer_config.json)"
    )


def _end_ids(generation: Mapping[str, Any], config: Mapping[str, Any]) -> frozenset[int]:
    text = config.get("text_config")
    for place in (generation, config, text if isinstance(text, dict) else {}):
        found = place.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if ids and all(type(i) is int for i in ids):
            return frozenset(ids)
    return frozenset()


def _optional(source: Source, name: str) -> dict[str, Any] | None:
    return None if source.size(name) is None else read_json(source, name)


def _text(source: Source, name: str) -> str | None:
    size = source.size(name)
    if size is None:
        return None
    if size > MOST_JSON:
        raise ModelError(f"{source.path}/{name}: {size} bytes are too many for this file")
    try:
        return read(source, name, 0, size).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{source.path}/{name}: is not UTF-8 text") from None
