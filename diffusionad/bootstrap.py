"""Confidence intervals by resampling images: what other test images of this kind might have given.

Good and defective images are drawn with replacement, each kind by itself, as many as there are. A
resample is a weight per image, so that scores are ranked once and only counted anew.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusionad import _core
from diffusionad import metric_inputs as inputs
from diffusionad.errors import InputError
from diffusionad.seeds import Seed

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def image_intervals(
    labels: ArrayLike,
    scores: ArrayLike,
    resamples: int = 1000,
    level: float = 0.95,
    seed: Seed = 0,
) -> dict[str, Interval]:
    """Intervals (low, high) of `image_auroc`, `image_ap` and `image_f1_max`.

    `labels` and `scores` are (N,); `level` is the part of the resamples' values that lie inside.
    Raises InputError for `resamples` below 1, a `level` outside (0, 1), or one class only.

    >>> image_intervals([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], seed=1)["image_auroc"]
    (0.0, 1.0)
    """
    defective, values = inputs.labels(labels), inputs.scores(scores, "scores")
    exact = _core.label_metrics(defective, values)
    _, step = np.unique(-values.astype(np.float64), return_inverse=True)
    step = step.ravel()
    order = np.argsort(step, kind="stable").astype(np.int32)
    found = defective.ravel()[order].astype(np.float64)
    values_of = resample(
        step[order], order, 1.0 - found, found, found, defective.ravel(), resamples, level, seed
    )
    names = {"auroc": "image_auroc", "average_precision": "image_ap", "f1_max": "image_f1_max"}
    return {
        ours: interval(values_of[:, index], exact[name], level)
        for index, (name, ours) in enumerate(names.items())
    }


def resample(
    step: NDArray[np.integer],
    image: NDArray[np.int32],
    good: Floats,
    found: Floats,
    shares: Floats,
    defective: NDArray[np.bool_],
    resamples: int,
    level: float,
    seed: Seed,
    fpr_limit: float = 0.3,
) -> Floats:
    """AUROC, AP, F1-max and AUPRO (1 + resamples, 4), the first of all images as they are.

    Entry e says that image `image[e]` has `good[e]` good and `found[e]` defect pixels at the step
    `step[e]`, which never falls, and the parts `shares[e]` of its regions. NaN where one class has
    not been drawn.
    """
    if resamples < 1:
        raise InputError(f"resamples: expected 1 or more, got {resamples}")
    if not 0.0 < level < 1.0:
        raise InputError(f"level: expected a number between 0 and 1, got {level}")
    starts = np.flatnonzero(np.diff(step, prepend=-1, append=step[-1] + 1)).astype(np.int64)
    weights = draw_weights(defective, resamples, seed)
    return _core.weighted_metrics(starts, image, good, found, shares, weights, fpr_limit)


def draw_weights(defective: NDArray[np.bool_], resamples: int, seed: Seed) -> Floats:
    """How often each image is drawn (1 + resamples, N); the first row is once each."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, defective.size))
    for kind in (False, True):
        chosen = np.flatnonzero(defective == kind)
        if chosen.size:
            odds = np.full(chosen.size, 1.0 / chosen.size)
            weights[1:, chosen] = rng.multinomial(chosen.size, odds, size=resamples)
    return weights


def interval(values: Floats, exact: float, level: float) -> Interval:
    """Percentiles of values[1:], moved by what separates values[0] from the exact value.

    Both are the same unless pixels were counted in coarse steps. Values that are NaN are left out.
    """
    moved = np.clip(values[1:] + (exact - values[0]), 0.0, 1.0)
    moved = moved[np.isfinite(moved)]
    if moved.size == 0:
        return exact, exact
    low, high = np.quantile(moved, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)
