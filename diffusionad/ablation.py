"""What each part of the method changes (paper, Table 3), and its noise scales (Figures 7 and 8).

Four rows: an autoencoder (AE) in the place of diffusion; diffusion with iterative denoising (ITE);
with one step (OS); with one step and norm guidance (OS + NG). Three trainings of equal steps serve
them: the autoencoder's, one without guidance for ITE and OS (both scales' noise is learnt, the map
from the one-step repair), one with guidance. The autoencoder is the same UNet without time and
noise, trained to give back the image from before its synthetic anomaly.

The folder holds `ablation.json` (what the command goes on from), the tables as `ablation.*` and
`changes.*`, and for each sweep its curves (`sweep_t_s.png`, `.csv`) and repairs
(`repairs_t_s.png`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import diffusionad as dad
from diffusionad import charts, evaluation, plots, studies, system
from diffusionad.config import TrainConfig
from diffusionad.console import Console, duration_text
from diffusionad.datasets import Dataset, Sample
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS
from diffusionad.files import PathLike, remove_temporaries, run_folder, write_text
from diffusionad.fitting import MODEL_FILE
from diffusionad.images import Bytes, to_network, write_png
from diffusionad.result_files import require_other_files, require_outside
from diffusionad.studies import Recipe, Row, Study, mean, spread
from diffusionad.tables import PLUS_MINUS, Table, csv_text, percent
from diffusionad.torch_files import is_torch_file

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

NAME = "ablation"
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
CURVES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
COLUMNS = {**CURVES, "pixel_ap": "pixel AP"}
DEFAULT_T_S = (25, 50, 100, 150, 200, 250, 300)
DEFAULT_T_B = (250, 300, 400, 500, 600, 700, 800)
SWEEPS = {"t_s": "smaller noise scale t_s", "t_b": "bigger noise scale t_b"}
FILES = (
    "ablation.json",
    *(f"{name}.{kind}" for name in ("ablation", "changes") for kind in ("csv", "md", "tex")),
    *(f"sweep_{name}.{kind}" for name in SWEEPS for kind in ("csv", "png")),
    *(f"repairs_{name}.png" for name in SWEEPS),
)
REPAIR_ROWS, TILE = 4, 96
PANEL_HEIGHT = 260  # of one metric's curve


@dataclass(frozen=True)
class Variant:
    """A row of the table: which training it uses, and how it repairs an image."""

    about: str
    training: str
    mode: str


VARIANTS: Mapping[str, Variant] = {
    "AE": Variant("autoencoder", "autoencoder", "autoencoder"),
    "ITE": Variant("diffusion, iterative denoising", "unguided", "iterative"),
    "OS": Variant("diffusion, one step", "unguided", "one_step"),
    "OS+NG": Variant("diffusion, one step, norm guidance", "guided", "norm_guided"),
}
# Iterative denoising and the sweeps use all noise scales, whatever the preset trains with.
ALL_SCALES = {"t_s_range": TrainConfig.t_s_range, "t_b_range": TrainConfig.t_b_range}
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    # First, because it decides how many steps a time budget is: it is the dearest.
    "guided": {"mode": "norm_guided", **ALL_SCALES},
    "unguided": {"mode": "one_step", "guidance": 0.0, **ALL_SCALES},
    "autoencoder": {"mode": "autoencoder", "preconditioned": False},
}
CHANGES = (
    ("diffusion instead of an autoencoder", "OS", "AE"),
    ("one step instead of many", "OS", "ITE"),
    ("norm guidance", "OS+NG", "OS"),
)


@dataclass(frozen=True)
class Plan:
    """An ablation that has been asked for."""

    dataset: Dataset  # its test part is what is measured on
    files: str  # fingerprint of the whole dataset
    recipe: Recipe
    seeds: tuple[int, ...]
    models: Mapping[tuple[str, int], DiffusionAD]  # given ones, by training and seed
    sweeps: Mapping[str, tuple[int, ...]]
    console: Console


def ablate(
    data: PathLike,
    out: PathLike,
    layout: str = "auto",
    category: str | None = None,
    recipe: Recipe | None = None,
    seeds: Sequence[int] = (0,),
    models: Sequence[PathLike] = (),
    t_s: Sequence[int] | None = None,
    t_b: Sequence[int] | None = None,
    test_images: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train (or take), measure, sweep and draw; the result is ready for JSON.

    Called again with the same settings it goes on from what ``out`` holds. A time budget is that of
    each training; it is turned into steps once, and all trainings take as many. With ``models``
    nothing is trained: each serves the rows of its own training, one of diffusion also those for
    which no other is given. ``t_s`` and ``t_b`` are swept over by the guided models (None: the
    defaults; empty: not). ``test_images`` limits what is measured on: good and defective images,
    those with masks alone where these suffice.
    Raises InputError for unusable input, and where ``out`` holds results of other settings or is
    in use; WriteError where it cannot be written; FloatingPointError where a training diverges.
    """
    recipe = recipe or Recipe()
    dataset = open_dataset(data, layout, category, kind=recipe.kind)
    if not dataset.test:
        raise InputError(f"{dataset.root}: no test images to evaluate on")
    files = studies.files_of(dataset)
    measured = dataset
    if test_images is not None:
        measured = dataclasses.replace(dataset, test=_chosen(dataset.test, test_images))
    given = _given(models)
    plan = Plan(
        dataset=measured,
        files=files,
        recipe=recipe,
        seeds=tuple(sorted({seed for _, seed in given})) if given else tuple(dict.fromkeys(seeds)),
        models=given,
        sweeps=_sweeps(next(iter(given.values()), None) or recipe.model(0), t_s, t_b),
        console=console or Console(quiet=True),
    )
    if not plan.seeds:
        raise InputError("seeds: expected at least one seed, got none")
    settings = _settings(plan, models)
    require_outside(f"--out {out}", out, dataset, [recipe.anomaly_source])
    require_other_files([Path(out) / file for file in FILES], [data, *dataset.files()])
    with run_folder(out) as folder:
        remove_temporaries(folder, FILES)
        study = Study(folder, NAME, settings)
        plan.console.say(str(dataset))
        for seed in plan.seeds:
            for training in TRAININGS:
                _do(study, plan, training, seed)
        _save(study, plan)
        for name, values in plan.sweeps.items():
            if values:
                _write_sweep(study, plan, name)
    return study.values


def _chosen(test: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """So many test images, good ones among them; defective ones with a mask if these suffice."""
    ordered = sorted(test, key=lambda sample: sample.label)
    known = [sample for sample in ordered if sample.has_mask]
    labels = {sample.label for sample in test}
    if count < len(labels):
        raise InputError(
            f"test_images: expected 2 or more, to have good and defective ones, got {count}"
        )
    enough = len(known) >= count and {sample.label for sample in known} == labels
    return tuple(studies.spread_samples(known if enough else ordered, count))


def _settings(plan: Plan, models: Sequence[PathLike]) -> dict[str, Any]:
    about = plan.dataset
    common = {
        "category": about.category,
        "files": plan.files,
        "test_images": len(about.test),
        "seeds": plan.seeds,
        **plan.sweeps,
    }
    if models:
        digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in models]
        return {**common, "models": digests}
    # The noise scales that are swept over are no settings of the models.
    recipe = {f"model_{k}" if k in plan.sweeps else k: v for k, v in plan.recipe.settings().items()}
    return {**common, **recipe}


def _sweeps(
    model: DiffusionAD, t_s: Sequence[int] | None, t_b: Sequence[int] | None
) -> dict[str, tuple[int, ...]]:
    """The time steps to sweep over, checked against the other scale and the schedule."""
    config = model.config
    limits = {"t_s": (0, config.t_b - 1), "t_b": (config.t_s + 1, config.timesteps - 1)}
    found = {}
    for name, values, usual in (("t_s", t_s, DEFAULT_T_S), ("t_b", t_b, DEFAULT_T_B)):
        low, high = limits[name]
        for value in values or ():
            if not low <= value <= high:
                raise InputError(f"{name}: expected {low} to {high}, got {value}")
        found[name] = tuple(v for v in usual if low <= v <= high) if values is None else values
    return {name: tuple(values) for name, values in found.items()}


def _given(files: Sequence[PathLike]) -> dict[tuple[str, int], DiffusionAD]:
    """Models by training and seed."""
    found: dict[tuple[str, int], DiffusionAD] = {}
    for file in files:
        model = dad.load_official(file) if is_torch_file(file) else dad.load(file)
        training = "autoencoder" if model.config.mode == "autoencoder" else "guided"
        if training == "guided" and model.train_config.guidance == 0.0:
            training = "unguided"
        key = (training, model.config.seed)
        if key in found:
            raise InputError(f"{file}: a second {training} model of seed {model.config.seed}")
        found[key] = model
    return found


# ---- rows --------------------------------------------------------------------------------------


def _do(study: Study, plan: Plan, training: str, seed: int) -> None:
    """Train, and measure every row of this training that is still to be measured."""
    variants = [name for name, variant in VARIANTS.items() if variant.training == training]
    todo = [name for name in variants if study.find(row=name, seed=seed) is None]
    sweep = [
        (name, value)
        for name, values in plan.sweeps.items()
        for value in values
        if training == "guided" and study.find("sweep", name=name, value=value, seed=seed) is None
    ]
    if not todo and not sweep:
        plan.console.say(f"{', '.join(variants)}, seed {seed}: finished before")
        return
    system.reset_peak_memory()
    model = _model(study, plan, training, seed)
    if model is None:
        return
    for name in todo:
        mode = VARIANTS[name].mode
        with (
            plan.console.counting(f"{name}, seed {seed}", len(plan.dataset.test)) as progress,
            studies.with_settings(model, plan.dataset.train, mode=mode) as used,
        ):
            result = evaluation.evaluate(used, plan.dataset, progress=progress)
            row = {**result, "row": name, "training": _training_of(used), "mode": mode}
        study.put(row, "row", "seed")
        _save(study, plan)
        values = ", ".join(f"{title} {percent(row[key])}" for key, title in COLUMNS.items())
        plan.console.say(f"{name}, seed {seed}: {values}, {row['images_per_second']:.2f} images/s")
    if sweep:
        _measure_sweep(study, plan, model, seed, sweep)


def _model(study: Study, plan: Plan, training: str, seed: int) -> DiffusionAD | None:
    """A given model, or one trained (or found trained) in the study's folder."""
    if plan.models:
        other = {"guided": "unguided", "unguided": "guided"}.get(training, training)
        return plan.models.get((training, seed)) or plan.models.get((other, seed))
    plan.console.say(f"{training}, seed {seed}")
    model = plan.recipe.model(seed, **TRAININGS[training])
    folder = _run_folder(study, training, seed)
    steps: int | None = study.values.get("steps")
    trained = studies.trained(folder, model, plan.dataset, plan.recipe, steps, plan.console)
    study.values["steps"] = trained.train_config.steps
    study.save()
    studies.forget_state(folder)
    return trained


def _run_folder(study: Study, training: str, seed: int) -> Path:
    return study.path.parent / "runs" / training / f"seed-{seed}"


def _training_of(model: DiffusionAD) -> str:
    if model.config.mode == "autoencoder":
        return "autoencoder"
    return "guided" if model.train_config.guidance > 0 else "unguided"


def _measure_sweep(
    study: Study, plan: Plan, model: DiffusionAD, seed: int, todo: Sequence[tuple[str, int]]
) -> None:
    with plan.console.counting(f"noise scales, seed {seed}", len(todo)) as progress:
        for index, (name, value) in enumerate(todo, 1):
            with _at_scale(model, plan, name, value) as used:
                result = evaluation.evaluate(used, plan.dataset, resamples=0)
            row = {"name": name, "value": value, **{key: result[key] for key in METRICS}}
            study.put({**row, "seed": seed}, "name", "value", "seed", part="sweep")
            _save(study, plan)
            progress(index, len(todo))


def _at_scale(
    model: DiffusionAD, plan: Plan, name: str, value: int
) -> AbstractContextManager[DiffusionAD]:
    changes: dict[str, Any] = {"mode": "norm_guided", name: value}
    return studies.with_settings(model, plan.dataset.train, **changes)


# ---- report and tables -------------------------------------------------------------------------


def _save(study: Study, plan: Plan) -> None:
    summaries = [_summary(study, name, plan.seeds) for name in VARIANTS]
    changes = [_change(study, *change, plan.seeds) for change in CHANGES]
    report = {
        "category": plan.dataset.category,
        "layout": plan.dataset.layout,
        "seeds": list(plan.seeds),
        "rows": sorted(study.rows(), key=lambda r: (list(VARIANTS).index(r["row"]), r["seed"])),
        "table": summaries,
        "changes": changes,
    }
    study.save(**report)
    folder = study.path.parent
    for name, shown in zip(("ablation", "changes"), tables(study.values), strict=True):
        write_text(folder / f"{name}.md", shown.markdown(), durable=False)
        write_text(folder / f"{name}.tex", shown.latex(), durable=False)
    columns = ("row", "about", "training", "seeds", *METRICS, *(f"{k}_spread" for k in METRICS),
               "images_per_second", "train_steps", "train_seconds")  # fmt: skip
    write_text(folder / "ablation.csv", csv_text(columns, summaries), durable=False)
    columns = ("change", "row", "instead_of", "seeds", *METRICS, *(f"{k}_spread" for k in METRICS),
               "times_as_fast")  # fmt: skip
    write_text(folder / "changes.csv", csv_text(columns, changes), durable=False)


def _summary(study: Study, name: str, seeds: Sequence[int]) -> Row:
    """A row's means and standard deviations over its seeds."""
    rows = [row for seed in seeds if (row := study.find(row=name, seed=seed))]
    return {
        "row": name,
        "about": VARIANTS[name].about,
        "training": rows[0]["training"] if rows else None,
        "seeds": len(rows),
        **{key: mean([row[key] for row in rows]) for key in METRICS},
        **{f"{key}_spread": spread([row[key] for row in rows]) for key in METRICS},
        **{
            key: mean([row[key] for row in rows])
            for key in ("images_per_second", "train_steps", "train_seconds", "peak_memory_mb")
        },
    }


def _change(study: Study, about: str, name: str, before: str, seeds: Sequence[int]) -> Row:
    """What one row has more than another: differences seed by seed, their mean and spread."""
    pairs = [
        (row, old)
        for seed in seeds
        if (row := study.find(row=name, seed=seed)) and (old := study.find(row=before, seed=seed))
    ]

    def differences(key: str) -> list[float | None]:
        return [
            None if row[key] is None or old[key] is None else row[key] - old[key]
            for row, old in pairs
        ]

    return {
        "change": about,
        "row": name,
        "instead_of": before,
        "seeds": len(pairs),
        **{key: mean(differences(key)) for key in METRICS},
        **{f"{key}_spread": spread(differences(key)) for key in METRICS},
        "times_as_fast": _ratio(
            [row["images_per_second"] for row, _ in pairs],
            [old["images_per_second"] for _, old in pairs],
        ),
    }


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    return sum(ours) / max(sum(theirs), 1e-9) if ours else None


def tables(report: Mapping[str, Any]) -> tuple[Table, Table]:
    """The rows, and what each part changes."""
    seeds = ", ".join(map(str, report["seeds"]))
    several = "s" * (len(report["seeds"]) > 1)
    about = f"{report['category']}: per cent, protocol benchmark, seed{several} {seeds}"
    notes = ["±: standard deviation over the seeds"] if several else []
    shared = "ITE and OS share a training without guidance; all trainings have equal steps"
    if "models" in report["settings"]:
        shared = "given models; a diffusion model also serves rows for which no other is given"
    rows = Table(
        about,
        ("", "", *COLUMNS.values(), "images/s", "steps", "training"),
        [[_table_row(row) for row in report["table"]]],
        [*notes, shared],
    )
    changes = Table(
        f"{report['category']}: what each part changes, points of per cent, seed by seed",
        ("", "", *COLUMNS.values(), "times as fast"),
        [[_change_row(row) for row in report["changes"]]],
        notes,
    )
    return rows, changes


def _table_row(row: Row) -> list[str]:
    if not row["seeds"]:
        return [row["row"], row["about"], *("-" for _ in COLUMNS), "-", "-", "-"]
    seconds, steps = row["train_seconds"], row["train_steps"]
    return [
        row["row"],
        row["about"],
        *(percent(row[key], row[f"{key}_spread"]) for key in COLUMNS),
        f"{row['images_per_second']:.2f}",
        "-" if steps is None else f"{steps:.0f}",
        "-" if seconds is None else duration_text(seconds),
    ]


def _change_row(row: Row) -> list[str]:
    def points(value: float | None, around: float | None) -> str:
        if value is None:
            return "-"
        text = f"{100 * value:+.1f}"
        return text if around is None else f"{text}{PLUS_MINUS}{100 * around:.1f}"

    fast = row["times_as_fast"]
    return [
        row["change"],
        f"{row['row']} for {row['instead_of']}",
        *(points(row[key], row[f"{key}_spread"]) for key in COLUMNS),
        "-" if fast is None else f"{fast:.2f}",
    ]


# ---- sweeps ------------------------------------------------------------------------------------


def _write_sweep(study: Study, plan: Plan, name: str) -> None:
    """Curves as PNG and CSV, and what becomes of some images at each scale (Figures 7 and 8)."""
    rows = sorted(
        (row for row in study.rows("sweep") if row["name"] == name),
        key=lambda row: (row["value"], row["seed"]),
    )
    if not rows:
        return  # no diffusion model was given
    folder = study.path.parent
    columns = ("name", "value", "seed", *METRICS)
    write_text(folder / f"sweep_{name}.csv", csv_text(columns, rows), durable=False)
    curves = {title: _curve(rows, key) for key, title in CURVES.items()}
    known = {title: curve for title, curve in curves.items() if curve.x}
    model = _any_model(study, plan)
    if known:
        seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
        panels = [
            charts.line_chart(
                {title: curve},
                x_title=SWEEPS[name],
                y_title="per cent",
                title=f"{plan.dataset.category}, {seeds}",
                mark=getattr(model.config, name),
                height=PANEL_HEIGHT,
            )
            for title, curve in known.items()
        ]
        write_png(folder / f"sweep_{name}.png", np.concatenate(panels))
    write_png(folder / f"repairs_{name}.png", _repairs(model, plan, name))


def _curve(rows: Sequence[Row], key: str) -> charts.Curve:
    """Means over the seeds, in per cent, and the range of the seeds where there are several."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            values.setdefault(row["value"], []).append(100 * row[key])
    several = any(len(found) > 1 for found in values.values())
    return charts.Curve(
        x=list(values),
        y=[sum(found) / len(found) for found in values.values()],
        low=[min(found) for found in values.values()] if several else (),
        high=[max(found) for found in values.values()] if several else (),
    )


def _any_model(study: Study, plan: Plan) -> DiffusionAD:
    """The guided model of the first seed that has one, as it was trained or given."""
    seed = min(row["seed"] for row in study.rows("sweep"))
    if plan.models:
        return plan.models.get(("guided", seed)) or plan.models[("unguided", seed)]
    model: DiffusionAD = dad.load(_run_folder(study, "guided", seed) / MODEL_FILE)
    return model


def _repairs(model: DiffusionAD, plan: Plan, name: str) -> Bytes:
    """Some defective images: input, ground truth, then repair above map for each noise scale."""
    known = [sample for sample in plan.dataset.test if sample.label and sample.has_mask]
    samples = studies.spread_samples(known or list(plan.dataset.test), REPAIR_ROWS)
    images = to_network([sample.image for sample in samples], model.config.image_size)
    high = plots.colour_limit(model.threshold)
    columns = []
    for value in plan.sweeps[name]:
        with _at_scale(model, plan, name, value) as used:
            columns.append(used.explain(images))
    rows = []
    for index, sample in enumerate(samples):
        repairs = [plots.picture(np.clip(c.x0[index], 0.0, 1.0), TILE) for c in columns]
        maps = [plots.map_picture(c.maps[index], TILE, high) for c in columns]
        image = plots.picture(columns[0].seen[index], TILE)
        mask = plots.mask_picture(sample.mask, TILE)
        rows.append((f"{sample.defect}\n{sample.path.name}\ninput, repairs", [image, *repairs]))
        rows.append((f"\n\nmask, maps to {high:.3g}", [mask, *maps]))
    titles = ["", *(f"{name} = {value}" for value in plan.sweeps[name])]
    return plots.grid(titles, rows, f"{plan.dataset.category}: {SWEEPS[name]}")
