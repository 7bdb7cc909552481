"""Convolutions in float64: what `_core.conv2d` and `_core.conv2d_backward` compute."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _patches(x: Array, kernel: tuple[int, int], stride: int, padding: int) -> Array:
    """Every window of x (N, C, H, W) as (N, C, HO, WO, KH, KW)."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return windows[:, :, ::stride, ::stride]


def conv2d(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None = None,
    stride: int = 1,
    padding: int = 1,
    image_bias: NDArray[Any] | None = None,
    residual: NDArray[Any] | None = None,
) -> Array:
    """Convolution of x (N, C, H, W) with w (O, C, KH, KW), as (N, O, HO, WO).

    y[n, o, i, j] = b[o] + Σ_{c, kh, kw} w[o, c, kh, kw] x[n, c, i·s + kh − p, j·s + kw − p],
    plus image_bias (N, O) and residual (N, O, HO, WO) where given.
    """
    patches = _patches(x.astype(np.float64), w.shape[2:], stride, padding)
    y = np.einsum("ncijkl,ockl->noij", patches, w.astype(np.float64), optimize=True)
    if b is not None:
        y = y + b[:, None, None]
    if image_bias is not None:
        y = y + image_bias[:, :, None, None]
    if residual is not None:
        y = y + residual
    return np.asarray(y)


def conv2d_backward(
    dy: NDArray[Any],
    x: NDArray[Any],
    w: NDArray[Any],
    stride: int = 1,
    padding: int = 1,
) -> tuple[Array, Array, Array]:
    """Gradients (dx, dw, db) of `conv2d` from dy (N, O, HO, WO)."""
    dy, x, w = (a.astype(np.float64) for a in (dy, x, w))
    batch, channels, height, width = x.shape
    kernel_height, kernel_width = w.shape[2:]
    patches = _patches(x, (kernel_height, kernel_width), stride, padding)
    dw = np.einsum("noij,ncijkl->ockl", dy, patches, optimize=True)

    padded = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding))
    for kh in range(kernel_height):
        for kw in range(kernel_width):
            rows = slice(kh, kh + stride * dy.shape[2], stride)
            columns = slice(kw, kw + stride * dy.shape[3], stride)
            padded[:, :, rows, columns] += np.einsum("noij,oc->ncij", dy, w[:, :, kh, kw])
    dx = padded[:, :, padding : padding + height, padding : padding + width]
    return dx, dw, dy.sum(axis=(0, 2, 3))
