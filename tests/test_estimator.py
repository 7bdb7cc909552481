"""scikit-learn's conventions: parameters, clones, pipelines, searches; signs; fine-tuning."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted
from test_model import SIZE, bits, tiny

import diffusionad as dad
from diffusionad.errors import InputError
from diffusionad.inference import THRESHOLD_NOTES

SMALL = {
    "image_size": SIZE, "channel_mults": (1,), "attention_resolutions": (), "seg_channels": 4,
    "batch_size": 2, "top_k": 5, "steps": 1, "warmup": 0, "pretrained": False,
}  # fmt: skip


def small(**overrides: object) -> dad.DiffusionAD:
    return dad.DiffusionAD(**{**SMALL, **overrides})


def weights(model: dad.DiffusionAD) -> bytes:
    states = (model.unet.state_dict(), model.seg.state_dict())
    return b"".join(np.asarray(v).tobytes() for state in states for v in state.values())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 40, 36, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.array([0, 1] * 4)


# ---- parameters -------------------------------------------------------------------------------


def test_parameters_are_the_arguments_of_the_constructor():
    model = small(seed=3, fast=True, w=2)
    params = model.get_params()
    for name, value in {**SMALL, "seed": 3, "fast": True, "low_memory": False, "w": 2.0}.items():
        assert params[name] == value
    assert params["preset"] == "compact"
    assert model.get_params(deep=False) == params
    other = dad.DiffusionAD(**params)
    assert other.get_params() == params
    assert weights(other) == weights(model)
    assert all(other.get_params()[name] is params[name] for name in params)


def test_setting_parameters_of_a_new_model_is_making_it_anew():
    model = dad.DiffusionAD(image_size=SIZE, low_memory=True)
    assert model.set_params(**SMALL, seed=4, fast=True) is model
    expected = small(seed=4)
    assert weights(model) == weights(expected)
    assert (model.config, model.train_config) == (expected.config, expected.train_config)
    assert (model.fast, model.low_memory) == (True, True)
    before = weights(model)
    model.set_params(unet_lr=0.5, low_memory=False)
    assert model.train_config.unet_lr == model.get_params()["unet_lr"] == 0.5
    assert not model.low_memory
    assert weights(model) == before
    assert model.set_params().get_params()["seed"] == 4


def test_setting_the_seed_of_a_new_model_is_making_it_anew(caplog):
    model = small(fast=True)
    model.seed = np.random.default_rng(6)
    model.seed = 1
    assert weights(model) == weights(small(seed=1)) != weights(small())
    assert (model.seed, model.fast) == (1, True)
    assert not caplog.records


def test_setting_the_seed_of_a_trained_model_keeps_its_training(images):
    model = small().fit(images, kind="texture")
    before, settled = weights(model), model.train_config
    model.seed = 1
    assert (weights(model), model.train_config) == (before, settled)


def test_settings_of_use_leave_weights_that_were_given_alone():
    model = small()
    given = {name: values + 1 for name, values in model.seg.state_dict().items()}
    model.seg.load_state_dict(given)
    before = weights(model)
    model.set_params(w=2.0, t_s=100, mode="one_step", top_k=9)
    assert (model.config.w, model.config.mode) == (2.0, "one_step")
    assert weights(model) == before


def test_setting_the_preset_starts_from_it():
    model = small(seed=4)
    model.set_params(preset="paper", base_channels=32, channel_mults=(1,), image_size=SIZE)
    expected = dad.DiffusionAD("paper", SIZE, 4, base_channels=32, channel_mults=(1,))
    assert model.get_params() == expected.get_params()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"w": 2.0, "colour": 1}, "colour: no such setting"),
        ({"w": 2.0, "top_k": 0}, "top_k: expected at least 1"),
        ({"w": 2.0, "preset": "big"}, "preset: no 'big'"),
    ],
)
def test_a_bad_parameter_changes_nothing(params, words, trained):
    model = small()
    model._has_weights = trained
    before = model.get_params()
    with pytest.raises(InputError, match=words):
        model.set_params(**params)
    assert model.get_params() == before


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_heads": 5}, "num_heads: 5 does not divide"),
        ({"num_head_channels": 7}, "num_head_channels: 7 does not divide"),
        ({"in_channels": 1}, "in_channels: expected 3, images are read as RGB, got 1"),
    ],
)
def test_networks_that_cannot_be_built_change_nothing(images, params, words):
    model = dad.DiffusionAD("tiny", image_size=64)
    before, score = model.get_params(), model.score_samples(images[:1])
    with pytest.raises(InputError, match=words):
        model.set_params(image_size=32, timesteps=900, fast=True, **params)
    assert model.get_params() == before
    assert model.schedule.timesteps == model.config.timesteps
    np.testing.assert_array_equal(model.score_samples(images[:1]), score)
    with pytest.raises(InputError, match=words):
        dad.DiffusionAD("tiny", **params)


def test_a_flag_that_is_refused_changes_nothing(images, monkeypatch):
    model = small()
    model._has_weights = True
    model.calibrate(images)
    before = model.get_params()
    monkeypatch.setattr(dad._core, "has_bfloat16", lambda: False)
    with pytest.raises(InputError, match="bfloat16"):
        model.set_params(t_s=100, fast=True, bfloat16=True)
    assert model.get_params() == before
    assert model.threshold is not None


@pytest.mark.parametrize("preset", ["compact", "tiny", "paper"])
def test_another_image_size_is_that_of_a_new_model(preset):
    small = {"base_channels": 32, "channel_mults": (1,)} if preset == "paper" else {}
    model = dad.DiffusionAD(preset, image_size=32, **small).set_params(image_size=64)
    made = dad.DiffusionAD(preset, image_size=64, **small)
    assert (model.config, model.started_from) == (made.config, made.started_from)
    assert model.set_params(image_size=32, top_k=7).set_params(image_size=64).config.top_k == 7


def test_a_trained_model_keeps_what_its_training_settled(tmp_path, images):
    model = small(steps=9).fit(images, steps=3, kind="texture")
    settled = model.train_config
    assert (settled.steps, settled.kind, settled.random_part) == (3, "texture", True)
    model.set_params(top_k=6)
    assert model.train_config == settled
    model.set_params(unet_lr=0.5)
    assert model.train_config == dad.config.update(settled, {"unet_lr": 0.5})
    model.set_params(steps=9)
    assert (model.train_config.steps, model.get_params()["steps"]) == (9, 9)
    plain = small().train_config
    model.set_params(kind="object")
    for name in ("self_probability", "random_part"):
        assert getattr(model.train_config, name) == getattr(plain, name)
    model.fit(images, steps=3, kind="texture")
    model.set_params(preset="compact", **{k: v for k, v in SMALL.items() if k != "steps"})
    assert model.train_config == model._given_train_config
    assert model.train_config.steps > 3


def test_a_trained_model_keeps_its_weights_or_refuses(images):
    model = small().fit(images)
    before, score = weights(model), model.score_samples(images[:1])
    model.set_params(seed=5, t_s=100, w=0.5, top_k=9, steps=3, unet_lr=1e-5)
    assert weights(model) == before
    assert model.score_samples(images[:1]) != score
    assert (model.config.seed, model.train_config.steps) == (5, 3)
    assert model.threshold is None  # it was one of other scores
    for name, value in (("image_size", 64), ("seg_channels", 8), ("timesteps", 900)):
        with pytest.raises(InputError, match=f"{name}: this model's weights are made for "):
            model.set_params(w=9.0, **{name: value})
    assert model.config.w == 0.5


def test_training_changes_no_parameter(tmp_path, images):
    (tmp_path / "good").mkdir()
    for index, pixels in enumerate(images[:3]):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    model = small()
    before = model.get_params()
    model.fit(tmp_path / "good", steps=2, kind="texture")
    assert model.train_config.kind == "texture"
    assert model.get_params() == before
    model.save(tmp_path / "m.safetensors")
    read = dad.load(tmp_path / "m.safetensors")
    assert read.get_params()["steps"] == 2
    again = clone(read)
    assert again.get_params() == read.get_params()
    assert again.threshold is None


# ---- scikit-learn -----------------------------------------------------------------------------


def test_clones_have_the_settings_and_not_the_training(images):
    model = small(seed=2, w=3, low_memory=True)
    fresh = weights(model)
    model.fit(images)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert weights(copied) == fresh
    assert is_outlier_detector(copied)
    with pytest.raises(NotFittedError):
        check_is_fitted(copied)
    check_is_fitted(model)


def test_cross_validation_trains_on_good_images_alone(images, labels):
    found = cross_validate(
        small(), images, labels, cv=2, scoring="roc_auc", return_estimator=True, error_score="raise"
    )
    parts = [([4, 5, 6, 7], [0, 1, 2, 3]), ([0, 1, 2, 3], [4, 5, 6, 7])]
    for index, (train, test) in enumerate(parts):
        by_hand = small().fit(images[[i for i in train if labels[i] == 0]])
        scores = by_hand.predict(images[test]).scores
        assert weights(found["estimator"][index]) == weights(by_hand)
        assert found["test_score"][index] == dad.metrics.auroc(labels[test], scores)


def test_a_pipeline(images):
    crop = FunctionTransformer(lambda x: x[:, 2:-2, 2:-2])
    pipeline = Pipeline([("crop", crop), ("model", small())])
    pipeline.set_params(model__steps=2, model__seed=1)
    pipeline.fit(images)
    model = small(steps=2, seed=1).fit(images[:, 2:-2, 2:-2])
    expected = model.predict(images[:, 2:-2, 2:-2])
    assert bits(pipeline.predict(images)) == bits(expected)
    np.testing.assert_array_equal(pipeline.score_samples(images), expected.scores)
    np.testing.assert_array_equal(
        pipeline.decision_function(images), expected.scores - model.threshold
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_search(images, labels):
    grid = {"w": [0.0, 2.0], "unet_lr": [1e-3]}
    search = GridSearchCV(small(), grid, scoring="average_precision", cv=2, error_score="raise")
    search.fit(images, labels)
    assert search.best_params_["w"] in grid["w"]
    assert search.best_estimator_.get_params()["w"] == search.best_params_["w"]
    assert search.best_estimator_.threshold is not None


def test_it_works_without_scikit_learn():
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import numpy as np, diffusionad as dad\n"
        f"model = dad.DiffusionAD(**{SMALL!r})\n"
        "x = np.zeros((2, 9, 9, 3), np.uint8)\n"
        "model.set_params(**model.get_params()).fit(x, [0, 0]).decision_function(x)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_can_be_pickled_and_copied(images):
    model = small(fast=True).fit(images)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert bits(other.predict(images)) == bits(model.predict(images))
        assert other.get_params() == model.get_params()
        assert (other.threshold, other.provenance) == (model.threshold, model.provenance)
        check_is_fitted(other)
    fresh = pickle.loads(pickle.dumps(small()))
    assert weights(fresh) == weights(small())
    assert not fresh.__sklearn_is_fitted__()
    assert weights(fresh.set_params(seed=1)) == weights(small(seed=1))


# ---- signs ------------------------------------------------------------------------------------


def test_higher_scores_are_more_anomalous_and_the_threshold_is_zero(images):
    model = tiny()
    found = model.predict(images)
    np.testing.assert_array_equal(model.score_samples(images), found.scores)
    with pytest.raises(InputError, match="threshold: this model has none"):
        model.decision_function(images)
    model.threshold = float(np.sort(found.scores)[5])
    decided = model.decision_function(images, batch_size=3)
    np.testing.assert_array_equal(decided, found.scores - model.threshold)
    np.testing.assert_array_equal(decided >= 0, model.predict(images).labels == 1)
    assert (decided >= 0).sum() == 3


# ---- fit --------------------------------------------------------------------------------------


def test_images_of_label_one_are_left_out(tmp_path, images, labels):
    expected = weights(small().fit(images[::2]))
    for y in (labels, labels.tolist(), labels.astype(bool), labels.astype(float)):
        assert weights(small().fit(images, y)) == expected
    assert weights(small().fit(list(images), y=labels)) == expected
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    assert weights(small().fit(tmp_path, labels)) == weights(
        small().fit([tmp_path / f"{i}.png" for i in range(0, 8, 2)])
    )


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 1], r"y: expected 8 labels, one per image, got int64 \[2\]"),
        ("dtd/images", r"y: expected 8 labels"),
        ([1, -1] * 4, r"y: expected 0 \(good\) and 1 \(anomalous\), got \[-1  1\]"),
        ([1] * 8, "y: expected good images, of label 0, to train on, got none"),
        (["0"] * 8, "y: expected 8 labels"),
        ([np.nan] * 8, r"y: expected 0 \(good\) and 1"),
    ],
)
def test_bad_labels_are_named(images, y, words):
    model = small()
    with pytest.raises(InputError, match=words):
        model.fit(images, y)
    assert not model.__sklearn_is_fitted__()


def test_a_saved_model_is_fine_tuned(tmp_path, images):
    model = small(steps=2).fit(images[:4])
    model.save(tmp_path / "m.safetensors")
    read = dad.load(tmp_path / "m.safetensors")
    before = read.provenance
    read.fit(images[4:], steps=1)
    goes_on = small(steps=1)
    goes_on.unet.load_state_dict(model.unet.state_dict())
    goes_on.seg.load_state_dict(model.seg.state_dict())
    goes_on.brightness = model.brightness
    assert weights(read) == weights(goes_on.fit(images[4:], steps=1))
    assert weights(read) != weights(small(steps=1).fit(images[4:]))
    assert read.threshold == goes_on.threshold != model.threshold
    assert read.provenance["train_steps"] == 1
    earlier = read.provenance["fine_tuned_from"]
    assert earlier == {k: v for k, v in before.items() if k not in THRESHOLD_NOTES}
    assert "fine_tuned_from" not in goes_on.provenance


def test_fine_tuning_that_is_resumed_still_knows_what_it_began_with(tmp_path, images):
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    model = small().fit(images[:4])
    earlier = {k: v for k, v in model.provenance.items() if k not in THRESHOLD_NOTES}
    with pytest.raises(KeyboardInterrupt):
        model.fit(images[4:], steps=2, out=tmp_path, progress=stop)
    resumed = small().fit(images[4:], out=tmp_path, resume=True)
    assert resumed.provenance["train_steps"] == 2
    assert resumed.provenance["fine_tuned_from"] == earlier
    whole = small().fit(images[:4]).fit(images[4:], steps=2)
    assert weights(resumed) == weights(whole)
