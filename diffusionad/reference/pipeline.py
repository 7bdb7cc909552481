"""Twins of csrc/pipeline: schedule, diffusion, norm guidance."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]


def schedule(kind: str, timesteps: int) -> dict[str, Array]:
    """The ten float64 tables of a noise schedule."""
    if kind == "linear":
        betas = np.linspace(0.1 / timesteps, 20.0 / timesteps, timesteps)
    else:
        s = np.arange(timesteps + 1) / timesteps
        signal = np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    abar = np.cumprod(1 - betas)
    abar_prev = np.append(1.0, abar[:-1])
    variance = betas * (1 - abar_prev) / (1 - abar)
    return {
        "betas": betas,
        "alphas_cumprod": abar,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.append(variance[1], variance[1:])),
        "posterior_mean_coef1": betas * np.sqrt(abar_prev) / (1 - abar),
        "posterior_mean_coef2": (1 - abar_prev) * np.sqrt(1 - betas) / (1 - abar),
    }


def _per_image(levels: Array, images: Array) -> Array:
    return np.asarray(levels, np.float64).reshape(-1, *[1] * (images.ndim - 1))


def q_sample(x0: Array, noise: Array, abar: Array) -> Array:
    """The forward process: signal scaled by √ᾱ, noise by √(1 − ᾱ)."""
    a = _per_image(abar, x0)
    return np.sqrt(a) * x0 + np.sqrt(1 - a) * noise


def predict_x0(x_t: Array, eps: Array, abar: Array, clip: bool = False) -> Array:
    """One-step denoising (paper, eq. 6)."""
    a = _per_image(abar, x_t)
    x0 = x_t / np.sqrt(a) - np.sqrt(1 / a - 1) * eps
    return np.clip(x0, -1, 1) if clip else x0


def ancestral_step(
    x_t: Array,
    eps: Array,
    noise: Array | None,
    abar: Array,
    abar_prev: Array,
    beta: Array,
    variance: Array,
) -> Array:
    """One step of iterative denoising: the posterior's mean, and noise of the given variance."""
    x0 = predict_x0(x_t, eps, abar, clip=True)
    a, p, b, v = (_per_image(level, x_t) for level in (abar, abar_prev, beta, variance))
    mean = b * np.sqrt(p) / (1 - a) * x0 + (1 - p) * np.sqrt(1 - b) / (1 - a) * x_t
    return mean if noise is None else mean + np.sqrt(v) * noise


def guide(
    x_s: Array, x_b: Array, eps_s: Array, eps_b: Array, abar_s: Array, abar_b: Array, w: float = 1.0
) -> dict[str, Array]:
    """Norm-guided one-step denoising and everything on the way."""
    x0_b = predict_x0(x_b, eps_b, abar_b, clip=True)
    x_s_from_b = q_sample(x0_b, eps_s, abar_s)
    eps_hat = eps_s - np.sqrt(1 - _per_image(abar_s, x_s)) * w * (x_s_from_b - x_s)
    return {
        "x0_hat": predict_x0(x_s, eps_hat, abar_s, clip=True),
        "x0_s": predict_x0(x_s, eps_s, abar_s, clip=True),
        "x0_b": x0_b,
        "x_s_from_b": x_s_from_b,
        "eps_hat": eps_hat,
    }


def guide_backward(
    dx0_hat: Array,
    x_s: Array,
    x_b: Array,
    eps_s: Array,
    eps_b: Array,
    abar_s: Array,
    abar_b: Array,
    w: float = 1.0,
) -> tuple[Array, Array]:
    """Gradients of eps_s and eps_b: a clip passes the gradient where it changes nothing."""
    s, b = _per_image(abar_s, x_s), _per_image(abar_b, x_b)
    eps_hat = guide(x_s, x_b, eps_s, eps_b, abar_s, abar_b, w)["eps_hat"]
    inside_hat = np.abs(predict_x0(x_s, eps_hat, abar_s)) <= 1
    inside_b = np.abs(predict_x0(x_b, eps_b, abar_b)) <= 1
    d_eps_hat = -np.sqrt(1 / s - 1) * dx0_hat * inside_hat
    d_x_s_from_b = -np.sqrt(1 - s) * w * d_eps_hat
    d_eps_s = d_eps_hat + np.sqrt(1 - s) * d_x_s_from_b
    d_eps_b = -np.sqrt(1 / b - 1) * np.sqrt(s) * d_x_s_from_b * inside_b
    return d_eps_s, d_eps_b


def departures(maps: Array, images: Array, repairs: Array) -> Array:
    """Log odds of maps (N, H, W), and mean |image - repair| over channels: (N, 2, H, W)."""
    odds = np.log((maps + 1e-4) / (1.0 - maps + 1e-4))
    return np.stack([odds, np.abs(images - repairs).mean(axis=1)], axis=1)


def relate_errors(departures: Array, radius: int) -> Array:
    """Each error the mean over the square around it, as far as the image goes, in multiples of
    the image's mean."""
    odds, errors = departures[:, 0], departures[:, 1]
    pad = [(0, 0), (radius, radius), (radius, radius)]
    window = (2 * radius + 1, 2 * radius + 1)
    sums, counts = (
        sliding_window_view(np.pad(values, pad), window, axis=(1, 2)).sum(axis=(3, 4))
        for values in (errors, np.ones_like(errors))
    )
    means = errors.mean(axis=(1, 2), keepdims=True)
    related = np.divide(sums / counts, means, out=np.zeros_like(errors), where=means > 0)
    return np.stack([odds, related], axis=1)


def standardise(departures: Array, mean: Array, deviation: Array) -> Array:
    """Maps (N, H, W) from departures (N, 2, H, W), by those of good images: (2, H, W) for each
    pixel, (2, 1, 1) for all together."""
    weights = np.array([1.0, 0.5 if mean.shape[1:] == (1, 1) else 1.0])[:, None, None]
    floors = np.array([0.5, 0.01])[:, None, None]
    z = (weights * (departures - mean) / (deviation + floors)).sum(axis=1)
    u: Array = (z - 4.0) / 4.0
    return 0.5 * (1.0 + u / np.sqrt(1.0 + u * u))
