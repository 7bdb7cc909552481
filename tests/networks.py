"""What the tests of the networks share: golden files, weights by recipe, small networks."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusionad import _core
from diffusionad.models import SegmentationNet, UNet

GOLDEN = Path(__file__).parent / "golden"
TINY: dict[str, Any] = {"image_size": 32, "base_channels": 32, "channel_mults": (1, 2)} | {
    "num_res_blocks": 1,
    "attention_resolutions": (16, 8),
}
THREADS = (1, 2, 3, 4)


def golden(name: str) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """A golden file and the configuration of its networks.

    Its large arrays hold only what ``sampled`` takes of them.
    """
    data = np.load(GOLDEN / f"{name}.npz")
    return data, json.loads(str(data["config"]))


def under(data: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}


def sampled(array: np.ndarray, most: int = 256) -> np.ndarray:
    """At most so many elements, evenly spread."""
    flat = array.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, most)).astype(int)]


def distance(got: np.ndarray, want: np.ndarray, scale: float = 0.0) -> float:
    """Relative L2 distance; values of a thousandth of ``scale`` count as noise."""
    assert got.shape == want.shape
    wide, noise = want.astype(np.float64), 1e-3 * scale * math.sqrt(want.size)
    return float(np.linalg.norm(got - wide) / (np.linalg.norm(wide) + noise))


def largest(arrays: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(array).max()) for array in arrays.values())


def recipe(net: UNet | SegmentationNet, seed: int = 7) -> dict[str, np.ndarray]:
    """The state that the golden values were computed with."""
    state = {}
    for name, old in net.state_dict().items():
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        n = rng.standard_normal(old.shape, dtype=np.float32)
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(old.shape, np.int64)
        elif name.endswith("running_var"):
            state[name] = 1 + np.float32(0.1) * np.abs(n)
        elif old.ndim > 1:
            state[name] = n / np.float32(math.sqrt(math.prod(old.shape[1:])))
        elif name.endswith("weight"):
            state[name] = 1 + np.float32(0.1) * n
        else:
            state[name] = np.float32(0.1) * n
    return state


def tiny_unet(**options: Any) -> UNet:
    net = UNet(**(TINY | options))
    net.load_state_dict(recipe(net))
    return net


def tiny_segmenter(base_channels: int = 4, **options: Any) -> SegmentationNet:
    net = SegmentationNet(base_channels=base_channels, **options)
    net.load_state_dict(recipe(net))
    return net


def each_thread_count() -> Iterator[int]:
    """Sets the thread count to each in turn; the fixture every_level puts it back."""
    for threads in THREADS:
        _core.set_num_threads(threads)
        yield threads


def assert_equal(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
