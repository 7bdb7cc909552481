"""Settings: presets, checks, and the way to JSON and TOML and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import FrozenInstanceError

import pytest

from diffusionad import config
from diffusionad.config import ModelConfig, TrainConfig
from diffusionad.errors import InputError


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_survive_json_and_toml(tmp_path, name):
    model, train = config.preset(name, channel_mults=(1, 2, 2), seed=5, steps=77)
    assert model.preset == name
    assert (model.seed, train.steps) == (5, 77)
    assert config.from_dict(ModelConfig, json.loads(json.dumps(config.to_dict(model)))) == model
    assert config.from_dict(TrainConfig, json.loads(json.dumps(config.to_dict(train)))) == train
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(model, train), encoding="utf-8")
    assert config.from_toml(path) == (model, train)


def test_defaults_are_the_papers():
    model, train = ModelConfig(), TrainConfig()
    assert (model.image_size, model.base_channels, model.seg_channels) == (256, 128, 64)
    assert (model.t_s, model.t_b, model.w, model.top_k) == (200, 400, 1.0, 50)
    assert train.losses == {"noise": 1.0, "focal": 5.0, "smooth_l1": 1.0}
    assert (train.unet_lr, train.seg_lr, train.seg_cosine_t_max) == (1e-4, 1e-5, 10)


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_train_at_the_noise_scales_that_they_use(name):
    model, train = config.preset(name)
    for used, (first, last) in ((model.t_s, train.t_s_range), (model.t_b, train.t_b_range)):
        assert first < used < last


def test_sizes_go_together_where_weights_are_pretrained():
    for name, size, attention, top_k in (("tiny", 64, (8, 4), 3), ("standard", 256, (32, 16), 50)):
        model = config.preset(name)[0]
        found = (model.preset, model.image_size, model.attention_resolutions, model.top_k)
        assert found == (name, size, attention, top_k)
    assert config.preset("compact", image_size=64)[0] == dataclasses.replace(
        config.preset("tiny")[0], preset="compact"
    )
    assert config.preset("compact", image_size=256)[0] == dataclasses.replace(
        config.preset("standard")[0], preset="compact"
    )
    chosen = config.preset("compact", image_size=64, attention_resolutions=(16,))[0]
    assert (chosen.attention_resolutions, chosen.top_k) == ((16,), 3)
    assert config.preset("compact", image_size=256, top_k=7)[0].top_k == 7
    paper = config.preset("paper", image_size=128)[0]
    assert paper == dataclasses.replace(config.PRESETS["paper"].model, image_size=128)


def test_settings_are_frozen_and_none_changes_nothing():
    model, _ = config.preset("compact", image_size=None, seed=None)
    assert model == config.PRESETS["compact"].model
    with pytest.raises(FrozenInstanceError):
        model.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 100}, "image_size: expected a multiple of 32, got 100"),
        ({"image_size": 64.0}, "image_size: expected int, got 64.0"),
        ({"base_channels": 48}, "base_channels: expected a multiple of 32"),
        ({"t_s": 400, "t_b": 400}, "t_s < t_b < 1000, got 400 and 400"),
        ({"t_b": 1000}, "t_s < t_b < 1000"),
        ({"mode": "iterative", "t_s": 0}, "t_s: expected at least 1, got 0"),
        ({"w": float("nan")}, "w: expected a finite number"),
        ({"w": "1"}, "w: expected a finite number"),
        ({"schedule": "sigmoid"}, "schedule: expected linear or cosine, got 'sigmoid'"),
        ({"mode": "twice"}, "mode: expected norm_guided or one_step or iterative or autoencoder"),
        ({"mode": "autoencoder", "preconditioned": True}, "preconditioned: expected False"),
        ({"channel_mults": [1, 0]}, "channel_mults: expected positive numbers"),
        ({"attention_resolutions": "32"}, "attention_resolutions: expected a sequence"),
        ({"resblock_updown": 1}, "resblock_updown: expected bool"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"dropout": 1.0}, "dropout: expected 0 to less than 1"),
        ({"num_head_channels": 0}, "num_head_channels: expected at least 1"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"unet_lr": 0.0}, "unet_lr: expected more than 0"),
        ({"anomaly_probability": 1.5}, "anomaly_probability: expected 0 to 1"),
        ({"t_s_range": [0, 300]}, "the last of t_s below the first of t_b, got"),
        ({"t_b_range": [400, 399]}, "t_s_range, t_b_range: expected first and last"),
        ({"t_b_range": [400]}, "t_s_range, t_b_range: expected first and last"),
        ({"t_b_range": 400}, "t_b_range: expected a sequence of numbers"),
        ({"bce_weight": -1}, "bce_weight: expected at least 0"),
        ({"learning_rate": 1}, "learning_rate: no such setting; there are: preset, image_size"),
    ],
)
def test_bad_settings_are_named(changes, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        config.preset("paper", **changes)


def test_some_loss_has_to_count():
    with pytest.raises(InputError, match="at least one above 0"):
        TrainConfig(noise_weight=0, focal_weight=0, smooth_l1_weight=0)
    with pytest.raises(
        InputError, match="preset: no 'huge'; there are: tiny, compact, standard, paper"
    ):
        config.preset("huge")


def test_files_of_other_versions(tmp_path):
    assert config.from_dict(ModelConfig, {"image_size": 64}) == ModelConfig(image_size=64)
    with pytest.raises(InputError, match="colour: no such setting in ModelConfig"):
        config.from_dict(ModelConfig, {"colour": 1})
    path = tmp_path / "c.toml"
    path.write_text("[train]\nsteps = 3\nrecompute = true\n")  # decided no result
    assert config.from_toml(path)[1] == TrainConfig(steps=3, memory_budget=0.0)
    assert config.from_dict(TrainConfig, {"recompute": False}) == TrainConfig()
    with pytest.raises(InputError, match="recompute: no such setting"):
        config.preset("compact", recompute=True)
    for text, words in (
        ("[model", "not valid TOML"),
        ("[net]\na = 1", "expected the tables"),
        ("model = 1", "expected the tables"),
        ("[train]\nsteps = 0", r"c\.toml: steps: expected at least 1"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            config.from_toml(path)
    with pytest.raises(InputError, match="cannot be read"):
        config.from_toml(tmp_path / "none.toml")
