"""What each command of the command line does, from checked arguments to files and an exit code."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import diffusionad as dad
from diffusionad import _core, checkpoints, evaluation, plots, system
from diffusionad.cli import DEMO_BUDGET, one_line
from diffusionad.config import NO_RESULT, PRESETS, to_dict, update, without_size
from diffusionad.console import Console, bytes_text, complain, duration_text, number
from diffusionad.datasets import Dataset, bundled, categories, check
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS, TITLES
from diffusionad.files import PathLike, json_text, make_folder, run_folder, write_json
from diffusionad.images import (
    Bytes,
    is_image_name,
    list_images,
    pixels_of,
    unique_stems,
    write_png,
)
from diffusionad.inference import RUN_FLAGS
from diffusionad.prediction import Prediction
from diffusionad.result_files import TABLE, files_of, has_results, require_other_files
from diffusionad.saliency_network import SaliencyNetwork, is_network
from diffusionad.studies import Recipe
from diffusionad.synthesis import without_kind
from diffusionad.tiling import OVERLAP, Tiles, described
from diffusionad.torch_files import is_torch_file

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD
    from diffusionad.tables import Table

log = logging.getLogger(__name__)

Look = Callable[[Sequence[Any]], Prediction]  # what is said of a batch of images

MODEL_FILE = "model.safetensors"
SETTINGS = (  # that are options, too
    "preset", "image_size", "batch_size", "memory_budget", "seed", "kind",
)  # fmt: skip
COSTING = ("batch_size", "memory_budget")  # settings of the training that change what it costs
OFFICIAL, OURS, ONNX = (".pt", ".pth"), (".safetensors",), (".onnx",)
NAMED = ("table", "visa_raw")  # layouts in which a table names the images, whatever else is there
BATCH = 4  # images per pass where panels are drawn
SHEET_ROWS = 12
MOST_ROWS, MOST_PIXELS = 64, 1024  # of a sheet of anomalies; of the side of an image in it


def demo(args: Namespace) -> int:
    """Train on the bundled images, evaluate, draw, report: everything under --out."""
    console = _console(args)
    folder = make_folder(args.out)
    dataset = bundled()
    console.say(f"bundled images of ball screws (BSData, CC BY-SA 4.0): {dataset}")
    budget = args.time_budget
    if budget is None and args.steps is None and "steps" not in args.settings:
        budget = DEMO_BUDGET
    model = _new_model(args)
    _fit(console, model, dataset, args, budget=budget, resume=False)
    result = _evaluate(console, model, dataset)
    result["nearest_training_image_auroc"] = evaluation.nearest_training_image(dataset)
    files = _panel_files(dataset, folder / "heatmaps")
    panels = _write_panels(console, model, dataset, files, keep=SHEET_ROWS)
    write_png(folder / "heatmaps.png", plots.contact_sheet(panels, str(dataset)))
    write_json(folder / "report.json", result)
    _show(console, dataset, result)
    console.say(f"\nmodel     {folder / MODEL_FILE}")
    console.say(f"panels    {folder / 'heatmaps'} (some together: {folder / 'heatmaps.png'})")
    console.say(f"numbers   {folder / 'report.json'}")
    _write_json(args, result)
    _write_report(console, args.report or folder / "report.html", result, model, dataset)
    return 0


def train(args: Namespace) -> int:
    """Train a model and leave it, its log and its settings under --out."""
    from diffusionad.fitting import STATE_FILE, model_to_resume

    console = _console(args)
    dataset = open_dataset(args.data, args.layout, args.category, kind=args.kind)
    folders = [args.anomaly_source, args.foreground]
    if args.foreground is not None and is_network(args.foreground):
        SaliencyNetwork(folders.pop())  # what is wrong with it is said before anything is written
    for folder in folders:
        if folder is not None and not list_images(folder, recursive=True):
            raise InputError(f"{folder}: no images in this folder")
    _require_outside(f"--out {args.out}", Path(args.out), dataset, folders)
    file, state = (Path(args.out) / name for name in (MODEL_FILE, STATE_FILE))
    there = [path for path in (file, state) if path.exists()]
    if args.resume:
        if not there:
            raise InputError(f"{state}: no such file, so nothing to resume")
        # A run that was killed early has left a state alone; fit() says where there is none.
        model = model_to_resume(state.parent) if state in there else _load(file, seed=None)
        kept = {**to_dict(model.config), **to_dict(model.train_config)}
        wanted = {**_wanted(args), "kind": args.kind}
        free = {name: wanted.pop(name) for name in NO_RESULT & wanted.keys()}
        model.train_config = update(model.train_config, free)
        for name, value in wanted.items():
            if value not in (None, kept[name]):
                option = f"--{name.replace('_', '-')}"
                where = (
                    option if getattr(args, name, None) is not None else f"{args.config}: {name}"
                )
                raise InputError(f"{where}: this run has {kept[name]} and keeps it")
        if args.time_budget is not None:
            steps = model.train_config.steps
            log.warning("--time-budget: a run that is resumed keeps its %d steps", steps)
    elif there and not args.overwrite:
        raise InputError(
            f"{there[0]}: exists already; add --resume or --overwrite, or choose another"
        )
    else:
        make_folder(args.out)
        model = _new_model(args)
    console.say(str(dataset))
    done = _finished(model, dataset, args, file) if len(there) == 2 and args.resume else None
    if done is not None:
        console.say(f"finished already, after {done.train_config.steps} steps")
        model = done
    else:
        _fit(console, model, dataset, args, budget=args.time_budget, resume=args.resume)
    console.say(f"model     {file}")
    _write_json(
        args,
        {
            "model": str(file),
            "category": dataset.category,
            "layout": dataset.layout,
            "kind": model.train_config.kind,
            "threshold": model.threshold,
            "provenance": model.provenance,
            "versions": system.versions(),
        },
    )
    return 0


def evaluate(args: Namespace) -> int:
    """Measure a model on a dataset's test part."""
    console = _console(args)
    tiles = _tiles(args)
    dataset = open_dataset(args.data, args.layout, args.category, resize_masks=args.resize_masks)
    if args.heatmaps is not None:
        _require_outside(f"--heatmaps {args.heatmaps}", Path(args.heatmaps), dataset)
        panels = _panel_files(dataset, Path(args.heatmaps))
    model = _load_to_run(args)
    _warn_of_threshold(model, tiles)
    console.say(str(dataset))
    result = _evaluate(
        console,
        model,
        dataset,
        protocol=args.protocol,
        resolution=args.resolution or ("model" if tiles is None else "native"),
        tiles=tiles,
        fpr_limit=args.fpr_limit,
        resamples=args.resamples,
    )
    _show(console, dataset, result)
    if args.heatmaps is not None:
        _write_panels(console, model, dataset, panels, tiles=tiles)
        console.say(f"\npanels    {args.heatmaps}")
    _write_json(args, result)
    if args.report is not None:
        _write_report(console, args.report, result, model, dataset)
    return 0


def predict(args: Namespace) -> int:
    """Score images; a file that cannot be read is named, passed over, and makes the code 2."""
    console = _console(args)
    paths = _collect(args.images, Path(args.out))
    named = list(zip(paths, unique_stems(paths), strict=True))
    _require_free(Path(args.out), [stem for _, stem in named], paths)
    tiles = _tiles(args)
    model = _load_to_run(args)
    _warn_of_threshold(model, tiles)
    look, most = _look(model, tiles)
    rows: list[dict[str, Any]] = []
    broken = 0
    with dad.ResultFolder(args.out) as folder, console.counting("predict", len(paths)) as update:
        for first in range(0, len(named), most):
            batch = []
            for path, stem in named[first : first + most]:
                try:
                    batch.append((path, stem, pixels_of(path, "")))
                except InputError as error:
                    complain(f"diffusionad predict: {one_line(error)}")
                    broken += 1
            rows += _predict_batch(look, batch, folder)
            update(min(first + most, len(paths)), len(paths))
    anomalous = sum(row["label"] == 1 for row in rows)
    verdict = f", {anomalous} anomalous" if model.threshold is not None else ""
    console.say(f"{len(rows)} images scored{verdict}: {folder.path / 'scores.csv'}")
    _write_json(
        args,
        {
            "threshold": model.threshold,
            "seed": model.config.seed,
            "versions": system.versions(),
            "unreadable": broken,
            "images": rows,
        },
    )
    return 2 if broken else 0


def benchmark(args: Namespace) -> int:
    """Train and measure every category; the code is 1 where one of them could not be."""
    from diffusionad import benchmark as benchmarking

    console = _console(args)
    page = args.report or Path(args.out) / benchmarking.REPORT_FILE
    report = benchmarking.benchmark(
        args.data, args.out, args.layout, args.categories, _recipe(args), _seeds(args),
        args.protocol, console, page,
    )  # fmt: skip
    _show_table(console, benchmarking.table(report))
    console.say(f"\nresults   {Path(args.out) / 'benchmark.json'}, and table.* beside it")
    console.say(f"figure    {Path(args.out) / 'figure.png'}")
    console.say(f"report    {page}")
    _write_json(args, report)
    return 1 if report["failed"] else 0


def ablate(args: Namespace) -> int:
    """Compare the method with what it would be without its parts, and over its noise scales."""
    from diffusionad import ablation

    console = _console(args)
    if args.models and (args.steps or args.time_budget or args.seeds or args.seed is not None):
        raise InputError("--model: nothing is trained, so there are no seeds, steps and budgets")
    report = ablation.ablate(
        args.data, args.out, args.layout, args.category, _recipe(args), _seeds(args),
        args.models, args.t_s, args.t_b, args.test_images, console,
    )  # fmt: skip
    for shown in ablation.tables(report):
        _show_table(console, shown)
    console.say(f"\nresults   {Path(args.out) / 'ablation.json'}, and tables beside it")
    _write_json(args, report)
    return 0


def datasets(args: Namespace) -> int:
    """Compare a dataset with its published numbers (the code is 1 where it differs), or list it."""
    console = _console(args)
    if args.action == "list":
        names = [args.category] if args.category else categories(args.data, args.layout)
        found = [open_dataset(args.data, args.layout, name) for name in names]
        for dataset in found:
            console.say(f"{dataset}, {dataset.kind}")
        rows = [{"category": d.category, "layout": d.layout, "kind": d.kind} for d in found]
        _write_json(args, {"data": args.data, "categories": rows})
        return 0
    with console.counting("check", 0) as progress:
        report = check(
            args.data, args.layout, args.category, read=not args.counts_only, progress=progress
        )
    console.dataset(report)
    _write_json(args, {**report.to_dict(), "versions": system.versions()})
    return 0 if report.as_published else 1


def synthesize(args: Namespace) -> int:
    """Draw synthetic anomalies of a dataset's good images, and what they are made of."""
    from diffusionad.preview import preview

    console = _console(args)
    out = Path(args.out)
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: expected a file that ends with .png")
    for name, given, most in (
        ("count", args.count, MOST_ROWS),
        ("image-size", args.image_size, MOST_PIXELS),
    ):
        if given > most:
            raise InputError(f"--{name}: expected at most {most}, got {given}")
    dataset = open_dataset(args.data, args.layout, args.category, kind=args.kind)
    _require_outside(f"--out {out}", out.parent, dataset, [args.anomaly_source, args.foreground])
    require_other_files([out], _files_of(dataset))
    make_folder(out.parent)
    console.say(f"{dataset}, {dataset.kind}")
    seed = 0 if args.seed is None else args.seed
    made = preview(dataset, args.anomaly_source, args.foreground, args.count, args.image_size, seed)
    write_png(out, plots.contact_sheet(made.panels(), f"{dataset}, {dataset.kind}"))
    anomalies = int(made.stages.labels.sum())
    console.say(f"{anomalies} anomalies on {args.count} images: {out}")
    _write_json(
        args,
        {
            "sheet": str(out),
            "category": dataset.category,
            "kind": dataset.kind,
            "foreground": made.foreground,
            "seed": seed,
            "versions": system.versions(),
            "images": [
                {
                    "path": str(path),
                    "label": int(label),
                    "foreground": round(float(part.mean()), 6),
                    "mask": round(float((mask > 0).mean()), 6),
                }
                for path, label, part, mask in zip(
                    made.paths,
                    made.stages.labels,
                    made.stages.parts,
                    made.stages.masks,
                    strict=True,
                )
            ],
        },
    )
    return 0


def info(args: Namespace) -> int:
    """Show versions and what the core runs on, or what a model file says about itself."""
    console = _console(args)
    result: dict[str, Any] = {
        "versions": system.versions(),
        "simd": _core.simd_level(),
        "simd_levels": _core.simd_levels(),
        "threads": _core.get_num_threads(),
        "processors": system.processors(),
    }
    if args.system:
        result["system"] = system.report()
        for title, values in result["system"].items():
            console.pairs(title, values)
    elif args.model is None:
        console.pairs("versions", result["versions"])
        console.pairs(
            "core",
            {
                "SIMD level": f"{result['simd']} (of {', '.join(result['simd_levels'])})",
                "threads": f"{result['threads']} (of {result['processors']} processors)",
            },
        )
        console.pairs("presets", {name: row.about for name, row in PRESETS.items()})
        console.pairs("cost on two cores", {name: row.cost for name, row in PRESETS.items()})
    if args.model is not None:
        header = _header(args.model)
        result["model"] = dataclasses.asdict(header)
        sizes = {name: f"{count:,} parameters" for name, count in header.parameters.items()}
        threshold = "none" if header.threshold is None else f"{header.threshold:.6g}"
        console.pairs(args.model, {**sizes, "threshold": threshold})
        console.pairs("settings", header.config)
        console.pairs("provenance", header.provenance)
    _write_json(args, result)
    return 0


def convert(args: Namespace) -> int:
    """Turn a checkpoint of the reference implementation into a model file, or back."""
    console = _console(args)
    official = _new_file(args, OFFICIAL + OURS) in OFFICIAL
    if is_torch_file(args.source) == official and Path(args.source).is_file():
        other = OURS if official else OFFICIAL
        raise InputError(f"{args.out}: {args.source} is of that kind already, expected {other[0]}")
    given = {"image_size": args.image_size, "num_heads": args.num_heads}
    settings = {name: value for name, value in given.items() if value is not None}
    if official:
        for name in settings:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: a model file says it itself, only a .pt may need it")
        model = _load(args.source, args.seed)
        model.save_official(args.out)
    else:
        model = _load(args.source, args.seed, **settings)
        model.save(args.out)
    _show_written(console, model, args.out)
    _write_json(args, _described(args, model))
    return 0


def export(args: Namespace) -> int:
    """Write a model as one ONNX graph: image to score, map and reconstruction."""
    console = _console(args)
    _new_file(args, ONNX)
    model = _load(args.model, args.seed)
    model.export_onnx(args.out, noise_inputs=args.noise_inputs)
    _show_written(console, model, args.out)
    side = model.config.image_size
    shape = f"[N, {model.config.in_channels}, {side}, {side}]"
    console.pairs(
        "graph",
        {
            "image": f"float32 {shape}, RGB from 0 to 1",
            "noise": "inputs, one image or one for each" if args.noise_inputs else "of the seed",
            "outputs": f"score [N], map [N, {side}, {side}], reconstruction {shape}",
        },
    )
    _write_json(args, {**_described(args, model), "noise_inputs": args.noise_inputs})
    return 0


def serve(args: Namespace) -> int:
    """Answer HTTP requests for scores and maps until a signal ends it."""
    from diffusionad.serving import command
    from diffusionad.serving.arguments import limits

    console = _console(args)
    model = _load_to_run(args)
    _warn_of_threshold(model, None)
    name = Path(args.model).name

    def ready(url: str) -> None:
        console.say(f"{name} at {url}; Ctrl-C ends it")
        _write_json(args, {"url": url, "model": args.model, "threshold": model.threshold})

    command.serve(model, name, limits(args), args.host, args.port, ready)
    return 0


def completion(args: Namespace) -> int:
    """Print what makes a shell complete commands, options and file names."""
    from diffusionad import completion as completing
    from diffusionad.cli import build_parser

    script = completing.script(build_parser(), args.shell)
    _console(args).say(script)
    _write_json(args, {"shell": args.shell, "script": script})
    return 0


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "benchmark": benchmark,
    "ablate": ablate,
    "datasets": datasets,
    "synthesize": synthesize,
    "convert": convert,
    "export": export,
    "serve": serve,
    "info": info,
    "completion": completion,
}


# ---- models -----------------------------------------------------------------------------------


def _new_model(args: Namespace) -> DiffusionAD:
    return dad.DiffusionAD(**_wanted(args))


def _wanted(args: Namespace) -> dict[str, Any]:
    """Settings of the file of --config; what options say goes before them."""
    options = {name: getattr(args, name, None) for name in SETTINGS}
    options = {name: value for name, value in options.items() if value is not None}
    settings = args.settings
    if "image_size" in options:
        preset = settings.get("preset", options.get("preset", "compact"))
        settings = without_size(preset, settings)
    if "kind" in options and options["kind"] != settings.get("kind"):
        settings = without_kind(settings)
    return {**settings, **options}


def _recipe(args: Namespace) -> Recipe:
    return Recipe(
        args.preset or "compact", args.image_size, args.batch_size, args.steps, args.time_budget,
        args.anomaly_source, args.kind, args.memory_budget,
    )  # fmt: skip


def _cost(model: DiffusionAD) -> str:
    """What the preset says that it costs; settings that differ from it change that."""
    row = PRESETS.get(model.config.preset)
    if row is None:  # of a file
        return model.config.preset
    usual = dataclasses.replace(row.model, seed=model.config.seed) == model.config and all(
        getattr(row.train, name) == getattr(model.train_config, name) for name in COSTING
    )
    return f"{model.config.preset}, on two cores {row.cost}{'' if usual else ' (as it is)'}"


def _seeds(args: Namespace) -> tuple[int, ...]:
    if args.seeds is not None and args.seed is not None:
        raise InputError("--seed, --seeds: expected one of the two, got both")
    return args.seeds if args.seeds is not None else (args.seed or 0,)


def _load(path: str | Path, seed: int | None, **settings: Any) -> DiffusionAD:
    """A model file, or a checkpoint of the reference; settings are of the latter."""
    model: DiffusionAD
    model = dad.load_official(path, **settings) if is_torch_file(path) else dad.load(path)
    if seed is not None:
        model.seed = seed
    return model


def _header(path: str) -> checkpoints.Header:
    """What a model file says about itself; of a checkpoint of the reference what was read of it."""
    if not is_torch_file(path):
        return checkpoints.read_header(path)
    model = _load(path, None)
    config = {"model": to_dict(model.config), "train": to_dict(model.train_config)}
    parameters = {
        name: sum(math.prod(values.shape) for values in network.parameter_views().values())
        for name, network in model.networks.items()
    }
    return checkpoints.Header(config, model.provenance, model.threshold, parameters)


def _load_to_run(args: Namespace) -> DiffusionAD:
    """The model of the command, run as its options say."""
    model = _load(args.model, args.seed)
    try:
        for name in RUN_FLAGS:
            setattr(model, name, getattr(args, name))
    except InputError as error:
        raise InputError(f"--{error}") from error
    return model


def _tiles(args: Namespace) -> Tiles | None:
    """How to cut images, None without --tiles."""
    if args.tiles:
        overlap = OVERLAP if args.tile_overlap is None else args.tile_overlap
        return Tiles(args.tile_size, overlap)
    for name in ("tile_size", "tile_overlap"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: expected --tiles with it")
    return None


def _look(model: DiffusionAD, tiles: Tiles | None) -> tuple[Look, int]:
    """What to say of a batch of images, and how many to give: of large ones, one at a time."""
    if tiles is None:
        return model.explain, BATCH
    return partial(model.predict_tiled, tile=tiles.size, overlap=tiles.overlap), 1


def _warn_of_threshold(model: DiffusionAD, tiles: Tiles | None) -> None:
    looked_at = described(None if tiles is None else tiles.of(model.config.image_size))
    calibrated = model.provenance.get("calibrated_on", looked_at)
    if calibrated != looked_at:
        log.warning(
            "the threshold was set on %s, the scores of %s differ: model.calibrate(good_images), "
            "or model.calibrate(model.predict_tiled(good_images)), sets it",
            calibrated,
            looked_at,
        )


def _described(args: Namespace, model: DiffusionAD) -> dict[str, Any]:
    return {
        "file": args.out,
        "bytes": Path(args.out).stat().st_size,
        "config": to_dict(model.config),
        "parameters": model.num_parameters,
        "threshold": model.threshold,
        "provenance": model.provenance,
        "versions": system.versions(),
    }


def _show_written(console: Console, model: DiffusionAD, path: str) -> None:
    size = bytes_text(Path(path).stat().st_size)
    threshold = "none" if model.threshold is None else f"{model.threshold:.6g}"
    console.say(
        f"{path}: {size}, {model.num_parameters:,} parameters, "
        f"{model.config.image_size} px, threshold {threshold}"
    )


def _fit(
    console: Console,
    model: DiffusionAD,
    dataset: Dataset,
    args: Namespace,
    *,
    budget: float | None,
    resume: bool,
) -> None:
    console.say(
        f"training  {model.num_parameters / 1e6:.2f} million parameters, "
        f"batches of {model.train_config.batch_size} images, "
        f"{bytes_text(model.training_memory()['total'])} of memory planned"
    )
    console.say(f"preset    {_cost(model)}")
    start = time.monotonic()
    with console.training() as progress:
        model.fit(
            dataset,
            anomaly_source=args.anomaly_source,
            time_budget=budget,
            steps=args.steps,
            foreground=getattr(args, "foreground", None),
            progress=progress,
            out=args.out,
            resume=resume,
        )
    console.say(f"trained   {duration_text(time.monotonic() - start)}")


def _finished(
    run: DiffusionAD, dataset: Dataset, args: Namespace, file: Path
) -> DiffusionAD | None:
    """The model of a run that has come to its end, as it lies there; None before.

    Raises InputError where the run was trained with something else. What decides no result is
    changed in the file.
    """
    from diffusionad.fitting import Fit

    try:
        header = checkpoints.read_header(file)
        if not header.provenance.get("finished") or header.threshold is None:
            return None
        model = _load(file, None)
    except InputError:
        return None  # broken; the end of the run writes it anew
    free = {name: getattr(run.train_config, name) for name in NO_RESULT}
    if (model.config, update(model.train_config, free)) != (run.config, run.train_config):
        return None
    with run_folder(args.out) as out:
        fit = Fit(run, dataset, args.anomaly_source, args.foreground, out, time.monotonic())
        fit.resume(args.steps)
        images = model.provenance.get("data", {}).get("images")
        if fit.trainer.iteration < run.train_config.steps or images != fit.inputs["images"]:
            return None  # the file is of an earlier run
        if model.train_config != run.train_config:
            model.train_config = run.train_config
            model.save(file)
    return model


def _evaluate(
    console: Console, model: DiffusionAD, dataset: Dataset, **options: Any
) -> dict[str, Any]:
    with console.counting("evaluate", len(dataset.test)) as progress:
        return evaluation.evaluate(model, dataset, progress=progress, **options)


# ---- results ----------------------------------------------------------------------------------


def _show(console: Console, dataset: Dataset, result: dict[str, Any]) -> None:
    names = (*IMAGE_METRICS, *PIXEL_METRICS)
    per_defect: dict[str, dict[str, Any]] = result["per_defect"]
    rows = [[dataset.category, *(number(result[name]) for name in names)]]
    confidence = result["confidence"]
    if confidence["resamples"]:
        pairs = [confidence.get(name, (None, None)) for name in names]
        rows += [["95% from", *(number(low) for low, _ in pairs)]]
        rows += [["95% to", *(number(high) for _, high in pairs)]]
    if len(per_defect) > 1:
        rows += [[kind, *(number(row[name]) for name in names)] for kind, row in per_defect.items()]
    title = f"protocol: {result['protocol']}, {result['resolution']} resolution"
    console.table(title, ["", *(TITLES[name] for name in names)], rows)
    if (baseline := result.get("nearest_training_image_auroc")) is not None:
        console.say(f"image AUROC of the nearest training image, without training: {baseline:.4f}")
    console.say(
        f"{result['images_per_second']:.1f} images/s, "
        f"peak memory {result['peak_memory_mb']:.0f} MB, "
        f"{result['threads']} threads, {result['simd']}"
    )


def _write_report(
    console: Console,
    path: PathLike,
    result: dict[str, Any],
    model: DiffusionAD,
    dataset: Dataset,
) -> None:
    from diffusionad.report import write_report

    write_report(path, result, model, dataset)
    console.say(f"report    {path}")


def _show_table(console: Console, shown: Table) -> None:
    console.table(shown.caption, shown.columns, shown.rows)
    for note in shown.notes:
        console.say(f"  {note}")


def _write_panels(
    console: Console,
    model: DiffusionAD,
    dataset: Dataset,
    files: Sequence[Path],
    keep: int = 0,
    tiles: Tiles | None = None,
) -> list[Bytes]:
    """A panel per test image in its file; returns up to `keep` of them, spread over all."""
    make_folder(files[0].parent)
    look, most = _look(model, tiles)
    samples = dataset.test
    spread = {round(i) for i in np.linspace(0, len(samples) - 1, min(keep, len(samples)))}
    kept: list[Bytes] = []
    with console.counting("draw", len(samples)) as update:
        for first in range(0, len(samples), most):
            batch = samples[first : first + most]
            said = look([sample.path for sample in batch])
            for index, (result, sample) in enumerate(zip(said, batch, strict=True), first):
                panel = result.panel(sample.mask, sample.defect)
                write_png(files[index], panel)
                if index in spread:
                    kept.append(panel)
            update(first + len(batch), len(samples))
    return kept


def _panel_files(dataset: Dataset, folder: Path) -> list[Path]:
    """A file for each test image. Raises InputError where one is a file of the dataset."""
    samples = dataset.test
    files = [folder / f"{stem}.png" for stem in unique_stems([s.path for s in samples])]
    require_other_files(files, _files_of(dataset))
    return files


def _predict_batch(
    look: Look, batch: Sequence[tuple[Path, str, Bytes]], folder: dad.ResultFolder
) -> list[dict[str, Any]]:
    """Write what is said of each image; a row of the JSON result for each."""
    if not batch:
        return []
    paths, stems, images = zip(*batch, strict=True)
    said = dataclasses.replace(look(images), paths=[str(path) for path in paths])
    rows = []
    for result, stem in zip(said, stems, strict=True):
        folder.write(result, stem)
        row = result.to_dict()
        rows.append({**{name: row[name] for name in ("path", "score", "label")}, "name": stem})
    return rows


# ---- files ------------------------------------------------------------------------------------


def _collect(given: Sequence[str], out: Path) -> list[Path]:
    """The images that files and folders stand for, each once, in the order given.

    Folders are searched but for `out`, which may hold the pictures of an earlier call. Raises
    InputError where a picture of the results would replace an image.
    """
    paths: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _place_in(path, out)
            found = [
                image
                for image in list_images(path, recursive=True)
                if inside is None or inside not in image.parents
            ]
            if not found:
                raise InputError(f"{path}: no images in this folder")
            paths += found
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder")
        elif not is_image_name(path):
            raise InputError(f"{path}: not an image file by its name")
        elif path.resolve() == (out / f"{path.stem}.png").resolve():
            raise _same_folder(out)
        else:
            paths.append(path)
    return list(dict.fromkeys(paths))


def _require_free(out: Path, stems: Sequence[str], images: Sequence[Path]) -> None:
    """Raise InputError where results would replace an image, or what no call of predict left."""
    files = files_of(out, stems)
    require_other_files(files, images)
    if has_results(out):
        return
    for path in (out / TABLE, *files):
        if path.is_file():
            raise InputError(
                f"{path}: a result would replace this file, which is no result itself "
                f"(no {TABLE} of ours lies there); choose another --out"
            )


def _files_of(dataset: Dataset) -> list[Path]:
    """Images and masks."""
    samples = (*dataset.train, *dataset.test, *dataset.left_out)
    masks = [sample.mask_path for sample in samples if sample.mask_path is not None]
    return [*(sample.path for sample in samples), *masks]


def _require_outside(
    name: str, folder: Path, dataset: Dataset, sources: Sequence[PathLike | None] = ()
) -> None:
    """Raise InputError for a folder whose pictures are read as images of dataset or sources."""
    place = folder.resolve()
    listed = () if dataset.layout in NAMED else _files_of(dataset)
    inside = place in {path.resolve() for path in {path.parent for path in listed}}
    tops = {Path(source).resolve() for source in sources if source is not None}
    if inside or not tops.isdisjoint([place, *place.parents]):
        raise InputError(f"{name}: expected another folder than that of the images")


def _same_folder(out: Path) -> InputError:
    return InputError(f"--out {out}: expected another folder than that of the images")


def _place_in(folder: Path, out: Path) -> Path | None:
    """The path of the results below a folder of images; None where they lie elsewhere.

    Raises InputError where both are one folder.
    """
    top, results = folder.resolve(), out.resolve()
    if results == top:
        raise _same_folder(out)
    return folder / results.relative_to(top) if results.is_relative_to(top) else None


def _new_file(args: Namespace, suffixes: tuple[str, ...]) -> str:
    """The suffix of --out, which is one of these and names no file yet."""
    suffix = Path(args.out).suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{args.out}: expected a name that ends in {', '.join(suffixes)}")
    if Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out}: exists already; add --overwrite, or choose another")
    return suffix


def _console(args: Namespace) -> Console:
    """The command's output; fails before the work, not after it, where a file cannot be written."""
    for option in ("json", "report"):
        given = getattr(args, option, None)
        if given is not None and (option, given) != ("json", "-"):
            make_folder(Path(given).parent)
            if Path(given).is_dir():
                raise InputError(f"--{option} {given}: expected a file, got a folder")
    if args.json is not None and args.json == getattr(args, "report", None):
        raise InputError("--json, --report: expected two files, got one")
    return Console(args.quiet, results=args.json != "-")


def _write_json(args: Namespace, value: dict[str, Any]) -> None:
    if args.json == "-":
        print(json_text(value), end="", flush=True)
    elif args.json is not None:
        write_json(args.json, value)
