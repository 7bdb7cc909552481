"""What every engine is given: weights, images, noises, maps. Functions of a seed, NumPy alone."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SEED = 7
OF_UNET = (
    "image_size",
    "base_channels",
    "channel_mults",
    "num_res_blocks",
    "num_heads",
    "num_head_channels",
    "attention_resolutions",
    "resblock_updown",
    "patch_size",
    "preconditioned",
)
Arrays = dict[str, np.ndarray]


def recipe(shapes: Mapping[str, Sequence[int]], seed: int = SEED) -> Arrays:
    """Weights that are a function of seed and parameter name alone."""
    state = {}
    for name, shape in shapes.items():
        generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        n = generator.standard_normal(tuple(shape), dtype=np.float32)
        if name.endswith("num_batches_tracked"):
            n = np.zeros(tuple(shape), np.int64)
        elif name.endswith("running_var"):
            n = 1 + np.float32(0.1) * np.abs(n)
        elif len(shape) > 1 and not name.endswith("running_mean"):
            n = n / np.sqrt(np.float32(math.prod(shape[1:])))
        elif name.endswith("weight"):
            n = 1 + np.float32(0.1) * n
        else:
            n = np.float32(0.1) * n
        state[name] = np.asarray(n)
    return state


def images(size: int, count: int) -> np.ndarray:
    """Smooth float32 (count, 3, size, size) in [0, 1]; an image does not depend on the count."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    out = np.empty((count, 3, size, size), np.float32)
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        for channel in out[index]:
            u, v, phase = rng.uniform(2, 20, 3)
            channel[:] = 0.5 + 0.5 * np.sin(u * x + v * y + phase) * np.cos(v * x - phase)
    return out


def noises(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair of noise images for each image, float32 (count, 3, size, size)."""
    pairs = [
        np.random.default_rng([SEED, 1, index]).standard_normal((2, 3, size, size), np.float32)
        for index in range(count)
    ]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def pixels(size: int, count: int) -> np.ndarray:
    """Decoded images, uint8 (count, size, size, 3)."""
    return np.ascontiguousarray((images(size, count) * 255).astype(np.uint8).transpose(0, 2, 3, 1))


def training_batch(size: int, batch: int) -> Arrays:
    """Images, every second one with a rectangular anomaly, and all that a step draws."""
    rng = np.random.default_rng(SEED)
    clean, masks = images(size, batch), np.zeros((batch, 1, size, size), np.float32)
    masks[::2, :, size // 4 : size // 2, size // 8 : size // 2] = 1
    noise = rng.standard_normal((2, batch, 3, size, size), dtype=np.float32)
    return {
        "images": np.where(masks > 0, 1 - clean, clean).astype(np.float32),
        "masks": masks,
        "labels": masks.max(axis=(1, 2, 3)).astype(np.int64),
        "t_s": rng.integers(0, 300, batch),
        "t_b": rng.integers(300, 1000, batch),
        "eps_s": noise[0],
        "eps_b": noise[1],
    }


def scored_maps(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Anomaly maps that end in a sigmoid, float32, and masks, uint8; both (count, size, size)."""
    rng = np.random.default_rng(SEED)
    masks = np.zeros((count, size, size), np.uint8)
    for mask in masks[::2]:
        for top, left, height, width in rng.integers(4, size // 4, (3, 4)):
            mask[2 * top : 2 * top + height, 2 * left : 2 * left + width] = 1
    raw = rng.standard_normal(masks.shape, dtype=np.float32) * 2 - 3 + 3 * masks
    return (1 / (1 + np.exp(-raw))).astype(np.float32), masks


def network_settings(preset: str, **overrides: Any) -> dict[str, Any]:
    """Both networks of a preset: arguments of the constructors, and how the pass uses them."""
    from diffusionad.config import preset as settings
    from diffusionad.config import to_dict

    model = to_dict(settings(preset, **overrides)[0])
    return {
        "preset": preset,
        "overrides": overrides,
        "size": model["image_size"],
        "unet": {name: model[name] for name in OF_UNET},
        "seg": {"base_channels": model["seg_channels"], "patch_size": model["seg_patch_size"]},
        **{name: model[name] for name in ("t_s", "t_b", "w", "top_k", "seed")},
    }
