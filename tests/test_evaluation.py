"""Evaluation around a model that scores by darkness: what counts, what is left out."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from diffusionad import datasets, evaluation, metrics
from diffusionad.errors import InputError
from diffusionad.tiling import Tiles

SIZE = 32
FIELDS = {
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
    "images_per_second", "peak_memory_mb", "train_seconds", "train_steps", "category", "layout",
    "protocol", "preset", "seed", "threads", "simd", "run_flags", "versions", "per_defect",
    "resolution", "fpr_limit", "tiles", "confidence", "curves", "scores", "threshold",
    "evaluate_seconds",
}  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    """Noisy images; the defects are dark squares, more of them than the masks say."""
    rng = np.random.default_rng(0)

    def save(path: Path, square: int, value: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(100, 256, (SIZE * 2, SIZE * 2, 3), dtype=np.uint8)
        pixels[8 : 8 + square, 8 : 8 + square] //= value
        Image.fromarray(pixels).save(path)

    part = tmp_path / "part"
    for index in range(5):
        save(part / "train" / "good" / f"{index}.png", 0, 1)
        save(part / "test" / "good" / f"{index}.png", 0, 1)
        for defect, value in (("dent", 2), ("stain", 9)):
            save(part / "test" / defect / f"{index}.png", 20, value)
            mask = np.zeros((SIZE * 2, SIZE * 2), np.uint8)
            mask[8:27, 8:27] = 1
            (part / "ground_truth" / defect).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(part / "ground_truth" / defect / f"{index}_mask.png")
    return part


@pytest.fixture
def model() -> fakes.FakeModel:
    made = fakes.FakeModel(image_size=SIZE, seed=4)
    made.provenance = {"train_seconds": 2.5, "train_steps": 9}
    return made


def test_result_has_the_fields_and_the_values(root, model):
    data = datasets.open(root)
    seen = []
    result = evaluation.evaluate(model, data, progress=lambda done, of: seen.append((done, of)))
    assert set(result) == FIELDS
    json.dumps(result, allow_nan=False)
    assert seen == [(8, 15), (15, 15)]
    assert (result["seed"], result["train_steps"], result["train_seconds"]) == (4, 9, 2.5)
    assert (result["category"], result["layout"], result["preset"]) == ("part", "mvtec", "compact")

    prediction = model.predict([sample.path for sample in data.test])
    labels = [sample.label for sample in data.test]
    assert result["image_auroc"] == pytest.approx(roc_auc_score(labels, prediction.scores))
    # At least half of a network's pixel lies in the mask: rows and columns 4 to 13, less a corner.
    truth = np.zeros((len(labels), SIZE, SIZE), bool)
    truth[np.array(labels) == 1, 4:14, 4:14] = True
    truth[:, 13, 13] = False
    pixels = truth.ravel(), prediction.maps.ravel()
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(*pixels))
    assert result["pixel_ap"] == pytest.approx(average_precision_score(*pixels))


def test_result_holds_the_score_of_every_image(root, model):
    data = datasets.open(root)
    model.threshold = 0.25
    result = evaluation.evaluate(model, data)
    scores = result["scores"]
    assert scores["path"][0] == "test/dent/0.png"
    assert scores["path"] == [s.path.relative_to(root).as_posix() for s in data.test]
    assert scores["label"] == [sample.label for sample in data.test]
    assert set(scores["defect"]) == {"good", "dent", "stain"}
    assert scores["score"] == model.predict([s.path for s in data.test]).scores.tolist()
    assert result["threshold"] == 0.25
    assert result["evaluate_seconds"] >= 0


def test_each_defect_is_measured_against_the_good_images(root, model):
    data = datasets.open(root)
    per_defect = evaluation.evaluate(model, data)["per_defect"]
    assert set(per_defect) == {"dent", "stain"}
    assert {row["images"] for row in per_defect.values()} == {5}
    chosen = [sample for sample in data.test if sample.defect != "stain"]
    scores = model.predict([sample.path for sample in chosen]).scores
    expected = roc_auc_score([sample.label for sample in chosen], scores)
    assert per_defect["dent"]["image_auroc"] == pytest.approx(expected)
    assert per_defect["stain"]["pixel_ap"] > per_defect["dent"]["pixel_ap"]


def test_reference_protocol_takes_exact_pixels_only(root, model):
    data = datasets.open(root)
    result = evaluation.evaluate(model, data, "reference")
    maps = model.predict([sample.path for sample in data.test]).maps
    truth = np.zeros_like(maps, bool)
    truth[[sample.label == 1 for sample in data.test], 4:13, 4:13] = True
    assert result["protocol"] == "reference"
    assert result["pixel_auroc"] == round(roc_auc_score(truth.ravel(), maps.ravel()), 3)
    assert result["image_auroc"] == round(result["image_auroc"], 3)
    assert result["aupro"] == metrics.reference_pro(truth, maps)
    assert "aupro" not in result["confidence"]
    assert "pixel_ap" in result["confidence"]
    chosen = [n for n, sample in enumerate(data.test) if sample.defect in ("good", "dent")]
    dent = metrics.reference_pro(truth[chosen], maps[chosen])
    assert result["per_defect"]["dent"]["aupro"] == dent
    exact = evaluation.evaluate(model, data)
    assert result["pixel_ap"] != exact["pixel_ap"]
    with pytest.raises(InputError, match="protocol: expected benchmark or reference"):
        evaluation.evaluate(model, data, "best")


@pytest.mark.parametrize("constant", ["all", "good and dent"])
def test_a_pro_that_the_reference_does_not_define_is_none(root, model, caplog, constant):
    """Maps of one value have no threshold that few good pixels pass; the rest is measured."""
    data, predict = datasets.open(root), model.predict

    def flat(images: list[np.ndarray], **options: object) -> object:
        said = predict(images, **options)
        kept = [constant != "all" and image.min() < 40 for image in images]  # the stains
        maps = [
            m if keep else np.full_like(m, 0.25) for m, keep in zip(said.maps, kept, strict=True)
        ]
        return dataclasses.replace(said, maps=np.stack(maps))

    model.predict = flat
    with caplog.at_level(logging.WARNING, "diffusionad"):
        result = evaluation.evaluate(model, data, "reference")
    assert result["image_auroc"] is not None
    assert result["pixel_auroc"] is not None
    assert result["per_defect"]["dent"]["aupro"] is None
    assert result["per_defect"]["dent"]["image_auroc"] is not None
    undefined = "all test images, dent, stain" if constant == "all" else "dent"
    assert (result["aupro"] is None) == (constant == "all")
    [record] = caplog.records
    assert record.getMessage().endswith(f"its PRO is not defined ({undefined})")
    json.dumps(result, allow_nan=False)


def test_native_resolution_takes_maps_and_masks_at_each_images_size(root, model):
    odd = root / "test" / "good" / "odd.png"
    Image.fromarray(np.full((50, 70, 3), 180, np.uint8)).save(odd)
    data = datasets.open(root)
    result = evaluation.evaluate(model, data, resolution="native", fpr_limit=0.1)
    assert (result["resolution"], result["fpr_limit"]) == ("native", 0.1)
    maps = model.predict([sample.image for sample in data.test], size="input").maps
    masks = [sample.mask for sample in data.test]
    assert {one.shape for one in maps} == {(50, 70), (64, 64)}
    pixels = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(*pixels), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(*pixels), abs=1e-12)
    collected = metrics.PixelMetrics()
    for mask, score_map in zip(masks, maps, strict=True):
        collected.add(mask, score_map)
    assert result["aupro"] == collected.result(0.1)["aupro"] != collected.result(0.3)["aupro"]
    at_model = evaluation.evaluate(model, data)
    assert at_model["image_auroc"] == result["image_auroc"]
    assert at_model["pixel_auroc"] != result["pixel_auroc"]


def test_tiles_are_measured_at_native_resolution(root, model):
    data = datasets.open(root)
    tiles = Tiles(overlap=0.5)
    result = evaluation.evaluate(model, data, resolution="native", tiles=tiles)
    assert result["tiles"] == {"size": SIZE, "overlap": 0.5}
    assert result["resolution"] == "native"
    maps = model.predict_tiled([sample.image for sample in data.test], overlap=0.5).maps
    masks = np.stack([sample.mask for sample in data.test])
    pixels = masks.ravel(), np.stack(maps).ravel()
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(*pixels), abs=1e-12)
    whole = evaluation.evaluate(model, data, resolution="native")
    assert whole["tiles"] is None
    assert whole["pixel_auroc"] != result["pixel_auroc"]
    for options in ({}, {"protocol": "reference"}):
        with pytest.raises(InputError, match="resolution: tiles are measured at native, got 'mod"):
            evaluation.evaluate(model, data, tiles=tiles, **options)
    with pytest.raises(InputError, match="resolution: the reference protocol"):
        evaluation.evaluate(model, data, "reference", resolution="native", tiles=tiles)


def test_result_has_intervals_and_curves(root, model):
    data = datasets.open(root)
    result = evaluation.evaluate(model, data, resamples=50)
    measured = ("images_per_second", "peak_memory_mb", "evaluate_seconds")
    assert result == {
        **evaluation.evaluate(model, data, resamples=50),
        **{n: result[n] for n in measured},
    }
    confidence, curves = result["confidence"], result["curves"]
    assert (confidence["level"], confidence["resamples"], confidence["seed"]) == (0.95, 50, 4)
    for name in (*evaluation.IMAGE_METRICS, *evaluation.PIXEL_METRICS):
        low, high = confidence[name]
        assert 0 <= low <= high <= 1
        assert low - 0.02 <= result[name] <= high + 0.02
    area = np.trapezoid(curves["image"]["tpr"], curves["image"]["fpr"])
    assert area == pytest.approx(result["image_auroc"])
    pixel = curves["pixel"]
    assert len({len(values) for values in pixel.values()}) == 1
    area = np.trapezoid(pixel["tpr"], pixel["fpr"])
    assert area == pytest.approx(result["pixel_auroc"], abs=1e-3)
    assert pixel["thresholds"][0] is None is pixel["thresholds"][-1]
    none = evaluation.evaluate(model, data, resamples=0)["confidence"]
    assert set(none) == {"level", "resamples", "seed"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": "full"}, "resolution: expected model or native, got 'full'"),
        ({"protocol": "reference", "resolution": "native"}, "resolution: the reference protocol"),
        ({"protocol": "reference", "fpr_limit": 0.1}, "fpr_limit: the reference protocol's is 0.3"),
        ({"fpr_limit": 0.0}, "fpr_limit: expected 0 < fpr_limit <= 1, got 0.0"),
        ({"resamples": -1}, "resamples: expected 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"batch_size": -1}, "batch_size: expected 1 or more, got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(root, model, options, words):
    with pytest.raises(InputError, match=words):
        evaluation.evaluate(model, datasets.open(root), **options)


def test_images_without_mask_count_for_image_metrics_only(root, model):
    whole = evaluation.evaluate(model, datasets.open(root))
    for path in (root / "ground_truth" / "stain").iterdir():
        path.unlink()
    part = evaluation.evaluate(model, datasets.open(root))
    assert part["image_auroc"] == whole["image_auroc"]
    assert part["pixel_auroc"] == whole["per_defect"]["dent"]["pixel_auroc"]
    assert part["per_defect"]["stain"]["pixel_auroc"] is None


def test_one_class_only_has_no_metrics_and_says_so(tmp_path, root, model, caplog):
    for path in (root / "test" / "good").iterdir():
        path.unlink()
    with caplog.at_level(logging.WARNING, "diffusionad"):
        result = evaluation.evaluate(model, datasets.open(root))
    assert result["image_auroc"] is None
    assert result["pixel_auroc"] is not None
    assert "all test images are defective" in caplog.text
    only_good = datasets.open(root / "train" / "good", test_fraction=0.4)
    result = evaluation.evaluate(model, only_good)
    assert (result["image_auroc"], result["aupro"], result["per_defect"]) == (None, None, {})
    assert evaluation.nearest_training_image(only_good) is None
    with pytest.raises(InputError, match="no test images"):
        evaluation.evaluate(model, datasets.open(root / "train" / "good", test_fraction=0.0))


def test_nearest_training_image(root):
    data = datasets.open(root)
    assert evaluation.nearest_training_image(data, size=16) == pytest.approx(1.0)


def test_the_references_choice_is_by_image_and_pixel_auroc(root, model):
    data = datasets.open(root)
    wanted = evaluation.evaluate(model, data, protocol="reference", resamples=0)
    score = evaluation.selection_score(model, data)
    assert score == pytest.approx(wanted["image_auroc"] + wanted["pixel_auroc"], abs=1e-12)
    good = dataclasses.replace(data, test=[s for s in data.test if not s.label])
    assert evaluation.selection_score(model, good) is None
    for batch_size in (0, -1):
        with pytest.raises(InputError, match=f"batch_size: expected 1 or more, got {batch_size}"):
            evaluation.selection_score(model, data, batch_size)
