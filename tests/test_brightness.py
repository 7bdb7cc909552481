"""Images at one brightness: the arithmetic, training, the file, and every way to predict."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad import brightness, checkpoints
from diffusionad.errors import InputError


def drawn(count: int = 6, seed: int = 0) -> np.ndarray:
    """Photographs whose light varies, [N, 3, H, W] in [0, 0.5]."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.3, 0.5, (count, 1, 1, 1))
    return (rng.random((count, 3, SIZE, SIZE)) * light).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> dad.DiffusionAD:
    return tiny(match_brightness=True).fit(drawn(), steps=2)


# ---- arithmetic ---------------------------------------------------------------------------------


def test_each_image_gets_the_brightness() -> None:
    found = brightness.matched(drawn(), 0.2)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0.2, rtol=1e-5)
    assert (found.dtype, found.shape) == (np.float32, drawn().shape)
    alone = np.concatenate([brightness.matched(one[None], 0.2) for one in drawn()])
    np.testing.assert_array_equal(found, alone)


def test_the_factor_is_four_at_most_and_nothing_is_brighter_than_white() -> None:
    dark = np.full((1, 3, 4, 4), 0.01, np.float32)
    assert brightness.matched(dark, 0.5).max() == np.float32(0.04)
    assert brightness.matched(100 * dark, 0.01).max() == np.float32(0.25)
    assert brightness.matched(0 * dark, 0.5).max() == 0
    spot = np.zeros((1, 3, 4, 4), np.float32)
    spot[0, :, 0, 0] = 0.9
    found = brightness.matched(spot, 0.2)
    assert found.max() == 1
    assert np.count_nonzero(found) == 3


def test_the_mean_of_images_of_any_number() -> None:
    images = drawn()
    assert brightness.mean_of(images) == pytest.approx(images.mean(dtype=np.float64), rel=1e-6)
    assert brightness.mean_of(iter(images)) == brightness.mean_of(images)


# ---- models -------------------------------------------------------------------------------------


def test_light_that_drifts_changes_nothing(model: dad.DiffusionAD) -> None:
    assert model.brightness == pytest.approx(drawn().mean(), rel=1e-6)
    assert model.provenance["brightness"] == round(model.brightness, 4)
    images = drawn(3, seed=1)
    usual, darker = model.predict(images), model.predict(0.7 * images)
    np.testing.assert_allclose(darker.scores, usual.scores, atol=1e-5)
    np.testing.assert_allclose(darker.reconstructions, usual.reconstructions, atol=1e-5)
    plain = tiny().fit(drawn(), steps=2)
    assert plain.brightness is None
    change = np.abs(plain.predict(0.7 * images).maps - plain.predict(images).maps)
    assert change.max() > 1e-4


def test_networks_see_matched_images_in_training_too(model: dad.DiffusionAD) -> None:
    """As if the images had been matched before; the noise of a step does not depend on them."""
    before = brightness.matched(drawn(), model.brightness)
    other = tiny().fit(before, steps=2)
    for name, value in model.unet.state_dict().items():
        np.testing.assert_allclose(value, other.unet.state_dict()[name], atol=1e-5)


def test_every_way_to_predict_sees_matched_images(model: dad.DiffusionAD) -> None:
    images = drawn(3, seed=1)
    said = model.predict(images)
    expected = brightness.matched(images, model.brightness)
    np.testing.assert_array_equal(said.images, dad.prediction.shown(expected))
    np.testing.assert_array_equal(model.explain(images).maps, said.maps)
    streamed = list(model.predict_stream(images))
    np.testing.assert_array_equal([one.score for one in streamed], said.scores)
    tiled = model.predict_tiled(images, overlap=0.0)
    np.testing.assert_allclose(np.asarray(tiled.maps), said.maps, atol=1e-6)
    np.testing.assert_array_equal(tiled.images, said.images)


def test_standardised_maps_are_of_matched_images() -> None:
    light = np.linspace(0.6, 1, 12, dtype=np.float32)
    images = drawn(1) * light[:, None, None, None]
    model = tiny(match_brightness=True, standardised=True).fit(images, steps=1)
    assert model.normality is not None
    assert (model.normality.deviation < 1e-3).all()  # all show the same in other light


def test_the_file_and_copies_keep_it(model: dad.DiffusionAD, tmp_path) -> None:
    images = drawn(2, seed=1)
    said = model.predict(images)
    model.save(tmp_path / "m.safetensors")
    for copy in (dad.load(tmp_path / "m.safetensors"), pickle.loads(pickle.dumps(model))):
        assert copy.brightness == model.brightness
        np.testing.assert_array_equal(copy.predict(images).maps, said.maps)
    with pytest.raises(InputError, match="match_brightness = True"):
        tiny(match_brightness=True, patch_size=1).save_official(tmp_path / "m.pt")


@pytest.mark.parametrize("value", [[0.5, 0.5], [1.5], [-0.1], [float("nan")]])
def test_a_file_with_a_bad_one_is_refused(model: dad.DiffusionAD, tmp_path, value) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    _, metadata = checkpoints._read_shapes(path, checkpoints.MODEL_FORMAT)
    tensors = load_file(path) | {"normality.brightness": np.array(value, np.float32)}
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=r"normality\.brightness: expected one number from 0 to 1"):
        dad.load(path)


def test_fine_tuning_keeps_what_the_weights_know(model: dad.DiffusionAD, tmp_path) -> None:
    model.save(tmp_path / "m.safetensors")
    again = dad.load(tmp_path / "m.safetensors")
    again.fit(0.5 * drawn(seed=2), steps=2, out=tmp_path / "run")
    assert again.brightness == model.brightness
    resumed = dad.DiffusionAD(**again.get_params())
    resumed.fit(0.5 * drawn(seed=2), out=tmp_path / "run", resume=True)
    assert resumed.brightness == model.brightness


def test_it_is_part_of_what_shapes_the_weights(model: dad.DiffusionAD) -> None:
    with pytest.raises(InputError, match="match_brightness: this model's weights are made for"):
        pickle.loads(pickle.dumps(model)).set_params(match_brightness=False)
    assert tiny(match_brightness=True).predict(drawn(1)).scores.shape == (1,)  # not measured yet
