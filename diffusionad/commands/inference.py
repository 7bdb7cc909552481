"""The commands that look at images with a model: evaluate, predict, serve."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusionad import system
from diffusionad.cli import one_line
from diffusionad.commands.places import collect, require_free
from diffusionad.commands.results import (
    measure,
    open_console,
    panel_files,
    show,
    write_page,
    write_panels,
    write_result,
)
from diffusionad.commands.running import (
    Look,
    load_to_run,
    look_with,
    wanted_tiles,
    warn_of_threshold,
)
from diffusionad.console import complain, printable
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError
from diffusionad.images import Bytes, pixels_of, unique_stems
from diffusionad.result_files import ResultFolder, require_outside


def evaluate(args: Namespace) -> int:
    """Measure a model on a dataset's test part."""
    console = open_console(args)
    tiles = wanted_tiles(args)
    dataset = open_dataset(args.data, args.layout, args.category, resize_masks=args.resize_masks)
    if args.heatmaps is not None:
        require_outside(f"--heatmaps {args.heatmaps}", args.heatmaps, dataset)
        panels = panel_files(dataset, Path(args.heatmaps))
    model = load_to_run(args)
    warn_of_threshold(model, tiles)
    console.say(str(dataset))
    result = measure(
        console,
        model,
        dataset,
        protocol=args.protocol,
        resolution=args.resolution or ("model" if tiles is None else "native"),
        tiles=tiles,
        fpr_limit=args.fpr_limit,
        resamples=args.resamples,
    )
    show(console, dataset, result)
    if args.heatmaps is not None:
        write_panels(console, model, dataset, panels, tiles=tiles)
        console.say(f"\npanels    {args.heatmaps}")
    write_result(args, result)
    if args.report is not None:
        write_page(console, args.report, result, model, dataset)
    return 0


def predict(args: Namespace) -> int:
    """Score images; a file that cannot be read is named, passed over, and makes the code 2."""
    console = open_console(args)
    paths = collect(args.images, Path(args.out))
    named = list(zip(paths, unique_stems(paths), strict=True))
    require_free(Path(args.out), [stem for _, stem in named], paths)
    tiles = wanted_tiles(args)
    model = load_to_run(args)
    warn_of_threshold(model, tiles)
    look, most = look_with(model, tiles)
    rows: list[dict[str, Any]] = []
    broken = 0
    with ResultFolder(args.out) as folder, console.counting("predict", len(paths)) as update:
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
    write_result(
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


def serve(args: Namespace) -> int:
    """Answer HTTP requests for scores and maps until a signal ends it."""
    from diffusionad.serving import command
    from diffusionad.serving.arguments import limits

    console = open_console(args)
    model = load_to_run(args)
    warn_of_threshold(model, None)
    name = printable(Path(args.model).name)

    def ready(url: str) -> None:
        console.say(f"{name} at {url}; Ctrl-C ends it")
        write_result(args, {"url": url, "model": args.model, "threshold": model.threshold})

    command.serve(model, name, limits(args), args.host, args.port, ready)
    return 0


def _predict_batch(
    look: Look, batch: Sequence[tuple[Path, str, Bytes]], folder: ResultFolder
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
