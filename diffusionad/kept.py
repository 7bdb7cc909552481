"""Which weights of a training run its model takes: averages over steps and over members, the best.

While a run goes on the networks hold the weights that are trained. Where the settings ask for
averages, these are what evaluation takes; where good images are held out, those of the step that
did best on them. Averages change places with the weights to be looked at, and back.

A run that starts from trained weights may be several short ones, its members, which all begin
with these; what it gives is then the mean of their weights (Wortsman et al. 2022, "Model soups"),
each counted by its steps.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checkpoints
from .images import Floats
from .models import StateDict, averaged
from .sources import TrainingImages
from .validation import Scores, Validation, is_unlearnt, quality

if TYPE_CHECKING:
    from .model import DiffusionAD

log = logging.getLogger(__name__)

TRIED = 8  # images that are evaluated to know how long one takes: a batch

States = dict[str, StateDict]  # by network


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights that did best on the held-out images, by network, and where that was."""

    step: int
    scores: Scores
    states: States


class Kept:
    """What a run keeps of its weights, beside those that it trains."""

    def __init__(self, model: DiffusionAD) -> None:
        self.model = model
        self.validation: Validation | None = None  # set where images are held out
        self.best: Best | None = None
        self.told = False  # that nothing is learnt
        self.validating = 0.0  # seconds, of all validations so far
        self.members = [0]  # steps after which they began
        self._one: float | None = None  # of the last validation
        self._per_image: float | None = None  # where there are none
        self._step = 0
        self._start: States | None = None  # what members begin with
        self._finished: States | None = None  # mean of those that are over

    @property
    def begun(self) -> int:
        """The step after which the present member began."""
        return self.members[-1]

    def begin(self, several: bool) -> None:
        """Let a run, and averages, start from the weights that there are; of several members?"""
        self._start = self._states() if several else None
        self._begin_averages()

    def begin_member(self) -> None:
        """Let the next member start, from the same weights as the first."""
        assert self._start is not None
        with self._shown():
            self._finished = self._states()
        self.members.append(self._step)
        self._load(self._start)
        self._begin_averages()

    def update(self, step: int) -> dict[str, float]:
        """After a step: move the averages and, where it is due, validate; gives the scores."""
        self._step = step
        if self._decay > 0:  # early averages are over few steps, so that they forget the start
            done = step - self.begun
            decay = min(self._decay, (1 + done) / (10 + done))
            for network in self.model.networks.values():
                network._core.average_step(decay)
        if self.validation is None or not self._is_due(step):
            return {}
        with self._shown():
            scores = self._validate(self.validation)
            if self.best is None or quality(scores) >= quality(self.best.scores):
                self.best = Best(step, scores, self._states())
        self._tell(step, self.best.scores)
        return dict(scores)

    def settle(self) -> None:
        """Put into the networks what save() writes; training does not go on from it."""
        if self.best is not None:
            self._load(self.best.states)
            return
        if self._decay > 0:
            for network in self.model.networks.values():
                network._core.swap_average()
        if self._finished is not None:
            self._load(self._mixed(self._finished))

    def save(self, path: Path) -> None:
        """Write the model with the best weights so far, else the averages, else what there is."""
        if self.best is not None:
            states = self.best.states
            checkpoint = self.model._checkpoint()
            checkpoint = dataclasses.replace(checkpoint, unet=states["unet"], seg=states["seg"])
            checkpoints.save_model(path, checkpoint)
            return
        with self._shown():
            self.model.save(path)

    def unseen(self) -> Floats | None:
        """Good images that training has not seen."""
        return None if self.validation is None else self.validation.good

    def seconds_left(self, step: int) -> float:
        """What the validations after a step will take, judged by the last one; before the first,
        one is tried."""
        if self.validation is None:
            return 0.0
        config = self.model.train_config
        done = step * config.validations // config.steps
        return self._seconds_of(self.validation) * (config.validations - done)

    def seconds_per_image(self, images: TrainingImages) -> float:
        """What evaluating one takes, judged by the last validation; without any, some of these are
        tried, once."""
        if self.validation is not None:
            return self._seconds_of(self.validation) / len(self.validation.labels)
        if self._per_image is None:
            tried = images.spread(TRIED)
            begun = time.monotonic()
            self.model.predict(tried)
            self._per_image = (time.monotonic() - begun) / len(tried)
        return self._per_image

    def _seconds_of(self, validation: Validation) -> float:
        if self._one is None:
            self._validate(validation)
        assert self._one is not None
        return self._one

    # ---- in files -----------------------------------------------------------------------------

    def note(self) -> dict[str, Any]:
        """For the model's provenance."""
        note: dict[str, Any] = {} if len(self.members) == 1 else {"members": list(self.members)}
        if self.validation is not None and self.best is not None:
            scores = {k.removeprefix("val_"): round(v, 6) for k, v in self.best.scores.items()}
            images = len(self.validation.good)
            note["validation"] = {"images": images, "step": self.best.step, **scores}
        return note

    def tensors(self) -> dict[str, Any]:
        """All weights, for the state of the run (the averages are in the networks')."""
        kept = {"start": self._start, "finished": self._finished}
        if self.best is not None:
            kept["best"] = self.best.states
        return {
            f"{what}.{name}.{k}": v
            for what, states in kept.items()
            if states is not None
            for name, state in states.items()
            for k, v in state.items()
        }

    def values(self) -> dict[str, Any]:
        """The rest of it."""
        best = None
        if self.best is not None:
            best = {"step": self.best.step, "scores": dict(self.best.scores)}
        return {"best": best, "members": self.members}

    def restore(self, step: int, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Take over what tensors() and values() gave. Raises KeyError, ValueError, TypeError."""
        self._step = step
        self.members = [int(begun) for begun in values.get("members", [0])]
        self._start, self._finished, best = (
            {name: under(name, states) for name in self.model.networks} if states else None
            for states in (under(what, tensors) for what in ("start", "finished", "best"))
        )
        if best is not None:
            self.best = Best(values["best"]["step"], values["best"]["scores"], best)

    # ---- helpers ------------------------------------------------------------------------------

    def _validate(self, validation: Validation) -> Scores:
        begun = time.monotonic()
        scores = validation.measure(self.model)
        self._one = time.monotonic() - begun
        self.validating += self._one
        return scores

    @property
    def _decay(self) -> float:
        return self.model.train_config.ema_decay

    def _is_due(self, step: int) -> bool:
        """Whether a validation is: they are spread evenly, the last one is after the last step."""
        config = self.model.train_config
        return step * config.validations % config.steps < config.validations

    def _begin_averages(self) -> None:
        if self._decay > 0:
            for network in self.model.networks.values():
                network._core.average_step(0.0)

    def _states(self) -> States:
        return {name: network.state_dict() for name, network in self.model.networks.items()}

    def _load(self, states: States) -> None:
        for name, network in self.model.networks.items():
            network.load_state_dict(states[name])

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """What evaluation takes now in the networks' places, and what is trained afterwards."""
        with averaged(*(self.model.networks.values() if self._decay > 0 else ())):
            if self._finished is None:
                yield
                return
            own = self._states()
            self._load(self._mixed(self._finished))
            try:
                yield
            finally:
                self._load(own)

    def _mixed(self, finished: States) -> States:
        """The mean of the finished members and of the present one, which is in the networks.

        BatchNorm's counts of batches are the present one's.
        """
        share = np.float32((self._step - self.begun) / self._step)
        mixed = self._states()
        for name, state in mixed.items():
            for key, mean in finished[name].items():
                if mean.dtype == np.float32:
                    state[key] = mean + share * (state[key] - mean)
        return mixed

    def _tell(self, step: int, scores: Scores) -> None:
        steps = self.model.train_config.steps
        if not self.told and step >= steps // 2 and is_unlearnt(scores):
            self.told = True
            log.warning(
                "after %d of %d steps held-out images with synthetic defects are not told from "
                "those without (image AUROC %.2f): train longer, or look at `synthesize`",
                step,
                steps,
                scores["val_image_auroc"],
            )


def under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What has a name that begins with the prefix and a dot, without them."""
    start = prefix + "."
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
