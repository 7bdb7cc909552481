"""A detector of anomalies: both networks with their settings, trained, used, kept in one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, checkpoints
from .config import ModelConfig, TrainConfig, from_dict, settings, to_dict, update
from .errors import InputError
from .estimator import Estimator, good_images
from .files import PathLike, run_folder
from .inference import THREADING
from .models import main_shapes
from .normality import Normality
from .seeds import Seed
from .training_memory import GB, copies, planned, recomputed


@dataclass(frozen=True)
class Progress:
    """Where a training run stands; given to the callback of fit() after every step."""

    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float
    seconds_left: float


ProgressCallback = Callable[[Progress], None]


class DiffusionAD(Estimator):
    """Finds anomalies in images after training on good ones only.

    ``preset`` names the settings to start from (``"tiny"``, ``"compact"``, ``"standard"``,
    ``"paper"``); ``overrides`` change single settings of ModelConfig or TrainConfig. ``image_size``
    is the side, in pixels, to which images are resized; maps have it too. ``fast``,
    ``bfloat16`` and ``low_memory`` are how this computer runs the networks, not settings of the
    model: a file does not keep them, and they may be set at any time. Raises InputError for unknown
    settings and bad values.

    >>> import numpy as np
    >>> model = DiffusionAD(preset="compact", image_size=64)
    >>> model.predict(np.zeros((2, 3, 64, 64), np.float32)).maps.shape
    (2, 64, 64)
    """

    def __init__(
        self,
        preset: str = "compact",
        image_size: int | None = None,
        seed: Seed = 0,
        *,
        fast: bool = False,
        bfloat16: bool = False,
        low_memory: bool = False,
        **overrides: Any,
    ) -> None:
        config, train_config = settings(preset, image_size=image_size, seed=seed, **overrides)
        self._build(config, train_config)
        self.fast, self.bfloat16, self.low_memory = fast, bfloat16, low_memory

    # ---- training -----------------------------------------------------------------------------

    def fit(
        self,
        source: Any,
        y: npt.ArrayLike | None = None,
        *,
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

        With ``y``, labels (N,) of images, those of label 1 are left out: scikit-learn's
        cross-validation hands over both kinds.

        A model that was trained or loaded is trained on (fine-tuned): weights, running statistics
        and settings are kept; the optimizer, the learning rates, the count of steps and the
        threshold begin anew, and provenance names the earlier training as ``"fine_tuned_from"``.

        ``anomaly_source`` is a folder of textures (DTD, say) for the synthetic defects; without it
        they are generated. ``time_budget`` (seconds, the whole call) is turned into a step count,
        and into another where the machine becomes slower or faster (provenance:
        ``"replanned"``); ``steps`` gives it directly.

        ``kind`` is ``"object"`` (defects lie on the object) or ``"texture"`` (in random parts of
        the image, never made from the image itself); else the dataset's own kind counts, and for
        images of none defects lie anywhere. ``foreground`` is a folder with a mask per image, of
        the same name, to which defects are confined, or the ONNX file of a network that finds
        them (see saliency_network); without it `<category>/DISthresh/good` is used where there is
        one, and for objects the masks are found (see saliency).

        With ``out``, model, state and log are written there at every checkpoint, when done and when
        interrupted (Ctrl-C waits for the end of a step); ``resume`` goes on from there, bit for
        bit, with the settings and the number of steps of that run. One run at a time may use the
        folder. Looks of other threads are refused meanwhile. Raises InputError for unusable input,
        WriteError where ``out`` cannot be written, FloatingPointError on divergence.

        >>> import numpy as np
        >>> good = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
        >>> model = DiffusionAD(image_size=32, batch_size=2, kind="texture").fit(good, steps=2)
        >>> model.provenance["train_steps"], model.threshold is not None
        (2, True)
        """
        from .fitting import Fit

        start = time.monotonic()
        with self._training(), nullcontext() if out is None else run_folder(out) as folder:
            run = Fit(self, good_images(source, y), anomaly_source, foreground, folder, start, kind)
            if resume:
                run.resume(steps)
            else:
                run.plan(time_budget, steps)
            self._has_weights = True
            try:
                run.train(progress)
            finally:  # a training pass holds several times what a look at images needs
                for network in self.networks.values():
                    network._core.trim()
        return self

    def training_memory(self) -> dict[str, int]:
        """Bytes that a training step takes, known before the first one.

        ``"weights"`` of both networks with gradients, Adam's moments, averages (``ema_decay``), the
        best so far (``validation_share``), the first ones and the mean of the finished members
        (``member_steps``); ``"activations"`` and ``"scratch"`` of a batch, of which the UNet sees
        every image at two noise scales (the autoencoder sees it once); and their ``"total"``, which
        is at most ``memory_budget`` where making values again can keep that.
        """
        config, size = self.train_config, self.config.image_size
        passes = 1 if self.config.mode == "autoencoder" else 2
        step = (self.unet, self.seg, config.batch_size, (size, size), passes)
        beside = copies(config, self.num_parameters)
        sums = planned(*step, recomputed(*step, config.memory_budget * GB - beside))
        return {**sums, "weights": sums["weights"] + beside, "total": sums["total"] + beside}

    # ---- files --------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Write the model as safetensors, whole or not at all. Raises WriteError."""
        checkpoints.save_model(path, self._checkpoint())

    def save_official(self, path: PathLike) -> None:
        """Write the model as a `.pt` of the reference implementation; PyTorch is not needed.

        ``torch.load`` reads it with ``weights_only=True``, the reference's networks take its two
        state dicts, and load_official() gets everything back, threshold and provenance too. Raises
        InputError for models with patches, preconditioning or standardised maps (preset "compact"),
        which the reference does not have; WriteError.
        """
        from . import official

        official.save(path, self._checkpoint())

    def export_onnx(self, path: PathLike, noise_inputs: bool = False) -> None:
        """Write the model as one ONNX graph: image to score, map and reconstruction.

        See export.export_onnx for their names and shapes. The evaluation noise is in the file, or
        with ``noise_inputs`` given with each image. Raises MissingPackage without the package onnx
        (the extra "onnx"), InputError for iterative denoising and models of 2 GiB and more,
        WriteError.
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
            normality=self._of_good_images(),
        )

    def _of_good_images(self) -> dict[str, npt.NDArray[np.float32]]:
        """What a file notes of the good images beside the threshold: what is in force."""
        normal = self._in_force()
        noted = {} if normal is None else dict(vars(normal))
        if self.brightness is not None:
            noted["brightness"] = np.array([self.brightness], np.float32)
        return noted

    def __getstate__(self) -> dict[str, Any]:
        """Everything, for pickle and copies: the core's networks as their state dicts."""
        made_anew = ("unet", "seg", "schedule", *THREADING)
        plain = {k: v for k, v in vars(self).items() if k not in made_anew}
        return {
            "plain": plain,
            "unet": self.unet.state_dict(),
            "seg": self.seg.state_dict(),
            "flags": self._run_flags(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        plain = state["plain"]
        self._build(plain["config"], plain["train_config"], initialise=False)
        vars(self).update(plain)
        self.unet.load_state_dict(state["unet"])
        self.seg.load_state_dict(state["seg"])
        for name, value in state["flags"].items():
            if name != "bfloat16" or _core.has_bfloat16():
                setattr(self, name, value)

    def __repr__(self) -> str:
        c = self.config
        return (
            f"DiffusionAD(preset={c.preset!r}, image_size={c.image_size}, seed={c.seed}, "
            f"parameters={self.num_parameters:,})"
        )


def load(path: PathLike) -> DiffusionAD:
    """Read a model that save() wrote. Raises InputError if it is missing, broken or newer."""
    with checkpoints.opened_model(path) as checkpoint:
        return _restored(path, checkpoint)


def load_official(path: PathLike, **settings: Any) -> DiffusionAD:
    """Read a `.pt` of the reference implementation; nothing in it is run, PyTorch is not needed.

    The structure of the networks is inferred from their parameters, the rest is taken from the
    arguments in the file. ``settings`` of ModelConfig and TrainConfig go before these; files
    without arguments may need ``image_size`` (pixels) and ``num_heads``. There is no threshold in
    such a file, unless save_official() wrote it: see calibrate(). Raises InputError that names the
    file if it is missing or broken, or holds anything but tensors and plain containers.
    """
    from . import official

    with official.opened(path, settings) as checkpoint:
        model = _restored(path, checkpoint)
    model._kind_of_file = "kind" not in settings
    return model


def _restored(path: PathLike, checkpoint: checkpoints.Checkpoint) -> DiffusionAD:
    try:
        config = from_dict(ModelConfig, checkpoint.config.get("model", {}))
        train_config = from_dict(TrainConfig, checkpoint.config.get("train", {}))
        _check_sizes(config, checkpoint)
        model = DiffusionAD.__new__(DiffusionAD)
        model._build(config, train_config, initialise=False)
        model.unet.load_state_dict(checkpoint.unet)
        model.seg.load_state_dict(checkpoint.seg)
    except checkpoints.ODD as error:
        message = str(error.args[0] if error.args else error)
        raise InputError(f"{path}: the file does not fit its own settings: {message}") from error
    model._threshold = checkpoint.threshold
    noted = dict(checkpoint.normality)
    if "brightness" in noted:
        model.brightness = _brightness(path, np.array(noted.pop("brightness")))
    if noted:
        model.normality = _normality(path, noted, model.config.image_size)
        # Files of earlier versions may say that it is not in force, where it was.
        model.config = update(model.config, {"standardised": True})
    model.provenance = checkpoint.provenance
    return model


def _check_sizes(config: ModelConfig, checkpoint: checkpoints.Checkpoint) -> None:
    """Refuse settings for which the tensors are too small, before memory is taken for them.

    A file of a few kB could otherwise have networks of any size made. Raises InputError.
    """
    for network, name, shape in main_shapes(config):
        tensors = getattr(checkpoint, network)
        if name not in tensors:
            raise InputError(f"{network}: name missing: {name}")
        if (found := tuple(tensors[name].shape)) != shape:
            raise InputError(f"{network}.{name}: expected shape {shape}, got {found}")


def _normality(path: PathLike, tensors: Mapping[str, Any], side: int) -> Normality:
    pooled = "mean" in tensors and tuple(tensors["mean"].shape) == (2, 1, 1)
    wanted = (2, 1, 1) if pooled else (2, side, side)
    for name in ("mean", "deviation"):
        shape = tuple(tensors[name].shape) if name in tensors else "nothing"
        if shape != wanted:
            raise InputError(f"{path}: normality.{name}: expected {list(wanted)}, got {shape}")
    mean, deviation = (np.array(tensors[name], np.float32) for name in ("mean", "deviation"))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise InputError(f"{path}: normality: expected finite means, and deviations from 0 on")
    return Normality(mean, deviation)


def _brightness(path: PathLike, value: npt.NDArray[Any]) -> float:
    if value.shape != (1,) or not 0 <= value[0] <= 1:
        raise InputError(f"{path}: normality.brightness: expected one number from 0 to 1")
    return float(value[0])
