"""What good images show, by which maps are measured.

An anomaly map fires wherever good parts vary: at an edge that never lies twice in the same place,
in a reflection. What a repair changes is a hint of its own, and worth little where repairs always
change something. Both are therefore taken relative to their mean and deviation over good images,
and added up; see csrc/pipeline/normality.c.

Where parts keep their place, as under a camera that is fixed above a line, this is done pixel by
pixel. Where they are turned or shifted a pixel's own statistics say nothing, and maps get worse:
there all pixels together have a mean and a deviation, what a repair changes is smoothed and taken
in multiples of what it changes in the whole image, and counts half; and both may be the mean over
an image and its mirror image (``mirrored``), which steadies them. It is the former where the mean
of some good images explains most of what varies within others: 98 % for ball screws seen by a fixed
camera, 0 to 36 % for turned screws and for textures (benchmarks/QUALITY.md). Repair errors would
not tell: the noise is the same for every image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import _core
from .images import Floats

Doubles = npt.NDArray[np.float64]

EDGE, FLOORS, POOLED_WEIGHT, CENTRE = 1e-4, (0.5, 0.01), 0.5, 4.0  # as the core has them
FEWEST = 8  # images; a pixel's deviation over fewer says nothing
SMOOTHED = 20  # radius of the mean of repair errors, pooled: this part of an image's side
MOST = 128
ALIGNED = 0.6  # share of the variance within an image that others explain


@dataclass(frozen=True, eq=False)
class Normality:
    """Mean and deviation, float32, of the log odds and of the repair error.

    Of each pixel, (2, H, W), or of all together, (2, 1, 1).
    """

    mean: Floats
    deviation: Floats

    @property
    def pooled(self) -> bool:
        """Whether all pixels have the same."""
        return self.mean.shape[1:] == (1, 1)

    def maps(self, found: Floats) -> Floats:
        """Maps (N, H, W) in [0, 1] of departures: 1/2 where both add up to four deviations."""
        return _core.standardise(found, self.mean, self.deviation)


def departures(maps: Floats, images: Floats, repairs: Floats, pooled: bool) -> Floats:
    """Log odds of maps (N, H, W) and repair errors, (N, 2, H, W), as they are measured."""
    found = _core.departures(maps, images, repairs)
    return _core.relate_errors(found, pooled_radius(maps.shape[1])) if pooled else found


def pooled_radius(side: int) -> int:
    """Over how many pixels a repair's errors are smoothed where all pixels are taken together."""
    return max(1, side // SMOOTHED)


def alignment(images: Iterable[Floats]) -> float:
    """How well images, batches (N, C, H, W), lie on each other: at most 1, 0 for fewer than 8."""
    shown = np.concatenate([batch.mean(axis=1, dtype=np.float64) for batch in images])
    return 0.0 if len(shown) < FEWEST else _explained(shown[1::2], shown[::2])


def measure(found: Iterable[Floats], pooled: bool) -> Normality:
    """Their mean and deviation, from batches of departures of good images."""
    seen = np.concatenate(list(found))
    axes = (0, 2, 3) if pooled else (0,)
    mean = seen.mean(axis=axes, keepdims=True, dtype=np.float64)[0]
    deviation = seen.std(axis=axes, keepdims=True, dtype=np.float64)[0]
    return Normality(mean.astype(np.float32), deviation.astype(np.float32))


def _explained(images: Doubles, others: Doubles) -> float:
    """Share of the variance within images (N, H, W) that the mean of others explains."""
    expected = others.mean(axis=0)
    within = images - images.mean(axis=(1, 2), keepdims=True)
    total = float((within**2).sum())
    left = float(((within - (expected - expected.mean())) ** 2).sum())
    return 1.0 - left / total if total > 0 else 0.0
