"""Search by meaning: the encoder against transformers' own, the index against comparing every pair, and fusion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.log import EventLog
from pipeline.search import Search
from pipeline.search.embed import installed_embedder
from pipeline.search.fuse import Found, fuse
from tests.pipeline.logs import event, run_record, video_id, video_result

WORDS = ["red", "circle", "leaves", "blue", "square", "a", "the", "enters", "exit", "car", "automobile", "dog"]


class Senses:
    """An embedder of known geometry: a direction for each word, the same for "car" and "automobile"."""

    identity, floor = "senses-1", 0.3

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                said = "car" if word == "automobile" else word
                generator = np.random.default_rng(
                    int.from_bytes(hashlib.blake2b(said.encode(), digest_size=4).digest())
                )
                row += generator.standard_normal(64).astype(np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def test_nearest_texts_and_their_events(tmp_path: Path) -> None:
    """Every event whose text is near enough, in order of nearness, whatever its words; filters count."""
    log = EventLog.open(str(tmp_path / "log"), create=True)
    log.begin_run(run_record())
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 3)) for _ in range(60)]
    log.commit([video_result("a.mp4", [event(i, i + 1, "ab"[i % 2], t) for i, t in enumerate(texts)])])
    embedder = Senses()
    search = Search(log.uri, embedder=embedder)
    search.update()
    near = embedder.embed(texts) @ embedder.embed(["automobile leaves"])[0]
    for kinds in (None, ["a"]):
        wanted = [i for i in np.argsort(-near) if near[i] >= embedder.floor and (kinds is None or i % 2 == 0)]
        hits = search.find("automobile leaves", mode="meaning", kinds=kinds, limit=100)
        assert {h.event["start_us"] for h in hits} == set(wanted)
        assert [h.score for h in hits] == pytest.approx([near[i] for i in wanted], abs=2e-3)  # kept in 16 bits
        assert all(h.found_by == ("meaning",) for h in hits)
    assert all("automobile" in h.event["text"] for h in search.find("automobile", mode="words"))
    log.commit([video_result("b.mp4", [event(0, 1, "a", "car leaves")])])
    assert search.update() == 1
    nearest = search.find("automobile leaves", mode="meaning", limit=1)[0]
    assert nearest.event["video_id"] == video_id("b.mp4") and nearest.score == pytest.approx(1, abs=2e-3)
    both = {h.event["event_id"]: h.found_by for h in search.find("automobile leaves", limit=100)}  # "auto" is both
    assert both[nearest.event["event_id"]] == ("words", "meaning")
    assert set(both) == {
        h.event["event_id"]
        for mode in ("words", "meaning")
        for h in search.find("automobile leaves", mode=mode, limit=100)
    }
    search.rebuild()
    assert {h.event["event_id"] for h in search.find("automobile leaves", limit=100)} == set(both)


def test_fusion_is_the_sum_of_reciprocal_ranks() -> None:
    class Address:
        def __init__(self, doc: int) -> None:
            self.segment_ord, self.doc = 0, doc

    def ranking(how: str, *scored: tuple[int, float]) -> list[Found]:
        return [Found(Address(doc), score, (how,)) for doc, score in scored]

    fused = fuse(ranking("words", (1, 9.0), (2, 5.0), (3, 5.0)), ranking("meaning", (3, 0.9), (4, 0.8)))
    assert [(f.address.doc, f.found_by) for f in fused] == [
        (3, ("words", "meaning")), (1, ("words",)), (2, ("words",)), (4, ("meaning",))
    ]  # fmt: skip
    assert [f.score for f in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 62])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, in the layout of sentence-transformers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertModel(config).eval().save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir()
    return folder


@pytest.mark.parametrize("mean", [True, False])
def test_encoder_equals_transformers(encoder: Path, mean: bool) -> None:
    import torch
    import transformers

    from pipeline.search.bert import BertEmbedder

    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": mean}))
    embedder = BertEmbedder(encoder)
    generator = np.random.default_rng(1)
    texts = [" ".join(generator.choice([*WORDS, "unknown"], n)) for n in generator.integers(1, 30, 90)]
    found = embedder.embed(texts)
    model = transformers.BertModel.from_pretrained(encoder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(encoder / "tokenizer.json"), pad_token="[PAD]")
    with torch.no_grad():
        for text, row in zip(texts, found, strict=True):
            codes = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
            states = model(input_ids=codes["input_ids"], attention_mask=codes["attention_mask"]).last_hidden_state[0]
            pooled = states.mean(0) if mean else states[0]
            np.testing.assert_allclose(row, (pooled / pooled.norm()).numpy(), atol=2e-5)


def test_encoders_that_are_none(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.search.bert import BertEmbedder

    with pytest.raises(UsageError, match="not a sentence encoder"):
        BertEmbedder(tmp_path)
    (encoder / "1_Pooling" / "config.json").write_text("{}")
    for name in ("1_Pooling", "config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).symlink_to(encoder / name)
    config = json.loads((encoder / "config.json").read_text())
    for name, wrong, match in (
        ("config.json", json.dumps(config | {"model_type": "mpnet"}), "only BERT encoders"),
        ("config.json", "{", "not a sentence encoder"),
        ("model.safetensors", "broken", "not a sentence encoder"),
        ("tokenizer.json", "{}", "tokenizer.json"),
    ):
        (tmp_path / name).unlink()
        (tmp_path / name).write_text(wrong)
        with pytest.raises(UsageError, match=match):
            BertEmbedder(tmp_path)
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(encoder / name)
    for value in ("none", str(tmp_path)):
        monkeypatch.setenv("SECONDSIGHT_EMBEDDER", value)
        installed_embedder.cache_clear()
        found = installed_embedder()
        assert (found is None) == (value == "none")
    installed_embedder.cache_clear()
