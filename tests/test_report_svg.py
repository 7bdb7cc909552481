"""Charts as markup: where bars and lines lie."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from diffusionad.report import svg
from diffusionad.report.svg import Line

RIGHT = svg.WIDTH - svg.RIGHT


def drawing(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def texts(root: ElementTree.Element) -> list[str]:
    return [node.text for node in root.iter("text")]


def points(root: ElementTree.Element, style: str) -> np.ndarray:
    [line] = [node for node in root.iter("polyline") if node.get("class") == style]
    return np.array([pair.split(",") for pair in line.get("points").split()], float)


def counts(root: ElementTree.Element, style: str) -> list[int]:
    bars = [node for node in root.iter("rect") if node.get("class") == style]
    return [int(re.match(r"\d+", bar.find("title").text)[0]) for bar in bars]


@pytest.mark.parametrize("least", [0.0, 1e-4])  # of which the second has a logarithmic axis
def test_a_histogram_counts_every_score_once(least):
    rng = np.random.default_rng(0)
    good, bad = [least, *rng.random(49)], (rng.random(70) + 0.5).tolist()
    root = drawing(svg.histogram(good, bad, 0.9, 'a "b"'))
    assert sum(counts(root, "good")) == 50
    assert sum(counts(root, "defective")) == 70
    assert root.get("aria-label") == 'a "b"'
    assert "threshold 0.9" in texts(root)
    for bar in root.iter("rect"):
        x, y, width, height = (float(bar.get(k)) for k in ("x", "y", "width", "height"))
        assert svg.LEFT <= x < x + width <= RIGHT
        assert svg.TOP <= y < y + height <= svg.HEIGHT - svg.BOTTOM + 0.11
    x = points(root, "threshold")[:, 0]
    assert svg.LEFT < x[0] == x[1] < RIGHT


def test_bars_lie_at_their_scores_and_are_as_high_as_their_counts():
    root = drawing(svg.histogram([0.0, 0.0, 0.0, 0.0], [1.0], None, "a"))
    good, bad = root.iter("rect")
    assert float(good.get("height")) == pytest.approx(4 * float(bad.get("height")), abs=0.3)
    assert float(good.get("x")) == pytest.approx(svg.LEFT, abs=1)
    assert float(bad.get("x")) > RIGHT - 20


def test_scores_over_decades_are_shown_on_a_logarithmic_axis():
    root = drawing(svg.histogram([1e-5, 1e-4, 0.5], [1e-3, 0.9], 0.01, "a"))
    assert "score, logarithmic" in texts(root)
    shown = [text for text in texts(root) if text in ("1e-05", "0.0001", "0.001", "0.01", "0.1")]
    assert shown == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]
    middle = points(root, "threshold")[0, 0]
    place = (np.log10(0.01) + 5) / (np.log10(0.9) + 5)
    assert middle == pytest.approx(svg.LEFT + place * (RIGHT - svg.LEFT), abs=0.1)
    for scores in ([0.0, 0.5], [-1.0, 3.0]):
        assert "score" in texts(drawing(svg.histogram(scores, [], None, "a")))


@pytest.mark.parametrize(
    ("good", "bad", "threshold"),
    [
        ([0.5], [], None),
        ([], [0.5], 0.5),
        ([0.0], [], 0.0),
        ([1e-30], [1e30], None),
        ([3], [4], -9),
    ],
)
def test_few_and_odd_scores_are_drawn(good, bad, threshold):
    root = drawing(svg.histogram(good, bad, threshold, "a"))
    assert sum(counts(root, "good")) == len(good)
    assert sum(counts(root, "defective")) == len(bad)
    assert len(texts(root)) < 30


def test_a_histogram_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one score, got none"):
        svg.histogram([], [], 0.5, "a")


def test_a_curve_goes_through_its_points():
    line = Line("a", [0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    root = drawing(svg.curves([line], "x", "y", "about", chance=True, point=(0.5, 0.25)))
    left, middle, right = points(root, "line a")
    width, height = RIGHT - svg.LEFT, svg.HEIGHT - svg.TOP - svg.BOTTOM
    assert left == pytest.approx([svg.LEFT, svg.HEIGHT - svg.BOTTOM])
    assert middle == pytest.approx([svg.LEFT + width / 2, svg.TOP])
    assert right == pytest.approx([RIGHT, svg.TOP])
    [dot] = root.iter("circle")
    assert float(dot.get("cx")) == pytest.approx(middle[0])
    assert float(dot.get("cy")) == pytest.approx(svg.TOP + 0.75 * height)
    assert len(points(root, "chance")) == 2


def test_what_lies_right_of_the_limit_is_cut_off():
    line = Line("b", [0.0, 0.2, 0.4, 1.0], [0.0, 0.4, 0.8, 1.0])
    root = drawing(svg.curves([line], "x", "y", "about", x_high=0.3))
    found = points(root, "line b")
    assert len(found) == 3
    assert found[-1, 0] == pytest.approx(RIGHT)
    height = svg.HEIGHT - svg.TOP - svg.BOTTOM
    assert found[-1, 1] == pytest.approx(svg.TOP + 0.4 * height, abs=0.1)  # 0.6 at 0.3
    assert "0.30" in texts(root)
