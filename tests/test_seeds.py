"""Seeds: ints, those of NumPy, or generators, wherever something is drawn."""

from __future__ import annotations

import numpy as np
import pytest

import diffusionad as dad
from diffusionad import config, seeds
from diffusionad.errors import InputError

TINY = {"image_size": 32, "base_channels": 32, "channel_mults": (1, 1), "num_res_blocks": 1}


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_int_is_itself_and_a_generator_gives_its_next_number():
    assert seeds.number(3) == seeds.number(np.int32(3)) == 3
    rng = generator()
    first, second = seeds.number(rng), seeds.number(rng)
    assert first != second
    assert (first, second) == (seeds.number(r := generator()), seeds.number(r))
    assert 0 <= first < 2**63


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_what_is_no_seed_is_refused(seed, error):
    with pytest.raises(error, match="seed: expected"):
        seeds.number(seed)


def test_networks_take_generators():
    one, other = (dad.UNet(**TINY, seed=generator()).state_dict() for _ in range(2))
    different = dad.UNet(**TINY, seed=generator(6)).state_dict()
    name = next(key for key in one if one[key].std() > 0)
    assert np.array_equal(one[name], other[name])
    assert not np.array_equal(one[name], different[name])
    seg = dad.SegmentationNet(base_channels=4, seed=np.int64(7)).state_dict()
    same = dad.SegmentationNet(base_channels=4, seed=7).state_dict()
    assert all(np.array_equal(seg[key], same[key]) for key in seg)


def test_models_and_trainers_take_generators():
    model = dad.DiffusionAD(image_size=32, seed=generator())
    assert model.seed == seeds.number(generator())
    assert dad.DiffusionAD(image_size=32, seed=np.int64(4)).seed == 4
    model.seed = generator(6)
    assert model.seed == seeds.number(generator(6))
    trainer = dad.Trainer(dad.UNet(**TINY), dad.SegmentationNet(base_channels=4), seed=generator())
    assert trainer.seed == seeds.number(generator())
    with pytest.raises(InputError, match="seed: expected int"):
        dad.DiffusionAD(image_size=32, seed="0")


def test_numbers_of_numpy_are_settings():
    model, train = config.preset(
        "compact", image_size=np.int64(64), w=np.float32(0.5), steps=np.int16(9)
    )
    assert (model.image_size, model.w, train.steps) == (64, 0.5, 9)
    assert type(model.image_size) is int
    assert type(train.steps) is int


def test_a_model_takes_a_schedule():
    model = dad.DiffusionAD(image_size=32, schedule=dad.Schedule("cosine", timesteps=500))
    assert (model.config.schedule, model.config.timesteps) == ("cosine", 500)
    assert (model.schedule.kind, model.schedule.timesteps) == ("cosine", 500)
    with pytest.raises(InputError, match="timesteps: expected 500"):
        dad.DiffusionAD(image_size=32, schedule=dad.Schedule("linear", 500), timesteps=1000)


def test_set_params_takes_what_the_constructor_takes():
    model = dad.DiffusionAD(image_size=32)
    model.set_params(schedule=dad.Schedule("cosine", timesteps=500), seed=generator())
    assert (model.config.schedule, model.config.timesteps) == ("cosine", 500)
    assert model.seed == seeds.number(generator())


@pytest.mark.parametrize("seed", [[1], {"a": 1}, 2**64, -1, "0"])
def test_a_bad_seed_of_a_model_is_bad_input(seed):
    for use in (
        lambda: dad.DiffusionAD(image_size=32, seed=seed),
        lambda: dad.DiffusionAD(image_size=32).set_params(seed=seed),
        lambda: setattr(dad.DiffusionAD(image_size=32), "seed", seed),
    ):
        with pytest.raises(InputError, match="seed: expected"):
            use()


def test_the_seed_keeps_weights_that_it_does_not_make(caplog):
    model = dad.DiffusionAD(image_size=64)  # of the weights that come with the package
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    model.calibrate(images)
    unet = model.unet
    model.seed = 3
    assert model.unet is unet
    assert model.threshold is None
    assert "dropped" in caplog.text
    plain = dad.DiffusionAD(image_size=64, pretrained=False)
    plain.calibrate(images)
    caplog.clear()
    plain.seed = 3
    assert "dropped what no longer holds: threshold" in caplog.text
