"""Sharded experts: transformers' own numbers for any number of ranks, any work per rank, any placement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.experts.placement import Placement, imbalance
from pipeline.errors import ModelError

torch = pytest.importorskip("torch")

from tests.model import expert_checkpoints as tiny  # noqa: E402
from tests.model.forked_ranks import ROOT  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

#: Windows of different lengths: text alone, odd and even numbers of temporal patches, images, both.
SAMPLES: list[dict[str, Any]] = [
    {"seed": 1, "text": 5},
    {"seed": 2, "text": 7, "frames": 3},
    {"seed": 3, "text": 4, "frames": 2, "images": 2},
    {"seed": 4, "text": 9, "frames": 1},
    {"seed": 5, "text": 1, "images": 1, "grid": [2, 8]},
    {"seed": 6, "text": 30, "frames": 4, "grid": [6, 4]},
]


@pytest.fixture(scope="module")
def references() -> dict[str, dict[int, Any]]:
    """transformers' own logits of every sample, by kind of model and seed; and what its router chose."""
    found: dict[str, dict[int, Any]] = {}
    for kind in ("moe", "dense"):
        model = tiny.build(kind)
        chosen: list[Any] = []
        for module in model.modules():
            if type(module).__name__ == "Qwen3VLMoeTextTopKRouter":
                module.register_forward_hook(lambda _m, _i, out, to=chosen: to.append(out[2]))
        with torch.inference_mode():
            for sample in SAMPLES:
                found.setdefault(kind, {})[sample["seed"]] = model(**tiny.sample(**sample)).logits
                if kind == "moe":
                    found.setdefault("chosen", {})[sample["seed"]] = chosen[:]
                chosen.clear()
            if kind == "moe":
                found["bf16"] = {}
                model = tiny.cast(model, torch.bfloat16)
                for sample in SAMPLES:
                    found["bf16"][sample["seed"]] = model(**tiny.sample(**sample)).logits
    return found


@pytest.fixture(scope="module")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], list[Any]]]:
    """Every scenario run once, in one program of its own that forks the ranks: name -> (job, results by rank)."""
    folder = tmp_path_factory.mktemp("gangs")
    moe = str(tiny.save(tiny.build("moe"), folder / "moe", "hub", shards=2))
    half = str(tiny.save(tiny.build("moe", torch.bfloat16), folder / "half", "hub"))
    dense = str(tiny.save(tiny.build("dense"), folder / "dense"))
    s = SAMPLES
    skewed = [[100, 1, 1, 1, 1, 1, 1, 50]] * 3
    jobs = {
        "one": {"ranks": 1, "work": [s]},
        "two": {"ranks": 2, "work": [s[:3], s[3:]]},
        "four": {"ranks": 4, "work": [s[:1], s[1:3], s[3:5], s[5:]]},
        "idle": {"ranks": 4, "work": [[], s[:1], s, []]},
        "uneven": {"ranks": 3, "work": [s[2:3], s, []]},  # 8 experts: 2, 3 and 3 of them
        "replicated": {"ranks": 2, "work": [s, s], "replicated": True},
        "replicated four": {"ranks": 4, "work": [s[:2]] * 4, "replicated": True},
        "measured": {"ranks": 2, "work": [s[:4], s[4:]], "placement": Placement.measured(skewed, 2, 3).to_json()},
        "measured replicated": {
            "ranks": 2,
            "work": [s[:2]] * 2,
            "replicated": True,
            "placement": Placement.measured(skewed, 2, 3).to_json(),
        },
        "bf16": {"ranks": 2, "work": [s[:3], s[3:]], "dtype": "bfloat16"},
        "packed": {"ranks": 2, "work": [s[:3], s[3:]], "dtype": None, "checkpoint": half},
        "dense": {"ranks": 2, "work": [s[:1], s[1:]], "checkpoint": dense},
        **{
            f"int{bits} on {len(work)}": {"ranks": len(work), "work": work, "bits": bits}
            for bits in (8, 4)
            for work in ([s], [s[:3], s[3:]], [s[:1], s[1:3], s[3:5], s[5:]])
        },
    }
    for name, job in jobs.items():
        job.setdefault("checkpoint", moe)
        job["out"] = str(folder / "results" / name.replace(" ", "_"))
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.expert_ranks", str(folder / "jobs.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,  # a dozen gangs, on a machine that may be busy
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        name: (job, [torch.load(f"{job['out']}/{rank}.pt", weights_only=True) for rank in range(job["ranks"])])
        for name, job in jobs.items()
    }


def answers(gang: tuple[dict[str, Any], list[Any]]) -> Iterator[tuple[int, Any]]:
    job, results = gang
    for work, result in zip(job["work"], results, strict=True):
        assert len(work) == len(result["logits"])
        for sample, logits in zip(work, result["logits"], strict=True):
            yield sample["seed"], logits


@pytest.mark.parametrize(
    "name",
    ["one", "two", "four", "idle", "uneven", "replicated", "replicated four", "measured", "measured replicated"],
)
def test_logits_equal_transformers(gangs: Any, references: Any, name: str) -> None:
    for seed, logits in answers(gangs[name]):
        torch.testing.assert_close(logits, references["moe"][seed], rtol=0, atol=1e-5)
        assert torch.equal(logits.argmax(-1), references["moe"][seed].argmax(-1))


def test_replicated_tokens_give_every_rank_the_same_bits(gangs: Any) -> None:
    for name in ("replicated", "replicated four", "measured replicated"):
        first, *others = gangs[name][1]
        for other in others:
            assert all(map(torch.equal, first["logits"], other["logits"]))


def test_dense_ranks_need_no_lockstep(gangs: Any, references: Any) -> None:
    for seed, logits in answers(gangs["dense"]):
        assert torch.equal(logits, references["dense"][seed])


@pytest.mark.parametrize("name", ["bf16", "packed"])
def test_bf16_as_close_as_transformers_own_bf16(gangs: Any, references: Any, name: str) -> None:
    """Against float32 our error is at most a little more than that of transformers run in bf16."""
    for seed, logits in answers(gangs[name]):
        exact, theirs = references["moe"][seed], references["bf16"][seed].float()
        ours_off, theirs_off = (logits.float() - exact).abs().mean(), (theirs - exact).abs().mean()
        assert ours_off < 1.5 * theirs_off + 0.01, (seed, ours_off, theirs_off)


@pytest.mark.parametrize("bits", [8, 4])
def test_low_bit_experts_give_the_same_on_any_number_of_ranks(gangs: Any, references: Any, bits: int) -> None:
    """int8 to the last bit: integer sums, and scales that belong to one row. int4 as near as float32 is."""
    alone = dict(answers(gangs[f"int{bits} on 1"]))
    for ranks in (2, 4):
        for seed, logits in answers(gangs[f"int{bits} on {ranks}"]):
            torch.testing.assert_close(logits, alone[seed], rtol=0, atol=0 if bits == 8 else 1e-4)
    for seed, logits in alone.items():
        off = (logits - references["moe"][seed]).norm() / references["moe"][seed].norm()
        assert 1e-4 < off < (0.05 if bits == 8 else 0.5)


def test_routing_is_counted(gangs: Any, references: Any) -> None:
    for name in ("one", "two", "four", "idle", "uneven", "measured", "replicated"):
        job, results = gangs[name]
        expected = torch.zeros(3, 8, dtype=torch.int64)
        for rank, work in enumerate(job["work"]):
            for sample in work if rank == 0 or not job.get("replicated") else []:
                for layer, chosen in enumerate(references["chosen"][sample["seed"]]):
                    expected[layer] += torch.bincount(chosen.flatten(), minlength=8)
        counted = sum(torch.tensor(result["metrics"]["tokens"]) for result in results)
        assert torch.equal(counted, expected)
        for result in results:
            assert (result["metrics"]["bytes"] > 0) == (job["ranks"] > 1)
            assert result["metrics"]["seconds"]["compute"] > 0


def test_a_token_travels_once_per_rank(gangs: Any, references: Any) -> None:
    """Bytes that left each rank, from the router's choices alone: tokens once per foreign rank, results once each."""
    job, results = gangs["two"]
    for rank, (work, result) in enumerate(zip(job["work"], results, strict=True)):
        rows = pairs = 0
        for sample in work:
            for chosen in references["chosen"][sample["seed"]]:
                foreign = chosen // 4 != rank
                rows += int(foreign.any(1).sum())
                pairs += int(foreign.sum())
        other = results[1 - rank]
        given_back = 0
        for sample in job["work"][1 - rank]:
            for chosen in references["chosen"][sample["seed"]]:
                given_back += int((chosen // 4 == rank).sum())
        assert result["metrics"]["bytes"] == rows * (64 * 4 + 16) + given_back * 64 * 4
        assert pairs > rows  # some tokens had both experts there
        assert other["metrics"]["bytes"] > 0


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def layer(form: Any, experts: Any, hidden: int, width: int, seed: int = 0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    gate_up = torch.randn(experts, 2 * width, hidden, generator=generator) / hidden**0.5
    down = torch.randn(experts, hidden, width, generator=generator) / width**0.5
    if form is not None:
        for expert in range(experts):
            a, b = form.slot(expert)
            a.copy_(gate_up[expert])
            b.copy_(down[expert])
            form.seal(expert)
    return form, gate_up, down


def naive(x: Any, chosen: Any, shares: Any, gate_up: Any, down: Any) -> Any:
    """One token and expert at a time, in float64."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    width = down.shape[2]
    for t in range(len(x)):
        for e, share in zip(chosen[t].tolist(), shares[t].double(), strict=True):
            both = gate_up[e].double() @ x[t].double()
            gated = torch.nn.functional.silu(both[:width]) * both[width:]
            out[t] += share * (down[e].double() @ gated)
    return out


@pytest.mark.parametrize(
    ("make", "dtype", "tolerance"),
    [("PlainExperts", "float32", 1e-6), ("PlainExperts", "bfloat16", 2e-2), ("PackedExperts", "bfloat16", 2e-2)],
)
@pytest.mark.parametrize("tokens", [0, 1, 3, 17, 200])
def test_forms_against_float64(make: str, dtype: str, tolerance: float, tokens: int) -> None:
    from model.experts import forms
    from model.experts.layer import ExpertParallel, ShardedExperts

    if make == "PackedExperts" and not forms.can_pack():
        pytest.skip("this build of torch has no FBGEMM")
    hidden, width, experts, k = 48, 20, 6, 3
    form, gate_up, down = layer(getattr(forms, make)(experts, hidden, width, getattr(torch, dtype)), 6, hidden, width)
    parallel = ExpertParallel(Placement.contiguous(1, experts, 1))
    sharded = ShardedExperts(parallel, 0, form, k, torch.nn.functional.silu)
    x = torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(tokens)).to(getattr(torch, dtype))
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(1))
    shares, chosen = scores.softmax(-1).topk(k)
    shares = (shares / shares.sum(-1, keepdim=True)).to(x.dtype)
    result = sharded(x, chosen, shares)
    assert result.dtype == x.dtype and result.shape == x.shape
    exact = naive(x, chosen, shares, gate_up, down)
    torch.testing.assert_close(result.double(), exact, rtol=tolerance, atol=tolerance)


def test_grouped_products_equal_the_loop() -> None:
    """The path that CUDA takes, run on the CPU, where torch has the same operator."""
    from model.experts.compute import PlainExperts, run_grouped

    form, _, _ = layer(PlainExperts(5, 64, 32, torch.bfloat16), 5, 64, 32)
    x = torch.randn(11, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    counts = torch.tensor([4, 0, 9, 1, 0])
    rows = torch.randint(0, 11, (14,), generator=torch.Generator().manual_seed(0))
    silu = torch.nn.functional.silu
    torch.testing.assert_close(
        run_grouped(x[rows], form.gate_up, form.down, counts, silu),
        form.run(x, rows, counts, silu),
        rtol=2e-2,
        atol=2e-2,
    )


def test_combine_sums_in_float32() -> None:
    from model.experts.compute import combine

    rows = torch.tensor([[256.0], [1.0], [1.0]]).bfloat16()  # summed in bf16 the ones would vanish
    where = torch.tensor([[0, 1, 2]])
    assert combine(rows, where, torch.ones(1, 3).bfloat16()).item() == 258


# --- placement --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_placement_holds_every_expert(data: Any) -> None:
    experts = data.draw(st.integers(1, 24))
    ranks = data.draw(st.integers(1, experts))
    replicas = data.draw(st.integers(0, min(12, experts * (ranks - 1))))
    load = data.draw(
        st.lists(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts), min_size=1, max_size=3)
    )
    placement = Placement.measured(load, ranks, replicas)
    for held in placement.held:
        assert sum(map(len, held)) == experts + replicas
        assert {expert for slots in held for expert in slots} == set(range(experts))
        assert all(len(set(slots)) == len(slots) for slots in held)
    assert Placement.from_json(placement.to_json()) == placement


def test_measured_beats_contiguous_on_skewed_load() -> None:
    load = np.array([[1000 / (1 + e) for e in range(128)]])  # Zipf: the hot experts are neighbours

    def worst(placement: Placement) -> float:
        held = placement.held[0]
        copies = [sum(e in slots for slots in held) for e in range(128)]
        return imbalance([sum(load[0, e] / copies[e] for e in slots) for slots in held])

    contiguous, measured = Placement.contiguous(1, 128, 8), Placement.measured(load, 8)
    assert worst(contiguous) > 4
    assert worst(measured) < 1.7  # one expert alone carries 1.47 times the mean
    assert worst(Placement.measured(load, 8, replicas=8)) < 1.05


def test_contiguous_splits() -> None:
    assert Placement.contiguous(1, 8, 3).held == (((0, 1), (2, 3, 4), (5, 6, 7)),)
    assert Placement.contiguous(2, 128, 4).held[1][3] == tuple(range(96, 128))
    for ranks in (0, 9):
        with pytest.raises(ModelError, match="cannot be split"):
            Placement.contiguous(1, 8, ranks)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "not json",
        '{"experts": 2, "held": [[[0]]]}',
        '{"experts": 2, "held": [[[0, 5], [1]]]}',
        '{"experts": 2, "held": [[[0, 0, 1]]]}',
        '{"experts": 2, "held": []}',
        '{"experts": 2, "held": [[[0, 1]], [[0], [1]]]}',
        '{"experts": 2, "held": 5}',
    ],
)
def test_placement_files_are_checked(text: str) -> None:
    with pytest.raises(ModelError, match="placement"):
        Placement.from_json(text)
