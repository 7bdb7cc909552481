"""Measuring a model on a dataset's test part, and the baseline that needs no training.

Protocols: "benchmark" takes a resized mask where it is at least one half, and the exact metrics;
"reference" does what the reference implementation does, to compare with its published figures:
only pixels whose resized mask is exactly 1 are defects, its own PRO, AUROC to three digits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffusionad import system
from diffusionad.datasets import Dataset, Sample
from diffusionad.errors import InputError
from diffusionad.images import Floats, Mask, resize, to_network

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

log = logging.getLogger(__name__)

PROTOCOLS = ("benchmark", "reference")
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")

Progress = Callable[[int, int], None]  # images done, images in all


def evaluate(
    model: DiffusionAD,
    dataset: Dataset,
    protocol: str = "benchmark",
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every test image and measure; the result is ready for JSON.

    A metric that is not defined (one class only, no masks) is None, and a warning says so.
    Defective images without a mask are left out of the pixel metrics. `images_per_second` counts
    from pixels in memory to scores and maps. Raises InputError for an unknown protocol and for a
    dataset without test images.
    """
    from diffusionad import _core

    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: expected {' or '.join(PROTOCOLS)}, got {protocol!r}")
    samples = list(dataset.test)
    if not samples:
        raise InputError(f"{dataset.root}: no test images to evaluate on")
    masks = [_network_mask(sample, model.config.image_size, protocol) for sample in samples]
    scores, maps, seconds = _predict(model, samples, batch_size, progress)
    labels = np.array([sample.label for sample in samples], np.bool_)
    result: dict[str, Any] = {**measure(labels, scores, masks, maps, protocol)}
    if result["image_auroc"] is None:
        kind = "defective" if labels.all() else "good"
        log.warning("all test images are %s: image metrics are not defined", kind)
    if result["pixel_auroc"] is None:
        log.warning(
            "no mask of the test images holds a defect at %d pixels: pixel metrics are not defined",
            model.config.image_size,
        )
    result |= {
        "images_per_second": len(samples) / max(seconds, 1e-9),
        "peak_memory_mb": round(system.peak_memory_mb(), 1),
        "train_seconds": model.provenance.get("train_seconds"),
        "train_steps": model.provenance.get("train_steps"),
        "category": dataset.category,
        "layout": dataset.layout,
        "protocol": protocol,
        "preset": model.config.preset,
        "seed": model.config.seed,
        "threads": _core.get_num_threads(),
        "simd": _core.simd_level(),
        "versions": system.versions(),
    }
    result["per_defect"] = _per_defect(samples, labels, scores, masks, maps, protocol)
    return result


def measure(
    labels: Mask,
    scores: npt.NDArray[np.floating[Any]],
    masks: Sequence[Mask | None],
    maps: Floats,
    protocol: str = "benchmark",
) -> dict[str, float | None]:
    """The seven metrics of labels and scores [N], masks (None: not known) and maps [N, H, W].

    None stands for what is not defined: of one class only, or of no mask with a defect.
    """
    from diffusionad import metrics

    result: dict[str, float | None] = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    if labels.any() and not labels.all():
        result |= metrics.image_metrics(labels, scores)
    known = [index for index, mask in enumerate(masks) if mask is not None]
    truth = np.array([masks[index] for index in known], np.bool_)
    if truth.any() and not truth.all():
        result |= metrics.pixel_metrics(truth, maps[known])
        if protocol == "reference":
            result["aupro"] = float(metrics.reference_pro(truth, maps[known]))
    if protocol == "reference":
        for name in ("image_auroc", "pixel_auroc"):
            value = result[name]
            result[name] = None if value is None else round(value, 3)
    return result


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


def _predict(
    model: DiffusionAD, samples: Sequence[Sample], batch_size: int, progress: Progress | None
) -> tuple[npt.NDArray[np.floating[Any]], Floats, float]:
    """Scores, maps, and the seconds that the model took for them."""
    scores, maps, seconds = [], [], 0.0
    for first in range(0, len(samples), batch_size):
        images = [sample.image for sample in samples[first : first + batch_size]]
        start = time.perf_counter()
        prediction = model.predict(images, batch_size=batch_size)
        seconds += time.perf_counter() - start
        scores.append(prediction.scores)
        maps.append(prediction.maps)
        if progress is not None:
            progress(first + len(images), len(samples))
    return np.concatenate(scores), np.concatenate(maps), seconds


def _network_mask(sample: Sample, size: int, protocol: str) -> Mask | None:
    """The mask at the maps' size: bilinear like the image, then thresholded by the protocol."""
    mask = sample.mask
    if mask is None:
        return None
    resized = resize(mask * np.uint8(255), size, size)
    return np.asarray(resized == 255 if protocol == "reference" else resized >= 128)


def _per_defect(
    samples: Sequence[Sample],
    labels: Mask,
    scores: npt.NDArray[np.floating[Any]],
    masks: Sequence[Mask | None],
    maps: Floats,
    protocol: str,
) -> dict[str, dict[str, Any]]:
    """Each kind of defect against all good images: number of images and the seven metrics."""
    kinds = sorted({sample.defect for sample in samples if sample.label})
    result: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        chosen = [i for i, s in enumerate(samples) if s.label == 0 or s.defect == kind]
        count = sum(samples[i].label for i in chosen)
        result[kind] = {"images": count}
        result[kind] |= measure(
            labels[chosen], scores[chosen], [masks[i] for i in chosen], maps[chosen], protocol
        )
    return result
