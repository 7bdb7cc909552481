"""What an evaluation's result says, as sections of a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusionad.config import ModelConfig, TrainConfig
from diffusionad.console import duration_text, number
from diffusionad.datasets import Dataset
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS, TITLES
from diffusionad.report import page, svg
from diffusionad.tables import Table
from diffusionad.tiling import Tiles

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

Result = Mapping[str, Any]
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)


# ---- numbers ----------------------------------------------------------------------------------


def summary(result: Result, model: DiffusionAD | None, dataset: Dataset | None) -> str:
    """The metrics with their intervals, and under which conditions they were measured."""
    return page.cards(_metric_cards(result)) + page.facts(_facts(result, model, dataset))


def _metric_cards(result: Result) -> list[tuple[str, str, str]]:
    confidence = result["confidence"]
    found = [(TITLES[name], number(result[name]), _interval(confidence, name)) for name in METRICS]
    nearest = result.get("nearest_training_image_auroc")
    if nearest is not None:
        found.append(baseline_card(nearest))
    return found


def baseline_card(auroc: float | None) -> tuple[str, str, str]:
    """What the distance to the nearest training image finds by itself."""
    return "without training", number(auroc), "image AUROC of the nearest image"


def _interval(confidence: Mapping[str, Any], name: str) -> str:
    if name not in confidence:
        return ""
    low, high = confidence[name]
    return f"{number(low)} – {number(high)}"


def _facts(
    result: Result, model: DiffusionAD | None, dataset: Dataset | None
) -> dict[str, str | None]:
    confidence = result["confidence"]
    steps, seconds = result["train_steps"], result["train_seconds"]
    tiles = tiles_of(result)
    return {
        "data": str(dataset) if dataset else f"{result['category']} ({result['layout']})",
        "folder": str(dataset.root) if dataset else None,
        "protocol": f"{result['protocol']}, {result['resolution']} resolution, "
        f"{'' if tiles is None else f'{tiles}, '}"
        f"AUPRO up to a false-positive rate of {result['fpr_limit']:g}",
        "intervals": f"{confidence['level']:.0%}, {confidence['resamples']} resamples of the images"
        if confidence["resamples"]
        else None,
        "model": f"preset {result['preset']}"
        + (f", {model.num_parameters:,} parameters, {model.config.image_size} px" if model else ""),
        "seed": str(result["seed"]),
        "training": None
        if steps is None
        else f"{steps:,} steps" + ("" if seconds is None else f" in {duration_text(seconds)}"),
        "evaluation": f"{duration_text(result['evaluate_seconds'])}, "
        f"{result['images_per_second']:.1f} images/s, threads: {result['threads']}, "
        f"{', '.join([result['simd'], *result.get('run_flags', [])])}, "
        f"peak memory {result['peak_memory_mb']:.0f} MB",
        "versions": ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
    }


def tiles_of(result: Result) -> Tiles | None:
    """The tiles in which images were looked at; None for whole images."""
    tiles = result.get("tiles")
    return None if tiles is None else Tiles(**tiles)


def per_defect(result: Result) -> str:
    """Each kind of defect by itself; nothing where there is none."""
    kinds = result["per_defect"]
    if not kinds:
        return ""
    rows = [[name, str(row["images"]), *_numbers(row)] for name, row in kinds.items()]
    count = sum(row["images"] for row in kinds.values())
    every = [["all", str(count), *_numbers(result)]] if len(kinds) > 1 else []
    caption = "Each kind of defect against all good images"
    columns = ("", "images", *(TITLES[name] for name in METRICS))
    return page.table(Table(caption, columns, (rows, every)))


def _numbers(row: Mapping[str, Any]) -> Iterator[str]:
    return (number(row[name]) for name in METRICS)


# ---- charts -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AtThreshold:
    """How many test images are on the wrong side of the threshold."""

    threshold: float
    false_alarms: int
    good: int
    missed: int
    defective: int

    @classmethod
    def of(cls, result: Result) -> AtThreshold | None:
        """None for a model without a threshold."""
        threshold = result["threshold"]
        if threshold is None:
            return None
        good, defective = _by_kind(result)
        return cls(
            threshold,
            sum(score >= threshold for score in good),
            len(good),
            sum(score < threshold for score in defective),
            len(defective),
        )

    def __str__(self) -> str:
        parts = []
        if self.good:
            parts.append(
                f"{self.false_alarms} of {self.good} good test images are false alarms "
                f"({self.false_alarms / self.good:.1%})"
            )
        if self.defective:
            parts.append(
                f"{self.missed} of {self.defective} defective ones are missed "
                f"({self.missed / self.defective:.1%})"
            )
        return f"At the threshold {self.threshold:.4g}: " + ", ".join(parts) + "."

    def table(self) -> Table:
        """The images of both kinds on both sides."""
        good = [self.good, self.good - self.false_alarms, self.false_alarms]
        defective = [self.defective, self.missed, self.defective - self.missed]
        rows = [["good", *map(str, good)], ["defective", *map(str, defective)]]
        return Table(
            "What the threshold makes of them", ("", "images", "passed", "rejected"), (rows,)
        )


def _by_kind(result: Result) -> tuple[list[float], list[float]]:
    """Scores of good and of defective images."""
    pairs = list(zip(result["scores"]["label"], result["scores"]["score"], strict=True))
    return [score for label, score in pairs if not label], [s for label, s in pairs if label]


def scores(result: Result, model: DiffusionAD | None = None) -> str:
    """Which scores good and defective images have, and what the threshold makes of them."""
    good, defective = _by_kind(result)
    at = AtThreshold.of(result)
    text = "This model has no threshold." if at is None else str(at)
    origin = model.provenance.get("threshold") if model and at else None
    if origin is not None:
        text += f" How it was chosen: {origin}."
    legend = [
        (style, f"{style}, {len(values)} images")
        for style, values in (("good", good), ("defective", defective))
        if values
    ]
    drawn = svg.histogram(good, defective, result["threshold"], f"Histogram of scores. {text}")
    parts = [page.chart("Scores of the test images", drawn, legend)]
    if at is not None:
        parts.append(f"<div>{page.table(at.table())}</div>")
    return page.paragraph(text) + page.grid(parts)


def curves(result: Result) -> str:
    """ROC, precision-recall and per-region overlap, as far as they are defined."""
    image, pixel = result["curves"]["image"], result["curves"]["pixel"]
    drawn = []
    if image or pixel:
        drawn = [
            _both("ROC", image, pixel, ("fpr", "tpr"), "auroc", result),
            _both("Precision and recall", image, pixel, ("tpr", "precision"), "ap", result),
        ]
    if pixel:
        drawn.append(_overlap(pixel, result))
    return page.grid(drawn) if drawn else ""


_RATES = {"fpr": "false-positive rate", "tpr": "recall", "precision": "precision"}


def _both(
    title: str,
    image: Mapping[str, Any] | None,
    pixel: Mapping[str, Any] | None,
    axes: tuple[str, str],
    metric: str,
    result: Result,
) -> str:
    """A curve over images and one over pixels; a dot where the threshold puts the images."""
    lines, legend = [], []
    for style, over, values in (("a", "image", image), ("b", "pixel", pixel)):
        if values:
            name = f"{over}_{metric}"
            lines.append(svg.Line(style, values[axes[0]], values[axes[1]]))
            legend.append((style, f"{TITLES[name]} {number(result[name])}"))
    roc = axes[0] == "fpr"
    point = _operating_point(result) if roc and image else None
    if point is not None:
        legend.append(("dot", "at the threshold"))
    about = f"{title}: " + ", ".join(text for _, text in legend)
    drawn = svg.curves(
        lines, _RATES[axes[0]], _RATES[axes[1]], about, chance=roc, point=point
    )  # fmt: skip
    return page.chart(title, drawn, legend)


def _operating_point(result: Result) -> tuple[float, float] | None:
    """False-positive rate and recall of the threshold; both kinds of images are there."""
    at = AtThreshold.of(result)
    return None if at is None else (at.false_alarms / at.good, 1.0 - at.missed / at.defective)


def _overlap(pixel: Mapping[str, Any], result: Result) -> str:
    limit = result["fpr_limit"]
    text = f"{TITLES['aupro']} {number(result['aupro'])}"
    if result["protocol"] == "reference":
        text += ", the reference's; the curve is exact"
    line = svg.Line("b", pixel["fpr"], pixel["overlap"])
    about = f"Per-region overlap up to a false-positive rate of {limit:g}: {text}"
    drawn = svg.curves([line], _RATES["fpr"], "mean overlap of regions", about, x_high=limit)
    return page.chart("Per-region overlap (PRO)", drawn, [("b", text)])


# ---- settings ---------------------------------------------------------------------------------


def configuration(model: DiffusionAD) -> str:
    """Every setting with its meaning, and where the model came from."""
    settings = [
        page.table(
            Table(caption, ("setting", "value", "meaning"), (_settings(config),)), words=True
        )
        for caption, config in (("Model", model.config), ("Training", model.train_config))
    ]
    if model.provenance:
        rows = [[name, shown(value)] for name, value in flattened(model.provenance)]
        settings.append(page.table(Table("Provenance", ("", "value"), (rows,)), words=True))
    return "".join(settings)


def _settings(config: ModelConfig | TrainConfig) -> list[list[str]]:
    return [
        [field.name, shown(getattr(config, field.name)), field.metadata["about"]]
        for field in dataclasses.fields(config)
    ]


def flattened(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values, what is inside with the names of what it is in before its own.

    >>> list(flattened({"a": 1, "b": {"c": 2}}))
    [('a', 1), ('b.c', 2)]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def shown(value: Any) -> str:
    """A setting as text: what is in a list between commas."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
