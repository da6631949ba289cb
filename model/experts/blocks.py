"""Block-quantised experts on CPUs, by ONNX Runtime's MatMulNBits, which has kernels for AVX2, AVX-512, VNNI and Arm.

Format: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.experts.compute import Activation
from model.experts.packed import StreamedExperts
from model.experts.quantise import BLOCK, pack_nibbles, quantise_blocks
from pipeline.errors import ModelError

#: The kernels' activations: float32 for 8 bits; for 4 int8, each block of each row by itself (an error of 1-2% beside
#: the 10-15% of such weights, for a multiple of the speed).
FLOAT32_ACTIVATIONS, INT8_ACTIVATIONS = 1, 4
#: Measured: what ONNX Runtime keeps beside the weights and scales of one expert.
SESSION_BYTES = 704 << 10


class BlockExperts(StreamedExperts):
    """Weights in 4 (or 8) bits with a scale per 64 of a row. The activation between the products is SiLU.

    One session per expert, so that only the experts that are hit are read; they run on as many threads as torch has.
    """

    def __init__(self, count: int, hidden: int, width: int, bits: int, dtype: torch.dtype) -> None:
        super().__init__(count, hidden, width, dtype)
        self.bits = bits

    @property
    def nbytes(self) -> int:
        # The packing keeps the scales twice, and the sum of each block.
        per_weight = self.bits / 8 + 3 * 4 / BLOCK
        return self.count * (int(3 * self.hidden * self.width * per_weight) + SESSION_BYTES)

    def pack(self, gate_up: Tensor, down: Tensor) -> Any:
        arrays = {}
        for name, weight in (("gate_up", gate_up), ("down", down)):
            values, scale = quantise_blocks(weight, self.bits)
            arrays[name] = (pack_nibbles(values) if self.bits == 4 else values).numpy()
            arrays[f"{name}_scale"] = scale.flatten().numpy()
        return _session(_expert_graph(self.hidden, self.width, self.bits, arrays))

    def multiply(self, x: Tensor, packed: Any, activation: Activation) -> Tensor:
        return torch.from_numpy(packed.run(None, {"x": x.contiguous().numpy()})[0])

    def run(self, x: Tensor, rows: Tensor, counts: Tensor, activation: Activation) -> Tensor:
        if torch.get_num_threads() == 1:
            return super().run(x, rows, counts, activation)
        out = torch.empty(len(rows), self.hidden, dtype=x.dtype)
        ends = counts.cumsum(0)

        def one(expert: int) -> None:
            part = slice(int(ends[expert] - counts[expert]), int(ends[expert]))
            out[part] = self.multiply(x[rows[part]].float(), self._packed[expert], activation)

        list(self._threads.map(one, counts.nonzero().flatten().tolist()))
        return out

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads())


def _expert_graph(hidden: int, width: int, bits: int, arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """x -> gate_up -> SiLU(gate) * up -> down, as an ONNX model."""
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ModelError("block-quantised experts need the package onnx: pip install 'secondsight[qwen]'") from error

    def product(source: str, weight: str, result: str, inputs: int, outputs: int) -> Any:
        return helper.make_node(
            "MatMulNBits",
            [source, weight, f"{weight}_scale"],
            [result],
            domain="com.microsoft",
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS if bits == 4 else FLOAT32_ACTIVATIONS,
        )

    nodes = [
        product("x", "gate_up", "both", hidden, 2 * width),
        helper.make_node("Split", ["both"], ["gate", "up"], axis=1, num_outputs=2),
        helper.make_node("Sigmoid", ["gate"], ["share"]),
        helper.make_node("Mul", ["gate", "share"], ["active"]),
        helper.make_node("Mul", ["active", "up"], ["gated"]),
        product("gated", "down", "y", width, hidden),
    ]
    graph = helper.make_graph(
        nodes,
        "expert",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", hidden])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", hidden])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # one arena per expert would outgrow the experts
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # The Python object keeps the model's bytes, for a change of providers: a second copy of the weights.
    vars(session).pop("_model_bytes", None)
    return session
