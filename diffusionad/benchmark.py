"""All categories of a dataset: each trained and measured, one row each, and the mean.

The folder of a benchmark holds `benchmark.json` (settings, rows, means: what the command goes on
from), `table.csv`, `table.md`, `table.tex`, `figure.png`, `report.html`, and for each category its
part of the figure, a report of its own and the folder of its training. Under the reference
protocol the model of a row is the best of ten stages of its training by its test images, as the
reference code chooses it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import diffusionad as dad
from diffusionad import (
    _core,
    checkpoints,
    evaluation,
    literature,
    normality,
    plots,
    studies,
    system,
)
from diffusionad.config import to_dict, update
from diffusionad.console import Console, duration_text
from diffusionad.datasets import LAYOUTS, Counts, Dataset, categories
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError, WriteError, words_of
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS, PROTOCOLS
from diffusionad.files import PathLike, make_folder, remove_temporaries, run_folder, write_text
from diffusionad.images import Bytes, read_image, write_png
from diffusionad.inference import THRESHOLD_NOTES
from diffusionad.models import averaged
from diffusionad.report import write_benchmark_report, write_report
from diffusionad.result_files import require_other_files, require_outside
from diffusionad.sources import evenly
from diffusionad.studies import Recipe, Row, Study, mean, spread
from diffusionad.tables import INDENT, Table, csv_text, percent
from diffusionad.validation import held_out

if TYPE_CHECKING:
    from diffusionad.literature import Published
    from diffusionad.model import DiffusionAD, Progress

log = logging.getLogger(__name__)

NAME, REPORT_FILE = "benchmark", "report.html"
FILES = ("benchmark.json", "table.csv", "table.md", "table.tex", "figure.png")
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
MEASURES = (*METRICS, "nearest_training_image_auroc")
COSTS = ("images_per_second", "train_seconds", "evaluate_seconds", "peak_memory_mb")
COLUMNS = {
    "image_auroc": "image AUROC", "image_ap": "image AP", "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP", "aupro": "AUPRO", "nearest_training_image_auroc": "nearest image",
}  # fmt: skip
NEAREST_NOTE = (
    "nearest image: image AUROC of the distance to the nearest training image, without any training"
)
CSV_COLUMNS = (
    "source", "category", "seeds", *MEASURES, *(f"{name}_spread" for name in METRICS),
    "images_per_second", "train_seconds", "train_steps", "protocol", "note",
)  # fmt: skip
FAILURES = (ValueError, ArithmeticError, MemoryError)  # of one category; the others go on
STAGES = 10  # of a training among which the reference protocol chooses
BEST_FILE, STAGE_FILE = "best.safetensors", "stage.safetensors"
STAGE_NOTES = (*THRESHOLD_NOTES, "alignment", "validation")  # in the provenance
FEW_IMAGES = 10  # training images; a note says so where there are fewer
FIGURE_ROWS, TILE = 3, 128


@dataclass(frozen=True)
class Plan:
    """A benchmark that has been asked for; the names are those of the command's options."""

    data: PathLike
    layout: str
    categories: tuple[str, ...]
    recipe: Recipe
    seeds: tuple[int, ...]
    protocol: str

    @property
    def settings(self) -> dict[str, Any]:
        """What a folder's results depend on."""
        return {
            "categories": self.categories,
            "seeds": self.seeds,
            "protocol": self.protocol,
            **self.recipe.settings(),
        }


def benchmark(
    data: PathLike,
    out: PathLike,
    layout: str = "auto",
    names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0,),
    protocol: str = "benchmark",
    console: Console | None = None,
    report_file: PathLike | None = None,
) -> dict[str, Any]:
    """Train and measure a model for each category and seed; the result is ready for JSON.

    ``names`` are the categories (None: all), ``report_file`` is the page of the results
    (None: `report.html` in ``out``). Called again with the same settings it goes on from
    what ``out`` holds. A time budget is turned into steps at a category's first seed; the others
    take as many. A category that cannot be trained or measured has a row with `error`.
    Raises InputError for an unknown category, and where ``out`` holds results of other settings or
    is in use; WriteError where it cannot be written.
    """
    recipe = recipe or Recipe()
    console = console or Console(quiet=True)
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: expected {' or '.join(PROTOCOLS)}, got {protocol!r}")
    if not seeds:
        raise InputError("seeds: expected at least one seed, got none")
    chosen = _chosen(data, layout, names)
    plan = Plan(data, layout, chosen, recipe, tuple(dict.fromkeys(seeds)), protocol)
    settings = plan.settings
    found = {name: _opened(plan, name) for name in chosen}
    known = [dataset for dataset in found.values() if isinstance(dataset, Dataset)]
    for dataset in known:
        require_outside(f"--out {out}", out, dataset, [recipe.anomaly_source])
    page = Path(report_file) if report_file is not None else Path(out) / REPORT_FILE
    inputs = (data, *itertools.chain.from_iterable(dataset.files() for dataset in known))
    results = [page, *(Path(out) / file for file in FILES)]
    for name in chosen:
        results += [_figure_file(Path(out), name), _page_file(Path(out), name)]
    require_other_files(results, inputs)
    with run_folder(out) as folder:
        _remove_temporaries(folder, plan)
        study = Study(folder, NAME, settings)
        for name, opened in found.items():
            for seed in plan.seeds:
                said = _do(study, plan, name, opened, seed, console)
                report = _report(study, plan)
                study.save(**report)
                if said is not None:
                    console.say(said)
                _write_tables(folder, report)
                _write_page(page, folder, study.values)
        _write_figure(folder, plan)
    return study.values


def _opened(plan: Plan, name: str) -> Dataset | Exception:
    """A category's data, or what its rows say of it."""
    try:
        return open_dataset(plan.data, plan.layout, name, kind=plan.recipe.kind)
    except FAILURES as error:
        return error


def _remove_temporaries(folder: Path, plan: Plan) -> None:
    """What a killed process has left of these files."""
    remove_temporaries(folder, (*FILES, REPORT_FILE))
    for name in plan.categories:
        page = _page_file(folder, name)
        remove_temporaries(page.parent, [page.name])


def _chosen(data: PathLike, layout: str, names: Sequence[str] | None) -> tuple[str, ...]:
    there = categories(data, layout)
    for name in names or ():
        if name not in there:
            raise InputError(f"{data}: no category {name!r}; there are: {', '.join(there)}")
    return tuple(dict.fromkeys(there if names is None else names))


# ---- one category, one seed --------------------------------------------------------------------


def _do(
    study: Study,
    plan: Plan,
    name: str,
    dataset: Dataset | Exception,
    seed: int,
    console: Console,
) -> str | None:
    """Put the row of a category and seed into the study, unless it is there; gives its words."""
    title = name if len(plan.seeds) == 1 else f"{name}, seed {seed}"
    row: Row | None
    try:
        if not isinstance(dataset, Dataset):
            raise dataset
        row = study.find(category=name, seed=seed)
        files = studies.files_of(dataset)
        if row is not None and row.get("files") != files:
            raise _Changed(
                f"{study.path.parent}: holds results of other files of {name} than "
                f"{plan.data} has: choose another folder"
            )
        if row is not None:
            return f"{title}: finished before"
        console.say(str(dataset) if seed == plan.seeds[0] else title)
        row = {**_measured(study, plan, dataset, seed, console), "files": files}
    except (_Changed, WriteError):
        raise
    except FAILURES as error:
        reason = words_of(error)
        log.warning("%s: %s", title, reason)
        study.put(_failed(plan, name, seed, reason), "category", "seed")
        return None
    study.put(row, "category", "seed")
    studies.forget_state(_run_folder(study.path.parent, name, seed))
    values = ", ".join(f"{COLUMNS[key]} {percent(row[key])}" for key in list(COLUMNS)[:5])
    return f"{title}: {values}"


class _Changed(InputError):
    """The data is not what the folder's results were had from: no matter of one category."""


def _failed(plan: Plan, name: str, seed: int, reason: str) -> Row:
    return {
        **dict.fromkeys((*MEASURES, *COSTS, "train_steps")),
        "category": name,
        "layout": plan.layout,
        "protocol": plan.protocol,
        "preset": plan.recipe.preset,
        "seed": seed,
        "threads": _core.get_num_threads(),
        "simd": _core.simd_level(),
        "run_flags": [],
        "versions": system.versions(),
        "per_defect": {},
        "notes": [],
        "error": reason,
    }


def _measured(study: Study, plan: Plan, dataset: Dataset, seed: int, console: Console) -> Row:
    if not dataset.test:
        raise InputError(f"{dataset.root}: no test images to evaluate on")
    system.reset_peak_memory()
    name = dataset.category
    folder = _run_folder(study.path.parent, name, seed)
    first = next((row for row in study.rows() if row["category"] == name and "steps" in row), None)
    steps = first["steps"] if first else _length(study, plan, name)
    model = plan.recipe.model(seed)
    watch = None
    if plan.protocol == "reference":
        if not studies.goes_on(folder):  # what a killed training chose is no choice of this one
            for left in (STAGE_FILE, BEST_FILE):
                (folder / left).unlink(missing_ok=True)
        watch = _Selection(model, dataset, folder)
    model = studies.trained(folder, model, dataset, plan.recipe, steps, console, watch)
    steps = model.train_config.steps
    notes = _notes(dataset)
    if watch is not None:
        watch.add(model, steps)
        model, note = _selected(model, dataset, folder)
        notes.append(note)
    with console.counting("evaluate", len(dataset.test)) as progress:
        result = evaluation.evaluate(model, dataset, plan.protocol, progress=progress)
    nearest = (
        first["nearest_training_image_auroc"]
        if first
        else evaluation.nearest_training_image(dataset)
    )
    result["nearest_training_image_auroc"] = nearest
    if seed == plan.seeds[0]:
        figure, page = _figure_file(study.path.parent, name), _page_file(study.path.parent, name)
        make_folder(figure.parent)
        write_png(figure, _figure(model, dataset))
        make_folder(page.parent)
        write_report(page, result, model, dataset)
    return {
        **result,
        "steps": steps,
        "kind": dataset.kind,
        "foreground": model.provenance.get("data", {}).get("foreground"),
        "images": {
            "train": len(dataset.train),
            "test_good": sum(sample.label == 0 for sample in dataset.test),
            "test_defective": sum(sample.label == 1 for sample in dataset.test),
        },
        "notes": notes,
    }


def _length(study: Study, plan: Plan, name: str) -> int | None:
    """The steps of a category's first training, though its row failed, where a budget decides."""
    if plan.recipe.steps is not None or plan.recipe.time_budget is None:
        return None
    for seed in plan.seeds:
        with contextlib.suppress(InputError):  # of a damaged file, which its own row names
            header = studies.finished(_run_folder(study.path.parent, name, seed))
            if header is not None:
                return int(header.config["train"]["steps"])
    return None


def _run_folder(folder: Path, category: str, seed: int) -> Path:
    return folder / "runs" / studies.run_name(category) / f"seed-{seed}"


def _notes(dataset: Dataset) -> list[str]:
    """What a reader of the row must know of its data."""
    notes = []
    good = sum(sample.label == 0 for sample in dataset.test)
    bad = len(dataset.test) - good
    if len(dataset.train) < FEW_IMAGES:
        notes.append(f"only {len(dataset.train)} training images")
    if not good or not bad:
        kind = "defective" if bad else "good"
        notes.append(f"all test images are {kind}: image metrics are not defined")
    if missing := len(dataset.without_mask):
        notes.append(f"{missing} of {bad} defective images have no mask: not in the pixel metrics")
    counts = Counts(len(dataset.train), good, bad, len(dataset.left_out))
    published = LAYOUTS[dataset.layout].counts(dataset.category)
    if published and counts not in published:
        theirs, ours = ("/".join(map(str, numbers[:3])) for numbers in (published[0], counts))
        notes.append(f"not the published images: {ours} (train/good/defective) of {theirs}")
    return notes


# ---- the reference's choice on test data -------------------------------------------------------


class _Selection:
    """Called after each training step: judges stages by the test images, and keeps the best one.

    Stages are judged as they would be used: with averaged weights, where a run has several members
    the present one's, and with maps measured by the training images. The last is the finished
    model. A stage lies in a file until it is judged, so that one whose judging is cut short is not
    lost. A resumed training comes by the same stages with the same models, and so to the same
    choice.
    """

    def __init__(self, model: DiffusionAD, dataset: Dataset, folder: Path) -> None:
        self.model, self.dataset = model, dataset
        self.stage, self.best = folder / STAGE_FILE, folder / BEST_FILE
        if self.stage.exists():
            self._judge()

    def __call__(self, p: Progress) -> None:
        if p.step % math.ceil(p.steps / STAGES) == 0 and p.step < p.steps:
            averages = self.model.train_config.ema_decay > 0
            with averaged(*(self.model.networks.values() if averages else ())):
                self.add(self.model, p.step)

    def add(self, model: DiffusionAD, step: int) -> None:
        before = model.provenance
        model.provenance = {**before, "selected": {"step": step}}
        if model.threshold is None:  # under way; the note is of an earlier step
            model.provenance.pop("validation", None)
        try:
            model.save(self.stage)
        finally:
            model.provenance = before
        self._judge()

    def _judge(self) -> None:
        stage = dad.load(self.stage)
        if stage.config.standardised and stage.normality is None:
            stage.measure_normality(_trained_on(stage, self.dataset))
        score, best = evaluation.selection_score(stage, self.dataset), _selected_score(self.best)
        if score is not None and (best is None or score > best):
            stage.provenance["selected"]["score"] = score
            stage.save(self.best)
        self.stage.unlink()


def _trained_on(model: DiffusionAD, dataset: Dataset) -> list[Path]:
    """The images by which the end of a training measures maps: spread over those not held out."""
    total = len(dataset.train)
    held = held_out(total, model.train_config.validation_share, model.config.seed)
    rest = np.setdiff1d(np.arange(total), held)
    return [dataset.train[i].path for i in rest[evenly(len(rest), normality.MOST)]]


def _selected_score(file: Path) -> float | None:
    if not file.exists():
        return None
    return float(checkpoints.read_header(file).provenance["selected"]["score"])


def _selected(model: DiffusionAD, dataset: Dataset, folder: Path) -> tuple[DiffusionAD, str]:
    """The best stage's model, and what the row says about it; the last where none can be chosen."""
    file, steps = folder / BEST_FILE, model.train_config.steps
    if not file.exists():
        return model, "the last step's model: no choice by test data, as a metric is not defined"
    best = dad.load(file)
    if to_dict(update(best.config, {"mode": model.config.mode})) != to_dict(model.config):
        raise InputError(f"{file}: a model with other settings than this study's")
    step = int(best.provenance["selected"]["step"])
    if best.threshold is None:  # not the finished model
        every = max(1, len(dataset.train) // 64)
        best.calibrate([sample.path for sample in dataset.train[::every]])
    best.provenance = {
        **{name: value for name, value in model.provenance.items() if name not in STAGE_NOTES},
        **{name: best.provenance[name] for name in STAGE_NOTES if name in best.provenance},
        "train_steps": step,
        "selected_on_test_data": True,
    }
    return best, f"chosen by its test images, as the reference does: step {step} of {steps}"


# ---- the report --------------------------------------------------------------------------------


def _report(study: Study, plan: Plan) -> dict[str, Any]:
    """Rows in order, a summary of each category, their mean, and what others published."""
    place = {name: index for index, name in enumerate(plan.categories)}
    rows = sorted(study.rows(), key=lambda r: (place[r["category"]], plan.seeds.index(r["seed"])))
    found = [
        _summary(name, mine)
        for name in plan.categories
        if (mine := [row for row in rows if row["category"] == name])
    ]
    return {
        "dataset": Path(plan.data).name or Path(plan.data).resolve().name,
        "protocol": plan.protocol,
        "seeds": list(plan.seeds),
        "preset": plan.recipe.preset,
        "rows": rows,
        "categories": found,
        "mean": _mean(found, rows, plan),
        "published": _published(rows),
        "failed": [summary["category"] for summary in found if "error" in summary],
        "finished": len(rows) == len(plan.categories) * len(plan.seeds),
    }


def _summary(name: str, rows: Sequence[Row]) -> Row:
    """Means of a category over its seeds; `spread` holds standard deviations of two or more."""
    good = [row for row in rows if "error" not in row]
    errors = [row["error"] for row in rows if "error" in row]
    notes = list(dict.fromkeys(note for row in rows for note in row["notes"]))
    return {
        "category": name,
        "layout": (good or rows)[0]["layout"],
        "seeds": [row["seed"] for row in good],
        **{key: mean([row[key] for row in good]) for key in (*MEASURES, *COSTS)},
        "train_steps": mean([row["train_steps"] for row in good]),
        "spread": {key: spread([row[key] for row in good]) for key in METRICS},
        "notes": notes,
        **({"error": errors[0]} if errors else {}),
    }


def _mean(found: Sequence[Row], rows: Sequence[Row], plan: Plan) -> Row:
    """Means over the categories; `spread` is that of the means of each seed."""

    def of_seed(key: str, seed: int) -> float | None:
        values = [row[key] for row in rows if row["seed"] == seed]
        whole = len(values) == len(found) and None not in values
        return mean(values) if whole else None

    return {
        "categories": sum(bool(summary["seeds"]) for summary in found),
        **{key: mean([summary[key] for summary in found]) for key in (*MEASURES, *COSTS)},
        "counted": {key: sum(s[key] is not None for s in found) for key in METRICS},
        "spread": {key: spread([of_seed(key, seed) for seed in plan.seeds]) for key in METRICS},
    }


def _published(rows: Sequence[Row]) -> dict[str, Any]:
    """What others say of these categories, and of the dataset where one of them is known."""
    known = {
        row["category"]: row["layout"]
        for row in rows
        if row["layout"] in LAYOUTS and LAYOUTS[row["layout"]].counts(row["category"])
    }
    layout = next(iter(known.values()), None)
    return {
        "categories": {
            name: [vars(row) for row in literature.of_category(where, name)]
            for name, where in known.items()
            if literature.of_category(where, name)
        },
        "dataset": None if layout is None else LAYOUTS[layout].dataset,
        "mean_of": 0 if layout is None else len(LAYOUTS[layout].published),
        "mean": [] if layout is None else [vars(row) for row in literature.of_dataset(layout)],
    }


# ---- tables ------------------------------------------------------------------------------------


def table(report: Mapping[str, Any]) -> Table:
    """The report for people: a row for each category, the mean, published figures beside them."""
    published, total = report["published"], report["mean"]
    body: list[list[str]] = []
    for summary in report["categories"]:
        body.append(_table_row(summary["category"], summary))
        body += [
            _published_row(row) for row in published["categories"].get(summary["category"], ())
        ]
    seeds = ", ".join(map(str, report["seeds"]))
    return Table(
        caption=(
            f"{report['dataset']}: per cent, protocol {report['protocol']}, "
            f"preset {report['preset']}, seed{'s' * (len(report['seeds']) > 1)} {seeds}"
        ),
        columns=("", *COLUMNS.values(), "images/s", "training"),
        sections=(
            body,
            [_table_row(f"mean of {total['categories']}", total)],
            [_published_row(row) for row in published["mean"]],
        ),
        notes=_table_notes(report),
    )


def _table_row(name: str, values: Mapping[str, Any]) -> list[str]:
    if values["images_per_second"] is None:
        return [name, *("-" for _ in COLUMNS), "-", "-"]
    spreads = values["spread"]
    return [
        name,
        *(percent(values[key], spreads.get(key)) for key in COLUMNS),
        f"{values['images_per_second']:.1f}",
        "-" if values["train_seconds"] is None else duration_text(values["train_seconds"]),
    ]


def _published_row(row: Published | Mapping[str, Any]) -> list[str]:
    values = row if isinstance(row, Mapping) else vars(row)
    speed = values["images_per_second"]
    return [
        f"{INDENT}{values['method']}",
        *(percent(values.get(key)) for key in COLUMNS),
        "-" if speed is None else f"{speed:.1f}",
        "",
    ]


def _table_notes(report: Mapping[str, Any]) -> list[str]:
    notes = [
        f"{summary['category']}: {text}"
        for summary in report["categories"]
        for text in (*summary["notes"], *filter(None, [summary.get("error")]))
    ]
    total, published = report["mean"], report["published"]
    short = {n for n in total["counted"].values() if n < total["categories"]}
    if short:
        notes.append("a mean leaves out categories of which that metric is not defined")
    if len(report["seeds"]) > 1:
        notes.append("±: standard deviation over the seeds")
    if published["mean"]:
        notes.append(
            f"published means are of all {published['mean_of']} categories of "
            f"{published['dataset']}, ours of {total['categories']}; their images/s on GPUs"
        )
    return [*notes, NEAREST_NOTE]


def csv_rows(report: Mapping[str, Any]) -> list[Row]:
    """The table for programs, shares in [0, 1]: categories, mean, then what others published."""
    rows: list[Row] = []
    for summary in (*report["categories"], {**report["mean"], "category": "mean"}):
        spreads = {f"{key}_spread": value for key, value in summary["spread"].items()}
        seeds = summary.get("seeds", report["seeds"])
        note = "; ".join((*summary.get("notes", ()), *filter(None, [summary.get("error")])))
        rows.append({
            **summary, **spreads, "source": "diffusionad", "note": note,
            "seeds": " ".join(map(str, seeds)), "protocol": report["protocol"],
        })  # fmt: skip
    published = report["published"]
    for category, others in (*published["categories"].items(), ("mean", published["mean"])):
        rows += [{**row, "source": row["method"], "category": category} for row in others]
    return rows


def _write_tables(folder: Path, report: Mapping[str, Any]) -> None:
    shown = table(report)
    write_text(folder / "table.csv", csv_text(CSV_COLUMNS, csv_rows(report)), durable=False)
    write_text(folder / "table.md", shown.markdown(), durable=False)
    write_text(folder / "table.tex", shown.latex(), durable=False)


def _page_file(folder: Path, category: str) -> Path:
    return folder / "reports" / f"{studies.run_name(category)}.html"


def _write_page(path: PathLike, folder: Path, values: Mapping[str, Any]) -> None:
    names = [summary["category"] for summary in values["categories"]]
    write_benchmark_report(
        path,
        values,
        table(values),
        pages={name: _page_file(folder, name) for name in names},
        figures={name: _figure_file(folder, name) for name in names},
    )


# ---- the figure --------------------------------------------------------------------------------


def _figure(model: DiffusionAD, dataset: Dataset) -> Bytes:
    """Some defective images (paper, Figure 6): input, ground truth, reconstruction, map."""
    known = [sample for sample in dataset.test if sample.label and sample.has_mask]
    samples = studies.spread_samples(known or list(dataset.test), FIGURE_ROWS)
    stages = model.explain([sample.image for sample in samples])
    high = plots.colour_limit(model.threshold)
    rows = [
        (
            f"{dataset.category}\n{sample.defect}\n{sample.path.name}\n"
            f"score {stages.scores[index]:.4f}",
            [
                plots.picture(stages.seen[index], TILE),
                plots.mask_picture(sample.mask, TILE),
                plots.picture(np.clip(stages.x0[index], 0.0, 1.0), TILE),
                plots.map_picture(stages.maps[index], TILE, high),
            ],
        )
        for index, sample in enumerate(samples)
    ]
    return plots.grid(("input", "ground truth", "reconstruction", f"map 0 to {high:.3g}"), rows)


def _figure_file(folder: Path, category: str) -> Path:
    return folder / "figures" / f"{studies.run_name(category)}.png"


def _write_figure(folder: Path, plan: Plan) -> None:
    """All categories' parts below each other; one that is gone or broken is left out."""
    parts = []
    for name in plan.categories:
        file = _figure_file(folder, name)
        try:
            parts += [read_image(file)] if file.exists() else []
        except InputError as error:
            log.warning("%s: left out of figure.png", error)
    if parts:
        write_png(folder / "figure.png", plots.contact_sheet(parts))
