"""A training run: its images, its length, its steps, and what it leaves on disk.

A step's batch is a function of the seed and the step's number: images, synthetic anomalies, time
steps and noise. So a run that was interrupted goes on bit for bit from weights and moments alone.

The model that a run leaves has the averaged weights, where the settings ask for averages, of the
step that was best on the held-out images, where there are any.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, brightness, checkpoints, normality, system, training_log
from .config import NO_RESULT, ModelConfig, TrainConfig, from_dict, to_dict, to_toml, update
from .errors import InputError
from .files import PathLike, remove_temporaries, write_text
from .images import Bytes, as_floats, write_png
from .inference import RANDOM_WEIGHTS, THRESHOLD_NOTES
from .kept import Kept, under
from .models import SegmentationNet, UNet
from .sources import (
    Textures,
    choose_foregrounds,
    load_images,
    synthesis_inputs,
)
from .synthesis import KINDS, OF_TEXTURES, SynthesisOptions, synthesize_batch
from .training import StepResult, Trainer
from .training_memory import GB, copies
from .validation import Validation, held_out

if TYPE_CHECKING:
    from .model import DiffusionAD, ProgressCallback

log = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"
LOG_FILE = "log.csv"
CONFIG_FILE = "config.toml"
MASKS_FILE = "foregrounds.npz"
CURVES_FILE = "curves.png"
RUN_FILES = (MODEL_FILE, STATE_FILE, LOG_FILE, CONFIG_FILE, MASKS_FILE, CURVES_FILE)

TIMING_STEPS = 6  # tried, on other networks, to turn a time budget into a step count
TIMING_SHARE = 0.2  # of a time budget; slow steps are tried less often
RESERVE = 0.05  # of a time budget, for checkpoints and what cannot be foreseen
LOOKS = 20  # at the clock, in a run under a time budget; more often towards its end
PACES = 5  # looks whose median says how long a step takes: a machine that was held up is not slow
UNUSED = 0.25  # of a time budget: a run that would leave more of it gets more steps ...
EARLY = 0.5  # ... in this part of it, while the learning rates are high
CHECKPOINT_SECONDS = 600.0  # at most that much work is lost, whatever checkpoint_every says
FEW_IMAGES = 200  # more of them bear more steps at higher rates
CALIBRATION_IMAGES = 100  # one of them may reach a threshold that 1 % of good images do


def settle_kind(config: TrainConfig, of_images: str | None) -> TrainConfig:
    """The settings with what the images show, and what follows from it, fixed.

    Images that know their kind (`Dataset.kind`) decide where the settings leave it open.
    """
    kind = of_images if config.kind == "auto" and of_images in KINDS else config.kind
    return update(config, {"kind": kind, **(OF_TEXTURES if kind == "texture" else {})})


def _unsettled(config: TrainConfig, before: TrainConfig) -> TrainConfig:
    """The settings with what settle_kind() has made a texture's, and still is, as before."""
    if config.kind != "texture":
        return config
    settled = [name for name, value in OF_TEXTURES.items() if getattr(config, name) == value]
    return update(config, {name: getattr(before, name) for name in settled})


def settings_of_run(folder: Path) -> tuple[ModelConfig, TrainConfig]:
    """Those of the run whose state lies in `folder`. Raises InputError."""
    path = folder / STATE_FILE
    values = checkpoints.read_state_values(path)
    try:
        return from_dict(ModelConfig, values["model"]), from_dict(TrainConfig, values["train"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except checkpoints.ODD as error:
        raise InputError(f"{path}: the settings of the run are missing or broken") from error


def model_to_resume(folder: Path) -> DiffusionAD:
    """A model with the settings of the run whose state lies in `folder`; fit() can resume it.

    Its weights are not the run's: resuming takes those from the state. Raises InputError.
    """
    from .model import DiffusionAD

    configs = settings_of_run(folder)
    model = DiffusionAD.__new__(DiffusionAD)
    try:
        model._build(*configs, initialise=False)
    except checkpoints.ODD as error:
        raise InputError(f"{folder / STATE_FILE}: {error}") from error
    return model


@dataclass(frozen=True)
class _Look:
    """At the clock: after which step, when, and how much of it validations have taken."""

    step: int
    time: float
    validating: float

    def is_over(self, steps: int, left: float, now: _Look) -> bool:
        """Whether it is time for another one, with so many seconds left of the budget."""
        steps_done, seconds = now.step - self.step, now.time - self.time
        return steps_done * LOOKS >= steps or seconds * LOOKS >= left

    def per_step(self, now: _Look) -> float:
        """Seconds of a step since then, without validations."""
        seconds = now.time - self.time - (now.validating - self.validating)
        return seconds / (now.step - self.step)


class Fit:
    """One call of DiffusionAD.fit: plan() or resume(), then train()."""

    def __init__(
        self,
        model: DiffusionAD,
        source: Any,
        anomaly_source: PathLike | None,
        foreground: PathLike | None,
        out: Path | None,
        start: float,
        kind: str | None = None,
    ) -> None:
        self.model = model
        self.model_before = dict(vars(model))
        self.start = start
        self.out = out
        if out is not None:
            remove_temporaries(out, RUN_FILES)
        size = model.config.image_size
        self.images = load_images(source, size)
        self.textures = None if anomaly_source is None else Textures(anomaly_source, size)
        self.foreground = foreground
        self.kind = kind
        self.foregrounds: Bytes | None = None
        self.origin = {
            **self.images.origin,
            "anomaly_source": self.textures.folder.name if self.textures else "procedural",
        }
        self.inputs = {
            "images": self.origin["images"],
            "anomaly_source": self.textures.fingerprint() if self.textures else None,
        }
        self.planned_memory: dict[str, int] = {}
        self.started_from = ""
        self.before: dict[str, Any] = {}  # the provenance of weights that are trained on
        self.seconds_before = 0.0
        self.budget = math.inf  # seconds
        self.paces: list[float] = []  # seconds of a step, as planned and by the last looks
        self.replanned: list[dict[str, int]] = []
        self.log: list[dict[str, float]] = []
        self.kept = Kept(model)

    def plan(self, time_budget: float | None, steps: int | None) -> None:
        """Fix the number of steps; it becomes part of the model's settings."""
        if time_budget is not None and steps is not None:
            raise InputError("steps, time_budget: expected one of the two, got both")
        if time_budget is not None and not 0 < time_budget < math.inf:
            raise InputError(f"time_budget: expected seconds above 0, got {time_budget}")
        with self._all_or_nothing():
            if steps is not None:
                self.model.train_config = update(self.model.train_config, {"steps": steps})
            self._use_kind()
            with self._earlier_state_aside() as replaced:
                self._plan(time_budget)
                if self.out is not None and (time_budget is not None or replaced):
                    # A run that is killed early must keep its number of steps, and be resumed
                    # where one was here before.
                    self._save_state()

    def _plan(self, time_budget: float | None) -> None:
        self._check_memory()
        self._measure_brightness()
        self._find_foregrounds()
        self._hold_out()
        self.model.threshold = self.model.normality = None
        if time_budget is not None:
            self.budget = time_budget
            steps = self._steps_within(time_budget)
            self.model.train_config = update(self.model.train_config, {"steps": steps})
            self.paces = [(self._left(0) - RESERVE * time_budget) / steps] * (PACES // 2)
        self.before = self.model.provenance
        self.started_from = "a trained model" if self.before else self.model.started_from
        self.kept.begin(several=self._has_members)
        self.trainer = self._new_trainer(self.model.unet, self.model.seg)
        self.trainer.begin()

    def resume(self, steps: int | None) -> None:
        """Take weights, moments, settings and progress from `out`; its number of steps stays."""
        if self.out is None:
            raise InputError("resume: expected out, the folder of the run to go on with")
        path = self.out / STATE_FILE
        if not path.exists():
            raise InputError(f"{path}: no such file, so nothing to resume")
        tensors, values = checkpoints.load_state(path)
        kept = values["train"].get("kind", "auto") if isinstance(values.get("train"), dict) else ""
        if self.kind not in (None, kept):
            raise InputError(f"kind: this run has {kept} and keeps it")
        self._find_foregrounds(kept)
        for name, ours in self.inputs.items():
            if values.get(name) != ours:
                raise InputError(f"{path}: this run was trained with other {name}")
        with self._all_or_nothing():
            self._take_over(path, tensors, values, steps)
            self.log = training_log.read(self.out / LOG_FILE, self.trainer.iteration)
            self._check_memory()

    def _take_over(
        self, path: Path, tensors: Mapping[str, Any], values: Mapping[str, Any], steps: int | None
    ) -> None:
        try:
            theirs, ours = vars(from_dict(ModelConfig, values["model"])), vars(self.model.config)
            for name in ours:
                if theirs[name] != ours[name]:
                    raise InputError(
                        f"{path}: this run's model has {name} {theirs[name]}, not {ours[name]}"
                    )
            kept = {name: getattr(self.model.train_config, name) for name in NO_RESULT}
            self.model.train_config = update(from_dict(TrainConfig, values["train"]), kept)
            planned = self.model.train_config.steps
            if steps is not None and steps != planned:
                raise InputError(f"steps: a run that is resumed keeps its {planned} steps")
            for name, network in self.model.networks.items():
                network.load_training_state(under(name, tensors))
            self.kept.restore(int(values["iteration"]), tensors, values)
            self.before = dict(values.get("fine_tuned_from", {}))
            self.started_from = str(values.get("started_from", RANDOM_WEIGHTS))
            noted = values.get("brightness")
            self.model.brightness = None if noted is None else float(noted)
            self.replanned = list(values.get("replanned", []))
            self._hold_out()  # rates and members depend on how many images are trained on
            self.trainer = self._new_trainer(self.model.unet, self.model.seg)
            self.trainer.iteration = int(values["iteration"])
            self.trainer.begun = self.kept.begun
            self.seconds_before = float(values["seconds"])
        except InputError:
            raise
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: does not fit the model: {error}") from error
        self.model.threshold = self.model.normality = None  # of other weights

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Where this fails, the model is as it was before fit(), but for its networks' values."""
        try:
            yield
        except BaseException:
            vars(self.model).update(self.model_before)
            raise

    @contextmanager
    def _earlier_state_aside(self) -> Iterator[bool]:
        """The state of the run that this one replaces, out of reach; says whether there is one.

        A kill meanwhile leaves none that would be resumed as this run; where this one cannot be
        begun it comes back.
        """
        if self.out is None or not (self.out / STATE_FILE).exists():
            yield False
            return
        state, aside = self.out / STATE_FILE, self.out / f".{STATE_FILE}.earlier.tmp"
        state.replace(aside)
        try:
            yield True
        except (Exception, KeyboardInterrupt):
            aside.replace(state)
            raise
        finally:
            aside.unlink(missing_ok=True)

    def _use_kind(self) -> None:
        """Settle what was given; a file's kind, of an earlier run, yields to that of the images."""
        model, given = self.model, self.model._given_train_config
        settled = model._kind_of_file and "train_steps" in model.provenance
        kind = "auto" if settled and self.images.kind in KINDS else given.kind
        if self.kind is not None:
            kind = self.kind
        config = _unsettled(model.train_config, _unsettled(given, TrainConfig()))
        model.train_config = settle_kind(update(config, {"kind": kind}), self.images.kind)

    def _measure_brightness(self) -> None:
        """Of the good images; a model that is trained on keeps that of its first ones."""
        if self.model.config.match_brightness and self.model.brightness is None:
            pixels = self.images.pixels
            self.model.brightness = brightness.mean_of(
                as_floats(pixels[i : i + 1])[0] for i in range(len(pixels))
            )

    def _find_foregrounds(self, kind: str | None = None) -> None:
        """Masks that were given, that lie beside the images, or that the extractor finds."""
        self.foregrounds, self.origin["foreground"] = choose_foregrounds(
            self.images,
            kind or self.model.train_config.kind,
            self.foreground,
            cache=None if self.out is None else self.out / MASKS_FILE,
        )
        self.inputs["foreground"] = (
            None if self.foregrounds is None else hashlib.sha256(self.foregrounds.data).hexdigest()
        )

    def train(self, progress: ProgressCallback | None) -> None:
        """Run the steps that are left; save on the way, at the end, and when interrupted.

        Also where a batch cannot be read, after which the run can be resumed.
        """
        from .model import Progress

        config = self.model.train_config
        begun, first = time.monotonic(), self.trainer.iteration
        saved, looked = begun, _Look(first, begun, self.kept.validating)
        with _interrupts_noted() as interrupts:
            while self.trainer.iteration < config.steps:
                if self.trainer.iteration - self.kept.begun >= self._member_steps():
                    self._begin_member()
                try:
                    result = self._step(self.trainer)
                except Exception as error:  # the networks are as they were before the step
                    if self.trainer.iteration == 0:
                        vars(self.model).update(self.model_before)
                    elif isinstance(error, InputError):  # the batch could not be read
                        self._save_unfinished()
                    elif isinstance(error, FloatingPointError):
                        self._begin_again()
                    raise
                step, now = self.trainer.iteration, time.monotonic()
                row = {"step": step, **result.losses, **self.kept.update(step)}
                self.log.append({**row, "seconds": self._seconds()})
                per_step = (now - begun) / (step - first)
                try:
                    if progress is not None:
                        progress(
                            Progress(
                                step=step,
                                steps=config.steps,
                                losses=result.losses,
                                images_per_second=config.batch_size / per_step,
                                seconds_left=per_step * (config.steps - step),
                            )
                        )
                    if interrupts:
                        raise KeyboardInterrupt
                except BaseException:
                    self._save_unfinished()
                    raise
                due = step % config.checkpoint_every == 0 or now - saved > CHECKPOINT_SECONDS
                if due and step < config.steps:
                    self._save()
                    saved = now
                look = _Look(step, time.monotonic(), self.kept.validating)
                if looked.is_over(config.steps, self._left(step), look):
                    self._keep_to_budget(looked.per_step(look))
                    looked, config = look, self.model.train_config
            self._save_state()
            self.kept.settle()
            if self.model.config.standardised:
                self.model.measure_normality(self.images.spread(normality.MOST))
            self._calibrate()
            self._save_results(self.model.save, finished=True)
        if interrupts:
            raise KeyboardInterrupt

    def _begin_again(self) -> None:
        """Make the model what it was, if its first weights can be made again: for lower rates."""
        if self.model_before["_has_weights"]:  # trained in part, by no run that is noted
            self.model.provenance = {**self.model.provenance, "finished": False}
        else:
            vars(self.model).update(self.model_before)
            self.model._initialise()

    def _calibrate(self) -> None:
        """Take held-out images and, where they are too few for so small a rate, others as well."""
        unseen = self.kept.unseen()
        held = 0 if unseen is None else len(unseen)
        images = [] if unseen is None else [unseen]
        if held < CALIBRATION_IMAGES:
            images.append(self.images.spread(CALIBRATION_IMAGES - held))
        self.model.calibrate(np.concatenate(images))
        if held:
            self.model.provenance["threshold"] += f", {held} of them held out"

    def _hold_out(self) -> None:
        """Take images out of training for the validation; the draw is the seed's alone."""
        config, total = self.model.train_config, len(self.images.pixels)
        held = held_out(total, config.validation_share, self.model.config.seed)
        if len(held) == 0:
            return
        masks, rest = self.foregrounds, np.setdiff1d(np.arange(total), held)
        validation = Validation(
            self.images.take(held),
            None if masks is None else masks[held],
            self.textures,
            _synthesis_options(config),
            self.model.config.seed,
        )
        if not validation.labels.any():
            return  # no defect fits into these foregrounds
        self.kept.validation = validation
        self.images = self.images.take(rest)
        self.foregrounds = None if masks is None else masks[rest]

    def _check_memory(self) -> None:
        """Say before the first step what it takes, and when that is too much."""
        self.planned_memory = self.model.training_memory()
        planned, there = self.planned_memory["total"], system.memory_bytes()
        budget = self.model.train_config.memory_budget
        log.info("training takes %d MB of memory", planned // 10**6)
        kept, limit = planned <= budget * GB, None
        if there is not None and planned > there:
            limit = f"this machine has {there // 10**6} MB"
        elif budget > 0 and not kept:
            limit = f"memory_budget is {budget:g} GB"
        if limit is not None:
            log.warning(
                "training takes %d MB of memory, %s: a smaller %s or image_size takes less",
                planned // 10**6,
                limit,
                "memory_budget, batch_size" if kept else "batch_size",
            )

    # ---- steps --------------------------------------------------------------------------------

    def _new_trainer(self, unet: UNet, seg: SegmentationNet) -> Trainer:
        config = self.model.train_config
        return Trainer(
            unet,
            seg,
            **self._rates(),
            seg_cosine_t_max=config.seg_cosine_t_max,
            guidance=config.guidance,
            t_s_range=config.t_s_range,
            t_b_range=config.t_b_range,
            schedule=self.model.schedule,
            losses=config.losses,
            weight_decay=config.weight_decay,
            memory_budget=config.memory_budget - copies(config, self.model.num_parameters) / GB,
            seed=self.model.config.seed,
        )

    @property
    def _is_trained_on(self) -> bool:
        return self.started_from != RANDOM_WEIGHTS

    @property
    def _has_members(self) -> bool:
        return self.model.train_config.member_steps > 0 and self._is_trained_on

    def _further(self) -> float:
        """How much further than with few images training may go from where it started."""
        return max(1.0, len(self.images.pixels) / FEW_IMAGES) ** 2

    def _member_steps(self) -> int:
        """Of the present member, for the number of steps that is planned."""
        config = self.model.train_config
        left = config.steps - self.kept.begun
        members = left / (config.member_steps * self._further()) if self._has_members else 1
        return math.ceil(left / max(1, round(members)))

    def _begin_member(self) -> None:
        self.kept.begin_member()
        self.trainer.begin()
        self._set_rates()

    def _set_rates(self) -> None:
        for name, value in self._rates().items():
            setattr(self.trainer, name, value)

    def _rates(self) -> dict[str, Any]:
        """What learning rates depend on, for the steps of the present member."""
        config, steps = self.model.train_config, self._member_steps()
        limited = config.lr_steps > 0 and self._is_trained_on
        most = config.lr_steps * self._further() / steps if limited else math.inf
        return {
            "unet_lr": min(config.unet_lr, most),
            "seg_lr": min(config.seg_lr, most),
            "total_steps": steps if config.anneal else 0,
            "warmup": min(config.warmup, steps // 4),
        }

    def _step(self, trainer: Trainer) -> StepResult:
        """One step of a trainer on the batch of its iteration."""
        config = self.model.train_config
        rng = np.random.default_rng([self.model.config.seed, trainer.iteration, 1])
        chosen, raw = self.images.draw(rng, config.batch_size)
        drawn = self.model._matched(raw)
        masks = None if self.foregrounds is None else self.foregrounds[chosen]
        inputs = synthesis_inputs(drawn, masks, self.textures, rng)
        images, defects, labels = synthesize_batch(*inputs, _synthesis_options(config))
        if self.model.config.mode == "autoencoder":
            return trainer.step_autoencoder(images, defects, drawn)
        return trainer.step(images, defects, labels)

    def _left(self, step: int) -> float:
        """Seconds of the budget that steps after this one may take, the reserve included."""
        if math.isinf(self.budget):
            return math.inf
        seconds = self.kept.seconds_left(step) + self._seconds_at_end()  # which may take some now
        return self.budget - (time.monotonic() - self.start) - seconds

    @functools.cached_property
    def _looks_twice(self) -> bool:
        """Whether normality and threshold will be of mirror images, too."""
        good = self.model._matched(self.images.spread(normality.MOST))
        return self.model._looks_twice(normality.alignment([good]) < normality.ALIGNED)

    def _seconds_at_end(self) -> float:
        """What normality and threshold will take after the last step."""
        total, unseen = len(self.images.pixels), self.kept.unseen()
        held = 0 if unseen is None else len(unseen)
        images = held + min(total, max(0, CALIBRATION_IMAGES - held))
        if self.model.config.standardised:
            images += min(total, normality.MOST)
            images *= 2 if self._looks_twice else 1
        return images * self.kept.seconds_per_image(self.images)

    def _pace(self, per_step: float, left: float) -> float:
        """Seconds of a step: the last look's only where there is no time for another one."""
        self.paces = [*self.paces[1 - PACES :], per_step]
        return statistics.median(self.paces) if 2 * per_step <= left else per_step

    def _keep_to_budget(self, per_step: float) -> None:
        """Plan fewer steps where those that are left would use up the reserve as well; and more,
        early in the run, where they would leave much of the budget."""
        if math.isinf(self.budget):
            return
        config, step = self.model.train_config, self.trainer.iteration
        left = self._left(step)
        pace = self._pace(per_step, left)
        needed = (config.steps - step) * pace
        late = needed > left
        early = needed < left - UNUSED * self.budget and step <= EARLY * config.steps
        if not (late or early):
            return
        steps = step + max(1, int((left - RESERVE * self.budget) / max(pace, 1e-9)))
        if steps == config.steps or (late and steps > config.steps):
            return
        log.warning(
            "the machine is %s than it was when steps were timed: %d training steps instead of %d, "
            "for the time budget",
            "slower" if late else "faster",
            steps,
            config.steps,
        )
        self.replanned.append({"at": step, "from": config.steps, "to": steps})
        self.model.train_config = update(config, {"steps": steps})
        self._set_rates()
        self._save()

    def _steps_within(self, time_budget: float) -> int:
        """How many steps fit what is left of the budget; tried on networks that are thrown away."""
        model = self.model
        trainer = self._new_trainer(
            UNet(**model.unet.config, schedule=model.schedule), SegmentationNet(**model.seg.config)
        )
        seconds: list[float] = []
        while len(seconds) < TIMING_STEPS and sum(seconds) < TIMING_SHARE * time_budget:
            begun = time.monotonic()
            self._step(trainer)
            seconds.append(time.monotonic() - begun)
        per_step = statistics.median(seconds[1:] or seconds)  # the first one also allocates
        return max(1, int((self._left(0) - RESERVE * time_budget) / per_step))

    # ---- files --------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.start

    def _save(self) -> None:
        """Note the run in the model; with `out`, write everything.

        In this order: what a kill between two files leaves can always be resumed.
        """
        self._save_state()
        self._save_results(self.kept.save)

    def _save_unfinished(self) -> None:
        """Write everything, and leave the file's weights in the networks."""
        self._save()
        self.kept.settle()

    def _save_results(self, save: Callable[[Path], None], finished: bool = False) -> None:
        """Note the run in the model; with `out`, write curves, settings and the model."""
        model = self.model
        measured = THRESHOLD_NOTES if model.normality is None else (*THRESHOLD_NOTES, "alignment")
        note = {k: model.provenance[k] for k in measured if k in model.provenance}
        if self.before:
            note["fine_tuned_from"] = self.before
        if self.replanned:
            note["replanned"] = self.replanned
        if model.brightness is not None:
            note["brightness"] = round(model.brightness, 4)
        model.provenance = {
            "train_steps": self.trainer.iteration,
            "train_seconds": round(self._seconds(), 3),
            "finished": finished,
            "seed": model.config.seed,
            "started_from": self.started_from,
            "data": self.origin,
            **note,
            **self.kept.note(),
            "parameters": model.num_parameters,
            "planned_memory": self.planned_memory,
            "threads": _core.get_num_threads(),
            "simd": _core.simd_level(),
            "versions": system.versions(),
            "created": system.now(),
        }
        if self.out is None:
            return
        if self.log:
            write_png(self.out / CURVES_FILE, training_log.picture(self.log))
        write_text(self.out / CONFIG_FILE, to_toml(model.config, model.train_config))
        save(self.out / MODEL_FILE)

    def _save_state(self) -> None:
        """With `out`, write the log and then the state: resume() leaves out rows beyond it."""
        if self.out is None:
            return
        if self.log:
            write_text(self.out / LOG_FILE, training_log.text(self.log), durable=False)
        averages = self.model.train_config.ema_decay > 0
        tensors = {
            f"{name}.{key}": value
            for name, network in self.model.networks.items()
            for key, value in network.training_views(averages).items()
        }
        tensors |= self.kept.tensors()
        values = {
            "iteration": self.trainer.iteration,
            "seconds": self._seconds(),
            "model": to_dict(self.model.config),
            "train": to_dict(self.model.train_config),
            **self.kept.values(),
            "fine_tuned_from": self.before,
            "started_from": self.started_from,
            "brightness": self.model.brightness,
            "replanned": self.replanned,
            **self.inputs,
        }
        checkpoints.save_state(self.out / STATE_FILE, tensors, values)


def _synthesis_options(config: TrainConfig) -> SynthesisOptions:
    return SynthesisOptions(
        anomaly_probability=config.anomaly_probability,
        self_probability=config.self_probability,
        exponents=(config.smallest_exponent, config.largest_exponent),
        random_part=config.random_part,
    )


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Note the first Ctrl-C instead of raising in the middle of a step; a second one raises.

    A step changes both networks and their statistics: only between steps can a run be saved.
    Nothing is changed where Ctrl-C has another meaning already, or in another thread.
    """
    noted: list[int] = []

    def note(number: int, _: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not usual:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
