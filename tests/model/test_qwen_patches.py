"""Frames to patches, against a slow computation of the same published steps and against transformers' own code."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from pipeline.errors import ModelError

torch = pytest.importorskip("torch")

from model.qwen3_vl.patches import grid, patchify, resize  # noqa: E402
from model.qwen3_vl.sizes import PatchConfig, resized  # noqa: E402

SHAPES = [(2, 64, 96), (3, 90, 160), (5, 121, 83), (1, 48, 200), (7, 17, 40)]


def frames(t: int, h: int, w: int) -> np.ndarray:
    """Noise with some structure, so that a swapped axis or frame shows."""
    rng = np.random.default_rng(t * h * w)
    slope = np.linspace(0, 200, w)[None, None, :, None] + np.arange(t)[:, None, None, None] * 5
    return (slope + rng.integers(0, 50, (t, h, w, 3))).clip(0, 255).astype(np.uint8)


def cubic(x: float) -> float:
    """Keys' cubic convolution kernel with a = -0.5, as Pillow's BICUBIC."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def slow_resize_axis(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Antialiased bicubic along one axis in float64, rounded to uint8 at its end."""
    image = np.moveaxis(image.astype(np.float64), axis, 0)
    scale = image.shape[0] / size
    widen = max(scale, 1.0)
    out = np.empty((size, *image.shape[1:]))
    for i in range(size):
        center = (i + 0.5) * scale
        first = max(0, int(center - 2 * widen + 0.5))
        last = min(image.shape[0], int(center + 2 * widen + 0.5))
        weights = np.array([cubic((k - center + 0.5) / widen) for k in range(first, last)])
        out[i] = np.tensordot(weights / weights.sum(), image[first:last], 1)
    return np.moveaxis(np.floor(out.clip(0, 255) + 0.5), 0, axis).clip(0, 255).astype(np.uint8)


def slow_patches(video: np.ndarray, config: PatchConfig) -> np.ndarray:
    """Patches of [T, h, w, 3] by plain loops over the published order."""
    p, m, two = config.patch, config.merge, config.temporal
    t, h, w, _ = video.shape
    values = (video / 255.0 - 0.5) / 0.5
    out = []
    for pair in range(t // two):
        for block_row in range(h // p // m):
            for block_column in range(w // p // m):
                for row in range(m):
                    for column in range(m):
                        y, x = (block_row * m + row) * p, (block_column * m + column) * p
                        patch = values[pair * two : pair * two + two, y : y + p, x : x + p]
                        out.append(np.concatenate([patch[f, :, :, c].ravel() for c in range(3) for f in range(two)]))
    return np.array(out)


@pytest.mark.parametrize("shape", SHAPES)
def test_resize_is_antialiased_bicubic_and_repeats_the_last_frame(shape: tuple[int, int, int]) -> None:
    config = PatchConfig(max_pixels=40_000)
    given_frames = frames(*shape)
    video = resize(given_frames, config)
    height, width = resized(*shape, config)
    assert video.shape == (math.ceil(shape[0] / 2) * 2, 3, height, width)
    # Both passes end in uint8; the width is done first.
    slow = slow_resize_axis(slow_resize_axis(given_frames, width, 2), height, 1)
    ours = video.permute(0, 2, 3, 1).numpy()[: shape[0]]
    difference = np.abs(ours.astype(int) - slow.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02
    if shape[0] % 2:
        assert torch.equal(video[-1], video[-2])


def test_resize_leaves_frames_of_a_fitting_size_alone_also_read_only_ones() -> None:
    pixels = frames(2, 64, 96)
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = resize(pixels, PatchConfig())
    assert np.array_equal(video.permute(0, 2, 3, 1).numpy(), pixels)


@pytest.mark.parametrize("shape", [(2, 64, 96), (4, 96, 32)])
def test_patches_come_in_the_published_order(shape: tuple[int, int, int]) -> None:
    config = PatchConfig()
    pixels = frames(*shape)
    video = resize(pixels, config)
    patches = patchify(video, config)
    t, h, w = grid(video, config)
    assert patches.shape == (t, h * w, 3 * 2 * 16 * 16)
    np.testing.assert_allclose(patches.reshape(-1, patches.shape[-1]).numpy(), slow_patches(pixels, config), atol=1e-6)


def test_an_image_equals_transformers_pillow_processor() -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    processor = module.Qwen2VLImageProcessorPil(
        patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"shortest_edge": 4096, "longest_edge": 10**7}
    )
    image = frames(1, 96, 160)
    stock = processor([image[0]], return_tensors="np")
    video = resize(image, PatchConfig())
    patches = patchify(video, PatchConfig())
    assert stock["image_grid_thw"].tolist() == [list(grid(video, PatchConfig()))]
    np.testing.assert_allclose(patches[0].numpy(), stock["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("longest", [25_165_824, 200_000])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] > 1])
def test_equals_the_stock_video_processor(shape: tuple[int, int, int], longest: int) -> None:
    pytest.importorskip("torchvision", reason="the stock video processor needs torchvision")
    from transformers import Qwen3VLVideoProcessor

    size = {"shortest_edge": 4096, "longest_edge": longest}
    pixels = frames(*shape)
    video = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    stock = Qwen3VLVideoProcessor(size=size)([video], do_sample_frames=False, return_tensors="pt")
    config = PatchConfig.of_files({"size": size}, {})
    ours = resize(pixels, config)
    assert stock["video_grid_thw"].tolist() == [list(grid(ours, config))]
    patches = patchify(ours, config)
    assert torch.equal(patches.reshape(-1, patches.shape[-1]), stock["pixel_values_videos"])


def test_sizes_equal_transformers_smart_resize() -> None:
    """The function of the same published policy, taken alone: it needs no torchvision, only its module does."""
    import ast
    import importlib.util

    found = importlib.util.find_spec("transformers")
    assert found is not None and found.submodule_search_locations is not None
    source = f"{found.submodule_search_locations[0]}/models/qwen3_vl/video_processing_qwen3_vl.py"
    with open(source) as file:
        tree = ast.parse(file.read())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "smart_resize")
    scope: dict[str, object] = {"math": math}
    exec(compile(ast.Module([function], []), source, "exec"), scope)
    smart_resize = scope["smart_resize"]
    assert callable(smart_resize)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        t, h, w = int(rng.integers(2, 100)), int(rng.integers(1, 2500)), int(rng.integers(1, 2500))
        low = int(rng.integers(1024, 1 << 20))
        config = PatchConfig(min_pixels=low, max_pixels=low * int(rng.integers(2, 100)))
        bounds = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        try:
            stock = smart_resize(t, h, w, temporal_factor=2, factor=32, **bounds)
        except ValueError:
            with pytest.raises(ModelError, match="200 times"):
                resized(t, h, w, config)
            continue
        assert resized(t, h, w, config) == stock


def test_preprocessor_that_contradicts_the_model_is_refused() -> None:
    with pytest.raises(ModelError, match="patch_size is 14 in the preprocessor file but 16"):
        PatchConfig.of_files({"patch_size": 14}, {"patch_size": 16})
    with pytest.raises(ModelError, match="not usable"):
        PatchConfig.of_files({"image_mean": [0.5]}, {})
    with pytest.raises(ModelError, match="not positive"):
        PatchConfig.of_files({"image_std": [0.5, 0.0, 0.5]}, {})
