"""Weights in YuNet's layout that find bright squares: what OpenCV's FaceDetectorYN reads, made without any training.

Its net has, for each stride s of 8, 16 and 32, the heads cls_s, obj_s [1, N, 1], bbox_s [1, N, 4], kps_s [1, N, 10]
over the N = (W / s) (H / s) cells of the picture; a box is centred at (column + dx, row + dy) s and exp(w) s by
exp(h) s large. Here a cell's score is the brightness of its picture, sharpened, and its box is one cell of the stride.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def write_square_finder(path: Path) -> Path:
    """An ONNX file that finds squares of 32 px that are nearly white, on the grid of 32 px."""
    nodes, constants, outputs = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    for stride in (8, 16, 32):
        mean = np.full((1, 3, stride, stride), 1 / (3 * stride * stride), np.float32)
        nodes.append(
            helper.make_node("Conv", ["input", constant(f"mean{stride}", mean)], [f"m{stride}"], strides=[stride] * 2)
        )
        # nearly white scores 1, anything else 0; the finer strides find nothing
        level = constant(f"level{stride}", np.array(240.0 if stride == 32 else 1e6, np.float32))
        nodes.append(helper.make_node("Sub", [f"m{stride}", level], [f"d{stride}"]))
        nodes.append(helper.make_node("Sigmoid", [f"d{stride}"], [f"s{stride}"]))
        for head, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            shape = constant(f"{head}shape{stride}", np.array([1, -1, width], np.int64))
            ones = np.zeros((width, 1, 1, 1), np.float32) if width > 1 else np.ones((1, 1, 1, 1), np.float32)
            spread = constant(f"{head}spread{stride}", ones)
            nodes.append(helper.make_node("Conv", [f"s{stride}", spread], [f"{head}w{stride}"]))
            nodes.append(helper.make_node("Transpose", [f"{head}w{stride}"], [f"{head}t{stride}"], perm=[0, 2, 3, 1]))
            if head == "bbox":  # the middle of the cell, exp(0) cells large
                middle = constant(f"middle{stride}", np.array([0.5, 0.5, 0.0, 0.0], np.float32))
                nodes.append(helper.make_node("Add", [f"{head}t{stride}", middle], [f"{head}p{stride}"]))
            else:
                nodes.append(helper.make_node("Identity", [f"{head}t{stride}"], [f"{head}p{stride}"]))
            nodes.append(helper.make_node("Reshape", [f"{head}p{stride}", shape], [f"{head}_{stride}"]))
            outputs.append(helper.make_tensor_value_info(f"{head}_{stride}", TensorProto.FLOAT, [1, None, width]))
    order = [f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    outputs.sort(key=lambda value: order.index(value.name))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "squares", [picture], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
