"""The commands: arguments, exit codes, files, and one line for whatever is wrong."""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import fakes
import numpy as np
import pytest
from pages import Page
from PIL import Image

import diffusionad
from diffusionad import _core, checkpoints, commands, files, option_files
from diffusionad.cli import build_parser, main, parse_duration
from diffusionad.commands import training

COMMANDS = (
    "demo", "train", "evaluate", "predict", "benchmark", "ablate", "datasets", "synthesize",
    "convert", "export", "serve", "info", "completion",
)  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
    for name, value in fakes.patches():
        monkeypatch.setattr(diffusionad, name, value, raising=False)


def picture(path: Path, dark: bool = False, size: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size, 3), 200, np.uint8)
    if dark:
        pixels[5:20, 5:20] = 10
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """A dataset in MVTec's layout with one category, its defects dark squares."""
    part = tmp_path / "data" / "part"
    for index in range(4):
        picture(part / "train" / "good" / f"{index}.png")
    picture(part / "test" / "good" / "0.png")
    for defect in ("dent", "stain"):
        picture(part / "test" / defect / "0.png", dark=True)
        mask = np.zeros((40, 40), np.uint8)
        mask[5:20, 5:20] = 255
        (part / "ground_truth" / defect).mkdir(parents=True)
        Image.fromarray(mask).save(part / "ground_truth" / defect / "0_mask.png")
    return part.parent


@pytest.fixture
def model(tmp_path) -> Path:
    made = fakes.FakeModel(image_size=32, seed=0)
    made.threshold = 0.5
    made.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def run(*arguments: object) -> int:
    """The exit code, also where argparse leaves by itself."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """The one line on stderr of a call that ends with `code`."""
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_every_command_of_the_parser_has_its_function():
    assert set(commands.THEMES) == set(option_files.commands_of(build_parser()))
    for name, theme in commands.THEMES.items():
        module = importlib.import_module(f"diffusionad.commands.{theme}")
        assert callable(getattr(module, name))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_the_common_options(capsys, command):
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    for word in ("--json FILE", "--threads N", "--seed N", "--quiet", "--config FILE"):
        assert word in text
    assert f"diffusionad {command}" in text


def test_help_and_version(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {command}" in text for command in COMMANDS)
    assert run("--version") == 0
    assert capsys.readouterr().out == f"diffusionad {diffusionad.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["train"], "DATA"),
        (["train", "d"], "--out"),
        (["train", "d", "--out", "o", "--steps", "0"], "--steps: expected a whole number of 1"),
        (["train", "d", "--out", "o", "--time-budget", "soon"], "expected a time such as 90s"),
        (["train", "d", "--out", "o", "--time-budget", "1m", "--steps", "1"], "not allowed with"),
        (["train", "d", "--out", "o", "--preset", "huge"], "huge"),
        (["train", "d", "--out", "o", "--memory-budget", "-1"], "expected a number of GB of 0 or"),
        (["train", "d", "--out", "o", "--memory-budget", "nan"], "expected a number of GB of 0 or"),
        (["train", "d", "--out", "o", "--memory-budget", "8GB"], "expected a number of GB of 0 or"),
        (["synthesize", "d"], "--out"),
        (["synthesize", "d", "--out", "a.png", "--count", "0"], "--count: expected a whole"),
        (["synthesize", "d", "--out", "a.png", "--kind", "cloth"], "cloth"),
        (["evaluate", "m"], "DATA"),
        (["predict", "m", "--out", "o"], "IMAGE_OR_FOLDER"),
        (["info", "--seed", "-1"], "--seed"),
        (["info", "--threads", "5000"], "--threads: expected 1 to 1024"),
    ],
)
def test_bad_usage_is_one_line(capsys, arguments, words):
    assert words in fails(capsys, 2, *arguments)


def test_durations():
    cases = {"600": 600, "90s": 90, "20m": 1200, "1h": 3600, "1h30m": 5400, "0.5m": 30, "1H": 3600}
    assert {text: parse_duration(text) for text in cases} == cases
    for bad in ("", "0", "-5", "m", "10x", "1m1h", "nan", "1e3"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a time"):
            parse_duration(bad)


@pytest.mark.usefixtures("fake")
def test_bad_data_is_one_line_that_names_it(capsys, tmp_path, data, model):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    cases = [
        (["train", tmp_path / "none", "--out", out], "none: no such folder"),
        (["train", tmp_path / "empty", "--out", out], "empty: the folder is empty"),
        (["train", data, "--category", "prt", "--out", out], "no category 'prt'; there are: part"),
        (["train", data, "--layout", "x", "--out", out], "layout: no 'x'"),
        (["train", data, "--anomaly-source", "dtd", "--out", out], "dtd: no such folder"),
        (["train", data, "--foreground", tmp_path / "empty", "--out", out], "empty: no images"),
        (["train", data, "--foreground", "n.onnx", "--out", out], "n.onnx: no such file"),
        (["synthesize", data, "--out", "a.png", "--foreground", "n.onnx"], "n.onnx: no such file"),
        (["train", data, "--resume", "--out", out], "nothing to resume"),
        (["synthesize", tmp_path / "none", "--out", "a.png"], "none: no such folder"),
        (["synthesize", data, "--out", out], "expected a file that ends with .png"),
        (["synthesize", data, "--out", "a.png", "--count", 65], "--count: expected at most 64"),
        (["synthesize", data, "--out", "a.png", "--image-size", 2000], "at most 1024, got 2000"),
        (
            ["synthesize", data, "--out", "a.png", "--anomaly-source", tmp_path / "empty"],
            "empty: no images",
        ),
        (
            ["synthesize", data, "--out", "a.png", "--foreground", tmp_path / "empty"],
            "empty: no mask for 8 of 8 images",
        ),
        (["evaluate", tmp_path / "no.safetensors", data], "no.safetensors: no such file"),
        (["evaluate", tmp_path / "text.png", data], "text.png: not a complete safetensors file"),
        (["evaluate", model, tmp_path / "none"], "none: no such folder"),
        (["predict", model, tmp_path / "none.png", "--out", out], "none.png: no such file"),
        (["predict", model, tmp_path / "empty", "--out", out], "empty: no images"),
        (["predict", model, model, "--out", out], "not an image file by its name"),
        (["info", tmp_path / "text.png"], "text.png: not a complete"),
        (["info", "--json", tmp_path], "expected a file, got a folder"),
        (["evaluate", model, data, "--report", tmp_path], "expected a file, got a folder"),
        (["evaluate", model, data, "--report", "r", "--json", "r"], "expected two files, got one"),
    ]
    for arguments, words in cases:
        assert words in fails(capsys, 2, *arguments), arguments
    assert not out.exists()


@pytest.mark.usefixtures("fake")
def test_tiles_give_maps_of_the_images_size(capsys, tmp_path, data, model):
    photos = [picture(tmp_path / "photos" / f"{i}.png", size=50 + 30 * i) for i in range(2)]
    out, options = tmp_path / "p", ("--tiles", "--tile-overlap", 0.5, "--tile-size", 40)
    assert run("predict", model, tmp_path / "photos", "--out", out, *options) == 0
    assert "2 images scored" in capsys.readouterr().out
    expected = fakes.load(model).predict_tiled(
        [np.asarray(Image.open(path)) for path in photos], 40, 0.5
    )
    for index, side in enumerate((50, 80)):
        score_map = np.load(out / f"{index}.npy")
        assert score_map.shape == (side, side)
        np.testing.assert_array_equal(score_map, expected.maps[index])

    maps, report = tmp_path / "maps", tmp_path / "e.json"
    options = ("--tiles", "--heatmaps", maps, "--json", report)
    assert run("evaluate", model, data, *options) == 0
    result = json.loads(report.read_text())
    assert result["tiles"] == {"size": 32, "overlap": 0.25}
    assert result["resolution"] == "native"
    assert len(list(maps.iterdir())) == 3


@pytest.mark.usefixtures("fake")
def test_an_image_that_is_too_wide_is_passed_over_by_name(capsys, tmp_path, model):
    picture(tmp_path / "photos" / "a.png")
    Image.new("L", (70_000, 1)).save(tmp_path / "photos" / "b.png")
    line = fails(capsys, 2, "predict", model, tmp_path / "photos", "--out", tmp_path, "--quiet")
    assert "b.png: expected at most 65536 pixels a side" in line
    assert (tmp_path / "a.npy").exists()


@pytest.mark.usefixtures("fake")
def test_bad_tiles_are_one_line(capsys, tmp_path, data, model):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "p"
    for options, words in (
        (["--tile-size", 64], "--tile-size: expected --tiles with it"),
        (["--tile-overlap", 0], "--tile-overlap: expected --tiles with it"),
        (["--tiles", "--tile-overlap", 1], "overlap: expected 0 to 0.9, got 1.0"),
        (["--tiles", "--tile-overlap", "nan"], "overlap: expected 0 to 0.9, got nan"),
        (["--tiles", "--tile-overlap", "half"], "--tile-overlap: invalid float value: 'half'"),
        (["--tiles", "--tile-size", 0], "--tile-size: expected a whole number of 1 or more"),
    ):
        assert words in fails(capsys, 2, "predict", model, photo, "--out", out, *options)
        assert words in fails(capsys, 2, "evaluate", model, data, *options)
    options = ("--tiles", "--resolution", "model")
    line = fails(capsys, 2, "evaluate", model, data, "--quiet", *options)
    assert "resolution: tiles are measured at native, got 'model'" in line
    assert not out.exists()


@pytest.mark.usefixtures("fake")
def test_a_threshold_of_whole_images_is_not_one_of_tiles(capsys, tmp_path, data, model):
    photo, small = picture(tmp_path / "a.png"), "tiles of 32 px, overlap 0.25"
    for noted, tiles, warned in (
        ("whole images", ["--tiles"], "set on whole images, the scores of tiles of 32 px"),
        ("whole images", [], ""),
        (small, ["--tiles"], ""),
        (small, ["--tiles", "--tile-size", 64], "set on tiles of 32 px, overlap 0.25, the scores"),
        (small, [], "set on tiles of 32 px, overlap 0.25, the scores of whole images"),
        (None, ["--tiles"], ""),
    ):
        known = fakes.load(model)
        known.provenance = {} if noted is None else {"calibrated_on": noted}
        known.save(model)
        for command in (
            ("predict", model, photo, "--out", tmp_path / "p"),
            ("evaluate", model, data, "--resamples", 0),
        ):
            assert run(*command, *tiles) == 0
            said = capsys.readouterr().err
            assert warned in said
            assert ("the threshold was set on" in said) == bool(warned)


@pytest.mark.usefixtures("fake")
def test_a_mask_of_another_size_is_one_line(capsys, data, model):
    Image.new("L", (7, 9)).save(data / "part" / "ground_truth" / "dent" / "0_mask.png")
    line = fails(capsys, 2, "evaluate", model, data, "--quiet")
    assert "0_mask.png: the mask is 7x9 pixels, its image 40x40" in line
    mask = np.zeros((80, 80), np.uint8)
    mask[10:40, 10:40] = 255
    Image.fromarray(mask).save(data / "part" / "ground_truth" / "dent" / "0_mask.png")
    assert "80x80" in fails(capsys, 2, "evaluate", model, data, "--quiet")
    report = data / "e.json"
    assert run("evaluate", model, data, "--quiet", "--resize-masks", "--json", report) == 0
    assert json.loads(report.read_text())["pixel_auroc"] == 1.0


@pytest.mark.usefixtures("fake")
def test_a_place_that_cannot_be_written_is_one_line(capsys, tmp_path, data):
    (tmp_path / "file").touch()
    line = fails(capsys, 1, "train", data, "--out", tmp_path / "file" / "sub")
    assert "cannot make this folder" in line


def test_info_tells_versions_and_core(capsys, tmp_path):
    assert run("info", "--json", tmp_path / "i.json", "--threads", "3") == 0
    assert _core.simd_level() in capsys.readouterr().out
    value = json.loads((tmp_path / "i.json").read_text())
    assert value["threads"] == 3
    assert value["simd"] in value["simd_levels"]
    assert value["versions"]["numpy"] == np.__version__
    assert run("info", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_info_of_a_model(capsys, model):
    assert run("info", model) == 0
    text = capsys.readouterr().out
    for word in ("unet", "2 parameters", "image_size", "32", "0.5"):
        assert word in text
    assert run("info", model, "--json", "-", "--quiet") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["model"]["parameters"] == {"unet": 2, "seg": 2}


def test_what_an_untrusted_file_says_does_not_reach_the_terminal_raw(capsys, tmp_path):
    odd, file = "\x1b]0;owned\x07", tmp_path / "m.safetensors"
    one = {"w": np.ones(2, np.float32)}
    content = checkpoints.Checkpoint(one, one, {odd: odd}, {"by": odd, odd: odd})
    checkpoints.save_model(file, content)
    assert run("info", file) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.count(r"\x1b]0;owned\x07") == 5
    (tmp_path / "c.toml").write_text(f'"{json.dumps(odd)[1:-1]}" = 1')
    for arguments in (
        ("info", tmp_path / f"{odd}.safetensors"),
        ("info", "--config", tmp_path / "c.toml"),
    ):
        line = fails(capsys, 2, *arguments)
        assert "\x1b" not in line
        assert r"\x1b]0;owned\x07" in line


@pytest.mark.usefixtures("fake")
def test_train_evaluate_predict(capsys, tmp_path, data):
    out = tmp_path / "runs" / "part"
    assert run("train", data, "--category", "part", "--out", out, "--steps", 4, "--image-size", 32,
               "--seed", 7, "--json", tmp_path / "t.json") == 0  # fmt: skip
    captured = capsys.readouterr()
    assert "part (mvtec): 4 train, 1 test good, 2 test defective" in captured.out
    assert "train 4/4  3s left  20.0 images/s  total 0.2500" in captured.err
    trained = json.loads((tmp_path / "t.json").read_text())
    assert trained["provenance"]["train_steps"] == 4
    file = out / "model.safetensors"

    assert run("evaluate", file, data, "--category", "part", "--json", tmp_path / "new" / "e.json",
               "--heatmaps", tmp_path / "maps") == 0  # fmt: skip
    assert "image AUROC" in capsys.readouterr().out
    result = json.loads((tmp_path / "new" / "e.json").read_text())
    assert result["image_auroc"] == result["pixel_auroc"] == 1.0
    assert (result["seed"], result["train_steps"], result["category"]) == (7, 4, "part")
    page = tmp_path / "pages" / "r.html"
    assert run("evaluate", file, data, "--report", page, "--resamples", 9) == 0
    assert f"report    {page}" in capsys.readouterr().out
    assert "part (mvtec): 4 train, 1 test good" in Page.read(page).text
    drawn = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert drawn == ["dent_0.png", "good_0.png", "stain_0.png"]

    assert run("predict", file, data / "part" / "test", "--out", tmp_path / "p") == 0
    assert "3 images scored, 2 anomalous" in capsys.readouterr().out
    with (tmp_path / "p" / "scores.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["label"] for row in rows] == ["1", "0", "1"]
    assert Path(rows[0]["path"]) == data / "part" / "test" / "dent" / "0.png"
    score_map = np.load(tmp_path / "p" / "dent_0.npy")
    assert score_map.dtype == np.float32
    assert score_map.shape == (32, 32)
    assert score_map.max() == pytest.approx(float(rows[0]["score"]))
    assert (tmp_path / "p" / "dent_0.png").stat().st_size > 1000


def test_options_say_how_the_networks_are_run(capsys, tmp_path, data):
    model, file = diffusionad.DiffusionAD("tiny"), tmp_path / "m.safetensors"
    model.save(file)
    photo = picture(tmp_path / "photo.png", dark=True, size=64)

    def found(*options: str) -> np.ndarray:
        assert run("predict", file, photo, "--out", tmp_path / "out", "--quiet", *options) == 0
        return np.load(tmp_path / "out" / "photo.npy")

    plain, fast = found(), found("--fast")
    np.testing.assert_array_equal(plain, model.predict([photo]).maps[0])
    np.testing.assert_array_equal(found("--low-memory"), plain)
    np.testing.assert_array_equal(fast, model.set_params(fast=True).predict([photo]).maps[0])
    assert not np.array_equal(fast, plain)
    report, page = tmp_path / "e.json", tmp_path / "e.html"
    options = ("--fast", "--low-memory", "--resamples", 0, "--json", report, "--report", page)
    assert run("evaluate", file, data, "--quiet", *options) == 0
    assert json.loads(report.read_text())["run_flags"] == ["fast", "low_memory"]
    assert f"{_core.simd_level()}, fast, low_memory" in Page.read(page).text
    _core.set_simd_level("baseline")
    for command in (("predict", file, photo, "--out", tmp_path / "out"), ("serve", file)):
        assert "--bfloat16: expected False" in fails(capsys, 2, *command, "--bfloat16")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("options", "as_it_is"),
    [
        ([], False),
        (["--steps", 9, "--seed", 5, "--kind", "object"], False),
        (["--batch-size", 64], True),
        (["--memory-budget", 0.5], True),
        (["--image-size", 64], True),
    ],
)
def test_what_a_preset_costs_is_said_with_what_changes_it(
    capsys, tmp_path, data, options, as_it_is
):
    assert run("train", data, "--out", tmp_path / "out", *options) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "on two cores" in line]
    assert line.endswith("(as it is)") == as_it_is


@pytest.mark.usefixtures("fake")
def test_quiet_prints_nothing(capsys, tmp_path, data, model):
    out = tmp_path / "out"
    assert run("train", data, "--out", out, "--quiet") == 0
    assert run("evaluate", model, data, "--quiet") == 0
    assert run("predict", model, data / "part" / "test", "--out", out, "--quiet") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.usefixtures("fake")
def test_a_model_is_not_replaced_unasked(capsys, tmp_path, data):
    out = tmp_path / "out"
    assert run("train", data, "--out", out, "--quiet") == 0
    before = (out / "model.safetensors").read_bytes()
    assert "exists already" in fails(capsys, 2, "train", data, "--out", out, "--seed", 3)
    assert (out / "model.safetensors").read_bytes() == before
    assert "--seed: this run has 0" in fails(
        capsys, 2, "train", data, "--out", out, "--resume", "--seed", 3
    )
    assert run("train", data, "--out", out, "--resume", "--quiet") == 0
    assert run("train", data, "--out", out, "--overwrite", "--seed", 3, "--quiet") == 0
    assert (out / "model.safetensors").read_bytes() != before


@pytest.mark.usefixtures("fake")
def test_predict_passes_over_what_it_cannot_read(capsys, tmp_path, model):
    folder = tmp_path / "photos"
    for name in ("a.png", "größe (1).JPG", "c.png"):
        picture(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    line = fails(capsys, 2, "predict", model, folder, "--out", tmp_path / "p", "--quiet")
    assert "b.png" in line
    with (tmp_path / "p" / "scores.csv").open(newline="", encoding="utf-8") as table:
        names = [Path(row["path"]).name for row in csv.DictReader(table)]
    assert names == ["a.png", "c.png", "größe (1).JPG"]


@pytest.mark.usefixtures("fake")
def test_predict_does_not_score_its_own_pictures(capsys, tmp_path, model, monkeypatch):
    folder = tmp_path / "photos"
    picture(folder / "a.png")
    picture(folder / "line" / "b.png")
    monkeypatch.chdir(folder)
    for images, out in ((".", "results"), (folder, "results"), ("line/..", folder / "results")):
        for _ in range(2):
            assert run("predict", model, images, "--out", out) == 0
            assert "2 images scored" in capsys.readouterr().out
    names = {"a.npy", "a.png", "b.npy", "b.png", "scores.csv"}
    assert {path.name for path in (folder / "results").iterdir()} == names
    assert run("predict", model, "results", "--out", tmp_path / "p", "--quiet") == 0
    assert run("predict", model, "line", "--out", folder, "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_predict_does_not_score_the_pictures_of_other_calls(capsys, tmp_path, model):
    folder = tmp_path / "photos"
    photos = [picture(folder / "a.png"), picture(folder / "line" / "b.jpg")]
    for images, out in ((folder, "model_a"), (photos[1], "line"), (folder, "model_b")):
        assert run("predict", model, images, "--out", folder / out) == 0
    said = capsys.readouterr()
    assert "2 images scored" in said.out.splitlines()[-1]
    for name in ("model_a", "line"):
        words = f"{folder / name}: holds results of an earlier call; their pictures are left out"
        assert said.err.count(words) == 1
    with (folder / "model_b" / "scores.csv").open(newline="") as table:
        assert [row["path"] for row in csv.DictReader(table)] == [str(path) for path in photos]
    assert run("predict", model, folder / "model_a", "--out", tmp_path / "p", "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_two_calls_of_predict_keep_apart(capsys, tmp_path, model):
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    predict = ("predict", model, image, "--out", out)
    with diffusionad.ResultFolder(out) as folder:
        before = (out / "scores.csv").read_bytes()
        assert "out: another run is writing to this folder" in fails(capsys, 2, *predict)
        assert (out / "scores.csv").read_bytes() == before
        folder.write(fakes.load(model).explain([image])[0])
    assert len((out / "scores.csv").read_text().splitlines()) == 2
    assert run(*predict, "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_results_may_lie_beside_a_model_that_is_trained(tmp_path, model):
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    with files.run_folder(out):
        assert run("predict", model, image, "--out", out, "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_a_table_that_a_killed_process_has_only_opened_is_replaced(tmp_path, model):
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "scores.csv").touch()
    assert run("predict", model, image, "--out", out, "--quiet") == 0
    assert len((out / "scores.csv").read_text().splitlines()) == 2


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("option", ["--json", "--report"])
def test_numbers_and_pages_replace_no_input(capsys, tmp_path, data, model, option):
    table = tmp_path / "parts.csv"
    table.write_text(f"path,label,split\n{picture(tmp_path / 'a.png')},good,train\n")
    for given, words in (
        (table, f"{table}: a result would replace this file, which is one of the inputs"),
        (model, f"{model}: a result would replace this file, which is one of the inputs"),
        (tmp_path / "a.png", f"{option} {tmp_path / 'a.png'}: expected the name of no image"),
    ):
        before = given.read_bytes()
        assert words in fails(capsys, 2, "evaluate", model, table, option, given)
        assert given.read_bytes() == before


@pytest.mark.usefixtures("fake")
def test_predict_does_not_write_over_a_folder_of_images(capsys, tmp_path, model):
    photo = picture(tmp_path / "photos" / "a.png")
    before = photo.read_bytes()
    for images in (photo.parent, photo):
        line = fails(capsys, 2, "predict", model, images, "--out", photo.parent)
        assert "photos: expected another folder than that of the images" in line
        assert photo.read_bytes() == before
    other = picture(tmp_path / "photos" / "b.jpg")
    for _ in range(2):  # its own results it may replace
        assert run("predict", model, other, "--out", photo.parent, "--quiet") == 0
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("names", [["b.npy", "b.png"], ["b.png"], ["scores.csv"]])
def test_predict_replaces_no_file_that_is_no_result(capsys, tmp_path, model, names):
    image, out = picture(tmp_path / "b.jpg"), tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_bytes(b"name,points\n")
    line = fails(capsys, 2, "predict", model, image, "--out", out)
    assert f"{names[0]}: a result would replace this file, which is no result itself" in line
    assert {path.name for path in out.iterdir()} == set(names)
    assert all(path.read_bytes() == b"name,points\n" for path in out.iterdir())
    for name in names:
        (out / name).unlink()
    for _ in range(2):  # its own results it may replace
        assert run("predict", model, image, "--out", out, "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_predict_replaces_no_image_that_it_is_given_by_another_name(capsys, tmp_path, model):
    photo, out = picture(tmp_path / "photos" / "a.png"), tmp_path / "out"
    image = picture(tmp_path / "a.jpg")
    assert run("predict", model, image, "--out", out, "--quiet") == 0
    (out / "a.png").unlink()
    (out / "a.png").symlink_to(photo)
    before = photo.read_bytes()
    line = fails(capsys, 2, "predict", model, photo.parent, "--out", out)
    assert "a.png: a result would replace this image" in line
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("fake")
def test_panels_do_not_go_among_the_images_of_the_dataset(capsys, tmp_path, data, model):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in data.rglob("*.png")}

    before, part = content(), data / "part"
    for folder in (part / "test" / "good", part / "train" / "good", part / "ground_truth" / "dent"):
        line = fails(capsys, 2, "evaluate", model, data, "--heatmaps", folder, "--resamples", 0)
        assert f"--heatmaps {folder}: expected another folder than that of the images" in line
    (tmp_path / "t.csv").write_text(
        "path,label,split\nx/a.png,good,train\nx/b.png,good,test\nx/c.png,bad,test\n"
    )
    for name in "abc":
        picture(tmp_path / "x" / f"{name}.png", dark=name == "c")
    picture(tmp_path / "x" / "d.png")
    table = ("evaluate", model, tmp_path / "t.csv", "--resamples", 0, "--quiet")
    line = fails(capsys, 2, *table, "--heatmaps", tmp_path / "x")
    assert "b.png: a result would replace this image, which is one of the inputs" in line
    assert content() == before


@pytest.mark.usefixtures("fake")
def test_nothing_is_written_among_the_images_to_train_on(capsys, tmp_path, data):
    good = data / "part" / "train" / "good"
    before = sorted(data.rglob("*"))
    words = "expected another folder than that of the images"
    for source in (good, data):
        line = fails(capsys, 2, "train", source, "--out", good)
        assert f"--out {good}: {words}" in line
        line = fails(capsys, 2, "synthesize", source, "--out", good / "x.png")
        assert f"--out {good / 'x.png'}: {words}" in line
        for study in ("benchmark", "ablate"):
            assert f"--out {good}: {words}" in fails(capsys, 2, study, source, "--out", good)
    textures = picture(tmp_path / "textures" / "a.png").parent
    out = textures / "runs"
    for command in ("train", "benchmark", "ablate"):
        line = fails(capsys, 2, command, data, "--anomaly-source", textures, "--out", out)
        assert f"--out {out}: {words}" in line
    assert sorted(data.rglob("*")) == before
    assert not out.exists()
    assert run("train", data, "--out", data / "runs", "--quiet") == 0  # which no layout reads
    assert run("synthesize", data, "--out", data / "x.png", "--image-size", 32, "--quiet") == 0
    picture(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "t.csv").write_text("path,label\na.png,good\n")
    assert run("train", tmp_path / "x" / "t.csv", "--out", tmp_path / "x", "--quiet") == 0


@pytest.mark.usefixtures("fake")
def test_a_run_replaces_nothing_that_it_is_trained_on(capsys, tmp_path):
    for name in ("curves", "1"):
        picture(tmp_path / f"{name}.png")
    text = "path,label\ncurves.png,0\n1.png,0\n"
    before = (tmp_path / "curves.png").read_bytes()
    for table in ("log.csv", "config.toml", "t.csv"):
        (tmp_path / table).write_text(text)
        command = ("train", tmp_path / table, "--layout", "table", "--out", tmp_path)
        named, what = (table, "file") if table != "t.csv" else ("curves.png", "image")
        assert f"{named}: a result would replace this {what}" in fails(capsys, 2, *command)
        assert (tmp_path / table).read_text() == text
        (tmp_path / table).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"1.png", "curves.png"}
    assert (tmp_path / "curves.png").read_bytes() == before


def test_a_sheet_of_anomalies_replaces_no_image_of_a_table(capsys, tmp_path):
    image = picture(tmp_path / "images" / "0.png")
    picture(tmp_path / "images" / "1.png")
    (tmp_path / "t.csv").write_text("path,label\nimages/0.png,0\nimages/1.png,0\n")
    before = image.read_bytes()
    line = fails(capsys, 2, "synthesize", tmp_path / "t.csv", "--out", image)
    assert "0.png: a result would replace this image" in line
    assert image.read_bytes() == before


@pytest.mark.usefixtures("fake")
def test_an_interrupt_keeps_what_is_finished(capsys, tmp_path, model, monkeypatch):
    for index in range(6):
        picture(tmp_path / "photos" / f"{index}.png")
    calls = []
    whole = fakes.FakeModel.explain

    def explain(self, images, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(images))
        return whole(self, images, **options)

    monkeypatch.setattr(fakes.FakeModel, "explain", explain)
    line = fails(capsys, 130, "predict", model, tmp_path / "photos", "--out", tmp_path / "p")
    assert "interrupted" in line
    rows = (tmp_path / "p" / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + calls[0]
    assert len(list((tmp_path / "p").glob("*.npy"))) == calls[0]


@pytest.mark.usefixtures("fake")
def test_demo(capsys, tmp_path, data, monkeypatch):
    monkeypatch.setattr(training, "bundled", lambda: training.open_dataset(data))
    monkeypatch.setattr(training.evaluation, "nearest_training_image", lambda _: 0.75)
    out = tmp_path / "demo"
    assert run("demo", "--out", out, "--image-size", 32, "--json", tmp_path / "d.json") == 0
    text = capsys.readouterr().out
    assert "nearest training image, without training: 0.7500" in text
    result = json.loads((tmp_path / "d.json").read_text())
    assert result == json.loads((out / "report.json").read_text())
    assert result["nearest_training_image_auroc"] == 0.75
    assert (out / "heatmaps.png").exists()
    assert len(list((out / "heatmaps").iterdir())) == 3
    assert "without training 0.7500" in Page.read(out / "report.html").text


@pytest.mark.usefixtures("fake")
def test_a_demo_replaces_no_model_but_a_demo(capsys, tmp_path, data, monkeypatch):
    dataset = training.open_dataset(data)
    monkeypatch.setattr(training, "bundled", lambda: dataset)
    monkeypatch.setattr(training.evaluation, "nearest_training_image", lambda _: 0.75)
    out = tmp_path / "demo"
    model, state = out / "model.safetensors", out / "state.safetensors"
    demo = ("demo", "--out", out, "--image-size", 32)
    assert run("train", data, "--out", out, "--quiet") == 0
    for images, ours in (("other", False), (dataset.fingerprint(train_only=True), True)):
        made = fakes.load(model)
        made.provenance["data"] = {"images": images}
        made.save(model)
        checkpoints.save_state(state, {}, {"images": "other"})
        before = [path.read_bytes() for path in (model, state)]
        named = state if ours else model
        words = f"{named}: exists already, and is no demo's; choose another --out"
        assert words in fails(capsys, 2, *demo)
        assert [path.read_bytes() for path in (model, state)] == before
    checkpoints.save_state(state, {}, {"images": images})
    assert run(*demo, "--quiet") == 0
    assert model.read_bytes() != before[0]
    model.write_bytes(b"broken")
    assert f"{model}: exists already" in fails(capsys, 2, *demo)


@pytest.mark.usefixtures("fake")
def test_a_report_that_cannot_be_written_leaves_the_numbers(capsys, tmp_path, data, model):
    numbers = tmp_path / "e.json"
    options = ("--json", numbers, "--report", "/dev/full", "--quiet")
    line = fails(capsys, 1, "evaluate", model, data, *options)
    assert line == "diffusionad evaluate: /dev/full: cannot write: no space left on device"
    assert json.loads(numbers.read_text())["image_auroc"] == 1.0


def test_failures_inside_are_one_line_unless_debugging(capsys, model, monkeypatch):
    def broken(path: str) -> None:
        raise MemoryError("cannot hold 9 GB")

    monkeypatch.setattr(checkpoints, "read_header", broken)
    assert "not enough memory: cannot hold 9 GB" in fails(capsys, 1, "info", model)
    monkeypatch.setenv("DIFFUSIONAD_DEBUG", "1")
    with pytest.raises(MemoryError):
        main(["info", str(model)])


def test_the_module_runs_and_stands_a_closed_pipe():
    done = subprocess.run(
        [sys.executable, "-m", "diffusionad", "info"], capture_output=True, text=True, check=True
    )
    assert "SIMD level" in done.stdout
    command = f"{sys.executable} -m diffusionad info | true"
    piped = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in piped.stderr


def shell(line: str, **names: object) -> subprocess.CompletedProcess[str]:
    """A line of bash in which run stands for a command line with fake models."""
    script = (
        "import sys; import fakes, diffusionad; from diffusionad.cli import main;"
        "[setattr(diffusionad, name, value) for name, value in fakes.patches()];"
        "sys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(Path(diffusionad.__file__).parents[1]), str(Path(__file__).parent)])
    program = f"run() {{ {sys.executable} -c '{script}' \"$@\"; }}; set -o pipefail; {line}"
    variables = {name: str(value) for name, value in names.items()}
    return subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, **variables, "PYTHONPATH": path},
    )  # fmt: skip


def test_a_reader_that_leaves_loses_no_result(tmp_path, data, model):
    names = {"data": data, "model": model, "out": tmp_path / "out", "json": tmp_path / "ev.json"}
    for redirected in ("", "2>&1"):
        done = shell(f"run evaluate $model $data --json $json {redirected} | true", **names)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
        assert json.loads((tmp_path / "ev.json").read_text())["image_auroc"] == 1.0
        page = tmp_path / f"page{len(redirected)}.html"
        done = shell(
            f"run evaluate $model $data --json - --report $page {redirected} | true",
            page=page, **names,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("Traceback"), page.exists()) == (0, 0, True)
        done = shell(f"run train $data --out $out --overwrite {redirected} | true", **names)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
        (tmp_path / "out" / "model.safetensors").unlink()
        (tmp_path / "ev.json").unlink()
    assert shell("run info --json - | true").returncode == 0


def test_closed_streams_are_no_failure(tmp_path, model):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    names = {"model": model, "photo": photo, "out": out}
    for line, code, said in (
        ("run info >&-", 0, ""),
        ("run --help >&-", 0, ""),
        ("run info --json - >&-", 0, ""),
        ("run predict $model $photo --out $out 2>&-", 0, "1 images scored"),
        ("run predict $model none --out $out 2>&-", 2, ""),
        ("run train 2>&-", 2, ""),
        ("run info >&- 2>&-", 0, ""),
    ):
        done = shell(line, **names)
        assert (done.returncode, done.stderr) == (code, ""), line
        assert done.stdout.startswith(said) if said else done.stdout == "", line
    assert (out / "scores.csv").exists()


def test_help_does_not_import_what_it_does_not_need():
    script = (
        "import sys; from diffusionad.cli import build_parser; build_parser().format_help();"
        "print([m for m in ('tqdm', 'PIL', 'safetensors', 'tomlkit') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
