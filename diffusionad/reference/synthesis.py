"""Twins of csrc/pipeline: resizing, Perlin noise, augmenters, blending.

Textures and the random draws have none: they are whatever the seed makes them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def _taps(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    position = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    position = np.clip(position, 0, size_in - 1)
    first = np.floor(position).astype(np.intp)
    return first, np.minimum(first + 1, size_in - 1), position - first


def resize(image: Array, height: int, width: int) -> Array:
    """Bilinear over the first two dimensions, half-pixel centres, held at the borders."""
    first, second, t = _taps(image.shape[0], height)
    t = t.reshape(-1, *[1] * (image.ndim - 1))
    rows = image[first] * (1 - t) + image[second] * t
    first, second, t = _taps(image.shape[1], width)
    t = t.reshape(-1, *[1] * (image.ndim - 2))
    return np.asarray(rows[:, first] * (1 - t) + rows[:, second] * t)


def perlin_noise(angles: Array, height: int, width: int) -> Array:
    """Gradient noise: the corners' gradients times the offsets to them, blended, times √2."""

    def place(size: int, cells: int) -> tuple[NDArray[np.intp], Array, Array]:
        cell, offset = np.divmod(np.arange(size) * cells, size)
        u = offset / size
        return cell, u, 6 * u**5 - 15 * u**4 + 10 * u**3

    row, u, fade_u = (a[:, None] for a in place(height, angles.shape[0] - 1))
    column, v, fade_v = (a[None, :] for a in place(width, angles.shape[1] - 1))

    def corner(i: int, j: int) -> Array:
        angle = angles[row + i, column + j]
        return np.asarray(np.cos(angle) * (u - i) + np.sin(angle) * (v - j))

    left = corner(0, 0) + fade_u * (corner(1, 0) - corner(0, 0))
    right = corner(0, 1) + fade_u * (corner(1, 1) - corner(0, 1))
    return np.asarray(np.sqrt(2) * (left + fade_v * (right - left)))


def blend(image: Array, mask: Array, appearance: Array, beta: float) -> Array:
    """The sample; the mask broadcasts over the channels."""
    return image * (1 - mask) + (1 - beta) * appearance * mask + beta * image * mask


# ---- augmenters: uint8 (H, W, 3) and parameters -> float64 values before rounding ----


def _gamma(image: Array, *exponents: float) -> Array:
    return np.asarray(255 * (image / 255) ** np.array(exponents))


def _brightness(image: Array, factor: float, shift: float, shift_first: float) -> Array:
    luma: Array = image @ np.array([0.299, 0.587, 0.114])
    wanted = (luma + shift) * factor if shift_first else luma * factor + shift
    return np.asarray(image + (np.clip(wanted, 0, 255) - luma)[..., None])


def _sharpness(image: Array, factor: float) -> Array:
    height, width = image.shape[:2]
    result = image.copy()
    if height < 3 or width < 3:
        return result
    total = 4 * image[1:-1, 1:-1]
    for i in range(3):
        for j in range(3):
            total = total + image[i : i + height - 2, j : j + width - 2]
    smooth = np.floor(total / 13 + 0.5)
    result[1:-1, 1:-1] = smooth + factor * (image[1:-1, 1:-1] - smooth)
    return np.floor(np.clip(result, 0, 255))


def _hue_saturation(image: Array, turn: float, add: float) -> Array:
    r, g, b = np.moveaxis(image, -1, 0)
    most, span = image.max(-1), np.ptp(image, axis=-1)
    safe = np.where(span > 0, span, 1)
    hue = np.where(
        most == r, (g - b) / safe, np.where(most == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    hue = np.where(span > 0, hue, 0) + turn / 255 * 6
    saturation = np.clip(span / np.where(most > 0, most, 1) + add / 255, 0, 1)

    def channel(n: int) -> Array:
        k = (hue + n) % 6
        return np.asarray(most - most * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))

    return np.stack([channel(5), channel(3), channel(1)], axis=-1)


def _solarize(image: Array, threshold: float) -> Array:
    return np.where(image >= threshold, 255 - image, image)


def _posterize(image: Array, bits: float) -> Array:
    step = 256 // 2 ** int(bits)
    return np.asarray(image // step * step + step // 2)


def _autocontrast(image: Array, cutoff: float) -> Array:
    result = image.copy()
    for c in range(3):
        values = np.sort(image[..., c], axis=None)
        cut = int(values.size * cutoff / 100)
        low, high = values[min(cut, values.size - 1)], values[max(values.size - 1 - cut, 0)]
        if high > low:
            stretched = (image[..., c] - low) * 255 / (high - low)
            result[..., c] = np.floor(np.clip(stretched, 0, 255) + 1e-9)
    return result


def _equalize(image: Array) -> Array:
    result = image.copy()
    for c in range(3):
        counts = np.bincount(image[..., c].astype(np.intp).ravel(), minlength=256)
        step = (counts.sum() - counts[np.nonzero(counts)[0][-1]]) // 255
        if step > 0:
            below = np.cumsum(counts) - counts
            table = np.minimum((step // 2 + below) // step, 255)
            result[..., c] = table[image[..., c].astype(np.intp)]
    return result


def _rotation(image: Array, degrees: float) -> Array:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    cy, cx = (height - 1) / 2, (width - 1) / 2
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    from_y, from_x = cy - s * (x - cx) + c * (y - cy), cx + c * (x - cx) + s * (y - cy)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    from_y, from_x = np.clip(from_y + 1, 0, height + 1), np.clip(from_x + 1, 0, width + 1)
    i = np.minimum(np.floor(from_y).astype(np.intp), height)
    j = np.minimum(np.floor(from_x).astype(np.intp), width)
    u, v = (from_y - i)[..., None], (from_x - j)[..., None]
    upper = padded[i, j] * (1 - v) + padded[i, j + 1] * v
    lower = padded[i + 1, j] * (1 - v) + padded[i + 1, j + 1] * v
    return np.asarray(upper * (1 - u) + lower * u)


_AUGMENTERS: dict[str, Callable[..., Array]] = {
    "gamma": _gamma,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "hue_saturation": _hue_saturation,
    "solarize": _solarize,
    "posterize": _posterize,
    "invert": lambda image: 255 - image,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotation": _rotation,
}


def augment(image: Bytes, name: str, parameters: tuple[float, ...]) -> Bytes:
    """One of the ten augmenters on uint8 (H, W, 3), rounded to the nearest level."""
    changed = _AUGMENTERS[name](image.astype(np.float64), *parameters)
    return np.clip(np.floor(changed + 0.5), 0, 255).astype(np.uint8)
