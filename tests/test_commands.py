"""The command line with real networks, on a few of the bundled photographs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import fails, run
from test_evaluation import FIELDS

import diffusionad as dad
from diffusionad import _core, ablation, checkpoints, datasets, fitting, system

SMALL = ("--image-size", "64", "--batch-size", "2")
MODEL = "model.safetensors"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dad.__file__).parents[1])}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A dataset of one category, `part`: the bundled images with the largest defects."""
    root, bundled = tmp_path_factory.mktemp("data"), datasets.bundled()
    bad = [s for s in bundled.test if s.label]
    bad.sort(key=lambda sample: -np.count_nonzero(sample.mask))
    good = [s for s in bundled.test if not s.label]
    for sample in [*bundled.train[:4], *good[:3], *bad[:3]]:
        for path in filter(None, (sample.path, sample.mask_path)):
            copy = root / "part" / path.relative_to(bundled.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a model that was trained for four steps."""
    out = tmp_path_factory.mktemp("runs") / "part"
    assert run("train", data, "--out", out, "--steps", 4, *SMALL, "--quiet") == 0
    return out


def diffusionad(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffusionad", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=ENVIRONMENT, **options
    )


def tensors(out: Path) -> dict[str, bytes]:
    model = dad.load(out / MODEL)
    networks = (model.unet, model.seg)
    return {n: v.tobytes() for network in networks for n, v in network.state_dict().items()}


def test_train_evaluate_predict_info(capsys, tmp_path, data, trained):
    out = tmp_path / "run"
    assert run("train", data, "--category", "part", "--out", out, "--steps", 4, *SMALL,
               "--json", tmp_path / "t.json") == 0  # fmt: skip
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "part (mvtec): 4 train, 3 test good, 3 test defective"
    assert "million parameters, batches of 2 images" in lines[1]
    assert lines[1].endswith("of memory planned")
    assert "train 4/4" in captured.err
    result = json.loads((tmp_path / "t.json").read_text())
    assert result["provenance"]["train_steps"] == 4
    assert result["provenance"]["planned_memory"]["total"] > 10**6
    assert tensors(out) == tensors(trained)

    assert run("evaluate", out / MODEL, data, "--json", "-", "--seed", 5) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == FIELDS
    assert (result["category"], result["layout"], result["seed"]) == ("part", "mvtec", 5)
    assert (result["train_steps"], result["preset"]) == (4, "compact")
    for name in ("image_auroc", "pixel_ap", "aupro", "images_per_second", "peak_memory_mb"):
        assert result[name] >= 0
    assert result["per_defect"]["pitting"]["images"] == 3

    options = ("--resolution", "native", "--fpr-limit", 0.1, "--resamples", 20)
    assert run("evaluate", out / MODEL, data, *options, "--json", tmp_path / "e.json") == 0
    text = capsys.readouterr().out
    assert "protocol: benchmark, native resolution" in text
    assert "95% from" in text
    native = json.loads((tmp_path / "e.json").read_text())
    assert (native["resolution"], native["fpr_limit"]) == ("native", 0.1)
    assert native["confidence"]["resamples"] == 20
    assert len(native["curves"]["pixel"]["fpr"]) == len(native["curves"]["pixel"]["overlap"]) > 2
    assert (tmp_path / "e.json").read_text().count("\n") < 100  # lists of numbers take one line

    predict = ("predict", out / MODEL, data / "part" / "test", "--out", tmp_path / "p")
    assert run(*predict, "--json", tmp_path / "p.json") == 0
    result = json.loads((tmp_path / "p.json").read_text())
    assert set(result) == {"threshold", "seed", "versions", "unreadable", "images"}
    assert (result["seed"], result["versions"]["diffusionad"]) == (0, dad.__version__)
    with (tmp_path / "p" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    model = dad.load(out / MODEL)
    expected = model.predict([row["path"] for row in rows])
    assert [row["score"] for row in rows] == [f"{score:.9g}" for score in expected.scores]
    assert [row["label"] for row in rows] == [str(label) for label in expected.labels]
    score_map = np.load(tmp_path / "p" / (Path(rows[2]["path"]).stem + ".npy"))
    np.testing.assert_array_equal(score_map, expected.maps[2])

    assert run("info", out / MODEL) == 0
    text = capsys.readouterr().out
    for word in ("image_size", "train_steps", "planned_memory", "threshold"):
        assert word in text


def test_a_run_can_be_repeated_from_its_own_file(capsys, tmp_path, data, trained):
    out, settings = tmp_path / "run", trained / "config.toml"
    assert run("train", data, "--out", out, "--config", settings, "--quiet") == 0
    assert tensors(out) == tensors(trained)
    assert (out / "config.toml").read_bytes() == settings.read_bytes()

    again = ("train", data, "--out", out, "--resume", "--config", out / "config.toml")
    assert run(*again, "--quiet") == 0
    text = settings.read_text(encoding="utf-8")
    (out / "config.toml").write_text(text.replace("unet_lr = 0.001", "unet_lr = 0.002"))
    capsys.readouterr()
    assert "config.toml: unet_lr: this run has 0.001 and keeps it" in fails(capsys, 2, *again)


def test_the_kind_of_the_command_line_is_trained_with(tmp_path, data, trained):
    """A file that a training leaves has the kind that was settled, and what follows from it."""
    out, result = tmp_path / "run", tmp_path / "t.json"
    options = ("--steps", 1, "--quiet", "--json", result)

    def kind(*more: object) -> tuple[object, ...]:
        assert run("train", data, "--out", out, *options, *more) == 0
        config = dad.load(out / MODEL).train_config
        assert json.loads(result.read_text())["kind"] == config.kind
        return config.kind, config.self_probability, config.random_part

    assert kind("--config", trained / "config.toml", "--kind", "texture") == ("texture", 0.0, True)
    again = ("--config", out / "config.toml", "--overwrite")
    assert kind(*again) == ("texture", 0.0, True)
    assert kind(*again, "--kind", "object") == ("object", 0.5, False)


def test_resume_on_the_command_line(capsys, tmp_path, data, trained):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    whole = tensors(out)
    same = ("train", data, "--out", out, "--steps", 4, *SMALL, "--seed", 0)
    assert run(*same, "--resume", "--quiet") == 0
    less = ("--memory-budget", 0.001)  # decides no result
    assert (
        run("train", data, "--out", out, "--time-budget", "1h", "--resume", "--quiet", *less) == 0
    )
    assert tensors(out) == whole
    assert dad.load(out / MODEL).train_config.memory_budget == 0.001
    capsys.readouterr()
    for options, words in (
        (["--steps", 9], "steps: a run that is resumed keeps its 4 steps"),
        (["--image-size", 128], "--image-size: this run has 64 and keeps it"),
        (["--seed", 1], "--seed: this run has 0"),
        (["--preset", "paper"], "--preset: this run has compact"),
        (["--anomaly-source", data], "trained with other anomaly_source"),
    ):
        line = fails(capsys, 2, "train", data, "--out", out, "--resume", "--quiet", *options)
        assert words in line
    (out / "state.safetensors").unlink()
    line = fails(capsys, 2, "train", data, "--out", out, "--resume", "--quiet")
    assert "state.safetensors: no such file, so nothing to resume" in line


def test_a_finished_run_is_left_as_it_is(capsys, tmp_path, data, trained):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    model = dad.load(out / MODEL)
    model.threshold = 0.25
    model.save(out / MODEL)
    files = {path: path.read_bytes() for path in out.iterdir()}
    again = ("train", data, "--out", out, "--resume")
    for options in ((), ("--time-budget", "20m"), ("--steps", 4)):
        assert run(*again, *options, "--json", tmp_path / "t.json") == 0
        assert "finished already, after 4 steps" in capsys.readouterr().out
        assert json.loads((tmp_path / "t.json").read_text())["threshold"] == 0.25
        assert {path: path.read_bytes() for path in out.iterdir()} == files
    assert run(*again, "--memory-budget", 0.5, "--quiet") == 0
    kept = dad.load(out / MODEL)
    assert (kept.threshold, kept.train_config.memory_budget) == (0.25, 0.5)


def test_a_time_budget_does_not_count_for_a_run_that_is_resumed(
    caplog, tmp_path, data, monkeypatch
):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    begin = ("train", data, "--out", tmp_path, "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "_save_results", killed)
        options = ("--steps", 4, *SMALL, "--config", every_two(tmp_path))
        assert run(*begin, *options) == 130
    assert run(*begin, "--resume", "--time-budget", "20m") == 0
    assert "--time-budget: a run that is resumed keeps its 4 steps" in caplog.text
    assert dad.load(tmp_path / MODEL).provenance["train_steps"] == 4


@pytest.mark.parametrize("length", [("--steps", 4), ("--time-budget", "5s")])
def test_a_run_is_resumed_with_the_options_that_began_it(
    capsys, tmp_path, data, monkeypatch, length
):
    file, out = tmp_path / "c.toml", tmp_path / "run"
    file.write_text("[train]\nsteps = 3\ncheckpoint_every = 2\n")
    begin = ("train", data, "--out", out, "--config", file, *length, *SMALL, "--quiet")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "_save_results", killed)
        patch.setattr(fitting.Fit, "_steps_within", lambda *_: 4)
        patch.setattr(fitting.Fit, "_keep_to_budget", lambda *_: None)
        assert run(*begin) == 130
    assert run(*begin, "--resume") == 0
    assert dad.load(out / MODEL).provenance["train_steps"] == 4
    capsys.readouterr()
    again = ("train", data, "--out", out, "--config", file, "--resume", "--quiet")
    assert "c.toml: steps: this run has 4 and keeps it" in fails(capsys, 2, *again)


@pytest.mark.parametrize("left", ["nothing more", "an earlier model"])
def test_a_state_alone_is_resumed_and_not_overwritten(
    capsys, tmp_path, data, trained, monkeypatch, left
):
    """What a kill at, or before, the first checkpoint leaves of a run."""
    out = tmp_path / "run"
    begin = ("train", data, "--out", out, "--quiet")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    if left == "an earlier model":
        assert run(*begin, "--steps", 1, *SMALL, "--seed", 9) == 0
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "_save_results", killed)
        options = ("--steps", 4, *SMALL, "--config", every_two(tmp_path), "--overwrite")
        assert run(*begin, *options) == 130
    state = out / "state.safetensors"
    assert checkpoints.read_state_values(state)["iteration"] == 2
    before = state.read_bytes()
    capsys.readouterr()
    name = MODEL if left == "an earlier model" else "state.safetensors"
    assert f"{name}: exists already; add --resume or" in fails(capsys, 2, *begin, *SMALL)
    line = fails(capsys, 2, *begin, "--resume", "--image-size", 128)
    assert "--image-size: this run has 64 and keeps it" in line
    assert state.read_bytes() == before
    assert run(*begin, "--resume") == 0
    assert tensors(out) == tensors(trained)


def test_a_finished_run_without_a_threshold_is_brought_to_its_end(tmp_path, data, trained):
    """Runs that were stopped in their last step were marked as finished once."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    model = dad.load(out / MODEL)
    before, model.threshold = model.threshold, None
    model.save(out / MODEL)
    assert run("train", data, "--out", out, "--resume", "--quiet") == 0
    assert dad.load(out / MODEL).threshold == before


def test_a_run_killed_between_its_last_state_and_its_model_is_not_finished(
    tmp_path, data, trained, monkeypatch
):
    """The model that lies there is of an earlier run, of as many steps."""
    out = tmp_path / "run"
    begin = ("train", data, "--out", out, "--quiet", "--steps", 4, *SMALL)
    assert run(*begin, "--seed", 9) == 0
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "_calibrate", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*begin, "--overwrite") == 130
    assert run(*begin, "--resume") == 0
    assert tensors(out) == tensors(trained)


def every_two(folder: Path) -> Path:
    """A file of settings with a checkpoint after every second step."""
    path = folder / "every-two.toml"
    path.write_text("[train]\ncheckpoint_every = 2\n")
    return path


def test_a_broken_state_is_named(capsys, tmp_path, data):
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 40)
    resume = ("train", data, "--out", tmp_path, "--resume", "--quiet")
    assert "state.safetensors: not a complete safetensors file" in fails(capsys, 2, *resume)
    for values, words in (
        ({}, "the settings of the run are missing or broken"),
        ({"model": {"sides": 3}, "train": {}}, "sides: no such setting in ModelConfig"),
    ):
        checkpoints.save_state(tmp_path / "state.safetensors", {}, values)
        assert f"state.safetensors: {words}" in fails(capsys, 2, *resume)


def test_demo_in_a_process_of_its_own(tmp_path, data):
    script = (
        "import sys; from diffusionad import cli, datasets;"
        "from diffusionad.commands import training;"
        "training.bundled = lambda: datasets.open(sys.argv[1]);"
        "sys.exit(cli.main(sys.argv[2:]))"
    )
    demo = ["demo", "--steps", "2", *SMALL, "--json", "d.json"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(data), *demo],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("image AUROC", "image AP", "pixel AP", "AUPRO", "nearest training image"):
        assert word in done.stdout
    result = json.loads((tmp_path / "d.json").read_text())
    assert set(result) == FIELDS | {"nearest_training_image_auroc"}
    assert result == json.loads((tmp_path / "demo" / "report.json").read_text())
    assert (result["train_steps"], result["category"]) == (2, "part")
    panels = list((tmp_path / "demo" / "heatmaps").iterdir())
    assert len(panels) == 6
    with Image.open(tmp_path / "demo" / "heatmaps.png") as sheet, Image.open(panels[0]) as one:
        assert sheet.width == one.width
        assert sheet.height > 6 * one.height
    assert (tmp_path / "demo" / MODEL).exists()


def test_what_is_wrong_is_one_line(capsys, tmp_path, data, trained):
    out, model = tmp_path / "out", trained / MODEL
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    broken = shutil.copytree(data / "part", tmp_path / "broken")
    picture = next((broken / "train" / "good").iterdir())
    picture.write_bytes(picture.read_bytes()[:2000])
    wrong = shutil.copytree(data / "part", tmp_path / "wrong")
    mask = next((wrong / "ground_truth" / "pitting").iterdir())
    Image.new("L", (7, 9)).save(mask)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:-100])
    train = ("--out", out, "--steps", 1, *SMALL, "--quiet")
    cases = [
        (2, ["train", tmp_path / "none", *train], "none: no such folder"),
        (2, ["train", tmp_path / "empty", *train], "empty: the folder is empty"),
        (2, ["train", "", *train], "DATA: expected a path, got an empty text"),
        (2, ["train", data, "--category", "prt", *train], "'prt'; there are: part"),
        (2, ["train", data, "--preset", "big", *train], "invalid choice: 'big'"),
        (2, ["train", data, "--out", out, "--time-budget", "soon"], "such as 90s, 20m or 1h"),
        (2, ["train", data, "--out", out, "--image-size", 48], "image_size: expected a multiple"),
        (2, ["train", broken, *train], f"{picture.name}: the image is broken"),
        (1, ["train", data, "--out", tmp_path / "file" / "x", "--quiet"], "cannot make this"),
        (2, ["evaluate", model, wrong, "--quiet"], f"{mask.name}: the mask is 7x9 pixels"),
        (2, ["evaluate", model, data, "--fpr-limit", 0], "expected a rate above 0 and up to 1"),
        (
            2,
            ["evaluate", model, data, "--resolution", "native", "--protocol", "reference"],
            "resolution: the reference protocol measures at the model's",
        ),
        (2, ["evaluate", cut, data], "cut.safetensors: not a complete safetensors file"),
        (2, ["evaluate", picture, data], f"{picture.name}: not a complete safetensors file"),
        (2, ["predict", trained / "state.safetensors", data, "--out", out], "expected diffusion"),
        (2, ["predict", model, picture, "--out", out, "--quiet"], f"{picture.name}: the image is"),
        (2, ["predict", model, "", "--out", out], "expected a path, got an empty text"),
        (1, ["predict", model, data, "--out", tmp_path / "file", "--quiet"], "cannot make this"),
    ]
    for code, arguments, words in cases:
        line = fails(capsys, code, *arguments)
        assert words in line, arguments
        assert line.startswith("diffusionad ")


def test_a_result_that_cannot_be_written_is_named(capsys, tmp_path, data, trained):
    out = tmp_path / "p"
    out.mkdir()
    (out / "scores.csv").symlink_to("/dev/full")
    arguments = ("predict", trained / MODEL, data / "part" / "test", "--out", out, "--quiet")
    assert "scores.csv: cannot write: no space left" in fails(capsys, 1, *arguments)
    line = fails(capsys, 1, "info", "--json", "/dev/full", "--quiet")
    assert "/dev/full: cannot write: no space left" in line
    done = subprocess.run(
        f"{sys.executable} -m diffusionad info > /dev/full",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "diffusionad info: output: no space left on device\n",
    )


def test_devices_are_written_to_and_not_replaced(tmp_path):
    assert diffusionad("info", "--quiet", "--json", os.devnull).returncode == 0
    assert not Path(os.devnull).is_file()
    done = diffusionad("info", "--quiet", "--json", "/dev/stdout", cwd=tmp_path)
    assert json.loads(done.stdout)["simd"] in _core.simd_levels()


def test_odd_names_are_taken_as_they_are(capsys, tmp_path, trained):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = ["new\nline.png", "größe (1).png", os.fsdecode(b"bad\xff.png")]
    for name in names:
        Image.new("RGB", (40, 40), (9, 99, 199)).save(folder / name)
    out = tmp_path / "p"
    assert run("predict", trained / MODEL, folder, "--out", out, "--quiet",
               "--json", tmp_path / "p.json") == 0  # fmt: skip
    with (out / "scores.csv").open(newline="", errors="surrogateescape") as file:
        listed = {Path(row["path"]).name for row in csv.DictReader(file)}
    rows = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["images"]
    assert listed == {Path(row["path"]).name for row in rows} == set(names)
    assert run("train", folder, "--out", tmp_path / "r", "--steps", 1, *SMALL, "--quiet") == 0
    (folder / "cut\n.png").write_bytes(b"\x89PNG")
    assert fails(capsys, 2, "predict", trained / MODEL, folder, "--out", out, "--quiet")


RUN = "import sys; from diffusionad.cli import main; sys.exit(main(sys.argv[1:]))"


def begin(out: Path, data: Path) -> subprocess.Popen[str]:
    """A long run in a process of its own that has saved its first checkpoint."""
    script = (
        "import sys; from diffusionad import fitting;"
        "save = fitting.Fit._save;"
        "fitting.Fit._save = lambda self: (save(self), print('saved', flush=True));"
        "fitting.CHECKPOINT_SECONDS = 0.0;" + RUN
    )
    arguments = ["train", str(data), "--out", str(out), "--steps", "100000", *SMALL, "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "saved\n", process.stderr.read()
    return process


def test_an_interrupt_keeps_the_model_and_two_runs_keep_apart(capsys, tmp_path, data):
    out = tmp_path / "run"
    process = begin(out, data)
    other = ("train", data, "--out", out, "--overwrite", "--steps", 1, *SMALL, "--quiet")
    assert "run: another run is writing to this folder" in fails(capsys, 2, *other)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "diffusionad train: interrupted; what was finished is kept\n"
    done = dad.load(out / MODEL).provenance["train_steps"]
    assert 1 <= done < 100_000
    assert (out / "log.csv").read_text().count("\n") == 1 + done
    assert run("evaluate", out / MODEL, data, "--quiet") == 0


def test_a_kill_leaves_a_whole_model_and_nothing_else(tmp_path, data):
    out = tmp_path / "run"
    process = begin(out, data)
    process.kill()
    process.communicate()
    (out / f".{MODEL}.abc123.tmp").write_bytes(b"half")
    assert run("evaluate", out / MODEL, data, "--quiet") == 0
    assert run("train", data, "--out", out, "--overwrite", "--steps", 1, *SMALL, "--quiet") == 0
    assert {path.name for path in out.iterdir()} == {
        MODEL, "state.safetensors", "log.csv", "curves.png", "config.toml", "foregrounds.npz",
    }  # fmt: skip


def test_failures_of_training_are_one_line(capsys, tmp_path, data, monkeypatch):
    for error, words in (
        (FloatingPointError("the loss is nan at iteration 0"), "train: the loss is nan"),
        (KeyError("internal"), "KeyError: 'internal' (DIFFUSIONAD_DEBUG=1 shows where)"),
    ):

        def step(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(dad.Trainer, "step", step)
        out = tmp_path / type(error).__name__
        line = fails(capsys, 1, "train", data, "--out", out, "--steps", 1, *SMALL, "--quiet")
        assert words in line


def test_more_memory_than_there_is_is_said_before(caplog, tmp_path, data, monkeypatch):
    monkeypatch.setattr(system, "memory_bytes", lambda: 10**7)
    out = tmp_path / "run"
    assert run("train", data, "--out", out, "--steps", 1, *SMALL, "--quiet") == 0
    assert "this machine has 10 MB: a smaller memory_budget, batch_size or" in caplog.text


# ---- checkpoints of the reference, and other runtimes -------------------------------------------

PAPER = {"image_size": 32, "base_channels": 32, "channel_mults": (1, 2), "num_res_blocks": 1,
         "attention_resolutions": (16,), "seg_channels": 4}  # fmt: skip


@pytest.fixture
def paper(tmp_path) -> Path:
    """A model file with small networks of the paper's kind."""
    model = dad.DiffusionAD("paper", **PAPER)
    model.threshold = 0.5
    model.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_folders_that_options_name_are_used(data, trained, tmp_path):
    good = sorted((data / "part" / "train" / "good").iterdir())
    (tmp_path / "masks").mkdir()
    for path in good:
        with Image.open(path) as image:
            Image.new("L", image.size, 255).save(tmp_path / "masks" / f"{path.stem}.png")
    textures = good[0].parent
    given = (*SMALL, "--steps", 1, "--anomaly-source", textures, "--quiet")
    out = tmp_path / "run"
    assert run("train", data, "--out", out, *given, "--foreground", tmp_path / "masks") == 0
    noted = dad.load(out / MODEL).provenance["data"]
    assert (noted["anomaly_source"], noted["foreground"]) == ("good", "masks")
    assert dad.load(trained / MODEL).provenance["data"]["anomaly_source"] == "procedural"
    assert run("benchmark", data, "--out", tmp_path / "b", *given) == 0
    [file] = (tmp_path / "b").rglob(MODEL)
    assert dad.load(file).provenance["data"]["anomaly_source"] == "good"


def test_exported_noise_is_an_input_where_asked_for(trained, tmp_path):
    onnx = pytest.importorskip("onnx", reason="exports need the extra onnx")
    names = {}
    for name, options in (("a.onnx", ()), ("b.onnx", ("--noise-inputs",))):
        assert run("export", trained / MODEL, tmp_path / name, *options, "--quiet") == 0
        names[name] = [one.name for one in onnx.load(tmp_path / name).graph.input]
    assert names == {"a.onnx": ["image"], "b.onnx": ["image", "noise_s", "noise_b"]}


def test_convert_both_ways(capsys, tmp_path, paper):
    official, back = tmp_path / "params.pt", tmp_path / "back.safetensors"
    assert run("convert", paper, official, "--json", tmp_path / "c.json") == 0
    assert "params.pt: 4 MB, 873,752 parameters, 32 px, threshold 0.5" in capsys.readouterr().out
    assert run("convert", official, back, "--quiet", "--seed", 3) == 0
    assert capsys.readouterr().out == ""
    ours, theirs = dad.load(paper), dad.load(back)
    for network in ("unet", "seg"):
        state = getattr(theirs, network).state_dict()
        for name, array in getattr(ours, network).state_dict().items():
            np.testing.assert_array_equal(state[name], array)
    assert dad.load_official(official).threshold == 0.5
    assert (theirs.threshold, theirs.seed) == (None, 3)  # it was of other noise
    result = json.loads((tmp_path / "c.json").read_text())
    assert (result["file"], result["parameters"]) == (str(official), 873_752)
    assert result["bytes"] == official.stat().st_size


def test_a_checkpoint_of_the_reference_is_a_model_to_every_command(tmp_path, paper):
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    assert run("convert", paper, tmp_path / "m.pt", "--quiet") == 0
    for name in ("m.safetensors", "m.pt"):
        out = tmp_path / name.replace(".", "-")
        assert run("predict", tmp_path / name, image, "--out", out, "--quiet") == 0
    assert (tmp_path / "m-pt" / "scores.csv").read_text() == (
        tmp_path / "m-safetensors" / "scores.csv"
    ).read_text()


def test_info_shows_a_checkpoint_of_the_reference(capsys, tmp_path, paper):
    official = tmp_path / "m.pt"
    assert run("convert", paper, official, "--quiet") == 0
    found = []
    for file in (paper, official):
        assert run("info", file) == 0
        text = capsys.readouterr().out
        for word in ("unet", "parameters", "threshold  0.5", "image_size"):
            assert word in text
        assert run("info", file, "--json", "-") == 0
        found.append(json.loads(capsys.readouterr().out)["model"])
    ours, theirs = (one.pop("provenance") for one in found)
    assert theirs == {**ours, "official": "m.pt", "epochs": 0}
    assert found[0] == found[1]


def test_ablate_takes_a_checkpoint_of_the_reference(tmp_path, paper):
    assert run("convert", paper, tmp_path / "m.pt", "--quiet") == 0
    [theirs] = ablation._given([tmp_path / "m.pt"]).items()
    [ours] = ablation._given([paper]).items()
    assert theirs[0] == ours[0] == ("guided", 0)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    assert theirs[1].predict(image).scores == ours[1].predict(image).scores


def test_bad_conversions_are_one_line(capsys, tmp_path, paper):
    official, new = tmp_path / "m.pt", tmp_path / "new.safetensors"
    assert run("convert", paper, official, "--quiet") == 0
    small = tmp_path / "small.safetensors"
    dad.DiffusionAD("compact", image_size=64).save(small)
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\0\0\0trueq\x01\x85R.")
    before = official.read_bytes()
    for code, arguments, words in (
        (2, (paper, official), "m.pt: exists already; add --overwrite"),
        (2, (paper, tmp_path / "x.bin"), "x.bin: expected a name that ends in .pt, .pth, .safeten"),
        (2, (paper, new), "is of that kind already, expected .pt"),
        (2, (official, tmp_path / "x.pt"), "is of that kind already, expected .safetensors"),
        (2, (tmp_path / "none", new), "none: no such file"),
        (2, (tmp_path, new), "expected a model file, got a folder"),
        (2, (tmp_path / "bad.pt", new), "bad.pt: the file asks for os.system; only tensors"),
        (2, (small, tmp_path / "x.pt"), "x.pt: this model has patch_size = 4"),
        (2, (paper, tmp_path / "x.pt", "--num-heads", 2), "--num-heads: a model file says it"),
        (2, (official, new, "--num-heads", 3), "num_heads: 3 does not divide"),
        (2, (official, new, "--image-size", 40), "image_size: expected a multiple of 32"),
        (2, (official, new, "--image-size", 0), "--image-size: expected a whole number of 1"),
        (1, (official, tmp_path / "no" / "x.safetensors"), "x.safetensors: cannot write"),
    ):
        assert words in fails(capsys, code, "convert", *arguments)
    assert official.read_bytes() == before
    assert not new.exists()
    assert run("convert", paper, official, "--overwrite", "--quiet") == 0


def test_export(capsys, tmp_path, paper):
    pytest.importorskip("onnx", reason="exports need the extra onnx")
    out = tmp_path / "m.onnx"
    assert run("export", paper, out, "--json", tmp_path / "e.json") == 0
    assert "float32 [N, 3, 32, 32], RGB from 0 to 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["bytes"] == out.stat().st_size
    assert "exists already; add --overwrite" in fails(capsys, 2, "export", paper, out)


def test_bad_exports_are_one_line(capsys, tmp_path, paper, monkeypatch):
    assert "m.bin: expected a name that ends in .onnx" in fails(
        capsys, 2, "export", paper, tmp_path / "m.bin"
    )
    assert "no such file" in fails(capsys, 2, "export", tmp_path / "none", tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    line = fails(capsys, 1, "export", paper, tmp_path / "m.onnx")
    assert line == "diffusionad export: onnx is not installed: pip install 'diffusionad[onnx]'"
