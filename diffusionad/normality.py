"""What good images show at each pixel, by which maps are measured.

An anomaly map fires wherever good parts vary: at an edge that never lies twice in the same place,
in a reflection. What a repair changes is a hint of its own, and worth little where repairs always
change something. Both are therefore taken relative to their mean and deviation over good images,
pixel by pixel, and added up; see csrc/pipeline/normality.c.

This takes parts that keep their place, as under a camera that is fixed above a line. Where they are
turned or shifted a pixel's own statistics say nothing, and maps get worse. So it is only done where
the mean of some good images explains most of what varies within others: 98 % for ball screws seen
by a fixed camera, 0 to 36 % for turned screws and for textures (benchmarks/QUALITY.md). Repair
errors would not tell: the noise is the same for every image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import _core
from .images import Floats

Doubles = npt.NDArray[np.float64]

EDGE, FLOORS, CENTRE = 1e-4, (0.5, 0.01), 4.0  # as the core has them
FEWEST = 8  # images; a deviation of fewer says nothing
MOST = 128
ALIGNED = 0.6  # share of the variance within an image that others explain


@dataclass(frozen=True, eq=False)
class Normality:
    """Mean and deviation (2, H, W) float32 of a pixel's log odds and repair error."""

    mean: Floats
    deviation: Floats

    def maps(self, maps: Floats, images: Floats, repairs: Floats) -> Floats:
        """Maps (N, H, W) in [0, 1]: 1/2 where both together depart by four deviations."""
        return _core.standardise(_core.departures(maps, images, repairs), self.mean, self.deviation)


def measure(found: Iterable[tuple[Floats, Floats, Floats]]) -> tuple[Normality, float]:
    """From batches of maps, good images and their repairs; and how well the images are aligned.

    The alignment is at most 1, and 0 for fewer than 8 images. All departures are kept meanwhile.
    """
    departures, greys = [], []
    for maps, images, repairs in found:
        departures.append(_core.departures(maps, images, repairs))
        greys.append(images.mean(axis=1, dtype=np.float64))
    seen, shown = np.concatenate(departures), np.concatenate(greys)
    mean, deviation = seen.mean(axis=0, dtype=np.float64), seen.std(axis=0, dtype=np.float64)
    normality = Normality(mean.astype(np.float32), deviation.astype(np.float32))
    return normality, 0.0 if len(shown) < FEWEST else _explained(shown[1::2], shown[::2])


def _explained(images: Doubles, others: Doubles) -> float:
    """Share of the variance within images (N, H, W) that the mean of others explains."""
    expected = others.mean(axis=0)
    within = images - images.mean(axis=(1, 2), keepdims=True)
    total = float((within**2).sum())
    left = float(((within - (expected - expected.mean())) ** 2).sum())
    return 1.0 - left / total if total > 0 else 0.0
