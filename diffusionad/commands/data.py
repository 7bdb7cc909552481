"""The commands that show what is trained on: datasets, synthesize."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from diffusionad import plots, system
from diffusionad.commands.results import open_console, write_result
from diffusionad.datasets import categories, check
from diffusionad.datasets import open as open_dataset
from diffusionad.errors import InputError
from diffusionad.files import make_folder
from diffusionad.images import write_png
from diffusionad.preview import preview
from diffusionad.result_files import require_other_files, require_outside

MOST_ROWS, MOST_PIXELS = 64, 1024  # of a sheet of anomalies; of the side of an image in it


def datasets(args: Namespace) -> int:
    """Compare a dataset with its published numbers (the code is 1 where it differs), or list it."""
    console = open_console(args)
    if args.action == "list":
        names = [args.category] if args.category else categories(args.data, args.layout)
        found = [open_dataset(args.data, args.layout, name) for name in names]
        for dataset in found:
            console.say(f"{dataset}, {dataset.kind}")
        rows = [{"category": d.category, "layout": d.layout, "kind": d.kind} for d in found]
        write_result(args, {"data": args.data, "categories": rows})
        return 0
    with console.counting("check", 0) as progress:
        report = check(
            args.data, args.layout, args.category, read=not args.counts_only, progress=progress
        )
    console.dataset(report)
    write_result(args, {**report.to_dict(), "versions": system.versions()})
    return 0 if report.as_published else 1


def synthesize(args: Namespace) -> int:
    """Draw synthetic anomalies of a dataset's good images, and what they are made of."""
    console = open_console(args)
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
    require_outside(f"--out {out}", out.parent, dataset, [args.anomaly_source, args.foreground])
    require_other_files([out], dataset.files())
    make_folder(out.parent)
    console.say(f"{dataset}, {dataset.kind}")
    seed = 0 if args.seed is None else args.seed
    made = preview(dataset, args.anomaly_source, args.foreground, args.count, args.image_size, seed)
    write_png(out, plots.contact_sheet(made.panels(), f"{dataset}, {dataset.kind}"))
    anomalies = int(made.stages.labels.sum())
    console.say(f"{anomalies} anomalies on {args.count} images: {out}")
    write_result(
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
