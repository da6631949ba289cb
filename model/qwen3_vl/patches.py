"""Frames to the patches that Qwen3-VL's vision tower eats: resize, normalisation and patch order.

The arithmetic is that of transformers' `Qwen3VLVideoProcessor` (`models/qwen3_vl/video_processing_qwen3_vl.py`), which
needs torchvision; torchvision's uint8 bicubic resize is `F.interpolate` on uint8, which is called here directly.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from model.qwen3_vl.sizes import PatchConfig, resized


def resize(pixels: npt.NDArray[np.uint8], config: PatchConfig) -> torch.Tensor:
    """Frames uint8 [T, H, W, 3] -> uint8 [T', 3, h, w], T' a multiple of the temporal patch: the last frame is
    repeated where frames are missing. Bicubic with antialias, on the CPU, as the stock processor does."""
    frames, height, width, _ = pixels.shape
    size = resized(frames, height, width, config)
    with warnings.catch_warnings():  # frames straight out of shared memory are read-only, and nothing here writes
        warnings.simplefilter("ignore", UserWarning)
        video = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if size != (height, width):
        video = F.interpolate(video, size, mode="bicubic", antialias=True)
    if missing := -frames % config.temporal:
        video = torch.cat((video, video[-1:].expand(missing, -1, -1, -1)))
    return video


def patchify(video: torch.Tensor, config: PatchConfig) -> torch.Tensor:
    """uint8 [T', 3, h, w] (T' a multiple of the temporal patch) -> normalised float32 patches
    [T'/temporal, h/patch * w/patch, 3 * temporal * patch * patch].

    Patches of one temporal pair come row by row of merge x merge blocks, the block's own patches together; within a
    patch the order is channel, frame, row, column.
    """
    frames, channels, height, width = video.shape
    mean = torch.tensor(config.mean, device=video.device) * (1.0 / config.rescale)
    std = torch.tensor(config.std, device=video.device) * (1.0 / config.rescale)
    values = (video.to(torch.float32) - mean[:, None, None]).div_(std[:, None, None])
    t, rows, columns = frames // config.temporal, height // config.factor, width // config.factor
    blocks = values.reshape(
        t, config.temporal, channels, rows, config.merge, config.patch, columns, config.merge, config.patch
    )
    ordered = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(t, rows * columns * config.merge**2, channels * config.temporal * config.patch**2)


def grid(video: torch.Tensor, config: PatchConfig) -> tuple[int, int, int]:
    """`video_grid_thw` of a resized video: temporal pairs, patch rows, patch columns."""
    frames, _, height, width = video.shape
    return frames // config.temporal, height // config.patch, width // config.patch
