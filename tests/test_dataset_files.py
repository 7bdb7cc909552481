"""The kinds of files that datasets hold, each where it occurs, read through the dataset."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import CATEGORIES, TINY
from PIL import Image

from diffusionad import datasets, sources
from diffusionad.datasets import Sample
from diffusionad.errors import InputError
from diffusionad.images import image_size, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright: turn clockwise


def three(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[..., None], 3, axis=2)


def one_channel(path: Path) -> np.ndarray:
    Image.fromarray(GREY).save(path)
    return three(GREY)


def rgba(path: Path) -> np.ndarray:
    Image.fromarray(np.concatenate([RGB, 0 * RGB[..., :1]], axis=2)).save(path)
    return RGB


def palette(path: Path) -> np.ndarray:
    image = Image.fromarray(GREY // 64)
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3, 90, 80, 70])
    image.save(path)
    colours = np.array([[10, 20, 30], [200, 100, 50], [1, 2, 3], [90, 80, 70]], np.uint8)
    return colours[GREY // 64]


def sixteen_bits(path: Path) -> np.ndarray:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    return three(GREY)


def cmyk(path: Path) -> np.ndarray:
    plain = np.full_like(RGB, 9)
    plain[:] = (200, 30, 40)
    Image.fromarray(plain).convert("CMYK").save(path, quality=95)
    return plain


def turned(path: Path) -> np.ndarray:
    Image.fromarray(RGB).save(path, exif=TURNED)
    return np.rot90(RGB, -1)


def plain(path: Path) -> np.ndarray:
    Image.fromarray(RGB).save(path)
    return RGB


KINDS: list[tuple[Callable[[Path], np.ndarray], str]] = [
    (one_channel, "000.png"), (one_channel, "000.PNG"), (rgba, "000.png"), (palette, "000.png"),
    (sixteen_bits, "000.png"), (sixteen_bits, "000.tif"), (cmyk, "000.JPG"), (turned, "000.png"),
    (turned, "000.tif"), (plain, "000.bmp"), (plain, "000.TIF"), (plain, "part no. 7 größe 漢.png"),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["mvtec", "visa", "mpdd", "dagm", "dagm_raw", "visa_raw"])
@pytest.mark.parametrize(
    ("make", "name"), KINDS, ids=lambda value: getattr(value, "__name__", value)
)
def test_kinds_of_images_in_every_layout(tmp_path, layout, make, name):
    """The image takes the place of one that was to be trained on."""
    layouts.write(tmp_path, layout, CATEGORIES[layout], TINY)
    old = datasets.open(tmp_path).train[1].path
    old.unlink()
    new = old.with_name(name)
    expected = make(new)
    if layout == "visa_raw":
        file = tmp_path / "split_csv" / "1cls.csv"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(old.name, name), encoding="utf-8")
    [sample] = [sample for sample in datasets.open(tmp_path).train if sample.path == new]
    difference = np.abs(sample.image.astype(int) - expected)
    assert sample.image.dtype == np.uint8
    assert difference.max() <= (4 if make is cmyk else 0)
    assert sample.mask is not None
    assert sample.mask.shape == expected.shape[:2]
    report = datasets.check(tmp_path, layout, CATEGORIES[layout])
    assert [finding for finding in report.findings if finding.path == new] == []


@pytest.fixture
def mvtec(tmp_path) -> Path:
    layouts.write(tmp_path, "mvtec", "bottle", TINY)
    return tmp_path / "bottle"


def broken(root: Path) -> Sample:
    """The sample test/broken/000.png; its mask is 0/255."""
    return next(s for s in datasets.open(root).test if s.defect == "broken")


def replace(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.unlink()  # and not the files that are linked with it
    Image.fromarray(pixels).save(path, **options)


def test_a_mask_of_another_size(mvtec):
    replace(broken(mvtec).mask_path, np.full((8, 6), 255, np.uint8))
    with pytest.raises(InputError, match=r"000_mask\.png: the mask is 6x8 pixels, its image 4x4"):
        _ = broken(mvtec).mask
    [resized] = [
        sample for sample in datasets.open(mvtec, resize_masks=True).test
        if sample.path == broken(mvtec).path
    ]  # fmt: skip
    assert resized.mask.shape == (4, 4)
    assert resized.mask.all()


def test_masks_turn_with_their_images(mvtec):
    image = np.full((4, 6, 3), 90, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[0, 5] = 7
    sample = broken(mvtec)
    replace(sample.path, image, exif=TURNED)
    replace(sample.mask_path, mask.T)  # drawn on the image as it is shown
    assert broken(mvtec).mask.shape == image_size(sample.path) == (6, 4)
    replace(sample.mask_path, mask, exif=TURNED)
    assert np.argwhere(broken(mvtec).mask).tolist() == [[5, 3]]


@pytest.mark.parametrize("values", [[0, 1, 2, 3], [0, 7, 0, 255]])
def test_every_pixel_of_a_mask_that_is_not_zero_is_a_defect(mvtec, values):
    replace(broken(mvtec).mask_path, np.tile(np.array(values, np.uint8), (4, 1)))
    assert broken(mvtec).mask.tolist() == [[value != 0 for value in values]] * 4


def test_an_empty_mask_of_a_defective_image(mvtec):
    replace(broken(mvtec).mask_path, np.zeros((4, 4), np.uint8))
    sample = broken(mvtec)
    assert (sample.label, sample.has_mask) == (1, True)
    assert not sample.mask.any()


def test_broken_files_are_named(mvtec):
    good = mvtec / "train" / "good"
    whole = (good / "000.png").read_bytes()
    for name in ("001.png", "002.png"):
        (good / name).unlink()
    (good / "001.png").write_bytes(whole[:50])
    (good / "002.png").touch()
    train = datasets.open(mvtec).train
    with pytest.raises(InputError, match=r"001\.png: the image is broken"):
        _ = train[1].image
    with pytest.raises(InputError, match=r"002\.png: the file is empty"):
        _ = train[2].image
    kinds = {f.path.name: (f.kind, f.what) for f in datasets.check(mvtec).findings}
    assert kinds["001.png"][0] == kinds["002.png"][0] == "unreadable"
    assert kinds["002.png"][1] == "the file is empty"


def test_an_image_bomb_is_refused(mvtec, monkeypatch):
    replace(mvtec / "train" / "good" / "000.png", np.zeros((20, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        InputError, match=r"000\.png: the image has more than 100 pixels, the limit"
    ):
        _ = datasets.open(mvtec).train[0].image
    findings = datasets.check(mvtec).findings
    assert [f.path.name for f in findings if "more than 100 pixels" in f.what] == ["000.png"]


def test_an_image_too_long_for_the_core_is_refused(mvtec):
    replace(mvtec / "train" / "good" / "000.png", np.zeros((1, 65537), np.uint8))
    words = "expected at most 65536 pixels a side, got 65537x1 pixels"
    with pytest.raises(InputError, match=rf"000\.png: {words}"):
        _ = datasets.open(mvtec).train[0].image
    found = {f.path.name: (f.kind, f.what) for f in datasets.check(mvtec).findings}
    assert found["000.png"] == ("unreadable", words)
    textures = sources.Textures(mvtec / "train" / "good", 8)
    assert textures.draw(np.random.default_rng(0), 8).shape == (8, 3, 8, 8)


def test_threads_leave_the_filters_of_warnings_alone(mvtec):
    """Each reader makes Pillow's warning an error meanwhile; the process must not keep that."""
    files = [sample.path for sample in datasets.open(mvtec).train]
    before = list(warnings.filters)

    def read() -> None:
        for _ in range(100):
            for file in files:
                read_image(file)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
