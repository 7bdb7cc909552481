"""Datasets made for tests in each public dataset's exact layout: tiny, or as large as published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diffusionad.datasets import LAYOUTS, Counts

CATEGORIES = {
    "mvtec": "bottle", "visa": "candle", "visa_raw": "candle", "dagm": "Class3",
    "dagm_raw": "Class3", "mpdd": "tubes",
}  # fmt: skip
TINY = Counts(4, 2, 3)


class Writer:
    """Makes files below `root`: small images and masks, each a hard link to the first of its kind.

    Images are light, those of defective parts have a dark square where the mask has its defect.
    """

    def __init__(self, root: Path, size: int = 4) -> None:
        self.root = root
        self.size = size
        self._first: dict[str, Path] = {}
        self._folders: set[Path] = set()

    def good(self, name: str) -> None:
        self._file(name, "good", 200, 200)

    def bad(self, name: str) -> None:
        self._file(name, "bad", 200, 10)

    def mask(self, name: str, value: int = 255) -> None:
        self._file(name, f"mask {value}", 0, value)

    def text(self, name: str, content: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content, encoding="utf-8")

    def _file(self, name: str, what: str, outside: int, inside: int) -> None:
        path = self.root / name
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        key = what + path.suffix.lower()
        if key in self._first:
            os.link(self._first[key], path)
            return
        pixels = np.full((self.size, self.size), outside, np.uint8)
        pixels[: self.size // 2, : self.size // 2] = inside
        Image.fromarray(pixels).save(path)
        self._first[key] = path


def write(root: Path, layout: str, category: str, counts: Counts, size: int = 4) -> None:
    """Write one category in the layout of a public dataset."""
    writer = Writer(root, size)
    if layout == "dagm_raw":
        _dagm_raw(writer, category, counts)
    elif layout == "visa_raw":
        _visa_raw(writer, category, counts)
    else:
        _tree(writer, layout, category, counts)


def write_published(root: Path, layout: str) -> None:
    """Write every category of a public dataset with as many files as were published."""
    for category, (counts, *_) in LAYOUTS[layout].published.items():
        write(root, layout, category, counts)


def _tree(writer: Writer, layout: str, category: str, counts: Counts) -> None:
    """MVTec AD and MPDD (several defects, `_mask`), VisA prepared, DAGM converted (`_label`)."""
    top = f"1cls/{category}" if layout == "visa" else category
    image, mask = {"visa": (".JPG", ".png"), "dagm": (".PNG", "_label.PNG")}.get(
        layout, (".png", "_mask.png")
    )
    for number in range(counts.train):
        writer.good(f"{top}/train/good/{number:03}{image}")
    for number in range(counts.test_good):
        writer.good(f"{top}/test/good/{number:03}{image}")
    defects = ("bad",) if layout in ("visa", "dagm") else ("broken", "scratch")
    for index in range(counts.test_defective):
        defect, number = defects[index % len(defects)], index // len(defects)
        writer.bad(f"{top}/test/{defect}/{number:03}{image}")
        writer.mask(f"{top}/ground_truth/{defect}/{number:03}{mask}")


def _visa_raw(writer: Writer, category: str, counts: Counts) -> None:
    rows = []
    for number in range(counts.train + counts.test_good):
        name = f"{category}/Data/Images/Normal/{number:04}.JPG"
        writer.good(name)
        # The published split is drawn: every part holds numbers from everywhere.
        rows.append((number * 7 % 10, name, ""))
    rows.sort()
    normal = [
        f"{category},{'train' if index < counts.train else 'test'},normal,{name},{mask}"
        for index, (_, name, mask) in enumerate(rows)
    ]
    anomalous = []
    for number in range(counts.test_defective):
        name = f"{category}/Data/Images/Anomaly/{number:03}.JPG"
        mask = f"{category}/Data/Masks/Anomaly/{number:03}.png"
        writer.bad(name)
        writer.mask(mask, number % 3 + 1)
        anomalous.append(f"{category},test,anomaly,{name},{mask}")
    file = writer.root / "split_csv" / "1cls.csv"
    before = (
        file.read_text() if file.exists() else "object,split,label,image,mask\n"
    )  # one file for all categories
    writer.text("split_csv/1cls.csv", before + "\n".join([*normal, *anomalous]) + "\n")
    writer.text(f"{category}/image_anno.csv", "image,label,mask\n")


def _dagm_raw(writer: Writer, category: str, counts: Counts) -> None:
    """Test holds the first numbers, Train the others; every seventh or so is defective."""
    first = 1
    for half, good, bad in (
        ("Test", counts.test_good, counts.test_defective),
        ("Train", counts.train, counts.left_out),
    ):
        lines = ["1"]
        for number, defective in _mixed(first, good, bad):
            name = f"{category}/{half}/{number:04}.PNG"
            label = f"{number:04}_label.PNG" if defective else "0"
            if defective:
                writer.bad(name)
                writer.mask(f"{category}/{half}/Label/{label}")
            else:
                writer.good(name)
            lines.append(f"{number}\t{int(defective)}\t{number:04}.PNG\t0\t{label}")
        writer.text(f"{category}/{half}/Label/Labels.txt", "\n".join(lines) + "\n")
        first += good + bad


def _mixed(first: int, good: int, bad: int) -> Iterator[tuple[int, bool]]:
    total = good + bad
    for index in range(total):
        yield first + index, (index + 1) * bad // total > index * bad // total
