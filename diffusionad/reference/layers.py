"""Layers, losses and the optimizer in float64: every function named as its `_core` counterpart.

Maps are NCHW. Backward functions return exact derivatives, written out rather than traced.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ArrayLike = npt.NDArray[Any]
Activation = Literal["none", "silu", "relu"]


def _wide(*arrays: ArrayLike) -> tuple[Array, ...]:
    return tuple(np.asarray(a, dtype=np.float64) for a in arrays)


# ---- activations ------------------------------------------------------------------------------


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    (x,) = _wide(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def sigmoid_backward(dy: ArrayLike, y: ArrayLike) -> Array:
    """Gradient by the input, from the output y: dy y (1 - y)."""
    dy, y = _wide(dy, y)
    return dy * y * (1.0 - y)


def silu(x: ArrayLike) -> Array:
    """x sigmoid(x)."""
    (x,) = _wide(x)
    return x * sigmoid(x)


def silu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """With s = sigmoid(x): dy s (1 + x (1 - s))."""
    dy, x = _wide(dy, x)
    s = sigmoid(x)
    return dy * s * (1.0 + x * (1.0 - s))


def relu(x: ArrayLike) -> Array:
    """max(x, 0)."""
    (x,) = _wide(x)
    y: Array = np.maximum(x, 0.0)
    return y


def relu_backward(dy: ArrayLike, y: ArrayLike) -> Array:
    """Gradient by the input, from the output y: dy where y > 0."""
    dy, y = _wide(dy, y)
    dx: Array = np.where(y > 0.0, dy, 0.0)
    return dx


def _activate(z: Array, activation: Activation) -> Array:
    if activation == "none":
        return z
    return silu(z) if activation == "silu" else relu(z)


def _activate_backward(dy: Array, z: Array, activation: Activation) -> Array:
    if activation == "none":
        return dy
    return silu_backward(dy, z) if activation == "silu" else relu_backward(dy, relu(z))


# ---- normalisation ----------------------------------------------------------------------------


def _standardise(x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
    """(x - mean) / sqrt(var + eps) over axes, and 1 / sqrt(var + eps)."""
    rstd = 1.0 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    return (x - x.mean(axis=axes, keepdims=True)) * rstd, rstd


def _standardise_backward(dxhat: Array, xhat: Array, rstd: Array, axes: tuple[int, ...]) -> Array:
    mean = dxhat.mean(axis=axes, keepdims=True)
    projection = (dxhat * xhat).mean(axis=axes, keepdims=True)
    dx: Array = rstd * (dxhat - mean - xhat * projection)
    return dx


def _per_channel(vector: Array) -> Array:
    return vector[:, None, None]


def group_norm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    groups: int = 32,
    eps: float = 1e-5,
    activation: Activation = "none",
) -> Array:
    """GroupNorm of x [N, C, H, W] with weight and bias [C], then the activation."""
    x, weight, bias = _wide(x, weight, bias)
    grouped = x.reshape(x.shape[0], groups, -1)
    xhat = _standardise(grouped, (2,), eps)[0].reshape(x.shape)
    return _activate(xhat * _per_channel(weight) + _per_channel(bias), activation)


def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    groups: int = 32,
    eps: float = 1e-5,
    activation: Activation = "none",
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of group_norm."""
    dy, x, weight, bias = _wide(dy, x, weight, bias)
    grouped = (x.shape[0], groups, -1)
    xhat, rstd = _standardise(x.reshape(grouped), (2,), eps)
    flat = xhat.reshape(x.shape)
    g = _activate_backward(dy, flat * _per_channel(weight) + _per_channel(bias), activation)
    dx = _standardise_backward((g * _per_channel(weight)).reshape(grouped), xhat, rstd, (2,))
    return dx.reshape(x.shape), (g * flat).sum(axis=(0, 2, 3)), g.sum(axis=(0, 2, 3))


def batch_norm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    running_mean: ArrayLike,
    running_var: ArrayLike,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation = "none",
) -> Array | tuple[Array, Array, Array]:
    """BatchNorm of x [N, C, H, W], then the activation; in training (y, new mean, new var).

    The running variance is the unbiased one.
    """
    x, weight, bias, mean, var = _wide(x, weight, bias, running_mean, running_var)
    if not training:
        xhat = (x - _per_channel(mean)) / np.sqrt(_per_channel(var) + eps)
        return _activate(xhat * _per_channel(weight) + _per_channel(bias), activation)
    xhat, _ = _standardise(x, (0, 2, 3), eps)
    y = _activate(xhat * _per_channel(weight) + _per_channel(bias), activation)
    keep = 1.0 - momentum
    new_mean = keep * mean + momentum * x.mean(axis=(0, 2, 3))
    return y, new_mean, keep * var + momentum * x.var(axis=(0, 2, 3), ddof=1)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    eps: float = 1e-5,
    activation: Activation = "none",
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of batch_norm in training."""
    dy, x, weight, bias = _wide(dy, x, weight, bias)
    axes = (0, 2, 3)
    xhat, rstd = _standardise(x, axes, eps)
    g = _activate_backward(dy, xhat * _per_channel(weight) + _per_channel(bias), activation)
    dx = _standardise_backward(g * _per_channel(weight), xhat, rstd, axes)
    return dx, (g * xhat).sum(axis=axes), g.sum(axis=axes)


# ---- attention, linear, time embedding --------------------------------------------------------


def _softmax(scores: Array) -> Array:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p: Array = e / e.sum(axis=-1, keepdims=True)
    return p


def _split_heads(qkv: Array, heads: int) -> tuple[Array, Array, Array]:
    """q, k, v [N, heads, T, D] of qkv [N, heads * 3 * D, H, W]."""
    n, channels, height, width = qkv.shape
    parts = qkv.reshape(n, heads, 3, channels // (3 * heads), height * width)
    q, k, v = np.moveaxis(parts, 2, 0).swapaxes(-1, -2)
    return q, k, v


def attention(qkv: ArrayLike, heads: int) -> Array:
    """softmax(q kᵀ / √D) v over all positions; channels are grouped per head as [q, k, v]."""
    (qkv,) = _wide(qkv)
    q, k, v = _split_heads(qkv, heads)
    p = _softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
    n, channels, height, width = qkv.shape
    return (p @ v).swapaxes(-1, -2).reshape(n, channels // 3, height, width)


def attention_backward(dy: ArrayLike, qkv: ArrayLike, heads: int) -> Array:
    """Gradient of attention by qkv."""
    dy, qkv = _wide(dy, qkv)
    q, k, v = _split_heads(qkv, heads)
    root = math.sqrt(q.shape[-1])
    p = _softmax(q @ k.swapaxes(-1, -2) / root)
    out = dy.reshape(*q.shape[:2], q.shape[-1], q.shape[-2]).swapaxes(-1, -2)
    dp = out @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / root
    parts = np.stack([ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ out], axis=2)
    return parts.swapaxes(-1, -2).reshape(qkv.shape)


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """x [N, C] times weight [O, C] transposed, plus bias [O]."""
    x, weight = _wide(x, weight)
    y: Array = x @ weight.T
    return y if bias is None else y + np.asarray(bias, dtype=np.float64)


def linear_backward(dy: ArrayLike, x: ArrayLike, weight: ArrayLike) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of linear."""
    dy, x, weight = _wide(dy, x, weight)
    return dy @ weight, dy.T @ x, dy.sum(axis=0)


def time_embedding(t: ArrayLike, dim: int) -> Array:
    """[sin, cos](t exp(-ln(10000) k / (dim / 2))), k = 0 .. dim / 2 - 1, of t [N]."""
    (t,) = _wide(t)
    half = dim // 2
    angles = t[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


# ---- maps -------------------------------------------------------------------------------------


def upsample_nearest(x: ArrayLike) -> Array:
    """Each pixel of x [N, C, H, W] as 2x2 pixels."""
    (x,) = _wide(x)
    return x.repeat(2, axis=2).repeat(2, axis=3)


def _windows(x: Array) -> Array:
    """The 2x2 windows of x [N, C, H, W] as [N, C, H/2, W/2, 4]; an odd last line is left out."""
    n, c, height, width = x.shape
    cut = x[:, :, : height // 2 * 2, : width // 2 * 2]
    blocks = cut.reshape(n, c, height // 2, 2, width // 2, 2)
    return blocks.swapaxes(3, 4).reshape(n, c, height // 2, width // 2, 4)


def _from_windows(windows: Array, height: int, width: int) -> Array:
    n, c, h, w, _ = windows.shape
    x = np.zeros((n, c, height, width))
    blocks = windows.reshape(n, c, h, w, 2, 2).swapaxes(3, 4)
    x[:, :, : 2 * h, : 2 * w] = blocks.reshape(n, c, 2 * h, 2 * w)
    return x


def upsample_nearest_backward(dy: ArrayLike) -> Array:
    """Gradient of upsample_nearest: the sum of each window."""
    (dy,) = _wide(dy)
    result: Array = _windows(dy).sum(axis=-1)
    return result


def _interpolation(size: int) -> Array:
    """[2 size, size]: output i reads the input at i (size - 1) / (2 size - 1)."""
    position = np.arange(2 * size) * (size - 1) / (2 * size - 1)
    result: Array = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size)))
    return result


def upsample_bilinear(x: ArrayLike) -> Array:
    """x [N, C, H, W] at twice the size, corners aligned."""
    (x,) = _wide(x)
    return _interpolation(x.shape[2]) @ x @ _interpolation(x.shape[3]).T


def upsample_bilinear_backward(dy: ArrayLike) -> Array:
    """Gradient of upsample_bilinear."""
    (dy,) = _wide(dy)
    return _interpolation(dy.shape[2] // 2).T @ dy @ _interpolation(dy.shape[3] // 2)


def avg_pool(x: ArrayLike) -> Array:
    """Means of 2x2 windows, stride 2."""
    (x,) = _wide(x)
    result: Array = _windows(x).mean(axis=-1)
    return result


def avg_pool_backward(dy: ArrayLike, height: int, width: int) -> Array:
    """Gradient of avg_pool by an input [N, C, height, width]."""
    (dy,) = _wide(dy)
    return _from_windows(np.repeat(dy[..., None] / 4.0, 4, axis=-1), height, width)


def max_pool(x: ArrayLike) -> Array:
    """Maxima of 2x2 windows, stride 2."""
    (x,) = _wide(x)
    result: Array = _windows(x).max(axis=-1)
    return result


def max_pool_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """Gradient of max_pool: to the first maximum of each window, row by row."""
    dy, x = _wide(dy, x)
    first = np.eye(4)[_windows(x).argmax(axis=-1)]
    return _from_windows(first * dy[..., None], x.shape[2], x.shape[3])


# ---- losses: (value, gradient by the prediction) ----------------------------------------------


def squared_error(
    a: ArrayLike, b: ArrayLike, weight: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Mean of (a - b)² per image, and the gradient by a of their sum weighted by weight [N]."""
    a, b = _wide(a, b)
    d = a - b
    w = np.ones(len(a)) if weight is None else np.asarray(weight, dtype=np.float64)
    per_image = (d * d).reshape(len(a), -1).mean(axis=1)
    scale = 2.0 * w / (d.size / len(a))
    return per_image, d * scale.reshape(-1, *[1] * (d.ndim - 1))


def _cross_entropy(p: Array, t: Array) -> tuple[Array, Array]:
    """Elements of bce_loss, and their derivatives as torch.nn.functional has them."""
    with np.errstate(divide="ignore"):
        positive, negative = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    loss = -(t * positive + (1.0 - t) * negative)
    return loss, (p - t) / np.maximum((1.0 - p) * p, 1e-12)


def bce_loss(pred: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean of -(t log p + (1 - t) log(1 - p)), logarithms clamped at -100."""
    p, t = _wide(pred, target)
    loss, derivative = _cross_entropy(p, t)
    return float(loss.mean()), derivative / p.size


def focal_loss(pred: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean of 0.5 (1 - exp(-BCE))⁴ BCE."""
    p, t = _wide(pred, target)
    b, derivative = _cross_entropy(p, t)
    rest = -np.expm1(-b)
    by_b = 0.5 * (rest**4 + 4.0 * rest**3 * np.exp(-b) * b)
    return float((0.5 * rest**4 * b).mean()), by_b * derivative / p.size


def smooth_l1_loss(pred: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """Mean of d² / 2 where |d| < 1, else |d| - 1/2."""
    p, t = _wide(pred, target)
    d = p - t
    loss = np.where(np.abs(d) < 1.0, 0.5 * d * d, np.abs(d) - 0.5)
    return float(loss.mean()), np.clip(d, -1.0, 1.0) / p.size


def dice_loss(pred: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """1 - (2 Σ p t + 1) / (Σ p + Σ t + 1)."""
    p, t = _wide(pred, target)
    a, b = 2.0 * (p * t).sum() + 1.0, p.sum() + t.sum() + 1.0
    return float(1.0 - a / b), a / b**2 - 2.0 * t / b


# ---- optimizer --------------------------------------------------------------------------------


def adam(
    w: ArrayLike,
    m: ArrayLike,
    v: ArrayLike,
    dw: ArrayLike,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Update number `step` (from 1) of Adam, weight decay decoupled; the new (w, m, v)."""
    w, m, v, dw = _wide(w, m, v, dw)
    w = w * (1.0 - lr * weight_decay)
    m = beta1 * m + (1.0 - beta1) * dw
    v = beta2 * v + (1.0 - beta2) * dw**2
    denominator = np.sqrt(v) / math.sqrt(1.0 - beta2**step) + eps
    return w - lr / (1.0 - beta1**step) * m / denominator, m, v


def moving_average(average: ArrayLike, w: ArrayLike, decay: float) -> Array:
    """decay average + (1 - decay) w."""
    average, w = _wide(average, w)
    return decay * average + (1.0 - decay) * w
