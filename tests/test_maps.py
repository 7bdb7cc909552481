"""Upsampling, pooling and concatenation against their float64 twins."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw

from diffusionad import _core
from diffusionad.reference import layers as reference

pytestmark = pytest.mark.usefixtures("every_level")

# N, C, H, W
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 17, 4, 4),
    (1, 4, 1, 6),
    (2, 35, 2, 1),
    (1, 100, 3, 2),
    (1, 16, 9, 8),
]
POOL_SHAPES = [shape for shape in SHAPES if min(shape[2:]) > 1] + [(3, 2, 2, 2), (1, 33, 6, 5)]


@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
@pytest.mark.parametrize(("n", "c", "h", "w"), SHAPES)
def test_upsample(n: int, c: int, h: int, w: int, kind: str) -> None:
    x, dy = draw(n, c, h, w), draw(n, c, 2 * h, 2 * w, seed=1)
    for name, argument in ((f"upsample_{kind}", x), (f"upsample_{kind}_backward", dy)):
        assert_close(getattr(_core, name)(argument), getattr(reference, name)(argument), 5e-7)


def test_upsample_bilinear_keeps_the_corners_and_constants() -> None:
    x = draw(1, 5, 6, 7)
    y = _core.upsample_bilinear(x)
    np.testing.assert_array_equal(y[..., ::11, ::13], x[..., ::5, ::6])
    ones = np.ones((1, 3, 13, 9), np.float32)
    np.testing.assert_allclose(_core.upsample_bilinear(ones), 1.0, rtol=2e-7)


def test_upsample_backward_refuses_odd_sizes() -> None:
    with pytest.raises(ValueError, match="dy: expected even height and width, got 3x4"):
        _core.upsample_nearest_backward(draw(1, 2, 3, 4))


@pytest.mark.parametrize(("n", "c", "h", "w"), POOL_SHAPES)
def test_pools(n: int, c: int, h: int, w: int) -> None:
    x = np.round(2.0 * draw(n, c, h, w))  # ties: the first maximum gets the gradient
    dy = draw(n, c, h // 2, w // 2, seed=1)
    assert_close(_core.avg_pool(x), reference.avg_pool(x), 5e-7)
    assert_close(_core.avg_pool_backward(dy, h, w), reference.avg_pool_backward(dy, h, w), 5e-7)
    np.testing.assert_array_equal(_core.max_pool(x), reference.max_pool(x))
    np.testing.assert_array_equal(
        _core.max_pool_backward(dy, x), reference.max_pool_backward(dy, x)
    )


def test_maps_are_the_same_for_any_thread_count() -> None:
    x, dy = draw(2, 17, 6, 10), draw(2, 17, 3, 5)
    for name in (
        "upsample_nearest",
        "upsample_nearest_backward",
        "upsample_bilinear",
        "upsample_bilinear_backward",
        "avg_pool",
        "max_pool",
    ):
        assert_same_for_any_thread_count(getattr(_core, name), x)
    assert_same_for_any_thread_count(_core.avg_pool_backward, dy, 6, 10)
    assert_same_for_any_thread_count(_core.max_pool_backward, dy, x)


def test_max_pool_passes_nan_on() -> None:
    x = draw(1, 20, 4, 4)
    x[0, 3, 1, 0] = x[0, 18, 2, 3] = np.nan
    broken = np.isnan(_core.max_pool(x))
    assert broken[0, 3, 0, 0]
    assert broken[0, 18, 1, 1]
    assert broken.sum() == 2
    dx = _core.max_pool_backward(np.ones((1, 20, 2, 2), np.float32), x)
    assert dx[0, 3, 1, 0] == dx[0, 18, 2, 3] == 1.0


def test_pools_refuse() -> None:
    with pytest.raises(ValueError, match="x: expected a map of 2x2 or larger, got 1x4"):
        _core.max_pool(draw(1, 2, 1, 4))
    with pytest.raises(ValueError, match="x: expected a map of 2x2 or larger, got 4x1"):
        _core.avg_pool(draw(1, 2, 4, 1))
    with pytest.raises(ValueError, match="height, width"):
        _core.avg_pool_backward(draw(1, 2, 1, 1), -3, 2)
    with pytest.raises(ValueError, match="dy: expected shape"):
        _core.max_pool_backward(draw(1, 2, 2, 2), draw(1, 2, 6, 4))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 17), (64, 5)])
def test_concat(a: int, b: int) -> None:
    left, right = draw(2, a, 3, 5), draw(2, b, 3, 5, seed=1)
    both = _core.concat(left, right)
    np.testing.assert_array_equal(both, np.concatenate([left, right], axis=1))
    da, db = _core.concat_backward(both, a)
    np.testing.assert_array_equal(da, left)
    np.testing.assert_array_equal(db, right)
    for channels in (0, a + b):
        with pytest.raises(ValueError, match="channels: expected 1 to"):
            _core.concat_backward(both, channels)
    with pytest.raises(ValueError, match="b: expected shape"):
        _core.concat(left, right[:, :, 1:])
