"""Pictures: colours, overlay and the panel of one image."""

from __future__ import annotations

import numpy as np
import pytest

from diffusionad import plots
from diffusionad.synthesis import SynthesisOptions, synthesize_stages


def stages(size: int = 32, *, full: bool = True) -> plots.Stages:
    rng = np.random.default_rng(0)
    pictures = rng.random((6, 3, size, size), dtype=np.float32)
    score_map = np.zeros((size, size), np.float32)
    score_map[8:12, 8:12] = 0.9
    if not full:
        return plots.Stages(pictures[0], score_map)
    mask = np.zeros((size * 2, size * 2), np.bool_)
    mask[16:24, 16:24] = True
    return plots.Stages(pictures[0], score_map, mask, *pictures[1:])


def test_colours_rise_in_lightness_and_are_clipped():
    colours = plots.colormap(np.linspace(0, 1, 256)[None])
    assert colours.shape == (1, 256, 3)
    assert colours.dtype == np.uint8
    lightness = colours[0].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.8).all()  # rounding to whole bytes may step back
    assert lightness[-1] > 240 > 10 > lightness[0]
    ends = plots.colormap(np.array([[-5.0, 5.0]]))
    np.testing.assert_array_equal(ends[0], colours[0, [0, -1]])
    half = plots.colormap(np.array([[1.0]]), 0.0, 2.0)
    assert np.abs(half[0, 0].astype(int) - colours[0, 127]).max() <= 2


def test_overlay_marks_the_hot_spot_and_outlines_the_mask():
    image = np.full((16, 16, 3), 100, np.uint8)
    score_map = np.zeros((16, 16), np.float32)
    score_map[4:8, 4:8] = 1.0
    mask = score_map > 0
    plain = plots.overlay(image, score_map)
    assert (plain[0, 0] == 85).all()
    assert plain[5, 5].astype(int).sum() > 400
    outlined = plots.overlay(image, score_map, mask)
    changed = (outlined != plain).any(axis=2)
    assert changed.sum() == 16  # four sides of four pixels, just outside
    assert not (changed & mask).any()


def test_panel_has_one_tile_per_stage():
    full, short = plots.panel(stages(), tile=48), plots.panel(stages(full=False), tile=48)
    assert full.dtype == np.uint8
    assert full.shape[0] == short.shape[0]
    assert full.shape[1] - short.shape[1] == 6 * (48 + plots._GAP)
    left = plots._GAP
    top = plots._CAPTION + plots._LABEL
    tile = full[top : top + 48, left : left + 48]
    assert tile.std() > 20  # the input is there, and not the background


def test_panel_shows_score_verdict_and_long_names():
    plain = plots.panel(stages(full=False), tile=64)
    for options in (
        {"name": "x" * 500},
        {"score": 0.25},
        {"score": 0.25, "threshold": 0.1},
        {"score": 0.25, "threshold": 0.5},
        {"defect": "größe"},
        {"defect": "two\nlines\x00"},
    ):
        drawn = plots.panel(stages(full=False), tile=64, **options)
        assert drawn.shape == plain.shape
        assert (drawn[: plots._CAPTION] != plain[: plots._CAPTION]).any()
        np.testing.assert_array_equal(drawn[plots._CAPTION :], plain[plots._CAPTION :])


def test_a_tiny_defect_stays_visible():
    mask = np.zeros((1000, 1000), np.bool_)
    mask[500:510, 500:510] = True
    scaled = plots._scaled_mask(mask, 100)
    assert scaled.sum() >= 1
    speck = np.zeros((1000, 1000), np.bool_)
    speck[501, 502] = True
    assert plots._scaled_mask(speck, 100).sum() == 1


def test_contact_sheet_stacks_panels():
    panels = [np.full((10, 30, 3), 200, np.uint8), np.full((20, 50, 3), 100, np.uint8)]
    sheet = plots.contact_sheet(panels)
    assert sheet.shape == (10 + 20 + 2 * plots._GAP, 50, 3)
    assert (sheet[:10, :30] == 200).all()
    assert (sheet[10 + plots._GAP :][:20] == 100).all()
    titled = plots.contact_sheet(panels, "title")
    assert titled.shape[0] > sheet.shape[0]
    with pytest.raises(ValueError, match="at least one panel"):
        plots.contact_sheet([])


def test_a_row_of_synthesis_shows_each_stage_in_its_place():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    part = np.zeros((2, 32, 32), np.float32)
    part[:, 8:24, 8:24] = 1.0
    options = SynthesisOptions(anomaly_probability=1.0)
    stages = synthesize_stages(images, part * [[[1.0]], [[0.0]]] > 0, None, (1, 2), options)
    assert stages.labels.tolist() == [1, 0]
    rows = [plots.synthesis_row(images[i], stages, i, name="a.png", tile=32) for i in (0, 1)]
    assert rows[0].shape == rows[1].shape == (30 + 18 + 32 + 6, 6 + 6 * 38, 3)

    def tile(row: int, index: int) -> np.ndarray:
        return rows[row][48:80, 6 + index * 38 :][:, :32]

    np.testing.assert_array_equal(tile(0, 0), images[0])
    np.testing.assert_array_equal(tile(0, 1)[..., 0], part[0] * 255)
    np.testing.assert_array_equal(tile(0, 3)[..., 1], stages.masks[0, 0] * 255)
    changed = (tile(0, 5) != tile(0, 0)).any(axis=2)
    assert changed.any()
    assert not changed[part[0] == 0].any()
    np.testing.assert_array_equal(tile(1, 5), images[1])  # no place: the image as it is
    assert not tile(1, 1).any()
