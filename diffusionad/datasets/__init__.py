"""Datasets on disk: one class, and a table that says how each layout is recognised and read.

samples.py holds the class, layouts.py the table, readers.py a function for each way to lay out
files, published.py the numbers of the public datasets, checking.py the comparison with them.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diffusionad.datasets.checking import Category, Finding, Report, check
from diffusionad.datasets.layouts import LAYOUTS, Layout, place_of, places
from diffusionad.datasets.published import Counts
from diffusionad.datasets.readers import Options
from diffusionad.datasets.samples import KINDS, Dataset, Sample, fingerprint
from diffusionad.errors import InputError
from diffusionad.files import PathLike, as_path
from diffusionad.images import naming_files
from diffusionad.seeds import Seed

__all__ = [
    "KINDS",
    "LAYOUTS",
    "Category",
    "Counts",
    "Dataset",
    "Finding",
    "Layout",
    "Report",
    "Sample",
    "bundled",
    "categories",
    "check",
    "fingerprint",
    "open",
]

log = logging.getLogger(__name__)


def open(
    path: PathLike,
    layout: str = "auto",
    category: str | None = None,
    *,
    kind: str | None = None,
    defective: PathLike | None = None,
    masks: PathLike | None = None,
    test_fraction: float = 0.2,
    seed: Seed = 0,
    resize_masks: bool = False,
) -> Dataset:
    """Open one category of a dataset, a plain folder of good images, or a table.

    `path` is the dataset's folder (with `category`), the category's own, or a CSV file with the
    columns path, label, and if wanted mask, split, category. layout="auto" recognises it. `kind`,
    "texture" or "object", is the layout's unless given. For plain folders: `defective` and `masks`
    name further folders, `test_fraction` of the good images is set aside for testing, drawn by
    `seed`; so it is for a table without the column split. A mask of another size than its image is
    refused, or resized by the nearest pixel with `resize_masks`.
    Raises InputError when something is missing; categories that exist are then named.

    >>> data = open(bundled().root / "train" / "good", test_fraction=0.25, seed=1)
    >>> data.layout, len(data.train), len(data.test)
    ('folder', 48, 16)
    >>> data.train[0].image.shape, data.train[0].label
    ((256, 256, 3), 0)
    """
    if kind not in (None, *KINDS):
        raise InputError(f"kind: expected {' or '.join(KINDS)}, got {kind!r}")
    if not 0.0 <= test_fraction < 1.0:
        raise InputError(f"test_fraction: expected 0 to less than 1, got {test_fraction}")
    place = place_of(as_path(path), layout, category)
    row = LAYOUTS[place.layout]
    for name, given in (("defective", defective), ("masks", masks)):
        if given is not None and place.layout != "folder":
            raise InputError(
                f"{name}: expected only with a folder of good images, "
                f"got the layout {place.layout} of {place.path}"
            )
    options = Options(
        category=place.category,
        defective=Path(defective) if defective is not None else None,
        masks=Path(masks) if masks is not None else None,
        test_fraction=test_fraction,
        seed=seed,
        resize_masks=resize_masks,
    )
    with naming_files():
        parts = row.read(place.path, options)
    if parts.missing:
        more = f" (and {len(parts.missing) - 1} more)" if len(parts.missing) > 1 else ""
        raise InputError(f"{parts.missing[0]}: no such file, though the table names it{more}")
    dataset = Dataset(
        root=place.path if place.path.is_dir() else place.path.parent,
        layout=place.layout,
        category=place.category,
        train=tuple(parts.train),
        test=tuple(parts.test),
        kind=kind or row.kind(place.category),
        left_out=tuple(parts.left_out),
    )
    if missing := dataset.without_mask:
        log.warning(
            "%s: %d defective image(s) have no mask (%s%s): they count for image metrics only",
            place.path, len(missing), missing[0].path.name, ", ..." if len(missing) > 1 else "",
        )  # fmt: skip
    return dataset


def bundled() -> Dataset:
    """The small real dataset that comes with the package: ball screws of BSData (CC BY-SA 4.0).

    >>> print(bundled())
    ball_screw (mvtec): 64 train, 30 test good, 42 test defective
    """
    return open(Path(__file__).parents[1] / "data" / "bsdata" / "ball_screw", layout="mvtec")


def categories(path: PathLike, layout: str = "auto") -> list[str]:
    """Names of a dataset's categories in natural order; of one category's folder its own name.

    Each can be given to open(). Raises InputError where there is none.

    >>> categories(bundled().root.parent)
    ['ball_screw']
    """
    return list(places(as_path(path), layout))
