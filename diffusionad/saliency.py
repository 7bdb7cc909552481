"""Where the object is in an image, found without a network and without a download.

Four ways, the first that is sure wins: one grey level, on a plain background; what differs from a
scene that stays the same over a set; what all images of a set have in common, on backgrounds that
vary; and what the image's border does not show. The last three compare pixels as words of colour
and texture (csrc/pipeline/words.c), or with a median (scene.c), and let neighbours agree
(regions.c). Where none is sure, the whole image is the foreground, and the reason is told.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diffusionad import _core
from diffusionad.errors import InputError
from diffusionad.files import PathLike
from diffusionad.images import Bytes, Mask, read_image, resize, to_bytes

log = logging.getLogger(__name__)

Counts: TypeAlias = npt.NDArray[np.float64]
Shares: TypeAlias = npt.NDArray[np.float32]
OneImage: TypeAlias = "PathLike | npt.NDArray[Any]"

VERSION = 1  # of the results: masks that an older one left are found anew
SURE = 0.4  # confidence from which on a mask is used
LONGEST_SIDE = 320  # pixels; larger images are looked at in this size, but for plain backgrounds
LEARNED_FROM = 64  # images, spread over the set
FEWEST = 8  # images that tell what stays and what varies

SEPARABILITY, BORDER, AREA, SOLID, GAP = range(5)  # of _core.otsu_masks
PLAIN_SHARE = 0.5  # of a set's images: from here on the others are taken to be plain too
SCENE_SHARE, WORDS_SHARE = 0.8, 0.75  # of a set's images that must be sure, or the way is not taken
STEADY = 0.035  # median spread of a scene that stays the same, of a range of 1
COMMON = 0.25  # quantile of a word's frequency that counts as common to the images
COMMON_MOST = 0.5  # of all pixels: more in common, and the backgrounds do not vary
SMALLEST, LARGEST = 0.004, 0.7  # an object's share of the image
MOST_BORDER = 0.35  # of the image's border under the mask
ROUNDS = 6
BORDER_SURE = 0.87  # where one image is all there is: below it, surfaces get patches of their own
BORDER_SMALLEST = 0.05
SET_OFFSET, BORDER_OFFSET = -0.4, -1.5  # log odds that a pixel is of the object, before it is seen


@dataclass(frozen=True)
class Foreground:
    """Where the object is in one image.

    Attributes:
        mask: bool (H, W), True on the object; everywhere where `confidence` is below SURE.
        confidence: 0 to 1.
        method: "plain", "scene", "words", "border" or "whole".
        reason: why the whole image was taken; else empty.
    """

    mask: Mask
    confidence: float
    method: str
    reason: str = ""


def foreground(image: OneImage) -> Mask:
    """The object's mask, bool (H, W): a path, uint8 (H, W, 3) or float32 (3, H, W) in [0, 1].

    All True, with a warning in the log, where it is not sure; find_foreground() says how sure. A
    whole set tells more than one image: foreground_of_set().
    Raises InputError for what is no image.

    >>> image = np.full((64, 64, 3), 200, np.uint8)
    >>> image[20:40, 10:50] = 60
    >>> int(foreground(image).sum())
    800
    """
    found = find_foreground(image)
    if found.reason:
        log.warning("foreground: the whole image is taken: %s", found.reason)
    return found.mask


def find_foreground(image: OneImage) -> Foreground:
    """The object in one image, with confidence and reason."""
    return ForegroundFinder([]).find(image)


def foreground_of_set(images: Sequence[OneImage] | npt.NDArray[Any]) -> list[Foreground]:
    """The object in each image of a set; one at a time is read where paths are given.

    Raises InputError for what is no image.
    """
    finder = ForegroundFinder(images)
    return [finder.find(image) for image in images]


class ForegroundFinder:
    """What a set of images says about object and background; find() applies it to an image."""

    def __init__(self, images: Sequence[OneImage] | npt.NDArray[Any]) -> None:
        self.method = "border"
        self._scene: tuple[Shares, Shares] | None = None
        self._pool: Counts | None = None
        self._area = 0.1
        chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), LEARNED_FROM)))
        if len(chosen) < FEWEST:
            return
        shapes, resized, areas = [], [], []
        for index in chosen:  # large images together would take gigabytes
            pixels = as_pixels(images[int(index)])
            shapes.append(pixels.shape)
            height, width = _working_size(shapes[0])
            resized.append(resize(pixels, height, width))
            plain = self._plain(pixels)
            if plain.confidence >= SURE:
                areas.append(float(plain.mask.mean()))
        if len(areas) >= PLAIN_SHARE * len(chosen):
            self.method, self._area = "plain", float(np.median(areas))
            return
        small = np.stack(resized)
        if not (len(set(shapes)) == 1 and self._learn_scene(small)):
            self._learn_words(small)

    def find(self, image: OneImage) -> Foreground:
        """The object in one image, which need not be of the set."""
        pixels = as_pixels(image)
        height, width = _working_size(pixels.shape)
        small = resize(pixels, height, width)[None]
        if self._scene is not None and small.shape[1:3] == self._scene[1].shape:
            found = self._by_scene(small)
        elif self._pool is not None:
            found = self._by_words(small)
        else:
            found = self._plain(pixels)
            if found.confidence < SURE and self.method == "border":
                found = self._by_border(small)
        if found.confidence < SURE:
            everywhere = np.ones(pixels.shape[:2], np.bool_)
            return replace(found, mask=everywhere, method="whole")
        return replace(found, mask=_resize_mask(found.mask, pixels.shape[:2]), reason="")

    # ---- a plain background -------------------------------------------------------------------

    def _plain(self, pixels: Bytes) -> Foreground:
        found = self._by_level(pixels[None])
        return self._by_level(_core.level_light(pixels[None])) if found.reason else found

    def _by_level(self, images: Bytes) -> Foreground:
        masks, facts = _core.otsu_masks(images)
        fact = facts[0]
        mask = _core.tidy_masks(masks, 0.1)[0]
        doubts = {
            "no grey level parts object and background": fact[SEPARABILITY] < 0.55 or fact[GAP] < 4,
            "the object reaches far along the border": fact[BORDER] > 0.06,
            "the darker or brighter part is in pieces": fact[SOLID] < 0.9,
            "the object is too small or too large": not SMALLEST <= fact[AREA] <= LARGEST,
        }
        reasons = [reason for reason, holds in doubts.items() if holds]
        likely = self.method == "plain" and 0.5 <= mask.mean() / self._area <= 2.0
        confidence = 1.0 if not reasons else 0.6 if likely and len(reasons) == 1 else 0.0
        return Foreground(mask, confidence, "plain", "; ".join(reasons))

    # ---- a scene that stays -------------------------------------------------------------------

    def _learn_scene(self, images: Bytes) -> bool:
        background, spread = _core.scene_background(images)
        if np.median(spread) > STEADY:
            return False
        self._scene = background, spread
        found = [self._by_scene(one[None]) for one in images]
        sure = sum(one.confidence >= SURE for one in found)
        if sure < SCENE_SHARE * len(images):
            self._scene = None
            return False
        self.method = "scene"
        return True

    def _by_scene(self, images: Bytes) -> Foreground:
        assert self._scene is not None
        evidence = _core.scene_evidence(images, *self._scene)
        share = _core.settle(evidence, images, 0.0)
        mask = _core.tidy_masks(share > 0.5, 0.5)
        return _judge(mask[0], share[0], 1.0, "scene")

    # ---- what a set has in common -------------------------------------------------------------

    def _learn_words(self, images: Bytes) -> bool:
        """Alternate between the object's words, common to all images, and each image's share."""
        words = _core.image_words(images)
        counts = _core.word_counts(words)
        counts /= counts.sum(axis=1, keepdims=True)
        common = np.quantile(counts, COMMON, axis=0)
        if not SMALLEST < common.sum() < COMMON_MOST:
            return False
        object_words, background = np.minimum(counts, common), np.maximum(counts - common, 0.0)
        for _ in range(ROUNDS):
            evidence = _core.word_evidence(words, *map(_frequencies, (object_words, background)))
            share, mask = _settled(evidence, images, SET_OFFSET)
            areas = mask.mean(axis=(1, 2))
            area = float(np.median(areas[areas > SMALLEST])) if (areas > SMALLEST).any() else 0.1
            own = _core.word_counts(words, share) / words[0].size
            pool = _frequencies(own).mean(axis=0)
            object_words = np.repeat(pool[None], len(images), axis=0)
            background = counts - own
        self._pool, self._area, self.method = pool, area, "words"
        found = [self._by_words(one[None]) for one in images]
        sure = sum(one.confidence >= SURE for one in found)
        if sure < WORDS_SHARE * len(images):
            self._pool, self.method = None, "border"
        return self._pool is not None

    def _by_words(self, images: Bytes) -> Foreground:
        assert self._pool is not None
        words = _core.image_words(images)
        counts = _frequencies(_core.word_counts(words))
        pool = self._pool[None]
        background = np.maximum(counts - self._area * pool, 0.0)
        for _ in range(ROUNDS):
            background = _frequencies(background)
            evidence = _core.word_evidence(words, pool, background)
            share, mask = _settled(evidence, images, SET_OFFSET)
            background = counts - _core.word_counts(words, share) / words.size
        usual = 0.25 * self._area <= mask.mean() <= 3.0 * self._area
        apart = _apart(pool[0], _frequencies(background)[0])
        found = _judge(mask[0], share[0], apart, "words")
        if not usual:
            return replace(found, confidence=0.0, reason="its size is not that of the others")
        return found

    # ---- what the border does not show --------------------------------------------------------

    def _by_border(self, images: Bytes) -> Foreground:
        words = _core.image_words(images)
        counts = _frequencies(_core.word_counts(words))
        border = _border(words.shape[1:]).astype(np.float32)[None]
        shown = _frequencies(_core.word_counts(words, border))
        object_words, background = np.maximum(counts - shown, 0.0), np.minimum(counts, shown)
        for _ in range(ROUNDS):
            object_words, background = map(_frequencies, (object_words, background))
            evidence = _core.word_evidence(words, object_words, background)
            share, mask = _settled(evidence, images, BORDER_OFFSET)
            object_words = _core.word_counts(words, share) / words.size
            background = counts - object_words + shown
        apart = _apart(_frequencies(object_words)[0], _frequencies(background)[0])
        found = _judge(mask[0], share[0], apart, "border")
        if found.confidence < BORDER_SURE or mask.mean() < BORDER_SMALLEST:
            reason = found.reason or "one image does not tell the object from its background"
            return replace(found, confidence=0.0, reason=reason)
        return found


def as_pixels(image: OneImage) -> Bytes:
    """uint8 (H, W, 3) of a path, of itself, of grey (H, W), or of float32 (3, H, W) in [0, 1]."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    pixels = np.asarray(image)
    if pixels.dtype == np.float32 and pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.size:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"image: expected values in [0, 1], got {low:g} to {high:g}")
        return np.ascontiguousarray(to_bytes(pixels).transpose(1, 2, 0))
    if pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.size:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return np.ascontiguousarray(pixels)
    raise InputError(
        "image: expected a path, uint8 [H, W, 3] or float32 [3, H, W], "
        f"got {pixels.dtype} {list(pixels.shape)}"
    )


def _working_size(shape: tuple[int, ...]) -> tuple[int, int]:
    height, width = shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize_mask(mask: Mask, size: tuple[int, ...]) -> Mask:
    if mask.shape == size:
        return mask
    return resize(mask * np.uint8(255), size[0], size[1]) >= 128


def _border(size: tuple[int, ...]) -> Mask:
    """True on a frame a sixteenth of the shorter side wide."""
    width = max(1, min(size) // 16)
    frame = np.ones(size, np.bool_)
    frame[width:-width, width:-width] = False
    return frame


def _frequencies(counts: Counts) -> Counts:
    """Rows that sum to 1; a row of zeros becomes even."""
    sums = counts.sum(axis=1, keepdims=True)
    return np.where(sums > 0, counts / np.where(sums > 0, sums, 1.0), 1.0 / counts.shape[1])


def _settled(evidence: Shares, images: Bytes, offset: float) -> tuple[Shares, Mask]:
    """Shares, halved off the largest regions, and the mask of those."""
    share = _core.settle(evidence, images, offset)
    mask = _core.tidy_masks(share > 0.5, 0.5)
    return np.where(mask, share, share * np.float32(0.5)), mask


def _apart(one: Counts, other: Counts) -> float:
    """1 where two distributions share no word, 0 where they are the same."""
    return float(1.0 - np.minimum(one, other).sum())


def _judge(mask: Mask, share: Shares, apart: float, method: str) -> Foreground:
    """How sure a mask is: decided pixels, words that differ, a size and place that can be."""
    area = mask.mean()
    if not SMALLEST <= area <= LARGEST:
        what = "nothing stands out" if area < SMALLEST else "almost everything stands out"
        return Foreground(mask, 0.0, method, what)
    if mask[_border(mask.shape)].mean() > MOST_BORDER:
        return Foreground(mask, 0.0, method, "what stands out lies along the border")
    decided = float(share[mask].mean() - share[~mask].mean())
    reason = "object and background look alike" if decided * apart < SURE else ""
    return Foreground(mask, decided * apart, method, reason)
