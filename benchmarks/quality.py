"""What a training of some minutes is worth: all categories of some datasets, several seeds.

    python benchmarks/quality.py OUT DATA [DATA ...] --time-budget 5m --seeds 0,1,2

Every model is made by the command `diffusionad train`, whose wall clock the budget is, and then
measured on the whole test part four times: as it is; without norm guidance; with the image in
place of its repair, which shows what the repair is worth; and with test images whose brightness is
that of the training images, which takes a shortcut away. Beside that stand two baselines without
any training and, with `--reference STEPS`, the same networks trained so many steps by the reference
implementation's recipe, from random weights. Called again, it goes on from what lies in OUT;
`--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import diffusionad as dad
from diffusionad import _core, metrics, normality
from diffusionad.config import PRESETS, ModelConfig, TrainConfig, to_dict
from diffusionad.denoising import Repair
from diffusionad.evaluation import evaluate
from diffusionad.files import write_json
from diffusionad.images import to_network
from diffusionad.validation import held_out

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]

METRICS = ("image_auroc", "pixel_auroc", "aupro")
VARIANTS = ("as it is", "one-step", "input for repair", "brightness matched")
RECIPE = "the reference's recipe"
BASELINES = ("nearest image", "mean grey", "nearest image, matched", "mean grey, matched")
OF_TRAINING = ("time_budget", "preset", "anomaly_source")  # options
SMALL = 64  # pixels a side, for the baselines


class Study:
    """One category, and what needs no training there."""

    def __init__(self, root: Path, name: str, category: str) -> None:
        self.root, self.name, self.category = root, name, category
        self.data = dad.datasets.open(root, category=category)

    def baselines(self) -> Row:
        train, test = (
            to_network([sample.path for sample in part], SMALL)
            for part in (self.data.train, self.data.test)
        )
        labels = np.array([sample.label for sample in self.data.test], np.bool_)
        row: Row = {}
        for suffix, shown in (("", test), (", matched", matched(test, train))):
            far = _core.nearest_distance(*(part.reshape(len(part), -1) for part in (train, shown)))
            grey = metrics.auroc(labels, shown.mean(axis=(1, 2, 3)))
            row[f"nearest image{suffix}"] = float(metrics.auroc(labels, far))
            row[f"mean grey{suffix}"] = float(max(grey, 1 - grey))
        return row


def matched(images: Floats, like: Floats) -> Floats:
    """Each image scaled to the mean of others."""
    means = images.mean(axis=(1, 2, 3), keepdims=True)
    return np.clip(images * (like.mean() / np.maximum(means, 1e-6)), 0, 1).astype(np.float32)


def train(study: Study, seed: int, folder: Path, args: argparse.Namespace) -> None:
    """By the command, in a process of its own; nothing where that is done."""
    if (folder / "model.safetensors").exists():
        if dad.load(folder / "model.safetensors").provenance.get("finished"):
            return
        extra = ["--resume"]
    else:
        extra = ["--time-budget", args.time_budget, "--preset", args.preset, "--seed", str(seed)]
    if args.anomaly_source:
        extra += ["--anomaly-source", args.anomaly_source]
    command = [sys.executable, "-m", "diffusionad", "train", str(study.root)]
    command += ["--category", study.category, "--out", str(folder), "--quiet", *extra]
    subprocess.run(command, check=True)


def measure(study: Study, path: Path) -> Row:
    """The metrics of every variant of one trained model."""
    model = dad.load(path)
    good = to_network([sample.path for sample in study.data.train], model.config.image_size)
    row: Row = {
        "steps": model.provenance["train_steps"],
        "seconds": model.provenance["train_seconds"],
        "as it is": found(study, model),
        "brightness matched": found(study, _Matched(model, good)),
    }
    for variant in ("one-step", "input for repair"):
        model = dad.load(path)
        if variant == "one-step":
            model.set_params(mode="one_step")
        else:
            model._repair = lambda x0: Repair(x0=x0, x_s=x0)  # type: ignore[method-assign]
        if model.config.standardised:  # what good images show is of other repairs
            model.measure_normality(measured(good, model))
        row[variant] = found(study, model)
    return row


def by_recipe(study: Study, seed: int, args: argparse.Namespace) -> Row:
    """The preset's networks with the reference's losses, rates and random weights."""
    recipe = to_dict(TrainConfig(batch_size=PRESETS[args.preset].train.batch_size))
    model = dad.DiffusionAD(
        args.preset,
        seed=seed,
        pretrained=False,
        standardised=False,
        match_brightness=False,
        top_k=ModelConfig.top_k,
        **recipe,
    )
    model.fit(study.data, anomaly_source=args.anomaly_source, steps=args.reference)
    return {"steps": args.reference, **found(study, model)}


def measured(good: Floats, model: dad.DiffusionAD) -> Floats:
    """Of the good images those by which training has measured the model's own maps."""
    share, seed = model.train_config.validation_share, model.config.seed
    kept = np.delete(good, held_out(len(good), share, seed), axis=0)
    chosen = np.linspace(0, len(kept) - 1, min(len(kept), normality.MOST)).astype(int)
    return kept[np.unique(chosen)]


def settled(row: Row, what: str, wanted: Row) -> None:
    """Note what a file's numbers are of, or end where they are of something else."""
    if (there := row.setdefault(what, wanted)) != wanted:
        sys.exit(f"{row['name']}: OUT has {what} {there}, not {wanted}; choose another OUT")


def found(study: Study, model: Any) -> dict[str, float]:
    result = evaluate(model, study.data, resamples=0)
    return {metric: result[metric] for metric in METRICS}


class _Matched:
    """A model that sees every image at the brightness of others."""

    def __init__(self, model: dad.DiffusionAD, like: Floats) -> None:
        self._model, self._like = model, like

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, images: Any, **options: Any) -> dad.Prediction:
        shown = to_network(images, self._model.config.image_size)
        return self._model.predict(matched(shown, self._like), **options)


def table(rows: Sequence[Row], seeds: Sequence[int]) -> Iterator[str]:
    """Markdown: mean over seeds, and largest less smallest in brackets."""
    yield f"| | {' | '.join(('image AUROC', 'pixel AUROC', 'AUPRO', 'steps'))} |"
    yield "|---|---|---|---|---|"
    for row in rows:
        runs = [row["seeds"][str(seed)] for seed in seeds if str(seed) in row["seeds"]]
        for variant in (*VARIANTS, RECIPE):
            there = [run for run in runs if variant in run]
            if not there:
                continue
            cells = []
            for metric in METRICS:
                values = [run[variant][metric] for run in there]
                spread = max(values) - min(values)
                cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
            steps = [run if variant == VARIANTS[0] else run[variant] for run in there]
            shown = ", ".join(str(one["steps"]) for one in steps if "steps" in one)
            yield f"| {row['name']}, {variant} | {' | '.join(cells)} | {shown} |"
        for name in BASELINES:
            yield f"| {row['name']}, {name} | {row['baselines'][name]:.3f} | – | – | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--categories", default="", help="A,B: only these; all by default")
    parser.add_argument("--time-budget", default="5m")
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--anomaly-source")
    parser.add_argument("--reference", type=int, metavar="STEPS", help="steps of its recipe")
    parser.add_argument("--table", action="store_true", help="print what there is, train nothing")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows: list[Row] = []
    for root in args.data:
        for category in dad.datasets.categories(root):
            if args.categories and category not in args.categories.split(","):
                continue
            study = Study(root, f"{root.name}/{category}", category)
            file = args.out / root.name / category / "row.json"
            row = json.loads(file.read_text()) if file.exists() else {"name": study.name}
            row.setdefault("seeds", {})
            if not args.table:
                settled(row, "trained", {name: getattr(args, name) for name in OF_TRAINING})
                if args.reference:
                    settled(row, "recipe", {"steps": args.reference})
            if "baselines" not in row and not args.table:
                row["baselines"] = study.baselines()
            for seed in seeds:
                folder = file.parent / f"seed_{seed}"
                run = row["seeds"].setdefault(str(seed), {})
                if args.table:
                    continue
                if VARIANTS[0] not in run:
                    folder.mkdir(parents=True, exist_ok=True)
                    train(study, seed, folder, args)
                    run |= measure(study, folder / "model.safetensors")
                    write_json(file, row)
                if args.reference and RECIPE not in run:
                    run[RECIPE] = by_recipe(study, seed, args)
                    write_json(file, row)
                print(study.name, "seed", seed, run, flush=True)
            rows.append(row)
    print("\n".join(table([row for row in rows if "baselines" in row], seeds)))


if __name__ == "__main__":
    main()
