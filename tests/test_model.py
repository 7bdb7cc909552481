"""The detector with real, tiny networks: what it predicts, what it refuses, what its file keeps."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import diffusionad as dad
from diffusionad import _core, models
from diffusionad.errors import InputError

SIZE = 32


def tiny(**overrides: object) -> dad.DiffusionAD:
    """Networks of one level, with weights that do something everywhere."""
    settings = {
        "image_size": SIZE, "channel_mults": (1,), "attention_resolutions": (), "seg_channels": 4,
        "batch_size": 2, "top_k": 5, "patch_size": 4, "seg_patch_size": 1,
        "preconditioned": False, "anomaly_probability": 0.5, "focal_weight": 0.0,
        "smooth_l1_weight": 0.0, "bce_weight": 1.0, "dice_weight": 1.0, "match_brightness": False,
        "pretrained": False,
    }  # fmt: skip
    model = dad.DiffusionAD(**{**settings, **overrides})
    rng = np.random.default_rng(7)
    for network in (model.unet, model.seg):
        state = network.state_dict()
        for name, values in state.items():
            if name.endswith("weight") and not values.any():
                state[name] = rng.normal(0, 0.05, values.shape).astype(np.float32)
        network.load_state_dict(state)
    return model


def bits(prediction: dad.Prediction) -> tuple[bytes, bytes, bytes]:
    return (
        prediction.scores.tobytes(),
        np.asarray(prediction.maps).tobytes(),
        prediction.reconstructions.tobytes(),
    )


@pytest.fixture(scope="module")
def model() -> dad.DiffusionAD:
    return tiny()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((5, 3, SIZE, SIZE), dtype=np.float32)


@pytest.fixture(autouse=True)
def _threads():
    count = _core.get_num_threads()
    yield
    _core.set_num_threads(count)


# ---- predict ----------------------------------------------------------------------------------


def test_prediction_has_the_documented_shapes(model, images):
    found = model.predict(images)
    assert (found.scores.shape, found.scores.dtype) == ((5,), np.float64)
    assert (found.maps.shape, found.maps.dtype) == ((5, SIZE, SIZE), np.float32)
    assert found.reconstructions.shape == (5, 3, SIZE, SIZE)
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    assert found.maps.std() > 0
    assert found.labels is None
    largest = np.sort(found.maps.reshape(5, -1), axis=1)[:, -5:]
    np.testing.assert_allclose(found.scores, largest.mean(axis=1), rtol=1e-6)


def test_an_image_has_one_result_whatever_is_around_it(model, images):
    whole = model.predict(images)
    for size in (1, 2, 3, 5):
        assert bits(model.predict(images, batch_size=size)) == bits(whole)
    for threads in (1, 2, 3, 4):
        _core.set_num_threads(threads)
        assert bits(model.predict(images)) == bits(whole)
    backwards = model.predict(images[::-1])
    assert backwards.scores[::-1].tobytes() == whole.scores.tobytes()
    assert np.ascontiguousarray(backwards.maps[::-1]).tobytes() == whole.maps.tobytes()
    assert model.predict(images[3]).scores[0] == whole.scores[3]


def test_another_process_gives_the_same_bits(tmp_path, model, images):
    model.save(tmp_path / "m.safetensors")
    np.save(tmp_path / "x.npy", images)
    script = (
        "import sys, numpy as np, diffusionad as dad; "
        "p = dad.load(sys.argv[1] + '/m.safetensors').predict(np.load(sys.argv[1] + '/x.npy')); "
        "sys.stdout.buffer.write(p.scores.tobytes() + p.maps.tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
    here = model.predict(images)
    assert done.stdout == here.scores.tobytes() + here.maps.tobytes(), done.stderr


def test_seed_decides_the_noise(images):
    model = tiny()
    model._has_weights = True  # or another seed would make others
    before = bits(model.predict(images))
    model.seed = 1
    assert bits(model.predict(images)) != before
    model.seed = 0
    assert bits(model.predict(images)) == before


def test_files_folders_lists_and_arrays_agree(tmp_path, model):
    rng = np.random.default_rng(3)
    pixels = [rng.integers(0, 256, (20 + 9 * i, 50, 3), dtype=np.uint8) for i in range(3)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    expected = bits(model.predict(pixels))
    assert bits(model.predict(tmp_path)) == expected
    assert bits(model.predict(str(tmp_path))) == expected
    assert bits(model.predict(paths)) == expected
    assert bits(model.predict(tuple(map(str, paths)))) == expected
    assert bits(model.predict(path for path in paths)) == expected
    assert bits(model.predict([pixels[0], paths[1], pixels[2]], batch_size=2)) == expected
    assert model.predict(paths[1]).scores[0] == model.predict(pixels[1]).scores[0]
    stacked = np.stack([dad.images.resize(image, SIZE, SIZE) for image in pixels])
    assert bits(model.predict(stacked)) == expected
    floats = stacked.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    assert bits(model.predict(floats)) == expected


def test_grey_images_are_taken_as_colour(tmp_path, model):
    grey = np.random.default_rng(1).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "g.png")
    assert bits(model.predict(tmp_path / "g.png")) == bits(
        model.predict(np.repeat(grey[:, :, None], 3, axis=2))
    )


def test_maps_at_the_size_of_the_images(tmp_path, model):
    rng = np.random.default_rng(3)
    mixed = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((20, 70), (64, 33))]
    Image.fromarray(mixed[1]).save(tmp_path / "b.png")
    found = model.predict([mixed[0], tmp_path / "b.png"], size="input")
    assert [one.shape for one in found.maps] == [(20, 70), (64, 33)]
    expected = _core.resize_f32(model.predict(mixed).maps[1], 64, 33)
    np.testing.assert_array_equal(found.maps[1], expected)
    same = model.predict(np.stack([mixed[0]] * 2), size="input")
    assert same.maps.shape == (2, 20, 70)
    whole = np.zeros((2, 3, SIZE, SIZE), np.float32)
    assert model.predict(whole, size="input").maps.shape == (2, SIZE, SIZE)


BAD_IMAGES = {
    "int64": (np.zeros((1, 3, 8, 8), int), r"images\[0\]: expected uint8.*got int64 \[3, 8, 8\]"),
    "uint16": (np.zeros((8, 8), np.uint16), r"images\[0\]: expected uint8, or floats in \[0, 1\]"),
    "nan": (np.full((1, 3, SIZE, SIZE), np.nan, np.float32), r"in \[0, 1\], got nan"),
    "inf": (np.full((1, 3, SIZE, SIZE), np.inf, np.float32), r"in \[0, 1\], got inf"),
    "range": (np.full((1, 3, SIZE, SIZE), 255, np.float32), r"in \[0, 1\], got 255 to 255"),
    "greys": (np.zeros((5, 8, 8), np.uint8), r"images\[0\]: .*got uint8 \[5, 8, 8\]"),
    "scalar": (np.zeros((), np.uint8), r"images\[0\]: .*got uint8 \[\]"),
    "five": (np.zeros((1, 1, 8, 8, 3), np.uint8), r"got uint8 \[1, 1, 8, 8, 3\]"),
    "none": ([], "images: expected at least one image, got none"),
    "no rows": (np.zeros((0, 8, 8, 3), np.uint8), "images: expected at least one image"),
    "no pixels": ([np.zeros((0, 8, 3), np.uint8)], r"images\[0\]: expected uint8"),
    "channels": (np.zeros((2, 8, 8, 4), np.uint8), r"images\[0\]: .*got uint8 \[8, 8, 4\]"),
    "number": (3, "images: expected arrays, PIL images or paths, got int"),
    "object": ([None], r"images\[0\]: expected an array, a PIL image or a path, got N"),
    "missing": ("/nonexistent.png", r"nonexistent\.png: no such file"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images_are_named(model, kind):
    images, words = BAD_IMAGES[kind]
    with pytest.raises(InputError, match=words):
        model.predict(images)


def test_a_bad_image_is_named_by_its_place_in_the_whole(tmp_path, model):
    good = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match=r"images\[3\]: expected uint8"):
        model.predict([good, good, good, good[:, :, :2]], batch_size=2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no images"):
        model.predict(tmp_path / "empty")


def test_bad_options_are_named(model, images):
    with pytest.raises(InputError, match='size: expected "model" or "input"'):
        model.predict(images, size="huge")
    with pytest.raises(InputError, match="batch_size: expected 1 or more, got 0"):
        model.predict(images, batch_size=0)
    with pytest.raises(InputError, match="preset: no 'big'"):
        dad.DiffusionAD("big")
    with pytest.raises(InputError, match="colour: no such setting"):
        dad.DiffusionAD(colour=3)
    with pytest.raises(InputError, match="image_size: expected a multiple of 32"):
        tiny(image_size=40)
    with pytest.raises(InputError, match="seed: expected"):
        dad.DiffusionAD(seed=-1)


# ---- explain, labels --------------------------------------------------------------------------


def test_explain_gives_what_predict_gives_and_its_stages(model, images):
    stages, found = model.explain(images), model.predict(images)
    assert stages.scores.tobytes() == found.scores.tobytes()
    assert stages.maps.tobytes() == found.maps.tobytes()
    assert stages.x0.tobytes() == found.reconstructions.tobytes()
    noise = [n[None] for n in dad.denoising.evaluation_noise(images.shape[1:], seed=0)]
    noised = model.schedule.q_sample(images, 400, np.repeat(noise[1], 5, axis=0))
    np.testing.assert_array_equal(stages.x_b, noised)
    assert stages.x_s.shape == stages.x0_s.shape == stages.x0_b.shape == images.shape


def test_explain_takes_images_batch_by_batch(model, images, monkeypatch):
    whole, plain, sizes = model.explain(images), type(model)._repair, []
    monkeypatch.setattr(
        type(model), "_repair", lambda self, x0: sizes.append(len(x0)) or plain(self, x0)
    )
    parts = model.explain(images, batch_size=2)
    assert sizes == [2, 2, 1]
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(parts, name), values)


def test_one_step_has_no_second_scale(images):
    stages = tiny(mode="one_step").explain(images)
    assert stages.x_b is None
    assert stages.x0_b is None
    np.testing.assert_array_equal(stages.x0, stages.x0_s)


def test_threshold_labels_and_is_checked(images):
    model = tiny()
    scores = model.predict(images).scores
    model.threshold = np.float32(np.sort(scores)[2])
    assert type(model.threshold) is float
    expected = (scores >= model.threshold).astype(int)
    np.testing.assert_array_equal(model.predict(images).labels, expected)
    for bad in ("high", float("nan"), [1]):
        with pytest.raises(InputError, match="threshold: expected a"):
            model.threshold = bad


@pytest.mark.parametrize(("rate", "alarms"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.5, 2), (0.99, 4)])
def test_calibration_keeps_to_the_rate_of_false_alarms(images, rate, alarms):
    model = tiny()
    threshold = model.calibrate(images, rate)
    assert threshold == model.threshold
    assert model.predict(images).labels.sum() == alarms
    assert model.provenance["threshold"] == f"reached by at most {alarms} of 5 good images"


def test_calibration_with_ties_and_bad_rates(images):
    model = tiny()
    model.calibrate(np.repeat(images[:1], 10, axis=0), 0.5)
    assert model.predict(np.repeat(images[:1], 10, axis=0)).labels.sum() == 0
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="false_alarm_rate: expected 0 to below 1"):
            model.calibrate(images, rate)


# ---- files ------------------------------------------------------------------------------------


def test_a_saved_model_is_the_model(tmp_path, images):
    model = tiny(mode="one_step", t_s=150, seed=5)
    model.threshold = 0.123456789
    model.save(tmp_path / "m.safetensors")
    read = dad.load(tmp_path / "m.safetensors")
    assert (read.config, read.train_config) == (model.config, model.train_config)
    assert (read.threshold, read.provenance) == (model.threshold, model.provenance)
    assert bits(read.predict(images)) == bits(model.predict(images))
    read.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "m.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def parts(tmp_path_factory, model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a model file, to be broken."""
    path = tmp_path_factory.mktemp("parts") / "m.safetensors"
    model.save(path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return load_file(path), json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]


def changed(metadata: dict[str, str], **settings: object) -> dict[str, str]:
    config = json.loads(metadata["config"])
    config["model"].update(settings)
    return {**metadata, "config": json.dumps(config)}


def test_files_that_contradict_themselves_are_refused(tmp_path, parts):
    tensors, metadata = parts
    name = "seg." + list(tiny().seg.parameters())[-1]
    cases = [
        (tensors, changed(metadata, base_channels=64), "does not fit its own settings"),
        (tensors, changed(metadata, image_size=33), "image_size: expected a multiple"),
        (tensors, changed(metadata, colour=1), "colour: no such setting"),
        (tensors, changed(metadata, w=10**400), "does not fit its own settings: int too large"),
        (tensors, {**metadata, "config": '{"model": 3}'}, "does not fit its own settings"),
        (tensors, {**metadata, "threshold": "NaN"}, "'threshold' is missing or broken"),
        ({k: v for k, v in tensors.items() if k != name}, metadata, "1 names missing"),
        ({**tensors, "seg.extra": tensors[name]}, metadata, "0 names missing, 1 unknown"),
        ({**tensors, name: tensors[name][:0]}, metadata, "expected shape"),
        (tensors, {**metadata, "format": "diffusionad/9"}, "newer version"),
        (tensors, {}, "not a file of this package"),
    ]
    for values, texts, words in cases:
        save_file(values, tmp_path / "m.safetensors", metadata=texts)
        with pytest.raises(InputError, match=r"m\.safetensors: .*" + words):
            dad.load(tmp_path / "m.safetensors")


HUGE = {
    "base_channels": 1 << 20, "channel_mults": [1 << 15], "num_res_blocks": 30,
    "in_channels": 1 << 20, "seg_channels": 1 << 15, "patch_size": 16,
    "timesteps": 10**9, "image_size": 1 << 20,
}  # fmt: skip


@pytest.mark.parametrize("setting", HUGE)
def test_settings_take_no_memory_that_the_tensors_do_not_bear_out(
    tmp_path, parts, monkeypatch, setting
):
    """Or a file of some kB would have networks of terabytes made."""
    tensors, metadata = parts
    words = {"timesteps": "at most 100,000", "image_size": "at most 8,192"}.get(setting, "unet|seg")
    file = tmp_path / "m.safetensors"
    changes = {setting: HUGE[setting]}
    if setting == "base_channels":
        changes["channel_mults"] = [2**-15]  # as wide as the file's, but for the time embedding
    save_file(tensors, file, metadata=changed(metadata, **changes))
    for name in ("unet", "segmenter", "schedule"):
        monkeypatch.setattr(_core, name, lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(InputError, match=rf"m\.safetensors: .*own settings: .*({words})"):
        dad.load(file)


@pytest.mark.parametrize("network", ["unet", "seg"])
def test_every_main_tensor_is_asked_for(tmp_path, parts, monkeypatch, network):
    tensors, metadata = parts
    shapes = [row for row in models.main_shapes(tiny().config) if row[0] == network]
    known = getattr(tiny(), network).parameters()
    assert all(known[name] == shape for _, name, shape in shapes)
    assert sum(math.prod(shape) for _, _, shape in shapes) * 10 > sum(
        map(math.prod, known.values())
    )
    monkeypatch.setattr(_core, "unet", lambda **_: pytest.fail("memory was taken"))
    for _, name, _ in shapes:
        kept = {k: v for k, v in tensors.items() if k != f"{network}.{name}"}
        save_file(kept, tmp_path / "m", metadata=metadata)
        with pytest.raises(InputError, match=f"{network}: name missing: {name}"):
            dad.load(tmp_path / "m")


def test_truncated_files_are_refused(tmp_path, model):
    model.save(tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(InputError, match="m: "):
            dad.load(tmp_path / "m")


def test_an_older_file_without_newer_settings_is_read(tmp_path, parts, images, model):
    tensors, metadata = parts
    config = json.loads(metadata["config"])
    del config["model"]["preconditioned"], config["train"]
    save_file(tensors, tmp_path / "m", metadata={**metadata, "config": json.dumps(config)})
    assert bits(dad.load(tmp_path / "m").predict(images)) == bits(model.predict(images))


def test_repr_says_what_it_is(model):
    assert repr(model) == (
        f"DiffusionAD(preset='compact', image_size=32, seed=0, parameters={model.num_parameters:,})"
    )
    assert model.num_parameters == sum(
        int(np.prod(shape))
        for network in (model.unet, model.seg)
        for shape in network.parameters().values()
    )


def test_a_link_is_kept_and_its_target_replaced(tmp_path, model):
    real: Path = tmp_path / "real.safetensors"
    model.save(real)
    (tmp_path / "link.safetensors").symlink_to(real)
    real.write_bytes(b"")
    model.save(tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert dad.load(real).config == model.config
