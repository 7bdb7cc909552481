"""Datasets on disk: one class, and a table that says how each layout is recognised and read.

A new layout is a row of LAYOUTS: whether a folder is one category of it, and a function from that
folder to its train and test samples. Layouts that keep `train/good`, `test/<defect>` and
`ground_truth/<defect>` share `_read_tree`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusionad.errors import InputError
from diffusionad.files import PathLike, reason
from diffusionad.images import (
    Bytes,
    Mask,
    image_size,
    is_image_name,
    list_images,
    natural_key,
    read_image,
    read_mask,
    require_folder,
)

log = logging.getLogger(__name__)

GOOD = ("good", "ok")
DEFECTIVE_FOLDERS = ("defective", "defect", "bad", "anomaly")
MASK_FOLDERS = ("masks", "ground_truth")
MASK_ENDINGS = ("_mask", "", "_label")


@dataclass(frozen=True)
class Sample:
    """One image of a dataset; pixels are read from disk each time they are asked for."""

    path: Path
    label: int  # 0 good, 1 defective
    defect: str = "good"
    mask_path: Path | None = None
    resize_mask: bool = False

    @property
    def image(self) -> Bytes:
        """RGB uint8 [H, W, 3] at native size. Raises InputError if the file cannot be read."""
        return read_image(self.path)

    @property
    def has_mask(self) -> bool:
        """Whether it is known where the defects are: always for a good image."""
        return self.label == 0 or self.mask_path is not None

    @property
    def mask(self) -> Mask | None:
        """Defect pixels, bool [H, W]: all False for a good image, None where no mask exists.

        Raises InputError if the file cannot be read or has another size than the image.
        """
        if self.mask_path is not None:
            return read_mask(self.mask_path, image_size(self.path), resize=self.resize_mask)
        return np.zeros(image_size(self.path), np.bool_) if self.label == 0 else None


@dataclass(frozen=True)
class Dataset:
    """One category: good images to train on, and good and defective ones to test on."""

    root: Path
    layout: str
    category: str
    train: Sequence[Sample]
    test: Sequence[Sample]

    def __str__(self) -> str:
        good = sum(sample.label == 0 for sample in self.test)
        return (
            f"{self.category} ({self.layout}): {len(self.train)} train, "
            f"{good} test good, {len(self.test) - good} test defective"
        )

    @property
    def without_mask(self) -> list[Sample]:
        """Defective images without a mask: they count for image metrics only."""
        return [sample for sample in self.test if not sample.has_mask]

    def fingerprint(self, *, train_only: bool = False) -> str:
        """SHA-256 over name, size and content of every file of the dataset, names sorted.

        Names are relative to the dataset, so that a copy elsewhere has the same fingerprint.
        """
        samples = [*self.train] if train_only else [*self.train, *self.test]
        files = {sample.path for sample in samples}
        files |= {sample.mask_path for sample in samples if sample.mask_path is not None}
        return fingerprint(files, self.root)


def fingerprint(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over (relative name, size, content hash) of files, sorted by name."""
    named = sorted((_relative(file, root), file) for file in set(files))
    total = hashlib.sha256()
    for name, file in named:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {reason(error)}") from error
        digest = hashlib.sha256(content).hexdigest()
        total.update(os.fsencode(f"{name}\0{len(content)}\0{digest}\n"))
    return total.hexdigest()


# Train samples and test samples of one category folder.
Split = tuple[list[Sample], list[Sample]]


@dataclass(frozen=True)
class Options:
    """What the caller may say about a dataset beyond its path; each layout takes what it needs."""

    defective: Path | None = None
    masks: Path | None = None
    test_fraction: float = 0.2
    seed: int = 0
    resize_masks: bool = False


@dataclass(frozen=True)
class Layout:
    """A row of the table: how a category of this layout is recognised and read."""

    about: str
    is_category: Callable[[Path], bool]
    read: Callable[[Path, Options], Split]


def open(
    path: PathLike,
    layout: str = "auto",
    category: str | None = None,
    *,
    defective: PathLike | None = None,
    masks: PathLike | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    resize_masks: bool = False,
) -> Dataset:
    """Open one category of a dataset, or a plain folder of good images.

    `path` is the dataset's folder (with `category`) or the category's own. layout="auto"
    recognises it. For plain folders: `defective` and `masks` name further folders,
    `test_fraction` of the good images is set aside for testing, drawn by `seed`. A mask of
    another size than its image is refused, or resized by the nearest pixel with `resize_masks`.
    Raises InputError when something is missing; categories that exist are then named.
    """
    root = Path(path)
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"layout: no {layout!r}; there are: auto, {', '.join(LAYOUTS)}")
    if not 0.0 <= test_fraction < 1.0:
        raise InputError(f"test_fraction: expected 0 to less than 1, got {test_fraction}")
    require_folder(root)
    layouts = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    folder = _find_category(root, category, layouts)
    name, row = next((n, row) for n, row in layouts.items() if row.is_category(folder))
    options = Options(
        defective=Path(defective) if defective is not None else None,
        masks=Path(masks) if masks is not None else None,
        test_fraction=test_fraction,
        seed=seed,
        resize_masks=resize_masks,
    )
    train, test = row.read(folder, options)
    dataset = Dataset(folder, name, category or folder.resolve().name, tuple(train), tuple(test))
    if missing := dataset.without_mask:
        log.warning(
            "%s: %d defective image(s) have no mask (%s%s): they count for image metrics only",
            folder, len(missing), missing[0].path.name, ", ..." if len(missing) > 1 else "",
        )  # fmt: skip
    return dataset


def bundled() -> Dataset:
    """The small real dataset that comes with the package: ball screws of BSData (CC BY-SA 4.0)."""
    return open(Path(__file__).parent / "data" / "bsdata" / "ball_screw", layout="mvtec")


def categories(path: PathLike, layout: str = "auto") -> list[str]:
    """Names of the categories inside a dataset's folder, in natural order."""
    root = Path(path)
    require_folder(root)
    layouts = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    return _categories_inside(root, layouts)


# ---- finding the category's folder ------------------------------------------------------------


def _find_category(root: Path, category: str | None, layouts: Mapping[str, Layout]) -> Path:
    def fits(folder: Path) -> bool:
        return any(row.is_category(folder) for row in layouts.values())

    if category is not None:
        inside = root / category
        if category not in ("", ".", "..") and inside.is_dir():
            if fits(inside):
                return inside
            raise InputError(f"{inside}: not {_expected(layouts)}")
        if root.resolve().name == category and fits(root):
            return root
        found = _categories_inside(root, layouts)
        there_are = f"there are: {', '.join(found)}" if found else "there is none in this folder"
        raise InputError(f"{root}: no category {category!r}; {there_are}")
    if fits(root):
        return root
    found = _categories_inside(root, layouts)
    if len(found) == 1:
        return root / found[0]
    if found:
        raise InputError(f"{root}: choose a category; there are: {', '.join(found)}")
    if not any(root.iterdir()):
        raise InputError(f"{root}: the folder is empty")
    raise InputError(f"{root}: not {_expected(layouts)}")


def _expected(layouts: Mapping[str, Layout]) -> str:
    return " and not ".join(f"{row.about} ({name})" for name, row in layouts.items())


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    entries = (e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    return sorted(entries, key=natural_key)


def _categories_inside(root: Path, layouts: Mapping[str, Layout]) -> list[str]:
    # A folder of images is a category of any dataset only where nothing tells more.
    rows = [row for name, row in layouts.items() if name != "folder" or len(layouts) == 1]
    folders = _subfolders(root)
    return [folder.name for folder in folders if any(row.is_category(folder) for row in rows)]


# ---- masks ------------------------------------------------------------------------------------


def _masks_by_stem(folder: Path | None) -> dict[str, Path]:
    if folder is None or not folder.is_dir():
        return {}
    return {path.stem: path for path in list_images(folder)}


def _defective(
    images: Iterable[Path], defect: str, masks: Mapping[str, Path], options: Options
) -> list[Sample]:
    samples = []
    for path in images:
        names = (path.stem + ending for ending in MASK_ENDINGS)
        mask = next((masks[name] for name in names if name in masks), None)
        samples.append(Sample(path, 1, defect, mask, options.resize_masks))
    return samples


# ---- train/good, test/<defect>, ground_truth/<defect> -----------------------------------------


def _good_folder(folder: Path) -> Path | None:
    return next((folder / name for name in GOOD if (folder / name).is_dir()), None)


def _is_tree(folder: Path) -> bool:
    return _good_folder(folder / "train") is not None


def _read_tree(folder: Path, options: Options) -> Split:
    good = _good_folder(folder / "train")
    if good is None:
        raise InputError(f"{folder}: no train/good folder in it")
    train = [Sample(path, 0) for path in list_images(good)]
    if not train:
        raise InputError(f"{good}: no images in this folder")
    test: list[Sample] = []
    for part in _subfolders(folder / "test"):
        images = list_images(part)
        if part.name in GOOD:
            test += [Sample(path, 0) for path in images]
        else:
            masks = _masks_by_stem(folder / "ground_truth" / part.name)
            test += _defective(images, part.name, masks, options)
    return train, test


# ---- a plain folder of good images ------------------------------------------------------------


def _is_plain(folder: Path) -> bool:
    good = _good_folder(folder) or folder
    return any(is_image_name(entry) for entry in good.iterdir())


def _read_plain(folder: Path, options: Options) -> Split:
    inside = _good_folder(folder)
    images = list_images(inside or folder)
    if not images:
        raise InputError(f"{inside or folder}: no images in this folder")
    train, test = _split(images, options)

    def chosen(given: Path | None, names: Sequence[str]) -> Path | None:
        if given is not None:
            require_folder(given)
            return given
        # Beside good images, folders of these names belong to the set; inside them nothing does.
        found = (folder / name for name in names if inside is not None)
        return next((path for path in found if path.is_dir()), None)

    masks = _masks_by_stem(chosen(options.masks, MASK_FOLDERS))
    defective = chosen(options.defective, DEFECTIVE_FOLDERS)
    if defective is not None:
        found = list_images(defective)
        if not found:
            raise InputError(f"{defective}: no images in this folder")
        test += _defective(found, "defective", masks, options)
    return train, test


def _split(images: list[Path], options: Options) -> Split:
    """Set aside a part of the good images; at least one stays for training."""
    count = min(round(len(images) * options.test_fraction), len(images) - 1)
    aside = set(np.random.default_rng(options.seed).permutation(len(images))[:count].tolist())
    samples = [Sample(path, 0) for path in images]
    return (
        [sample for index, sample in enumerate(samples) if index not in aside],
        [sample for index, sample in enumerate(samples) if index in aside],
    )


def _relative(file: Path, root: Path) -> str:
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return f"{file.resolve().parent.name}/{file.name}"


LAYOUTS: Mapping[str, Layout] = {
    "mvtec": Layout("a category with train/good", _is_tree, _read_tree),
    "folder": Layout("a folder of images", _is_plain, _read_plain),
}
