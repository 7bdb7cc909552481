"""One image of a dataset, one category of it, and the fingerprint by which data is recognised."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from diffusionad.errors import InputError
from diffusionad.files import reason
from diffusionad.images import Bytes, Mask, image_size, read_image, read_mask

KINDS = ("texture", "object")


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
        """Whether it is known where the defects are, as it always is for a good image."""
        return self.label == 0 or self.mask_path is not None

    @property
    def mask(self) -> Mask | None:
        """Defect pixels, bool [H, W]; all False for a good image, None where no mask exists.

        Raises InputError if the file cannot be read or has another size than the image.
        """
        if self.mask_path is not None:
            return read_mask(self.mask_path, image_size(self.path), resize=self.resize_mask)
        return np.zeros(image_size(self.path), np.bool_) if self.label == 0 else None


@dataclass(frozen=True)
class Dataset:
    """One category: good images to train on, and good and defective ones to test on.

    `kind` is "texture" (the part fills the image) or "object". `left_out` holds what the layout's
    convention uses for neither: the defective images of DAGM's training half.
    """

    root: Path
    layout: str
    category: str
    train: Sequence[Sample]
    test: Sequence[Sample]
    kind: str = "object"
    left_out: Sequence[Sample] = ()

    def __str__(self) -> str:
        good = sum(sample.label == 0 for sample in self.test)
        text = (
            f"{self.category} ({self.layout}): {len(self.train)} train, "
            f"{good} test good, {len(self.test) - good} test defective"
        )
        return f"{text}, {len(self.left_out)} left out" if self.left_out else text

    @property
    def without_mask(self) -> list[Sample]:
        """Defective images without a mask, which count for image metrics only."""
        return [sample for sample in self.test if not sample.has_mask]

    def files(self) -> list[Path]:
        """All images and masks, those that are left out too."""
        return _files_of((*self.train, *self.test, *self.left_out))

    def fingerprint(self, *, train_only: bool = False) -> str:
        """SHA-256 over name, size and content of every file of the dataset, names sorted.

        Names are relative to the dataset, so that a copy elsewhere has the same fingerprint.
        """
        samples = self.train if train_only else (*self.train, *self.test)
        return fingerprint(_files_of(samples), self.root)


def _files_of(samples: Sequence[Sample]) -> list[Path]:
    masks = [sample.mask_path for sample in samples if sample.mask_path is not None]
    return [*(sample.path for sample in samples), *masks]


def fingerprint(files: Iterable[Path], root: Path, *, in_order: bool = False) -> str:
    """SHA-256 over (relative name, size, content hash) of files, each once and sorted by name.

    With `in_order` as they are given.
    """
    import hashlib

    named = [(relative_name(file, root), file) for file in (files if in_order else set(files))]
    if not in_order:
        named.sort()
    total = hashlib.sha256()
    for name, file in named:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {reason(error)}") from error
        digest = hashlib.sha256(content).hexdigest()
        total.update(os.fsencode(f"{name}\0{len(content)}\0{digest}\n"))
    return total.hexdigest()


def size_fingerprint(named: Iterable[tuple[PurePath | str, Path]]) -> str:
    """SHA-256 over (name, size) of files, in this order: quick, however large they are."""
    import hashlib

    total = hashlib.sha256()
    for name, file in named:
        try:
            size = file.stat().st_size
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {reason(error)}") from error
        total.update(os.fsencode(f"{name}\0{size}\n"))
    return total.hexdigest()


def relative_name(file: Path, root: Path) -> str:
    """A file's name below `root`, with slashes; elsewhere its folder's name and its own.

    The file keeps the name that it is given, whatever it links to; links among its folders are
    followed only where it does not lie below `root` otherwise.
    """
    given = Path(os.path.abspath(file))
    with contextlib.suppress(ValueError):
        return given.relative_to(os.path.abspath(root)).as_posix()
    with contextlib.suppress(ValueError):
        return (file.parent.resolve() / given.name).relative_to(root.resolve()).as_posix()
    return f"{given.parent.name}/{given.name}"
