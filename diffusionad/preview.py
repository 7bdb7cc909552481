"""Synthetic anomalies to look at before a training run: what each is made of, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffusionad import plots
from diffusionad.datasets import Dataset
from diffusionad.errors import InputError
from diffusionad.files import PathLike
from diffusionad.images import Bytes, as_floats
from diffusionad.sources import (
    Textures,
    choose_foregrounds,
    load_images,
    synthesis_inputs,
)
from diffusionad.synthesis import Stages, SynthesisOptions, synthesize_stages


@dataclass(frozen=True)
class Preview:
    """Samples of a dataset's good images, an anomaly in each that has a place for one.

    Attributes:
        images: uint8 (N, size, size, 3).
        paths: of the images.
        stages: what was made of them.
        foreground: "found", the name of a folder of masks, or None: the whole image.
    """

    images: Bytes
    paths: Sequence[Path]
    stages: Stages
    foreground: str | None

    def panels(self, tile: int = 160) -> list[Bytes]:
        """A row per image: image, foreground, noise, mask, appearance, result."""
        return [
            plots.synthesis_row(self.images[index], self.stages, index, name=path.name, tile=tile)
            for index, path in enumerate(self.paths)
        ]


def preview(
    dataset: Dataset,
    anomaly_source: PathLike | None = None,
    foreground: PathLike | None = None,
    count: int = 8,
    size: int = 256,
    seed: int = 0,
) -> Preview:
    """Anomalies as a training run makes them, on `count` images spread over the good ones.

    Args:
        dataset: its kind decides between object and texture.
        anomaly_source: folder of textures; without it they are generated.
        foreground: folder of masks, named as the images, or a network's ONNX file.
        size: side of the images, in pixels.

    Raises:
        InputError: no good images, or a folder without what is looked for in it.
    """
    paths = [sample.path for sample in dataset.train]
    if not paths:
        raise InputError(f"{dataset.root}: no images to train on")
    source = None if anomaly_source is None else Textures(anomaly_source, size)
    chosen = np.linspace(0, len(paths) - 1, count).round().astype(int)
    images = load_images([paths[index] for index in chosen], size)
    masks, origin = choose_foregrounds(images, dataset.kind, foreground, learn_from=paths)
    rng = np.random.default_rng(seed)
    stages = synthesize_stages(
        *synthesis_inputs(as_floats(images.pixels), masks, source, rng),
        replace(SynthesisOptions.for_kind(dataset.kind), anomaly_probability=1.0),
    )
    return Preview(images.pixels, images.paths, stages, origin)
