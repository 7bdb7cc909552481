"""Memory of a training step, known before the first one, and what it makes again to take less."""

from __future__ import annotations

from typing import TypeAlias

from .config import TrainConfig
from .models import SegmentationNet, UNet

Size: TypeAlias = tuple[int, int]  # height, width

GB = 1e9
SHARES = 64  # so many degrees of making values again: at the first, only what is cheap to make


def copies(config: TrainConfig, parameters: int) -> int:
    """Bytes of the weights that a training keeps beside those that it trains.

    Their averages, the best so far, the first ones and the mean of the finished members.
    """
    kept = (config.ema_decay > 0) + (config.validation_share > 0) + 2 * (config.member_steps > 0)
    return kept * 4 * parameters


def planned(
    unet: UNet, seg: SegmentationNet, count: int, size: Size, passes: int, recompute: float
) -> dict[str, int]:
    """Bytes of a step on ``count`` images of ``size`` (height, width), and their ``"total"``.

    ``"weights"`` of both networks with gradients and Adam's moments; ``"activations"`` and
    ``"scratch"`` of a batch, of which the UNet sees every image ``passes`` times. Where
    ``recompute`` is above 0, both make again, when they need it, what is cheap (normalisations,
    joined and resampled maps), and this share of their blocks, those of the largest maps first.
    """
    parts = [
        network._core.memory(images, training=True, recompute=recompute, size=size)
        for network, images in ((unet, passes * count), (seg, count))
    ]
    names = {"weights": "weights", "activations": "arena", "scratch": "scratch"}
    sums = {ours: sum(part[name] for part in parts) for ours, name in names.items()}
    return {**sums, "total": sum(sums.values())}


def recomputed(
    unet: UNet, seg: SegmentationNet, count: int, size: Size, passes: int, budget: float
) -> float:
    """The least ``recompute`` with which a step takes at most ``budget`` bytes.

    Where none does, the one with which it takes the least.
    """
    totals: dict[float, int] = {}
    for share in range(SHARES + 1):
        recompute = share / SHARES
        totals[recompute] = planned(unet, seg, count, size, passes, recompute)["total"]
        if totals[recompute] <= budget:
            return recompute
    return min(totals, key=totals.__getitem__)
