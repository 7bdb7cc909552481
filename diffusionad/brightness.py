"""Images at one brightness, so that light which drifts is not taken for a defect.

A lamp that ages or a camera that exposes by itself makes good parts darker or brighter as a whole,
and a network that has never seen that takes them for anomalous. So each image is scaled to the mean
brightness of the good images a model was trained with. What that hides is a defect which changes
the whole image and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .images import Floats

DARKEST = 1e-6  # mean that is divided by
MOST = 4.0  # times darker or brighter: beyond that an image is no badly lit one, say of a lens cap


def mean_of(images: Iterable[Floats]) -> float:
    """The mean over images (C, H, W) of the mean of each."""
    return float(np.float32(np.mean([_mean(image) for image in images])))


def matched(images: Floats, brightness: float) -> Floats:
    """Images (N, C, H, W) in [0, 1], each scaled to this mean, by a factor of at most four.

    What becomes brighter than 1 is clipped. An image's result does not depend on the others.
    """
    means = np.array([_mean(image) for image in images])
    factors = np.clip(brightness / np.maximum(means, DARKEST), 1 / MOST, MOST).astype(np.float32)
    scaled: Floats = images * factors[:, None, None, None]
    return np.minimum(scaled, np.float32(1), out=scaled)


def _mean(image: Floats) -> float:
    return float(image.mean(dtype=np.float64))
