"""Experts in 8 and 4 bits: the numbers of their dequantised weights, on any batch, rank and device form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

pytestmark = pytest.mark.usefixtures("one_thread")

EXPERTS = 4


def weights(hidden: int, width: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(hidden)
    gate_up = torch.randn(EXPERTS, 2 * width, hidden, generator=generator) / hidden**0.5
    down = torch.randn(EXPERTS, hidden, width, generator=generator) / width**0.5
    gate_up[0, 3] = 0.0  # a dead output
    down[1, 2, 5] = 4.0  # an outlier
    return gate_up, down


def in_numpy(weight: Any, bits: int, block: int | None) -> Any:
    """What quantised weights stand for, by the definition in model/experts/quantise.py, one block at a time."""
    out = torch.zeros(weight.shape, dtype=torch.float64)
    for r, row in enumerate(weight):
        for start in range(0, len(row), block or len(row)):
            part = row[start : start + (block or len(row))]
            peak = part[part.abs().argmax()]
            scale = (peak.abs() / 127 if block is None else peak / -(1 << bits - 1)) or torch.tensor(1.0)
            low, high = (-127, 127) if block is None else (-(1 << bits - 1), (1 << bits - 1) - 1)
            out[r, start : start + len(part)] = (part / scale).round().clamp(low, high).double() * scale.double()
    return out


def form(name: str, hidden: int, width: int, bits: int, dtype: Any = torch.float32) -> Any:
    from model.experts.blocks import BlockExperts
    from model.experts.forms import can_pack
    from model.experts.int8 import Int8Experts
    from model.experts.widened import LowBitExperts

    if name == "int8" and not can_pack():
        pytest.skip("this build of torch has no FBGEMM")
    made = {
        "int8": lambda: Int8Experts(EXPERTS, hidden, width, dtype),
        "blocks": lambda: BlockExperts(EXPERTS, hidden, width, bits, dtype),
        "widened": lambda: LowBitExperts(EXPERTS, hidden, width, bits, dtype),
    }[name]()
    for expert, values in enumerate(zip(*weights(hidden, width), strict=True)):
        for target, value in zip(made.slot(expert), values, strict=True):
            target.copy_(value)
        made.seal(expert)
    return made


def naive(x: Any, which: Any, gate_up: Any, down: Any) -> Any:
    """One row at a time through its expert, in float64."""
    out = []
    for row, expert in zip(x.double(), which.tolist(), strict=True):
        gate, up = (gate_up[expert].double() @ row).chunk(2)
        out.append(down[expert].double() @ (torch.nn.functional.silu(gate) * up))
    return torch.stack(out) if out else torch.zeros(x.shape, dtype=torch.float64)


def run(made: Any, x: Any, which: Any) -> Any:
    counts = torch.bincount(which, minlength=EXPERTS)
    return made.run(x, torch.arange(len(x)), counts, torch.nn.functional.silu)


FORMS = [
    # name, bits, block of a scale, allowed distance from the dequantised weights (int4 also quantises the rows)
    ("int8", 8, None, 1e-3),
    ("blocks", 8, 64, 1e-5),
    ("blocks", 4, 64, 4e-2),
    ("widened", 8, None, 1e-5),
    ("widened", 4, 64, 1e-5),
]


@pytest.mark.parametrize(("name", "bits", "block", "near"), FORMS)
@pytest.mark.parametrize(("hidden", "width"), [(128, 64), (48, 20), (136, 96)])
def test_results_are_those_of_the_dequantised_weights(
    name: str, bits: int, block: int | None, near: float, hidden: int, width: int
) -> None:
    made = form(name, hidden, width, bits)
    gate_up, down = weights(hidden, width)
    meant = [torch.stack([in_numpy(m, bits, block) for m in part]) for part in (gate_up, down)]
    for rows in (0, 1, 3, 40):
        generator = torch.Generator().manual_seed(rows)
        x = torch.randn(rows, hidden, generator=generator)
        x[: rows // 2, 1] *= 30  # rows with outliers
        which = torch.randint(0, EXPERTS - 1, (rows,), generator=generator).sort().values  # one expert is never hit
        found, exact = run(made, x, which), naive(x, which, *meant)
        assert found.dtype == torch.float32 and found.shape == x.shape
        assert (found - exact).norm() <= near * exact.norm()
        # and the weights are near those that were meant: the cost of so few bits, not of a mistake
        plain = naive(x, which, gate_up, down)
        assert (found - plain).norm() <= (0.03 if bits == 8 else 0.25) * plain.norm()


def test_int8_gives_a_row_the_same_bits_in_any_batch() -> None:
    made = form("int8", 96, 40, 8)
    x = torch.randn(60, 96, generator=torch.Generator().manual_seed(0))
    which = torch.arange(60) // 20
    whole = run(made, x, which)
    for row in (0, 7, 20, 59):
        assert torch.equal(run(made, x[row : row + 1], which[row : row + 1])[0], whole[row])
    made.run(torch.zeros(2, 96), torch.arange(2), torch.tensor([2, 0, 0, 0]), torch.nn.functional.silu)
    assert not run(made, torch.zeros(2, 96), torch.tensor([0, 1])).any()


def test_rows_of_bf16_and_threads_of_their_own() -> None:
    for name, bits in (("int8", 8), ("blocks", 4)):
        made = form(name, 96, 40, bits, torch.bfloat16)
        x = torch.randn(9, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
        which = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])
        alone = run(made, x, which)
        assert alone.dtype == torch.bfloat16
        torch.set_num_threads(2)
        try:
            torch.testing.assert_close(run(made, x, which), alone, rtol=1e-2, atol=1e-3)
        finally:
            torch.set_num_threads(1)


def test_they_take_the_memory_of_their_bits() -> None:
    from model.experts.forms import best_form

    plain = best_form(EXPERTS, 2048, 768, torch.float32, "meta").nbytes
    assert best_form(EXPERTS, 2048, 768, torch.float32, "meta", bits=8).nbytes < plain / 3.9
    assert best_form(EXPERTS, 2048, 768, torch.float32, "meta", bits=4).nbytes < plain / 6.9
    assert best_form(EXPERTS, 2048, 768, torch.float32, bits=8).nbytes < plain / 3.9
    assert best_form(EXPERTS, 2048, 768, torch.float32, bits=4).nbytes < plain / 4.7


def test_products_in_fp8_are_those_of_the_quantised_numbers() -> None:
    """Values times scales, both sides, multiplied in float64: what the GPU's kernel is to give (it is not run here)."""
    from model.experts.fp8 import Fp8Experts, can_multiply, quantise_rows, scaled_product

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 256, generator=generator) * torch.tensor([1e-3, 1, 30, 0, 1])[:, None]
    values, factors = quantise_rows(x)
    assert values.float().abs().max() == 448 and torch.isfinite(factors).all()
    meant = values.double() * factors.double().repeat_interleave(128, 1)
    assert (meant - x.double()).abs().max() <= 30 * 5 / 16  # three bits of mantissa
    experts = Fp8Experts(2, 256, 128, (128, 128), torch.float32, arithmetic=True)
    for weight, scale in ((experts.gate_up, experts.gate_up_scale), (experts.down, experts.down_scale)):
        weight.copy_(torch.randn(weight.shape, generator=generator).to(weight.dtype))
        scale.copy_(torch.rand(scale.shape, generator=generator) / 8)
    wide = experts._widen(experts.gate_up, experts.gate_up_scale)[0].double()
    found = scaled_product(x, experts.gate_up[0], experts.gate_up_scale[0])
    torch.testing.assert_close(found.double(), meant @ wide.t(), rtol=1e-5, atol=1e-4)
    # The whole layer, beside the same experts widened: what eight bits of activations cost.
    widened = Fp8Experts(2, 256, 128, (128, 128), torch.float32)
    for name in ("gate_up", "down", "gate_up_scale", "down_scale"):
        setattr(widened, name, getattr(experts, name))
    rows, counts = torch.tensor([0, 1, 2, 4, 1]), torch.tensor([3, 2])
    exact, ours = (e.run(x, rows, counts, torch.nn.functional.silu) for e in (widened, experts))
    assert (ours - exact).norm() < 0.05 * exact.norm()
    assert not can_multiply(torch.device("cpu"), (128, 128), torch.bfloat16)


@pytest.mark.parametrize(("outputs", "columns"), [(1536, 2048), (2048, 768), (4096, 1536), (256, 128)])
def test_the_gpus_product_in_fp8_is_given_what_torch_wants(
    outputs: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own checks of shapes and strides, which need no GPU, for published sizes of experts; and rows in fours,
    which cuBLASLt wants and torch does not check."""
    from model.experts.fp8 import scaled_product

    given, real = [], torch.nn.functional.scaled_mm
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", lambda x, *a, **k: given.append(len(x)) or real(x, *a, **k))
    weight = torch.empty(outputs, columns, dtype=torch.float8_e4m3fn, device="meta")
    scale = torch.empty(outputs // 128, columns // 128, device="meta")
    for rows in (1, 4, 5):
        x = torch.empty(rows, columns, dtype=torch.bfloat16, device="meta")
        assert scaled_product(x, weight, scale).shape == (rows, outputs)
    assert given == [4, 4, 8]
