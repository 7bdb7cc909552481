"""Comparing a dataset with its published numbers, and reading every file of it.

What differs is a finding that names a file or folder: missing (it should be there), extra (nothing
reads it), unreadable, or mismatched (image and mask do not fit each other).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffusionad.datasets.layouts import LAYOUTS, Layout, Place, is_one_category, place_of, places
from diffusionad.datasets.published import Counts
from diffusionad.datasets.readers import Options, Parts
from diffusionad.datasets.samples import Sample
from diffusionad.errors import InputError
from diffusionad.files import PathLike
from diffusionad.images import is_image_name, naming_files, read_image, read_mask

FINDINGS = ("missing", "extra", "unreadable", "mismatched")
PARTS = {
    "train": "images to train on",
    "test_good": "good test images",
    "test_defective": "defective test images",
    "left_out": "defective images in Train",
}
# Beside the images: what file managers leave, what archives hold, the reference's foregrounds.
OTHER_FILES = frozenset({"thumbs.db", "desktop.ini"})
OTHER_ENDINGS = frozenset({".txt", ".csv", ".md", ".json", ".xml", ".html", ".pdf"})
FOREGROUND_FOLDERS = frozenset({"DISthresh", "thresh"})
MASK_FOLDERS = frozenset({"ground_truth", "Masks", "Label", "masks"})

Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Finding:
    """One thing that differs; `kind` is one of FINDINGS."""

    kind: str
    category: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Category:
    """What was found of one category; `published` is None where nothing was published of it."""

    category: str
    kind: str
    counts: Counts
    without_mask: int
    published: Counts | None

    def to_dict(self) -> dict[str, Any]:
        """The category for JSON, its counts at the top level."""
        published = None if self.published is None else self.published._asdict()
        return {
            "category": self.category,
            "kind": self.kind,
            **self.counts._asdict(),
            "without_mask": self.without_mask,
            "published": published,
        }


@dataclass(frozen=True)
class Report:
    """The outcome of check(); `compared` says whether there were published numbers."""

    path: Path
    layout: str
    dataset: str
    compared: bool
    files_read: bool
    categories: list[Category] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def as_published(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    @property
    def totals(self) -> Counts:
        """The counts of all categories together."""
        return sum((row.counts for row in self.categories), Counts(0, 0, 0))

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        findings = [{**asdict(finding), "path": str(finding.path)} for finding in self.findings]
        return {
            "data": str(self.path),
            "layout": self.layout,
            "dataset": self.dataset if self.compared else None,
            "compared": self.compared,
            "files_read": self.files_read,
            "as_published": self.as_published,
            "totals": self.totals._asdict(),
            "categories": [row.to_dict() for row in self.categories],
            "findings": findings,
        }


def check(
    path: PathLike,
    layout: str = "auto",
    category: str | None = None,
    *,
    read: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Count a dataset's images against the published numbers; with `read`, read every file too.

    layout="auto" takes the layout that most categories have; data of none of its published
    categories counts as somebody's own then, and only its files are checked.
    Raises InputError where there is no dataset.
    """
    root = Path(path)
    all_here = places(root, layout)
    name = _layout_of_most(all_here) if layout == "auto" else layout
    row = LAYOUTS[name]
    published = set(row.published)
    compared = bool(published) and (layout != "auto" or bool(published & set(all_here)))
    # All under one layout, so that no category escapes whose name is not a published one.
    chosen = places(root, name)
    if category is not None:
        chosen = {category: place_of(root, name, category)}

    report = Report(root, name, row.dataset, compared, read)
    readable: list[tuple[Place, Parts]] = []
    errors = []
    for place in chosen.values():
        try:
            with naming_files():
                parts = row.read(place.path, Options(category=place.category))
        except InputError as error:
            errors.append(error)
            where, what = _parted(str(error), place.path)
            report.findings.append(Finding("unreadable", place.category, where, what))
        else:
            readable.append((place, parts))
            _compare(report, row, place, parts)
    if not readable:
        raise errors[0]
    if compared and category is None and not _is_alone(root, name):
        for absent in (name for name in row.published if name not in chosen):
            what = f"no such category, {row.dataset} has one"
            report.findings.append(Finding("missing", absent, root / absent, what))
    if read:
        report.findings.extend(_read_all(readable, progress))
    report.findings.sort(key=lambda finding: FINDINGS.index(finding.kind))
    return report


def _parted(text: str, place: Path) -> tuple[Path, str]:
    """The file that an error names, and what it says; colons in the place's path are its own."""
    known = next((str(path) for path in (place, *place.parents) if text.startswith(str(path))), "")
    where, _, what = text.removeprefix(known).partition(": ")
    return Path(known + where), what


def _layout_of_most(found: dict[str, Place]) -> str:
    """The commonest, and of two as common the one that a category's name speaks for."""
    layouts = [place.layout for place in found.values()]
    named = {p.layout for p in found.values() if LAYOUTS[p.layout].counts(p.category)}
    return max(dict.fromkeys(layouts), key=lambda name: (layouts.count(name), name in named))


def _is_alone(root: Path, layout: str) -> bool:
    return root.is_file() or is_one_category(root, layout)


# ---- names and numbers ------------------------------------------------------------------------


def _compare(report: Report, row: Layout, place: Place, parts: Parts) -> None:
    """Add a category to the report, and what its names and numbers differ in."""
    name = place.category
    good = sum(sample.label == 0 for sample in parts.test)
    counts = Counts(len(parts.train), good, len(parts.test) - good, len(parts.left_out))
    samples = [*parts.train, *parts.test, *parts.left_out]
    without = [sample for sample in samples if not sample.has_mask]
    known = row.counts(name) if report.compared else ()
    published = min(known, key=lambda other: _distance(other, counts), default=None)
    report.categories.append(Category(name, row.kind(name), counts, len(without), published))

    def add(kind: str, path: Path, what: str) -> None:
        report.findings.append(Finding(kind, name, path, what))

    for path in parts.missing:
        add("missing", path, "no such file, though the table names it")
    for path in parts.missing_masks.values():
        add("missing", path, "no such mask, though the table names it")
    for sample in without:
        if sample.path not in parts.missing_masks:
            add("missing", sample.path, "has no mask: left out of pixel metrics")
    if published is not None:
        for path in _gaps(samples, published, counts):
            add("missing", path, "no such file, by the numbering")
        for part, words in PARTS.items():
            is_now, should = getattr(counts, part), getattr(published, part)
            if is_now != should:
                kind = "missing" if is_now < should else "extra"
                add(kind, place.path, f"{is_now} {words}, published {should}")
    elif report.compared:
        add("extra", place.path, f"{row.dataset} has no such category")
    for path, what in _unused(place.path, samples):
        add("mismatched" if what == "a mask without its image" else "extra", path, what)


def _distance(one: Counts, other: Counts) -> int:
    return sum(abs(mine - its) for mine, its in zip(one, other, strict=True))


def _gaps(samples: Sequence[Sample], published: Counts, counts: Counts) -> list[Path]:
    """Files that the numbering lacks, if that explains every image that the counts lack.

    Public datasets number the files of most folders without gaps, from 0 or from any other number.
    """
    lacking = sum(max(0, should - now) for should, now in zip(published, counts, strict=True))
    folders: dict[Path, list[Path]] = defaultdict(list)
    for sample in samples:
        folders[sample.path.parent].append(sample.path)
    if not lacking or not all(path.stem.isdecimal() for f in folders.values() for path in f):
        return []
    for from_zero in (True, False):
        missing: list[Path] = []
        for paths in folders.values():
            numbers = {int(path.stem) for path in paths}
            first, last = 0 if from_zero else min(numbers), max(numbers)
            if from_zero and paths[0] == samples[0].path:
                last = max(last, published.train - 1)  # the last ones may lack as well
            if last - first + 1 - len(numbers) > lacking:
                break
            name = paths[0]
            missing += [
                name.with_stem(str(number).zfill(len(name.stem)))
                for number in range(first, last + 1)
                if number not in numbers
            ]
        else:
            if len(missing) == lacking:
                return missing
    return []


def _unused(place: Path, samples: Iterable[Sample]) -> Iterator[tuple[Path, str]]:
    """Files of a category's folder that no sample has, and what they are."""
    used = {sample.path for sample in samples}
    used |= {sample.mask_path for sample in samples if sample.mask_path is not None}
    if not place.is_dir() or not any(place in path.parents for path in used):
        return
    for folder, inside, names in os.walk(place):
        inside[:] = sorted(n for n in inside if n[0] != "." and n not in FOREGROUND_FOLDERS)
        for path in (Path(folder, name) for name in sorted(names)):
            if path in used or path.name.startswith("."):
                continue
            if is_image_name(path):
                masks = MASK_FOLDERS & set(path.relative_to(place).parts)
                yield path, "a mask without its image" if masks else "nothing reads this file"
            elif path.name.casefold() not in OTHER_FILES and path.suffix not in OTHER_ENDINGS:
                yield path, "not an image by its name"


# ---- contents ---------------------------------------------------------------------------------


def _read_all(
    readable: Sequence[tuple[Place, Parts]], progress: Progress | None
) -> Iterator[Finding]:
    """Read every image and mask, on as many threads as the core uses."""
    from concurrent.futures import ThreadPoolExecutor

    from diffusionad import _core

    absent = {path for _, parts in readable for path in parts.missing}
    jobs = [
        (place.category, sample)
        for place, parts in readable
        for sample in (*parts.train, *parts.test, *parts.left_out)
        if sample.path not in absent
    ]
    with ThreadPoolExecutor(_core.get_num_threads()) as pool:
        try:
            for done, found in enumerate(pool.map(lambda job: _read(*job), jobs), 1):
                yield from found
                if progress is not None:
                    progress(done, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)


def _read(category: str, sample: Sample) -> list[Finding]:
    """What is wrong with one image and its mask."""
    image = mask = None
    found = []

    def add(kind: str, path: Path, what: str) -> None:
        found.append(Finding(kind, category, path, what))

    try:
        image = read_image(sample.path)
    except InputError as error:
        add("unreadable", sample.path, _without_path(error, sample.path))
    if sample.mask_path is None:
        return found
    try:
        mask = read_mask(sample.mask_path)
    except InputError as error:
        add("unreadable", sample.mask_path, _without_path(error, sample.mask_path))
        return found
    if image is not None and mask.shape != image.shape[:2]:
        add(
            "mismatched",
            sample.mask_path,
            f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"its image {image.shape[1]}x{image.shape[0]}",
        )
    if sample.label and not mask.any():
        add("mismatched", sample.mask_path, "the mask of a defective image is empty")
    if not sample.label and mask.any():
        add("mismatched", sample.mask_path, "the mask of a good image is not empty")
    return found


def _without_path(error: InputError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
