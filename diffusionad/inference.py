"""What two networks with their settings say of images: one by one, many, streams, tiles."""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from . import _core, brightness, metrics, normality, pretrained, tiling
from .arrays import as_array
from .config import ModelConfig, TrainConfig, update
from .denoising import Repair, autoencode, denoise
from .diffusion import Schedule
from .errors import InputError
from .images import (
    Floats,
    ImageSource,
    OneImage,
    as_items,
    batch_of,
    fit_to_network,
    is_pillow,
    pixels_of,
)
from .models import SegmentationNet, UNet
from .normality import Normality
from .prediction import (
    Explanation,
    ImageResult,
    Prediction,
    joined,
    labels_of,
    paths_of,
    shown,
    stacked,
)
from .tiling import OVERLAP, Tiles, described

log = logging.getLogger(__name__)

FALSE_ALARM_RATE = 0.01  # of good images, at the threshold that fit() sets
THRESHOLD_NOTES = ("threshold", "calibrated_on")  # in the provenance
SIZES = ("model", "input")
RGB = 3  # channels of an image, however it was stored
RUN_FLAGS = ("bfloat16", "fast", "low_memory")  # how this computer runs the networks
RANDOM_WEIGHTS = "random weights"  # a model's started_from
# By mode, the settings that decide a repair, and so what good images show and every score.
OF_REPAIRS = {
    "norm_guided": ("t_s", "t_b", "w", "seed"),
    "one_step": ("t_s", "seed"),
    "iterative": ("t_s", "seed"),
    "autoencoder": (),
}
THREADING = ("_turn", "_trainer")  # of this object: neither copied nor pickled
RENEWED_BY = {"normality": "measure_normality", "threshold": "calibrate"}

D = TypeVar("D", bound="Detector")
P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(look: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
    """A method that waits for those of other threads. InputError where one of these trains."""

    @functools.wraps(look)
    def in_turn(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn:
            if self._trainer not in (None, threading.get_ident()):
                raise InputError(
                    "model: another thread trains it; look at images when it is done, or with a "
                    "copy made before"
                )
            return look(self, *args, **kwargs)

    return in_turn


class Detector:
    """Both networks, their settings, a threshold; see DiffusionAD, which makes and trains them."""

    def _build(
        self, config: ModelConfig, train_config: TrainConfig, initialise: bool = True
    ) -> None:
        if config.in_channels != RGB:
            raise InputError(
                f"in_channels: expected {RGB}, images are read as RGB, got {config.in_channels}"
            )
        self.config = config
        self.train_config = train_config
        self.schedule = Schedule(config.schedule, config.timesteps)
        try:
            self.unet, self.seg = self._networks()
        except ValueError as error:  # of the core, which says what does not fit what
            raise InputError(str(error)) from error
        self._threshold: float | None = None
        self.normality: Normality | None = None  # what good images show; fit() measures it
        self.brightness: float | None = None  # theirs, where images are scaled to it
        self.provenance: dict[str, Any] = {}
        self._turn = threading.RLock()  # of looks: the networks do one thing at a time
        self._trainer: int | None = None  # the thread that trains them, alone
        self.started_from = self._initialise() if initialise else "a file"

    def _networks(self) -> tuple[UNet, SegmentationNet]:
        """Those of the settings, with any weights."""
        config = self.config
        unet = UNet(
            image_size=config.image_size,
            base_channels=config.base_channels,
            channel_mults=config.channel_mults,
            num_res_blocks=config.num_res_blocks,
            num_heads=config.num_heads,
            num_head_channels=config.num_head_channels,
            attention_resolutions=config.attention_resolutions,
            resblock_updown=config.resblock_updown,
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            dropout=config.dropout,
            patch_size=config.patch_size,
            preconditioned=config.preconditioned,
            schedule=self.schedule,
            seed=None,
        )
        seg = SegmentationNet(
            in_channels=2 * config.in_channels,
            base_channels=config.seg_channels,
            patch_size=config.seg_patch_size,
            seed=None,
        )
        return unet, seg

    def _initialise(self) -> str:
        """Give the networks the weights that training starts from; says which."""
        if self.config.pretrained and pretrained.load_into(self.networks):
            return "pretrained weights"
        for network in self.networks.values():
            network.initialise(self.config.seed)
        return RANDOM_WEIGHTS

    @property
    def threshold(self) -> float | None:
        """Score from which on an image counts as anomalous; set by fit(), calibrate() or you."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        number = None if value is None else _as_number(value)
        if number is not None and not math.isfinite(number):
            raise InputError(f"threshold: expected a finite number or None, got {value!r}")
        self._threshold = number
        notes = {k: v for k, v in self.provenance.items() if k not in THRESHOLD_NOTES}
        self.provenance = notes if number is None else {**notes, "threshold": "given"}

    @property
    def fast(self) -> bool:
        """Whether both networks evaluate faster, with more rounding; see UNet.fast."""
        return self.unet.fast and self.seg.fast

    @fast.setter
    def fast(self, fast: bool) -> None:
        self.unet.fast = self.seg.fast = bool(fast)

    @property
    def bfloat16(self) -> bool:
        """Whether both networks round what they multiply to bfloat16; see UNet.bfloat16."""
        return self.unet.bfloat16 and self.seg.bfloat16

    @bfloat16.setter
    def bfloat16(self, bfloat16: bool) -> None:
        self.unet.bfloat16 = self.seg.bfloat16 = bfloat16

    @property
    def low_memory(self) -> bool:
        """Whether both networks evaluate image by image, with the same results."""
        return self.unet.low_memory and self.seg.low_memory

    @low_memory.setter
    def low_memory(self, low_memory: bool) -> None:
        self.unet.low_memory = self.seg.low_memory = bool(low_memory)

    def _use(self, config: ModelConfig) -> None:
        """Take over other settings of use; a warning says what they make invalid."""
        before = self.config
        dropped = self._adopt(config)
        if dropped:
            log.warning(
                "%s changed, dropped what no longer holds: %s; to renew: %s",
                ", ".join(k for k, v in vars(config).items() if v != getattr(before, k)),
                ", ".join(dropped),
                ", then ".join(f"{RENEWED_BY[name]}(good_images)" for name in dropped),
            )

    def _adopt(self, config: ModelConfig) -> list[str]:
        """Take over other settings of use, drop what was measured with others, and say what."""
        with self._turn:
            normal = self.normality
            measured, scores, dropped = self._measured_by(normal), self._decided_by(), []
            self.config = config
            of_others = normal is not None and self._measured_by(normal) != measured
            by_others = self.threshold is not None and self._decided_by() != scores
            if of_others:
                self.normality = None
                self.provenance = {k: v for k, v in self.provenance.items() if k != "alignment"}
                dropped.append("normality")
            if by_others:
                self.threshold = None
                dropped.append("threshold")
        return dropped

    def _measured_by(self, normal: Normality | None) -> tuple[Any, ...]:
        """What departures depend on: repairs, and whether mirror images count."""
        mode = self.config.mode
        repairs = (getattr(self.config, name) for name in OF_REPAIRS[mode])
        return mode, *repairs, normal is not None and self._looks_twice(normal.pooled)

    def _decided_by(self) -> tuple[Any, ...]:
        """What scores depend on."""
        normal = self._in_force()
        return *self._measured_by(normal), self.config.top_k, normal is not None

    def _in_force(self) -> Normality | None:
        """What maps are measured by."""
        return self.normality if self.config.standardised else None

    @property
    def networks(self) -> dict[str, UNet | SegmentationNet]:
        """Both, by the names that files give them."""
        return {"unet": self.unet, "seg": self.seg}

    @property
    def num_parameters(self) -> int:
        """Trainable numbers of both networks."""
        return sum(network.num_parameters for network in self.networks.values())

    # ---- inference ----------------------------------------------------------------------------

    @_in_turn
    def predict(self, images: ImageSource, batch_size: int = 8, size: str = "model") -> Prediction:
        """Score images: a file, a folder, arrays, PIL images, or a sequence of them.

        Arrays are uint8 or floats in [0, 1], of any size: [H, W], [H, W, C] or [C, H, W], or N of
        those along another axis in front, with C = 1 or 3; see ``diffusionad.arrays`` for what is
        read how. Arrays of other libraries are taken by DLPack or the array interface.

        An image's result is the same, bit by bit, whatever the batch. ``size="input"`` brings each
        map to its image's own size. Raises InputError for what cannot be read or used.
        """
        _check(batch_size, size)
        parts = []
        for batch, x0, shapes in self._batches(images, batch_size):
            sized = shapes if size == "input" else None
            parts.append(self._predict(x0, paths_of(batch), sized))
        return joined(parts)

    def predict_stream(
        self,
        frames: Iterable[OneImage],
        batch_size: int = 8,
        max_latency: float | None = 0.1,
        size: str = "model",
    ) -> Iterator[ImageResult]:
        """Score frames as they come, from a camera say; yields the result of each, in order.

        A thread reads and decodes up to ``batch_size`` frames ahead while the core computes, so
        memory is bounded however long the stream is. A frame waits at most ``max_latency`` seconds
        for others of its batch, without limit for None or infinity; 0 takes what is there. Results
        equal those of predict() bit by bit. A source may use one buffer for all of its frames.

        What ``frames`` raises is raised here after the results of all frames before, and so is
        InputError for a frame that cannot be used. Closing the generator, also by leaving a loop
        over it, stops the thread.
        """
        from .streaming import Frame, stream

        _check(batch_size, size)
        if max_latency is not None and not max_latency >= 0:
            raise InputError(f"max_latency: expected 0 or more seconds, got {max_latency!r}")
        one = isinstance(frames, (str, os.PathLike)) or is_pillow(frames)
        if one or as_array(frames, "frames") is not None:
            frames = as_items(frames)
        if not hasattr(frames, "__iter__"):
            raise InputError(f"frames: expected images to go through, got {type(frames).__name__}")

        def look(batch: Sequence[Frame]) -> Prediction:
            shapes = [frame.shape for frame in batch] if size == "input" else None
            x0 = np.stack([frame.x0 for frame in batch])
            return self._predict(x0, [frame.path for frame in batch], shapes)

        return stream(look, frames, self.config.image_size, batch_size, max_latency)

    @_in_turn
    def predict_tiled(
        self,
        images: ImageSource,
        tile: int | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Prediction:
        """Score large images at their native resolution, tile by tile.

        Tiles are squares of ``tile`` pixels, the model's image size unless given (others are
        resized to it); neighbours have at least the share ``overlap`` of their side in common, and
        their maps are blended without seams. All tiles see the same noise. Scores are those of
        the blended maps, which have each image's own size; there are no reconstructions. Beside an
        image and its map this takes the memory of ``batch_size`` tiles.

        Tiles show parts at another scale than whole images do: train on such tiles (tiling.cut),
        and set the threshold with ``calibrate(model.predict_tiled(good))``. Raises InputError.
        """
        _check(batch_size)
        tiles, size = Tiles(tile, overlap).of(self.config.image_size), self.config.image_size
        parts = []
        for index, item in enumerate(as_items(images)):
            pixels = pixels_of(item, f"images[{index}]")
            blended = tiling.blended_map(self._map_of, pixels, tiles, size, batch_size)
            whole = self._matched(fit_to_network(pixels, size)[None])
            parts.append(self._say(whole, blended[None], None, paths_of([item]), tiles))
        return joined(parts)

    @_in_turn
    def explain(self, images: ImageSource, batch_size: int = 8) -> Explanation:
        """Every stage of images as predict() takes them: noised, repaired at both scales, guided,
        map, score."""
        _check(batch_size)
        said, repairs = [], []
        for batch, x0, _ in self._batches(images, batch_size):
            x0 = self._matched(x0)
            repair = self._repair(x0)
            said.append(self._say(x0, self._map(x0, repair), repair.x0, paths_of(batch)))
            repairs.append(repair if repair.x0_s is not None else replace(repair, x0_s=repair.x0))

        def stage(name: str) -> Any:
            parts = [getattr(repair, name) for repair in repairs]
            return None if parts[0] is None else np.concatenate(parts)

        stages = {name: stage(name) for name in Explanation.STAGES}
        return Explanation(**vars(joined(said)), **stages)

    def _batches(
        self, images: ImageSource, batch_size: int
    ) -> Iterator[tuple[Sequence[Any], Floats, list[tuple[int, int]]]]:
        """Images as they were given, at the networks' size, and each one's own height and width."""
        items = as_items(images)
        for first in range(0, len(items), batch_size):
            batch = items[first : first + batch_size]
            yield batch, *batch_of(batch, self.config.image_size, first)

    @_in_turn  # of a stream, each batch
    def _predict(
        self,
        x0: Floats,
        paths: Sequence[str | None],
        shapes: Sequence[tuple[int, int]] | None,
    ) -> Prediction:
        """Of a batch at the networks' size; with maps of these (height, width)."""
        x0 = self._matched(x0)
        repair = self._repair(x0)
        said = self._say(x0, self._map(x0, repair), repair.x0, paths)
        if shapes is None:
            return said
        pairs = zip(said.maps, shapes, strict=True)
        sized = stacked([_core.resize_f32(one, *shape) for one, shape in pairs])
        return replace(said, maps=sized)

    def _say(
        self,
        x0: Floats,
        maps: Floats,
        reconstructions: Floats | None,
        paths: Sequence[str | None],
        tiles: Tiles | None = None,
    ) -> Prediction:
        scores = metrics.image_scores(maps, top_k=self.config.top_k)
        return Prediction(
            scores=scores,
            maps=maps,
            reconstructions=reconstructions,
            labels=labels_of(scores, self.threshold),
            images=shown(x0),
            paths=paths,
            threshold=self.threshold,
            tiles=tiles,
        )

    def _matched(self, x0: Floats) -> Floats:
        """What the networks see of images at their size."""
        return x0 if self.brightness is None else brightness.matched(x0, self.brightness)

    def _map_of(self, x0: Floats) -> Floats:
        x0 = self._matched(x0)
        return self._map(x0, self._repair(x0))

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Keep other threads out: a look between the passes of a step would end the training."""
        with self._turn:
            if self._trainer is not None:
                raise InputError("model: it is being trained already; train a copy")
            self._trainer = threading.get_ident()
        try:
            yield
        finally:
            self._trainer = None

    def _repair(self, x0: Floats) -> Repair:
        config = self.config
        if config.mode == "autoencoder":
            return autoencode(self.unet, x0)
        return denoise(
            self.unet,
            x0,
            mode=config.mode,
            t_s=config.t_s,
            t_b=config.t_b,
            w=config.w,
            schedule=self.schedule,
            seed=config.seed,
        )

    def _map(self, x0: Floats, repair: Repair) -> Floats:
        normal = self._in_force()
        if normal is None:
            return self._mask(x0, repair)
        return normal.maps(self._departures(x0, repair, normal.pooled))

    def _departures(self, x0: Floats, repair: Repair, pooled: bool) -> Floats:
        """How far images are from what good ones show, before any measure."""
        found = normality.departures(self._mask(x0, repair), x0, repair.x0, pooled)
        if not self._looks_twice(pooled):
            return found
        other = np.ascontiguousarray(x0[..., ::-1])
        repair = self._repair(other)
        mirrored = normality.departures(self._mask(other, repair), other, repair.x0, pooled)
        return np.asarray((found + mirrored[..., ::-1]) / 2)

    def _looks_twice(self, pooled: bool) -> bool:
        """Whether mirror images count: where all pixels are measured together, if they are to."""
        return pooled and self.config.mirrored

    def _mask(self, x0: Floats, repair: Repair) -> Floats:
        """What the segmentation network says, by no measure but its own."""
        return self.seg(np.concatenate([x0, repair.x0], axis=1))[:, 0]

    @_in_turn
    def measure_normality(self, images: ImageSource, batch_size: int = 8) -> float:
        """Note what good images show, to measure maps by it; the threshold is void then.

        It is of one noise and one way to repair and to look (``mirrored``), and dropped where these
        are changed. Maps are ``standardised`` from now on.

        Of images as predict() takes them. Gives their alignment, at most 1: from 0.6 on maps are
        relative to what these images show at each pixel, below to what they show anywhere.
        """
        seen = [self._matched(x0) for _, x0, _ in self._batches(images, batch_size)]
        alignment = normality.alignment(seen)
        pooled = alignment < normality.ALIGNED
        found = (self._departures(x0, self._repair(x0), pooled) for x0 in seen)
        measured = normality.measure(found, pooled)
        self.threshold, self.normality = None, measured
        self.provenance["alignment"] = round(alignment, 4)
        self.config = update(self.config, {"standardised": True})
        return alignment

    @_in_turn
    def calibrate(
        self, images: ImageSource | Prediction, false_alarm_rate: float = FALSE_ALARM_RATE
    ) -> float:
        """Set the threshold so that at most this share of good images reaches it.

        They are given as images, or as what predict() or predict_tiled() has said of them.
        """
        if not 0.0 <= false_alarm_rate < 1.0:
            raise InputError(f"false_alarm_rate: expected 0 to below 1, got {false_alarm_rate}")
        said = images if isinstance(images, Prediction) else self.predict(images)
        scores = np.sort(said.scores)
        if not len(scores):
            raise InputError("images: expected at least one image, got none")
        allowed = int(false_alarm_rate * len(scores))
        threshold = float(np.nextafter(scores[len(scores) - 1 - allowed], np.inf))
        if threshold > 1.0:
            log.warning("the threshold is above 1, which no score is: no image is anomalous by it")
        self.threshold = threshold
        self.provenance["threshold"] = f"reached by at most {allowed} of {len(scores)} good images"
        self.provenance["calibrated_on"] = described(said.tiles)
        return threshold


def _check(batch_size: int, size: str = "model") -> None:
    if size not in SIZES:
        raise InputError(f'size: expected "model" or "input", got {size!r}')
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, got {batch_size}")


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"threshold: expected a number or None, got {value!r}") from error
