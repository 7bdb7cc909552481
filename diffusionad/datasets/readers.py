"""From one category on the disk to its samples: a function for each way to lay out files.

Trees are `train/good`, `test/<defect>`, `ground_truth/<defect>`. Tables are CSV files with a row
for each image. Nothing here opens an image; hidden files and what is no image is passed over.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffusionad.datasets.samples import Sample, relative_name
from diffusionad.errors import InputError
from diffusionad.files import reason
from diffusionad.images import is_image_name, list_images, natural_key, require_folder
from diffusionad.seeds import Seed, number

GOOD = ("good", "ok")
GOOD_LABELS = (*GOOD, "normal", "0", "false")
UNNAMED_DEFECT = "defective"
UNNAMED_LABELS = ("1", "true")
DEFECTIVE_FOLDERS = (UNNAMED_DEFECT, "defect", "bad", "anomaly", "ng", "nok")
MASK_FOLDERS = ("masks", "ground_truth")
MASK_ENDINGS = ("_mask", "", "_label")
SPLIT_FILE = Path("split_csv", "1cls.csv")
COLUMNS = {"image": "path", "object": "category"}  # VisA's names of the table's columns
NEEDED = {"path", "label", "category", "split"}  # of every row, where the table has them


@dataclass(frozen=True)
class Options:
    """What the caller may say about a dataset beyond its path; each layout takes what it needs."""

    category: str | None = None
    defective: Path | None = None
    masks: Path | None = None
    test_fraction: float = 0.2
    seed: Seed = 0
    resize_masks: bool = False


@dataclass
class Parts:
    """What a category holds, and which images and masks (by image) a table names in vain."""

    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    left_out: list[Sample] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    missing_masks: dict[Path, Path] = field(default_factory=dict)


def subfolders(folder: Path) -> list[Path]:
    """Folders inside a folder in natural order, without hidden ones; none where it is not there."""
    if not folder.is_dir():
        return []
    try:
        entries = [e for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot read this folder: {reason(error)}") from error
    return sorted(entries, key=natural_key)


def _has_images(folder: Path) -> bool:
    try:
        return any(is_image_name(entry) for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot read this folder: {reason(error)}") from error


def own_name(folder: Path) -> str:
    """A folder's name as it was given; of "." and ".." the one that they stand for."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


# ---- train/good, test/<defect>, ground_truth/<defect> -----------------------------------------


def is_tree(folder: Path) -> bool:
    return _good_folder(folder / "train") is not None


def read_tree(folder: Path, options: Options) -> Parts:
    """Masks are `<stem>_mask`, `<stem>` or `<stem>_label`, with any extension."""
    good = _good_folder(folder / "train")
    if good is None:
        raise InputError(f"{folder}: no train/good folder in it")
    parts = Parts(train=_good(_some_images(good)))
    for part in subfolders(folder / "test"):
        images = list_images(part)
        if part.name.casefold() in GOOD:
            parts.test += _good(images)
        else:
            masks = _masks_by_stem(folder / "ground_truth" / part.name)
            parts.test += _defective(images, part.name, masks, options)
    return parts


def _good_folder(folder: Path) -> Path | None:
    named = {part.name.casefold(): part for part in subfolders(folder)}
    return next((named[name] for name in GOOD if name in named), None)


def _some_images(folder: Path) -> list[Path]:
    images = list_images(folder)
    if not images:
        raise InputError(f"{folder}: no images in this folder")
    return images


def _good(images: Iterable[Path]) -> list[Sample]:
    return [Sample(path, 0) for path in images]


def _masks_by_stem(folder: Path | None) -> dict[str, Path]:
    if folder is None or not folder.is_dir():
        return {}
    paths = list_images(folder)
    return {path.stem.casefold(): path for path in paths} | {path.stem: path for path in paths}


def _defective(
    images: Iterable[Path], defect: str, masks: Mapping[str, Path], options: Options
) -> list[Sample]:
    samples = []
    for path in images:
        names = [path.stem + ending for ending in MASK_ENDINGS]
        names += [name.casefold() for name in names]
        mask = next((masks[name] for name in names if name in masks), None)
        samples.append(Sample(path, 1, defect, mask, options.resize_masks))
    return samples


# ---- DAGM 2007 as it was released: {Train,Test}/NNNN.PNG, {Train,Test}/Label/NNNN_label.PNG ----


def is_dagm_raw(folder: Path) -> bool:
    train = _dagm_folder(folder) / "Train"
    return train.is_dir() and _has_images(train)


def read_dagm_raw(folder: Path, options: Options) -> Parts:
    """Train on the good images of Train, test on all of Test; the other defective are left out."""
    inside = _dagm_folder(folder)
    train = _read_half(inside / "Train", options)
    parts = Parts(
        train=[sample for sample in train if sample.label == 0],
        test=_read_half(inside / "Test", options) if (inside / "Test").is_dir() else [],
        left_out=[sample for sample in train if sample.label == 1],
    )
    if not parts.train:
        raise InputError(f"{inside / 'Train'}: no good images in this folder")
    return parts


def _dagm_folder(folder: Path) -> Path:
    """Some archives unpack to Class1/Class1/Train."""
    inside = folder / own_name(folder)
    return inside if (inside / "Train").is_dir() else folder


def _read_half(folder: Path, options: Options) -> list[Sample]:
    """Defective is what has a mask, or is so called in Labels.txt.

    Raises InputError where neither says of any image that it is: all would be taken for good.
    """
    labels = folder / "Label"
    if not labels.is_dir():
        raise InputError(f"{labels}: no such folder, so which images are defective is not known")
    masks = _masks_by_stem(labels)
    named = _names_in_labels(labels / "Labels.txt")
    samples = []
    for path in list_images(folder):
        [sample] = _defective([path], UNNAMED_DEFECT, masks, options)
        bad = sample.mask_path is not None or path.name.casefold() in named
        samples.append(sample if bad else Sample(path, 0))
    if not (labels / "Labels.txt").is_file() and not any(sample.label for sample in samples):
        raise InputError(
            f"{labels}: no Labels.txt and no mask <image>_label of any image, "
            "so which images are defective is not known"
        )
    return samples


def _names_in_labels(file: Path) -> set[str]:
    """Images that Labels.txt calls defective: number, 0 or 1, image, number, mask or 0."""
    if not file.is_file():
        return set()
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error
    rows = (line.split() for line in lines[1:])
    return {row[2].casefold() for row in rows if len(row) >= 3 and row[1] == "1"}


# ---- VisA as it was released: Data/Images, Data/Masks and a split file beside the categories ----


def is_visa_raw(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


def read_visa_raw(folder: Path, options: Options) -> Parts:
    """The rows of split_csv/1cls.csv that are about this category."""
    name = own_name(folder)
    root = folder.parent if folder.name == name else folder.resolve().parent
    file = root / SPLIT_FILE
    if not file.is_file():
        raise InputError(f"{file}: no such file; VisA's raw release says there what to train on")
    return _read_rows(file, root, name, options)


# ---- a table: path, label, mask, split ---------------------------------------------------------


def is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv")


def read_table(file: Path, options: Options) -> Parts:
    """Columns path and label, and if wanted mask, split, category; paths from the table's folder.

    A label is good, ok, normal or 0; 1; or the name of a defect. A split is train or test; without
    that column good images are set aside as they are from a folder.
    """
    wanted = None if table_categories(file) == [file.stem] else options.category
    return _read_rows(file, file.parent, wanted, options)


def table_categories(file: Path) -> list[str]:
    """Values of the column `category`, in natural order; without it the file's own name."""
    names = {row["category"] for _, row in _rows(file) if row.get("category")}
    return sorted(names, key=lambda name: natural_key(Path(name))) or [file.stem]


def _read_rows(file: Path, root: Path, category: str | None, options: Options) -> Parts:
    parts = Parts()
    good: list[Sample] = []  # where no column says what to train on
    seen: dict[Path, int] = {}
    for line, row in _rows(file):
        where = f"{file} line {line}"
        if row.get("category") == "":
            raise InputError(f"{where}: category: expected a value, got none")
        if category is not None and row.get("category") != category:
            continue
        sample = _sample_of(row, root, where, options, parts)
        first = seen.setdefault(sample.path, line)
        if first != line:
            raise InputError(f"{where}: {row['path']} is in line {first} already")
        if not sample.path.is_file():
            parts.missing.append(sample.path)
        split = row.get("split")
        if split is None and sample.label == 0:
            good.append(sample)
        elif split in (None, "test"):
            parts.test.append(sample)
        elif split != "train":
            raise InputError(f"{where}: split: expected train or test, got {split!r}")
        elif sample.label == 1:
            raise InputError(f"{where}: a defective image cannot be trained on")
        else:
            parts.train.append(sample)
    for samples in (good, parts.train, parts.test):
        samples.sort(key=lambda sample: natural_key(Path(os.path.abspath(sample.path))))
    if good:
        kept, aside = _set_aside(good, root, options)
        parts.train += kept
        parts.test = aside + parts.test
    if not parts.train:
        of = f" of {category!r}" if category is not None else ""
        raise InputError(f"{file}: no good images{of} to train on")
    return parts


def _sample_of(
    row: Mapping[str, str], root: Path, where: str, options: Options, parts: Parts
) -> Sample:
    for column in ("path", "label"):
        if not row.get(column):
            raise InputError(f"{where}: {column}: expected a value, got none")
    label = row["label"]
    path = root / row["path"]
    mask = root / row["mask"] if row.get("mask") else None
    if mask is not None and not mask.is_file():
        parts.missing_masks[path] = mask
        mask = None
    if label.casefold() in GOOD_LABELS:
        return Sample(path, 0, "good", mask, options.resize_masks)
    defect = UNNAMED_DEFECT if label.casefold() in UNNAMED_LABELS else label
    return Sample(path, 1, defect, mask, options.resize_masks)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column) of a CSV file with a header; commas, semicolons or tabs between.

    Raises InputError for a row with fewer or more values than there are columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            separator = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=separator), [])
            columns = [COLUMNS.get(name, name) for name in (n.strip().casefold() for n in names)]
            for column in ("path", "label"):
                if columns.count(column) != 1:
                    found = ", ".join(filter(None, columns)) or "nothing"
                    raise InputError(f"{file}: expected a column {column!r}, got {found}")
            table = csv.reader(stream, delimiter=separator)
            for values in table:
                cells = [value.strip() for value in values]
                if not any(cells):
                    continue
                line = table.line_num + 1
                while len(cells) > len(columns) and not cells[-1]:
                    cells.pop()
                if NEEDED.isdisjoint(columns[len(cells) :]):
                    cells += [""] * (len(columns) - len(cells))
                if len(cells) != len(columns):
                    wanted = f"expected {len(columns)} values ({', '.join(columns)})"
                    raise InputError(f"{file} line {line}: {wanted}, got {len(cells)}")
                yield line, dict(zip(columns, cells, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error


# ---- a plain folder of good images ------------------------------------------------------------


def is_plain(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return _has_images(_good_folder(folder) or folder)


def read_plain(folder: Path, options: Options) -> Parts:
    inside = _good_folder(folder)
    images = inside or folder
    parts = Parts(*_set_aside(_good(_some_images(images)), images, options))
    beside: dict[str, Path] = {}
    if inside is not None:
        beside = {path.name.casefold(): path for path in folder.iterdir() if path.is_dir()}

    def chosen(given: Path | None, names: Sequence[str]) -> Path | None:
        if given is not None:
            require_folder(given)
            return given
        # Beside good images, folders of these names belong to the set; inside them nothing does.
        return next((beside[name] for name in names if name in beside), None)

    masks = _masks_by_stem(chosen(options.masks, MASK_FOLDERS))
    defective = chosen(options.defective, DEFECTIVE_FOLDERS)
    if defective is not None:
        parts.test += _defective(_some_images(defective), UNNAMED_DEFECT, masks, options)
    return parts


def _set_aside(
    samples: list[Sample], root: Path, options: Options
) -> tuple[list[Sample], list[Sample]]:
    """Keep a part of the good images for testing; at least one stays for training.

    Those whose names, hashed with the seed, come first: one more image moves at most one other.
    """
    import hashlib

    count = min(round(len(samples) * options.test_fraction), len(samples) - 1)
    if count <= 0:
        return samples, []
    seed = number(options.seed)

    def drawn(sample: Sample) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}\0{relative_name(sample.path, root)}")).digest()

    aside = {sample.path for sample in sorted(samples, key=drawn)[:count]}
    return (
        [sample for sample in samples if sample.path not in aside],
        [sample for sample in samples if sample.path in aside],
    )
