"""Training of the bundled checkpoint on a tiny model: its data, its forward pass, its steps, and what it leaves."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jobs.demo.truth import TruthEvent  # noqa: E402
from jobs.train.card import card  # noqa: E402
from jobs.train.checkpoint import build_model, prompt_tokenizer, save_checkpoint  # noqa: E402
from jobs.train.network import CONFIDENCE, KIND, PATCHES, TIME, AnswerLoss, Collator, Network, experts_forward  # noqa: E402
from jobs.train.optimizer import Muon, orthogonal  # noqa: E402
from jobs.train.samples import Difficulty, samples  # noqa: E402
from jobs.train.trainer import PROMPT, Batches, Recipe, Trainer, giving_way, train  # noqa: E402
from model.interface import Model  # noqa: E402
from model.prompts import load_prompt  # noqa: E402
from pipeline.errors import UsageError  # noqa: E402
from pipeline.frames import Frames  # noqa: E402
from pipeline.plan import SECOND_US, Window  # noqa: E402

WORLD = load_prompt(str(PROMPT))
TOKENIZER = prompt_tokenizer(WORLD)
TINY = Recipe(size="tiny", batch=3, warmup=2, look_steps=0, easy_steps=1, glance_every=0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# --- the forward pass ---


def test_forward_is_that_of_transformers() -> None:
    from model.qwen3_vl.patches import patchify

    torch.manual_seed(0)
    model = build_model(TOKENIZER, "tiny")
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for every part to matter
            parameter.add_(torch.randn_like(parameter) * 0.1)
    collate = Collator(model, TOKENIZER, WORLD)
    wide, high = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))  # as many tokens, in other places
    batches = [collate(next(samples([7, 7], WORLD, 3, Difficulty(aspects=a, full=1.0)))) for a in (wide, high)]
    wanted = []
    for batch in batches:
        patches = patchify(batch.video, PATCHES)
        sides = [side // PATCHES.patch for side in batch.video.shape[2:]]
        grid = torch.tensor([[len(patches) // 3, *sides]] * 3)
        with torch.no_grad():
            logits = model(
                input_ids=batch.ids,
                attention_mask=batch.real.long(),
                pixel_values_videos=patches.flatten(0, 1),
                video_grid_thw=grid,
                mm_token_type_ids=torch.where(batch.seen, 2, 0),
            ).logits
        wanted.append(logits.flatten(0, 1)[batch.asked])
    network = Network(model)
    for batch, logits in zip(batches, wanted, strict=True):
        with torch.no_grad():
            out = network(batch)
            assert torch.allclose(model.lm_head(out.answers), logits, atol=2e-5)
        text = TOKENIZER.decode(batch.wanted.tolist(), skip_special_tokens=True)
        assert text.startswith('{"events":[') and text.count('"start"') * 2 == int((batch.role == TIME).sum())
        assert out.load.sum(1).allclose(torch.ones(2)) and out.balance >= 0.99


def test_experts_take_each_token_once_even_where_some_get_none() -> None:
    torch.manual_seed(1)
    experts = build_model(TOKENIZER, "tiny").model.language_model.layers[0].mlp.experts
    hidden = torch.randn(20, 32)
    chosen = torch.randint(0, 3, (20, 1)).expand(20, 2) + torch.tensor([0, 1])
    weights = torch.rand(20, 2)
    with torch.no_grad():
        assert torch.allclose(
            experts_forward(experts, hidden, chosen, weights), experts(hidden, chosen, weights), atol=1e-6
        )


def test_near_times_cost_less_than_far_ones() -> None:
    loss = AnswerLoss(TOKENIZER, 712, slack_s=0.12)
    ids = [TOKENIZER.token_to_id(t) for t in ("3.0", "3.1", "5.0")]
    wanted, role = torch.tensor([ids[0], ids[2]]), torch.tensor([TIME, TIME])
    costs = []
    for said in ids:
        logits = torch.zeros(2, 712)
        logits[0, said] = logits[1, ids[2]] = 9.0
        costs.append(float(loss(logits, wanted, role)))
    assert costs[0] < costs[1] < costs[2]
    assert float(loss(logits[:1], torch.tensor([ids[2]]), torch.tensor([KIND]))) < 0.1


def test_the_confidence_wanted_is_the_chance_that_was_given() -> None:
    told = [
        [
            TruthEvent(0, 2_300_000, "move", "the red circle moves left"),
            TruthEvent(SECOND_US, 8_000_000, "text", "RIVER"),
        ],
        [TruthEvent(0, 2_300_000, "cut", "cut")],
        [],
    ]
    batch = next(samples([1, 1], WORLD, 3, Difficulty(full=1.0)))
    given = [replace(s, told=tuple(t)) for s, t in zip(batch, told, strict=True)]
    collated = Collator(build_model(TOKENIZER, "tiny"), TOKENIZER, WORLD)(given)
    loss = AnswerLoss(TOKENIZER, 712, slack_s=0.12)
    logits = torch.full((len(collated.wanted), 712), -20.0)
    logits[torch.arange(len(collated.wanted)), collated.wanted] = 20.0  # sure of everything, but:
    kinds = (collated.role == KIND).nonzero()[:, 0]
    logits[kinds[1], collated.wanted[kinds[0]]] = 20.0  # the second kind might be the first one
    times = (collated.role == TIME).nonzero()[:, 0]
    logits[times[5]] = -20.0
    logits[times[5], TOKENIZER.token_to_id("2.4")] = 20.0  # near the end of the third event
    logits[times[3]] = -20.0
    logits[times[3], TOKENIZER.token_to_id("6.3")] = 20.0  # 1.7 s from the end of the second, which lasts for 7 s
    found = loss.sureness(logits.log_softmax(-1), collated.wanted, collated.role)
    assert found.tolist() == pytest.approx([1.0, 0.5, 1.0])
    levels = [TOKENIZER.id_to_token(int(i)) for i in loss.levels]
    assert levels[0] == "0.05" and levels[9] == "0.95"
    sure = (collated.role == CONFIDENCE).nonzero()[:, 0]
    logits[sure] = -20.0
    logits[sure, loss.levels[torch.tensor([9, 5, 9])]] = 20.0
    logits[kinds[1], collated.wanted[kinds[0]]] = logits[times[5], collated.wanted[times[5]]] = 19.9
    logits[times[5], TOKENIZER.token_to_id("2.4")] = -20.0
    before = float(loss(logits, collated.wanted, collated.role))
    logits[sure[0], loss.levels[9]], logits[sure[0], loss.levels[2]] = -20.0, 20.0
    assert float(loss(logits, collated.wanted, collated.role)) > before + 0.5


# --- steps ---


def test_muon_makes_singular_values_nearly_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 24, 16), (2, 16, 40)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 7))
        assert float(values.min()) > 0.3 and float(values.max()) < 1.4
    stack = torch.nn.Parameter(torch.randn(4, 8, 6))
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in stack.data]
    for parameters in ([stack], alone):
        optimizer = Muon(parameters, lr=0.1)
        for seed in range(2):
            grads = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(seed))
            for parameter, grad in zip(parameters, [grads] if parameters[0] is stack else grads, strict=True):
                parameter.grad = grad.clone()
            optimizer.step()
    assert torch.allclose(stack.data, torch.stack([p.data for p in alone]), atol=1e-6)


def test_loss_falls_on_what_is_seen_again_and_again(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, TINY)
    batch = Batches(TINY, WORLD)[0]
    curve = [trainer.learn(batch, 1.0) for _ in range(50)]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["hint"] < 0.7 * curve[0]["hint"]
    assert curve[-1]["right"] > curve[0]["right"]


def test_the_vision_tower_learns_alone_at_first(tmp_path: Path) -> None:
    recipe = replace(TINY, look_steps=30)
    trainer = Trainer(tmp_path, recipe)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    batch = Batches(recipe, WORLD)[0]
    curve = [trainer.learn(batch, 1.0) for _ in range(30)]
    assert curve[-1]["glance"] < 0.9 * curve[0]["glance"] and "loss" not in curve[0]
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == (".visual." not in name), name
    assert "loss" in trainer.learn(batch, 1.0)


def weights(trainer: Trainer) -> dict[str, Any]:
    return {f"{name}/{k}": v for name in trainer._modules for k, v in trainer._modules[name].state_dict().items()}


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    recipe = replace(TINY, look_steps=1, glance_every=2)  # looks in steps 0, 1 and 3
    whole = Trainer(tmp_path / "whole", recipe)
    train(whole, steps=4, decay=2, report=2, save=4)
    train(Trainer(tmp_path / "parts", recipe), steps=2, report=2, save=2)
    resumed = Trainer(tmp_path / "parts", recipe)
    assert resumed.step == 2
    train(resumed, steps=4, decay=2, report=2, save=2)
    wanted, found = weights(whole), weights(resumed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    with pytest.raises(UsageError, match=r"batch 3 \(now 5\)"):
        Trainer(tmp_path / "parts", replace(recipe, batch=5))


def test_training_waits_while_somebody_measures(tmp_path: Path) -> None:
    lock, inside = tmp_path / "lock", threading.Event()

    def step() -> None:
        with giving_way(lock):
            inside.set()

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=step)
        thread.start()
        time.sleep(0.1)
        assert not inside.is_set()
        fcntl.flock(file, fcntl.LOCK_UN)
        thread.join(5)
    assert inside.is_set()


# --- what it leaves ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("run")
    trainer = Trainer(folder, TINY)
    train(trainer, steps=1, report=1, save=1)
    return folder / "checkpoint"


def test_the_checkpoint_loads_in_transformers(checkpoint: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    assert AutoConfig.from_pretrained(checkpoint).model_type == "qwen3_vl_moe"
    model, loading = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(loading[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.generation_config.eos_token_id[0] == TOKENIZER.token_to_id("<|im_end|>")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": WORLD.user}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == f"<|im_start|>user\n<|video_pad|>{WORLD.user}<|im_end|>\n<|im_start|>assistant\n"
    assert (
        tokenizer(text, add_special_tokens=False)["input_ids"] == TOKENIZER.encode(text, add_special_tokens=False).ids
    )


def test_the_checkpoint_watches_by_our_own_path(checkpoint: Path) -> None:
    from model.qwen3_vl import QwenFactory

    chosen = {"prompt": str(checkpoint / "world.toml"), "precision": "float32", "max_new_tokens": 60}
    factory = QwenFactory(str(checkpoint))
    profile = factory.profile(chosen)
    assert WORLD.windowing == profile.windowing
    assert "only the generated world" in profile.notice
    sample = next(samples([5, 5], WORLD, 1, Difficulty(aspects=(1, 0, 0, 0), full=1.0)))[0]
    assert profile.sampling.size(1280, 720) == sample.size[::-1]
    times = np.array(sample.frame_us, np.int64) + SECOND_US
    window = Window("v", 0, SECOND_US, 9 * SECOND_US)
    model: Model = factory.load(chosen)
    told = model.watch([(window, Frames(sample.pixels, times, times + 500_000))])[0]
    collated = Collator(build_model(TOKENIZER, "tiny"), TOKENIZER, WORLD)([sample])
    assert told.input_tokens == int(collated.asked[0]) + 1  # the very prompt that it was trained on
    assert told.answer is not None and told.answer.startswith('{"events":[')


def test_weights_of_every_precision_are_saved(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = build_model(TOKENIZER, "tiny")
    for dtype in (torch.float32, torch.bfloat16):
        save_checkpoint(tmp_path, model, TOKENIZER, dtype)
        stored = load_file(tmp_path / "model.safetensors")
        assert {t.dtype for t in stored.values()} == {dtype} and stored.keys() == model.state_dict().keys()


def test_the_card_tells_how_it_was_made_and_how_good_it_is(checkpoint: Path) -> None:
    figures = {"f1_50": 0.5, "exact_text": None}
    text = card(checkpoint.parent, [{"precision": "bf16", "groups": {"all": {"figures": figures}}}])
    assert "2 layers of 8 experts, 2 of them" in text and "then 1 steps\nof 3 windows" in text
    assert "| bf16 | all | 0.5 | - |" in text and "| 1 | " in text and "- lr: 0.002" in text
