"""Images in memory: layouts, types, other libraries' arrays, PIL images; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusionad import images
from diffusionad.arrays import as_array, as_pixels
from diffusionad.errors import InputError

SIZE = 8


class DLPackOnly:
    """An array of a library that knows neither NumPy nor its interfaces."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class InterfaceOnly:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


class OnDevice:
    """A tensor that is not in the memory of the processor."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("can't export\ntensors on cuda:0")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def network(source: Any) -> np.ndarray:
    return images.to_network(source, SIZE)


def test_every_layout_of_bytes_is_one_image(pixels):
    expected = network(pixels)
    assert expected.shape == (1, 3, SIZE, SIZE)
    planar = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    for form in (planar, pixels[None], planar[None], [pixels], [planar], (p for p in [pixels])):
        np.testing.assert_array_equal(network(form), expected)


def test_every_layout_of_grey_is_three_equal_channels(pixels):
    grey = pixels[:, :, 0]
    expected = network(np.repeat(grey[:, :, None], 3, axis=2))
    for form in (grey, grey[:, :, None], grey[None], grey[None, None], grey[None, ..., None]):
        np.testing.assert_array_equal(network(form), expected)
    np.testing.assert_array_equal(network([grey] * 2), np.repeat(expected, 2, axis=0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
def test_floats_of_any_width_layout_and_size(pixels, dtype):
    values = (pixels / 256).astype(dtype)  # exact also in float16
    expected = network(values.astype(np.float32))
    assert expected.dtype == np.float32
    assert expected.max() <= 1
    for form in (values, values.transpose(2, 0, 1), values[None], [values]):
        np.testing.assert_array_equal(network(form), expected)
    assert network(np.ones((9, 9), dtype)).min() == 1.0


def test_values_too_small_for_float32_are_zero_where_numpy_raises():
    with np.errstate(all="raise"):
        assert network(np.full((9, 9), 1e-300)).max() == 0


def test_floats_of_the_right_size_are_taken_bit_for_bit():
    values = np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32)
    assert network(values).tobytes() == values.tobytes()
    assert network(values.transpose(0, 2, 3, 1)).tobytes() == values.tobytes()


def test_where_both_ends_could_be_channels_the_type_decides():
    square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(as_pixels(square, "x"), square)
    floats = square.astype(np.float32) / 32
    np.testing.assert_array_equal(as_pixels(floats, "x"), floats.transpose(1, 2, 0))
    strip = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)  # a row of three pixels
    np.testing.assert_array_equal(as_pixels(strip, "x"), strip)


def test_arrays_of_other_libraries_share_their_memory(pixels):
    for form in (DLPackOnly(pixels), InterfaceOnly(pixels)):
        array = as_array(form, "x")
        assert array is not None
        assert np.shares_memory(array, pixels)
        np.testing.assert_array_equal(network(form), network(pixels))
        np.testing.assert_array_equal(network([form, pixels])[0], network(pixels)[0])
    assert as_array("a.png", "x") is None
    assert as_array(b"bytes", "x") is None


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pil_images_are_read_as_files_are(tmp_path, pixels, mode):
    image = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    np.testing.assert_array_equal(network(image), network(path))
    np.testing.assert_array_equal(network([image]), network(path))


def test_a_pil_image_that_is_still_a_file_is_turned_and_its_errors_are_named(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        np.testing.assert_array_equal(network(image), network(np.rot90(pixels, -1)))
    big = np.tile(pixels, (40, 40, 1))
    Image.fromarray(big).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(InputError, match=r"images\[0\]: this PIL image cannot be used: .*truncated"),
    ):
        network(image)
    with pytest.raises(InputError, match=r"images\[0\]: this PIL image cannot be used: floating"):
        network(Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(InputError, match=r"got uint8 \[0, 0, 3\]"):
        network(Image.new("RGB", (0, 0)))


def test_paths_may_come_as_an_array(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    name = str(tmp_path / "a.png")
    for form in (np.array([name]), np.array([tmp_path / "a.png"], dtype=object)):
        np.testing.assert_array_equal(network(form), network(pixels))


BAD = {
    "grey stack": (np.zeros((4, 5, 6), np.uint8), r"images\[0\]: .*got uint8 \[4, 5, 6\]"),
    "alpha": (np.zeros((5, 6, 4), np.uint8), r"C = 1 or 3, got uint8 \[5, 6, 4\]"),
    "five axes": (np.zeros((1, 1, 5, 6, 3), np.uint8), r"got uint8 \[1, 1, 5, 6, 3\]"),
    "one axis": (np.zeros(5, np.uint8), r"images\[0\]: .*got uint8 \[5\]"),
    "a number": (np.float32(0.5), r"got float32 \[\]"),
    "empty": (np.zeros((0, 5, 3), np.uint8), r"got uint8 \[0, 5, 3\]"),
    "bool": (np.zeros((5, 6), bool), "got bool"),
    "int64": (np.zeros((5, 6), int), r"expected uint8, or floats in \[0, 1\].*got int64"),
    "complex": (np.zeros((5, 6), complex), "got complex128"),
    "255": (np.full((5, 6), 255.0), r"images\[0\]: expected values in \[0, 1\], got 255 to 255"),
    "negative": (np.full((5, 6), -1e-9), r"in \[0, 1\], got -1e-09"),
    "nan": (np.full((5, 6), np.nan), r"in \[0, 1\], got nan"),
    "too large for float32": (np.full((5, 6), 1e300), r"in \[0, 1\], got inf"),
    "second of many": ([np.zeros((5, 6)), np.zeros((5, 6, 2))], r"images\[1\]: expected uint8"),
    "nested list": ([[1, 2]], r"images\[0\]: expected an array, a PIL image or a path, got list"),
    "wide": (np.zeros((1, 70_000), np.uint8), r"at most 65536 pixels a side, got \[1, 70000\]"),
    "none": (None, "images: expected arrays, PIL images or paths, got NoneType"),
    "device": (OnDevice(), "images: this OnDevice gives no array: can't export tensors on cuda:0"),
    "device in a list": ([OnDevice()], r"images\[0\]: this OnDevice gives no array"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_named(kind):
    source, words = BAD[kind]
    with pytest.raises(InputError, match=words) as caught:
        network(source)
    assert "\n" not in str(caught.value)
