"""Good images held out: who they are, what they measure, and which weights they choose."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_fitting import small, stop_at, weights
from test_normality import photographs

import diffusionad as dad
from diffusionad import fitting, training_log, validation
from diffusionad.sources import TrainingImages
from diffusionad.synthesis import SynthesisOptions
from diffusionad.validation import Validation, held_out

STEPS = 8
HELD: dict[str, object] = {"validation_share": 0.4, "validations": 4, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 40, 36, 3), dtype=np.uint8)


def test_who_is_held_out() -> None:
    chosen = held_out(40, 0.1, seed=0)
    assert len(set(chosen)) == 4
    assert (np.diff(chosen) > 0).all()
    assert (chosen != held_out(40, 0.1, seed=1)).any()
    assert len(held_out(1000, 0.5, seed=0)) == validation.MOST
    assert len(held_out(20, 0.1, seed=0)) == 0
    assert len(held_out(1000, 0.0, seed=0)) == 0
    assert [len(held_out(n, 0.9, seed=0)) for n in (1, 4, 5, 6)] == [0, 0, 4, 5]  # never all


def test_images_are_seen_as_they_are_and_with_a_defect(images) -> None:
    pixels = np.stack([dad.images.resize(image, 32, 32) for image in images])
    options = SynthesisOptions(anomaly_probability=0.0)  # not used here
    found = Validation(TrainingImages(pixels, {}), None, None, options, seed=0)
    again = Validation(TrainingImages(pixels, {}), None, None, options, seed=0)
    assert found.labels.tolist() == [0] * 10 + [1] * 10
    assert not found.masks[:10].any()
    assert found.masks[10:].any(axis=(1, 2)).all()
    changed = (found.defective != found.good).any(axis=1)
    assert not (changed & ~found.masks[10:]).any()
    np.testing.assert_array_equal(found.defective, again.defective)

    class Seer:
        """Finds what differs from the good images, everywhere but in the last one."""

        def predict(self, shown: np.ndarray) -> SimpleNamespace:
            maps = np.abs(shown - np.concatenate([found.good] * 2)).max(axis=1)
            maps[-1] = 0
            return SimpleNamespace(scores=maps.max(axis=(1, 2)).astype(float), maps=maps)

    scores = found.measure(Seer())
    assert list(scores) == list(validation.COLUMNS)
    assert scores["val_image_auroc"] == pytest.approx(0.95)  # one of ten ties with the good ones
    assert 0.5 < scores["val_aupro"] < scores["val_pixel_auroc"] < 1


def test_the_best_step_is_kept_and_said(tmp_path, images, monkeypatch) -> None:
    told = iter([0.5, 0.9, 0.7, 0.8])
    seen = []

    def measure(self: Validation, model: dad.DiffusionAD) -> dict[str, float]:
        seen.append({n: v.copy() for n, v in model.seg.state_dict().items()})
        value = next(told)
        return dict(zip(validation.COLUMNS, (value, 0.25, value), strict=True))

    monkeypatch.setattr(Validation, "measure", measure)
    model = small(**HELD).fit(images, steps=STEPS, out=tmp_path / "run")
    assert len(seen) == 4
    for name, values in model.seg.state_dict().items():
        np.testing.assert_array_equal(values, seen[1][name])
    read = dad.load(tmp_path / "run" / "model.safetensors")
    assert (read.seg.state_dict()[name] == values).all()
    assert read.provenance["validation"] == {
        "images": 4, "step": 4, "image_auroc": 0.9, "pixel_auroc": 0.25, "aupro": 0.9,
    }  # fmt: skip
    note = "reached by at most 0 of 10 good images, 4 of them held out"
    assert read.provenance["threshold"] == note
    assert (read.predict(images).scores < read.threshold).all()
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_aupro"] for row in rows] == ["", "0.5", "", "0.9", "", "0.7", "", "0.8"]
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.size == (640, 800)


def test_averages_are_what_evaluation_takes(images) -> None:
    plain, averaged = (small(ema_decay=decay).fit(images, steps=STEPS) for decay in (0.0, 0.9))
    name = "encoder_segment.block1.0.weight"
    np.testing.assert_array_equal(  # the steps are the same
        averaged.seg._core.read(name, "average"), plain.seg.state_dict()[name]
    )
    assert (averaged.seg.state_dict()[name] != plain.seg.state_dict()[name]).any()


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_with_averages_and_validation_goes_on_bit_for_bit(tmp_path, images, step) -> None:
    whole = small(**HELD).fit(images, steps=STEPS, out=tmp_path / "whole")
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        small(**HELD).fit(images, steps=STEPS, out=out, progress=stop_at(step))
    model = dad.load(out / "model.safetensors").fit(images, out=out, resume=True)
    assert weights(model) == weights(whole)
    assert model.threshold == whole.threshold
    assert model.provenance["validation"] == whole.provenance["validation"]
    assert training_log.text([{**row, "seconds": 0} for row in _rows(out)]) == training_log.text(
        [{**row, "seconds": 0} for row in _rows(tmp_path / "whole")]
    )
    finished = dad.load(out / "model.safetensors").fit(images, out=out, resume=True)
    assert weights(finished) == weights(whole)


def _rows(out) -> list[dict[str, float]]:
    return training_log.read(out / fitting.LOG_FILE, STEPS)


def test_a_stopped_run_leaves_the_weights_of_its_file(tmp_path, images) -> None:
    for settings in (HELD, {"ema_decay": 0.9}):
        model, out = small(**settings), tmp_path / str(len(settings))
        with pytest.raises(KeyboardInterrupt):
            model.fit(images, steps=STEPS, out=out, progress=stop_at(5))
        read = dad.load(out / "model.safetensors")
        for network in ("unet", "seg"):
            state = getattr(read, network).state_dict()
            for name, values in getattr(model, network).state_dict().items():
                np.testing.assert_array_equal(values, state[name])


def test_a_run_that_learns_nothing_is_told(images, monkeypatch, caplog) -> None:
    monkeypatch.setattr(
        Validation, "measure", lambda self, model: dict.fromkeys(validation.COLUMNS, 0.5)
    )
    small(**HELD).fit(images, steps=STEPS)
    told = [r.getMessage() for r in caplog.records if "not told from" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("after 4 of 8 steps held-out images with synthetic defects")


def test_few_images_are_all_trained_on(images) -> None:
    model = small(validation_share=0.1).fit(images, steps=2)
    assert "validation" not in model.provenance
    assert model.provenance["threshold"] == "reached by at most 0 of 10 good images"


def test_one_image_at_least_is_trained_on(images) -> None:
    model = small(validation_share=0.9, validations=1).fit(images[:4], steps=1)
    assert "validation" not in model.provenance
    model = small(validation_share=0.99, validations=1).fit(images[:5], steps=1)
    assert model.provenance["validation"]["images"] == 4


# ---- what an earlier run leaves -----------------------------------------------------------------


def test_a_resumed_run_forgets_what_the_model_had_before(tmp_path) -> None:
    """Else validations would be of relative maps, and choose other weights."""
    good = photographs(0, place=0)
    settings = {**HELD, "standardised": True}
    whole = small(**settings).fit(good, steps=STEPS)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        small(**settings).fit(good, steps=STEPS, out=out, progress=stop_at(1))
    model = small(**settings)
    model.measure_normality(good)
    model.threshold = 0.5
    assert model.normality is not None
    with pytest.raises(KeyboardInterrupt):
        model.fit(good, out=out, resume=True, progress=stop_at(3))
    assert dad.load(out / fitting.MODEL_FILE).threshold is None
    model.fit(good, out=out, resume=True)
    assert weights(model) == weights(whole)
    assert model.provenance["validation"] == whole.provenance["validation"]


def test_halves_of_every_file_are_removed(tmp_path, images) -> None:
    names = {path.name for path in _finished(tmp_path / "run", images)}
    for name in names:
        (tmp_path / "run" / f".{name}.abc123.tmp").write_bytes(b"half")
    assert {path.name for path in _finished(tmp_path / "run", images)} == names


def _finished(out, images) -> list[Path]:
    small(kind="object").fit(images, steps=1, out=out)
    return list(out.iterdir())
