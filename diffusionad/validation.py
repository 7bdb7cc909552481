"""What a training run is judged by on the way: good images held out, with synthetic defects.

Nothing of the test set is seen. The defects are made as in training, once, from images that
training does not see; so they say whether something is learnt and which step was the best, not
how well real defects will be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import metrics
from .images import Bytes, Floats, as_floats
from .sources import Textures, TrainingImages, synthesis_inputs
from .synthesis import SynthesisOptions, synthesize_batch

if TYPE_CHECKING:
    from .model import DiffusionAD

FEWEST, MOST = 4, 32  # images held out; fewer say nothing, more take time
COLUMNS = ("val_image_auroc", "val_pixel_auroc", "val_aupro")
UNLEARNT = 0.6  # an image AUROC below this, late in a run, means that nothing is learnt

Scores = Mapping[str, float]


def held_out(total: int, share: float, seed: int) -> npt.NDArray[np.intp]:
    """Which of `total` good images are held out, in order; none where they would be too few.

    One at least is left to train on.
    """
    count = min(MOST, round(share * total), total - 1)
    if count < FEWEST:
        return np.empty(0, np.intp)
    return np.sort(np.random.default_rng([seed, total]).permutation(total)[:count])


class Validation:
    """Held-out images (N, 3, H, W), each as it is and with a defect."""

    def __init__(
        self,
        images: TrainingImages,
        foregrounds: Bytes | None,
        textures: Textures | None,
        options: SynthesisOptions,
        seed: int,
    ) -> None:
        self.good: Floats = as_floats(images.pixels)
        rng, count = np.random.default_rng([seed, len(self.good), 1]), len(self.good)
        self.defective, masks, labels = synthesize_batch(
            *synthesis_inputs(self.good, foregrounds, textures, rng),
            replace(options, anomaly_probability=1.0),
        )
        self.labels = np.concatenate([np.zeros(count, np.int64), labels])
        self.masks = np.concatenate([np.zeros_like(masks), masks])[:, 0] >= 0.5

    def measure(self, model: DiffusionAD) -> Scores:
        """The model's metrics on them, by the names of COLUMNS."""
        found = model.predict(np.concatenate([self.good, self.defective]))
        maps = np.asarray(found.maps)
        pixels = metrics.pixel_metrics(self.masks, maps)
        values = (metrics.auroc(self.labels, found.scores), pixels["pixel_auroc"], pixels["aupro"])
        return dict(zip(COLUMNS, values, strict=True))


def quality(scores: Scores) -> float:
    """By which the best step is chosen: found as an image, and where."""
    return (scores["val_image_auroc"] + scores["val_aupro"]) / 2


def is_unlearnt(scores: Scores) -> bool:
    """Whether the defects are hardly found at all, which late in a run means a useless model."""
    return scores["val_image_auroc"] < UNLEARNT
