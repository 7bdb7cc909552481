"""Convolutions against their float64 twin, and the promises about bits, batches and threads."""

from __future__ import annotations

import numpy as np
import pytest
from checks import draw

from diffusionad import _core
from diffusionad.reference import conv as reference

LEVELS = _core.simd_levels()
WINOGRAD = ("winograd2", "winograd4", "winograd6")
# Largest error over largest value: F(6) is known to lose more.
TOLERANCE = {"winograd4": 1e-5, "auto": 1e-5, "winograd6": 6e-5}

# N, C, H, W, O: single pixels, odd sizes, channels around the panels of 16 and pairs of 32, maps
# around the tiles of 2, 4 and 6, many tiles, more channels than a chunk of 24 or a private V takes.
MAPS_3X3 = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 7, 2),
    (1, 15, 5, 4, 17),
    (3, 16, 8, 8, 16),
    (2, 17, 9, 13, 31),
    (1, 33, 6, 12, 33),
    (2, 6, 23, 21, 48),
    (1, 100, 7, 3, 49),
    (1, 390, 14, 13, 20),
    (2, 18, 64, 63, 36),
    (1, 200, 33, 34, 32),
]
# N, C, H, W, O, KH, KW, stride, padding
GENERAL = [
    (2, 3, 1, 1, 1, 1, 1, 1, 0),
    (2, 19, 11, 9, 37, 1, 1, 1, 0),
    (3, 130, 8, 8, 150, 1, 1, 1, 0),
    (2, 35, 31, 39, 200, 1, 1, 1, 0),
    (1, 5, 7, 8, 4, 1, 1, 2, 0),
    (2, 6, 20, 17, 9, 3, 3, 2, 1),
    (1, 4, 11, 12, 3, 5, 5, 3, 2),
    (2, 3, 9, 8, 40, 7, 7, 2, 3),
    (2, 5, 52, 47, 33, 5, 3, 1, 1),
    (1, 3, 9, 9, 3, 3, 3, 1, 0),
    (1, 3, 5, 5, 3, 3, 3, 1, 3),
    (2, 4, 6, 10, 5, 1, 3, 1, 1),
    (1, 2, 9, 4, 18, 4, 2, 3, 0),
]


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def check(x: np.ndarray, w: np.ndarray, stride: int, padding: int, algorithm: str) -> None:
    options = {"stride": stride, "padding": padding}
    b = draw(len(w), seed=1)
    expected = reference.conv2d(x, w, b, **options)
    residual, image_bias = draw(*expected.shape, seed=2), draw(*expected.shape[:2], seed=3)
    tolerance = TOLERANCE.get(algorithm, 3e-6)

    y = _core.conv2d(x, w, b, algorithm=algorithm, **options)
    assert_close(y, expected, tolerance)
    y = _core.conv2d(x, w, algorithm=algorithm, image_bias=image_bias, residual=residual, **options)
    added = image_bias[:, :, None, None] + residual - b[:, None, None]
    assert_close(y, expected + added, tolerance)

    gradients = _core.conv2d_backward(residual, x, w, algorithm=algorithm, **options)
    expected_gradients = reference.conv2d_backward(residual, x, w, **options)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, wanted, tolerance)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("algorithm", ["auto", "im2col", *WINOGRAD])
@pytest.mark.parametrize("shape", MAPS_3X3)
def test_3x3(shape: tuple[int, ...], algorithm: str, level: str) -> None:
    n, c, h, width, o = shape
    _core.set_simd_level(level)
    check(draw(n, c, h, width), draw(o, c, 3, 3), 1, 1, algorithm)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", GENERAL)
def test_any_kernel_stride_and_padding(shape: tuple[int, ...], level: str) -> None:
    n, c, h, width, o, kh, kw, stride, padding = shape
    _core.set_simd_level(level)
    algorithms = ["auto", "im2col"]
    if (kh, kw, stride, padding) == (1, 1, 1, 0):
        algorithms.append("pointwise")
    for algorithm in algorithms:
        check(draw(n, c, h, width), draw(o, c, kh, kw), stride, padding, algorithm)


# N, C, side, O: few channels and blocks of tiles more than once, a pair of groups and less
LONG_SUMS = [(2, 5, 140, 7), (2, 16, 128, 16), (3, 33, 96, 40), (2, 49, 64, 70), (2, 64, 16, 90)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", LONG_SUMS)
def test_the_filter_gradient_sums_over_many_pixels(shape: tuple[int, ...], level: str) -> None:
    n, c, side, o = shape
    _core.set_simd_level(level)
    x, dy = np.abs(draw(n, c, side, side)), np.abs(draw(n, o, side, side, seed=1))
    w = np.zeros((o, c, 3, 3), np.float32)
    dw = _core.conv2d_backward(dy, x, w, algorithm="winograd4")[1]
    expected = reference.conv2d_backward(dy, x, w)[1]
    assert_close(dw, expected, 5e-7)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 23, 24, 25, 32, 47, 64, 65])
def test_every_channel_count(channels: int, level: str) -> None:
    _core.set_simd_level(level)
    x = draw(1, channels, 9, 10)
    check(x, draw(66 - channels, channels, 3, 3), 1, 1, "winograd4")
    check(x, draw(66 - channels, channels, 1, 1), 1, 0, "pointwise")


CASES = [
    ("winograd2", 3, 1, (20, 8, 8, 40)),
    ("winograd4", 3, 1, (40, 30, 29, 33)),
    ("winograd4", 3, 1, (400, 9, 11, 16)),
    ("winograd4", 3, 1, (400, 66, 65, 16)),
    ("winograd4", 3, 1, (200, 34, 34, 32)),
    ("winograd4", 3, 1, (4, 64, 64, 4)),
    ("winograd6", 3, 1, (16, 25, 14, 20)),
    ("pointwise", 1, 0, (70, 13, 11, 140)),
    ("pointwise", 1, 0, (20, 31, 39, 200)),
    ("im2col", 3, 1, (9, 13, 12, 20)),
]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("algorithm", "kernel", "padding", "shape"), CASES)
def test_image_does_not_depend_on_its_batch(
    algorithm: str, kernel: int, padding: int, shape: tuple[int, ...], level: str
) -> None:
    c, h, width, o = shape
    _core.set_simd_level(level)
    x, w = draw(3, c, h, width), draw(o, c, kernel, kernel)
    dy = draw(3, o, h, width)
    y = _core.conv2d(x, w, padding=padding, algorithm=algorithm)
    dx = _core.conv2d_backward(dy, x, w, padding=padding, algorithm=algorithm)[0]
    for n in range(3):
        one = slice(n, n + 1)
        alone = _core.conv2d(x[one], w, padding=padding, algorithm=algorithm)
        np.testing.assert_array_equal(y[one], alone)
        alone = _core.conv2d_backward(dy[one], x[one], w, padding=padding, algorithm=algorithm)[0]
        np.testing.assert_array_equal(dx[one], alone)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("algorithm", "kernel", "padding", "shape"), CASES)
def test_bits_do_not_depend_on_threads(
    algorithm: str, kernel: int, padding: int, shape: tuple[int, ...], level: str
) -> None:
    c, h, width, o = shape
    _core.set_simd_level(level)
    x, w, b = draw(2, c, h, width), draw(o, c, kernel, kernel), draw(o)
    dy = draw(2, o, h, width)
    results = []
    for threads in (1, 2, 3, 4, 7, 16):
        _core.set_num_threads(threads)
        y = _core.conv2d(x, w, b, padding=padding, algorithm=algorithm)
        results.append((y, *_core.conv2d_backward(dy, x, w, padding=padding, algorithm=algorithm)))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)


# O, H, W: tiles that do and do not divide the map, few and many of them, one panel and more
MOMENTS = [
    ("winograd2", (16, 8, 8)),
    ("winograd2", (32, 5, 3)),
    ("winograd4", (48, 16, 16)),
    ("winograd4", (32, 10, 9)),
    ("winograd4", (32, 37, 38)),
    ("winograd6", (16, 6, 13)),
    ("winograd6", (16, 24, 12)),
    ("winograd6", (80, 64, 64)),
    ("winograd6", (32, 50, 53)),
]


def sums(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all values of each image and channel: how many, their mean and variance."""
    count, shift, part, square = np.moveaxis(moments.astype(np.float64), 2, 0)
    total = count.sum(1)
    mean = (count * shift + part).sum(1) / total
    apart = shift - mean[:, None]
    return total, mean, (square + apart * (2 * part + count * apart)).sum(1) / total


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("algorithm", "shape"), MOMENTS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments(algorithm: str, shape: tuple[int, ...], offset: float, level: str) -> None:
    o, h, width = shape
    _core.set_simd_level(level)
    x, w, b = draw(3, 5, h, width), draw(o, 5, 3, 3), draw(o) + np.float32(offset)
    y, moments = _core.conv2d_moments(x, w, b, algorithm=algorithm)
    np.testing.assert_array_equal(y, _core.conv2d(x, w, b, algorithm=algorithm))
    count, mean, variance = sums(moments)
    exact = y.astype(np.float64)
    np.testing.assert_array_equal(count, h * width)
    np.testing.assert_allclose(mean, exact.mean((2, 3)), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(variance, exact.var((2, 3)), rtol=3e-6)
    alone = _core.conv2d_moments(x[1:2], w, b, algorithm=algorithm)[1]
    np.testing.assert_array_equal(moments[1:2], alone)
    for threads in (1, 2, 3, 4, 7, 16):
        _core.set_num_threads(threads)
        again = _core.conv2d_moments(x, w, b, algorithm=algorithm)[1]
        np.testing.assert_array_equal(again, moments)


@pytest.mark.parametrize(("algorithm", "o"), [("im2col", 32), ("winograd4", 33)])
def test_no_moments_without_a_tile_transform_or_whole_panels(algorithm: str, o: int) -> None:
    _, moments = _core.conv2d_moments(draw(2, 5, 12, 12), draw(o, 5, 3, 3), algorithm=algorithm)
    assert moments.shape == (2, 0, 4, o)


def test_auto_is_one_of_the_named_algorithms() -> None:
    large, small = draw(1, 4, 12, 12), draw(1, 4, 8, 8)
    w3, w1 = draw(5, 4, 3, 3), draw(5, 4, 1, 1)
    for x, w, padding, named in [
        (large, w3, 1, "winograd4"),
        (small, w3, 1, "winograd2"),
        (large, w1, 0, "pointwise"),
        (large, w3, 0, "im2col"),
    ]:
        auto = _core.conv2d(x, w, padding=padding)
        np.testing.assert_array_equal(auto, _core.conv2d(x, w, padding=padding, algorithm=named))


def test_non_contiguous_inputs_are_read_and_not_changed() -> None:
    x = draw(2, 10, 9, 6).transpose(0, 3, 2, 1)
    w = draw(3, 3, 6, 8).transpose(3, 2, 0, 1)
    dy = draw(2, 16, 9, 20)[:, ::2, :, ::2]
    copies = [a.copy() for a in (x, w, dy)]
    assert_close(_core.conv2d(x, w), reference.conv2d(x, w), 1e-5)
    gradients = _core.conv2d_backward(dy, x, w)
    for gradient, wanted in zip(gradients, reference.conv2d_backward(dy, x, w), strict=True):
        assert_close(gradient, wanted, 1e-5)
    for array, copy in zip((x, w, dy), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_infinities_and_nans_stay_in_their_image() -> None:
    x, w = draw(3, 5, 12, 12), draw(4, 5, 3, 3)
    clean = _core.conv2d(x, w)
    x[1] = np.nan
    y = _core.conv2d(x, w)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    ("error", "name", "changes"),
    [
        (TypeError, "x", {"x": np.zeros((1, 2, 4, 4))}),
        (TypeError, "w", {"w": [[1.0]]}),
        (TypeError, "b", {"b": np.zeros(3, dtype=np.int32)}),
        (ValueError, "x", {"x": np.zeros((2, 4, 4), np.float32)}),
        (ValueError, "x", {"x": np.zeros((0, 2, 4, 4), np.float32)}),
        (ValueError, "x", {"padding": 0, "x": np.zeros((1, 2, 2, 4), np.float32)}),
        (ValueError, "w", {"w": np.zeros((3, 5, 3, 3), np.float32)}),
        (ValueError, "b", {"b": np.zeros(4, np.float32)}),
        (ValueError, "image_bias", {"image_bias": np.zeros((2, 3), np.float32)}),
        (ValueError, "residual", {"residual": np.zeros((1, 3, 4, 5), np.float32)}),
        (ValueError, "stride", {"stride": 0}),
        (ValueError, "padding", {"padding": -1}),
        (ValueError, "algorithm", {"algorithm": "fft"}),
        (ValueError, "algorithm", {"algorithm": "pointwise"}),
        (ValueError, "algorithm", {"algorithm": "winograd4", "stride": 2}),
        (ValueError, "algorithm", {"algorithm": "winograd2", "padding": 0}),
    ],
)
def test_bad_arguments_are_named(
    error: type[Exception], name: str, changes: dict[str, object]
) -> None:
    arguments = {
        "x": np.zeros((1, 2, 4, 4), np.float32),
        "w": np.zeros((3, 2, 3, 3), np.float32),
    }
    with pytest.raises(error, match=f"^{name}: "):
        _core.conv2d(**{**arguments, **changes})


@pytest.mark.parametrize("name", ["conv2d", "conv2d_moments", "conv2d_backward"])
def test_missing_arguments_name_the_function(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing"):
        getattr(_core, name)()


def test_backward_checks_the_shape_of_dy() -> None:
    x, w = draw(1, 2, 4, 4), draw(3, 2, 3, 3)
    with pytest.raises(ValueError, match=r"^dy: expected shape"):
        _core.conv2d_backward(draw(1, 3, 4, 5), x, w)
    with pytest.raises(TypeError, match=r"^dy: expected dtype float32"):
        _core.conv2d_backward(np.zeros((1, 3, 4, 4)), x, w)
