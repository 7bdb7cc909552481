"""Evaluation whose products are of bfloat16: convolutions, networks, models."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import draw

import diffusionad as dad
from diffusionad import _core
from diffusionad.models import SegmentationNet, UNet
from diffusionad.reference import conv as reference

needs_it = pytest.mark.skipif(
    not _core.has_bfloat16(), reason="no AVX512_BF16, or a lower SIMD level"
)

THREADS = (1, 2, 3, 7)
TOLERANCE = 0.02  # of the largest value

# N, C, H, W, O: few and many tiles, private and shared V, own and shared U, one panel and more
SHAPES = [
    (1, 32, 1, 1, 1),
    (3, 64, 8, 8, 16),
    (2, 32, 23, 21, 48),
    (1, 416, 14, 13, 20),
    (1, 832, 17, 9, 33),
    (2, 64, 64, 63, 36),
    (1, 416, 33, 34, 32),
    (1, 1056, 8, 8, 140),
]


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def rounded(values: np.ndarray) -> np.ndarray:
    """To bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


# ---- convolutions --------------------------------------------------------------------------------


@needs_it
@pytest.mark.parametrize("shape", SHAPES)
def test_products_that_need_no_rounding_are_exact(shape: tuple[int, ...]) -> None:
    n, c, h, w, o = shape
    rng = np.random.default_rng(shape)
    x = rng.integers(-2, 3, (n, c, h, w)).astype(np.float32)
    f = 4.0 * rng.integers(-2, 3, (o, c, 3, 3)).astype(np.float32)
    y = _core.conv2d(x, f, algorithm="winograd2", bfloat16=True)
    np.testing.assert_array_equal(y, reference.conv2d(x, f))


@needs_it
@pytest.mark.parametrize("algorithm", ["auto", "winograd2", "winograd4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_close_to_the_reference_whatever_the_threads(
    shape: tuple[int, ...], algorithm: str
) -> None:
    n, c, h, w, o = shape
    x, f, b = draw(n, c, h, w), draw(o, c, 3, 3), draw(o)
    residual = draw(n, o, h, w, seed=1)
    y = _core.conv2d(x, f, b, algorithm=algorithm, residual=residual, bfloat16=True)
    assert 0 < largest_error(y, reference.conv2d(x, f, b) + residual) < TOLERANCE
    for threads in THREADS:
        _core.set_num_threads(threads)
        again = _core.conv2d(x, f, b, algorithm=algorithm, residual=residual, bfloat16=True)
        np.testing.assert_array_equal(again, y)
    for i in range(n):
        one = slice(i, i + 1)
        alone = _core.conv2d(
            x[one], f, b, algorithm=algorithm, residual=residual[one], bfloat16=True
        )
        np.testing.assert_array_equal(alone, y[one])


@needs_it
def test_operands_are_rounded_to_the_nearest() -> None:
    """A filter of one tap on a map of one pixel: F(2x2) multiplies these two numbers alone."""
    values = draw(64, 1, 1, 1).repeat(32, axis=1) * np.float32(1.001)
    f = np.zeros((1, 32, 3, 3), np.float32)
    f[0, 5, 0, 0] = 1.0  # of a corner, so that no sum is rounded
    x = np.zeros((64, 32, 2, 2), np.float32)
    x[:, :, 0, 0] = values[:, :, 0, 0]
    y = _core.conv2d(x, f, algorithm="winograd2", bfloat16=True)
    np.testing.assert_array_equal(y[:, 0, 1, 1], rounded(values[:, 5, 0, 0]))


@needs_it
@pytest.mark.parametrize("size", [6, 32, 50])
def test_maps_of_which_each_pixel_stands_for_four(size: int) -> None:
    x, f, residual = draw(2, 64, size, size), draw(32, 64, 3, 3), draw(2, 32, size, size, seed=2)
    upsampled = x.repeat(2, axis=2).repeat(2, axis=3)
    wanted = reference.conv2d(upsampled, f) + residual.repeat(2, axis=2).repeat(2, axis=3)
    y, moments = _core.conv2d_moments(x, f, residual=residual, doubled=True, bfloat16=True)
    assert 0 < largest_error(y, wanted) < TOLERANCE
    count, shift, part, _ = np.moveaxis(moments.astype(np.float64), 2, 0)
    assert moments.shape[1] > 0
    np.testing.assert_allclose(
        (count * shift + part).sum(1) / count.sum(1), y.mean((2, 3)), rtol=1e-4, atol=1e-4
    )


@needs_it
@pytest.mark.parametrize("shape", [(1, 32, 1, 1, 1), (3, 64, 9, 11, 40), (2, 544, 20, 20, 300)])
def test_pointwise(shape: tuple[int, ...]) -> None:
    n, c, h, w, o = shape
    x, f, b, residual = draw(n, c, h, w), draw(o, c, 1, 1), draw(o), draw(n, o, h, w, seed=1)
    options = {"padding": 0, "bfloat16": True}
    y = _core.conv2d(x, f, b, residual=residual, **options)
    rounds = reference.conv2d(rounded(x), rounded(f), b, padding=0) + residual
    assert largest_error(y, rounds) < 1e-5
    for threads in THREADS:
        _core.set_num_threads(threads)
        np.testing.assert_array_equal(_core.conv2d(x, f, b, residual=residual, **options), y)
    one = slice(n - 1, n)
    alone = _core.conv2d(x[one], f, b, residual=residual[one], **options)
    np.testing.assert_array_equal(alone, y[one])


@needs_it
@pytest.mark.parametrize(
    ("channels", "kernel", "options"),
    [
        *((channels, 3, {}) for channels in (3, 16, 48, 100)),
        (16, 1, {"padding": 0}),
        (64, 1, {"padding": 0, "stride": 2}),
        (64, 3, {"stride": 2}),
        (64, 3, {"algorithm": "im2col"}),
    ],
)
def test_other_channel_counts_and_kernels_stay_floats(
    channels: int, kernel: int, options: dict[str, Any]
) -> None:
    x, f = draw(2, channels, 12, 12), draw(20, channels, kernel, kernel)
    np.testing.assert_array_equal(
        _core.conv2d(x, f, bfloat16=True, **options), _core.conv2d(x, f, **options)
    )


@needs_it
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_nan_stays_in_its_image(bits: int, kernel: int) -> None:
    x, f = draw(3, 32, 12, 12), draw(16, 32, kernel, kernel)
    clean = _core.conv2d(x, f, padding=kernel // 2, bfloat16=True)
    x.view(np.uint32)[1] = bits
    y = _core.conv2d(x, f, padding=kernel // 2, bfloat16=True)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


def test_levels_without_it_refuse() -> None:
    _core.set_simd_level("baseline")
    assert not _core.has_bfloat16()
    with pytest.raises(ValueError, match=r"^bfloat16: .*baseline"):
        _core.conv2d(draw(1, 32, 8, 8), draw(1, 32, 3, 3), bfloat16=True)
    with pytest.raises(dad.errors.InputError, match=r"^bfloat16: "):
        dad.DiffusionAD(image_size=32, bfloat16=True)
    model = dad.DiffusionAD(image_size=32)
    model.bfloat16 = False
    with pytest.raises(ValueError, match=r"^bfloat16: "):
        model.unet._core.forward(draw(1, 3, 32, 32), draw(1), bfloat16=True)


# ---- networks and models -------------------------------------------------------------------------


@needs_it
@pytest.mark.parametrize("size", [32, 64])
def test_networks_round_more_and_train_as_before(size: int) -> None:
    unet = UNet(image_size=64, base_channels=32, channel_mults=(1, 2, 2), num_res_blocks=1)
    seg = SegmentationNet(base_channels=32)
    cases = ((unet, draw(2, 3, size, size), np.float32([9, 700])), (seg, draw(2, 6, 32, 32), None))
    for network, x, t in cases:
        core = network._core
        for name, shape, _ in core.parameters():  # the last convolution's weights start at zero
            if name.endswith("weight"):
                core.write(name, draw(*shape, seed=len(name)) / np.float32(np.sqrt(shape[-1] * 20)))
        exact, quick = core.forward(x, t), core.forward(x, t, bfloat16=True)
        assert 0 < largest_error(quick, exact) < 0.1
        np.testing.assert_array_equal(core.forward(x, t, bfloat16=True, fast=True), quick)
        np.testing.assert_array_equal(core.forward(x, t), exact)
        for threads in THREADS:
            _core.set_num_threads(threads)
            np.testing.assert_array_equal(core.forward(x, t, bfloat16=True), quick)
        np.testing.assert_array_equal(
            core.forward(x, t, training=True, bfloat16=True), core.forward(x, t, training=True)
        )


@needs_it
def test_a_model_says_the_same_of_images() -> None:
    model = dad.DiffusionAD(image_size=64, seg_channels=32, pretrained=False)
    images = np.random.default_rng(0).random((3, 64, 64, 3), dtype=np.float32)
    exact = model.predict(images)
    assert not model.bfloat16
    assert model.set_params(bfloat16=True).get_params()["bfloat16"]
    assert model.unet.bfloat16
    assert model.seg.bfloat16
    quick = model.predict(images)
    assert 0 < np.abs(quick.maps - exact.maps).max() < 0.05
    model.low_memory = True
    np.testing.assert_array_equal(model.predict(images).maps, quick.maps)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(images).maps, quick.maps)


@needs_it
def test_a_pickle_goes_where_there_is_none() -> None:
    sent = pickle.dumps(dad.DiffusionAD(image_size=32, bfloat16=True, low_memory=True))
    _core.set_simd_level("baseline")
    model = pickle.loads(sent)
    assert not model.bfloat16
    assert model.low_memory
