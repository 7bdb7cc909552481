"""Figures that others published, to stand beside our own; shares in [0, 1], images per second.

DiffusionAD's are from its paper (arXiv 2303.08730) and from a run of its code by others. They were
measured on a GPU at 256 pixels, and the paper's model is the best of many epochs by test data: see
the reference protocol in evaluation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusionad.datasets import LAYOUTS


@dataclass(frozen=True)
class Published:
    """What one source says of one method; None where it says nothing. `aupro` is to FPR 0.3."""

    method: str
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    pixel_ap: float | None = None
    images_per_second: float | None = None


PAPER = "DiffusionAD (paper)"
OTHERS = "DiffusionAD (code, run by others)"

MVTEC_SCREW = (
    Published(OTHERS, 0.980, 0.987, None, 0.623),
    Published("the same without the noisier branch", 0.980, 0.977, None, 0.722),
)

MVTEC_MEAN = (
    Published(PAPER, 0.997, 0.987, 0.957, 0.761, 23.5),
    Published(OTHERS, 0.989, 0.981, None, 0.749, 10.7),
    Published("PatchCore", 0.996, 0.982, 0.935),
    Published("EfficientAD-S", 0.988, 0.968, 0.965),
    Published("DDAD", 0.998, 0.981, 0.923),
    Published("TransFusion", 0.994, 0.968, 0.953),
    Published("DRAEM", 0.981, 0.975),
    Published("Dinomaly", 0.997, 0.988, 0.958),
    Published("CPR", 0.997, 0.992, 0.978),
)

FOUR_DATASETS = Published(f"{PAPER}, mean of its four datasets", 0.986)

OF_CATEGORIES: Mapping[tuple[str, str], tuple[Published, ...]] = {("mvtec", "screw"): MVTEC_SCREW}
OF_DATASETS: Mapping[str, tuple[Published, ...]] = {"mvtec": (*MVTEC_MEAN, FOUR_DATASETS)}


def of_category(layout: str, category: str) -> tuple[Published, ...]:
    """What is published of one category of a public dataset.

    >>> [row.pixel_ap for row in of_category("mvtec", "screw")]
    [0.623, 0.722]
    """
    return OF_CATEGORIES.get((layout, category), ())


def of_dataset(layout: str) -> tuple[Published, ...]:
    """Published means over all categories of a public dataset, and over the four of the paper."""
    if not LAYOUTS[layout].published:
        return ()
    return OF_DATASETS.get(layout, (FOUR_DATASETS,))
