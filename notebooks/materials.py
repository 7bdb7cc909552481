"""What several notebooks work on: the bundled images at the networks' size, and a trained detector.

The detector is trained by the notebook that asks for it first and read from its file by the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import diffusionad as dad
from diffusionad import _core

SIDE = 128  # pixels, the compact preset's image size
STEPS = 120
RUN = Path(__file__).resolve().parent.parent / "build" / "notebooks" / "run"

# Training looks for the object in each image. Ball screws fill theirs, so that it takes the whole
# image, and says so each time.
logging.getLogger("diffusionad").setLevel(logging.ERROR)


def images(samples: Sequence[Any], side: int = SIDE) -> npt.NDArray[np.float32]:
    """Samples of a dataset as float32 (N, 3, side, side) in [0, 1]."""
    small = np.stack([_core.resize_u8(sample.image, side, side) for sample in samples])
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2)) / np.float32(255)


def masks(samples: Sequence[Any], side: int = SIDE) -> npt.NDArray[np.bool_]:
    """Their defects, (N, side, side): pixels of which at least half is defective."""
    planes = np.stack([sample.mask.astype(np.float32) for sample in samples])
    return np.stack([_core.resize_f32(plane[None], side, side)[0] >= 0.5 for plane in planes])


def train(folder: Path = RUN) -> dad.DiffusionAD:
    """The compact preset, trained on the bundled good images; log and model go to the folder."""
    model = dad.DiffusionAD(preset="compact", seed=0)
    return model.fit(dad.datasets.bundled(), steps=STEPS, out=folder)


def detector() -> dad.DiffusionAD:
    """The trained detector; about a minute on two cores where there is no file of it yet."""
    try:
        model = dad.load(RUN / "model.safetensors")
        if model.provenance.get("finished") and model.provenance["train_steps"] == STEPS:
            return model
    except dad.errors.InputError:
        pass
    return train()
