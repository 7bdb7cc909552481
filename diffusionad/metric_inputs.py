"""Checks of what the metrics are given, the same for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def numbers(values: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.size == 0:
        raise ValueError(f"{name}: expected a non-empty array, got shape {array.shape}")
    return array


def scores(values: ArrayLike, name: str) -> NDArray[Any]:
    """float32 and float64 as they are, other numbers as float64."""
    array = numbers(values, name)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def labels(values: ArrayLike) -> NDArray[Any]:
    array = numbers(values, "labels")
    if array.dtype == np.bool_:
        return array
    positive = np.asarray(array == 1)
    other = array[~positive & (array != 0)]
    if other.size:
        raise ValueError(f"labels: expected 0 and 1, got {other[0]}")
    return positive


def mask(values: ArrayLike, name: str) -> NDArray[Any]:
    array = numbers(values, name)
    return array if array.dtype in (np.bool_, np.uint8) else np.asarray(array != 0)


def masks_and_maps(masks: ArrayLike, maps: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as (N, H, W)."""
    m, s = mask(masks, "masks"), scores(maps, "maps")
    return (m[None], s[None]) if m.ndim == s.ndim == 2 else (m, s)
