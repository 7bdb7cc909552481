"""The foreground's C functions against their float64 twins, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_same_for_any_thread_count

from diffusionad import _core
from diffusionad.reference import foreground as twin

SHAPES = [(1, 1), (1, 7), (9, 1), (2, 2), (5, 3), (40, 57), (64, 64)]


def images(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A shaded background with a block of another colour in each image, and grain."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[:height, :width] / max(height, width)
    drawn = np.empty((count, height, width, 3), np.uint8)
    for one in drawn:
        shade = 150 + 60 * np.sin(3 * x + rng.uniform()) + 20 * y
        picture = np.repeat(shade[..., None], 3, axis=2)
        top, left = rng.integers(height), rng.integers(width)
        picture[top : top + height // 3 + 1, left : left + width // 3 + 1] = rng.uniform(0, 255, 3)
        one[:] = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255)
    return drawn


@pytest.mark.parametrize("shape", SHAPES)
def test_otsu(shape: tuple[int, int]) -> None:
    pictures = images(3, *shape)
    masks, facts = _core.otsu_masks(pictures)
    for picture, mask, fact in zip(pictures, masks, facts, strict=True):
        wanted, wanted_facts = twin.otsu(picture)
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_allclose(fact, wanted_facts, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_otsu_of_one_colour_tells_that_nothing_parts_it(level: int) -> None:
    masks, facts = _core.otsu_masks(np.full((1, 12, 9, 3), level, np.uint8))
    assert facts[0, 0] == 0  # separability
    assert facts[0, 4] == 0  # gap
    assert not masks.any() or masks.all()


@pytest.mark.parametrize("shape", SHAPES)
def test_level_light(shape: tuple[int, int]) -> None:
    pictures = images(2, *shape)
    for picture, level in zip(pictures, _core.level_light(pictures), strict=True):
        wanted = twin.level_light(picture)
        assert np.abs(level - wanted).max() <= 0.5 + 1e-2


def test_level_light_takes_out_a_gradient() -> None:
    gradient = np.broadcast_to(np.linspace(80, 220, 64)[None, :, None], (64, 64, 3))
    level = _core.level_light(gradient.astype(np.uint8)[None])[0]
    assert np.ptp(level.astype(int)) < 0.1 * 140


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_scene(count: int, shape: tuple[int, int]) -> None:
    pictures = images(count, *shape)
    background, spread = _core.scene_background(pictures)
    wanted_background, wanted_spread = twin.scene_background(pictures)
    np.testing.assert_allclose(background, wanted_background, atol=2e-4)
    np.testing.assert_allclose(spread, wanted_spread, atol=2e-4)
    evidence = _core.scene_evidence(pictures, background, spread)
    for picture, one in zip(pictures, evidence, strict=True):
        wanted = twin.scene_evidence(picture, background.astype(float), spread.astype(float))
        np.testing.assert_allclose(one, wanted, atol=5e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_words(shape: tuple[int, int]) -> None:
    pictures = images(2, *shape)
    words = _core.image_words(pictures)
    for picture, one in zip(pictures, words, strict=True):
        # A value on the edge between two words may fall to either side.
        assert (one != twin.words(picture)).mean() <= 0.001
    weights = np.random.default_rng(1).random(words.shape, dtype=np.float32)
    counts, weighted = _core.word_counts(words), _core.word_counts(words, weights)
    assert np.allclose(counts.sum(axis=1), words[0].size)
    frequencies = (counts + 1) / (counts + 1).sum(axis=1, keepdims=True)
    evidence = _core.word_evidence(words, frequencies, frequencies[::-1].copy())
    for index in range(2):
        np.testing.assert_allclose(counts[index], twin.word_counts(words[index]))
        wanted = twin.word_counts(words[index], weights[index].astype(float))
        np.testing.assert_allclose(weighted[index], wanted, atol=1e-9)
        wanted = twin.word_evidence(words[index], frequencies[index], frequencies[1 - index])
        np.testing.assert_allclose(evidence[index], wanted, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, -1.5])
def test_settle(shape: tuple[int, int], offset: float) -> None:
    pictures = images(2, *shape)
    evidence = np.random.default_rng(2).normal(0, 2, (2, *shape)).astype(np.float32)
    share = _core.settle(evidence, pictures, offset)
    assert share.min() >= 0
    assert share.max() <= 1
    for index in range(2):
        wanted = twin.settle(evidence[index].astype(float), pictures[index], offset)
        np.testing.assert_allclose(share[index], wanted, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_tidy(shape: tuple[int, int], keep: float) -> None:
    rng = np.random.default_rng(3)
    masks = np.stack([rng.random(shape) < share for share in (0.0, 0.3, 0.6, 1.0)])
    before = masks.copy()
    tidied = _core.tidy_masks(masks, keep)
    np.testing.assert_array_equal(masks, before)
    for mask, one in zip(masks, tidied, strict=True):
        np.testing.assert_array_equal(one, twin.tidy(mask, keep))


def test_any_thread_count() -> None:
    pictures = images(5, 33, 47)
    background, spread = _core.scene_background(pictures)
    words = _core.image_words(pictures)
    counts = _core.word_counts(words) / words[0].size
    evidence = _core.scene_evidence(pictures, background, spread)
    threads = _core.get_num_threads()
    try:
        for function, *arguments in (
            (_core.otsu_masks, pictures),
            (_core.level_light, pictures),
            (_core.scene_background, pictures),
            (_core.scene_evidence, pictures, background, spread),
            (_core.image_words, pictures),
            (_core.word_counts, words),
            (_core.word_evidence, words, counts, counts[::-1].copy()),
            (_core.settle, evidence, pictures, 0.0),
            (_core.tidy_masks, evidence > 0, 0.5),
        ):
            assert_same_for_any_thread_count(function, *arguments)
    finally:
        _core.set_num_threads(threads)


PICTURES = np.zeros((2, 4, 5, 3), np.uint8)
WORDS = np.zeros((2, 4, 5), np.uint16)
TABLE = np.zeros((2, 12 * 13 * 13 * 6))
PLANES = np.zeros((2, 4, 5), np.float32)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (_core.otsu_masks, (PICTURES[..., :2],), "images: expected shape"),
        (_core.otsu_masks, (PICTURES[:, :0],), "images"),
        (_core.level_light, (PICTURES.astype(np.float32),), "images: expected dtype uint8"),
        (_core.image_words, (PICTURES[0],), "images"),
        (_core.scene_background, (PICTURES[:0],), "images"),
        (_core.scene_evidence, (PICTURES, PLANES, PLANES[0]), "background: expected shape"),
        (_core.scene_evidence, (PICTURES, PICTURES[0] / np.float32(1), PLANES), "spread"),
        (_core.word_counts, (WORDS + np.uint16(12168),), "words: expected 0 to 12167, got 12168"),
        (_core.word_counts, (WORDS, PLANES[:1]), "weights: expected shape"),
        (_core.word_evidence, (WORDS, TABLE[:1], TABLE), "object: expected shape"),
        (_core.word_evidence, (WORDS, TABLE, TABLE[:, 1:]), "background: expected shape"),
        (_core.settle, (PLANES, PICTURES[:1], 0.0), "images: expected shape"),
        (_core.tidy_masks, (PLANES, 0.5), "masks: expected dtype bool"),
        (_core.tidy_masks, (PLANES > 0, 1.5), "keep: expected 0 to 1"),
        (_core.tidy_masks, (PLANES > 0, float("nan")), "keep: expected 0 to 1"),
    ],
)
def test_refusals(function: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        function(*arguments)
