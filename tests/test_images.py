"""Every kind of image file that a dataset may hold, each as a tiny file made here."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import diffusionad as dad
from diffusionad import datasets, images
from diffusionad.errors import InputError, WriteError


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "a.bmp", "a.tif", "a.ppm", "a b ü 漢.png"])
def test_lossless_colour_files(tmp_path, pixels, name):
    read = images.read_image(save(tmp_path / name, pixels))
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, pixels)


def test_one_channel_and_bilevel(tmp_path, pixels):
    grey = pixels[..., 0]
    np.testing.assert_array_equal(
        images.read_image(save(tmp_path / "l.png", grey)), np.repeat(grey[..., None], 3, 2)
    )
    bits = grey > 127
    read = images.read_image(save(tmp_path / "1.png", bits))
    np.testing.assert_array_equal(read[..., 2], bits * np.uint8(255))


def test_alpha_is_dropped_not_blended(tmp_path, pixels):
    alpha = np.zeros((5, 7, 1), np.uint8)
    rgba = np.concatenate([pixels, alpha], axis=2)
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "rgba.png", rgba)), pixels)
    la = np.concatenate([pixels[..., :1], alpha], axis=2)
    read = images.read_image(save(tmp_path / "la.png", la))
    np.testing.assert_array_equal(read, np.repeat(pixels[..., :1], 3, 2))


def test_palette_with_transparency_warns_nothing(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = images.read_image(tmp_path / "p.png")
    assert read.tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_divided_by_257(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257, 65535, 65535 - 128, 65535 - 129, 128, 129]], np.uint16)
    read = images.read_image(save(tmp_path / f"deep.{suffix}", values))
    assert read[..., 0].tolist() == [[0, 1, 128, 255, 255, 254, 0, 1]]
    np.testing.assert_array_equal(read[..., 0], read[..., 2])


def test_wider_than_sixteen_bits_is_refused(tmp_path):
    save(tmp_path / "int32.tif", np.array([[70000, 1]], np.int32))
    save(tmp_path / "float.tif", np.array([[0.5, 1.0]], np.float32))
    for name in ("int32.tif", "float.tif"):
        with pytest.raises(InputError, match=rf"{name}: .*expected 8 or 16 bits"):
            images.read_image(tmp_path / name)


def grey_tiff(path: Path, data: bytes, width: int, bits: int, photometric: int) -> Path:
    """One row of packed pixels; Pillow writes neither 12 bits nor white as 0."""
    tags = [
        *((256, width), (257, 1), (258, bits), (259, 1), (262, photometric)),
        *((273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 1), (279, len(data))),
    ]
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(content + bytes(4) + data)
    return path


def test_twelve_bits_are_divided_by_their_own_range(tmp_path):
    path = grey_tiff(tmp_path / "12.tif", bytes.fromhex("400800c00fff"), 4, 12, 1)
    assert images.read_image(path)[0, :, 0].tolist() == [64, 128, 191, 255]
    with Image.open(path) as opened:
        assert images.pixels_of(opened, "x")[0, :, 0].tolist() == [64, 128, 191, 255]


@pytest.mark.parametrize("read", [images.read_image, images.read_mask])
def test_sixteen_bits_from_white_to_black_are_refused(tmp_path, read):
    path = grey_tiff(tmp_path / "w.tif", bytes.fromhex("00000080ffff"), 3, 16, 0)
    with pytest.raises(InputError, match=r"w\.tif: .*expected 16-bit pixels whose 0 is black"):
        read(path)


def test_cmyk_jpeg(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    image.save(tmp_path / "c.jpg", quality=95)
    with Image.open(tmp_path / "c.jpg") as opened:
        assert opened.mode == "CMYK"
    read = images.read_image(tmp_path / "c.jpg").astype(int)
    assert np.abs(read - [200, 30, 40]).max() <= 4


@pytest.mark.parametrize("deep", [False, True])
def test_exif_rotation_is_applied(tmp_path, pixels, deep):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    array = pixels[..., 0].astype(np.uint16) * 257 if deep else pixels
    path = save(tmp_path / "turned.png", array, exif=exif)
    expected = np.rot90(pixels[..., :1].repeat(3, 2) if deep else pixels, -1)
    np.testing.assert_array_equal(images.read_image(path), expected)
    assert images.image_size(path) == (7, 5)
    assert images.read_mask(path).shape == (7, 5)


def test_missing_folder_empty_truncated_and_foreign_files(tmp_path, pixels):
    whole = save(tmp_path / "whole.png", np.tile(pixels, (20, 20, 1))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.png").write_bytes(whole[:20])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    save(tmp_path / "whole.jpg", np.tile(pixels, (20, 20, 1)))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    cases = {
        "none.png": "no such file", ".": "folder", "empty.png": "is empty",
        "text.png": "not an image", "head.png": "image", "cut.png": "broken", "cut.jpg": "broken",
    }  # fmt: skip
    for name, words in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            images.read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [images.read_image, images.read_mask, images.image_size])
def test_other_formats_are_refused_whatever_a_file_is_called(tmp_path, pixels, read):
    """Pillow knows many more, and runs Ghostscript for one of them."""
    for kind in ("EPS", "TGA", "ICO"):
        path = tmp_path / f"{kind}.png"
        Image.fromarray(pixels).save(path, format=kind)
        with pytest.raises(InputError, match=rf"{kind}\.png: not an image that can be read"):
            read(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.gif", "a.pgm", "a.tiff", "two.jpg"])
def test_every_known_extension_is_read(tmp_path, pixels, name):
    image, more = Image.fromarray(pixels[..., 0]), {}
    if name == "two.jpg":  # as cameras with two lenses write it
        more = {"format": "MPO", "save_all": True, "append_images": [image]}
    image.save(tmp_path / name, **more)
    assert images.read_image(tmp_path / name).shape == (5, 7, 3)
    assert images.image_size(tmp_path / name) == (5, 7)


@pytest.mark.parametrize("limit", [30, 15])  # Pillow warns above the limit, refuses above twice
def test_decompression_bomb_is_refused(tmp_path, pixels, monkeypatch, limit):
    path = save(tmp_path / "bomb.png", pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=rf"bomb\.png: .*more than {limit} pixels"):
        images.read_image(path)


def test_mask_takes_every_nonzero_pixel(tmp_path):
    classes = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)
    expected = classes != 0
    save(tmp_path / "l.png", classes)
    save(tmp_path / "deep.png", classes.astype(np.uint16))
    save(tmp_path / "bits.png", expected)
    save(tmp_path / "rgb.png", np.stack([classes, 0 * classes, 0 * classes], axis=2))
    save(tmp_path / "rgba.png", np.stack([classes] * 3 + [0 * classes + 255], axis=2))
    black = Image.new("P", (3, 2))
    black.putpalette([0, 0, 0] * 4)
    black.putdata([0, 1, 2, 3, 0, 1])
    black.save(tmp_path / "classes.png")
    for name in ("l", "deep", "bits", "rgb", "rgba", "classes"):
        mask = images.read_mask(tmp_path / f"{name}.png")
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, expected, err_msg=name)


def test_palette_mask_whose_first_colour_is_a_defect(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png")
    assert images.read_mask(tmp_path / "p.png").tolist() == [[True, False]]


def test_mask_of_another_size(tmp_path):
    path = save(tmp_path / "m.png", np.array([[255, 0], [0, 0]], np.uint8))
    with pytest.raises(InputError, match=r"m\.png: the mask is 2x2 pixels, its image 6x4"):
        images.read_mask(path, (4, 6))
    resized = images.read_mask(path, (4, 6), resize=True)
    expected = np.zeros((4, 6), bool)
    expected[:2, :3] = True
    np.testing.assert_array_equal(resized, expected)
    np.testing.assert_array_equal(images.read_mask(path, (1, 1), resize=True), [[False]])


def test_listing_is_natural_and_passes_over_other_files(tmp_path):
    names = ["10.png", "2.PNG", "1.jpeg", "b.TIF", "A.bmp"]
    for name in [*names, ".DS_Store", "Thumbs.db", ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "3.png").touch()
    listed = [path.name for path in images.list_images(tmp_path)]
    assert listed == ["1.jpeg", "2.PNG", "10.png", "A.bmp", "b.TIF"]
    deep = images.list_images(tmp_path, recursive=True)
    assert [path.relative_to(tmp_path).as_posix() for path in deep] == [*listed, "sub/3.png"]
    with pytest.raises(InputError, match="none: no such folder"):
        images.list_images(tmp_path / "none")
    with pytest.raises(InputError, match="expected a folder"):
        images.list_images(tmp_path / "10.png")


@pytest.mark.parametrize(
    "read",
    [images.list_images, images.as_items, images.read_image, datasets.open, datasets.categories,
     lambda path: dad.DiffusionAD("tiny", image_size=32).fit(path, steps=1)],
)  # fmt: skip
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, pixels, read):
    save(tmp_path / "a.png", pixels)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected a path, got ''"):
        read("")
    assert images.list_images(".") == [Path("a.png")]


def test_links_are_followed_to_all_depths_and_loops_end(tmp_path):
    for name in ("dtd/banded/old/1.png", "dtd/2.png", "source/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = tmp_path / "source"
    (source / "dtd").symlink_to(tmp_path / "dtd")
    (source / "self").symlink_to(source)
    (tmp_path / "dtd" / "banded" / "up").symlink_to(tmp_path)
    listed = [p.relative_to(source).as_posix() for p in images.list_images(source, recursive=True)]
    assert listed == ["3.png", "dtd/2.png", "dtd/banded/old/1.png"]


def test_to_network_takes_every_form(tmp_path, pixels):
    square = np.ascontiguousarray(pixels[:, :5])
    path = save(tmp_path / "a.png", square)
    expected = (square.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    forms = [path, str(path), [path], square, square[None], [square], expected, expected[0]]
    for form in forms:
        batch = images.to_network(form, 5)
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, expected)
    flipped = images.to_network(square[:, ::-1], 5)
    np.testing.assert_array_equal(flipped, expected[..., ::-1])


def test_to_network_resizes_each_image_bilinearly(pixels):
    batch = images.to_network([np.full((3, 9, 3), 51, np.uint8), pixels], 8)
    assert batch.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(batch[0], np.float32(51) / np.float32(255))
    ramp = np.tile(np.array([0, 200], np.uint8)[None, :, None], (2, 1, 3))
    row = images.to_network(ramp, 4)[0, 0, 0] * 255
    np.testing.assert_allclose(row, [0, 50, 150, 200], atol=1e-4)  # half-pixel centres


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "at least one"),
        (np.zeros((1, 3, 4, 4), complex), r"images\[0\]: .*got complex128 \[3, 4, 4\]"),
        (np.zeros((1, 2, 5, 4), np.float32), r"images\[0\]: .*got float32 \[2, 5, 4\]"),
        (np.full((1, 3, 4, 4), 1.5, np.float32), r"in \[0, 1\], got 1.5 to 1.5"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), r"in \[0, 1\]"),
        (np.zeros((4, 4, 4), np.uint8), r"images\[0\]: expected uint8, or floats"),
        ([np.zeros((4, 4), bool)], r"images\[0\]: .*got bool \[4, 4\]"),
    ],
)
def test_to_network_refuses(bad, words):
    with pytest.raises(InputError, match=words):
        images.to_network(bad, 4)


def test_png_round_trip_and_bytes(tmp_path, pixels):
    images.write_png(tmp_path / "out.png", pixels[:, ::-1])
    np.testing.assert_array_equal(images.read_image(tmp_path / "out.png"), pixels[:, ::-1])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]
    with pytest.raises(WriteError, match="cannot write"):
        images.write_png(tmp_path / "none" / "out.png", pixels)
    assert images.to_bytes(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


def test_unique_stems():
    def stems(*paths: str) -> list[str]:
        return images.unique_stems([Path(path) for path in paths])

    assert stems("/d/7.png", "/d/8.png") == ["7", "8"]
    assert stems("/a/x/0.png", "/b/x/0.png", "/b/x/1.png") == ["a_x_0", "b_x_0", "1"]
    assert stems("/d/1.png", "/d/1.jpg", "/d/2.png") == ["1_png", "1_jpg", "2"]
    nasty = stems("/x/1.png", "/x/1.PNG", "/x/1_png.jpg", "/y/1.png", "/z/A.png", "/z/a.png")
    assert len({stem.casefold() for stem in nasty}) == 6
    assert stems() == []


@pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")
def test_webp(tmp_path, pixels):
    path = save(tmp_path / "w.webp", pixels, lossless=True)
    np.testing.assert_array_equal(images.read_image(path), pixels)
