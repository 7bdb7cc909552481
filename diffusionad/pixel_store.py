"""Good scores and defect items of many images: in memory, or in a temporary file beyond a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffusionad.errors import WriteError
from diffusionad.files import PathLike, reason

Array = NDArray[Any]
KINDS: dict[str, np.dtype[Any]] = {"good": np.dtype(np.float32), "defects": np.dtype(np.uint64)}


@dataclass
class Chunk:
    """Some images of one kind of defect (None: good images), one after the other.

    Defective images without a name are `unnamed`. `images` are their numbers and `counts` how many
    values of each sort they have; `values` are those, or places in the file.
    """

    defect: str | None
    unnamed: bool
    images: NDArray[np.int32]
    regions: int
    counts: dict[str, NDArray[np.int64]]
    values: dict[str, Array | int]

    @property
    def kind(self) -> tuple[str | None, bool]:
        return self.defect, self.unnamed

    def total(self, sort: str) -> int:
        return int(self.counts[sort].sum())

    @property
    def bytes_held(self) -> int:
        return sum(v.nbytes for v in self.values.values() if isinstance(v, np.ndarray))


class PixelStore:
    """Chunks; those held in memory take at most about twice `limit` bytes."""

    def __init__(self, limit: int, folder: PathLike | None) -> None:
        self.limit = limit
        self.held = 0  # bytes
        self.chunks: list[Chunk] = []
        self._folder = folder
        self._file: BinaryIO | None = None

    @property
    def spilled(self) -> bool:
        return self._file is not None

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Keep all of them. Raises WriteError, and has kept none of them then."""
        more = sum(chunk.bytes_held for chunk in chunks)
        if self.held + more > self.limit:
            self.spill()
        if more > self.limit:
            self._write(chunks)
            more = 0
        self.chunks += chunks
        self.held += more

    def gather(self) -> None:
        """Make one chunk of all in memory that have the same kind of defect."""
        held = [chunk for chunk in self.chunks if chunk.bytes_held]
        if len(held) > len({chunk.kind for chunk in held}):
            kept = [chunk for chunk in self.chunks if not chunk.bytes_held]
            self.chunks = kept
            while held:
                same = [chunk for chunk in held if chunk.kind == held[0].kind]
                held = [chunk for chunk in held if chunk.kind != same[0].kind]
                kept.append(_join(same))

    def spill(self) -> None:
        """Move all that is in memory into the file. Raises WriteError."""
        self.gather()
        self._write(self.chunks)
        self.held = 0

    def _write(self, chunks: Sequence[Chunk]) -> None:
        """Move what these hold in memory into the file, each chunk whole or not at all."""
        import tempfile

        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            for chunk in chunks:
                places: dict[str, Array | int] = {}
                for sort, values in chunk.values.items():
                    if isinstance(values, np.ndarray):
                        places[sort] = self._file.seek(0, 2)
                        self._file.write(values.data)
                chunk.values |= places
            self._file.flush()
        except OSError as error:
            folder = self._folder or tempfile.gettempdir()
            raise WriteError(
                f"{folder}: cannot keep the pixels of more images here: {reason(error)}"
            ) from error

    def read(self, chunk: Chunk, sort: str, first: int, count: int) -> Array:
        """`count` values from `first` on."""
        values = chunk.values[sort]
        if isinstance(values, np.ndarray):
            return values[first : first + count]
        assert self._file is not None
        part = np.empty(count, KINDS[sort])
        if count:
            self._file.seek(values + first * part.itemsize)
            if self._file.readinto(part) != part.nbytes:  # type: ignore[attr-defined]
                raise OSError("the temporary file of the pixel metrics has been cut")
        return part

    def parts(self, chunks: Sequence[Chunk], sort: str) -> Iterator[Array]:
        """All values of the chunks, in parts of at most half of `limit` where they are in a file.

        In memory, chunks are whole parts.
        """
        for chunk in chunks:
            total = chunk.total(sort)
            held = isinstance(chunk.values[sort], np.ndarray)
            size = total if held else max(self.limit // 2 // KINDS[sort].itemsize, 1)
            for first in range(0, total, max(size, 1)):
                yield self.read(chunk, sort, first, min(size, total - first))

    def close(self) -> None:
        self.chunks, self.held = [], 0
        if self._file is not None:
            self._file.close()
            self._file = None


def _join(chunks: list[Chunk]) -> Chunk:
    """Each part of `chunks` is let go as soon as it has been copied."""
    values: dict[str, Array | int] = {}
    for sort, dtype in KINDS.items():
        values[sort] = whole = np.empty(sum(chunk.total(sort) for chunk in chunks), dtype)
        at = 0
        for chunk in chunks:
            part = chunk.values.pop(sort)
            assert isinstance(part, np.ndarray)
            whole[at : at + part.size] = part
            at += part.size
    return Chunk(
        defect=chunks[0].defect,
        unnamed=chunks[0].unnamed,
        images=np.concatenate([chunk.images for chunk in chunks]),
        regions=sum(chunk.regions for chunk in chunks),
        counts={sort: np.concatenate([c.counts[sort] for c in chunks]) for sort in KINDS},
        values=values,
    )
