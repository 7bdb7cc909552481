"""A training run: its images, its length, its steps, and what it leaves on disk.

A step's batch is a function of the seed and the step's number: images, synthetic anomalies, time
steps and noise. So a run that was interrupted goes on bit for bit from weights and moments alone.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import checkpoints, datasets, system
from .config import to_toml, update
from .datasets import Dataset
from .errors import InputError
from .files import PathLike, make_folder, write_text
from .images import Bytes, Floats, list_images, read_image, read_mask, resize, to_network
from .models import SegmentationNet, UNet
from .synthesis import SynthesisOptions, synthesize_batch
from .training import StepResult, Trainer

if TYPE_CHECKING:
    from .model import DiffusionAD, ProgressCallback

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"
LOG_FILE = "log.csv"
CONFIG_FILE = "config.toml"

TIMING_STEPS = 6  # tried, on other networks, to turn a time budget into a step count
RESERVE = 0.05  # of a time budget, for checkpoints and the end
CALIBRATION_IMAGES = 64
LOG_COLUMNS = ("step", "total", "noise", "focal", "smooth_l1", "bce", "dice", "seconds")


class Fit:
    """One call of DiffusionAD.fit: plan() or resume(), then train()."""

    def __init__(
        self,
        model: DiffusionAD,
        source: Any,
        anomaly_source: PathLike | None,
        foreground: PathLike | None,
        out: PathLike | None,
        start: float,
    ) -> None:
        self.model = model
        self.start = start
        self.out = None if out is None else make_folder(out)
        self.images, self.names, self.origin = _load_images(source, model.config.image_size)
        self.textures = None if anomaly_source is None else Textures(anomaly_source, self.size)
        self.foregrounds = (
            None if foreground is None else _load_foregrounds(foreground, self.names, self.size)
        )
        self.origin["anomaly_source"] = (
            "procedural" if anomaly_source is None else Path(anomaly_source).name
        )
        self.trainer = self._new_trainer(model.unet, model.seg)
        self.seconds_before = 0.0
        self.log: list[dict[str, float]] = []

    @property
    def size(self) -> int:
        return self.model.config.image_size

    def plan(self, time_budget: float | None, steps: int | None) -> None:
        """Fix the number of steps; it becomes part of the model's settings."""
        if time_budget is not None and steps is not None:
            raise InputError("steps, time_budget: expected one of the two, got both")
        if steps is not None and steps < 1:
            raise InputError(f"steps: expected 1 or more, got {steps}")
        if time_budget is not None:
            if not time_budget > 0:
                raise InputError(f"time_budget: expected seconds above 0, got {time_budget}")
            steps = self._steps_within(time_budget)
        if steps is not None:
            self.model.train_config = update(self.model.train_config, {"steps": steps})
        self.trainer = self._new_trainer(self.model.unet, self.model.seg)

    def resume(self, steps: int | None) -> None:
        """Take weights, moments and progress from `out`; the number of steps stays what it was."""
        if self.out is None:
            raise InputError("resume: expected out, the folder of the run to go on with")
        if steps is not None and steps != self.model.train_config.steps:
            raise InputError(
                f"steps: a run that is resumed keeps its {self.model.train_config.steps} steps"
            )
        path = self.out / STATE_FILE
        tensors, values = checkpoints.load_state(path)
        if values.get("images") != self.origin["images"]:
            raise InputError(f"{path}: this run was trained on other images")
        try:
            for name, network in self._networks().items():
                network.load_training_state(
                    {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}
                )
            self.trainer.iteration = int(values["iteration"])
            self.seconds_before = float(values["seconds"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: does not fit the model: {error}") from error
        self.log = _read_log(self.out / LOG_FILE, self.trainer.iteration)

    def train(self, progress: ProgressCallback | None) -> None:
        """Run the steps that are left; save on the way, at the end, and when interrupted."""
        from .model import Progress

        config = self.model.train_config
        begun, first = time.monotonic(), self.trainer.iteration
        try:
            while self.trainer.iteration < config.steps:
                result = self._step(self.trainer)
                step = self.trainer.iteration
                seconds = time.monotonic() - begun
                self.log.append({"step": step, **result.losses, "seconds": self._seconds()})
                if progress is not None:
                    per_step = seconds / (step - first)
                    progress(
                        Progress(
                            step=step,
                            steps=config.steps,
                            losses=result.losses,
                            images_per_second=config.batch_size / per_step,
                            seconds_left=per_step * (config.steps - step),
                        )
                    )
                if step % config.checkpoint_every == 0 and step < config.steps:
                    self._save()
        except KeyboardInterrupt:
            self._save()
            raise
        chosen = np.linspace(0, len(self.images) - 1, min(len(self.images), CALIBRATION_IMAGES))
        self.model.calibrate(_as_floats(self.images[np.unique(chosen.astype(int))]))
        self._save()

    # ---- steps --------------------------------------------------------------------------------

    def _networks(self) -> dict[str, UNet | SegmentationNet]:
        return {"unet": self.model.unet, "seg": self.model.seg}

    def _new_trainer(self, unet: UNet, seg: SegmentationNet) -> Trainer:
        config = self.model.train_config
        return Trainer(
            unet,
            seg,
            unet_lr=config.unet_lr,
            seg_lr=config.seg_lr,
            seg_cosine_t_max=config.seg_cosine_t_max,
            guidance=config.guidance,
            schedule=self.model.schedule,
            losses=config.losses,
            total_steps=config.steps if config.anneal else 0,
            warmup=min(config.warmup, config.steps // 4),
            weight_decay=config.weight_decay,
            recompute=config.recompute,
            seed=self.model.config.seed,
        )

    def _step(self, trainer: Trainer) -> StepResult:
        """One step of a trainer on the batch of its iteration."""
        config = self.model.train_config
        rng = np.random.default_rng([self.model.config.seed, trainer.iteration, 1])
        chosen = rng.integers(0, len(self.images), config.batch_size)
        images, masks, labels = synthesize_batch(
            _as_floats(self.images[chosen]),
            None if self.foregrounds is None else self.foregrounds[chosen],
            None if self.textures is None else self.textures.draw(rng, config.batch_size),
            rng.integers(0, 2**64, config.batch_size, dtype=np.uint64),
            SynthesisOptions(
                anomaly_probability=config.anomaly_probability,
                self_probability=config.self_probability,
                exponents=(config.smallest_exponent, config.largest_exponent),
                random_part=config.random_part,
            ),
        )
        return trainer.step(images, masks, labels)

    def _steps_within(self, time_budget: float) -> int:
        """How many steps fit what is left of the budget; tried on networks that are thrown away."""
        model = self.model
        trainer = self._new_trainer(
            UNet(**model.unet.config, schedule=model.schedule), SegmentationNet(**model.seg.config)
        )
        seconds = []
        for _ in range(TIMING_STEPS):
            begun = time.monotonic()
            self._step(trainer)
            seconds.append(time.monotonic() - begun)
        per_step = statistics.median(seconds[1:])  # the first one also allocates
        left = time_budget * (1 - RESERVE) - (time.monotonic() - self.start)
        return max(1, int(left / per_step))

    # ---- files --------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.start

    def _save(self) -> None:
        """Note the run in the model; with `out`, write everything: state first, the model last."""
        model, step = self.model, self.trainer.iteration
        model.provenance = {
            "train_steps": step,
            "train_seconds": round(self._seconds(), 3),
            "finished": step >= model.train_config.steps,
            "seed": model.config.seed,
            "data": self.origin,
            "threshold": "reached by at most 1 % of training images",
            "versions": system.versions(),
            "created": system.now(),
        }
        if self.out is None:
            return
        tensors = {
            f"{name}.{key}": value
            for name, network in self._networks().items()
            for key, value in network.training_state().items()
        }
        values = {
            "iteration": step,
            "seconds": self._seconds(),
            "images": self.origin["images"],
        }
        checkpoints.save_state(self.out / STATE_FILE, tensors, values)
        write_text(self.out / LOG_FILE, _log_text(self.log), durable=False)
        write_text(self.out / CONFIG_FILE, to_toml(model.config, model.train_config))
        model.save(self.out / MODEL_FILE)


class Textures:
    """Appearances of anomalies: the images of a folder, read when drawn, kept at network size."""

    def __init__(self, folder: PathLike, size: int) -> None:
        self.paths = list_images(folder, recursive=True)
        if not self.paths:
            raise InputError(f"{folder}: no images in this folder")
        self.size = size
        self.read: dict[int, Bytes] = {}

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` of them, float32 (count, 3, size, size)."""
        chosen = rng.integers(0, len(self.paths), count)
        for index in map(int, chosen):
            if index not in self.read:
                self.read[index] = resize(read_image(self.paths[index]), self.size, self.size)
        return _as_floats(np.stack([self.read[int(index)] for index in chosen]))


def _as_floats(images: npt.NDArray[Any]) -> Floats:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1]; float32 stays."""
    if images.dtype == np.float32:
        return images
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def _load_images(source: Any, size: int) -> tuple[npt.NDArray[Any], list[str], dict[str, Any]]:
    """Images at network size, names, origin; uint8 NHWC from files, float32 NCHW from arrays."""
    if isinstance(source, (str, Path)):
        source = datasets.open(source, test_fraction=0.0)
    if isinstance(source, Dataset):
        paths = [sample.path for sample in source.train]
        images = np.stack([resize(read_image(path), size, size) for path in paths])
        origin = {
            "images": source.fingerprint(train_only=True),
            "category": source.category,
            "layout": source.layout,
            "count": len(paths),
        }
        return images, [path.stem for path in paths], origin
    floats = to_network(source, size)
    digest = _digest(floats)
    return floats, [], {"images": digest, "category": None, "layout": None, "count": len(floats)}


def _digest(array: npt.NDArray[Any]) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _load_foregrounds(folder: PathLike, names: list[str], size: int) -> npt.NDArray[np.bool_]:
    """A mask for each image, found by its name without extension."""
    if not names:
        raise InputError("foreground: expected images from files, to find masks by their names")
    found = {path.stem: path for path in list_images(folder)}
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"{folder}: no mask for {len(missing)} of {len(names)} images, "
            f"for example {missing[0]!r}"
        )
    masks = []
    for name in names:
        mask = read_mask(found[name])
        grey = np.ascontiguousarray(np.repeat(mask[:, :, None], 3, axis=2) * np.uint8(255))
        masks.append(resize(grey, size, size)[:, :, 0] >= 128)
    return np.stack(masks)


def _log_text(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, LOG_COLUMNS, restval="", extrasaction="ignore")
    table.writeheader()
    table.writerows({k: v if k == "step" else f"{v:.6g}" for k, v in row.items()} for row in rows)
    return text.getvalue()


def _read_log(path: Path, steps: int) -> list[dict[str, Any]]:
    """The rows of the first `steps` steps; a log that is gone or broken begins anew."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {"step": int(row["step"])}
                | {k: float(v) for k, v in row.items() if v and k != "step"}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [row for row in rows if row["step"] <= steps]
