"""The commands that train one model: demo, train."""

from __future__ import annotations

import dataclasses
import logging
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import diffusionad as dad
from diffusionad import checkpoints, evaluation, plots, system
from diffusionad.cli import DEMO_BUDGET
from diffusionad.commands.results import (
    measure,
    open_console,
    panel_files,
    show,
    write_page,
    write_panels,
    write_result,
)
from diffusionad.commands.running import load_model
from diffusionad.config import NO_RESULT, PRESETS, to_dict, update
from diffusionad.console import Console, bytes_text, duration_text
from diffusionad.datasets import Dataset, bundled
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError
from diffusionad.files import make_folder, run_folder, write_json
from diffusionad.fitting import RUN_FILES, STATE_FILE, Fit, model_to_resume
from diffusionad.images import list_images, write_png
from diffusionad.option_files import settings_of
from diffusionad.result_files import require_other_files, require_outside
from diffusionad.saliency_network import SaliencyNetwork, is_network

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

log = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
COSTING = ("batch_size", "memory_budget")  # settings of the training that change what it costs
SHEET_ROWS = 12


def demo(args: Namespace) -> int:
    """Train on the bundled images, evaluate, draw, report: everything under --out."""
    console = open_console(args)
    dataset = bundled()
    _require_no_other_model(Path(args.out), dataset)
    folder = make_folder(args.out)
    console.say(f"bundled images of ball screws (BSData, CC BY-SA 4.0): {dataset}")
    budget = args.time_budget
    if budget is None and args.steps is None and "steps" not in args.settings:
        budget = DEMO_BUDGET
    model = new_model(args)
    _fit(console, model, dataset, args, budget=budget, resume=False)
    result = measure(console, model, dataset)
    result["nearest_training_image_auroc"] = evaluation.nearest_training_image(dataset)
    files = panel_files(dataset, folder / "heatmaps")
    panels = write_panels(console, model, dataset, files, keep=SHEET_ROWS)
    write_png(folder / "heatmaps.png", plots.contact_sheet(panels, str(dataset)))
    write_json(folder / "report.json", result)
    show(console, dataset, result)
    console.say(f"\nmodel     {folder / MODEL_FILE}")
    console.say(f"panels    {folder / 'heatmaps'} (some together: {folder / 'heatmaps.png'})")
    console.say(f"numbers   {folder / 'report.json'}")
    write_result(args, result)
    write_page(console, args.report or folder / "report.html", result, model, dataset)
    return 0


def train(args: Namespace) -> int:
    """Train a model and leave it, its log and its settings under --out."""
    console = open_console(args)
    dataset = open_dataset(args.data, args.layout, args.category, kind=args.kind)
    folders = [args.anomaly_source, args.foreground]
    if args.foreground is not None and is_network(args.foreground):
        SaliencyNetwork(folders.pop())  # what is wrong with it is said before anything is written
    for folder in folders:
        if folder is not None and not list_images(folder, recursive=True):
            raise InputError(f"{folder}: no images in this folder")
    require_outside(f"--out {args.out}", args.out, dataset, folders)
    require_other_files(
        [Path(args.out) / name for name in RUN_FILES], [args.data, *dataset.files()]
    )
    file, state = (Path(args.out) / name for name in (MODEL_FILE, STATE_FILE))
    there = [path for path in (file, state) if path.exists()]
    if args.resume:
        if not there:
            raise InputError(f"{state}: no such file, so nothing to resume")
        model = _run_to_resume(args, file, state)
    elif there and not args.overwrite:
        raise InputError(
            f"{there[0]}: exists already; add --resume or --overwrite, or choose another"
        )
    else:
        make_folder(args.out)
        model = new_model(args)
    console.say(str(dataset))
    done = _finished(model, dataset, args, file) if len(there) == 2 and args.resume else None
    if done is not None:
        console.say(f"finished already, after {done.train_config.steps} steps")
        model = done
    else:
        _fit(console, model, dataset, args, budget=args.time_budget, resume=args.resume)
    console.say(f"model     {file}")
    write_result(
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


def _require_no_other_model(folder: Path, dataset: Dataset) -> None:
    """Raise InputError where a model, or a state, of other images than the dataset's lies."""
    there = [path for path in (folder / MODEL_FILE, folder / STATE_FILE) if path.exists()]
    images = dataset.fingerprint(train_only=True) if there else None
    for path in there:
        if _images_of(path) != images:
            raise InputError(f"{path}: exists already, and is no demo's; choose another --out")


def _images_of(path: Path) -> object:
    """The fingerprint of what a model or a state was trained on; None where it does not tell."""
    try:
        if path.name == STATE_FILE:
            return checkpoints.read_state_values(path).get("images")
        return checkpoints.read_header(path).provenance.get("data", {}).get("images")
    except InputError:
        return None


def new_model(args: Namespace) -> DiffusionAD:
    return dad.DiffusionAD(**settings_of(args))


def _run_to_resume(args: Namespace, file: Path, state: Path) -> DiffusionAD:
    """The model of the run under --out, with what the options say of what decides no result.

    Raises InputError where they ask for anything else than the run has.
    """
    # A run that was killed early has left a state alone; fit() says where there is none.
    model = model_to_resume(state.parent) if state.exists() else load_model(file, seed=None)
    kept = {**to_dict(model.config), **to_dict(model.train_config)}
    given = {**settings_of(args), "kind": args.kind}
    if args.steps is not None or args.time_budget is not None:
        given.pop("steps", None)  # of the file; the run began without it, too
    free = {name: given.pop(name) for name in NO_RESULT & given.keys()}
    model.train_config = update(model.train_config, free)
    for name, value in given.items():
        if value not in (None, kept[name]):
            option = f"--{name.replace('_', '-')}"
            where = option if getattr(args, name, None) is not None else f"{args.config}: {name}"
            raise InputError(f"{where}: this run has {kept[name]} and keeps it")
    if args.time_budget is not None:
        steps = model.train_config.steps
        log.warning("--time-budget: a run that is resumed keeps its %d steps", steps)
    return model


def _cost(model: DiffusionAD) -> str:
    """What the preset says that it costs; settings that differ from it change that."""
    row = PRESETS.get(model.config.preset)
    if row is None:  # of a file
        return model.config.preset
    usual = dataclasses.replace(row.model, seed=model.config.seed) == model.config and all(
        getattr(row.train, name) == getattr(model.train_config, name) for name in COSTING
    )
    return f"{model.config.preset}, on two cores {row.cost}{'' if usual else ' (as it is)'}"


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
    try:
        header = checkpoints.read_header(file)
        if not header.provenance.get("finished") or header.threshold is None:
            return None
        model = load_model(file, None)
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
