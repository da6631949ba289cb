"""What to read for what: every parameter of the model, and each expert, mapped to tensors of the checkpoint.

Expert layouts in the wild, for E experts of width I below hidden size H:

| layout (names below `experts.`) | gate and up | down |
|---|---|---|
| per expert | `{i}.gate_proj.weight`, `{i}.up_proj.weight`, each [I, H] | `{i}.down_proj.weight` [H, I] |
| per projection, GGUF files | `gate_proj`, `up_proj` [E, I, H] | `down_proj` [E, H, I] |
| fused, transformers 5 | `gate_up_proj` [E, 2I, H] | `down_proj` [E, H, I] |
| fused, hub checkpoints of transformers 4.57 | `gate_up_proj` [E, H, 2I] | `down_proj` [E, I, H] |

Planning reads no weights: whatever is missing, extra, misshapen or ambiguous is an error before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.checkpoint.fp8 import SCALE_SUFFIX, scale_shape
from model.checkpoint.header import BLOCKS, Stored
from model.checkpoint.index import Checkpoint
from pipeline.errors import ModelError

FLOATS = ("F32", "F16", "BF16", "F64")
FP8 = "F8_E4M3"


@dataclass(frozen=True, slots=True)
class Read:
    """One matrix (or vector) to read: all of `stored`, or entry `item` of its first dimension; then `transposed`.

    `scale`: the block scales of an FP8 weight, in the orientation in which it is stored.
    """

    stored: Stored
    scale: Stored | None = None
    item: int | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class ExpertReads:
    """One expert: `gate_up` is one matrix [2I, H], or gate and up [I, H] to be written below each other."""

    gate_up: tuple[Read, ...]
    down: Read


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """The experts of one layer as the configuration wants them."""

    experts: int
    hidden: int
    width: int


class Layout:
    """Hands out the tensors of a checkpoint and remembers which were asked for."""

    def __init__(self, checkpoint: Checkpoint, block: tuple[int, int] | None) -> None:
        self._checkpoint, self._block = checkpoint, block
        self._used: set[str] = set()

    def parameter(self, name: str, shape: Sequence[int]) -> Read:
        """The tensor of one ordinary parameter. Raises ModelError where it is missing or misshapen."""
        return self._find(name, [tuple(shape)])

    def has(self, name: str) -> bool:
        return name in self._checkpoint.tensors

    def experts(self, prefix: str, shape: ExpertShape) -> list[ExpertReads]:
        """Every expert of the layer at `prefix` (`...layers.3.mlp.experts`), whichever layout it is stored in."""
        e, h, i = shape.experts, shape.hidden, shape.width
        if self.has(f"{prefix}.gate_up_proj"):
            gate_up = self._fused(f"{prefix}.gate_up_proj", e, 2 * i, h)
            down = self._fused(f"{prefix}.down_proj", e, h, i)
            return [ExpertReads((replace(gate_up, item=n),), replace(down, item=n)) for n in range(e)]
        if self.has(f"{prefix}.gate_proj"):
            parts = [(f"{prefix}.{part}_proj", (e, *side)) for part, side in (("gate", (i, h)), ("up", (i, h)))]
            gate, up = (self._find(name, [side]) for name, side in parts)
            down = self._find(f"{prefix}.down_proj", [(e, h, i)])
            return [ExpertReads((replace(gate, item=n), replace(up, item=n)), replace(down, item=n)) for n in range(e)]
        reads = []
        for n in range(e):
            gate = self._find(f"{prefix}.{n}.gate_proj.weight", [(i, h)])
            up = self._find(f"{prefix}.{n}.up_proj.weight", [(i, h)])
            reads.append(ExpertReads((gate, up), self._find(f"{prefix}.{n}.down_proj.weight", [(h, i)])))
        return reads

    def refuse_extra(self) -> None:
        """Raises ModelError naming a tensor that nothing asked for."""
        extra = sorted(set(self._checkpoint.tensors) - self._used)
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise ModelError(
                f"{self._checkpoint.path}: the tensor {ascii(extra[0])[:160]}{more} belongs to no part of this model"
            )

    def _fused(self, name: str, experts: int, rows: int, columns: int) -> Read:
        """A stack of matrices in either orientation; `rows` x `columns` is how they are used."""
        if rows == columns:
            raise ModelError(
                f"{self._checkpoint.path}: {name} holds square matrices ({rows} x {columns}), so that its shape cannot "
                "tell whether they are transposed: store one tensor per expert (experts.0.gate_proj.weight ...)"
            )
        read = self._find(name, [(experts, rows, columns), (experts, columns, rows)])
        return replace(read, transposed=read.stored.shape[1] == columns)

    def _find(self, name: str, shapes: list[tuple[int, ...]]) -> Read:
        path = self._checkpoint.path
        stored = self._checkpoint.tensors.get(name)
        if stored is None:
            raise ModelError(f"{path}: the tensor {name} is missing")
        if stored.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ModelError(f"{path}: {name} has shape {list(stored.shape)}, config.json asks for {wanted}")
        self._used.add(name)
        if stored.dtype in FLOATS or stored.dtype in BLOCKS:
            return Read(stored)
        if stored.dtype != FP8 or self._block is None or len(stored.shape) < 2:
            hint = " without a quantization_config in config.json" if stored.dtype == FP8 else ""
            raise ModelError(f"{path}: {name} is stored as {stored.dtype}{hint}, which cannot be read as a weight")
        return Read(stored, self._scale(name, stored.shape, self._block))

    def _scale(self, name: str, shape: tuple[int, ...], block: tuple[int, int]) -> Stored:
        path, tensors = self._checkpoint.path, self._checkpoint.tensors
        # A fused stack is a parameter, not a module: its scale is spelt both ways.
        names = [f"{name}{SCALE_SUFFIX}"] + ([] if name.endswith(".weight") else [f"{name}.weight{SCALE_SUFFIX}"])
        found = next((tensors[known] for known in names if known in tensors), None)
        if found is None:
            raise ModelError(f"{path}: the tensor {names[0]} is missing: {name} is FP8 and useless without its scales")
        if found.shape != scale_shape(shape, block) or found.dtype not in FLOATS:
            raise ModelError(
                f"{path}: {found.name} is {found.dtype} {list(found.shape)}, "
                f"expected {list(scale_shape(shape, block))} floats for blocks of {block[0]} x {block[1]}"
            )
        self._used.add(found.name)
        return found
