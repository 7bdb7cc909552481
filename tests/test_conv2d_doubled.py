"""3x3 convolutions of a map that stands for one of twice its size, against the upsampled map's."""

from __future__ import annotations

import numpy as np
import pytest
from checks import draw
from test_conv2d import assert_close, sums

from diffusionad import _core
from diffusionad.reference import conv as reference

LEVELS = _core.simd_levels()
THREADS = (1, 2, 3, 4)
TOLERANCE = 5e-6  # largest error over largest value

# N, C, H, W, O of the small map: single pixels, around the tiles of 4 pixels and their edges,
# channels around the panels of 16 and pairs of 32, more tiles than a chunk, than a block.
MAPS = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 4, 2),
    (1, 15, 3, 2, 17),
    (3, 16, 4, 4, 16),
    (2, 17, 5, 7, 31),
    (1, 33, 6, 8, 33),
    (2, 6, 12, 9, 48),
    (1, 100, 7, 3, 49),
    (1, 390, 8, 13, 20),
    (2, 18, 32, 31, 36),
    (3, 128, 44, 40, 16),
]


def twice(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("algorithm", ["auto", "doubled", "winograd4"])
@pytest.mark.parametrize("shape", MAPS)
def test_it_is_the_convolution_of_the_upsampled_map(
    shape: tuple[int, ...], algorithm: str, level: str
) -> None:
    n, c, h, width, o = shape
    _core.set_simd_level(level)
    x, w, b = draw(n, c, h, width), draw(o, c, 3, 3), draw(o, seed=1)
    expected = reference.conv2d(twice(x), w, b, stride=1, padding=1)
    options = {"algorithm": algorithm, "doubled": True}
    assert_close(_core.conv2d(x, w, b, **options), expected, TOLERANCE)

    residual, image_bias = draw(*expected.shape, seed=2), draw(n, o, seed=3)
    y = _core.conv2d(x, w, image_bias=image_bias, residual=residual, **options)
    added = image_bias[:, :, None, None] - b[:, None, None]
    assert_close(y, expected + added + residual, TOLERANCE)
    half = residual[..., ::2, ::2]
    y = _core.conv2d(x, w, image_bias=image_bias, residual=half, **options)
    assert_close(y, expected + added + twice(half), TOLERANCE)


@pytest.mark.parametrize("level", LEVELS)
def test_it_rounds_less_than_f4(level: str) -> None:
    _core.set_simd_level(level)
    x, w = draw(1, 96, 24, 24), draw(32, 96, 3, 3)
    expected = reference.conv2d(twice(x), w, np.zeros(32), stride=1, padding=1)
    error = {
        algorithm: np.sqrt(np.square(_core.conv2d(x, w, **options) - expected).mean())
        for algorithm in ("doubled", "winograd4")
        if (options := {"algorithm": algorithm, "doubled": True})
    }
    assert error["doubled"] < error["winograd4"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [shape for shape in MAPS if shape[-1] % 16 == 0])
def test_moments_are_those_of_the_output(shape: tuple[int, ...], level: str) -> None:
    n, c, h, width, o = shape
    _core.set_simd_level(level)
    x, w, b = draw(n, c, h, width), draw(o, c, 3, 3), 30 * draw(o, seed=1)
    y, moments = _core.conv2d_moments(x, w, b, algorithm="doubled", doubled=True)
    assert moments.shape == (n, (h // 4 + 1) * (width // 4 + 1), 4, o)
    count, mean, variance = sums(moments)
    np.testing.assert_array_equal(count, np.full((n, o), 4 * h * width))
    np.testing.assert_allclose(mean, y.mean((2, 3), dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, y.astype(np.float64).var((2, 3)), rtol=1e-5)


def test_channels_past_the_last_panel_have_no_moments() -> None:
    x, w = draw(1, 4, 8, 8), draw(17, 4, 3, 3)
    assert _core.conv2d_moments(x, w, algorithm="doubled", doubled=True)[1].shape[1] == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(4, 8, 40), (300, 12, 16), (64, 33, 260), (128, 40, 16)])
def test_bits_do_not_depend_on_threads_or_batch(shape: tuple[int, ...], level: str) -> None:
    c, size, o = shape
    _core.set_simd_level(level)
    x, w, b = draw(3, c, size, size), draw(o, c, 3, 3), draw(o)
    options = {"algorithm": "doubled", "doubled": True}
    want = _core.conv2d_moments(x, w, b, **options)
    for threads in THREADS:
        _core.set_num_threads(threads)
        for got, expected in zip(_core.conv2d_moments(x, w, b, **options), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        for n in range(3):
            np.testing.assert_array_equal(
                _core.conv2d(x[n : n + 1], w, b, **options)[0], want[0][n]
            )


def test_infinities_and_nans_stay_in_their_image() -> None:
    x, w = draw(3, 5, 12, 12), draw(4, 5, 3, 3)
    options = {"algorithm": "doubled", "doubled": True}
    clean = _core.conv2d(x, w, **options)
    x[1] = np.nan
    y = _core.conv2d(x, w, **options)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("algorithm", {"algorithm": "doubled"}),
        ("algorithm", {"algorithm": "im2col", "doubled": True}),
        ("doubled", {"doubled": True, "stride": 2}),
        ("doubled", {"doubled": True, "padding": 0}),
        ("residual", {"doubled": True, "residual": np.zeros((1, 3, 4, 8), np.float32)}),
    ],
)
def test_bad_arguments_are_named(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        _core.conv2d(
            np.zeros((1, 2, 4, 4), np.float32), np.zeros((3, 2, 3, 3), np.float32), **options
        )
