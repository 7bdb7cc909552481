"""What the commands show and write: tables, panels, reports and the JSON result."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusionad import evaluation
from diffusionad.commands.running import look_with
from diffusionad.console import Console, number, tell
from diffusionad.datasets import Dataset
from diffusionad.errors import InputError
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS, TITLES
from diffusionad.files import PathLike, json_text, make_folder, write_json
from diffusionad.images import Bytes, is_image_name, unique_stems, write_png
from diffusionad.model import DiffusionAD
from diffusionad.result_files import require_other_files
from diffusionad.tables import Table
from diffusionad.tiling import Tiles

INPUTS = ("data", "model", "config")  # arguments that name a file, if the command has them


def open_console(args: Namespace) -> Console:
    """The command's output; fails before the work, not after it, where a file cannot be written."""
    for option in ("json", "report"):
        given = getattr(args, option, None)
        if given is not None and (option, given) != ("json", "-"):
            make_folder(Path(given).parent)
            if Path(given).is_dir():
                raise InputError(f"--{option} {given}: expected a file, got a folder")
            if is_image_name(Path(given)):
                raise InputError(f"--{option} {given}: expected the name of no image")
            require_other_files([Path(given)], [getattr(args, name, None) for name in INPUTS])
    if args.json is not None and args.json == getattr(args, "report", None):
        raise InputError("--json, --report: expected two files, got one")
    return Console(args.quiet, results=args.json != "-")


def write_result(args: Namespace, value: dict[str, Any]) -> None:
    """The result as --json asks for it, if it does."""
    if args.json == "-":
        tell(json_text(value), end="")
    elif args.json is not None:
        write_json(args.json, value)


def measure(
    console: Console, model: DiffusionAD, dataset: Dataset, **options: Any
) -> dict[str, Any]:
    """The model's figures on the test part, with progress shown."""
    with console.counting("evaluate", len(dataset.test)) as progress:
        return evaluation.evaluate(model, dataset, progress=progress, **options)


def show(console: Console, dataset: Dataset, result: dict[str, Any]) -> None:
    """A table of what was measured, whole and by kind of defect."""
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


def show_table(console: Console, shown: Table) -> None:
    """A table with its notes below."""
    console.table(shown.caption, shown.columns, shown.rows)
    for note in shown.notes:
        console.say(f"  {note}")


def write_page(
    console: Console,
    path: PathLike,
    result: dict[str, Any],
    model: DiffusionAD,
    dataset: Dataset,
) -> None:
    from diffusionad.report import write_report

    write_report(path, result, model, dataset)
    console.say(f"report    {path}")


def write_panels(
    console: Console,
    model: DiffusionAD,
    dataset: Dataset,
    files: Sequence[Path],
    keep: int = 0,
    tiles: Tiles | None = None,
) -> list[Bytes]:
    """A panel per test image in its file; returns up to `keep` of them, spread over all."""
    make_folder(files[0].parent)
    look, most = look_with(model, tiles)
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


def panel_files(dataset: Dataset, folder: Path) -> list[Path]:
    """A file for each test image. Raises InputError where one is a file of the dataset."""
    samples = dataset.test
    files = [folder / f"{stem}.png" for stem in unique_stems([s.path for s in samples])]
    require_other_files(files, dataset.files())
    return files
