"""Where the object is: single images, sets, what is unsure, what is no image."""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffusionad as dad
from diffusionad import _core, saliency, sources
from diffusionad.errors import InputError
from diffusionad.images import write_png
from diffusionad.saliency import FEWEST, SURE, as_pixels

SIDE = 96


def disc(rng: np.random.Generator, radius: int = 14) -> np.ndarray:
    y, x = rng.integers(radius + 4, SIDE - radius - 4, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def plain(rng: np.random.Generator, light: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    """A grainy dark disc on a bright background."""
    mask = disc(rng)
    image = np.where(mask[..., None], 60.0, 190.0) * light + rng.normal(0, 3, (SIDE, SIDE, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def gradient(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    return np.asarray(0.9 + 0.4 * (np.cos(angle) * rows + np.sin(angle) * columns))[..., None]


def test_an_object_on_a_plain_background() -> None:
    image, mask = plain(np.random.default_rng(0))
    found = dad.find_foreground(image)
    assert overlap(found.mask, mask) > 0.97
    assert (found.method, found.reason) == ("plain", "")
    assert found.confidence >= SURE
    assert dad.foreground(image).dtype == np.bool_


def test_an_object_brighter_than_its_background() -> None:
    image, mask = plain(np.random.default_rng(1))
    assert overlap(dad.foreground(255 - image), mask) > 0.97


def test_uneven_light_is_taken_out() -> None:
    rng = np.random.default_rng(2)
    for _ in range(5):
        image, mask = plain(rng, gradient(rng))
        assert overlap(dad.foreground(image), mask) > 0.9


def test_paths_grey_bytes_and_floats_are_the_same_image(tmp_path: Path) -> None:
    image, _ = plain(np.random.default_rng(3))
    grey = np.ascontiguousarray(image[..., 0])
    colour = np.repeat(grey[..., None], 3, axis=2)
    write_png(tmp_path / "a.png", colour)
    wanted = dad.foreground(colour)
    floats = (colour.transpose(2, 0, 1) / np.float32(255)).astype(np.float32)
    for source in (grey, tmp_path / "a.png", floats):
        np.testing.assert_array_equal(dad.foreground(source), wanted)


def cluttered(count: int, seed: int = 4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One scene of blocks, another disc in each image, changing light."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.uniform(40, 220, (SIDE // 8, SIDE // 8, 3)), np.ones((8, 8, 1)))
    images, masks = [], []
    for _ in range(count):
        mask = disc(rng)
        image = np.where(mask[..., None], rng.uniform(0, 255, 3), scene)
        image = image * gradient(rng) + rng.normal(0, 2, image.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
        masks.append(mask)
    return images, masks


def test_a_scene_that_stays_tells_the_object() -> None:
    images, masks = cluttered(16)
    found = dad.foreground_of_set(images)
    assert {one.method for one in found} == {"scene"}
    assert np.mean([overlap(f.mask, m) for f, m in zip(found, masks, strict=True)]) > 0.85


def varied(count: int, seed: int = 5) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same green object, another pattern of another colour behind it each time."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        cells = int(rng.choice([4, 6, 8, 12]))
        pattern = rng.uniform(0, 1, (SIDE // cells, SIDE // cells, 1)) * rng.uniform(60, 255, 3)
        image = np.kron(pattern, np.ones((cells, cells, 1)))
        mask = disc(rng, 16)
        image = np.where(mask[..., None], (70, 160, 80), image) + rng.normal(0, 4, image.shape)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
        masks.append(mask)
    return images, masks


def test_backgrounds_that_vary_tell_what_is_common() -> None:
    images, masks = varied(24)
    found = dad.foreground_of_set(images)
    scores = [overlap(f.mask, m) for f, m in zip(found, masks, strict=True) if f.method == "words"]
    assert len(scores) >= 18
    assert np.mean(scores) > 0.8


def test_a_finder_applies_to_images_that_it_has_not_seen() -> None:
    images, masks = cluttered(17)
    finder = dad.ForegroundFinder(images[:16])
    assert finder.method == "scene"
    assert overlap(finder.find(images[16]).mask, masks[16]) > 0.8


def test_learning_holds_one_large_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, held = np.random.default_rng(10), []

    def read(_: object) -> np.ndarray:
        assert sum(image() is not None for image in held) <= 1
        image = rng.integers(0, 256, (400, 400, 3), np.uint8)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr(saliency, "read_image", read)
    dad.ForegroundFinder([Path("x.png")] * (FEWEST + 1))
    assert len(held) == FEWEST + 1


def test_any_thread_count_finds_the_same() -> None:
    images, _ = varied(FEWEST)
    threads = _core.get_num_threads()
    try:
        masks = []
        for count in (1, 3):
            _core.set_num_threads(count)
            masks.append(np.stack([one.mask for one in dad.foreground_of_set(images)]))
    finally:
        _core.set_num_threads(threads)
    np.testing.assert_array_equal(masks[0], masks[1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.full((64, 64, 3), 128, np.uint8),
        np.zeros((2, 500, 3), np.uint8),
        np.random.default_rng(6).integers(0, 256, (64, 64, 3), np.uint8),
        np.random.default_rng(7).integers(0, 256, (1, 90), np.uint8),
    ],
    ids=["one pixel", "one colour", "a strip", "noise", "a grey line"],
)
def test_without_an_object_the_whole_image_is_taken_and_said(
    image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    found = dad.find_foreground(image)
    assert found.mask.shape == image.shape[:2]
    assert found.mask.all()
    assert (found.method, found.confidence < SURE) == ("whole", True)
    assert found.reason
    with caplog.at_level(logging.WARNING, "diffusionad"):
        assert dad.foreground(image).all()
    assert "the whole image is taken: " + found.reason in caplog.text


@pytest.mark.parametrize("count", [1, FEWEST, 20])
def test_a_set_of_surfaces_has_no_object(count: int) -> None:
    rng = np.random.default_rng(8)
    waves = np.sin(np.arange(SIDE) / 2.5)[:, None] * 20 + 120
    images = [
        np.clip(waves[..., None] + rng.normal(0, 10, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]
    assert {one.method for one in dad.foreground_of_set(images)} == {"whole"}


def test_a_large_image_keeps_its_size() -> None:
    image = np.full((1500, 2100, 3), 200, np.uint8)
    image[400:900, 700:1500] = 40
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[400:900, 700:1500] = True
    np.testing.assert_array_equal(dad.foreground(image), mask)


def test_images_of_several_sizes_in_a_set() -> None:
    rng = np.random.default_rng(9)
    images = [plain(rng)[0][: 60 + n] for n in range(12)]
    for image, found in zip(images, dad.foreground_of_set(images), strict=True):
        assert found.mask.shape == image.shape[:2]


def test_an_empty_set_finds_nothing() -> None:
    assert dad.foreground_of_set([]) == []


# ---- for the images of a training run ---------------------------------------------------------


def test_kept_masks_are_those_of_the_same_order(tmp_path: Path) -> None:
    """Squares on the left and right by turns."""
    paths = []
    for index in range(8):
        pixels = np.full((64, 64, 3), 200, np.uint8)
        left = 4 + 32 * (index % 2)
        pixels[20:44, left : left + 20] = 60
        paths.append(tmp_path / f"{index}.png")
        write_png(paths[-1], pixels)
    cache = tmp_path / "masks.npz"
    for order in (paths, paths[::-1], [*paths, paths[0]]):
        images = sources.load_images(order, 32)
        kept, _ = sources.choose_foregrounds(images, "object", None, cache)
        found, _ = sources.choose_foregrounds(images, "object", None)
        np.testing.assert_array_equal(kept, found)


def halves(root: Path, rows: slice, *names: str) -> list[Path]:
    """Masks of 8 by 8 pixels, these rows of them white."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[rows] = 255
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_png(root / name, pixels)
    return [root / name for name in names]


def test_masks_beside_the_images_are_those_of_their_own_folder(tmp_path: Path) -> None:
    upper, lower = slice(0, 4), slice(4, 8)
    paths = []
    for name, rows in (("a", upper), ("b", lower)):
        paths += halves(tmp_path / name / "train" / "good", rows, "0.png", "1.png")
        halves(tmp_path / name / "DISthresh" / "good", rows, "0.png", "1.png")
    images = sources.load_images(paths, 8)
    masks, name = sources.choose_foregrounds(images, "object", None)
    assert masks is not None
    assert name == "good"
    np.testing.assert_array_equal(masks, images.pixels[..., 0])
    for mask in (tmp_path / "a" / "DISthresh" / "good").iterdir():
        mask.unlink()
    with pytest.raises(InputError, match=r"a/DISthresh/good: no mask for 2 of 2 images"):
        sources.choose_foregrounds(images, "object", None)
    (tmp_path / "a" / "DISthresh" / "good").rmdir()
    assert sources.choose_foregrounds(images, "object", None)[1] == "found"


def test_masks_are_refused_where_names_do_not_tell_whose_they_are(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    halves(masks, slice(0, 4), "0.png", "1.png")
    same = halves(tmp_path / "a", slice(0, 4), "0.png") + halves(tmp_path / "b", slice(8), "0.png")
    images = sources.load_images(same, 8)
    with pytest.raises(InputError, match=r"a/0\.png and .*b/0\.png: expected names that differ"):
        sources.choose_foregrounds(images, "object", masks)
    twice = sources.load_images([same[0], same[0]], 8)  # as a preview of few images has it
    assert sources.choose_foregrounds(twice, "object", masks)[1] == "masks"
    halves(masks, slice(0, 4), "0.bmp")
    with pytest.raises(InputError, match=r"masks/0\.bmp and .*masks/0\.png: expected names"):
        sources.choose_foregrounds(twice, "object", masks)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((0, 1, 2, 0), (0, 255, 255, 0)),
        ((0, 1, 1, 0), (0, 255, 255, 0)),
        ((0, 200, 200, 0), (0, 255, 255, 0)),
        ((0, 128, 255, 0), (0, 128, 255, 0)),
    ],
)
def test_numbers_and_grey_levels_of_masks(
    tmp_path: Path, levels: tuple[int, ...], expected: tuple[int, ...], deep: bool
) -> None:
    [path] = halves(tmp_path / "good", slice(0, 4), "0.png")
    values = np.tile(np.array(levels, np.uint16 if deep else np.uint8), (4, 1))
    if deep and max(levels) > 2:
        values *= 257
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "0.png")
    images = sources.load_images([path], 4)
    masks, _ = sources.choose_foregrounds(images, "object", tmp_path / "masks")
    np.testing.assert_array_equal(masks, [[expected] * 4])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "image: expected a path, uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.int64), r"got int64 \[4, 4, 3\]"),
        (np.full((3, 4, 4), np.nan, np.float32), r"expected values in \[0, 1\], got nan"),
        (np.full((3, 4, 4), 1.5, np.float32), r"expected values in \[0, 1\], got 1.5"),
        ("gone.png", "gone.png: no such file"),
    ],
)
def test_what_is_no_image(image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dad.foreground(image)
    with pytest.raises(InputError, match=message):
        as_pixels(image)


DATA = os.environ.get("DIFFUSIONAD_TEST_DATA")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="DIFFUSIONAD_TEST_DATA names no folder of real images")
def test_real_screws_and_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from foreground import LIMITS, Composites, measure

    source = Composites(Path(str(DATA)), seed=5)
    for case, limit in LIMITS.items():
        cases = getattr(source, case)(24)
        found = dad.foreground_of_set([image for image, _ in cases])
        assert measure(cases, found)["iou"] >= limit, case
    for name in ("bsdata/ball_screw", "mtd/magnetic_tile", "aitex/fabric01"):
        paths = sorted((Path(str(DATA)) / name / "train/good").iterdir())[::8]
        unsure = [one.confidence < SURE for one in dad.foreground_of_set(paths)]
        assert np.mean(unsure) >= 0.9, name
