"""`diffusionad ablate`: four rows from three trainings, sweeps, given models, interruptions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image
from test_benchmark import in_a_training, killed, plan_lengths, table_of, without_speed
from test_cli import fails, run
from test_evaluation import FIELDS

import diffusionad as dad
from diffusionad import ablation, charts, config, evaluation, studies
from diffusionad.datasets import Counts
from diffusionad.errors import InputError

pytestmark = pytest.mark.slow  # the fixture alone trains six models

SMALL = ("--steps", 3, "--image-size", 64, "--batch-size", 2, "--quiet")
SWEEP = ("--t-s", "50,3", "--t-b", "300")
OPTIONS = ("--category", "gear", "--seeds", "0,1", *SWEEP, *SMALL)
FILES = {
    "ablation.json", "ablation.csv", "ablation.md", "ablation.tex", "changes.csv", "changes.md",
    "changes.tex", "sweep_t_s.csv", "sweep_t_s.png", "repairs_t_s.png", "sweep_t_b.csv",
    "sweep_t_b.png", "repairs_t_b.png", "runs",
}  # fmt: skip


# Iterative denoising takes t_s steps: 200 of them would be a long wait.
SHORT = (
    "import dataclasses; from diffusionad import config; row = config.PRESETS['compact'];"
    "model = dataclasses.replace(row.model, t_s=20);"
    "config.PRESETS['compact'] = dataclasses.replace(row, model=model)\n"
)


@pytest.fixture(scope="module", autouse=True)
def _short():
    usual = dict(config.PRESETS)
    exec(SHORT, {})
    yield
    config.PRESETS.update(usual)


@pytest.fixture(autouse=True)
def _few_scales(monkeypatch):
    monkeypatch.setattr(ablation, "DEFAULT_T_S", (2,))
    monkeypatch.setattr(ablation, "DEFAULT_T_B", (300,))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    layouts.write(root, "mvtec", "gear", Counts(4, 2, 3), size=16)
    return root


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "a"
    assert run("ablate", data, "--out", out, *OPTIONS) == 0
    return out


def report(out: Path) -> dict:
    return json.loads((out / "ablation.json").read_text(encoding="utf-8"))


def model_of(out: Path, training: str, seed: int = 0) -> Path:
    return out / "runs" / training / f"seed-{seed}" / "model.safetensors"


# ---- rows -------------------------------------------------------------------------------------


def test_four_rows_from_three_trainings(data, done):
    assert {path.name for path in done.iterdir()} == FILES
    assert not list(done.rglob("state.safetensors"))
    result = report(done)
    rows = result["rows"]
    assert [(row["row"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("AE", "ITE", "OS", "OS+NG") for seed in (0, 1)
    ]
    assert all(set(row) == FIELDS | {"row", "training", "mode"} for row in rows)
    assert {row["train_steps"] for row in rows} == {3}
    dataset = dad.datasets.open(data)
    for name, mode in (("ITE", "iterative"), ("OS", "one_step")):
        model = dad.load(model_of(done, "unguided"))
        assert model.train_config.guidance == 0.0
        with studies.with_settings(model, dataset.train, mode=mode) as used:
            wanted = evaluation.evaluate(used, dataset)
        [row] = [row for row in rows if (row["row"], row["seed"]) == (name, 0)]
        assert row["pixel_auroc"] == wanted["pixel_auroc"]
    guided = dad.load(model_of(done, "guided")).train_config
    assert guided.guidance == 1.0
    assert (guided.t_s_range, guided.t_b_range) == ((0, 299), (300, 999))  # all that is swept over
    assert dad.load(model_of(done, "autoencoder")).config.mode == "autoencoder"


def test_table_and_changes_are_means_over_seeds(done):
    result = report(done)
    values = {(row["row"], row["seed"]): row["pixel_ap"] for row in result["rows"]}
    for row in result["table"]:
        pair = [values[row["row"], seed] for seed in (0, 1)]
        assert row["pixel_ap"] == pytest.approx(np.mean(pair))
        assert row["pixel_ap_spread"] == pytest.approx(np.std(pair, ddof=1))
    for change in result["changes"]:
        pair = [values[change["row"], s] - values[change["instead_of"], s] for s in (0, 1)]
        assert change["pixel_ap"] == pytest.approx(np.mean(pair), abs=1e-12)
        assert change["pixel_ap_spread"] == pytest.approx(np.std(pair, ddof=1), abs=1e-12)
    with (done / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["AE", "ITE", "OS", "OS+NG"]
    assert [float(row["aupro"]) for row in rows] == [row["aupro"] for row in result["table"]]
    assert "norm guidance" in (done / "changes.md").read_text()
    assert r"gear: per cent, protocol benchmark, seeds 0, 1" in (done / "ablation.tex").read_text()


def test_sweeps_measure_the_guided_model_at_each_scale(data, done):
    sweep = report(done)["sweep"]
    assert sorted((row["name"], row["value"], row["seed"]) for row in sweep) == [
        (name, value, seed)
        for name, value in (("t_b", 300), ("t_s", 3), ("t_s", 50))
        for seed in (0, 1)
    ]
    model, dataset = dad.load(model_of(done, "guided", 1)), dad.datasets.open(data)
    with studies.with_settings(model, dataset.train, t_s=50) as used:
        wanted = evaluation.evaluate(used, dataset, resamples=0)
    [row] = [r for r in sweep if (r["name"], r["value"], r["seed"]) == ("t_s", 50, 1)]
    assert row["pixel_auroc"] == wanted["pixel_auroc"]
    with (done / "sweep_t_s.csv").open(newline="") as file:
        values = [(int(row["value"]), int(row["seed"])) for row in csv.DictReader(file)]
    assert values == [(3, 0), (3, 1), (50, 0), (50, 1)]
    with Image.open(done / "sweep_t_s.png") as chart:
        assert chart.size == (charts.WIDTH, 3 * ablation.PANEL_HEIGHT)
    with (
        Image.open(done / "repairs_t_s.png") as wide,
        Image.open(done / "repairs_t_b.png") as narrow,
    ):
        assert wide.width > narrow.width  # two scales, one scale
        assert wide.height == narrow.height


# ---- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 4])  # in the first training, in the second
def test_killed_and_resumed_gives_the_same_tables(tmp_path, data, done, at):
    out = tmp_path / "a"
    killed(out, data, *OPTIONS, at=at, command="ablate", before=SHORT)
    assert list(out.rglob("state.safetensors"))
    assert run("ablate", data, "--out", out, *OPTIONS) == 0
    assert without_speed(report(out)) == without_speed(report(done))
    for name in ("sweep_t_s.png", "repairs_t_b.png", "sweep_t_b.csv"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_finished_rows_are_not_measured_again(capsys, tmp_path, data, done, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("measured again"))
    assert run("ablate", data, "--out", done, *OPTIONS[:-1], "--json", tmp_path / "r.json") == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 6
    for words in ("OS+NG", "diffusion, iterative denoising", "norm guidance", "times as fast"):
        assert words in text
    assert json.loads((tmp_path / "r.json").read_text()) == report(done)


def test_a_time_budget_gives_all_trainings_equal_steps(tmp_path, data, monkeypatch):
    plan_lengths(monkeypatch, 2)
    monkeypatch.setattr(ablation, "DEFAULT_T_S", ())
    arguments = ("--time-budget", "5s", "--test-images", 2, *SMALL[2:])
    assert run("ablate", data, "--out", tmp_path / "a", *arguments) == 0
    assert {row["train_steps"] for row in report(tmp_path / "a")["rows"]} == {2}


# ---- given models, parts of the work ----------------------------------------------------------


def test_given_models_are_measured_and_nothing_is_trained(tmp_path, data, done, monkeypatch):
    monkeypatch.setattr(dad.Trainer, "step", lambda *_: pytest.fail("trained"))
    names = ("guided", "unguided", "autoencoder")
    models = [part for name in names for part in ("--model", model_of(done, name))]
    out = tmp_path / "a"
    arguments = ("ablate", data, "--out", out, *SWEEP, "--quiet", *models)
    assert run(*arguments) == 0
    keys = ("row", "pixel_auroc", "aupro", "training", "seed")
    wanted = [{k: r[k] for k in keys} for r in report(done)["rows"] if r["seed"] == 0]
    assert [{k: r[k] for k in keys} for r in report(out)["rows"]] == wanted
    assert not (out / "runs").exists()
    assert "given models" in (out / "ablation.md").read_text()
    before = (out / "ablation.csv").read_bytes()
    assert run(*arguments) == 0  # goes on from there
    assert (out / "ablation.csv").read_bytes() == before


def test_one_diffusion_model_serves_all_its_rows(tmp_path, data, done):
    out = tmp_path / "a"
    arguments = ("--model", model_of(done, "guided"), "--t-s", "none", "--t-b", "none")
    assert run("ablate", data, "--out", out, *arguments, "--quiet") == 0
    rows = report(out)["rows"]
    assert [(row["row"], row["training"]) for row in rows] == [
        ("ITE", "guided"), ("OS", "guided"), ("OS+NG", "guided"),
    ]  # fmt: skip
    assert not list(out.glob("sweep*"))
    assert "| AE | autoencoder | - |" in (out / "ablation.md").read_text()


def test_fewer_test_images_are_of_every_kind(tmp_path, data, done):
    out = tmp_path / "a"
    arguments = ("--model", model_of(done, "guided"), "--t-s", "none", "--t-b", "none")
    assert run("ablate", data, "--out", out, *arguments, "--test-images", 3, "--quiet") == 0
    result = report(out)
    assert result["settings"]["test_images"] == 3
    assert {k: v["images"] for k, v in result["rows"][0]["per_defect"].items()} == {
        "broken": 1, "scratch": 1,
    }  # fmt: skip


def test_few_test_images_are_good_and_defective_ones_with_masks(tmp_path, data):
    root = shutil.copytree(data, tmp_path / "data")
    (root / "gear" / "test" / "scratch").rename(root / "gear" / "test" / "cut")
    (root / "gear" / "ground_truth" / "scratch").rename(root / "gear" / "ground_truth" / "cut")
    shutil.rmtree(root / "gear" / "ground_truth" / "broken")
    test = dad.datasets.open(root).test
    assert [sample.defect for sample in test] == ["broken", "broken", "cut", "good", "good"]

    def chosen(count: int) -> list[str]:
        return [sample.defect for sample in ablation._chosen(test, count)]

    assert chosen(2) == ["good", "cut"]
    assert chosen(3) == ["good", "good", "cut"]
    assert chosen(4) == ["good", "good", "broken", "cut"]
    assert sorted(chosen(9)) == sorted(sample.defect for sample in test)
    unknown = [sample for sample in test if sample.defect != "cut"]
    assert [sample.defect for sample in ablation._chosen(unknown, 2)] == ["good", "broken"]
    assert len(ablation._chosen(unknown[:2], 1)) == 1  # there are no others


# ---- refused ----------------------------------------------------------------------------------


def test_what_is_refused_is_one_line_that_names_it(capsys, tmp_path, data, done):
    out = tmp_path / "a"
    model = model_of(done, "guided")
    new = ["ablate", data, "--out", out, "--quiet"]
    again = ["ablate", data, "--out", done, "--category", "gear", *SMALL]
    cases = [
        ([*new, "--category", "gaer"], "no category 'gaer'; there are: gear"),
        ([*new, "--t-s", "400"], "t_s: expected 0 to 399, got 400"),
        ([*new, "--t-b", "5"], "t_b: expected 21 to 999, got 5"),
        ([*new, "--t-b", "x"], "expected a whole number of 0"),
        ([*new, "--test-images", 1], "test_images: expected 2 or more, to have good and defective"),
        ([*new, "--model", model, "--steps", 3], "--model: nothing is trained"),
        ([*new, "--model", model, "--model", model], "a second guided model of seed 0"),
        ([*new, "--model", tmp_path / "none"], "none: no such file"),
        ([*again, *SWEEP], "holds results with seeds 0, 1, this run has 0"),
        ([*again, "--seeds", "0,1", "--t-s", "50", "--t-b", "300"], "t_s 3, 50, this run has 50"),
        ([*again, "--seeds", "0,1", *SWEEP, "--test-images", 2], "test_images 5, this run has 2"),
        ([*again, "--seeds", "0,1", *SWEEP, "--model", model], "nothing is trained"),
    ]
    for arguments, words in cases:
        line = fails(capsys, 2, *arguments)
        assert words in line, line
    assert not out.exists()
    (tmp_path / "ablation.json").write_text("[")
    line = fails(capsys, 2, "ablate", data, "--out", tmp_path, *SMALL)
    assert "ablation.json: damaged" in line
    assert "/proc: cannot write" in fails(capsys, 1, "ablate", data, "--out", "/proc", *SMALL)
    bare = shutil.copytree(data, tmp_path / "bare")
    shutil.rmtree(bare / "gear" / "test")
    assert "no test images" in fails(capsys, 2, "ablate", bare, "--out", out, *SMALL)


@pytest.mark.parametrize("name", ["ablation.csv", "changes.csv", "sweep_t_s.csv"])
def test_results_that_would_replace_the_table_are_refused(capsys, tmp_path, name):
    rows = (("a.png", "good", "train"), ("b.png", "good", "test"), ("c.png", "cut", "test"))
    file = table_of(tmp_path, *rows).rename(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    line = fails(capsys, 2, "ablate", file, "--out", tmp_path, *SMALL)
    assert f"{name}: a result would replace this" in line
    with pytest.raises(InputError, match="a result would replace"):
        ablation.ablate(file, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_at_once_in_one_folder_are_refused(capsys, tmp_path, data):
    out = tmp_path / "a"
    arguments = ("ablate", data, "--out", out, *SMALL)
    with in_a_training(*arguments, before=SHORT):
        line = fails(capsys, 2, *arguments)
        assert "a: another run is writing to this folder" in line
