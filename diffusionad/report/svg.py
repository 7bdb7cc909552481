"""Charts as inline SVG: markup alone, text that scales, colours from the style of the page.

Class names are the interface to that style: `good` and `defective` for scores, `a` and `b` for the
curves, `rule`, `threshold` and `chance` for lines, `tick` and `title` for text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusionad.charts import tick_text, ticks
from diffusionad.tables import html_text

WIDTH, HEIGHT = 400, 280  # units of the drawing, which takes the width that it is given
LEFT, RIGHT, TOP, BOTTOM = 46, 24, 28, 44  # margins
BINS = 24  # of a histogram
LOG_FROM = (
    1000.0  # ratio of the largest to the smallest score from which on the axis is logarithmic
)
DECADES = 6  # ticks of such an axis, at most

Ticks = Sequence[tuple[float, str]]  # places on an axis and their texts


@dataclass(frozen=True)
class Line:
    """A curve with its class in the style."""

    style: str
    x: Sequence[float]
    y: Sequence[float]


def histogram(
    good: Sequence[float], defective: Sequence[float], threshold: float | None, about: str
) -> str:
    """How many images have which score, of both kinds, and a line at the threshold.

    `about` says in words what is to be seen. Where the scores reach over three decades the axis
    is logarithmic. Raises ValueError where there is no score.
    """
    marks = [] if threshold is None else [threshold]
    if not (len(good) or len(defective)):
        raise ValueError("good, defective: expected at least one score, got none")
    place, low, high, x_ticks, title = _score_axis([*good, *defective, *marks])
    counts = {
        # Clipped, as the ends of the axis are rounded.
        name: np.histogram(np.clip(place(np.asarray(scores)), low, high), BINS, (low, high))[0]
        for name, scores in (("good", good), ("defective", defective))
    }
    top = max(int(count.max()) for count in counts.values())
    whole = [tick for tick in ticks(0, top) if tick == int(tick)]
    frame = _Frame(low, high, max(whole[-1], top), x_ticks, [(y, f"{y:.0f}") for y in whole])
    parts = [frame.axes(title, "images")]
    for name, count in counts.items():
        parts += [frame.bar(name, index, int(n)) for index, n in enumerate(count) if n]
    if threshold is not None:
        parts.append(_threshold(frame, float(place(np.float64(threshold))), threshold))
    return _svg(about, parts)


def curves(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    about: str,
    *,
    x_high: float = 1.0,
    chance: bool = False,
    point: tuple[float, float] | None = None,
) -> str:
    """Rates over rates from 0 to `x_high` and 0 to 1, what lies further right is cut off.

    `chance` adds the diagonal, `point` is marked, `about` says in words what is to be seen.
    """
    x_ticks, y_ticks = ticks(0.0, x_high), ticks(0.0, 1.0)
    frame = _Frame(
        0.0,
        x_high,
        1.0,
        [(x, tick_text(x, x_ticks)) for x in x_ticks if x <= x_high * (1 + 1e-9)],
        [(y, tick_text(y, y_ticks)) for y in y_ticks],
    )
    parts = [frame.axes(x_title, y_title)]
    if chance:
        parts.append(_path("chance", [frame.at(0.0, 0.0), frame.at(x_high, x_high)]))
    for line in lines:
        parts.append(_path(f"line {line.style}", [frame.at(*p) for p in _cut(line, x_high)]))
    if point is not None:
        x, y = frame.at(*point)
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    return _svg(about, parts)


@dataclass(frozen=True)
class _Frame:
    """Where data lie in the drawing: x from `low` to `high`, y from 0 to `top`."""

    low: float
    high: float
    top: float
    x_ticks: Ticks
    y_ticks: Ticks

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.low) / (self.high - self.low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / self.top * (HEIGHT - TOP - BOTTOM),
        )

    def axes(self, x_title: str, y_title: str) -> str:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for value, text in self.y_ticks:
            y = self.at(self.low, value)[1]
            parts.append(_path("rule", [(LEFT, y), (right, y)]))
            parts.append(_text("tick end", LEFT - 6, y + 4, text))
        for value, text in self.x_ticks:
            x = self.at(value, 0.0)[0]
            parts.append(_path("rule", [(x, bottom), (x, bottom + 4)]))
            parts.append(_text("tick middle", x, bottom + 17, text))
        parts.append(_text("title middle", (LEFT + right) / 2, HEIGHT - 6, x_title))
        parts.append(_text("title", 2, 11, y_title))
        return "".join(parts)

    def bar(self, style: str, index: int, count: int) -> str:
        """One of BINS bars from left to right, with its count as a tooltip."""
        width = (WIDTH - LEFT - RIGHT) / BINS
        y = self.at(self.low, count)[1]
        place = f'x="{LEFT + index * width + 0.5:.1f}" y="{y:.1f}"'
        size = f'width="{width - 1:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
        return f'<rect class="{style}" {place} {size}><title>{count} {style}</title></rect>'


def _score_axis(
    scores: Sequence[float],
) -> tuple[np.ufunc, float, float, Ticks, str]:
    """What brings scores to the axis, its ends and ticks, its title."""
    low, high = min(scores), max(scores)
    if low > 0.0 and high / low >= LOG_FROM:
        low, high = math.log10(low), math.log10(high)
        decades = range(math.ceil(low), math.floor(high) + 1)
        shown = decades[:: math.ceil(len(decades) / DECADES)]
        return np.log10, low, high, [(k, f"{10.0**k:g}") for k in shown], "score, logarithmic"
    places = ticks(low, high)
    texts = [(x, tick_text(x, places)) for x in places]
    return np.positive, places[0], places[-1], texts, "score"


def _threshold(frame: _Frame, place: float, threshold: float) -> str:
    x, bottom = frame.at(place, 0.0)
    side, gap = ("end", -5) if x > WIDTH / 2 else ("start", 5)
    line = _path("threshold", [(x, bottom), (x, TOP - 10)])
    return line + _text(f"tick {side}", x + gap, TOP - 5, f"threshold {threshold:.4g}")


def _cut(line: Line, x_high: float) -> list[tuple[float, float]]:
    """The points up to x = `x_high`, the last one interpolated there."""
    inside = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x <= x_high]
    if len(inside) < len(line.x):
        inside.append((x_high, float(np.interp(x_high, line.x, line.y))))
    return inside


def _path(style: str, points: Sequence[tuple[float, float]]) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{places}"/>'


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{html_text(text)}</text>'


def _svg(about: str, parts: Sequence[str]) -> str:
    """Readers of the screen hear `about` instead of every number on the axes."""
    start = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html_text(about)}">'
    return start + "".join(parts) + "</svg>"
