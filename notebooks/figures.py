"""Figures of the notebooks: rows of pictures with names, curves, and small files for both.

Pictures are arrays [H, W, 3] in [0, 1]; rgb(), grey(), heat() and signed() make them of images
(3, H, W) and of planes (H, W).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from IPython.display import Image, display
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as Pillow

Array = npt.NDArray[Any]

DPI = 100
LARGEST = 110_000  # bytes of a figure; noise is what no file format makes small
WIDTH = 9.6  # inches of a whole figure
GAP = 0.06
TITLE, NAMES = 0.26, 1.05  # height of a line of titles, width of the column of names
BLUE, RED, GREEN, GREY = "#2a6fbb", "#c8443c", "#3a8f5c", "#8a8a8a"
OUTLINE = (0.1, 0.95, 1.0)

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
plt.rcParams.update(STYLE)


# ---- arrays to pictures -------------------------------------------------------------------------


def rgb(image: Array) -> Array:
    """An image (3, H, W) in [0, 1]; what lies outside is clipped."""
    return np.clip(np.asarray(image, np.float32), 0, 1).transpose(1, 2, 0)


def grey(plane: Array, low: float = 0.0, high: float = 1.0) -> Array:
    return _coloured(plane, "gray", low, high)


def heat(plane: Array, high: float = 1.0) -> Array:
    """A map from 0 (black) to `high` (pale yellow)."""
    return _coloured(plane, "magma", 0.0, high)


def signed(plane: Array, limit: float) -> Array:
    """Blue below zero, white at zero, red above; of an image (3, H, W) the mean of its channels."""
    plane = np.asarray(plane)
    return _coloured(plane.mean(axis=0) if plane.ndim == 3 else plane, "RdBu_r", -limit, limit)


def outlined(picture: Array, mask: Array) -> Array:
    """The picture with a line just outside of the mask (H, W), which has the picture's size."""
    near = _grown(np.pad(np.asarray(mask, bool), 2))
    line = np.asarray(picture, np.float32).copy()
    line[(_grown(near) & ~near)[2:-2, 2:-2]] = OUTLINE
    return line


def marked(picture: Array, mask: Array) -> Array:
    """The picture, darker, with the mask (H, W) in red."""
    dark = np.asarray(picture, np.float32) * 0.6 + 0.1
    return np.where(np.asarray(mask, bool)[..., None], np.float32([0.95, 0.25, 0.2]), dark)


def _grown(mask: Array) -> Array:
    """By one pixel to all four sides."""
    grown = mask.copy()
    grown[1:-1, 1:-1] |= mask[:-2, 1:-1] | mask[2:, 1:-1] | mask[1:-1, :-2] | mask[1:-1, 2:]
    return grown


def cut(picture: Array, centre: tuple[int, int], side: int) -> Array:
    """A square part of a picture around a centre (row, column), or as near to it as fits."""
    top, left = (
        int(np.clip(middle - side // 2, 0, length - side))
        for middle, length in zip(centre, picture.shape, strict=False)
    )
    return picture[top : top + side, left : left + side]


def _coloured(plane: Array, name: str, low: float, high: float) -> Array:
    scaled = (np.asarray(plane, np.float32) - low) / (high - low)
    return colormaps[name](np.clip(scaled, 0, 1))[..., :3]


# ---- figures ------------------------------------------------------------------------------------


def tiles(
    rows: Sequence[Sequence[Array | None]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    *,
    below: Sequence[Sequence[str]] = (),
    width: float = WIDTH,
    most: float = 1.9,
    smooth: bool = True,
) -> Figure:
    """Rows of pictures under the columns' titles, beside the rows' names.

    `below` has a line of text for each picture. None leaves a place empty. A picture is at most
    `most` inches wide.
    """
    across, down = max(len(row) for row in rows), len(rows)
    left = NAMES if names else 0.0
    lines = 1 + max((title.count("\n") for title in columns), default=0)
    top = 0.08 + TITLE * lines * 0.75 if columns else 0.02
    under = 0.24 if below else 0.0
    side = min(most, (width - left - GAP * (across - 1)) / across)
    width = left + across * (side + GAP) - GAP
    first = next(picture for row in rows for picture in row if picture is not None)
    tall = side * first.shape[0] / first.shape[1]
    height = top + down * (tall + under + GAP) - GAP
    figure = plt.figure(figsize=(width, height), dpi=DPI)
    for r, row in enumerate(rows):
        y = height - top - (r + 1) * tall - r * (under + GAP)
        if names:
            figure.text(
                0.0, (y + tall / 2) / height, names[r], va="center", ha="left", linespacing=1.3
            )
        for c, picture in enumerate(row):
            x = left + c * (side + GAP)
            if picture is None:
                continue
            axes = figure.add_axes((x / width, y / height, side / width, tall / height))
            axes.imshow(picture, interpolation="bilinear" if smooth else "nearest")
            axes.axis("off")
            if below:
                figure.text(
                    (x + side / 2) / width,
                    (y - 0.04) / height,
                    below[r][c],
                    va="top",
                    ha="center",
                    fontsize=8,
                    color="#444444",
                )
    for c, title in enumerate(columns):
        x = left + c * (side + GAP) + side / 2
        figure.text(x / width, 1 - (top - 0.05) / height, title, va="bottom", ha="center")
    return figure


def plots(across: int = 1, height: float = 2.7, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    """Axes beside each other; options go to matplotlib's subplots."""
    figure, axes = plt.subplots(
        1, across, figsize=(WIDTH, height), dpi=DPI, layout="constrained", **options
    )
    return figure, [axes] if across == 1 else list(axes)


def show(figure: Figure, alt: str) -> None:
    """Display a figure, as a JPEG file where it shows pictures, else as PNG of few colours.

    `alt` says in words what is to be seen, for those who cannot see it.
    """
    figure.canvas.draw()
    pixels = Pillow.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    kind = "jpeg" if any(axes.images for axes in figure.axes) else "png"
    plt.close(figure)
    display(Image(_jpeg(pixels) if kind == "jpeg" else _png(pixels), format=kind, alt=alt))


def _png(pixels: Pillow.Image) -> bytes:
    file = io.BytesIO()
    few = pixels.quantize(128, method=Pillow.Quantize.MAXCOVERAGE, dither=Pillow.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


def _jpeg(pixels: Pillow.Image) -> bytes:
    """Of the best quality that is small enough."""
    for quality in (90, 84, 76, 66, 54, 42):
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()
