"""Large images in tiles: a network's view of each, blended into one map at native resolution.

Tiles lie on a grid that covers the image evenly, so that neighbours share at least the overlap
that was asked for. Along each axis a tile weighs sin²(π (x + ½) / T), divided by the sum over all
tiles that reach the pixel. The weights of a pixel are products of one weight per axis and sum to
one: the blended map has no seams, and what a tile says at its border, where it has seen only one
side, counts least. An axis shorter than a tile is mirrored up to it, and cut off again.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from diffusionad.arrays import Pixels
from diffusionad.errors import InputError
from diffusionad.images import Floats, ImageSource, as_items, fit_to_network, pixels_of

OVERLAP = 0.25
MOST_OVERLAP = 0.9  # a hundred tiles over each pixel

Window = tuple[int, int]  # indices of a tile: its row and column in the grid


@dataclass(frozen=True)
class Tiles:
    """How images are cut: squares of ``size`` pixels a side, the model's own size if None.

    Neighbours have at least the share ``overlap`` of their side in common, 0 to 0.9. Raises
    InputError for other values.
    """

    size: int | None = None
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if self.size is not None:
            whole = isinstance(self.size, numbers.Integral) and not isinstance(self.size, bool)
            if not whole or self.size < 1:
                raise InputError(f"tile: expected a whole number of pixels, got {self.size!r}")
            object.__setattr__(self, "size", int(self.size))  # numbers of NumPy are taken, too
        if not isinstance(self.overlap, numbers.Real) or not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"overlap: expected 0 to {MOST_OVERLAP}, got {self.overlap!r}")
        object.__setattr__(self, "overlap", float(self.overlap))

    def of(self, image_size: int) -> Tiles:
        """The same with the size fixed, for a model of this image size."""
        return Tiles(self.size or image_size, self.overlap)

    def __str__(self) -> str:
        size = "the model's size" if self.size is None else f"{self.size} px"
        return f"tiles of {size}, overlap {self.overlap:g}"


def described(tiles: Tiles | None) -> str:
    """What is looked at: whole images, or tiles of them."""
    return "whole images" if tiles is None else str(tiles)


class Axis:
    """Tiles along one axis: where each starts, and its weights (number, tile) float32."""

    def __init__(self, length: int, tile: int, overlap: float) -> None:
        self.length = min(length, tile)  # of a tile inside the image
        step = max(1, tile - math.ceil(overlap * tile))
        count = 1 + math.ceil(max(0, length - tile) / step)
        self.starts = [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]
        window = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
        total = np.zeros(max(length, tile))
        for start in self.starts:
            total[start : start + tile] += window
        self.weights: Floats = np.stack(
            [window / total[start : start + tile] for start in self.starts]
        ).astype(np.float32)

    def part(self, index: int) -> slice:
        """Which pixels of the image a tile covers."""
        return slice(self.starts[index], self.starts[index] + self.length)


class Grid:
    """The tiles of one image of (height, width) pixels."""

    def __init__(self, shape: tuple[int, int], tile: int, overlap: float) -> None:
        self.tile = tile
        self.rows, self.columns = (Axis(length, tile, overlap) for length in shape)

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[Window]:
        return itertools.product(range(len(self.rows.starts)), range(len(self.columns.starts)))

    def cut(self, pixels: Pixels, window: Window) -> Pixels:
        """A tile of an image [H, W, 3]: a view, mirrored up to the tile's size where need be."""
        part = pixels[self.rows.part(window[0]), self.columns.part(window[1])]
        missing = [(0, self.tile - side) for side in part.shape[:2]]
        return np.pad(part, (*missing, (0, 0)), "symmetric") if np.any(missing) else part

    def add(self, blended: Floats, window: Window, tile_map: Floats) -> None:
        """Add a tile's map, weighted, to the map of the image."""
        row, column = window
        weighted = tile_map * self.rows.weights[row][:, None] * self.columns.weights[column]
        height, width = self.rows.length, self.columns.length
        blended[self.rows.part(row), self.columns.part(column)] += weighted[:height, :width]


def blended_map(
    look: Callable[[Floats], Floats], pixels: Pixels, tiles: Tiles, size: int, batch_size: int
) -> Floats:
    """The map (H, W) of an image [H, W, 3], from a function of (B, 3, size, size) to B maps.

    Beside image and map it takes the memory of one batch. The result does not depend on the
    batch, since tiles are added in the order of the grid.
    """
    from diffusionad import _core

    tile = tiles.size or size
    grid = Grid(pixels.shape[:2], tile, tiles.overlap)
    blended = np.zeros(pixels.shape[:2], np.float32)
    windows = iter(grid)
    while batch := list(itertools.islice(windows, batch_size)):
        x0 = np.stack([fit_to_network(grid.cut(pixels, window), size) for window in batch])
        for window, found in zip(batch, look(x0), strict=True):
            grid.add(blended, window, _core.resize_f32(found, tile, tile))
    # Weights sum to one but for rounding.
    return np.clip(blended, 0.0, 1.0, out=blended)


def cut(images: ImageSource, tile: int, overlap: float = OVERLAP) -> Iterator[Pixels]:
    """All tiles [tile, tile, 3] of images, one after the other: what predict_tiled() looks at.

    A model that is to look at tiles is trained on them: ``model.fit(tiling.cut(folder, 256))``.
    """
    tiles = Tiles(tile, overlap)
    for index, item in enumerate(as_items(images)):
        pixels = pixels_of(item, f"images[{index}]")
        grid = Grid(pixels.shape[:2], tile, tiles.overlap)
        yield from (grid.cut(pixels, window) for window in grid)
