"""Exact metrics: every distinct score is a threshold, and equal scores are one threshold.

Anomaly maps that end in a sigmoid saturate, so metrics over a fixed number of bins or thresholds
are wrong on them; these sort all scores. Labels are bool or 0 and 1. Masks are bool or any number,
and non-zero is defective. Scores and maps are numbers, higher is more anomalous; NaN and infinity
are refused. Everything needs both classes: ValueError says which argument lacks one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusionad import _core
from diffusionad import metric_inputs as inputs
from diffusionad.bootstrap import image_intervals
from diffusionad.pixelwise import PixelMetrics

Floats = NDArray[np.float64]

__all__ = [
    "PixelMetrics",
    "aupro",
    "auroc",
    "average_precision",
    "f1_max",
    "f1_max_threshold",
    "image_intervals",
    "image_metrics",
    "image_scores",
    "label_components",
    "pixel_metrics",
    "pr_curve",
    "pro_curve",
    "reference_pro",
    "reference_pro_curve",
    "roc_curve",
]

_REFERENCE_THRESHOLDS = 1000
_REFERENCE_FPR_LIMIT = 0.3


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties count half.

    `labels` and `scores` have one shape, any number of dimensions.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _core.label_metrics(inputs.labels(labels), inputs.scores(scores, "scores"))["auroc"]


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Sum over thresholds of precision times the step in recall.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return _core.label_metrics(inputs.labels(labels), inputs.scores(scores, "scores"))[
        "average_precision"
    ]


def f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """Largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds.

    >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.8
    """
    return _core.label_metrics(inputs.labels(labels), inputs.scores(scores, "scores"))["f1_max"]


def f1_max_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold of `f1_max`: `score >= threshold` is positive; the highest where several tie.

    >>> f1_max_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.35
    """
    return _core.label_metrics(inputs.labels(labels), inputs.scores(scores, "scores"))[
        "f1_threshold"
    ]


def aupro(masks: ArrayLike, maps: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to a false-positive rate, divided by that rate.

    The benchmark's definition: regions are 8-connected, counted over all masks, holes not filled;
    the false-positive rate is over the good pixels of all maps; trapezoids, the last one
    interpolated at `fpr_limit`. `masks` and `maps` are (N, H, W), or (H, W) for one image.

    >>> aupro([[0, 0, 0, 1, 0, 1]], [[0.1, 0.2, 0.5, 0.9, 0.3, 0.4]], fpr_limit=1.0)
    0.875
    """
    return _core.pixel_metrics(*inputs.masks_and_maps(masks, maps), fpr_limit)["aupro"]


def pixel_metrics(masks: ArrayLike, maps: ArrayLike, fpr_limit: float = 0.3) -> dict[str, float]:
    """`pixel_auroc`, `pixel_ap`, `pixel_f1_max` and `aupro` of maps (N, H, W), from one sort.

    >>> pixel_metrics([[0, 0, 1, 1]], [[0.1, 0.4, 0.35, 0.8]])["pixel_auroc"]
    0.75
    """
    found = _core.pixel_metrics(*inputs.masks_and_maps(masks, maps), fpr_limit)
    return {
        "pixel_auroc": found["auroc"],
        "pixel_ap": found["average_precision"],
        "pixel_f1_max": found["f1_max"],
        "aupro": found["aupro"],
    }


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """`image_auroc`, `image_ap` and `image_f1_max` of image scores (N,), from one sort.

    >>> image_metrics([0, 1], [0.2, 0.7])
    {'image_auroc': 1.0, 'image_ap': 1.0, 'image_f1_max': 1.0}
    """
    found = _core.label_metrics(inputs.labels(labels), inputs.scores(scores, "scores"))
    return {
        "image_auroc": found["auroc"],
        "image_ap": found["average_precision"],
        "image_f1_max": found["f1_max"],
    }


def image_scores(maps: ArrayLike, top_k: int = 50) -> Floats:
    """Mean of the `top_k` largest values of each map (N, H, W); of all where a map has fewer.

    The result (N,) is float64 also for float32 maps: the means of saturated maps differ in digits
    that float32 does not have.

    >>> image_scores([[[1.0, 2.0], [3.0, 4.0]]], top_k=2)
    array([3.5])
    """
    return _core.image_scores(inputs.scores(maps, "maps"), top_k)


def label_components(mask: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """8-connected regions of masks (N, H, W) or (H, W), numbered from 1 in each mask.

    Returns the labels (int32, the shape of `mask`, 0 outside) and the number of regions of each
    mask (int32, (N,) or (1,)).

    >>> label_components([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]])[1]
    array([2], dtype=int32)
    """
    return _core.label_components(inputs.mask(mask, "mask"))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, true-positive rate, and thresholds from high to low.

    One point per distinct score (`score >= threshold` is positive), after a first one at (0, 0)
    whose threshold is infinite.

    >>> roc_curve([0, 1], [0.25, 0.75])
    (array([0., 0., 1.]), array([0., 1., 1.]), array([ inf, 0.75, 0.25]))
    """
    fp, tp, _, thresholds = _core.label_curve(
        inputs.labels(labels), inputs.scores(scores, "scores")
    )
    return _from(0.0, fp / fp[-1]), _from(0.0, tp / tp[-1]), _from(np.inf, thresholds)


def pr_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Precision, recall, and thresholds from high to low.

    One point per distinct score (`score >= threshold` is positive), after a first one with
    precision 1 and recall 0 whose threshold is infinite.

    >>> pr_curve([0, 1], [0.25, 0.75])[:2]
    (array([1. , 1. , 0.5]), array([0., 1., 1.]))
    """
    fp, tp, _, thresholds = _core.label_curve(
        inputs.labels(labels), inputs.scores(scores, "scores")
    )
    return _from(1.0, tp / (tp + fp)), _from(0.0, tp / tp[-1]), _from(np.inf, thresholds)


def pro_curve(masks: ArrayLike, maps: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, mean overlap with the regions, and thresholds from high to low.

    The curve under which `aupro` lies: one point per distinct value of the maps, after a first one
    at (0, 0) whose threshold is infinite.
    """
    fp, _, overlap, thresholds = _core.pixel_curve(*inputs.masks_and_maps(masks, maps))
    return _from(0.0, fp / fp[-1]), _from(0.0, overlap), _from(np.inf, thresholds)


def reference_pro_curve(masks: ArrayLike, maps: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, overlap and thresholds as the public reference code of the paper.

    1,000 equal steps down from the highest value (`map > threshold` is positive, the thresholds in
    the maps' own precision), and regions with their holes filled. A filled hole adds to the
    overlap and not to the region's size, so that ring-shaped defects can pass 1.
    """
    masks, maps = inputs.masks_and_maps(masks, maps)
    high, low = maps.max(), maps.min()
    with np.errstate(invalid="ignore"):  # infinities are refused below
        step = (high - low) / maps.dtype.type(_REFERENCE_THRESHOLDS)
        thresholds = high - np.arange(_REFERENCE_THRESHOLDS, dtype=maps.dtype) * step
    fpr, overlap = _core.filled_pro(masks, maps, thresholds.astype(np.float64))
    return fpr, overlap, thresholds.astype(np.float64)


def reference_pro(masks: ArrayLike, maps: ArrayLike) -> float:
    """The PRO of the paper's public reference code, to compare with its published figures.

    Area under `reference_pro_curve` over the false-positive rates up to 0.3 that its thresholds
    happen to reach, stretched to [0, 1]. On saturated maps this is far from the exact `aupro`.
    Raises ValueError where no threshold has a rate in (0, 0.3].
    """
    area = reference_pro_if_defined(masks, maps)
    if area is None:
        raise ValueError(
            "maps: the reference's PRO is not defined, because none of its 1,000 thresholds has a "
            f"false-positive rate in (0, {_REFERENCE_FPR_LIMIT}]"
        )
    return area


def reference_pro_if_defined(masks: ArrayLike, maps: ArrayLike) -> float | None:
    """`reference_pro`, but None where no threshold has a false-positive rate in (0, 0.3]."""
    fpr, overlap, _ = reference_pro_curve(masks, maps)
    reached = fpr <= _REFERENCE_FPR_LIMIT
    fpr, overlap = fpr[reached], overlap[reached]
    if fpr.size == 0 or fpr[-1] == fpr[0]:
        return None
    x = (fpr - fpr[0]) / (fpr[-1] - fpr[0])
    return float(np.sum(np.diff(x) * (overlap[1:] + overlap[:-1]) / 2))


def _from(first: float, values: Floats) -> Floats:
    return np.concatenate([[first], values])
