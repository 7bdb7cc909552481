"""Reports: one HTML page that needs nothing but a browser.

report.html is the template, page.py fills it; svg.py draws charts, examples.py chooses and draws
images; result.py makes sections of an evaluation's result, overview.py a page of a benchmark's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusionad.datasets import Dataset
from diffusionad.datasets.samples import relative_name
from diffusionad.errors import InputError
from diffusionad.files import PathLike, write_text
from diffusionad.report import examples
from diffusionad.report import result as sections
from diffusionad.report.overview import write_benchmark_report
from diffusionad.report.page import Section, page, paragraph

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

__all__ = ["write_benchmark_report", "write_report"]


def write_report(
    path: PathLike,
    result: Mapping[str, Any],
    model: DiffusionAD | None = None,
    dataset: Dataset | None = None,
) -> None:
    """Write a result of evaluate() as one HTML page, whole or not at all.

    It holds the metrics with their confidence intervals and how they were measured, a histogram of
    the scores with the threshold and its false-alarm rate, the curves, and a table of the kinds of
    defects. With the `model` and the `dataset` that were measured also the most telling test
    images, each with ground truth, reconstruction (which tiles do not have) and map, and the
    configuration; at most 18 images of at most 256 pixels a side, so that the page stays below 5 MB
    whatever the dataset. Nothing in the page is loaded from elsewhere.

    Raises InputError where one of model and dataset is missing, or the dataset has other test
    images than the result; WriteError where the file cannot be written.
    """
    if (model is None) != (dataset is None):
        raise InputError("model, dataset: expected both or neither, got one")
    parts = [
        Section("summary", "Summary", sections.summary(result, model, dataset)),
        Section("scores", "Scores", sections.scores(result, model)),
        Section("curves", "Curves", sections.curves(result)),
        Section("defects", "Kinds of defects", sections.per_defect(result)),
    ]
    if model is not None and dataset is not None:
        parts += [
            Section("images", "Images", _images(result, model, dataset)),
            Section("configuration", "Configuration", sections.configuration(model)),
        ]
    about = f"Anomaly detection on {result['category']}, protocol {result['protocol']}"
    write_text(path, page(f"Report: {result['category']}", about, parts), durable=False)


def _images(result: Mapping[str, Any], model: DiffusionAD, dataset: Dataset) -> str:
    names, values = result["scores"]["path"], result["scores"]["score"]
    if names != [relative_name(sample.path, dataset.root) for sample in dataset.test]:
        raise InputError("dataset: expected the test images of the result, got others")
    tiles = sections.tiles_of(result)
    seen = "As the networks see them." if tiles is None else f"Seen in {tiles}."
    body = paragraph(
        f"{seen} A map is laid over its image, clearer where it is higher; the "
        "defect's true outline is blue. Point at a map to see the image below it, choose any "
        "picture to see it large."
    )
    for group in examples.choose(result["scores"]["label"], values):
        samples = [dataset.test[index] for index in group.chosen]
        drawn = examples.pictures(model, samples, tiles)
        body += f"<h3>{group.title}</h3>" + paragraph(group.about)
        body += "".join(
            examples.figure(sample, names[index], values[index], result["threshold"], shown)
            for index, sample, shown in zip(group.chosen, samples, drawn, strict=True)
        )
    return body
