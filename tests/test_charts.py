"""Curves and grids as pixels: where the lines lie, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from diffusionad import charts, plots
from diffusionad.charts import Curve, line_chart

BLUE = np.array(charts.COLOURS[0])


def heights(picture: np.ndarray) -> dict[int, float]:
    """Mean row of the blue pixels in each column that has any, below the legend."""
    body = picture[charts.TOP : charts.HEIGHT - charts.BOTTOM + 1].astype(int)
    blue = np.abs(body - BLUE).sum(axis=2) < 60
    rows = np.arange(len(blue))[:, None]
    return {
        int(x): float((rows * blue)[:, x].sum() / blue[:, x].sum())
        for x in np.flatnonzero(blue.any(axis=0))
    }


def test_a_rising_curve_rises_from_left_to_right():
    picture = line_chart({"AUROC": Curve([0, 50, 100], [10, 20, 40])}, x_title="t", y_title="%")
    assert picture.shape == (charts.HEIGHT, charts.WIDTH, 3)
    assert picture.dtype == np.uint8
    found = heights(picture)
    columns = sorted(found)
    assert columns[-1] - columns[0] > 0.8 * (charts.WIDTH - charts.LEFT - charts.RIGHT)
    line = [found[x] for x in columns]
    assert line[0] - line[-1] > 100  # rows count downwards
    assert line[len(line) // 2] > (line[0] + line[-1]) / 2  # steeper on the right


def test_a_band_is_shaded_around_its_curve():
    bare = line_chart({"a": Curve([0, 1], [5, 5])}, x_title="x", y_title="y")
    band = line_chart({"a": Curve([0, 1], [5, 5], [3, 3], [7, 7])}, x_title="x", y_title="y")

    def tinted(picture: np.ndarray) -> int:
        red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
        return int(((blue - red > 20) & (blue - red < 120)).sum())

    assert tinted(band) > tinted(bare) + 10_000


def test_the_marked_value_has_a_dashed_line():
    curves = {"a": Curve([0, 10], [1, 2])}
    plain, marked = (
        line_chart(curves, x_title="x", y_title="y", mark=mark) for mark in (None, 5.0)
    )
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    middle = charts.LEFT + (charts.WIDTH - charts.LEFT - charts.RIGHT) / 2
    assert changed.size
    assert np.abs(changed - middle).max() <= 4


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (5, 5), (0, 0), (97.31, 97.32), (-3, 4e6), (25, 300), (-1e-9, 1e-9)]
)
def test_ticks_are_few_even_and_hold_the_values(low, high):
    ticks = charts.ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= high - 1e-9 * abs(high)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])
    assert len({charts.tick_text(tick, ticks) for tick in ticks}) == len(ticks)


def test_one_point_and_odd_titles_are_drawn_and_nothing_is_refused():
    line_chart({"a": Curve([3], [4])}, x_title="x", y_title="y", title="a\nb")
    with pytest.raises(ValueError, match="curves: expected at least one point, got none"):
        line_chart({"a": Curve([], [])}, x_title="x", y_title="y")


def test_a_grid_has_its_tiles_in_rows_and_columns():
    colours = np.arange(6, dtype=np.uint8).reshape(3, 2) * 40 + 20
    rows = [
        (f"row {i}\nmore\x00 text that is far too long for its column", [
            np.full((32, 32, 3), colours[i, j], np.uint8) for j in range(2)
        ])
        for i in range(3)
    ]  # fmt: skip
    picture = plots.grid(("left", "right"), rows, "title")
    for i in range(3):
        for j in range(2):
            y = 34 + plots._LABEL + plots._GAP + i * (32 + plots._GAP)
            x = plots._NAMES + j * (32 + plots._GAP)
            assert (picture[y : y + 32, x : x + 32] == colours[i, j]).all()
    with pytest.raises(ValueError, match="rows: expected at least one row, got none"):
        plots.grid(("a",), [])


def test_an_unknown_mask_is_grey():
    assert np.unique(plots.mask_picture(None, 8)).tolist() == [64]
    assert np.unique(plots.mask_picture(np.eye(8, dtype=bool), 8)).tolist() == [0, 255]
