"""What a window costs on a GPU that is not at hand: arithmetic and memory traffic over the card's published peaks."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.forecasting.memory import Shape
from pipeline.errors import UsageError
from pipeline.features.vectors import MOST_DIMENSIONS
from pipeline.plan import SECOND_US, Sampling, Windowing


@dataclass(frozen=True, slots=True)
class Gpu:
    """From the vendor's data sheet: TFLOP/s of dense bf16 and FP8 products (None: experts are not multiplied in FP8
    there, model/experts/fp8.py), TB/s of memory, GB of memory. Data sheets often give twice these products, "with
    sparsity"."""

    name: str
    bf16: float
    fp8: float | None
    bandwidth: float
    memory: float


#: H100, H200 and A100 (80 GB) are the SXM boards, B200 one of an HGX board (1 kW), MI300X the OAM; A10G is AWS's.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 989, 1979, 3.35, 80),
        Gpu("H200", 989, 1979, 4.8, 141),
        Gpu("B200", 2250, None, 8.0, 180),
        Gpu("A100", 312, None, 2.04, 80),
        Gpu("L40S", 362, None, 0.864, 48),
        Gpu("L4", 121, None, 0.3, 24),
        Gpu("A10G", 70, None, 0.6, 24),
        Gpu("MI300X", 1307, None, 5.3, 192),
    )
}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is assumed, not measured: change it where you know better.

    `compute` and `traffic`: shares of the peaks that are reached. `output_tokens` and `prompt_tokens`: of one window.
    `batch`: windows that one rank works on at once. `workspace`: bytes on each GPU beside weights, keys and values.
    """

    compute: float = 0.4
    traffic: float = 0.6
    output_tokens: int = 256
    prompt_tokens: int = 400
    batch: int = 16
    workspace: int = 6 << 30


@dataclass(frozen=True, slots=True)
class WindowCost:
    """GPU seconds of one window, all ranks together, and the tokens behind them. `kv_bytes`: of one rank's batch.
    `features_bytes`: of what is kept beside the log, a vector for each pair of frames."""

    tokens: int
    prefill_s: float
    generate_s: float
    kv_bytes: int
    features_bytes: int

    @property
    def gpu_s(self) -> float:
        return self.prefill_s + self.generate_s


def find_gpu(name: str) -> Gpu:
    """Raises UsageError for a card that is not in the table."""
    for known, gpu in GPUS.items():
        if known.lower() == name.lower():
            return gpu
    raise UsageError(f"--gpu {name}: not known; there are {', '.join(GPUS)}")


def window_cost(
    shape: Shape,
    sampling: Sampling,
    windowing: Windowing,
    size: tuple[int, int],
    gpu: Gpu,
    ranks: int,
    assumed: Assumptions,
) -> WindowCost:
    """What one full window of videos of `size` (width, height) costs.

    Prefill is bound by arithmetic: two operations for each weight that a token meets, and attention. Generating is
    bound by memory: every step reads the weights that its tokens meet, once for a rank's whole batch (of the experts
    of a rank, those that any token of the gang is sent to), and each window's keys and values.
    """
    config = shape.config
    text, vision = config.text_config, config.vision_config
    from model.checkpoint.memory import kv_bytes_per_token, weights_memory

    patch, merge, temporal = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    width, height = sampling.size(*size)
    pairs = -(-round(windowing.length_us * sampling.fps / SECOND_US) // temporal)
    patches = max(1, round(width / patch / merge)) * max(1, round(height / patch / merge)) * merge * merge
    tokens = pairs * (patches // merge**2 + 8) + assumed.prompt_tokens  # 8: a time, and the frame's marks

    memory = weights_memory(shape.skeleton, 1, shape.dtype).parts
    element = shape.dtype.itemsize
    dense = (memory["attention"] + memory["dense layers"] + memory["routers and norms"]) // element
    experts = getattr(text, "num_experts", 0) or 0
    top = getattr(text, "num_experts_per_tok", 0) or 0
    of_experts = 3 * text.hidden_size * getattr(text, "moe_intermediate_size", 0) * text.num_hidden_layers
    tower = _weights(shape, ".visual.blocks.")
    mergers = _weights(shape, ".visual.merger.") + _weights(shape, ".visual.deepstack_merger_list.")
    operations = 2 * dense * tokens + 2 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * tokens**2
    operations += pairs * (
        2 * tower * patches + 2 * mergers * (patches // merge**2) + 4 * vision.depth * vision.hidden_size * patches**2
    )
    fast = gpu.fp8 if shape.fp8_products and gpu.fp8 else gpu.bf16  # else widened, as int8 and int4 are
    prefill_s = (operations / gpu.bf16 + 2 * top * of_experts * tokens / fast) / (1e12 * assumed.compute)

    kv = kv_bytes_per_token(config, shape.dtype)
    head = text.vocab_size * text.hidden_size * element
    met = 1 - (1 - top / experts) ** (ranks * assumed.batch) if experts else 0.0
    read = dense * element + head + memory["experts"] / ranks * met
    per_step = read / assumed.batch + kv * (tokens + assumed.output_tokens / 2)
    generate_s = assumed.output_tokens * per_step / (gpu.bandwidth * 1e12 * assumed.traffic)
    kv_bytes = kv * (tokens + assumed.output_tokens) * assumed.batch
    features_bytes = pairs * min(vision.out_hidden_size, MOST_DIMENSIONS) * 2
    return WindowCost(tokens, prefill_s, generate_s, kv_bytes, features_bytes)


def _weights(shape: Shape, part: str) -> int:
    return sum(p.numel() for name, p in shape.skeleton.named_parameters() if part in name)
