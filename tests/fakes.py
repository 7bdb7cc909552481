"""A model without networks, for tests of what lies around the networks: the darker, the worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionad import _core, checkpoints, config
from diffusionad.fitting import settle_kind
from diffusionad.images import pixels_of, to_network
from diffusionad.prediction import Explanation, Prediction, labels_of, paths_of, shown
from diffusionad.tiling import Tiles, blended_map


@dataclass
class Progress:
    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float = 20.0
    seconds_left: float = 3.0


class FakeModel:
    """Scores an image by how dark it is; `fit` only counts its steps."""

    def __init__(self, preset: str = "compact", **overrides: Any) -> None:
        self.config, self.train_config = config.preset(preset, **overrides)
        self.provenance: dict[str, Any] = {}
        self.threshold: float | None = None
        self.seed = self.config.seed
        self.fitted: dict[str, Any] = {}
        self.num_parameters = 2_000_000
        self.fast = self.bfloat16 = self.low_memory = False

    def training_memory(self) -> dict[str, int]:
        return {"total": 123_000_000}

    def fit(
        self, source: Any, *, progress: Callable[[Progress], None], out: str, **options: Any
    ) -> None:
        self.fitted = {"source": source, **options}
        self.train_config = settle_kind(self.train_config, getattr(source, "kind", None))
        steps = options["steps"] or 3
        for step in range(1, steps + 1):
            progress(Progress(step, steps, {"total": 1.0 / step}))
        self.provenance = {"train_seconds": 1.5, "train_steps": steps}
        self.threshold = 0.5
        self.save(Path(out) / "model.safetensors")

    def explain(self, images: Any) -> Explanation:
        x = to_network(images, self.config.image_size)
        maps = np.ascontiguousarray(1.0 - x.mean(axis=1))
        scores = maps.max(axis=(1, 2))
        return Explanation(
            scores, maps, x, labels_of(scores, self.threshold), shown(x), paths_of(images),
            self.threshold, x_s=x, x0_s=x, x_b=x, x0_b=x,
        )  # fmt: skip

    def predict(self, images: Any, batch_size: int = 8, size: str = "model") -> Prediction:
        found = self.explain(images)
        if size == "model":
            return found
        sizes = [np.asarray(image).shape[:2] for image in images]
        pairs = zip(found.maps, sizes, strict=True)
        return replace(found, maps=[_core.resize_f32(one, *shape) for one, shape in pairs])

    def predict_tiled(
        self, images: Any, tile: int | None = None, overlap: float = 0.25, batch_size: int = 8
    ) -> Prediction:
        tiles = Tiles(tile, overlap).of(self.config.image_size)
        maps = [
            blended_map(
                lambda x: self.explain(x).maps, pixels_of(image, ""), tiles,
                self.config.image_size, batch_size,
            )
            for image in images
        ]  # fmt: skip
        return replace(self.predict(images), maps=maps, tiles=tiles, reconstructions=None)

    def save(self, path: Path) -> None:
        one = {"w": np.ones(2, np.float32)}
        checkpoints.save_model(
            path,
            checkpoints.Checkpoint(
                one,
                one,
                {
                    "model": config.to_dict(self.config),
                    "train": config.to_dict(self.train_config),
                },
                self.provenance,
                self.threshold,
            ),
        )


def load(path: str | Path) -> FakeModel:
    file = checkpoints.load_model(path)
    model = FakeModel()
    model.config = config.from_dict(config.ModelConfig, file.config["model"])
    model.train_config = config.from_dict(config.TrainConfig, file.config["train"])
    model.provenance, model.threshold = file.provenance, file.threshold
    return model


def fit(model: FakeModel, dataset: Any, folder: Path) -> FakeModel:
    """In the place of studies.trained()."""
    folder.mkdir(parents=True, exist_ok=True)
    model.fit(dataset, progress=lambda _: None, out=str(folder), steps=3)
    return model


def patches() -> Sequence[tuple[str, Any]]:
    """What to put into the package in the place of the real model."""
    return [("DiffusionAD", FakeModel), ("load", load)]
