"""Which weights of a training run its model takes: averages over steps, the best of them.

While a run goes on the networks hold the weights that are trained. Where the settings ask for
averages, these are what evaluation takes; where good images are held out, those of the step that
did best on them. Averages change places with the weights to be looked at, and back.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoints
from .images import Floats
from .models import StateDict, averaged
from .validation import Scores, Validation, is_unlearnt, quality

if TYPE_CHECKING:
    from .model import DiffusionAD

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights that did best on the held-out images, by network, and where that was."""

    step: int
    scores: Scores
    states: dict[str, StateDict]


class Kept:
    """What a run keeps of its weights, beside those that it trains."""

    def __init__(self, model: DiffusionAD) -> None:
        self.model = model
        self.validation: Validation | None = None  # set where images are held out
        self.best: Best | None = None
        self.told = False  # that nothing is learnt
        self.validating = 0.0  # seconds, of all validations so far
        self._one: float | None = None  # of the last one

    def begin(self) -> None:
        """Let averages start from the weights that there are."""
        if self._decay > 0:
            for network in self.model.networks.values():
                network._core.average_step(0.0)

    def update(self, step: int) -> dict[str, float]:
        """After a step: move the averages and, where it is due, validate; gives the scores."""
        if self._decay > 0:  # early averages are over few steps, so that they forget the start
            decay = min(self._decay, (1 + step) / (10 + step))
            for network in self.model.networks.values():
                network._core.average_step(decay)
        if self.validation is None or not self._is_due(step):
            return {}
        with self._averaged():
            scores = self._validate(self.validation)
            if self.best is None or quality(scores) >= quality(self.best.scores):
                states = {name: net.state_dict() for name, net in self.model.networks.items()}
                self.best = Best(step, scores, states)
        self._tell(step, self.best.scores)
        return dict(scores)

    def settle(self) -> None:
        """Put into the networks what save() writes; training does not go on from it."""
        if self.best is not None:
            for name, network in self.model.networks.items():
                network.load_state_dict(self.best.states[name])
        elif self._decay > 0:
            for network in self.model.networks.values():
                network._core.swap_average()

    def save(self, path: Path) -> None:
        """Write the model with the best weights so far, else the averages, else what there is."""
        if self.best is not None:
            states = self.best.states
            checkpoint = self.model._checkpoint()
            checkpoint = dataclasses.replace(checkpoint, unet=states["unet"], seg=states["seg"])
            checkpoints.save_model(path, checkpoint)
            return
        with self._averaged():
            self.model.save(path)

    def unseen(self) -> Floats | None:
        """Good images that training has not seen."""
        return None if self.validation is None else self.validation.good

    def seconds_left(self, step: int) -> float:
        """What the validations after a step will take, judged by the last one; before the first,
        one is tried."""
        if self.validation is None:
            return 0.0
        if self._one is None:
            self._validate(self.validation)
        assert self._one is not None
        config = self.model.train_config
        done = step * config.validations // config.steps
        return self._one * (config.validations - done)

    # ---- in files -----------------------------------------------------------------------------

    def note(self) -> dict[str, Any]:
        """For the model's provenance."""
        if self.validation is None or self.best is None:
            return {}
        scores = {k.removeprefix("val_"): round(v, 6) for k, v in self.best.scores.items()}
        images = len(self.validation.good)
        return {"validation": {"images": images, "step": self.best.step, **scores}}

    def tensors(self) -> dict[str, Any]:
        """The best weights, for the state of the run (the averages are in the networks')."""
        if self.best is None:
            return {}
        states = self.best.states
        return {f"best.{name}.{k}": v for name, state in states.items() for k, v in state.items()}

    def values(self) -> dict[str, Any] | None:
        """The rest of it."""
        if self.best is None:
            return None
        return {"step": self.best.step, "scores": dict(self.best.scores)}

    def restore(self, tensors: Mapping[str, Any], values: Mapping[str, Any] | None) -> None:
        """Take over what tensors() and values() gave. Raises KeyError, ValueError, TypeError."""
        if values is not None:
            states = {name: under(f"best.{name}", tensors) for name in self.model.networks}
            self.best = Best(values["step"], values["scores"], states)

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

    def _averaged(self) -> AbstractContextManager[None]:
        return averaged(*(self.model.networks.values() if self._decay > 0 else ()))

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
