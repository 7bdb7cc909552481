"""Curves as plain pixels, drawn with Pillow alone: a metric over a setting, with its spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffusionad.images import Bytes
from diffusionad.plots import drawable, font_of

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SCALE = 2  # drawn so many times as large, then made smaller: smooth lines
WIDTH, HEIGHT = 640, 400  # pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 52  # margins
PAPER, INK, FAINT, RULE = (255, 255, 255), (40, 40, 48), (110, 110, 120), (226, 226, 230)
# Okabe and Ito's colours: told apart by everyone.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))


@dataclass(frozen=True)
class Curve:
    """Values over x, and between which others they lie (seeds, say). All of one length."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def line_chart(
    curves: Mapping[str, Curve],
    *,
    x_title: str,
    y_title: str,
    title: str = "",
    mark: float | None = None,
    height: int = HEIGHT,
) -> Bytes:
    """Curves by name with a legend; bands where they have spread; a dashed line at x = `mark`.

    The y axis reaches from below the smallest to above the largest value. uint8 [height, W, 3].
    Raises ValueError where there is no point to draw.
    """
    from PIL import Image, ImageDraw

    points = [c for c in curves.values() if len(c.x)]
    if not points:
        raise ValueError("curves: expected at least one point, got none")
    xs = [x for curve in points for x in curve.x] + ([] if mark is None else [mark])
    ys = [y for curve in points for y in (*curve.y, *curve.low, *curve.high)]
    axes = _Axes(ticks(min(xs), max(xs)), ticks(min(ys), max(ys)), height)
    canvas = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_axes(draw, axes, x_title, y_title, title)
    if mark is not None:
        _dashed(draw, axes, mark)
    for colour, curve in zip(COLOURS * len(curves), curves.values(), strict=False):
        _draw_band(canvas, axes, curve, colour)
    for colour, curve in zip(COLOURS * len(curves), curves.values(), strict=False):
        _draw_curve(draw, axes, curve, colour)
    _draw_legend(draw, list(curves))
    return np.asarray(canvas.resize((WIDTH, height), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class _Axes:
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    height: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        across = (x - self.x_ticks[0]) / (self.x_ticks[-1] - self.x_ticks[0])
        up = (y - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return (
            SCALE * (LEFT + across * (WIDTH - LEFT - RIGHT)),
            SCALE * (self.height - BOTTOM - up * (self.height - TOP - BOTTOM)),
        )


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers that reach from below `low` to above `high`."""
    span = max(high - low, 1e-9 * max(1.0, abs(high)))
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 7)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value + 0.0:.{digits}f}"


def _draw_axes(
    draw: ImageDraw.ImageDraw, axes: _Axes, x_title: str, y_title: str, title: str
) -> None:
    font, bottom, left = font_of(12 * SCALE), axes.y_ticks[0], axes.x_ticks[0]
    for y in axes.y_ticks:
        draw.line([axes.at(left, y), axes.at(axes.x_ticks[-1], y)], fill=RULE, width=SCALE)
        x_pixel, y_pixel = axes.at(left, y)
        text = tick_text(y, axes.y_ticks)
        draw.text((x_pixel - 8 * SCALE, y_pixel), text, fill=FAINT, font=font, anchor="rm")
    for x in axes.x_ticks:
        x_pixel, y_pixel = axes.at(x, bottom)
        draw.line([(x_pixel, y_pixel), (x_pixel, y_pixel + 4 * SCALE)], fill=FAINT, width=SCALE)
        text = tick_text(x, axes.x_ticks)
        draw.text((x_pixel, y_pixel + 8 * SCALE), text, fill=FAINT, font=font, anchor="ma")
    draw.line([axes.at(left, bottom), axes.at(axes.x_ticks[-1], bottom)], fill=FAINT, width=SCALE)
    middle = SCALE * (LEFT + WIDTH - RIGHT) / 2
    draw.text((middle, SCALE * (axes.height - 8)), x_title, fill=INK, font=font, anchor="ms")
    draw.text((SCALE * 8, SCALE * (TOP - 12)), y_title, fill=INK, font=font, anchor="ls")
    heading = drawable(title)
    draw.text((middle, SCALE * 18), heading, fill=INK, font=font_of(14 * SCALE), anchor="ms")


def _dashed(draw: ImageDraw.ImageDraw, axes: _Axes, x: float) -> None:
    across, y = axes.at(x, axes.y_ticks[-1])
    _, end = axes.at(x, axes.y_ticks[0])
    while y < end:
        draw.line([(across, y), (across, min(y + 5 * SCALE, end))], fill=FAINT, width=SCALE)
        y += 9 * SCALE


def _draw_band(
    canvas: Image.Image, axes: _Axes, curve: Curve, colour: tuple[int, int, int]
) -> None:
    from PIL import Image, ImageDraw

    if len(curve.low) < 2:
        return
    edge = [axes.at(x, y) for x, y in zip(curve.x, curve.low, strict=True)]
    edge += [axes.at(x, y) for x, y in zip(curve.x, curve.high, strict=True)][::-1]
    opacity = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(opacity).polygon(edge, fill=48)
    canvas.paste(colour, mask=opacity)


def _draw_curve(
    draw: ImageDraw.ImageDraw, axes: _Axes, curve: Curve, colour: tuple[int, int, int]
) -> None:
    line = [axes.at(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
    draw.line(line, fill=colour, width=2 * SCALE, joint="curve")
    for x, y in line:
        radius = 3.5 * SCALE
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _draw_legend(draw: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    font, right = font_of(12 * SCALE), float(SCALE * (WIDTH - RIGHT))
    y = SCALE * (TOP - 12)
    for index in reversed(range(len(names))):
        right -= draw.textlength(names[index], font=font)
        draw.text((right, y), names[index], fill=INK, font=font, anchor="ls")
        colour = COLOURS[index % len(COLOURS)]
        y_line = y - 4 * SCALE
        draw.line(
            [(right - 22 * SCALE, y_line), (right - 6 * SCALE, y_line)],
            fill=colour,
            width=3 * SCALE,
        )
        right -= 36 * SCALE
