"""Models as ONNX graphs: the same scores, maps and reconstructions in ONNX Runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import TINY, recipe

import diffusionad as dad
from diffusionad import denoising, export
from diffusionad.errors import InputError, MissingPackage, WriteError

PAPER = {**TINY, "image_size": 64, "channel_mults": (1, 2, 3), "seg_channels": 4}
MODELS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "one step": {**PAPER, "mode": "one_step", "schedule": "cosine"},
    "plain": {**PAPER, "resblock_updown": False, "num_head_channels": 16, "w": 2.0, "t_s": 100},
    "fewer pixels than scores": {**PAPER, "top_k": 5000, "channel_mults": (1,), "image_size": 32},
    "compact": {"preset": "compact", "image_size": 64},
    "standardised": {**PAPER, "standardised": True},
    "pooled": {**PAPER, "standardised": True},
    "mirrored": {**PAPER, "standardised": True, "mirrored": True},
    "not standardised any more": {**PAPER, "standardised": False},
    "matched": {**PAPER, "match_brightness": True},
    "autoencoder": {**PAPER, "mode": "autoencoder"},
    "patches of the map": {**PAPER, "seg_patch_size": 2, "num_res_blocks": 2},
}
TOLERANCE = 1e-4


def make(preset: str = "paper", **options: Any) -> dad.DiffusionAD:
    model = dad.DiffusionAD(preset, **options)
    for network in (model.unet, model.seg):
        network.load_state_dict(recipe(network))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_onnx_runtime_agrees(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="exports need the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    model = make(**MODELS[name])
    c = model.config
    if "standardised" in MODELS[name]:
        good = np.random.default_rng(9).random((1, 3, c.image_size, c.image_size), "f4")
        pooled = name in ("pooled", "mirrored")
        model.measure_normality(good if pooled else np.repeat(good, 8, axis=0))
        assert model.normality.pooled == pooled
        model.set_params(standardised=c.standardised)
    if c.match_brightness:
        model.brightness = 0.9  # bright parts end at white, dark images get four times the light
    model.threshold = 0.25
    model.export_onnx(tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert [one.name for one in session.get_inputs()] == ["image"]
    assert [one.name for one in session.get_outputs()] == ["score", "map", "reconstruction"]
    for count in (1, 3):
        images = np.random.default_rng(count).random((count, 3, c.image_size, c.image_size), "f4")
        images[1:] *= 0.05 if c.match_brightness else 1
        score, maps, repaired = session.run(None, {"image": images})
        ours = model.predict(images)
        assert ours.maps.std() > 0.001
        assert np.abs(score - ours.scores).max() < TOLERANCE
        assert np.abs(maps - ours.maps).max() < TOLERANCE
        assert np.abs(repaired - ours.reconstructions).max() < TOLERANCE
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["threshold"]) == 0.25
    assert json.loads(notes["config"])["image_size"] == c.image_size


def test_an_autoencoder_takes_no_noise(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="exports need the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="runs in ONNX Runtime")
    make(**MODELS["autoencoder"]).export_onnx(tmp_path / "m.onnx", noise_inputs=True)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert [one.name for one in session.get_inputs()] == ["image"]


@pytest.mark.parametrize("name", ["paper", "one step", "mirrored"])
def test_noise_can_be_given(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="exports need the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    model = make(**MODELS[name])
    c, names = model.config, ["noise_s", "noise_b"][: 1 if name == "one step" else 2]
    if name == "mirrored":
        model.measure_normality(np.random.default_rng(9).random((1, 3, 64, 64), "f4"))
    model.export_onnx(tmp_path / "m.onnx", noise_inputs=True)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert [one.name for one in session.get_inputs()] == ["image", *names]
    rng = np.random.default_rng(5)
    images = rng.random((2, 3, 64, 64), "f4")
    for count in (1, 2):
        noise = [rng.standard_normal((count, 3, 64, 64), "f4") for _ in names]
        given = dict(zip(names, noise, strict=True))
        repaired = session.run(["reconstruction"], {"image": images, **given})[0]
        ours = denoising.denoise(
            model.unet, images, c.mode, c.t_s, c.t_b, c.w, noise, model.schedule
        )
        assert np.abs(repaired - ours.x0).max() < TOLERANCE
        own = denoising.evaluation_noise((3, 64, 64), c.seed, len(names))
        given = {k: np.repeat(eps[None], count, 0) for k, eps in zip(names, own, strict=True)}
        maps = session.run(["map"], {"image": images, **given})[0]
        assert np.abs(maps - model.predict(images).maps).max() < TOLERANCE


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="exports need the extra onnx")
    for name in ("a", "b"):
        make(**PAPER).export_onnx(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(WriteError, match="cannot write"):
        make(**PAPER).export_onnx(tmp_path / "none" / "m.onnx")


def test_without_onnx_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    model = make(**PAPER)
    with pytest.raises(MissingPackage, match=r"pip install 'diffusionad\[onnx\]'"):
        model.export_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_an_onnx_file_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_import_onnx", lambda: None)
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"m\.onnx: 0\.0 GiB of parameters"):
        make(**PAPER).export_onnx(tmp_path / "m.onnx")


def test_iterative_denoising_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.onnx: mode: expected .*, got 'iterative'"):
        make(**PAPER, mode="iterative").export_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Recorder:
    """Stands for the package onnx: keeps what it is asked to make."""

    class TensorProto:
        FLOAT = 1

    def __init__(self) -> None:
        self.helper = self.numpy_helper = self

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: (name, given, named)


def test_every_parameter_is_in_the_graph_and_every_value_is_made(tmp_path: Path) -> None:
    """Without onnx: what nodes take exists by then, and no weight has been left out."""
    for options in MODELS.values():
        model = make(**options)
        made: list[Any] = []
        recorder = Recorder()
        recorder.make_graph = lambda *given, made=made: made.append(given)  # type: ignore[attr-defined]
        export.build(recorder, model, noise_inputs=False)
        nodes, _, inputs, outputs, constants = made[0]
        known = {given[1] for _, given, _ in constants} | {given[0] for _, given, _ in inputs}
        for _, (_, taken, left, _), _ in nodes:
            assert set(taken) - {""} <= known
            assert not set(left) & known
            known |= set(left)
        assert {given[0] for _, given, _ in outputs} <= known
        for prefix, network in (("unet", model.unet), ("seg", model.seg)):
            folded = ("time_embedding", "embed_layers", "in_layers.2.bias", "batches_tracked")
            for name in network.state_dict():
                if not any(part in name for part in folded):
                    assert f"{prefix}.{name}" in known
