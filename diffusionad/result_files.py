"""A folder of results: scores.csv, and map and panel of each image; and where results may lie."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import numpy as np

from diffusionad.errors import InputError, WriteError
from diffusionad.files import PathLike, atomic_path, lock, make_folder, reason
from diffusionad.images import is_image_name, write_png
from diffusionad.prediction import ImageResult

if TYPE_CHECKING:
    from diffusionad.datasets import Dataset

TABLE = "scores.csv"
NAMED = ("table", "visa_raw")  # layouts in which a table names the images, whatever else is there
COLUMNS = ("path", "score", "label")


class ResultFolder:
    """A folder that takes results one by one, also of a stream; an interrupt keeps what is there.

    Each gets a row of scores.csv (path, score, label) at once, and the files ``<stem>.npy`` (its
    map, float32) and ``<stem>.png`` (its panel). Files of these names are replaced, but for the
    image itself: that raises InputError, as does a folder that another call is writing to.
    Raises WriteError.

    >>> import tempfile, diffusionad
    >>> model, frames = diffusionad.DiffusionAD(image_size=32), np.zeros((2, 40, 40, 1), np.uint8)
    >>> with tempfile.TemporaryDirectory() as name, ResultFolder(name) as folder:
    ...     for result in model.predict_stream(frames):
    ...         folder.write(result)
    ...     sorted(path.name for path in folder.path.iterdir())
    ['000000.npy', '000000.png', '000001.npy', '000001.png', 'scores.csv']
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}  # number behind each stem
        self._table: TextIO  # locked

    def __enter__(self) -> ResultFolder:
        make_folder(self.path)
        with self._named():
            self._table = (self.path / TABLE).open(
                "a", encoding="utf-8", errors="surrogateescape", newline=""
            )
        try:
            with self._named():
                lock(self.path, self._table.fileno())
                if os.fstat(self._table.fileno()).st_size:  # of results that are replaced
                    self._table.truncate(0)
            self._row(COLUMNS)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._table.close()

    def write(self, result: ImageResult, stem: str | None = None) -> None:
        """Write a result; without `stem` its name is the image's, numbered if it came before."""
        write_result(self.path, self._free(stem or Path(result.name).stem), result)
        label = "" if result.label is None else str(result.label)
        self._row([result.path or result.name, f"{result.score:.9g}", label])

    def _free(self, stem: str) -> str:
        """The stem, with a number behind it where this folder has got it before."""
        name, number = stem, self._last.get(stem, 1)
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name.casefold())
        self._last[stem] = number
        return name

    def _row(self, cells: Sequence[str]) -> None:
        with self._named():
            csv.writer(self._table).writerow(cells)
            self._table.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteError(f"{self.path / TABLE}: cannot write: {reason(error)}") from error


def write_result(folder: Path, stem: str, result: ImageResult) -> None:
    """Map and panel of a result, each whole or not at all. Raises InputError and WriteError."""
    map_file, panel_file = files = files_of(folder, [stem])
    require_other_files(files, [result.path])
    make_folder(folder)
    with atomic_path(map_file, durable=False) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(result.map, np.float32))
    write_png(panel_file, result.panel())


def files_of(folder: Path, stems: Iterable[str]) -> list[Path]:
    """Map and panel of each stem."""
    return [folder / f"{stem}{ending}" for stem in stems for ending in (".npy", ".png")]


def require_other_files(files: Iterable[Path], inputs: Iterable[PathLike | None]) -> None:
    """Raise InputError where a file that is to be written is one of the inputs."""
    there = {identity: path for path in files if (identity := _identity(path)) is not None}
    if not there:
        return
    for given in inputs:
        if given is not None and (identity := _identity(given)) in there:
            what = "image" if is_image_name(Path(given)) else "file"
            raise InputError(
                f"{there[identity]}: a result would replace this {what}, which is one of the "
                "inputs; choose another folder"
            )


def require_outside(
    name: str, folder: PathLike, dataset: Dataset, sources: Sequence[PathLike | None] = ()
) -> None:
    """Raise InputError for a folder whose pictures are read as images of dataset or sources."""
    place = Path(folder).resolve()
    listed = () if dataset.layout in NAMED else dataset.files()
    inside = place in {path.resolve() for path in {path.parent for path in listed}}
    tops = {Path(source).resolve() for source in sources if source is not None}
    if inside or not tops.isdisjoint([place, *place.parents]):
        raise among_images(name)


def among_images(name: str) -> InputError:
    """What to raise for results that would lie among images; names the option that asks for it."""
    return InputError(f"{name}: expected another folder than that of the images")


def _identity(path: PathLike) -> tuple[int, int] | None:
    """Of the file, whatever path leads to it; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None  # some have no numbers


def is_panel(path: Path) -> bool:
    """Whether a picture is a result's: its map lies beside it, in a folder that has results."""
    return path.suffix == ".png" and path.with_suffix(".npy").is_file() and has_results(path.parent)


def has_results(folder: Path) -> bool:
    """Whether results were written to a folder before: its scores.csv has our header, or nothing,
    where a process ended before it."""
    try:
        with (folder / TABLE).open("rb") as file:
            return file.readline(100).strip() in (b"", ",".join(COLUMNS).encode())
    except OSError:
        return False
