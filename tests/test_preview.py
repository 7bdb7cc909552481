"""The contact sheet of synthetic anomalies: its stages, its rows, its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import fails, run

from diffusionad import datasets
from diffusionad.errors import InputError
from diffusionad.images import read_image
from diffusionad.preview import preview

KEYS = {"sheet", "category", "kind", "foreground", "seed", "versions", "images"}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A dataset of one category: ten images, each a dark square on a plain background."""
    good = tmp_path / "data" / "part" / "train" / "good"
    good.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(10):
        pixels = rng.integers(195, 205, (60, 60, 3), dtype=np.uint8)
        pixels[15:45, 15:45] = 40
        Image.fromarray(pixels).save(good / f"{index}.png")
    test = tmp_path / "data" / "part" / "test" / "good"
    test.mkdir(parents=True)
    Image.fromarray(pixels).save(test / "0.png")
    return tmp_path / "data"


def test_anomalies_lie_on_the_object(parts: Path) -> None:
    made = preview(datasets.open(parts, category="part"), count=4, size=64)
    assert [path.name for path in made.paths] == ["0.png", "3.png", "6.png", "9.png"]
    assert made.foreground == "found"
    assert made.stages.labels.all()
    square = np.zeros((64, 64), np.bool_)
    square[15:49, 15:49] = True
    assert not made.stages.masks[:, 0, ~square].any()
    assert made.stages.parts[:, 0, 20:44, 20:44].all()


def test_the_same_seed_makes_the_same_anomalies(parts: Path) -> None:
    data = datasets.open(parts, category="part")
    one, same, other = (preview(data, count=3, size=32, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.stages.samples, same.stages.samples)
    assert not np.array_equal(one.stages.samples, other.stages.samples)


def test_more_rows_than_images_take_images_again(parts: Path) -> None:
    made = preview(datasets.open(parts, category="part"), count=25, size=16)
    assert len(made.paths) == 25
    assert len(set(made.paths)) == 10
    assert len(made.panels(tile=20)) == 25


def test_textures_and_masks_of_ones_own(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "red").mkdir()
    mask = np.zeros((60, 60), np.uint8)
    mask[:15] = 255
    for index in range(10):
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red" / "a.png")
    data = datasets.open(parts, category="part", kind="texture")
    made = preview(data, tmp_path / "red", tmp_path / "masks", count=6, size=64)
    assert made.foreground == "masks"
    assert not made.stages.masks[:, 0, 17:].any()
    for appearance in made.stages.appearances:
        assert len(np.unique(appearance.reshape(3, -1), axis=1).T) <= 300  # red, turned on black
    free = preview(data, count=6, size=64)
    assert free.foreground is None
    assert free.stages.parts.min() == 0
    assert free.stages.parts[:, 0, 17:].any()


def test_a_dataset_without_good_images_is_named(parts: Path) -> None:
    data = datasets.open(parts, category="part")
    empty = type(data)(**{**vars(data), "train": []})
    with pytest.raises(InputError, match="no images to train on"):
        preview(empty)


def test_the_command_writes_a_row_per_image(
    capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "new" / "sheet.png", tmp_path / "report.json"
    options = ("--count", 3, "--image-size", 48, "--seed", 5, "--json", report)
    assert run("synthesize", parts, "--category", "part", "--out", out, *options) == 0
    assert f"3 anomalies on 3 images: {out}" in capsys.readouterr().out
    values = json.loads(report.read_text())
    assert set(values) == KEYS
    assert (values["kind"], values["foreground"], values["seed"]) == ("object", "found", 5)
    assert len(values["images"]) == 3
    for row in values["images"]:
        assert 0 < row["mask"] < row["foreground"] < 0.3
    sheet = read_image(out)
    assert sheet.shape[1] == 6 + 6 * (160 + 6)
    assert sheet.shape[0] > 3 * 160
    # The foreground's tile: black around the square, white within.
    top, left = 34 + 48, 6 + 166
    tile = sheet[top : top + 160, left : left + 160]
    assert tile[:35].max() == 0
    assert tile[60:100, 60:100].min() == 255
    first = out.read_bytes()
    arguments = ("synthesize", parts, "--category", "part", "--out", out, *options)
    assert run(*arguments, "--threads", 1, "--quiet") == 0
    assert out.read_bytes() == first


def test_a_folder_where_the_sheet_should_be(
    capsys: pytest.CaptureFixture[str], parts: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").mkdir()
    words = fails(capsys, 1, "synthesize", parts, "--category", "part", "--out", tmp_path / "a.png")
    assert "a.png: cannot write" in words
