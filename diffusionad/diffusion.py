"""The noise schedule: how much of an image is left at step t (paper, section 3.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusionad import _core

__all__ = ["Schedule", "check_steps"]

Floats = NDArray[np.float32]
Table = NDArray[np.float64]


def check_steps(
    t: ArrayLike, images: int, timesteps: int | None = None, name: str = "t"
) -> NDArray[np.intp]:
    """One step per image, (images,), from an int or (images,) ints.

    Raises:
        TypeError: t holds no integers.
        ValueError: t has another length, or a step below 0 or not below ``timesteps``.
    """
    steps = np.asarray(t)
    if not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"{name}: expected an int or an array of ints, got {steps.dtype}")
    if steps.shape not in ((), (images,)):
        raise ValueError(f"{name}: expected an int or shape ({images},), got shape {steps.shape}")
    if steps.size and steps.min() < 0:
        raise ValueError(f"{name}: expected steps from 0 up, got {steps.min()}")
    if steps.size and timesteps is not None and steps.max() >= timesteps:
        raise ValueError(f"{name}: expected steps from 0 to {timesteps - 1}, got {steps.max()}")
    return np.broadcast_to(steps.astype(np.intp), (images,))


class Schedule:
    """A noise schedule: float64 tables over the steps 0 .. timesteps − 1, and their use on images.

    Images are float32 with the image count as first dimension; ``t`` is an int, or one per image.
    A table is float64 (timesteps,) and read-only: ``betas`` (β), ``alphas_cumprod`` (ᾱ), roots of
    ᾱ, 1 − ᾱ, 1/ᾱ and 1/ᾱ − 1, and the variance and coefficients of iterative denoising.

    >>> schedule = Schedule("linear", timesteps=1000)
    >>> float(schedule.alphas_cumprod[0])
    0.9999

    Raises:
        ValueError: an unknown kind, or too few steps for betas below 1 (linear: 21; cosine: 2).
    """

    betas: Table
    alphas_cumprod: Table
    sqrt_alphas_cumprod: Table
    sqrt_one_minus_alphas_cumprod: Table
    sqrt_recip_alphas_cumprod: Table
    sqrt_recipm1_alphas_cumprod: Table
    posterior_variance: Table
    posterior_log_variance_clipped: Table
    posterior_mean_coef1: Table
    posterior_mean_coef2: Table

    def __init__(self, kind: str = "linear", timesteps: int = 1000) -> None:
        for name, table in _core.schedule(kind, timesteps).items():
            table.flags.writeable = False
            setattr(self, name, table)
        self._kind = kind
        self._timesteps = timesteps

    @property
    def kind(self) -> str:
        """``"linear"`` or ``"cosine"``."""
        return self._kind

    @property
    def timesteps(self) -> int:
        """Length of the schedule; steps count from 0 to timesteps − 1."""
        return self._timesteps

    def __repr__(self) -> str:
        return f"Schedule({self.kind!r}, timesteps={self.timesteps})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return (self.kind, self.timesteps) == (other.kind, other.timesteps)

    def __hash__(self) -> int:
        return hash((self.kind, self.timesteps))

    def alphas_cumprod_at(self, t: ArrayLike, images: int, name: str = "t") -> Table:
        """ᾱ of each image's step, (images,); errors name ``name``."""
        return self.alphas_cumprod[check_steps(t, images, self.timesteps, name)]

    def q_sample(self, x0: Floats, t: ArrayLike, noise: Floats) -> Floats:
        """The forward process, √ᾱ_t·x0 + √(1 − ᾱ_t)·noise; the shape of x0 (paper, eq. 2).

        >>> x0, noise = np.full((1, 1, 2, 2), 0.5, np.float32), np.zeros((1, 1, 2, 2), np.float32)
        >>> x_t = Schedule().q_sample(x0, 200, noise)
        >>> round(float(x_t[0, 0, 0, 0]), 4)
        0.4051
        """
        return _core.q_sample(x0, noise, self.alphas_cumprod_at(t, len(x0)))

    def predict_x0(self, x_t: Floats, t: ArrayLike, eps: Floats) -> Floats:
        """One-step denoising, x_t/√ᾱ_t − √(1/ᾱ_t − 1)·eps, not clipped (paper, eq. 6).

        >>> rng = np.random.default_rng(0)
        >>> x0, noise = rng.random((2, 1, 3, 3, 4), dtype=np.float32)
        >>> s = Schedule()
        >>> np.allclose(s.predict_x0(s.q_sample(x0, 200, noise), 200, noise), x0, atol=1e-6)
        True
        """
        return _core.predict_x0(x_t, eps, self.alphas_cumprod_at(t, len(x_t)))

    def ancestral_step(
        self, x_t: Floats, t: ArrayLike, eps: Floats, noise: Floats | None
    ) -> Floats:
        """x_{t−1} of iterative denoising, with the fixed variance β_t; at t = 0 without noise."""
        steps = check_steps(t, len(x_t), self.timesteps)
        first = steps == 0
        abar_prev = np.where(first, 1.0, self.alphas_cumprod[steps - 1])
        variance = np.where(first, 0.0, self.betas[steps])
        return _core.ancestral_step(
            x_t, eps, noise, self.alphas_cumprod[steps], abar_prev, self.betas[steps], variance
        )
