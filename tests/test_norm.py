"""GroupNorm and BatchNorm against their float64 twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw

from diffusionad import _core
from diffusionad.reference import layers as reference

pytestmark = pytest.mark.usefixtures("every_level")

# N, C, G, H, W: one pixel, groups of one to seven channels, channels around a vector's width,
# more rows than a block.
GROUP_SHAPES = [
    (1, 6, 2, 1, 1),
    (2, 3, 1, 5, 3),
    (1, 1, 1, 3, 4),
    (2, 32, 32, 4, 7),
    (1, 66, 33, 2, 3),
    (2, 45, 15, 9, 8),
    (1, 100, 25, 17, 16),
    (1, 21, 3, 40, 41),
]
BATCH_SHAPES = [(2, 1, 1, 1), (1, 3, 5, 7), (3, 17, 4, 4), (2, 100, 3, 2), (2, 16, 21, 20)]


def norm_inputs(n: int, c: int, h: int, w: int) -> tuple[np.ndarray, ...]:
    x = 2.0 * draw(n, c, h, w) + 0.5
    return draw(n, c, h, w, seed=1), x, draw(c, seed=2) + 1, draw(c, seed=3)


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize(("n", "c", "g", "h", "w"), GROUP_SHAPES)
def test_group_norm(n: int, c: int, g: int, h: int, w: int, activation: str) -> None:
    dy, *inputs = norm_inputs(n, c, h, w)
    options = {"groups": g, "activation": activation}
    assert_close(_core.group_norm(*inputs, **options), reference.group_norm(*inputs, **options))
    assert_close(
        _core.group_norm_backward(dy, *inputs, **options),
        reference.group_norm_backward(dy, *inputs, **options),
        1e-5,
    )


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(("n", "c", "h", "w"), BATCH_SHAPES)
def test_batch_norm(n: int, c: int, h: int, w: int, activation: str) -> None:
    dy, *inputs = norm_inputs(n, c, h, w)
    running = (draw(c, seed=4), np.abs(draw(c, seed=5)) + 0.1)
    kept = [a.copy() for a in running]
    for training in (False, True):
        options = {"training": training, "momentum": 0.3, "activation": activation}
        assert_close(
            _core.batch_norm(*inputs, *running, **options),
            reference.batch_norm(*inputs, *running, **options),
        )
    assert all((a == b).all() for a, b in zip(running, kept, strict=True))
    if n * h * w > 2:  # of two values, x^ is +-1 and dx vanishes
        assert_close(
            _core.batch_norm_backward(dy, *inputs, activation=activation),
            reference.batch_norm_backward(dy, *inputs, activation=activation),
            1e-5,
        )


def test_statistics_survive_a_large_mean_and_an_outlier() -> None:
    x = draw(1, 8, 16, 16) + 1000.0
    x[0, :, 0, 0] = -5000.0
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    inner = (..., slice(1, None), slice(1, None))
    for name, options in (("group_norm", {"groups": 4}), ("batch_norm", {"training": True})):
        arguments = (x, ones, zeros) if name == "group_norm" else (x, ones, zeros, zeros, ones)
        actual = getattr(_core, name)(*arguments, **options)
        expected = getattr(reference, name)(*arguments, **options)
        if name == "batch_norm":
            actual, expected = actual[0], expected[0]
        assert np.abs(actual - expected)[inner].max() < 1e-5


def test_group_norm_of_an_image_does_not_depend_on_its_batch() -> None:
    _, x, w, b = norm_inputs(3, 36, 20, 21)
    options = {"groups": 12, "activation": "silu"}
    batch = _core.group_norm(x, w, b, **options)
    alone = [_core.group_norm(x[i : i + 1], w, b, **options) for i in range(3)]
    np.testing.assert_array_equal(batch, np.concatenate(alone))


def test_norms_are_the_same_for_any_thread_count() -> None:
    dy, x, w, b = norm_inputs(2, 36, 33, 31)
    running = (b, np.abs(w))
    same = assert_same_for_any_thread_count
    same(_core.group_norm, x, w, b, groups=12, activation="silu")
    same(_core.group_norm_backward, dy, x, w, b, groups=12, activation="silu")
    same(_core.batch_norm, x, w, b, *running, training=True, activation="relu")
    same(_core.batch_norm_backward, dy, x, w, b, activation="relu")


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_statistics_of_infinite_values_are_nan(value: float) -> None:
    """As everywhere: a variance of zero would make other values of them."""
    x, w, b = draw(2, 8, 4, 4), np.ones(8, np.float32), np.zeros(8, np.float32)
    x[0, 1, 2, 3] = value
    y = _core.group_norm(x, w, b, 4)
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2:]).all()
    assert np.isfinite(y[1]).all()
    y, _, var = _core.batch_norm(x, w, b, b, w, training=True)
    assert np.isnan(y[:, 1]).all()
    assert np.isnan(var[1])
    assert np.isfinite(np.delete(y, 1, axis=1)).all()


def test_norms_take_views_and_spread_nan_within_the_group_only() -> None:
    _, x, w, b = norm_inputs(2, 6, 5, 5)
    view = x.transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(
        _core.group_norm(view, w, b, groups=3), _core.group_norm(view.copy(), w, b, groups=3)
    )
    x[0, 2, 1, 1] = np.nan
    broken = np.isnan(_core.group_norm(x, w, b, groups=3, activation="silu"))
    assert broken[0, 2:4].all()
    assert broken.sum() == 2 * 25


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": 4}, ValueError, "groups: expected a divisor of the 6 channels, got 4"),
        ({"groups": 0}, ValueError, "groups"),
        ({"activation": "gelu"}, ValueError, 'activation: expected "none" or "silu", got "gelu"'),
        ({"weight": draw(5)}, ValueError, "weight: expected shape"),
        ({"x": draw(1, 6, 2)}, ValueError, "x: expected 4 dimensions, got 3"),
        ({"x": np.zeros((0, 6, 2, 2), np.float32)}, ValueError, "x: expected a non-empty array"),
        ({"x": np.zeros((1, 6, 2, 2))}, TypeError, "x: expected dtype float32, got float64"),
        ({"bias": [1.0] * 6}, TypeError, "bias: expected a NumPy array, got list"),
    ],
)
def test_group_norm_refuses(change: dict[str, Any], error: type, message: str) -> None:
    arguments = {"x": draw(1, 6, 2, 2), "weight": draw(6), "bias": draw(6), "groups": 3}
    with pytest.raises(error, match=message):
        _core.group_norm(**{**arguments, **change})


def test_batch_norm_refuses_a_single_value_per_channel() -> None:
    vector = np.ones(3, np.float32)
    x = draw(1, 3, 1, 1)
    assert _core.batch_norm(x, *[vector] * 4).shape == x.shape
    with pytest.raises(ValueError, match="more than one value per channel"):
        _core.batch_norm(x, *[vector] * 4, training=True)
