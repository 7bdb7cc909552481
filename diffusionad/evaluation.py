"""Measuring a model on a dataset's test part, and the baseline that needs no training.

Protocols: "benchmark" takes a resized mask where it is at least one half, and the exact metrics;
"reference" does what the reference implementation does, to compare with its published figures:
only pixels whose resized mask is exactly 1 are defects, its own PRO, AUROC to three digits.
evaluate() chooses nothing on test data under either; the reference also chooses the best of many
epochs by selection_score(), which benchmark.py does where that protocol is asked for.

Resolutions: "model" compares maps and masks at the size of the model's maps; "native" brings each
map to its image's own size and takes masks as they are. Tiles are native by themselves.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffusionad import system
from diffusionad.datasets import Dataset, Sample
from diffusionad.datasets.samples import relative_name
from diffusionad.errors import InputError
from diffusionad.images import Bytes, Floats, Mask, resize, to_network

if TYPE_CHECKING:
    from diffusionad.metrics import PixelMetrics
    from diffusionad.model import DiffusionAD
    from diffusionad.prediction import Prediction
    from diffusionad.tiling import Tiles

log = logging.getLogger(__name__)

PROTOCOLS = ("benchmark", "reference")
RESOLUTIONS = ("model", "native")
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
TITLES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
}
FPR_LIMIT = 0.3
CURVE_POINTS = 200
LEVEL = 0.95  # of the confidence intervals

Progress = Callable[[int, int], None]  # images done, images in all
Look = Callable[[Sequence[Bytes]], "Prediction"]


@dataclass
class Found:
    """What a model said of test images, and what is true of them."""

    samples: Sequence[Sample]
    labels: Mask
    scores: npt.NDArray[np.float64]
    pixels: PixelMetrics
    seconds: float  # that the model took
    # Under the reference protocol also every known mask and map: its PRO asks for them at once.
    kept: list[tuple[int, Mask, Floats]] = field(default_factory=list)


def evaluate(
    model: DiffusionAD,
    dataset: Dataset,
    protocol: str = "benchmark",
    *,
    resolution: str = "model",
    fpr_limit: float = FPR_LIMIT,
    resamples: int = 1000,
    batch_size: int = 8,
    tiles: Tiles | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every test image and measure; the result is ready for JSON.

    A metric that is not defined (one class only, no masks, the reference's PRO of constant maps) is
    None, and a warning says so.
    Defective images without a mask are left out of the pixel metrics. `images_per_second` counts
    from pixels in memory to scores and maps.

    `scores` holds path, label, defect and score of every image, in the test part's order, and
    `threshold` the model's. `aupro` reaches up to the false-positive rate ``fpr_limit``.
    `confidence` holds intervals [low, high] from ``resamples`` resamples of the images (0: none),
    `curves` the points of the curves. Maps are not kept in memory, except under the reference
    protocol. With ``tiles`` images are looked at as predict_tiled() does, at resolution
    "native".
    Raises InputError for an unknown protocol or resolution, for a limit or a resolution that the
    reference protocol or tiles do not have, for numbers out of range, and for a dataset without
    test images.
    """
    from diffusionad import metrics

    _check(protocol, resolution, fpr_limit, resamples)
    if tiles is not None and resolution != "native":
        raise InputError(f"resolution: tiles are measured at native, got {resolution!r}")
    begun = time.monotonic()
    samples = list(dataset.test)
    if not samples:
        raise InputError(f"{dataset.root}: no test images to evaluate on")
    look = _look(model, resolution, batch_size, tiles)
    with metrics.PixelMetrics() as pixels:
        found = _predict(look, samples, pixels, protocol, batch_size, progress)
        result: dict[str, Any] = {**_measure(found, protocol, fpr_limit)}
        _warn_of_undefined(found, result)
        result |= {"protocol": protocol, "resolution": resolution, "fpr_limit": fpr_limit}
        fixed = None if tiles is None else tiles.of(model.config.image_size)
        result["tiles"] = None if fixed is None else dataclasses.asdict(fixed)
        result["per_defect"] = _per_defect(found, protocol, fpr_limit)
        _warn_of_undefined_pro(result)
        result["confidence"] = _confidence(found, result, resamples, model.config.seed)
        result["curves"] = _curves(found)
    result |= {"scores": _scores(found, dataset), "threshold": model.threshold}
    result["evaluate_seconds"] = round(time.monotonic() - begun, 3)
    return result | _about(model, dataset, found)


def _check(protocol: str, resolution: str, fpr_limit: float, resamples: int) -> None:
    for name, value, known in (
        ("protocol", protocol, PROTOCOLS),
        ("resolution", resolution, RESOLUTIONS),
    ):
        if value not in known:
            raise InputError(f"{name}: expected {' or '.join(known)}, got {value!r}")
    if protocol == "reference" and resolution != "model":
        raise InputError("resolution: the reference protocol measures at the model's")
    if protocol == "reference" and fpr_limit != FPR_LIMIT:
        raise InputError(f"fpr_limit: the reference protocol's is {FPR_LIMIT}, got {fpr_limit}")
    if not 0.0 < fpr_limit <= 1.0:
        raise InputError(f"fpr_limit: expected 0 < fpr_limit <= 1, got {fpr_limit}")
    if resamples < 0:
        raise InputError(f"resamples: expected 0 or more, got {resamples}")


def _warn_of_undefined(found: Found, result: dict[str, Any]) -> None:
    if result["image_auroc"] is None:
        kind = "defective" if found.labels.all() else "good"
        log.warning("all test images are %s: image metrics are not defined", kind)
    if result["pixel_auroc"] is None:
        log.warning(
            "no mask of the test images holds a defect at the maps' size: "
            "pixel metrics are not defined"
        )


def _warn_of_undefined_pro(result: dict[str, Any]) -> None:
    """The reference's may be so although there are masks, of constant maps say."""
    rows = {"all test images": result, **result["per_defect"]}
    undefined = [
        name
        for name, row in rows.items()
        if row["aupro"] is None and row["pixel_auroc"] is not None
    ]
    if undefined:
        log.warning(
            "none of the reference's thresholds has a false-positive rate in (0, %s]: "
            "its PRO is not defined (%s)",
            FPR_LIMIT,
            ", ".join(undefined),
        )


def _about(model: DiffusionAD, dataset: Dataset, found: Found) -> dict[str, Any]:
    """What was measured, on what, and how fast."""
    from diffusionad import _core
    from diffusionad.inference import RUN_FLAGS

    return {
        "images_per_second": len(found.samples) / max(found.seconds, 1e-9),
        "peak_memory_mb": round(system.peak_memory_mb(), 1),
        "train_seconds": model.provenance.get("train_seconds"),
        "train_steps": model.provenance.get("train_steps"),
        "category": dataset.category,
        "layout": dataset.layout,
        "preset": model.config.preset,
        "seed": model.config.seed,
        "threads": _core.get_num_threads(),
        "simd": _core.simd_level(),
        "run_flags": [name for name in RUN_FLAGS if getattr(model, name)],
        "versions": system.versions(),
    }


def selection_score(model: DiffusionAD, dataset: Dataset, batch_size: int = 8) -> float | None:
    """By which the reference chooses its best epoch: image AUROC + pixel AUROC of the test images.

    It leaks the test data into the model. None where one of the two is not defined.
    """
    from diffusionad import metrics

    look = _look(model, "model", batch_size)
    with metrics.PixelMetrics() as pixels:
        found = _predict(look, list(dataset.test), pixels, "reference", batch_size)
        if found.labels.all() or not found.labels.any() or not pixels.defined():
            return None
        image = metrics.auroc(found.labels, found.scores)
        pixel = pixels.result(FPR_LIMIT)["pixel_auroc"]
    return float(round(float(image), 3) + round(float(pixel), 3))


def nearest_training_image(dataset: Dataset, size: int = 64) -> float | None:
    """Image AUROC of the distance to the nearest training image: no model, no training.

    A score that does not beat it says little. Images are resized to `size` pixels. None where the
    test images are all of one kind.
    """
    from diffusionad import _core, metrics

    labels = np.array([sample.label for sample in dataset.test], np.bool_)
    if len(labels) == 0 or labels.all() or not labels.any():
        return None
    train, test = (
        to_network([sample.path for sample in part], size).reshape(len(part), -1)
        for part in (dataset.train, dataset.test)
    )
    return float(metrics.auroc(labels, _core.nearest_distance(train, test)))


# ---- predictions ------------------------------------------------------------------------------


def _look(model: DiffusionAD, resolution: str, batch_size: int, tiles: Tiles | None = None) -> Look:
    """What to say of a batch of images."""
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
    if tiles is not None:
        return partial(
            model.predict_tiled, tile=tiles.size, overlap=tiles.overlap, batch_size=batch_size
        )
    size = "input" if resolution == "native" else "model"
    return partial(model.predict, batch_size=batch_size, size=size)


def _predict(
    look: Look,
    samples: Sequence[Sample],
    pixels: PixelMetrics,
    protocol: str,
    batch_size: int,
    progress: Progress | None = None,
) -> Found:
    """Scores, and the pixels of every image whose mask is known."""
    labels = np.array([sample.label for sample in samples], np.bool_)
    found = Found(samples, labels, np.empty(len(samples)), pixels, 0.0)
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        images = [sample.image for sample in batch]
        start = time.perf_counter()
        prediction = look(images)
        found.seconds += time.perf_counter() - start
        found.scores[first : first + len(batch)] = prediction.scores
        for index, sample in enumerate(batch):
            score_map = prediction.maps[index]
            mask = _mask_at(sample, score_map.shape, protocol)
            if mask is not None:
                pixels.add(mask, score_map, sample.defect if sample.label else None)
                if protocol == "reference":
                    found.kept.append((first + index, mask, score_map))
        if progress is not None:
            progress(first + len(batch), len(samples))
    return found


def _mask_at(sample: Sample, shape: tuple[int, ...], protocol: str) -> Mask | None:
    """The mask at the map's size: bilinear like the image, then thresholded by the protocol."""
    mask = sample.mask
    if mask is None:
        return None
    if mask.shape == shape and protocol == "benchmark":
        return mask
    resized = resize(mask * np.uint8(255), *shape)
    return np.asarray(resized == 255 if protocol == "reference" else resized >= 128)


# ---- measures ---------------------------------------------------------------------------------


def _measure(
    found: Found, protocol: str, fpr_limit: float, defect: str | None = None
) -> dict[str, float | None]:
    """The seven metrics of all images, or of those with one kind of defect and the good ones.

    None stands for what is not defined: of one class only, of no mask with a defect, or the
    reference's PRO of maps on which its thresholds reach no false-positive rate up to the limit.
    """
    from diffusionad import metrics

    chosen = _chosen(found, defect)
    labels = found.labels[chosen]
    result: dict[str, float | None] = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    if labels.any() and not labels.all():
        result |= metrics.image_metrics(labels, found.scores[chosen])
    if found.pixels.defined(defect):
        result |= found.pixels.result(fpr_limit, defect)
        if protocol == "reference":
            result["aupro"] = _reference_pro(found, chosen)
    if protocol == "reference":
        for name in ("image_auroc", "pixel_auroc"):
            value = result[name]
            result[name] = None if value is None else round(value, 3)
    return result


def _chosen(found: Found, defect: str | None) -> list[int]:
    return [
        index
        for index, sample in enumerate(found.samples)
        if defect is None or sample.label == 0 or sample.defect == defect
    ]


def _reference_pro(found: Found, chosen: Sequence[int]) -> float | None:
    from diffusionad import metrics

    wanted = set(chosen)
    pairs = [(mask, score_map) for index, mask, score_map in found.kept if index in wanted]
    masks, maps = zip(*pairs, strict=True)
    return metrics.reference_pro_if_defined(np.stack(masks), np.stack(maps))


def _per_defect(found: Found, protocol: str, fpr_limit: float) -> dict[str, dict[str, Any]]:
    """Each kind of defect against all good images: number of images and the seven metrics."""
    kinds = sorted({sample.defect for sample in found.samples if sample.label})
    return {
        kind: {
            "images": sum(s.label == 1 and s.defect == kind for s in found.samples),
            **_measure(found, protocol, fpr_limit, kind),
        }
        for kind in kinds
    }


def _confidence(found: Found, result: dict[str, Any], resamples: int, seed: int) -> dict[str, Any]:
    """Intervals of what is defined; the reference code's PRO has none."""
    from diffusionad import metrics

    intervals: dict[str, Any] = {"level": LEVEL, "resamples": resamples, "seed": seed}
    if resamples > 0 and result["image_auroc"] is not None:
        intervals |= metrics.image_intervals(found.labels, found.scores, resamples, LEVEL, seed)
    if resamples > 0 and result["pixel_auroc"] is not None:
        intervals |= found.pixels.intervals(resamples, LEVEL, seed, result["fpr_limit"])
        if result["protocol"] == "reference":
            del intervals["aupro"]
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in intervals.items()
    }


def _curves(found: Found) -> dict[str, Any]:
    """Points of the curves over images and over pixels; None for those that are not defined."""
    from diffusionad import metrics

    curves: dict[str, Any] = {"image": None, "pixel": None}
    if found.labels.any() and not found.labels.all():
        fpr, tpr, thresholds = metrics.roc_curve(found.labels, found.scores)
        precision, _, _ = metrics.pr_curve(found.labels, found.scores)
        keep = np.unique(np.linspace(0, len(fpr) - 1, CURVE_POINTS).round().astype(np.int64))
        image = {"fpr": fpr, "tpr": tpr, "precision": precision, "thresholds": thresholds}
        curves["image"] = {name: _numbers(values[keep]) for name, values in image.items()}
    if found.pixels.defined():
        pixel = found.pixels.curves(CURVE_POINTS)
        curves["pixel"] = {name: _numbers(values) for name, values in pixel.items()}
    return curves


def _scores(found: Found, dataset: Dataset) -> dict[str, list[Any]]:
    """What each image is and what the model said of it; paths are relative to the dataset."""
    return {
        "path": [relative_name(sample.path, dataset.root) for sample in found.samples],
        "label": [sample.label for sample in found.samples],
        "defect": [sample.defect for sample in found.samples],
        "score": found.scores.tolist(),
    }


def _numbers(values: npt.NDArray[np.float64]) -> list[float | None]:
    """JSON has no infinity: the thresholds that none, and that all reach, are None."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
