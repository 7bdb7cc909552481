"""What a training of some minutes is worth: all categories of some datasets, several seeds.

    python benchmarks/quality.py OUT DATA [DATA ...] --time-budget 5m --seeds 0,1,2

Every model is made by the command `diffusionad train`, whose wall clock the budget is, and then
measured on the whole test part four times: as it is; without norm guidance; with the image in
place of its repair, which shows what the repair is worth; and with test images whose brightness is
that of the training images, which takes a shortcut away. Beside that stand two baselines without
any training. Called again, it goes on from what lies in OUT; `--table` only prints.
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
from diffusionad import _core, metrics
from diffusionad.denoising import Repair
from diffusionad.files import write_json
from diffusionad.images import resize, to_network

Floats = npt.NDArray[np.float32]
Row = dict[str, Any]

METRICS = ("image_auroc", "pixel_auroc", "aupro")
VARIANTS = ("as it is", "one-step", "input for repair", "brightness matched")
BASELINES = ("nearest image", "mean grey", "nearest image, matched", "mean grey, matched")
SMALL = 64  # pixels a side, for the baselines
NORMALITY_IMAGES = 128


class Study:
    """One category: its images at the networks' size, and what needs no training."""

    def __init__(self, root: Path, name: str, category: str) -> None:
        self.root, self.name, self.category = root, name, category
        self.data = dad.datasets.open(root, category=category)

    def images(self, size: int) -> tuple[Floats, Floats]:
        """Of training and test, float32 (N, 3, size, size)."""
        train, test = (
            to_network([sample.path for sample in part], size)
            for part in (self.data.train, self.data.test)
        )
        return train, test

    def labels(self) -> npt.NDArray[np.bool_]:
        return np.array([sample.label for sample in self.data.test], np.bool_)

    def masks(self, size: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Masks (N, size, size), and which test images have one that can be trusted."""
        found = np.zeros((len(self.data.test), size, size), np.bool_)
        known = np.ones(len(found), np.bool_)
        for index, sample in enumerate(self.data.test):
            if sample.mask is not None:
                found[index] = resize(sample.mask * np.uint8(255), size, size) >= 128
            elif sample.label:
                known[index] = False
        return found, known

    def baselines(self) -> Row:
        train, test = self.images(SMALL)
        row: Row = {}
        for suffix, shown in (("", test), (", matched", matched(test, train))):
            far = _core.nearest_distance(train.reshape(len(train), -1), flat(shown))
            grey = metrics.auroc(self.labels(), shown.mean(axis=(1, 2, 3)))
            row[f"nearest image{suffix}"] = float(metrics.auroc(self.labels(), far))
            row[f"mean grey{suffix}"] = float(max(grey, 1 - grey))
        return row


def flat(images: Floats) -> Floats:
    return np.ascontiguousarray(images.reshape(len(images), -1))


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
    size = model.config.image_size
    images, test = study.images(size)
    masks, known = study.masks(size)
    good = images[np.linspace(0, len(images) - 1, NORMALITY_IMAGES).astype(int)]

    def found(shown: Floats) -> dict[str, float]:
        maps = np.concatenate(
            [model.predict(shown[i : i + 64]).maps for i in range(0, len(shown), 64)]
        )
        scores = metrics.image_scores(maps, top_k=model.config.top_k)
        return {
            "image_auroc": float(metrics.auroc(study.labels(), scores)),
            "pixel_auroc": float(metrics.auroc(masks[known].ravel(), maps[known].ravel())),
            "aupro": float(metrics.aupro(masks[known], maps[known])),
        }

    row: Row = {"as it is": found(test), "brightness matched": found(matched(test, images))}
    row["steps"] = model.provenance["train_steps"]
    row["seconds"] = model.provenance["train_seconds"]
    relative = model.normality is not None
    model.set_params(mode="one_step")
    if relative:
        model.measure_normality(good)
    row["one-step"] = found(test)
    model = dad.load(path)
    model._repair = lambda x0: Repair(x0=x0, x_s=x0)  # type: ignore[method-assign]
    if relative:
        model.measure_normality(good)
    row["input for repair"] = found(test)
    return row


def table(rows: Sequence[Row], seeds: Sequence[int]) -> Iterator[str]:
    """Markdown: mean over seeds, and largest less smallest in brackets."""
    yield f"| | {' | '.join(('image AUROC', 'pixel AUROC', 'AUPRO', 'steps'))} |"
    yield "|---|---|---|---|---|"
    for row in rows:
        runs = [row["seeds"][str(seed)] for seed in seeds if str(seed) in row["seeds"]]
        steps = ", ".join(str(run["steps"]) for run in runs)
        for variant in VARIANTS:
            if not runs:
                break
            cells = []
            for metric in METRICS:
                values = [run[variant][metric] for run in runs]
                spread = max(values) - min(values)
                cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
            shown = steps if variant == VARIANTS[0] else ""
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
            if "baselines" not in row and not args.table:
                row["baselines"] = study.baselines()
            for seed in seeds:
                folder = file.parent / f"seed_{seed}"
                if args.table or str(seed) in row["seeds"]:
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                train(study, seed, folder, args)
                row["seeds"][str(seed)] = measure(study, folder / "model.safetensors")
                write_json(file, row)
                print(study.name, "seed", seed, row["seeds"][str(seed)], flush=True)
            rows.append(row)
    print("\n".join(table([row for row in rows if "baselines" in row], seeds)))


if __name__ == "__main__":
    main()
