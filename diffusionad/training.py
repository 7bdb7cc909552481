"""One training step of both networks, as the reference does it, and its options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .config import LOSSES, TrainConfig
from .diffusion import Floats, Schedule, check_steps
from .models import SegmentationNet, UNet
from .seeds import Seed, number
from .training_memory import GB, recomputed

REFERENCE_LOSSES: Mapping[str, float] = {"noise": 1.0, "focal": 5.0, "smooth_l1": 1.0}
"""Weights of the reference's loss, ``L = L_noise + 5 L_focal + L_smoothL1``."""


@dataclass(frozen=True)
class StepResult:
    """Losses of one step and the repaired images and masks that they were measured on."""

    losses: dict[str, float]
    x0: Floats
    mask: Floats

    def __getitem__(self, name: str) -> Any:
        """``"x0"``, ``"mask"``, ``"total"``, or a loss term by its name, such as ``"noise"``."""
        return getattr(self, name) if name in ("x0", "mask") else self.losses[name]


class Trainer:
    """Trains a UNet and a segmentation network together.

    Per image, ``t_s ~ U{0..299}`` and ``t_b ~ U{300..T-1}`` (``t_s_range`` and ``t_b_range``: first
    and last, as far as the schedule goes); both passes, the guidance and the segmentation are
    differentiated as one function. Adam for both networks: ``unet_lr``, and
    ``seg_lr`` with cosine annealing stepped every iteration, ``lr (1 + cos(pi i / T_max)) / 2``
    (``seg_cosine_t_max=0``: constant).

    ``total_steps`` replaces both by one schedule for short runs: a linear warm-up over ``warmup``
    steps, then a half cosine to zero, where it stays; ``begin`` starts it and the moments anew.
    ``losses`` are the weights of the loss terms (``"noise"``, ``"focal"``, ``"smooth_l1"``,
    ``"bce"``, ``"dice"``); the default is the reference's. A step that would take more than
    ``memory_budget`` GB makes as many of the layers' values again, when it needs them, as it must
    to keep it, or all, with the same bits. Every random choice of step ``i`` is a function of
    ``seed`` and ``i`` alone.

    >>> unet = UNet(image_size=32, base_channels=32, channel_mults=(1,), num_res_blocks=1)
    >>> trainer = Trainer(unet, SegmentationNet(base_channels=4))
    >>> images = np.full((2, 3, 32, 32), 0.5, np.float32)
    >>> out = trainer.step(images, np.zeros((2, 1, 32, 32), np.float32), labels=[0, 0])
    >>> sorted(out.losses)
    ['focal', 'noise', 'smooth_l1', 'total']
    """

    def __init__(
        self,
        unet: UNet,
        seg: SegmentationNet,
        unet_lr: float = 1e-4,
        seg_lr: float = 1e-5,
        seg_cosine_t_max: int = 10,
        guidance: float = 1.0,
        schedule: Schedule | None = None,
        losses: Mapping[str, float] = REFERENCE_LOSSES,
        total_steps: int = 0,
        warmup: int = 0,
        weight_decay: float = 0.0,
        memory_budget: float = TrainConfig.memory_budget,
        seed: Seed = 0,
        t_s_range: tuple[int, int] = TrainConfig.t_s_range,
        t_b_range: tuple[int, int] = TrainConfig.t_b_range,
    ) -> None:
        unknown = sorted(set(losses) - set(LOSSES))
        if unknown:
            raise ValueError(f"losses: {unknown[0]!r} is none of {', '.join(LOSSES)}")
        self.unet = unet
        self.seg = seg
        self.unet_lr = unet_lr
        self.seg_lr = seg_lr
        self.seg_cosine_t_max = seg_cosine_t_max
        self.guidance = guidance
        self.t_s_range = t_s_range
        self.t_b_range = t_b_range
        self.schedule = schedule or Schedule("linear")
        self.losses = dict(losses)
        self.total_steps = total_steps
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.memory_budget = memory_budget
        self._made_again: dict[tuple[float, ...], float] = {}  # by images and budget
        self.seed = number(seed)
        self.iteration = 0
        self.begun = 0  # iteration at which schedule and moments began
        for name, (first, last) in (("t_s", t_s_range), ("t_b", t_b_range)):
            if not 0 <= first <= last:
                raise ValueError(
                    f"{name}_range: expected 0 <= first <= last, got {first} and {last}"
                )
            if self.schedule.timesteps <= first:
                raise ValueError(
                    f"schedule: training draws {name} from {first} up, "
                    f"but it has {self.schedule.timesteps} steps"
                )

    def begin(self) -> None:
        """Start the learning rates' schedule and Adam anew; the count of iterations goes on."""
        self.begun = self.iteration
        for network in (self.unet, self.seg):
            network.forget_moments()

    def learning_rates(self, iteration: int) -> tuple[float, float]:
        """Learning rates of the UNet and of the segmentation network at an iteration (from 0)."""
        done = iteration - self.begun
        if self.total_steps:
            if done < self.warmup:
                factor = (done + 1) / self.warmup
            else:
                length = max(1, self.total_steps - self.warmup)
                factor = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - self.warmup) / length)))
            return self.unet_lr * factor, self.seg_lr * factor
        if not self.seg_cosine_t_max:
            return self.unet_lr, self.seg_lr
        annealed = self.seg_lr * (1 + math.cos(math.pi * done / self.seg_cosine_t_max)) / 2
        return self.unet_lr, annealed

    def step(
        self,
        images: Floats,
        masks: Floats,
        labels: npt.ArrayLike,
        t: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        noise: tuple[Floats, Floats] | None = None,
        clean: Floats | None = None,
    ) -> StepResult:
        """One update from ``images`` (N, 3, H, W) in [0, 1], ``masks`` (N, 1, H, W) and ``labels``.

        Label 0 is a normal image: only those enter the noise loss. ``t=(t_s, t_b)`` and
        ``noise=(eps_s, eps_b)`` replace the random draws. ``clean`` are the images that noise is
        added to, where not ``images``: those before their anomalies, whose repairs have none.
        Raises ValueError for shapes that do not fit, and FloatingPointError when the loss is not
        finite; both networks then stay as they were.
        """
        count = len(images)
        normal = np.asarray(labels).reshape(-1) == 0
        if normal.shape != (count,):
            raise ValueError(f"labels: expected {count} labels, got shape {np.shape(labels)}")
        noised = images if clean is None else clean
        if noised.shape != images.shape:
            raise ValueError(f"clean: expected shape {images.shape}, got {noised.shape}")
        t_s, t_b, eps = self._draw(images.shape, t, noise)
        abar_s = self.schedule.alphas_cumprod_at(t_s, count, "t")
        abar_b = self.schedule.alphas_cumprod_at(t_b, count, "t")
        x_s = _core.q_sample(noised, eps[:count], abar_s)
        x_b = _core.q_sample(noised, eps[count:], abar_b)

        steps = np.concatenate([t_s, t_b])
        recompute = self._recompute(images, passes=2)
        predicted = self._forward(np.concatenate([x_s, x_b]), steps, recompute)
        e_s, e_b = predicted[:count], predicted[count:]
        guided = _core.guide(x_s, x_b, e_s, e_b, abar_s, abar_b, self.guidance)
        noise_loss, d_predicted = self._noise_loss(predicted, eps, normal)
        result, d_repaired = self._segment(images, guided["x0_hat"], masks, noise_loss, recompute)
        de_s, de_b = _core.guide_backward(
            d_repaired, x_s, x_b, e_s, e_b, abar_s, abar_b, self.guidance
        )
        self.unet._backward(steps, d_predicted + np.concatenate([de_s, de_b]))
        self._update()
        return result

    def step_autoencoder(self, images: Floats, masks: Floats, clean: Floats) -> StepResult:
        """One update of the ablation's autoencoder, which repairs an image without any noise.

        ``clean`` (N, 3, H, W) are the images before their synthetic anomalies. The mean squared
        error to them takes the place of the noise loss, and its weight; otherwise as step().
        """
        if clean.shape != images.shape:
            raise ValueError(f"clean: expected shape {images.shape}, got {clean.shape}")
        recompute = self._recompute(images, passes=1)
        repaired = self._forward(images, 0, recompute)
        share = np.full(len(images), 1.0 / len(images), np.float32)
        per_image, d_error = _core.squared_error(
            repaired, clean, share * np.float32(self.losses.get("noise", 0.0))
        )
        result, d_repaired = self._segment(
            images, repaired, masks, float(per_image @ share), recompute
        )
        self.unet._backward(0, d_error + d_repaired)
        self._update()
        return result

    def _recompute(self, images: Floats, passes: int) -> float:
        """How much a step on these images makes again, to keep the budget."""
        if images.ndim != 4:
            raise ValueError(f"images: expected (N, C, H, W), got shape {images.shape}")
        count, _, height, width = images.shape
        key = (passes, count, height, width, self.memory_budget)
        if key not in self._made_again:
            step = (self.unet, self.seg, count, (height, width), passes)
            try:
                self._made_again[key] = recomputed(*step, self.memory_budget * GB)
            except ValueError as error:
                raise ValueError(f"images: {error}") from error
        return self._made_again[key]

    def _forward(self, x: Floats, t: npt.ArrayLike, recompute: float) -> Floats:
        return self.unet._forward(
            x, t, training=True, recompute=recompute, seed=self._dropout_seed()
        )

    def _segment(
        self,
        images: Floats,
        repaired: Floats,
        masks: Floats,
        noise_loss: float,
        recompute: float,
    ) -> tuple[StepResult, Floats]:
        """All losses, and the gradient of the map's by the repaired images.

        The gradients of both networks are zero afterwards, but for the segmentation network's. The
        running statistics stay as they were where a loss cannot be had, or is not finite.
        """
        statistics = self.seg.running_statistics()
        mask = self.seg._core.forward(
            np.concatenate([images, repaired], axis=1),
            training=True,
            recompute=recompute,
            input_gradient=True,
        )
        try:
            losses, d_mask = self._segmentation_losses(mask, masks)
            losses["noise"] = noise_loss
            losses["total"] = sum(weight * losses[name] for name, weight in self.losses.items())
            self._check_finite(losses["total"])
        except Exception:
            self.seg.set_running_statistics(statistics)
            raise
        self.unet._core.zero_gradients()
        self.seg._core.zero_gradients()
        d_pair = self.seg._core.backward(d_mask)
        assert d_pair is not None
        d_repaired = np.ascontiguousarray(d_pair[:, images.shape[1] :])
        return StepResult(losses, repaired, mask), d_repaired

    def _draw(
        self,
        shape: tuple[int, ...],
        t: tuple[npt.ArrayLike, npt.ArrayLike] | None,
        noise: tuple[Floats, Floats] | None,
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
        count, timesteps = shape[0], self.schedule.timesteps
        rng = np.random.default_rng([self.seed, self.iteration])
        if t is None:
            small, big = (
                rng.integers(first, min(last + 1, timesteps), count)
                for first, last in (self.t_s_range, self.t_b_range)
            )
            t = (small, big)
        t_s, t_b = (check_steps(t[i], count, timesteps, f"t[{i}]") for i in range(2))
        if noise is None:
            return t_s, t_b, rng.standard_normal((2 * count, *shape[1:]), dtype=np.float32)
        for i, eps in enumerate(noise):
            if eps.shape != shape:
                raise ValueError(f"noise[{i}]: expected shape {shape}, got {eps.shape}")
        return t_s, t_b, np.concatenate(noise)

    def _dropout_seed(self) -> int:
        """Of a stream beside that of ``_draw``, which does not depend on what is given there."""
        return int(np.random.default_rng([self.seed, self.iteration, 1]).integers(2**63))

    def _check_finite(self, total: float) -> None:
        if not math.isfinite(total):
            raise FloatingPointError(
                f"the loss is {total} at iteration {self.iteration}: "
                "lower the learning rates, or look at the images"
            )

    def _noise_loss(
        self, predicted: Floats, eps: Floats, normal: npt.NDArray[np.bool_]
    ) -> tuple[float, Floats]:
        """Both passes' mean squared errors, mean over the normal images; 0 where there are none."""
        share = (np.tile(normal, 2) / max(1, int(normal.sum()))).astype(np.float32)
        per_image, gradient = _core.squared_error(
            predicted, eps, share * np.float32(self.losses.get("noise", 0.0))
        )
        return float(per_image @ share), gradient

    def _segmentation_losses(self, mask: Floats, target: Floats) -> tuple[dict[str, float], Floats]:
        values: dict[str, float] = {}
        gradient = np.zeros_like(mask)
        for name, weight in self.losses.items():
            if name != "noise":
                values[name], part = getattr(_core, f"{name}_loss")(mask, target)
                gradient += np.float32(weight) * part
        return values, gradient

    def _update(self) -> None:
        unet_lr, seg_lr = self.learning_rates(self.iteration)
        self.iteration += 1
        step = self.iteration - self.begun
        self.unet._core.adam_step(unet_lr, step, weight_decay=self.weight_decay)
        self.seg._core.adam_step(seg_lr, step, weight_decay=self.weight_decay)
        self.seg.count_batch()
