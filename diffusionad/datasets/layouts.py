"""The table of layouts: how each is recognised and read, what was published of it, what is texture.

A new layout is a row of LAYOUTS, with a reader in readers.py and, for a public dataset, its numbers
in published.py. A category's place is its folder; that of a table is the file itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusionad.datasets import published, readers
from diffusionad.datasets.published import Counts, Published
from diffusionad.datasets.readers import Options, Parts, own_name, subfolders
from diffusionad.errors import InputError
from diffusionad.images import naming_files, natural_key, require_folder

log = logging.getLogger(__name__)

TREE = "a category with train/good"


@dataclass(frozen=True)
class Layout:
    """A row of the table.

    `by_name`: only a category of a published name is recognised, because other layouts look the
    same. `inside`: a folder that may lie between the dataset's folder and its categories.
    """

    dataset: str
    about: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Options], Parts]
    published: Published = field(default_factory=dict)
    textures: frozenset[str] = frozenset()
    by_name: bool = False
    inside: str | None = None

    def counts(self, category: str) -> tuple[Counts, ...]:
        """The published numbers that a category may have; empty for one of another name."""
        return self.published.get(category, ())

    def kind(self, category: str) -> str:
        """Whether a category is a "texture" or an "object"."""
        return "texture" if category in self.textures else "object"

    def recognises(self, place: Path) -> bool:
        """Whether a place is one category of this layout and hardly one of another."""
        named = own_name(place) in self.published or place.parent.name == self.inside
        return (named or not self.by_name) and self.fits(place)


LAYOUTS: Mapping[str, Layout] = {
    "mvtec": Layout(
        "MVTec AD", TREE, readers.is_tree, readers.read_tree, published.MVTEC,
        # The reference treats zipper as a texture too.
        textures=frozenset({"carpet", "grid", "leather", "tile", "wood", "zipper"}),
    ),
    "visa": Layout(
        "VisA (prepared)", TREE, readers.is_tree, readers.read_tree, published.VISA,
        by_name=True, inside="1cls",
    ),
    "visa_raw": Layout(
        "VisA", "a category with Data/Images", readers.is_visa_raw, readers.read_visa_raw,
        published.VISA,
    ),
    "dagm": Layout(
        "DAGM 2007 (converted)", TREE, readers.is_tree, readers.read_tree, published.DAGM,
        textures=frozenset(published.DAGM), by_name=True,
    ),
    "dagm_raw": Layout(
        "DAGM 2007", "a class with images in Train", readers.is_dagm_raw, readers.read_dagm_raw,
        published.DAGM_RAW, textures=frozenset(published.DAGM_RAW),
    ),
    "mpdd": Layout(
        "MPDD", TREE, readers.is_tree, readers.read_tree, published.MPDD, by_name=True
    ),
    "folder": Layout("", "a folder of images", readers.is_plain, readers.read_plain),
    "table": Layout("", "a CSV file", readers.is_table, readers.read_table),
}  # fmt: skip
# Those that a name decides are tried first.
RECOGNISED = sorted(LAYOUTS, key=lambda name: not LAYOUTS[name].by_name)


@dataclass(frozen=True)
class Place:
    """Where a category lies, and the layout under which it is read."""

    path: Path
    layout: str
    category: str


def check_layout(layout: str) -> None:
    """Raise InputError unless a layout of that name exists, or it is "auto"."""
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"layout: no {layout!r}; there are: auto, {', '.join(LAYOUTS)}")


@naming_files()
def recognise(place: Path, layout: str = "auto") -> str | None:
    """The layout of which a folder or file is one category; None where it is of none."""
    if layout != "auto":
        return layout if LAYOUTS[layout].fits(place) else None
    return next((name for name in RECOGNISED if LAYOUTS[name].recognises(place)), None)


def is_one_category(root: Path, layout: str) -> bool:
    """Whether a dataset's path is a category itself and holds no others."""
    found = recognise(root, layout)
    # Pictures beside the categories of a dataset do not make it a folder of good images.
    return found is not None and not (
        layout == "auto" and found == "folder" and places_inside(root, layout)
    )


def places_inside(root: Path, layout: str) -> dict[str, Place]:
    """The categories inside a dataset's folder by name, in natural order."""
    found: dict[str, Place] = {}
    for folder in (folder for base in _bases(root, layout) for folder in subfolders(base)):
        try:
            name = recognise(folder, layout)
        except InputError:
            try:
                next(folder.iterdir(), None)
            except OSError:  # as lost+found
                log.warning("%s: passed over, it may not be looked into", folder)
                continue
            raise
        # A folder of images is a category of any dataset only where that is asked for.
        if name is not None and (name != "folder" or layout == name):
            found.setdefault(folder.name, Place(folder, name, folder.name))
    return {name: found[name] for name in sorted(found, key=lambda name: natural_key(Path(name)))}


@naming_files()
def places(root: Path, layout: str) -> dict[str, Place]:
    """The categories of a dataset, or the one that the path is, by name.

    Raises InputError for an unknown layout, and for a path that holds no category of it.
    """
    check_layout(layout)
    if layout == "table" or (layout == "auto" and readers.is_table(root)):
        if not root.is_file():
            raise InputError(f"{root}: " + ("expected a CSV file, got a folder"
                             if root.is_dir() else "no such file"))  # fmt: skip
        return {name: Place(root, "table", name) for name in readers.table_categories(root)}
    require_folder(root)
    if is_one_category(root, layout):
        name = own_name(root)
        return {name: Place(root, recognise(root, layout) or layout, name)}
    found = places_inside(root, layout)
    if found:
        return found
    if not any(root.iterdir()):
        raise InputError(f"{root}: the folder is empty")
    raise InputError(f"{root}: {not_expected(layout)}")


@naming_files()
def place_of(root: Path, layout: str, category: str | None) -> Place:
    """The place of one category; where there is only one it need not be named.

    Raises InputError that names the categories that exist.
    """
    check_layout(layout)
    if category not in (None, "", ".", "..") and root.is_dir():
        for folder in (base / str(category) for base in _bases(root, layout)):
            if not folder.is_dir():
                continue
            name = recognise(folder, layout)
            if name is None:
                raise InputError(f"{folder}: {not_expected(layout)}")
            return Place(folder, name, folder.name)
    found = places(root, layout)
    if category is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise InputError(f"{root}: choose a category; there are: {', '.join(found)}")
    if category not in found:
        raise InputError(f"{root}: no category {category!r}; there are: {', '.join(found)}")
    return found[category]


def not_expected(layout: str) -> str:
    """What a path is not: "not a category with train/good (mvtec, visa)"."""
    rows: dict[str, list[str]] = {}
    for name, row in LAYOUTS.items():
        if layout in ("auto", name):
            rows.setdefault(row.about, []).append(name)
    return "not " + ", nor ".join(f"{about} ({', '.join(names)})" for about, names in rows.items())


def _bases(root: Path, layout: str) -> list[Path]:
    """The folders in which a dataset's categories may lie."""
    inside = [row.inside for name, row in LAYOUTS.items() if layout in ("auto", name)]
    return [root, *(root / name for name in inside if name is not None)]
