"""What good images show, by which maps are measured.

An anomaly map fires wherever good parts vary: at an edge that never lies twice in the same place,
in a reflection. What a repair changes is a hint of its own, and worth little where repairs always
change something. Both are therefore taken relative to their mean and deviation over good images,
and added up; see csrc/pipeline/normality.c.

Where parts keep their place, as under a camera that is fixed above a line, this is done pixel by
pixel. Where they are turned or shifted a pixel's own statistics say nothing, and maps get worse:
there all pixels together have a mean and a deviation, what a repair changes is smoothed and taken
in multiples of what it changes in the whole image, and counts half. It is the former where the mean
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

    def maps(self, maps: Floats, images: Floats, repairs: Floats) -> Floats:
        """Maps (N, H, W) in [0, 1]: 1/2 where both together depart by four deviations."""
        departures = _core.departures(maps, images, repairs)
        if self.pooled:
            departures = _core.relate_errors(departures, pooled_radius(maps.shape[1]))
        return _core.standardise(departures, self.mean, self.deviation)


def pooled_radius(side: int) -> int:
    """Over how many pixels a repair's errors are smoothed where all pixels are taken together."""
    return max(1, side // SMOOTHED)


def measure(found: Iterable[tuple[Floats, Floats, Floats]]) -> tuple[Normality, float]:
    """From batches of maps, good images and their repairs; and how well the images are aligned.

    The alignment is at most 1, and 0 for fewer than 8 images. All departures are kept meanwhile.
    """
    departures, greys = [], []
    for maps, images, repairs in found:
        departures.append(_core.departures(maps, images, repairs))
        greys.append(images.mean(axis=1, dtype=np.float64))
    seen, shown = np.concatenate(departures), np.concatenate(greys)
    alignment = 0.0 if len(shown) < FEWEST else _explained(shown[1::2], shown[::2])
    axes: tuple[int, ...] = (0,)
    if alignment < ALIGNED:
        seen, axes = _core.relate_errors(seen, pooled_radius(seen.shape[2])), (0, 2, 3)
    mean = seen.mean(axis=axes, keepdims=True, dtype=np.float64)[0]
    deviation = seen.std(axis=axes, keepdims=True, dtype=np.float64)[0]
    return Normality(mean.astype(np.float32), deviation.astype(np.float32)), alignment


def _explained(images: Doubles, others: Doubles) -> float:
    """Share of the variance within images (N, H, W) that the mean of others explains."""
    expected = others.mean(axis=0)
    within = images - images.mean(axis=(1, 2), keepdims=True)
    total = float((within**2).sum())
    left = float(((within - (expected - expected.mean())) ** 2).sum())
    return 1.0 - left / total if total > 0 else 0.0
