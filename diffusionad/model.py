"""A detector of anomalies: both networks with their settings, trained, used, kept in one file."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, checkpoints, metrics, official
from .config import ModelConfig, TrainConfig, from_dict, preset, to_dict, update
from .denoising import Repair, autoencode, denoise
from .diffusion import Schedule
from .errors import InputError
from .files import PathLike, run_folder
from .images import Floats, ImageSource, list_images, read_image, to_network
from .models import SegmentationNet, UNet

FALSE_ALARM_RATE = 0.01  # of good images, at the threshold that fit() sets


@dataclass(frozen=True)
class Prediction:
    """What the model says of N images.

    ``scores`` (N,) float64; ``maps`` (N, H, W) float32 in [0, 1], or a list of (H, W) maps where
    the images differ in size; ``reconstructions`` (N, 3, H, W) float32; ``labels`` (N,), 1 where
    the score reaches the model's threshold, or None without one.
    """

    scores: npt.NDArray[np.float64]
    maps: Floats | list[Floats]
    reconstructions: Floats
    labels: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Explanation:
    """Every stage of the method for N images; see Repair. One step without guidance has no x_b."""

    scores: npt.NDArray[np.float64]
    maps: Floats
    x0: Floats
    x_s: Floats
    x0_s: Floats
    x_b: Floats | None
    x0_b: Floats | None


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; given to the callback of fit() after every step."""

    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


class DiffusionAD:
    """Finds anomalies in images after training on good ones only.

    ``preset`` names the settings to start from (``"compact"``, ``"paper"``); ``overrides`` change
    single settings of ModelConfig or TrainConfig. ``image_size`` is the side, in pixels, to which
    images are resized; maps have it too. ``fast`` and ``low_memory`` are how this computer runs the
    networks, not settings of the model: a file does not keep them, and they may be set at any time.
    Raises InputError for unknown settings and bad values.

    >>> model = DiffusionAD(preset="compact", image_size=64)
    >>> model.predict(np.zeros((2, 3, 64, 64), np.float32)).maps.shape
    (2, 64, 64)
    """

    def __init__(
        self,
        preset: str = "compact",
        image_size: int | None = None,
        seed: int = 0,
        *,
        fast: bool = False,
        low_memory: bool = False,
        **overrides: Any,
    ) -> None:
        config, train_config = _settings(preset, image_size=image_size, seed=seed, **overrides)
        self._build(config, train_config)
        self.fast, self.low_memory = fast, low_memory

    def _build(
        self, config: ModelConfig, train_config: TrainConfig, initialise: bool = True
    ) -> None:
        seed = config.seed if initialise else None
        self.config = config
        self.train_config = train_config
        self.schedule = Schedule(config.schedule, config.timesteps)
        self.unet = UNet(
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
            seed=seed,
        )
        self.seg = SegmentationNet(
            in_channels=2 * config.in_channels,
            base_channels=config.seg_channels,
            patch_size=config.seg_patch_size,
            seed=seed,
        )
        self._threshold: float | None = None
        self.provenance: dict[str, Any] = {}

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
        self.provenance = {**self.provenance, "threshold": "given"}
        if number is None:
            del self.provenance["threshold"]

    @property
    def fast(self) -> bool:
        """Whether both networks evaluate faster with more rounding: see UNet.fast."""
        return self.unet.fast and self.seg.fast

    @fast.setter
    def fast(self, fast: bool) -> None:
        self.unet.fast = self.seg.fast = bool(fast)

    @property
    def low_memory(self) -> bool:
        """Whether both networks evaluate image by image, with the same results."""
        return self.unet.low_memory and self.seg.low_memory

    @low_memory.setter
    def low_memory(self, low_memory: bool) -> None:
        self.unet.low_memory = self.seg.low_memory = bool(low_memory)

    @property
    def seed(self) -> int:
        """Decides the evaluation noise (and, before training, weights and training)."""
        return self.config.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.config = update(self.config, {"seed": seed})

    # ---- inference ----------------------------------------------------------------------------

    def predict(self, images: ImageSource, batch_size: int = 8, size: str = "model") -> Prediction:
        """Score images: a file, a folder, arrays, or a sequence of them (see images.to_network).

        An image's result is the same, bit by bit, whatever the batch. ``size="input"`` brings each
        map to its image's own size. Raises InputError for what cannot be read or used.
        """
        if size not in ("model", "input"):
            raise InputError(f'size: expected "model" or "input", got {size!r}')
        if batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
        items = _as_sequence(images)
        scores, maps, repairs = [], [], []
        sized: list[Floats] = []
        for first in range(0, len(items), batch_size):
            batch = items[first : first + batch_size]
            if size == "input" and not isinstance(batch, np.ndarray):
                batch = [read_image(i) if isinstance(i, (str, os.PathLike)) else i for i in batch]
            x0 = to_network(batch, self.config.image_size, first)
            repair = self._repair(x0)
            found = self._map(x0, repair)
            scores.append(metrics.image_scores(found, top_k=self.config.top_k))
            repairs.append(repair.x0)
            if size == "input":
                sized += [
                    _core.resize_f32(one, *_image_size(pixels))
                    for one, pixels in zip(found, batch, strict=True)
                ]
            else:
                maps.append(found)
        all_scores = np.concatenate(scores)
        same_size = len({one.shape for one in sized}) == 1
        return Prediction(
            scores=all_scores,
            maps=np.concatenate(maps) if maps else (np.stack(sized) if same_size else sized),
            reconstructions=np.concatenate(repairs),
            labels=self._labels(all_scores),
        )

    def explain(self, images: ImageSource) -> Explanation:
        """Every stage of a batch: noised, repaired at both scales, guided, map, score."""
        x0 = to_network(images, self.config.image_size)
        repair = self._repair(x0)
        found = self._map(x0, repair)
        return Explanation(
            scores=metrics.image_scores(found, top_k=self.config.top_k),
            maps=found,
            x0=repair.x0,
            x_s=repair.x_s,
            x0_s=repair.x0 if repair.x0_s is None else repair.x0_s,
            x_b=repair.x_b,
            x0_b=repair.x0_b,
        )

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
        return self.seg(np.concatenate([x0, repair.x0], axis=1))[:, 0]

    def _labels(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
        return None if self.threshold is None else (scores >= self.threshold).astype(np.int64)

    def calibrate(self, images: ImageSource, false_alarm_rate: float = FALSE_ALARM_RATE) -> float:
        """Set the threshold so that at most this share of the given good images reaches it."""
        if not 0.0 <= false_alarm_rate < 1.0:
            raise InputError(f"false_alarm_rate: expected 0 to below 1, got {false_alarm_rate}")
        scores = np.sort(self.predict(images).scores)
        allowed = int(false_alarm_rate * len(scores))
        threshold = float(np.nextafter(scores[len(scores) - 1 - allowed], np.inf))
        self.threshold = threshold
        self.provenance["threshold"] = f"reached by at most {allowed} of {len(scores)} good images"
        return threshold

    # ---- training -----------------------------------------------------------------------------

    def fit(
        self,
        source: Any,
        anomaly_source: PathLike | None = None,
        time_budget: float | None = None,
        steps: int | None = None,
        foreground: PathLike | None = None,
        progress: ProgressCallback | None = None,
        out: PathLike | None = None,
        resume: bool = False,
        kind: str | None = None,
    ) -> DiffusionAD:
        """Train on good images: a Dataset, a folder, or images as predict() takes them.

        ``anomaly_source`` is a folder of textures (DTD, say) for the synthetic defects; without it
        they are generated. ``time_budget`` (seconds, the whole call) is turned into a step count
        once; ``steps`` gives it directly.

        ``kind`` is ``"object"`` (defects lie on the object) or ``"texture"`` (in random parts of
        the image, never made from the image itself); else the dataset's own kind counts, and for
        images of none defects lie anywhere. ``foreground`` is a folder with a mask per image, of
        the same name, to which defects are confined; without it `<category>/DISthresh/good` is
        used where there is one, and for objects the masks are found (see saliency).

        With ``out``, model, state and log are written there at every checkpoint, when done and when
        interrupted (Ctrl-C waits for the end of a step); ``resume`` goes on from there, bit for
        bit, with the settings and the number of steps of that run. One run at a time may use the
        folder. Raises InputError for unusable input, WriteError where ``out`` cannot be written,
        FloatingPointError on divergence.
        """
        from .fitting import Fit

        start = time.monotonic()
        with nullcontext() if out is None else run_folder(out) as folder:
            run = Fit(self, source, anomaly_source, foreground, folder, start, kind)
            if resume:
                run.resume(steps)
            else:
                run.plan(time_budget, steps)
            run.train(progress)
        return self

    def training_memory(self) -> dict[str, int]:
        """Bytes that a training step takes, known before the first one.

        ``"weights"`` of both networks with gradients and Adam's moments, ``"activations"`` and
        ``"scratch"`` of a batch, of which the UNet sees every image at two noise scales (the
        autoencoder sees it once), and their ``"total"``.
        """
        batch, size = self.train_config.batch_size, self.config.image_size
        seg = self.seg.config
        sized = _core.segmenter(  # the segmentation network takes its size from what it is given
            height=size,
            width=size,
            in_channels=seg["in_channels"],
            out_channels=seg["out_channels"],
            base_channels=seg["base_channels"],
            patch=seg["patch_size"],
        )
        recompute = self.train_config.recompute
        passes = 1 if self.config.mode == "autoencoder" else 2
        parts = [
            network.memory(images, training=True, recompute=recompute)
            for network, images in ((self.unet._core, passes * batch), (sized, batch))
        ]
        names = {"weights": "weights", "activations": "arena", "scratch": "scratch"}
        sums = {ours: sum(part[name] for part in parts) for ours, name in names.items()}
        return {**sums, "total": sum(sums.values())}

    # ---- files --------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Write the model as safetensors, whole or not at all. Raises WriteError."""
        checkpoints.save_model(path, self._checkpoint())

    def save_official(self, path: PathLike) -> None:
        """Write the model as a `.pt` of the reference implementation; PyTorch is not needed.

        ``torch.load`` reads it with ``weights_only=True``, the reference's networks take its two
        state dicts, and load_official() gets everything back, threshold and provenance too. Raises
        InputError for models with patches or preconditioning (preset "compact"), which the
        reference's networks do not have; WriteError.
        """
        official.save(path, self._checkpoint())

    def export_onnx(self, path: PathLike, noise_inputs: bool = False) -> None:
        """Write the model as one ONNX graph: image to score, map and reconstruction.

        See export.export_onnx for their names and shapes. The evaluation noise is in the file, or
        with ``noise_inputs`` given with each image. Raises MissingPackage without the package onnx
        (the extra "onnx"), InputError for models of 2 GiB and more, WriteError.
        """
        from .export import export_onnx

        export_onnx(self, path, noise_inputs)

    def _checkpoint(self) -> checkpoints.Checkpoint:
        """All that a file holds; parameters are read when they are written, one by one."""
        return checkpoints.Checkpoint(
            unet=self.unet.parameter_views(),
            seg=self.seg.parameter_views(),
            config={"model": to_dict(self.config), "train": to_dict(self.train_config)},
            provenance=self.provenance,
            threshold=self.threshold,
        )

    @property
    def num_parameters(self) -> int:
        """Trainable numbers of both networks."""
        return self.unet.num_parameters + self.seg.num_parameters

    def __repr__(self) -> str:
        c = self.config
        return (
            f"DiffusionAD(preset={c.preset!r}, image_size={c.image_size}, seed={c.seed}, "
            f"parameters={self.num_parameters:,})"
        )


def load(path: PathLike) -> DiffusionAD:
    """Read a model that save() wrote. Raises InputError if it is missing, broken or newer."""
    return _restored(path, checkpoints.load_model(path))


def load_official(path: PathLike, **settings: Any) -> DiffusionAD:
    """Read a `.pt` of the reference implementation; nothing in it is run, PyTorch is not needed.

    The structure of the networks is inferred from their parameters, the rest is taken from the
    arguments in the file. ``settings`` of ModelConfig and TrainConfig go before these; files
    without arguments may need ``image_size`` (pixels) and ``num_heads``. There is no threshold in
    such a file, unless save_official() wrote it: see calibrate(). Raises InputError that names the
    file if it is missing or broken, or holds anything but tensors and plain containers.
    """
    with official.opened(path, settings) as checkpoint:
        return _restored(path, checkpoint)


def _restored(path: PathLike, checkpoint: checkpoints.Checkpoint) -> DiffusionAD:
    try:
        model = DiffusionAD.__new__(DiffusionAD)
        model._build(
            from_dict(ModelConfig, checkpoint.config.get("model", {})),
            from_dict(TrainConfig, checkpoint.config.get("train", {})),
            initialise=False,
        )
        model.unet.load_state_dict(checkpoint.unet)
        model.seg.load_state_dict(checkpoint.seg)
    except (KeyError, ValueError, TypeError) as error:
        message = str(error.args[0] if error.args else error)
        raise InputError(f"{path}: the file does not fit its own settings: {message}") from error
    model._threshold = checkpoint.threshold
    model.provenance = checkpoint.provenance
    return model


def _settings(name: str, **overrides: Any) -> tuple[ModelConfig, TrainConfig]:
    model, train = preset(name, **overrides)
    return dataclasses.replace(model, preset=name), train


def _as_sequence(images: ImageSource) -> Any:
    """Images as something to take batches from."""
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images)
        images = list_images(folder) if folder.is_dir() else [folder]
        if not images:
            raise InputError(f"{folder}: no images in this folder")
    elif isinstance(images, np.ndarray):
        if images.ndim not in (3, 4):
            raise InputError(
                "images: expected uint8 [N, H, W, 3] or float32 [N, 3, H, W], or one image, "
                f"got {images.dtype} {list(images.shape)}"
            )
        images = images[None] if images.ndim == 3 else images
    else:
        try:
            images = list(images)
        except TypeError as error:
            raise InputError(
                f"images: expected arrays or paths, got {type(images).__name__}"
            ) from error
    if len(images) == 0:
        raise InputError("images: expected at least one image, got none")
    return images


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"threshold: expected a number or None, got {value!r}") from error


def _image_size(pixels: npt.NDArray[Any]) -> tuple[int, int]:
    """(height, width) of uint8 [H, W, 3] or float32 [3, H, W]."""
    height, width = pixels.shape[:2] if pixels.dtype == np.uint8 else pixels.shape[1:]
    return height, width
