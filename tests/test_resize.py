"""csrc/pipeline/resize.c."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusionad import _core
from diffusionad.reference import synthesis as twin

GOLDEN = np.load(Path(__file__).parent / "golden" / "resize.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
SIZES = [
    (1, 1, 1, 1),
    (1, 1, 5, 3),
    (7, 9, 1, 1),
    (16, 10, 8, 5),
    (5, 1, 3, 8),
    (33, 65, 64, 17),
    (64, 64, 64, 64),
    (3, 4, 100, 90),
    (50, 2, 17, 2),
]


@pytest.mark.parametrize("case", CASES)
def test_bytes_equal_opencv(case: str) -> None:
    x, want = GOLDEN[f"{case}/x"], GOLDEN[f"{case}/y"]
    got = _core.resize_u8(x, *want.shape[:2])
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, want)
    if x.shape[2] == 1:
        np.testing.assert_array_equal(_core.resize_u8(x[..., 0], *want.shape[:2]), want[..., 0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_twin(size: tuple[int, int, int, int], channels: int) -> None:
    height, width, *out = size
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    got = _core.resize_u8(x, *out)
    assert np.abs(got - twin.resize(x.astype(np.float64), *out)).max() <= 1.0
    if (height, width) == tuple(out):
        np.testing.assert_array_equal(got, x)
    flipped = x[::-1, ::-1]
    np.testing.assert_array_equal(
        _core.resize_u8(flipped, *out), _core.resize_u8(flipped.copy(), *out)
    )


@pytest.mark.parametrize("size", SIZES)
def test_floats_twin(size: tuple[int, int, int, int]) -> None:
    height, width, *out = size
    maps = np.random.default_rng(0).random((3, height, width), dtype=np.float32)
    got = _core.resize_f32(maps, *out)
    assert got.shape == (3, *out)
    for one, map_ in zip(got, maps, strict=True):
        np.testing.assert_allclose(one, twin.resize(map_.astype(np.float64), *out), atol=1e-5)
        np.testing.assert_array_equal(_core.resize_f32(map_, *out), one)


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    maps = rng.random((2, 70, 90), dtype=np.float32)
    before = _core.get_num_threads()
    try:
        _core.set_num_threads(1)
        want = [
            _core.resize_u8(x, 64, 77),
            _core.resize_u8(x, 45, 35),
            _core.resize_f32(maps, 130, 64),
        ]
        for threads in (2, 3, 4):
            _core.set_num_threads(threads)
            np.testing.assert_array_equal(_core.resize_u8(x, 64, 77), want[0])
            np.testing.assert_array_equal(_core.resize_u8(x, 45, 35), want[1])
            np.testing.assert_array_equal(_core.resize_f32(maps, 130, 64), want[2])
    finally:
        _core.set_num_threads(before)


def test_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match=r"^image: expected dtype uint8"):
        _core.resize_u8(image.astype(np.float32), 2, 2)
    for shape in ((4,), (4, 4, 4), (1, 4, 4, 3)):
        with pytest.raises(ValueError, match=r"^image: expected shape"):
            _core.resize_u8(np.zeros(shape, np.uint8), 2, 2)
    with pytest.raises(ValueError, match=r"^image: expected a non-empty"):
        _core.resize_u8(image[:0], 2, 2)
    with pytest.raises(ValueError, match=r"^height: "):
        _core.resize_u8(image, 0, 2)
    with pytest.raises(ValueError, match=r"^width: "):
        _core.resize_f32(np.zeros((4, 4), np.float32), 2, 10**6)
    with pytest.raises(ValueError, match=r"^map: expected shape"):
        _core.resize_f32(np.zeros((1, 1, 4, 4), np.float32), 2, 2)
    with pytest.raises(TypeError, match=r"^map: expected dtype float32"):
        _core.resize_f32(np.zeros((4, 4)), 2, 2)
