"""Twins of csrc/pipeline/{otsu,scene,words,regions}.c: one image, or one set of them, at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

STEPS = (12, 13, 13, 6)  # of light, red, blue and grain


def box_mean(values: Array, radius: int) -> Array:
    """Mean over (2 radius + 1)² pixels, fewer at the borders."""
    for axis in (0, 1):
        size = values.shape[axis]
        low = np.maximum(np.arange(size) - radius, 0)
        high = np.minimum(np.arange(size) + radius + 1, size)
        rows = np.moveaxis(values, axis, 0)
        sums = np.concatenate([np.zeros_like(rows[:1]), np.cumsum(rows, axis=0)])
        means = (sums[high] - sums[low]) / (high - low).reshape(-1, *[1] * (rows.ndim - 1))
        values = np.moveaxis(means, 0, axis)
    return values


# ---- otsu.c ----


def otsu(image: Bytes) -> tuple[Mask, Array]:
    """The mask, and separability, border share, area share, solid share, gap."""
    grey = (image.sum(axis=2, dtype=np.int64) + 1) // 3
    levels = np.arange(256)
    histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
    below, sums = np.cumsum(histogram), np.cumsum(histogram * levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below - sums) ** 2 / (below * (1 - below))
    between = np.where((below > 0) & (below < 1 - 1e-12), between, -1.0)[:-1]
    mask = grey <= int(np.argmax(between))
    width = max(2, min(grey.shape) // 50)
    border = np.ones(grey.shape, np.bool_)
    border[width:-width, width:-width] = False
    if mask[border].mean() > 0.5:
        mask = ~mask
    regions = _regions(mask, 8)
    least = max(4, mask.size // 500)
    solid = sum(len(region) for region in regions if len(region) >= least)
    variance, gap = float(grey.var()), 0.0
    if mask.any() and not mask.all():
        gap = abs(grey[mask].mean() - grey[~mask].mean()) / (grey[~mask].std() + 1)
    facts = [
        max(float(between.max()), 0.0) / variance if variance > 0 else 0.0,
        mask[border].mean(),
        mask.mean(),
        solid / mask.sum() if mask.any() else 0.0,
        gap,
    ]
    return mask, np.array(facts)


# ---- scene.c ----


def _terms(height: int, width: int) -> Array:
    v, u = np.meshgrid(
        (2 * np.arange(height) + 1) / height - 1, (2 * np.arange(width) + 1) / width - 1,
        indexing="ij",
    )  # fmt: skip
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def light(image: Bytes, background: Array | None) -> Array:
    """The smooth gain (H, W) that brings the background to the image, fitted robustly.

    None: an even white one, and the logarithm of the gain has mean 0.
    """
    height, width = image.shape[:2]
    rows, columns = min(height, 64), min(width, 64)
    y = (2 * np.arange(rows) + 1) * height // (2 * rows)
    x = (2 * np.arange(columns) + 1) * width // (2 * columns)
    seen = image[y[:, None], x].mean(axis=2) / 255 + 0.04
    there = 1.0 if background is None else background[y[:, None], x].mean(axis=2) + 0.04
    ratios = np.log(seen / there).ravel()
    terms = _terms(rows, columns).reshape(-1, 6)
    fitted = np.zeros(6)
    fitted[0] = np.median(ratios)
    for _ in range(4):
        errors = ratios - terms @ fitted
        spread = 1.4826 * np.median(np.abs(errors)) + 0.01
        weights = 1 / (1 + (errors / (2 * spread)) ** 2) ** 2
        weighted = terms * weights[:, None]
        fitted = np.linalg.solve(weighted.T @ terms + 1e-3 * np.eye(6), weighted.T @ ratios)
    if background is None:
        fitted[0] = -(fitted[3] + fitted[5]) / 3
    return np.asarray(np.exp(_terms(height, width) @ fitted))


def level_light(image: Bytes) -> Array:
    """The image under even light, values before rounding."""
    return np.clip(255 * _without_light(image, light(image, None)), 0, 255)


def _without_light(image: Bytes, gain: Array) -> Array:
    return np.asarray((image / 255 + 0.04) / gain[..., None] - 0.04)


def scene_background(images: Bytes) -> tuple[Array, Array]:
    """Background (H, W, 3) in [0, 1] and spread (H, W) of a set (N, H, W, 3)."""
    background = np.asarray(np.median(images / 255, axis=0))
    for _ in range(2):
        level = [_without_light(image, light(image, background)) for image in images]
        background = np.asarray(np.median(level, axis=0))
    differences = [_difference(image, background) for image in images]
    return background, np.asarray(1.4826 * np.median(differences, axis=0))


def _difference(image: Bytes, background: Array) -> Array:
    level = _without_light(image, light(image, background))
    return np.asarray(np.abs(level - background).max(axis=2))


def scene_evidence(image: Bytes, background: Array, spread: Array) -> Array:
    """Logarithm of odds (H, W) that a pixel is not the background."""
    score = _difference(image, background) / np.maximum(spread, 0.012)
    return box_mean(np.clip(score - 3, -2, 4), 1)


# ---- words.c ----


def words(image: Bytes) -> NDArray[np.int64]:
    """The word of each pixel (H, W)."""
    scaled = image / 255
    r, g, b = np.moveaxis(box_mean(scaled, 1), -1, 0)
    grey = scaled.mean(axis=2)
    mean = box_mean(grey, 4)
    deviation = np.sqrt(np.maximum(box_mean(grey * grey, 4) - mean * mean, 0))
    total = r + g + b + 0.06
    values = [
        np.sqrt((r + g + b) / 3),
        0.5 + (r - g) / total / 0.5,
        0.5 + (b - (r + g) / 2) / total / 0.5,
        deviation / (mean + 0.04) / 0.6,
    ]
    word = np.zeros(grey.shape, np.int64)
    for value, steps in zip(values, STEPS, strict=True):
        word = word * steps + np.clip(value * steps, 0, steps - 1).astype(np.int64)
    return word


def word_counts(image_words: NDArray[Any], weights: Array | None = None) -> Array:
    """How often each word occurs, shared with the words beside it in each dimension."""
    given = None if weights is None else weights.ravel()
    counts = np.bincount(image_words.ravel(), given, int(np.prod(STEPS))).reshape(STEPS)
    for axis in range(4):
        rows = np.moveaxis(counts, axis, 0)
        before, after = np.r_[rows[:1], rows[:-1]], np.r_[rows[1:], rows[-1:]]
        counts = np.moveaxis((before + 2 * rows + after) / 4, 0, axis)
    return np.asarray(counts.ravel())


def word_evidence(image_words: NDArray[Any], foreground: Array, background: Array) -> Array:
    """Logarithm of odds (H, W), smoothed."""
    odds = np.clip(np.log((foreground + 1e-5) / (background + 1e-5)), -4, 4)
    return box_mean(odds[image_words], 2)


# ---- regions.c ----


def settle(evidence: Array, image: Bytes, offset: float) -> Array:
    """Share of object (H, W): mean field of an Ising model that breaks at edges."""
    pixels = image.astype(np.float64)
    across = ((pixels[:, 1:] - pixels[:, :-1]) ** 2).sum(axis=2)
    down = ((pixels[1:] - pixels[:-1]) ** 2).sum(axis=2)
    mean = (across.sum() + down.sum()) / max(across.size + down.size, 1)
    rate = 1 / (2 * mean + 1e-6 * 255**2)
    across, down = np.exp(-rate * across), np.exp(-rate * down)

    def squash(twice: Array) -> Array:
        z = np.clip(twice / 2, -3, 3)
        return np.asarray(z * (27 + z * z) / (27 + 9 * z * z))

    m = squash(evidence + offset)
    for _ in range(12):
        pull = np.zeros_like(m)
        pull[:, :-1] += across * m[:, 1:]
        pull[:, 1:] += across * m[:, :-1]
        pull[:-1] += down * m[1:]
        pull[1:] += down * m[:-1]
        m = squash(evidence + offset + 2 * pull)
    return 0.5 + 0.5 * m


def tidy(mask: Mask, keep: float) -> Mask:
    """Regions of at least `keep` times the largest one's pixels, their holes filled."""
    regions = _regions(mask, 8)
    largest = max((len(region) for region in regions), default=0)
    kept = np.zeros_like(mask)
    for region in regions:
        if len(region) >= keep * largest:
            kept.flat[region] = True
    height, width = mask.shape
    for region in _regions(~kept, 4):
        y, x = np.divmod(np.array(region), width)
        if y.min() > 0 and x.min() > 0 and y.max() < height - 1 and x.max() < width - 1:
            kept.flat[region] = True
    return kept


def _regions(mask: Mask, neighbours: int) -> list[list[int]]:
    """Flat indices of each connected region."""
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)][:neighbours]
    height, width = mask.shape
    left = mask.copy()
    regions = []
    for start in np.flatnonzero(mask):
        if not left.flat[start]:
            continue
        left.flat[start] = False
        region = [int(start)]
        for pixel in region:  # grows meanwhile
            y, x = divmod(pixel, width)
            for dy, dx in steps:
                row, column = y + dy, x + dx
                if 0 <= row < height and 0 <= column < width and left[row, column]:
                    left[row, column] = False
                    region.append(row * width + column)
        regions.append(region)
    return regions
