"""What good images show at each pixel, by which maps are measured.

An anomaly map fires wherever good parts vary: at an edge that never lies twice in the same place,
in a reflection. What a repair changes is a hint of its own, and worth little where repairs always
change something. Both are therefore taken relative to their mean and deviation over good images,
pixel by pixel, and added up; see csrc/pipeline/normality.c. Where parts lie in the same place in
every image this finds defects that the map alone does not; elsewhere all pixels get about the same
mean and deviation, and the map keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from . import _core
from .images import Floats

EDGE, FLOORS, CENTRE = 1e-4, (0.5, 0.01), 4.0  # as the core has them
FEWEST = 8  # images; a deviation of fewer says nothing
MOST = 128


@dataclass(frozen=True, eq=False)
class Normality:
    """Mean and deviation (2, H, W) float32 of a pixel's log odds and repair error."""

    mean: Floats
    deviation: Floats

    def maps(self, maps: Floats, images: Floats, repairs: Floats) -> Floats:
        """Maps (N, H, W) in [0, 1]: 1/2 where both together depart by four deviations."""
        return _core.standardise(_core.departures(maps, images, repairs), self.mean, self.deviation)


def measure(found: Iterable[tuple[Floats, Floats, Floats]]) -> Normality | None:
    """From batches of maps, good images and their repairs; None for fewer than 8 images."""
    count, sums = 0, np.zeros(1)  # of values and of their squares, once there are any
    for maps, images, repairs in found:
        departures = _core.departures(maps, images, repairs).astype(np.float64)
        count += len(departures)
        sums = sums + np.stack([departures.sum(axis=0), (departures**2).sum(axis=0)])
    if count < FEWEST:
        return None
    mean, square = sums / count
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return Normality(mean.astype(np.float32), deviation.astype(np.float32))
