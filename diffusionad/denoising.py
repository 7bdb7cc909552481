"""Repairing an image by denoising: one step, many steps, or one step guided by a noisier repair.

And, to compare, by an autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import _core
from .diffusion import Floats, Schedule, check_steps
from .models import UNet
from .seeds import Seed

Steps = npt.NDArray[np.intp]

MODES = ("norm_guided", "one_step", "iterative")


@dataclass(frozen=True)
class Repair:
    """A repaired batch and what led to it, each (N, C, H, W); None where the mode has none.

    ``x0`` is the repair; ``x_s`` and ``x_b`` are the image noised to ``t_s`` and ``t_b``; ``x0_s``
    and ``x0_b`` their one-step repairs; ``x_s_from_b`` is ``x0_b`` noised again to ``t_s``.
    """

    x0: Floats
    x_s: Floats
    x0_s: Floats | None = None
    x_b: Floats | None = None
    x0_b: Floats | None = None
    x_s_from_b: Floats | None = None


def evaluation_noise(shape: tuple[int, ...], seed: Seed, count: int = 2) -> list[Floats]:
    """The noise images of ``seed``, each ``shape`` (C, H, W): the same for every image."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def denoise(
    unet: UNet,
    x0: Floats,
    mode: str = "norm_guided",
    t_s: npt.ArrayLike = 200,
    t_b: npt.ArrayLike = 400,
    w: float = 1.0,
    noise: Sequence[Floats] | None = None,
    schedule: Schedule | None = None,
    seed: Seed = 0,
) -> Repair:
    """Repair images ``x0`` (N, C, H, W) in [0, 1].

    ``"norm_guided"`` denoises from ``t_s`` in one step, guided with weight ``w`` by the coarse
    repair from ``t_b`` (paper, section 3.3); ``noise=(eps_s, eps_b)``. ``"one_step"`` does
    without the guidance (paper, eq. 6); ``noise=(eps_s,)``. ``"iterative"`` takes ``t_s``
    ancestral steps (DDPM); ``noise=(first, per_step)`` with ``per_step`` (t_s, N, C, H, W), used
    in order.

    ``t_s`` and ``t_b`` are ints, or (N,) ints. Without ``noise``, the noise images of ``seed`` are
    used, the same for every image. Raises ValueError for an unknown mode, steps outside the
    schedule, or noise of another shape than ``x0``.

    >>> unet = UNet(image_size=32, base_channels=32, channel_mults=(1,), num_res_blocks=1)
    >>> repair = denoise(unet, np.full((1, 3, 32, 32), 0.5, np.float32))
    >>> repair.x0.shape, repair.x_s_from_b is not None
    ((1, 3, 32, 32), True)
    """
    schedule = schedule or Schedule("linear")
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if mode == "iterative":
        return _iterative(unet, x0, t_s, noise, schedule, seed)
    eps = _noise_like(x0, noise, 2 if mode == "norm_guided" else 1, seed)
    t_s = check_steps(t_s, len(x0), schedule.timesteps, "t_s")
    abar_s = schedule.alphas_cumprod[t_s]
    x_s = _core.q_sample(x0, eps[0], abar_s)
    if mode == "one_step":
        repaired = _core.predict_x0(x_s, unet(x_s, t_s), abar_s, clip=True)
        return Repair(x0=repaired, x_s=x_s, x0_s=repaired)
    t_b = check_steps(t_b, len(x0), schedule.timesteps, "t_b")
    abar_b = schedule.alphas_cumprod[t_b]
    x_b = _core.q_sample(x0, eps[1], abar_b)
    e_s, e_b = predict_both(unet, x_s, x_b, t_s, t_b)
    guided = _core.guide(x_s, x_b, e_s, e_b, abar_s, abar_b, w)
    return Repair(
        x0=guided["x0_hat"],
        x_s=x_s,
        x0_s=guided["x0_s"],
        x_b=x_b,
        x0_b=guided["x0_b"],
        x_s_from_b=guided["x_s_from_b"],
    )


def autoencode(unet: UNet, x0: Floats) -> Repair:
    """Repair by the ablation's autoencoder: the UNet's output for the image itself, no noise.

    The time step is always 0, so that the time embedding is one more learnt constant.
    """
    repaired = unet(x0, 0)
    return Repair(x0=repaired, x_s=x0, x0_s=repaired)


def predict_both(
    unet: UNet, x_s: Floats, x_b: Floats, t_s: Steps, t_b: Steps
) -> tuple[Floats, Floats]:
    """Noise predicted at both scales: the two passes are one batch of 2N."""
    count = len(x_s)
    eps = unet(np.concatenate([x_s, x_b]), np.concatenate([t_s, t_b]))
    return eps[:count], eps[count:]


def _iterative(
    unet: UNet,
    x0: Floats,
    t_s: npt.ArrayLike,
    noise: Sequence[Floats] | None,
    schedule: Schedule,
    seed: Seed,
) -> Repair:
    steps = np.asarray(t_s)
    if steps.ndim or steps.dtype.kind not in "iu" or not 1 <= steps <= schedule.timesteps:
        raise ValueError(f"t_s: expected an int from 1 to {schedule.timesteps}, got {t_s!r}")
    count = int(steps)
    if noise is None:
        shape = x0.shape[1:]
        drawn = evaluation_noise(shape, seed, count + 1)
        first, per_step = drawn[0], np.stack(drawn[1:])[:, None]
    else:
        first, per_step = noise
    per_step = np.asarray(per_step)
    if len(per_step) != count:
        raise ValueError(f"noise[1]: expected {count} noise images, got {len(per_step)}")
    start = schedule.q_sample(x0, count - 1, _like("noise[0]", first, x0))
    x = start
    for t in reversed(range(count)):
        eps = _like("noise[1]", per_step[count - 1 - t], x0) if t > 0 else None
        x = schedule.ancestral_step(x, t, unet(x, t), eps)
    return Repair(x0=x, x_s=start)


def _noise_like(x0: Floats, noise: Sequence[Floats] | None, count: int, seed: Seed) -> list[Floats]:
    given = evaluation_noise(x0.shape[1:], seed, count) if noise is None else list(noise)
    if len(given) != count:
        raise ValueError(f"noise: expected {count} arrays, got {len(given)}")
    return [_like(f"noise[{i}]", eps, x0) for i, eps in enumerate(given)]


def _like(name: str, eps: npt.ArrayLike, x0: Floats) -> Floats:
    """Noise in the shape of ``x0``; one image's noise serves the whole batch."""
    array = np.asarray(eps, dtype=np.float32)
    if array.shape not in (x0.shape, x0.shape[1:], (1, *x0.shape[1:])):
        raise ValueError(f"{name}: expected shape {x0.shape}, got {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array, x0.shape))
