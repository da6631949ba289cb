"""A BERT sentence encoder in numpy: small enough to do without torch, which takes seconds to import.

Reads a folder in the layout of sentence-transformers: config.json (a BertModel), model.safetensors, tokenizer.json,
1_Pooling/config.json (mean or first token). The arithmetic is BERT's (Devlin et al., 2018), checked against
transformers' BertModel in the tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UsageError

#: Texts that go through the encoder together.
BATCH = 64

#: What no text may be longer than, whatever the model would take: events are sentences, not books.
MAX_TOKENS = 256


class BertEmbedder:
    """An Embedder (embed.py)."""

    floor = 0.3

    def __init__(self, folder: Path) -> None:
        """Raises UsageError naming what is missing or not understood."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
            weights = load_file(folder / "model.safetensors")
            digest = hashlib.blake2b((folder / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
        except (OSError, ValueError, SafetensorError) as error:
            said = getattr(error, "strerror", None) or error
            raise UsageError(f"{folder}: not a sentence encoder: {said}; it needs {NEEDED}") from error
        except Exception as error:
            raise UsageError(f"{folder}/tokenizer.json: {error}") from error
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise UsageError(
                f"{folder}: a {config.get('model_type')} model with {config.get('hidden_act')}; only BERT encoders with"
                " gelu are known (all-MiniLM, paraphrase-multilingual-MiniLM, BGE, GTE, E5)"
            )
        self._mean = bool(pooling.get("pooling_mode_mean_tokens", True))
        self._heads: int = config["num_attention_heads"]
        self._layers: int = config["num_hidden_layers"]
        self._epsilon: float = config.get("layer_norm_eps", 1e-12)
        self._w = {name.removeprefix("bert."): np.asarray(w, np.float32) for name, w in weights.items()}
        missing = [
            n
            for n in ("embeddings.word_embeddings.weight", self._name(self._layers - 1, "output.LayerNorm.bias"))
            if n not in self._w
        ]
        if missing:
            raise UsageError(f"{folder}/model.safetensors: has no {missing[0]}: not the weights of a BertModel")
        length = min(MAX_TOKENS, config.get("max_position_embeddings", MAX_TOKENS))
        self._tokenizer.enable_truncation(length)
        self._tokenizer.no_padding()
        self.identity = f"bert-{digest}-{'mean' if self._mean else 'first'}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), D], each of length 1."""
        codes = [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        result = np.empty((len(texts), self._w["embeddings.word_embeddings.weight"].shape[1]), np.float32)
        order = sorted(range(len(codes)), key=lambda i: len(codes[i]))  # texts of one length need no padding
        for at in range(0, len(order), BATCH):
            rows = order[at : at + BATCH]
            result[rows] = self._encode([codes[i] for i in rows])
        return result

    def _encode(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
        longest = max(map(len, codes))
        ids = np.array([[*c, *[0] * (longest - len(c))] for c in codes])
        there = np.array([[1.0] * len(c) + [0.0] * (longest - len(c)) for c in codes], np.float32)
        w = self._w
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:longest]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        unseen = (there[:, None, None, :] - 1) * np.float32(1e9)
        for layer in range(self._layers):
            x = self._norm(x + self._attention(x, unseen, layer), self._name(layer, "attention.output.LayerNorm"))
            inner = _gelu(self._linear(x, self._name(layer, "intermediate.dense")))
            x = self._norm(
                x + self._linear(inner, self._name(layer, "output.dense")), self._name(layer, "output.LayerNorm")
            )
        pooled = (x * there[:, :, None]).sum(1) / there.sum(1, keepdims=True) if self._mean else x[:, 0]
        return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))

    def _attention(self, x: np.ndarray, unseen: np.ndarray, layer: int) -> np.ndarray:
        batch, length, width = x.shape

        def split(name: str) -> np.ndarray:
            whole = self._linear(x, self._name(layer, f"attention.self.{name}"))
            return whole.reshape(batch, length, self._heads, -1).transpose(0, 2, 1, 3)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // self._heads)) + unseen
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        return self._linear(
            mixed.transpose(0, 2, 1, 3).reshape(batch, length, width), self._name(layer, "attention.output.dense")
        )

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self._w[f"{name}.weight"]
        flat = x.reshape(-1, x.shape[-1]) @ weight.T + self._w[f"{name}.bias"]
        return flat.reshape(*x.shape[:-1], -1)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(self._epsilon))
        return centred / spread * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]

    @staticmethod
    def _name(layer: int, part: str) -> str:
        return f"encoder.layer.{layer}.{part}"


NEEDED = "config.json, model.safetensors, tokenizer.json and 1_Pooling/config.json"


def _gelu(x: np.ndarray) -> np.ndarray:
    """x * Phi(x), with erf by formula 7.1.26 of Abramowitz and Stegun (error below 1.5e-7, float32's own)."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1 / (1 + np.float32(0.3275911) * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429)))))
    erf = 1 - poly * np.exp(-z * z)
    return (x * (1 + np.copysign(erf, x)) / 2).astype(np.float32, copy=False)
