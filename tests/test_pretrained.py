"""The weights that come with the package: small, documented, and used where they fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from programs import load_script

import diffusionad as dad
from diffusionad import checkpoints, pretrained

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "pretrain.py"


def values(model: dad.DiffusionAD) -> dict[str, np.ndarray]:
    return {**model.unet.state_dict(), **model.seg.state_dict()}


def test_the_preset_starts_from_them() -> None:
    found, kept = dad.DiffusionAD("compact", seed=3), checkpoints.load_model(pretrained.FILE)
    assert found.started_from == "pretrained weights"
    for name, array in {**kept.unet, **kept.seg}.items():
        np.testing.assert_array_equal(values(found)[name], array.astype(values(found)[name].dtype))
    random = dad.DiffusionAD("compact", pretrained=False)
    assert random.started_from == "random weights"
    name = next(iter(values(found)))
    assert (values(random)[name] != values(found)[name]).any()


@pytest.mark.parametrize("settings", [{"seg_channels": 8}, {"channel_mults": (1, 2)}])
def test_other_networks_start_from_random_weights(settings, caplog) -> None:
    model = dad.DiffusionAD("compact", **settings)
    assert model.started_from == "random weights"
    assert "pretrained: the weights that come with the package are of other" in caplog.text
    caplog.clear()
    same = dad.DiffusionAD("compact", **settings, pretrained=False)
    for name, array in values(same).items():
        np.testing.assert_array_equal(values(model)[name], array)
    assert caplog.text == ""


def test_the_image_size_does_not_matter() -> None:
    model = dad.DiffusionAD("compact", image_size=256)
    assert model.started_from == "pretrained weights"


def test_they_are_small_and_say_what_they_have_seen() -> None:
    assert pretrained.FILE.stat().st_size <= 10_000_000
    header = checkpoints.read_header(pretrained.FILE)
    assert header.provenance["data"] == "procedural surfaces (benchmarks/pretrain.py)"
    assert header.provenance["train_images"] > header.provenance["train_steps"] > 0
    assert all(np.isfinite(array).all() for array in values(dad.DiffusionAD("compact")).values())


def test_a_model_says_what_it_started_from(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    settings = {"image_size": 64, "attention_resolutions": (8, 4), "batch_size": 2}
    model = dad.DiffusionAD("compact", **settings).fit(images, steps=1)
    assert model.provenance["started_from"] == "pretrained weights"
    model.save(tmp_path / "m.safetensors")
    again = dad.load(tmp_path / "m.safetensors").fit(images, steps=1)
    assert again.provenance["started_from"] == "a trained model"
    fresh = dad.DiffusionAD("compact", **settings, pretrained=False).fit(images, steps=1)
    assert fresh.provenance["started_from"] == "random weights"


def test_the_script_that_made_them_runs(tmp_path, monkeypatch) -> None:
    script = load_script(SCRIPT, monkeypatch)
    monkeypatch.setattr(script, "POOL", 4)
    monkeypatch.setattr(script, "BATCH", 2)
    for name in ("a", "b"):
        script.pretrain(tmp_path / name, 2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert checkpoints.read_shapes(tmp_path / "a") == checkpoints.read_shapes(pretrained.FILE)


@pytest.mark.parametrize("strokes_only", [True, False])
@pytest.mark.parametrize("belonging", [0.0, 1.0])
def test_its_defects_are_where_the_masks_say(strokes_only, belonging, monkeypatch) -> None:
    script = load_script(SCRIPT, monkeypatch)
    monkeypatch.setattr(script, "DEFECT_SHARE", 1.0)
    monkeypatch.setattr(script, "BELONGING_SHARE", belonging)
    scenes = script.Scenes(64, 4, strokes_only)
    plain = script.Scenes(64, 4, True)
    for step in range(4):
        good, images, masks, labels = scenes.batch(step)
        assert labels.all()
        for part in (good, images):
            assert part.min() >= 0
            assert part.max() <= 1
        changed = (good != images).any(axis=1, keepdims=True)
        assert not (changed & (masks == 0)).any()
        assert (masks.any(axis=(1, 2, 3)) == (labels == 1)).all()
        if not strokes_only:  # what belongs is there before the defect
            assert (plain.batch(step)[0] != good).any() == (belonging > 0)


def test_means_are_of_the_square_around_a_pixel(monkeypatch) -> None:
    script = load_script(SCRIPT, monkeypatch)
    image = np.random.default_rng(0).random((3, 9, 9), np.float32)
    found = script.means(image, 2)
    np.testing.assert_allclose(found[:, 4, 4], image[:, 2:7, 2:7].mean((1, 2)), rtol=1e-6)
    corner = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")[:, :5, :5]
    np.testing.assert_allclose(found[:, 0, 0], corner.mean((1, 2)), rtol=1e-6)


def test_the_script_for_a_gpu_makes_the_same_kind(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch", reason="this script trains with PyTorch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = load_script(BENCHMARKS / "pretrain_gpu.py", monkeypatch)
    monkeypatch.setattr(script, "POOLS", {128: 4, 256: 4})
    monkeypatch.setattr(script, "IMAGES", {128: 8, 256: 8})
    script.pretrain(tmp_path / "m", seconds=5.0, start=pretrained.FILE, device="cpu", workers=0)
    assert checkpoints.read_shapes(tmp_path / "m") == checkpoints.read_shapes(pretrained.FILE)
    provenance = checkpoints.read_header(tmp_path / "m").provenance
    assert provenance["train_images"] == 8 * provenance["train_steps"] > 0
