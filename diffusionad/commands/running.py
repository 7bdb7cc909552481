"""Models as the commands run them: from a file, with what the options say of a pass."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusionad as dad
from diffusionad.errors import InputError
from diffusionad.inference import RUN_FLAGS
from diffusionad.model import DiffusionAD
from diffusionad.prediction import Prediction
from diffusionad.tiling import OVERLAP, Tiles, described
from diffusionad.torch_files import is_torch_file

log = logging.getLogger(__name__)

Look = Callable[[Sequence[Any]], Prediction]  # what is said of a batch of images

BATCH = 4  # images per pass where panels are drawn


def load_model(path: str | Path, seed: int | None, **settings: Any) -> DiffusionAD:
    """A model file, or a checkpoint of the reference; settings are of the latter."""
    model: DiffusionAD
    model = dad.load_official(path, **settings) if is_torch_file(path) else dad.load(path)
    if seed is not None:
        model.seed = seed
    return model


def load_to_run(args: Namespace) -> DiffusionAD:
    """The model of the command, run as its options say."""
    model = load_model(args.model, args.seed)
    try:
        for name in RUN_FLAGS:
            setattr(model, name, getattr(args, name))
    except InputError as error:
        raise InputError(f"--{error}") from error
    return model


def wanted_tiles(args: Namespace) -> Tiles | None:
    """How to cut images, None without --tiles."""
    if args.tiles:
        overlap = OVERLAP if args.tile_overlap is None else args.tile_overlap
        return Tiles(args.tile_size, overlap)
    for name in ("tile_size", "tile_overlap"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: expected --tiles with it")
    return None


def look_with(model: DiffusionAD, tiles: Tiles | None) -> tuple[Look, int]:
    """What to say of a batch of images, and how many to give: of large ones, one at a time."""
    if tiles is None:
        return model.explain, BATCH
    return partial(model.predict_tiled, tile=tiles.size, overlap=tiles.overlap), 1


def warn_of_threshold(model: DiffusionAD, tiles: Tiles | None) -> None:
    looked_at = described(None if tiles is None else tiles.of(model.config.image_size))
    calibrated = model.provenance.get("calibrated_on", looked_at)
    if calibrated != looked_at:
        log.warning(
            "the threshold was set on %s, the scores of %s differ: model.calibrate(good_images), "
            "or model.calibrate(model.predict_tiled(good_images)), sets it",
            calibrated,
            looked_at,
        )
