"""The conventions of scikit-learn's estimators, without scikit-learn.

Parameters are the arguments of the constructor, so that ``sklearn.base.clone`` and searches work;
fit() changes none of them. Signs are this package's: score_samples() is higher where an image is
more anomalous, as Prediction.scores, and decision_function() is that above the threshold, 0 or
more for an anomalous image (scikit-learn's own outlier detectors have both the other way round).
With labels of 1 for anomalous images, as everywhere here, the scorers "roc_auc" and
"average_precision" take them as they are.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .config import ModelConfig, TrainConfig, plain, settings, update, without_size
from .errors import InputError
from .images import ImageSource, as_items
from .inference import RANDOM_WEIGHTS, RUN_FLAGS, THREADING, Detector
from .seeds import Seed
from .synthesis import OF_TEXTURES, without_kind

# What may change while the weights stay; all other settings of ModelConfig make the networks.
OF_USE = frozenset(
    {"preset", "mode", "t_s", "t_b", "w", "top_k", "seed", "standardised", "mirrored"}
)

Self = TypeVar("Self", bound="Estimator")


class Estimator(Detector):
    """A detector whose settings can be asked for and changed by name."""

    _estimator_type = "outlier_detector"  # scikit-learn before 1.6

    def _build(
        self, config: ModelConfig, train_config: TrainConfig, initialise: bool = True
    ) -> None:
        super()._build(config, train_config, initialise)
        self._given_train_config = train_config  # fit() settles what it leaves open
        self._has_weights = not initialise  # of a file or of training
        self._kind_of_file = not initialise  # which an earlier fit() may have settled

    @property
    def seed(self) -> int:
        """Decides the evaluation noise (and, before training, weights and training).

        Setting it is ``set_params(seed=...)``: a model that was neither trained nor loaded is built
        anew, others drop what was measured with other noise.
        """
        return self.config.seed

    @seed.setter
    def seed(self, seed: Seed) -> None:
        config = update(self.config, {"seed": seed})
        if self._has_weights:
            self._use(config)  # settings of training stay as fit() has settled them
        elif config != self.config:
            self.set_params(seed=config.seed)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All settings by name, as the constructor takes them; those of training as given to it.

        ``deep`` is scikit-learn's and changes nothing: no setting is an estimator.
        """
        # The objects themselves, not copies: clone() asks for identity.
        return {
            **vars(self.config),
            **vars(self._given_train_config),
            **self._run_flags(),
        }

    def _run_flags(self) -> dict[str, bool]:
        """How this computer runs the networks."""
        return {name: getattr(self, name) for name in RUN_FLAGS}

    def set_params(self: Self, **params: Any) -> Self:
        """Change settings by name. Raises InputError, and changes none, for a bad one.

        ``preset`` puts all but the seed back to that preset's, then come the others. Where one
        shapes the networks or is the seed of their weights, a model that was neither trained nor
        loaded is built anew. Of any other the weights stay: what shapes the networks is refused,
        and what was measured with other settings dropped, with a warning: normality where it would
        be another (``mode``, ``t_s``, ``t_b``, ``w``, ``seed``, ``mirrored``), the threshold where
        scores would (these, ``top_k``, ``standardised``).
        """
        params = plain(params)
        flags = {name: params.pop(name) for name in RUN_FLAGS if name in params}
        kept: dict[str, Any] = {**vars(self.config), **vars(self._given_train_config)}
        anew = "preset" in params
        if anew:
            kept = {"seed": self.seed}
        elif "image_size" in params and not self._has_weights:
            kept = without_size(self.config.preset, kept)
        if params.get("kind", self._given_train_config.kind) != self._given_train_config.kind:
            kept = without_kind(kept)
        preset = params.pop("preset", self.config.preset)
        config, train_config = settings(preset, **{**kept, **params})
        shaping = [k for k, v in vars(config).items() if v != getattr(self.config, k)]
        by_seed = not self._has_weights and self.started_from == RANDOM_WEIGHTS
        shaping = [k for k in shaping if k not in OF_USE or (k == "seed" and by_seed)]
        if shaping and self._has_weights:
            raise InputError(
                f"{shaping[0]}: this model's weights are made for "
                f"{getattr(self.config, shaping[0])!r}; clone it, or make a new one"
            )
        if shaping:
            built = type(self).__new__(type(self))
            built._build(config, train_config)
            built._set_flags({**self._run_flags(), **flags})
            self._use(config)
            with self._turn:
                vars(self).update({k: v for k, v in vars(built).items() if k not in THREADING})
            return self
        self._set_flags(flags)
        self._use(config)
        named = {*params, *(OF_TEXTURES if "kind" in params else ())}
        changed = {
            name: value
            for name, value in vars(train_config).items()
            if anew or name in named or value != getattr(self._given_train_config, name)
        }
        self.train_config = update(self.train_config, changed)  # the rest as fit() has settled it
        self._given_train_config = train_config
        self._kind_of_file = self._kind_of_file and not anew and "kind" not in params
        return self

    def _set_flags(self, flags: dict[str, Any]) -> None:
        """As RUN_FLAGS has them, where the one that a processor may refuse comes first."""
        for name in RUN_FLAGS:
            if name in flags:
                setattr(self, name, flags[name])

    def score_samples(self, images: ImageSource, batch_size: int = 8) -> npt.NDArray[np.float64]:
        """Scores (N,) of images as predict() takes them: higher is more anomalous."""
        return self.predict(images, batch_size).scores

    def decision_function(
        self, images: ImageSource, batch_size: int = 8
    ) -> npt.NDArray[np.float64]:
        """Scores less the threshold (N,): 0 or more is anomalous, label 1 of predict().

        Raises InputError for a model without a threshold.
        """
        if self.threshold is None:
            raise InputError("threshold: this model has none; fit() or calibrate() sets it")
        return self.score_samples(images, batch_size) - self.threshold

    def __sklearn_is_fitted__(self) -> bool:
        return self._has_weights

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="outlier_detector",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(two_d_array=False, three_d_array=True, string=True),
        )


def good_images(source: Any, y: npt.ArrayLike | None) -> Any:
    """The images of label 0; all where there are no labels. Raises InputError."""
    if y is None:
        return source
    items, labels = as_items(source), np.asarray(y)
    if labels.shape != (len(items),) or labels.dtype.kind not in "buif":
        raise InputError(
            f"y: expected {len(items)} labels, one per image, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"y: expected 0 (good) and 1 (anomalous), got {np.unique(labels)}")
    if labels.all():
        raise InputError("y: expected good images, of label 0, to train on, got none")
    return [item for item, label in zip(items, labels, strict=True) if label == 0]
