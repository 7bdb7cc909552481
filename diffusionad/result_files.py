"""A folder of results: scores.csv, and map and panel of each image."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

import numpy as np

from diffusionad.errors import WriteError
from diffusionad.files import PathLike, atomic_path, make_folder, reason
from diffusionad.images import write_png
from diffusionad.prediction import ImageResult

TABLE = "scores.csv"
COLUMNS = ("path", "score", "label")


class ResultFolder:
    """A folder that takes results one by one, also of a stream; an interrupt keeps what is there.

    Each gets a row of scores.csv (path, score, label) at once, and the files ``<stem>.npy`` (its
    map, float32) and ``<stem>.png`` (its panel). Files of these names are replaced. Raises
    WriteError.

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
        self._table: TextIO

    def __enter__(self) -> ResultFolder:
        make_folder(self.path)
        with self._named():
            self._table = (self.path / TABLE).open(
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            )
        self._row(COLUMNS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What could not be written has been told by write().
        with contextlib.suppress(OSError):
            self._table.close()

    def write(self, result: ImageResult, stem: str | None = None) -> None:
        """Write a result; without `stem` its name is the image's, numbered if it came before."""
        write_result(self.path, self._free(stem or Path(result.name).stem), result)
        label = "" if result.label is None else str(result.label)
        self._row([result.path or result.name, f"{result.score:.9g}", label])

    def _free(self, stem: str) -> str:
        """The stem, with a number behind it where this folder has got it before."""
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name.casefold())
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
    """Map and panel of a result, each whole or not at all. Raises WriteError."""
    make_folder(folder)
    with (
        atomic_path(folder / f"{stem}.npy", durable=False) as temporary,
        temporary.open("wb") as file,
    ):
        np.save(file, np.asarray(result.map, np.float32))
    write_png(folder / f"{stem}.png", result.panel())
