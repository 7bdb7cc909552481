"""benchmarks/quality.py: what it measures of a trained model, and that it goes on."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from programs import load_script

import diffusionad as dad
from diffusionad.images import write_png

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "quality.py"


@pytest.fixture
def quality(monkeypatch) -> ModuleType:
    return load_script(SCRIPT, monkeypatch)


@pytest.fixture
def data(tmp_path) -> Path:
    """A category whose bad images are brighter, and marked."""
    rng = np.random.default_rng(0)
    for part, count, level in (("train/good", 8, 90), ("test/good", 3, 90), ("test/bad", 3, 140)):
        folder = tmp_path / "data" / "part" / part
        folder.mkdir(parents=True)
        for index in range(count):
            image = rng.integers(level - 20, level + 20, (32, 32, 3)).astype(np.uint8)
            if part == "test/bad":
                image[8:16, 8:16] = 255
            write_png(folder / f"{index}.png", image)
    folder = tmp_path / "data" / "part" / "ground_truth" / "bad"
    folder.mkdir(parents=True)
    for index in range(3):
        mask = np.zeros((32, 32), np.uint8)
        mask[8:16, 8:16] = 255
        write_png(folder / f"{index}_mask.png", mask)
    return tmp_path / "data"


def test_brightness_is_matched_image_by_image(quality):
    images = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32) / 4
    like = np.full((2, 3, 8, 8), 0.2, np.float32)
    found = quality.matched(images, like)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0.2, rtol=1e-5)
    factors = found / images
    assert np.ptp(factors, axis=(1, 2, 3)).max() < 1e-3
    assert np.ptp(factors[:, 0, 0, 0]) > 1e-3
    assert not quality.matched(0 * images, like).any()


def test_a_study_measures_every_variant_and_goes_on(quality, data, tmp_path, monkeypatch, capsys):
    trained = []

    def train(study, seed, folder, args):
        trained.append(seed)
        model = dad.DiffusionAD(
            "compact", image_size=32, channel_mults=(1,), attention_resolutions=(),
            batch_size=2, validation_share=0.0, seed=seed,
        )  # fmt: skip
        model.fit(study.data, steps=1).save(folder / "model.safetensors")

    monkeypatch.setattr(quality, "train", train)
    recipes = []

    def by_recipe(study, seed, args):
        recipes.append((seed, args.reference))
        return {"steps": args.reference, **dict.fromkeys(quality.METRICS, 0.5)}

    monkeypatch.setattr(quality, "by_recipe", by_recipe)
    for seeds, more in (("0", []), ("0,1", ["--reference", "7"]), ("0,1", ["--reference", "7"])):
        command = ["quality.py", str(tmp_path / "out"), str(data), "--seeds", seeds, *more]
        monkeypatch.setattr(sys, "argv", command)
        quality.main()
    assert trained == [0, 1]
    assert recipes == [(0, 7), (1, 7)]
    row = json.loads((tmp_path / "out" / "data" / "part" / "row.json").read_text())
    assert row["baselines"]["mean grey"] == 1.0
    assert row["baselines"]["mean grey, matched"] < 1.0
    for run in row["seeds"].values():
        for variant in quality.VARIANTS:
            assert set(run[variant]) == set(quality.METRICS)
            assert all(0 <= value <= 1 for value in run[variant].values())
        assert run["as it is"] != run["input for repair"]
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if "| data/part, as it is |" in line and "1, 1" in line)
    values = [row["seeds"][seed]["as it is"]["aupro"] for seed in "01"]
    assert f"{sum(values) / 2:.3f} ({max(values) - min(values):.3f})" in first
    recipe = next(line for line in lines if "| data/part, the reference's recipe |" in line)
    assert recipe.endswith("| 0.500 (0.000) | 0.500 (0.000) | 0.500 (0.000) | 7, 7 |")
    for other in (["--time-budget", "20m"], ["--reference", "8"]):
        command = ["quality.py", str(tmp_path / "out"), str(data), "--seeds", "0,1", *other]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match="choose another OUT"):
            quality.main()


def test_the_reference_is_trained_by_its_own_recipe(quality, data, monkeypatch):
    seen = []

    class Noted(dad.DiffusionAD):
        def fit(self, *given, **options):
            seen.append((self, options["steps"]))
            return self

    monkeypatch.setattr(quality.dad, "DiffusionAD", Noted)
    monkeypatch.setattr(quality, "found", lambda study, model: {"aupro": 0.5})
    study = quality.Study(data, "data/part", "part")
    args = Namespace(preset="compact", reference=7, anomaly_source=None)
    assert quality.by_recipe(study, 3, args) == {"steps": 7, "aupro": 0.5}
    ((model, steps),) = seen
    config, reference = model.train_config, dad.config.TrainConfig()
    assert (steps, model.started_from, model.seed) == (7, "random weights", 3)
    assert config.losses == reference.losses
    assert (config.unet_lr, config.seg_lr) == (reference.unet_lr, reference.seg_lr)
    assert (model.config.match_brightness, model.config.standardised) == (False, False)
    assert (config.anneal, config.ema_decay, config.batch_size) == (False, 0.0, 8)
