"""`diffusionad benchmark`: every category a row, killed and gone on with, refused where it must."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import fakes
import layouts
import numpy as np
import pytest
from pages import Page
from PIL import Image
from test_cli import fails, run
from test_commands import ENVIRONMENT, RUN
from test_evaluation import FIELDS

import diffusionad
from diffusionad import benchmark, checkpoints, evaluation, studies
from diffusionad.datasets import Counts, Dataset
from diffusionad.errors import InputError
from diffusionad.report import overview

SMALL = ("--steps", 3, "--image-size", 64, "--batch-size", 2, "--quiet")
FILES = {
    "benchmark.json", "table.csv", "table.md", "table.tex", "figure.png", "figures", "report.html",
    "reports", "runs",
}  # fmt: skip
OWN = {
    "nearest_training_image_auroc", "steps", "kind", "foreground", "images", "notes", "files",
}  # fmt: skip
# What a machine's speed decides; everything else of a table is the same after a kill.
MEASURED = {
    "images_per_second", "times_as_fast", "train_seconds", "evaluate_seconds", "peak_memory_mb",
    "wall_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three categories, one of the name and with the numbers of images of a public one's."""
    root = tmp_path_factory.mktemp("data") / "parts"
    for category in ("bolt_5%", "screw", "tile"):
        layouts.write(root, "mvtec", category, Counts(4, 2, 3), size=16)
    return root


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    """The folder of a benchmark with two seeds."""
    out = tmp_path_factory.mktemp("out") / "b"
    assert run("benchmark", data, "--out", out, "--seeds", "0,1", *SMALL) == 0
    return out


@pytest.fixture
def fake(monkeypatch):
    for name, value in fakes.patches():
        monkeypatch.setattr(diffusionad, name, value, raising=False)
    # Files of the fake are its own: they do not hold the images' fingerprint.
    monkeypatch.setattr(studies, "trained", lambda folder, model, dataset, *_: fakes.fit(
        model, dataset, folder))  # fmt: skip


def report(out: Path) -> dict:
    return json.loads((out / "benchmark.json").read_text(encoding="utf-8"))


def without_speed(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_speed(v) for k, v in value.items() if k not in MEASURED}
    return [without_speed(item) for item in value] if isinstance(value, list) else value


# ---- results ----------------------------------------------------------------------------------


def test_rows_means_and_files(data, done):
    assert {path.name for path in done.iterdir()} == FILES
    result = report(done)
    rows = result["rows"]
    assert [(row["category"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("bolt_5%", "screw", "tile") for seed in (0, 1)
    ]
    for row in rows:
        assert set(row) == FIELDS | OWN
        assert (row["protocol"], row["train_steps"], row["layout"]) == ("benchmark", 3, "mvtec")
        assert row["kind"] == ("texture" if row["category"] == "tile" else "object")
    assert [summary["seeds"] for summary in result["categories"]] == [[0, 1]] * 3
    for index, summary in enumerate(result["categories"]):
        pair = [row["aupro"] for row in rows[2 * index : 2 * index + 2]]
        assert summary["aupro"] == pytest.approx(np.mean(pair))
        assert summary["spread"]["aupro"] == pytest.approx(np.std(pair, ddof=1))
    means = [np.mean([row["pixel_ap"] for row in rows if row["seed"] == s]) for s in (0, 1)]
    assert result["mean"]["pixel_ap"] == pytest.approx(np.mean(means))
    assert result["mean"]["spread"]["pixel_ap"] == pytest.approx(np.std(means, ddof=1))
    assert (result["mean"]["categories"], result["failed"], result["finished"]) == (3, [], True)
    assert (result["seeds"], result["protocol"], result["dataset"]) == (
        [0, 1],
        "benchmark",
        "parts",
    )
    assert result["wall_seconds"] > 0
    assert result["versions"]["diffusionad"] == diffusionad.__version__
    assert not list(done.rglob("state.safetensors"))  # a finished training needs none
    with (
        Image.open(done / "figure.png") as figure,
        Image.open(done / "figures" / "tile.png") as part,
    ):
        assert figure.width == part.width
        assert figure.height >= 3 * part.height


def test_tables_for_people_and_programs(data, done):
    with (done / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = [row for row in rows if row["source"] == "diffusionad"]
    assert [row["category"] for row in ours] == ["bolt_5%", "screw", "tile", "mean"]
    for row, summary in zip(ours, report(done)["categories"], strict=False):
        assert float(row["aupro"]) == summary["aupro"]
        assert row["seeds"] == "0 1"
    latex = (done / "table.tex").read_text()
    assert r"bolt\_5\% & " in latex
    assert "bolt_5" not in latex.replace(r"bolt\_5", "")
    markdown = (done / "table.md").read_text()
    assert r"| bolt\_5% | " in markdown
    for text in (latex, markdown):
        assert "PatchCore" in text
        assert "mean of 3" in text
        assert "protocol benchmark, preset compact, seeds 0, 1" in text


def test_published_figures_stand_beside_known_categories_only(tmp_path, data, done):
    published = report(done)["published"]
    assert set(published["categories"]) == {"screw"}
    assert (published["dataset"], published["mean_of"]) == ("MVTec AD", 15)
    lines = (done / "table.md").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("| screw"))
    assert "98.0 | - | 98.7 | 62.3" in lines[place + 1]
    assert any("not the published images: 4/2/3" in line for line in lines)
    assert any("all 15 categories of MVTec AD, ours of 3" in line for line in lines)
    own = tmp_path / "own"
    layouts.write(own, "mvtec", "gear", Counts(4, 2, 3), size=16)
    assert run("benchmark", own, "--out", tmp_path / "o", *SMALL) == 0
    text = (tmp_path / "o" / "table.md").read_text()
    assert "PatchCore" not in text
    assert report(tmp_path / "o")["published"]["mean"] == []


def test_the_page_has_the_table_and_leads_to_each_category(data, done):
    page = Page.read(done / "report.html")
    for row in csv.reader((done / "table.md").read_text().splitlines()[4:8], delimiter="|"):
        cells = [cell.strip().replace("\\", "").replace("&emsp;", "") for cell in row[1:-1]]
        assert " ".join(cells) in page.text
    for words in ("PatchCore", "seeds 0, 1", "mean of 3 of 3 categories", "steps 3", "wall time"):
        assert words in page.text
    assert page.count("svg") == 3 * 4
    assert [picture.width for picture in page.pictures()] == [
        Image.open(done / "figures" / f"{name}.png").width
        for name in ("bolt_5%25", "screw", "tile")
    ]
    pages = [address for address in page.values("href") if address.endswith(".html")]
    assert pages == ["reports/bolt_5%2525.html", "reports/screw.html", "reports/tile.html"]
    for name, row in zip(("bolt_5%", "screw", "tile"), report(done)["rows"][::2], strict=True):
        part = Page.read(done / "reports" / f"{studies.run_name(name)}.html")
        assert f"Report: {name}" in part.text
        assert f"image AUROC {row['image_auroc']:.4f}" in part.text
        assert f"without training {row['nearest_training_image_auroc']:.4f}" in part.text
        assert part.count("figure", class_="example") == 5


def test_of_many_categories_not_all_have_charts(tmp_path, done, monkeypatch):
    out = shutil.copytree(done, tmp_path / "b")
    (out / "reports" / "tile.html").unlink()
    (out / "figures" / "bolt_5%25.png").write_bytes(b"cut")
    monkeypatch.setattr(overview, "DETAILED", 1)
    benchmark._write_page(out / "r.html", out, report(out))
    page = Page.read(out / "r.html")
    assert page.count("svg") == 4
    assert page.pictures() == []
    assert len([address for address in page.values("href") if address.endswith(".html")]) == 2
    assert page.text.count("pixel AUROC") > 4  # the numbers of all


def test_a_report_elsewhere_leads_into_the_folder(tmp_path, data, done):
    file = tmp_path / "pages" / "all.html"
    arguments = ("--seeds", "0,1", *SMALL, "--report", file)
    assert run("benchmark", data, "--out", done, *arguments) == 0
    pages = [address for address in Page.read(file).values("href") if address.endswith(".html")]
    for name, address in zip(("bolt_5%", "screw", "tile"), pages, strict=True):
        linked = (file.parent / unquote(address)).resolve()
        assert linked == done / "reports" / f"{studies.run_name(name)}.html"


def test_console_shows_the_table_and_json_is_the_report(capsys, tmp_path, data, done):
    file = tmp_path / "r.json"
    arguments = ["benchmark", data, "--out", done, "--seeds", "0,1", *SMALL[:-1]]
    assert run(*arguments, "--json", file) == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 6
    for words in ("bolt_5%", "mean of 3", "nearest image", "DiffusionAD (paper)", "AUPRO"):
        assert words in text
    assert json.loads(file.read_text()) == report(done)


# ---- interrupted ------------------------------------------------------------------------------


def killed(
    out: Path, data: Path, *options: object, at: int, command: str = "benchmark", before: str = ""
) -> None:
    """A study that kills itself after so many training steps, with a checkpoint at each."""
    script = (
        "import os, signal; from diffusionad import fitting, training;"
        "fitting.CHECKPOINT_SECONDS = 0.0; done, at = [], int(sys.argv.pop(1));"
        "step = training.Trainer.step\n"
        "def count(self, *given):\n"
        "    if len(done) == at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(1); return step(self, *given)\n"
        "training.Trainer.step = count\n"
    )
    arguments = [at, command, data, "--out", out, *options]
    process = subprocess.run(
        [sys.executable, "-c", "import sys\n" + before + script + RUN, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 8])  # before the first step; in the second category's second run
def test_killed_and_resumed_gives_the_same_table(tmp_path, data, done, at):
    out = tmp_path / "b"
    options = ("--seeds", "0,1", *SMALL)
    killed(out, data, *options, at=at)
    if at:
        assert [row["category"] for row in report(out)["rows"]] == ["bolt_5%", "bolt_5%"]
        assert not report(out)["finished"]
        assert list(out.rglob("state.safetensors"))
        assert "bolt" in (out / "table.md").read_text()
    assert run("benchmark", data, "--out", out, *options) == 0
    assert without_speed(report(out)) == without_speed(report(done))
    assert (out / "figure.png").read_bytes() == (done / "figure.png").read_bytes()


@pytest.mark.slow
def test_the_references_choice_is_the_same_after_a_kill(tmp_path, data):
    options = ("--categories", "tile", "--protocol", "reference", *SMALL)
    whole, out = tmp_path / "whole", tmp_path / "b"
    assert run("benchmark", data, "--out", whole, *options) == 0
    killed(out, data, *options, at=2)
    assert run("benchmark", data, "--out", out, *options) == 0
    assert without_speed(report(out)) == without_speed(report(whole))
    [row] = report(out)["rows"]
    assert row["protocol"] == "reference"
    [note] = [note for note in row["notes"] if "chosen by its test images" in note]
    assert note.endswith(f"step {row['train_steps']} of 3")
    best = checkpoints.read_header(out / "runs" / "tile" / "seed-0" / "best.safetensors")
    assert best.provenance["selected"]["step"] == row["train_steps"]
    # Watching a training does not change it.
    plain = tmp_path / "plain"
    assert run("benchmark", data, "--out", plain, "--categories", "tile", *SMALL) == 0
    models = [
        diffusionad.load(folder / "runs" / "tile" / "seed-0" / "model.safetensors")
        for folder in (plain, whole)
    ]
    first, second = (model.seg.state_dict() for model in models)
    assert all((first[name] == second[name]).all() for name in first)


def test_the_best_stage_is_kept_not_the_last(tmp_path, data, monkeypatch):
    scores = iter([1.0, 1.5, 1.2])
    monkeypatch.setattr(evaluation, "selection_score", lambda *_: next(scores))
    out = tmp_path / "b"
    options = ("--categories", "tile", "--protocol", "reference", *SMALL)
    assert run("benchmark", data, "--out", out, *options) == 0
    assert report(out)["rows"][0]["train_steps"] == 2


def judged(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float]
) -> list[diffusionad.DiffusionAD]:
    """The models that a reference benchmark judges, with these scores; all must be judged."""
    stages, left = [], iter(scores)

    def score(model: diffusionad.DiffusionAD, *_: object) -> float:
        stages.append(model)
        return next(left)

    monkeypatch.setattr(evaluation, "selection_score", score)
    arguments = ("--categories", "tile", "--protocol", "reference", *SMALL)
    assert run("benchmark", data, "--out", out, *arguments) == 0
    assert next(left, None) is None
    return stages


def test_the_last_stage_is_the_finished_model(tmp_path, data, monkeypatch):
    out = tmp_path / "b"
    stages = judged(out, data, monkeypatch, [1.0, 1.2, 1.5])
    folder = out / "runs" / "tile" / "seed-0"
    finished, best = (diffusionad.load(folder / f"{n}.safetensors") for n in ("model", "best"))
    images = [sample.path for sample in diffusionad.datasets.open(data, category="tile").test]
    for model in (best, stages[2]):
        assert model.normality is not None
        assert (model.predict(images).maps == finished.predict(images).maps).all()
    [row] = report(out)["rows"]
    assert row["train_steps"] == 3
    assert row["threshold"] == finished.threshold
    assert (
        row["pixel_auroc"]
        == evaluation.evaluate(
            finished, diffusionad.datasets.open(data, category="tile"), "reference"
        )["pixel_auroc"]
    )


def test_stages_are_judged_and_kept_as_they_would_be_used(tmp_path, data, monkeypatch):
    """With averaged weights, and maps measured by the training images."""
    trained = {}
    call = benchmark._Selection.__call__

    def noted(self: benchmark._Selection, p: diffusionad.Progress) -> None:
        trained[p.step] = self.model.unet.state_dict()
        call(self, p)

    monkeypatch.setattr(benchmark._Selection, "__call__", noted)
    page, shown = {}, benchmark.write_report
    monkeypatch.setattr(benchmark, "write_report", lambda path, result, model, dataset: (
        page.update(model.provenance), shown(path, result, model, dataset)))  # fmt: skip
    out = tmp_path / "b"
    first, best, last = judged(out, data, monkeypatch, [1.0, 1.5, 1.2])
    assert first.normality is not None
    assert best.normality is not None
    assert any((v != trained[2][k]).any() for k, v in best.unet.state_dict().items())
    kept = diffusionad.load(out / "runs" / "tile" / "seed-0" / "best.safetensors")
    assert (kept.normality.mean == best.normality.mean).all()
    assert (kept.normality.mean != last.normality.mean).any()
    again = diffusionad.load(out / "runs" / "tile" / "seed-0" / "best.safetensors")
    good = [s.path for s in diffusionad.datasets.open(data, category="tile").train]
    alignment = again.measure_normality(good)
    assert (kept.normality.mean == again.normality.mean).all()
    threshold = again.calibrate(good)
    [row] = report(out)["rows"]
    assert (row["train_steps"], row["threshold"]) == (2, threshold)
    assert page["alignment"] == round(alignment, 4)
    assert page["threshold"] == again.provenance["threshold"]
    assert page["selected_on_test_data"]


def test_a_stage_whose_judging_was_cut_short_is_judged_on_resume(tmp_path, data, monkeypatch):
    out = tmp_path / "b"
    arguments = ("--categories", "tile", "--protocol", "reference", *SMALL)

    def stopped(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "selection_score", stopped)
    assert run("benchmark", data, "--out", out, *arguments) == 130
    judged(out, data, monkeypatch, [1.5, 1.2, 1.0])
    assert report(out)["rows"][0]["train_steps"] == 1
    assert not list(out.rglob("stage.safetensors"))


def test_what_a_killed_training_chose_is_no_choice_of_the_next(tmp_path, data, monkeypatch):
    folder = tmp_path / "b" / "runs" / "tile" / "seed-0"
    folder.mkdir(parents=True)
    other = diffusionad.DiffusionAD("tiny", image_size=32)
    other.provenance["selected"] = {"step": 30, "score": 1.9}
    for name in (benchmark.BEST_FILE, benchmark.STAGE_FILE):
        other.save(folder / name)
    judged(tmp_path / "b", data, monkeypatch, [1.0, 1.5, 1.2])
    assert report(tmp_path / "b")["rows"][0]["train_steps"] == 2


def test_an_interrupt_ends_with_130_and_keeps_rows(capsys, tmp_path, data, monkeypatch):
    measure = evaluation.evaluate
    calls = []

    def interrupted(*given: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given, **options)

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    assert "kept" in fails(capsys, 130, "benchmark", data, "--out", tmp_path / "b", *SMALL)
    assert [row["category"] for row in report(tmp_path / "b")["rows"]] == ["bolt_5%"]


def plan_lengths(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Time budgets are turned into these numbers of steps, one after the other."""
    lengths = iter(steps)
    monkeypatch.setattr(
        diffusionad.fitting.Fit, "_steps_within", lambda self, budget: next(lengths)
    )
    monkeypatch.setattr(diffusionad.fitting.Fit, "_keep_to_budget", lambda self, per_step: None)


def test_a_time_budget_gives_every_seed_of_a_category_as_many_steps(tmp_path, data, monkeypatch):
    plan_lengths(monkeypatch, 2, 1)
    arguments = ["--categories", "screw,tile", "--seeds", "0,1", "--time-budget", "5s", *SMALL[2:]]
    assert run("benchmark", data, "--out", tmp_path / "b", *arguments) == 0
    steps = [row["train_steps"] for row in report(tmp_path / "b")["rows"]]
    assert steps == [2, 2, 1, 1]


def test_the_first_seeds_steps_are_the_others_though_its_row_failed(tmp_path, data, monkeypatch):
    plan_lengths(monkeypatch, 2, 1)
    arguments = ["--categories", "tile", "--seeds", "0,1", "--time-budget", "5s", *SMALL[2:]]
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate", lambda *_, **__: math.log(-1))
        assert run("benchmark", data, "--out", tmp_path / "b", *arguments) == 1
    assert run("benchmark", data, "--out", tmp_path / "b", *arguments) == 0
    assert [row["train_steps"] for row in report(tmp_path / "b")["rows"]] == [2, 2]


def test_results_are_made_again_from_trainings_where_their_file_is_gone(tmp_path, data, done):
    out = shutil.copytree(done, tmp_path / "b")
    (out / "benchmark.json").unlink()
    left = [out / ".report.html.ab12.tmp", out / "reports" / ".bolt_5%25.html.ab12.tmp"]
    for file in left:  # by a process that was killed
        file.touch()
    models = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert run("benchmark", data, "--out", out, "--seeds", "0,1", *SMALL) == 0
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert without_speed(report(out)) == without_speed(report(done))
    assert not any(file.exists() for file in left)


# ---- what cannot be done ----------------------------------------------------------------------


def test_trainings_of_another_length_are_not_taken_over(tmp_path, data, done):
    out = shutil.copytree(done, tmp_path / "b")
    (out / "benchmark.json").unlink()
    assert run("benchmark", data, "--out", out, "--seeds", "0,1", *SMALL, "--steps", 4) == 1
    for row in report(out)["rows"]:
        assert "a training with steps 3, this study has 4" in row["error"]


def test_a_category_that_cannot_be_done_does_not_stop_the_others(capsys, tmp_path, data):
    root = shutil.copytree(data, tmp_path / "data")
    next((root / "bolt_5%" / "train" / "good").iterdir()).unlink()
    broken = root / "bolt_5%" / "train" / "good" / "zz.png"
    broken.write_bytes(b"\x89PNG")
    shutil.rmtree(root / "screw" / "test")
    shutil.rmtree(root / "tile" / "ground_truth" / "broken")
    out = tmp_path / "b"
    assert run("benchmark", root, "--out", out, *SMALL) == 1
    result = report(out)
    assert result["failed"] == ["bolt_5%", "screw"]
    first, second, third = result["rows"]
    assert "zz.png" in first["error"]
    assert "no test images" in second["error"]
    assert first["aupro"] is None
    assert FIELDS - set(first) == {
        "resolution", "fpr_limit", "tiles", "confidence", "curves", "scores", "threshold",
    }  # fmt: skip
    assert "error" not in third
    assert third["notes"][1:2] == ["2 of 3 defective images have no mask: not in the pixel metrics"]
    assert result["mean"]["categories"] == 1
    text = (out / "table.md").read_text()
    assert r"| bolt\_5% | - | - |" in text
    assert "screw: " in text
    page = Page.read(out / "report.html")
    assert f"failed: {second['error']}" in page.text
    assert page.count("svg") == 4
    # Mended, it is tried again, and the others are not.
    broken.unlink()
    finished = out / "runs" / "tile" / "seed-0" / "model.safetensors"
    before = finished.stat().st_mtime_ns
    assert run("benchmark", root, "--out", out, *SMALL) == 1
    assert report(out)["failed"] == ["screw"]
    assert finished.stat().st_mtime_ns == before


def test_a_training_that_diverges_is_a_row_that_says_so(tmp_path, data, monkeypatch):
    def diverge(self: object, *_: object) -> None:
        raise FloatingPointError("the loss is nan at iteration 0")

    monkeypatch.setattr(diffusionad.Trainer, "step", diverge)
    out = tmp_path / "b"
    assert run("benchmark", data, "--out", out, *SMALL) == 1
    assert {row["error"] for row in report(out)["rows"]} == {"the loss is nan at iteration 0"}
    assert report(out)["mean"]["aupro"] is None
    assert "figure.png" not in {path.name for path in out.iterdir()}


@pytest.mark.parametrize(("kind", "other"), [("good", "defective"), ("broken", "good")])
def test_one_class_only_is_said_and_measured_as_far_as_it_goes(tmp_path, fake, kind, other):
    root = tmp_path / "data"
    layouts.write(root, "mvtec", "gear", Counts(4, 2, 3), size=16)
    for folder in (root / "gear" / "test").iterdir():
        if folder.name != kind:
            shutil.rmtree(folder)
    assert run("benchmark", root, "--out", tmp_path / "b", *SMALL) == 0
    [row] = report(tmp_path / "b")["rows"]
    assert row["image_auroc"] is None
    assert (row["pixel_auroc"] is None) == (kind == "good")
    words = "all test images are " + {"good": "good", "broken": "defective"}[kind]
    assert any(note.startswith(words) for note in row["notes"])


def test_names_that_are_no_folders_names(tmp_path, fake):
    root = tmp_path / "data"
    layouts.write(root, "mvtec", "x", Counts(4, 2, 3), size=16)
    lines = ["path,label,split,category"]
    for category in ("a/b", "..", "ü & 1"):
        for part, label in (("train/good", "good"), ("test/good", "good"), ("test/broken", "1")):
            lines += [f"x/{part}/{p.name},{label},{part[:part.index('/')]},{category}"
                      for p in (root / "x" / part).iterdir()]  # fmt: skip
    (root / "parts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out" / "b"
    assert run("benchmark", root / "parts.csv", "--out", out, *SMALL) == 0
    assert {row["category"] for row in report(out)["rows"]} == {"a/b", "..", "ü & 1"}
    assert {path.name for path in (out / "runs").iterdir()} == {"a%2Fb", "%2E%2E", "%C3%BC %26 1"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    assert r"ü \& 1" in (out / "table.tex").read_text(encoding="utf-8")
    page = Page.read(out / "report.html")
    for name, address in (
        ("a/b", "a%252Fb"),
        ("..", "%252E%252E"),
        ("ü & 1", "%25C3%25BC%20%2526%201"),
    ):
        assert f"Report of {name}:" in page.text
        assert f"reports/{address}.html" in page.values("href")
        assert (out / unquote(f"reports/{address}.html")).exists()


# ---- what is refused --------------------------------------------------------------------------


def test_what_is_refused_is_one_line_that_names_it(capsys, tmp_path, data, done):
    out = tmp_path / "b"
    again = ["benchmark", data, "--out", done, *SMALL]
    cases = [
        ([*again, "--seeds", "0"], "b: holds results with seeds 0, 1, this run has 0"),
        ([*again, "--seeds", "0,1", "--protocol", "reference"], "protocol benchmark, this run has"),
        ([*again, "--seeds", "0,1", "--steps", 4], "steps 3, this run has 4"),
        ([*again, "--seeds", "0,1", "--categories", "tile"], "categories bolt_5%, screw, tile"),
        ([*again, "--seeds", "0,1", "--kind", "texture"], "kind auto, this run has texture"),
        ([*again, "--seeds", "0,1", "--seed", 3], "--seed, --seeds: expected one of the two"),
        (["benchmark", data, "--out", out, *SMALL, "--categories", "tile,til"],
         "no category 'til'; there are: bolt_5%, screw, tile"),
        (["benchmark", data, "--out", out, "--categories", "a,,b"], "expected names between"),
        (["benchmark", data, "--out", out, "--seeds", "0,x"], "expected a whole number of 0"),
        (["benchmark", data, "--out", out, *SMALL, "--image-size", 50], "image_size: expected"),
        (["benchmark", data, "--out", out, *SMALL, "--anomaly-source", tmp_path], "no images"),
        (["benchmark", tmp_path / "none", "--out", out, *SMALL], "none: no such folder"),
        (["benchmark", data, "--out", out, *SMALL, "--layout", "x"], "layout: no 'x'"),
    ]  # fmt: skip
    before = (done / "benchmark.json").read_bytes()
    for arguments, words in cases:
        line = fails(capsys, 2, *arguments)
        assert words in line, line
    assert (done / "benchmark.json").read_bytes() == before
    assert not out.exists()


def table_of(root: Path, *named: tuple[str, str, str]) -> Path:
    """A table of path, label and split, with pictures of these names."""
    root.mkdir(parents=True, exist_ok=True)
    for name, _, _ in named:
        Image.new("RGB", (16, 16)).save(root / name)
    file = root / "table.csv"
    file.write_text("\n".join(map(",".join, [("path", "label", "split"), *named])) + "\n")
    return file


@pytest.mark.parametrize("name", ["a.png", "figure.png"])
def test_results_that_would_replace_the_table_or_its_images_are_refused(capsys, tmp_path, name):
    rows = ((name, "good", "train"), ("b.png", "good", "test"), ("c.png", "cut", "test"))
    file = table_of(tmp_path, *rows)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    line = fails(capsys, 2, "benchmark", file, "--out", tmp_path, *SMALL)
    assert "table.csv: a result would replace this" in line
    with pytest.raises(InputError, match=r"table\.csv: a result would replace"):
        benchmark.benchmark(file, tmp_path)
    with pytest.raises(InputError, match=r"table\.csv: a result would replace"):
        benchmark.benchmark(file, tmp_path / "b", report_file=file)
    if name == "figure.png":
        other = file.rename(tmp_path / "parts.csv")
        line = fails(capsys, 2, "benchmark", other, "--out", tmp_path, *SMALL)
        assert "figure.png: a result would replace this" in line
        other.rename(file)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", ["figures/parts.png", "reports/parts.html"])
def test_pictures_and_pages_of_categories_replace_no_input(capsys, tmp_path, place):
    out, rows = tmp_path / "b", (("a.png", "good", "train"), ("b.png", "cut", "test"))
    file = table_of(tmp_path, *rows).rename(tmp_path / "parts.csv")
    (out / place).parent.mkdir(parents=True)
    os.link(tmp_path / "a.png", out / place)
    line = fails(capsys, 2, "benchmark", file, "--out", out, *SMALL)
    assert f"{out / place}: a result would replace this" in line


def test_a_category_that_cannot_be_opened_leaves_the_others(tmp_path, data, fake, monkeypatch):
    opened = benchmark.open_dataset

    def open_dataset(data: Path, layout: str, name: str, **options: object) -> Dataset:
        if name == "screw":
            raise MemoryError("too many files")
        return opened(data, layout, name, **options)

    monkeypatch.setattr(benchmark, "open_dataset", open_dataset)
    assert run("benchmark", data, "--out", tmp_path / "b", *SMALL) == 1
    rows = {row["category"]: row.get("error") for row in report(tmp_path / "b")["rows"]}
    assert rows["screw"] == "too many files"
    assert [name for name, error in rows.items() if error is None] == ["bolt_5%", "tile"]


def test_a_damaged_model_is_the_fault_of_its_own_row(tmp_path, data, monkeypatch):
    plan_lengths(monkeypatch, 2)
    damaged = tmp_path / "b" / "runs" / "tile" / "seed-1" / "model.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no model")
    arguments = ["--categories", "tile", "--seeds", "0,1", "--time-budget", "5s", *SMALL[2:]]
    assert run("benchmark", data, "--out", tmp_path / "b", *arguments) == 1
    first, second = report(tmp_path / "b")["rows"]
    assert "error" not in first
    assert str(damaged) in second["error"]


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "деталь" * 15])
def test_categories_may_have_any_name_that_a_folder_has(tmp_path, data, fake, name):
    shutil.copytree(data / "tile", tmp_path / "parts" / name)
    assert run("benchmark", tmp_path / "parts", "--out", tmp_path / "b", *SMALL) == 0
    [row] = report(tmp_path / "b")["rows"]
    assert row["category"] == name
    assert len(list((tmp_path / "b" / "reports").iterdir())) == 1


def test_other_files_than_the_results_are_of_are_refused(capsys, tmp_path, data, done):
    root = shutil.copytree(data, tmp_path / "parts")
    out = shutil.copytree(done, tmp_path / "b")
    assert run("benchmark", root, "--out", out, "--seeds", "0,1", *SMALL) == 0  # a copy is the same
    (root / "screw" / "train" / "good" / "000.png").unlink()
    line = fails(capsys, 2, "benchmark", root, "--out", out, "--seeds", "0,1", *SMALL)
    assert "holds results of other files of screw than" in line
    assert report(out)["finished"]


def test_a_corrected_label_is_another_dataset(capsys, tmp_path, fake):
    rows = [("a.png", "good", "train"), ("b.png", "good", "test"), ("c.png", "cut", "test")]
    file, arguments = table_of(tmp_path / "t", *rows), ("--out", tmp_path / "b", *SMALL)
    assert run("benchmark", file, *arguments) == 0
    table_of(tmp_path / "t", rows[0], ("b.png", "cut", "test"), ("c.png", "good", "test"))
    assert "holds results of other files of" in fails(capsys, 2, "benchmark", file, *arguments)


def test_a_damaged_results_file_is_refused_and_stays(capsys, tmp_path, data):
    (tmp_path / "benchmark.json").write_text('{"format": "diffusionad-bench')
    line = fails(capsys, 2, "benchmark", data, "--out", tmp_path, *SMALL)
    assert "benchmark.json: damaged" in line
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path, data):
    (tmp_path / "file").touch()
    for out, words in (("/proc", "cannot write"), (tmp_path / "file" / "x", "cannot make this")):
        assert words in fails(capsys, 1, "benchmark", data, "--out", out, *SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="for this user no folder is read-only")
def test_a_read_only_folder_is_named(capsys, tmp_path, data):
    tmp_path.chmod(0o500)
    assert "cannot write" in fails(capsys, 1, "benchmark", data, "--out", tmp_path, *SMALL)


def test_a_full_disk_stops_the_benchmark(capsys, tmp_path, data, monkeypatch):
    out = tmp_path / "b"
    monkeypatch.setattr(benchmark, "write_png", lambda path, _: Path("/dev/full").write_bytes(
        b"x" * 9999))  # fmt: skip
    line = fails(capsys, 1, "benchmark", data, "--out", out, *SMALL)
    assert "no space left" in line


@contextmanager
def in_a_training(*arguments: object, before: str = "") -> Iterator[None]:
    """Meanwhile a study in a process of its own is at its first training, and stays there."""
    script = (
        before + "from diffusionad import studies;"
        "studies.trained = lambda *_: (print('here', flush=True), input());" + RUN
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "here\n"
        yield
    finally:
        process.kill()
        process.communicate()


def test_two_at_once_in_one_folder_are_refused(capsys, tmp_path, data):
    out = tmp_path / "b"
    arguments = ("benchmark", data, "--out", out, "--categories", "tile", *SMALL)
    with in_a_training(*arguments):
        line = fails(capsys, 2, *arguments)
        assert "b: another run is writing to this folder" in line
    assert run(*arguments) == 0


# ---- real images ------------------------------------------------------------------------------


@pytest.mark.skipif(
    "DIFFUSIONAD_TEST_DATA" not in os.environ, reason="DIFFUSIONAD_TEST_DATA names no folder"
)
def test_a_real_sample_with_few_images_and_masks_is_measured_and_said_so(tmp_path):
    root = Path(os.environ["DIFFUSIONAD_TEST_DATA"]) / "mvtec"
    if not (root / "leather_sample").is_dir():
        pytest.skip("no folder mvtec/leather_sample in DIFFUSIONAD_TEST_DATA")
    out = tmp_path / "b"
    options = ("--categories", "leather_sample", "--kind", "texture", *SMALL)
    assert run("benchmark", root, "--out", out, *options) == 0
    [row] = report(out)["rows"]
    assert row["notes"] == [
        "only 4 training images",
        "9 of 20 defective images have no mask: not in the pixel metrics",
    ]
    assert all(0 <= row[name] <= 1 for name in benchmark.METRICS)
