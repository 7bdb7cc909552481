"""Training runs of real, tiny networks: repeatable, resumable, and safe in what they leave."""

from __future__ import annotations

import copy
import csv
import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_model import SIZE, tiny
from test_network import resident_mb

import diffusionad as dad
from diffusionad import (
    _core,
    checkpoints,
    config,
    datasets,
    fitting,
    inference,
    saliency,
    sources,
    training_log,
    validation,
)
from diffusionad.errors import InputError, WriteError
from diffusionad.kept import Kept
from diffusionad.model import Progress
from diffusionad.models import UNet
from diffusionad.training import StepResult
from diffusionad.training_memory import GB, copies, planned

STEPS = 6


def weights(model: dad.DiffusionAD) -> bytes:
    states = (model.unet.training_state(), model.seg.training_state())
    return b"".join(np.asarray(v).tobytes() for state in states for v in state.values())


def small(**overrides: object) -> dad.DiffusionAD:
    return tiny(**{"checkpoint_every": 2, "warmup": 1, **overrides})


@pytest.fixture(autouse=True)
def _threads():
    count = _core.get_num_threads()
    yield
    _core.set_num_threads(count)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 40, 36, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, images) -> Path:
    (tmp_path / "good").mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    return tmp_path / "good"


@pytest.fixture(scope="module")
def whole(images) -> bytes:
    """Weights and moments of the uninterrupted run."""
    return weights(small().fit(images, steps=STEPS))


def stop_at(step: int, error: type[BaseException] = KeyboardInterrupt):
    def progress(p: Progress) -> None:
        if p.step == step:
            raise error

    return progress


# ---- repeatable -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_run_is_repeatable_for_any_number_of_threads(images, whole, threads):
    _core.set_num_threads(threads)
    assert weights(small().fit(images, steps=STEPS)) == whole


def test_seed_and_images_decide(images, whole):
    assert weights(small(seed=1).fit(images, steps=STEPS)) != whole
    assert weights(small().fit(images[1:], steps=STEPS)) != whole


def test_a_second_fit_goes_on_from_the_weights_with_fresh_moments(images):
    model = small().fit(images, steps=2)
    other = small()
    other.unet.load_state_dict(model.unet.state_dict())
    other.seg.load_state_dict(model.seg.state_dict())
    assert weights(model.fit(images, steps=2)) == weights(other.fit(images, steps=2))


def test_progress_counts_every_step(images):
    seen: list[Progress] = []
    small().fit(images, steps=3, progress=seen.append)
    assert [(p.step, p.steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert all(p.images_per_second > 0 for p in seen)
    assert seen[-1].seconds_left == 0
    assert set(seen[0].losses) == {"noise", "bce", "dice", "total"}


def test_every_kind_of_source(images, folder):
    by_array = small().fit(images, steps=2)
    by_list = small().fit(list(images), steps=2)
    assert weights(by_list) == weights(by_array)
    models = [
        small().fit(source, steps=2)
        for source in (
            folder,
            str(folder),
            datasets.open(folder, test_fraction=0),
            sorted(folder.iterdir()),
            (path for path in sorted(folder.iterdir())),
        )
    ]
    prints = {model.provenance["data"]["images"] for model in models}
    assert len(prints) == 1
    assert {weights(model) for model in models} == {weights(models[0])}
    # From files images are resized once to bytes, as from uint8 arrays.
    assert weights(models[0]) == weights(by_array)
    single = small().fit(folder / "0.png", steps=2)
    assert single.provenance["data"]["count"] == 1


def test_bad_sources_are_named(tmp_path, folder):
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"2\.png: the image is broken"):
        small().fit(folder, steps=1)
    with pytest.raises(InputError, match="none: no such folder"):
        small().fit(tmp_path / "none", steps=1)
    with pytest.raises(InputError, match="images: expected at least one image"):
        small().fit([], steps=1)
    with pytest.raises(InputError, match=r"values in \[0, 1\]"):
        small().fit(np.full((1, 3, SIZE, SIZE), np.nan, np.float32), steps=1)
    empty = datasets.Dataset(tmp_path, "folder", "x", (), ())
    with pytest.raises(InputError, match="no images to train on"):
        small().fit(empty, steps=1)


def test_bad_lengths_are_named(images):
    cases = [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": 2.5}, "steps: expected int"),
        ({"steps": 1, "time_budget": 1.0}, "expected one of the two"),
        ({"time_budget": 0.0}, "time_budget: expected seconds above 0"),
        ({"time_budget": float("nan")}, "time_budget: expected seconds above 0"),
        ({"time_budget": float("inf")}, "time_budget: expected seconds above 0"),
        ({"resume": True}, "resume: expected out"),
    ]
    for options, words in cases:
        with pytest.raises(InputError, match=words):
            small().fit(images, **options)


def test_a_fit_that_fails_changes_nothing_for_the_next(images, monkeypatch):
    model = small(match_brightness=True)
    before = dict(vars(model))
    options = {"kind": "texture", "steps": 3, "foreground": "/nowhere"}
    with pytest.raises(InputError, match="foreground"):
        model.fit(images // 4, **options)
    assert vars(model) == before
    with monkeypatch.context() as patch:
        patch.setattr(dad.Trainer, "step", lambda *_, **__: math.log(-1))  # in its first step
        with pytest.raises(ValueError, match="math domain"):
            model.fit(images // 4, steps=1)
    assert vars(model) == before
    other = small(match_brightness=True).fit(images, steps=1)
    assert weights(model.fit(images, steps=1)) == weights(other)
    assert model.brightness == other.brightness


# ---- what is written --------------------------------------------------------------------------


def test_files_of_a_run(tmp_path, folder):
    out = tmp_path / "new" / "run"
    model = small(batch_size=3).fit(folder, steps=5, out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.toml", "curves.png", "foregrounds.npz", "log.csv", "model.safetensors",
        "state.safetensors",
    ]  # fmt: skip
    read = dad.load(out / "model.safetensors")
    assert read.threshold == model.threshold
    assert read.config == model.config
    assert read.train_config.steps == 5
    assert config.from_toml(out / "config.toml") == (model.config, model.train_config)
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(training_log.COLUMNS)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5"]
    for row in rows:
        parts = [float(row[name]) for name in ("noise", "bce", "dice")]
        assert float(row["total"]) == pytest.approx(sum(parts), rel=1e-4)
        assert row["focal"] == ""
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)


def test_provenance_says_where_the_model_comes_from(folder):
    model = small(seed=3).fit(folder, steps=2)
    provenance = model.provenance
    assert provenance["train_steps"] == 2
    assert provenance["finished"] is True
    assert provenance["seed"] == 3
    assert provenance["train_seconds"] > 0
    assert provenance["data"] == {
        "images": datasets.open(folder, test_fraction=0).fingerprint(train_only=True),
        "category": "good", "layout": "folder", "count": 4, "anomaly_source": "procedural",
        "foreground": "found",
    }  # fmt: skip
    assert provenance["versions"]["diffusionad"] == dad.__version__
    assert provenance["parameters"] == model.num_parameters
    assert provenance["planned_memory"] == model.training_memory()
    assert provenance["threshold"] == "reached by at most 0 of 4 good images"
    assert model.predict(folder).labels.sum() == 0


def test_planned_memory_grows_with_the_batch_and_falls_with_its_budget():
    one, four = (small(batch_size=n).training_memory() for n in (1, 4))
    assert one["weights"] == four["weights"]
    assert one["weights"] >= 16 * small().num_parameters
    assert 3 * one["activations"] < four["activations"] < 5 * one["activations"]
    assert small(batch_size=4, memory_budget=0.0).training_memory()["total"] < four["total"]
    budget = four["total"] - 1  # with all that is kept beside the weights that are trained
    assert small(batch_size=4, memory_budget=budget / GB).training_memory()["total"] <= budget
    bare = small(ema_decay=0.0, validation_share=0.0, member_steps=0).training_memory()["weights"]
    assert small().training_memory()["weights"] - bare == 4 * 4 * small().num_parameters
    for memory in (one, four):
        assert memory["total"] == sum(v for k, v in memory.items() if k != "total")


def test_training_takes_what_was_planned(images, monkeypatch):
    most = small().training_memory()["total"]
    model = small(memory_budget=(most - 1) / GB, batch_size=4)
    asked: list[float] = []
    forward = UNet._forward

    def recording(*args, recompute=None, **options):
        if recompute is not None:  # else it is no training step
            asked.append(recompute)
            options["recompute"] = recompute
        return forward(*args, **options)

    monkeypatch.setattr(UNet, "_forward", recording)
    model.fit(images, steps=2)
    assert len(asked) > 1
    assert set(asked) == {asked[0]}
    step = planned(model.unet, model.seg, 4, (SIZE, SIZE), 2, asked[0])
    beside = copies(model.train_config, model.num_parameters)
    assert step["total"] + beside == model.provenance["planned_memory"]["total"]


def test_a_run_is_resumed_with_the_memory_that_there_is_now(images, tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=tmp_path, progress=stop_at(2))
    model = small(memory_budget=0.0)
    model.fit(images, out=tmp_path, resume=True)
    assert model.train_config.memory_budget == 0.0
    assert model.provenance["planned_memory"]["total"] < small().training_memory()["total"]
    assert weights(model) == whole


@pytest.mark.parametrize(
    ("budget", "said"), [(8.0, ""), (0.0, ""), (1e-3, "memory_budget is 0.001 GB: a smaller batch")]
)
def test_a_budget_that_cannot_be_kept_is_said_before(images, caplog, budget, said):
    small(memory_budget=budget).fit(images, steps=1)
    assert said in caplog.text if said else "memory_budget" not in caplog.text


def test_too_little_memory_is_said_before_steps_are_timed(images, monkeypatch, caplog):
    said, step = [], fitting.Fit._step

    def seen(fit: fitting.Fit, trainer: dad.Trainer) -> StepResult:
        said.append(caplog.text.count("training takes"))
        return step(fit, trainer)

    monkeypatch.setattr(fitting.Fit, "_step", seen)
    small(memory_budget=1e-3).fit(images, time_budget=1e-6)
    assert said == [1, 1]  # one step is timed, one is trained


def test_a_checkpoint_copies_one_tensor_at_a_time(images, tmp_path, monkeypatch):
    taken, write = [], checkpoints._write

    def measured(path: Path, *rest: Any) -> None:
        if path.name == fitting.STATE_FILE:
            tracemalloc.reset_peak()
        write(path, *rest)
        taken.append(tracemalloc.get_traced_memory()[1] - held)

    monkeypatch.setattr(checkpoints, "_write", measured)
    model = small(seg_channels=32, validation_share=0.0, checkpoint_every=1)
    sizes = [4 * math.prod(shape) for shape in model.seg.parameters().values()]
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        model.fit(images, steps=1, out=tmp_path)
    finally:
        tracemalloc.stop()
    assert taken[0] < max(sizes) + sum(sizes) / 4


# ---- interrupted and resumed ------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("step", [1, 4, STEPS])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, images, whole, step, error):
    out = tmp_path / "run"
    with pytest.raises(error):
        small().fit(images, steps=STEPS, out=out, progress=stop_at(step, error))
    half = dad.load(out / "model.safetensors")
    assert half.provenance["train_steps"] == step
    assert half.provenance["finished"] is False
    assert half.threshold is None
    assert "threshold" not in half.provenance
    seen: list[int] = []
    half.fit(images, out=out, resume=True, progress=lambda p: seen.append(p.step))
    assert seen == list(range(step + 1, STEPS + 1))
    assert weights(half) == whole
    steps = [row.split(",")[0] for row in (out / "log.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(1, STEPS + 1))]
    assert half.threshold is not None
    assert half.provenance["finished"] is True


def test_a_new_model_of_equal_settings_can_resume(tmp_path, images, whole):
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=tmp_path, progress=stop_at(3))
    model = small().fit(images, out=tmp_path, resume=True)
    assert model.train_config.steps == STEPS
    assert weights(model) == whole


SCRIPT = """if True:
    import sys
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    from test_fitting import STEPS, small
    images = np.load(sys.argv[2])
    def progress(p):
        print(p.step, flush=True)
        if p.step == 5:
            sys.stdin.read()
    small().fit(images, steps=STEPS, out=sys.argv[3], progress=progress)
"""


def start(tmp_path: Path, images: np.ndarray) -> subprocess.Popen[str]:
    """A run in a process of its own that waits within its fifth step."""
    np.save(tmp_path / "x.npy", images)
    arguments = [str(Path(__file__).parent), str(tmp_path / "x.npy"), str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.strip() == "5":
            return process
    raise AssertionError(process.stderr.read())


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, images, whole):
    process = start(tmp_path, images)
    with pytest.raises(InputError, match="run: another run is writing to this folder"):
        small().fit(images, steps=1, out=tmp_path / "run")
    process.kill()
    process.communicate()
    model = dad.load(tmp_path / "run" / "model.safetensors")
    assert model.provenance["train_steps"] == 4
    assert weights(model.fit(images, out=tmp_path / "run", resume=True)) == whole


def test_ctrl_c_waits_for_the_step_and_saves_it(tmp_path, images, whole):
    process = start(tmp_path, images)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.stdin.close()
    error = process.stderr.read()
    assert process.wait() != 0
    assert "KeyboardInterrupt" in error
    model = dad.load(tmp_path / "run" / "model.safetensors")
    assert model.provenance["train_steps"] == 5
    assert weights(model.fit(images, out=tmp_path / "run", resume=True)) == whole


def test_a_kill_between_two_files_can_be_resumed(tmp_path, images, whole, monkeypatch):
    out = tmp_path / "run"

    def killed(*_: object) -> None:
        raise SystemExit

    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=out, progress=stop_at(2))
    for function in ("save_model", "save_state"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, function, killed)
            with pytest.raises(SystemExit):
                dad.load(out / "model.safetensors").fit(images, out=out, resume=True)
    model = dad.load(out / "model.safetensors").fit(images, out=out, resume=True)
    assert weights(model) == whole
    assert len((out / "log.csv").read_text().splitlines()) == 1 + STEPS


def test_a_kill_at_the_end_loses_no_row_of_the_log(tmp_path, images, whole, monkeypatch):
    def kill(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(dad.DiffusionAD, "calibrate", kill)
        with pytest.raises(SystemExit):
            small(checkpoint_every=100).fit(images, steps=STEPS, out=tmp_path)
    model = small(checkpoint_every=100).fit(images, out=tmp_path, resume=True)
    assert weights(model) == whole
    steps = [row["step"] for row in training_log.read(tmp_path / fitting.LOG_FILE, STEPS)]
    assert steps == list(range(1, STEPS + 1))


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_earlier_run_cannot_be_resumed_once_another_is_planned(tmp_path, images, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=tmp_path, progress=stop_at(3))
    state = tmp_path / fitting.STATE_FILE
    before = state.read_bytes()
    with pytest.raises(InputError, match="foreground: expected images from files"):
        small().fit(images, steps=STEPS, out=tmp_path, foreground=tmp_path)
    assert state.read_bytes() == before  # no other run was begun
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "choose_foregrounds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small().fit(images, steps=STEPS, out=tmp_path)
    assert state.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))

    def killed(*_: object, **__: object) -> None:
        assert not state.exists()
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "choose_foregrounds", killed)
        with pytest.raises(SystemExit):
            small().fit(images, steps=STEPS, out=tmp_path)
    with pytest.raises(InputError, match=r"state\.safetensors: no such file, so nothing to resume"):
        small().fit(images, out=tmp_path, resume=True)
    assert not list(tmp_path.glob("*.tmp"))


def test_resume_refuses_what_does_not_fit(tmp_path, images, folder):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"state\.safetensors: no such file, so nothing to resume"):
        small().fit(images, out=out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=out, progress=stop_at(3))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    cases = [
        (small(), {"source": images[1:]}, "was trained with other images"),
        (small(), {"anomaly_source": folder}, "was trained with other anomaly_source"),
        (small(), {"steps": STEPS + 1}, f"keeps its {STEPS} steps"),
        (small(seed=1), {}, "this run's model has seed 0, not 1"),
        (small(seg_channels=8), {}, "this run's model has seg_channels 4, not 8"),
    ]
    for model, options, words in cases:
        with pytest.raises(InputError, match=words):
            model.fit(options.pop("source", images), out=out, resume=True, **options)
    (out / "state.safetensors").write_bytes(before["state.safetensors"][:-9])
    with pytest.raises(InputError, match=r"state\.safetensors: not a complete"):
        small().fit(images, out=out, resume=True)
    (out / "state.safetensors").write_bytes(before["state.safetensors"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_time_budget_becomes_a_number_of_steps_that_is_kept(tmp_path, images, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(fitting.Fit, "_steps_within", lambda self, budget: round(3 * budget))
    monkeypatch.setattr(fitting.Fit, "_keep_to_budget", lambda self, per_step: None)
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, time_budget=2.0, out=out, progress=stop_at(2))
    assert config.from_toml(out / "config.toml")[1].steps == STEPS
    assert dad.load(out / "model.safetensors").train_config.steps == STEPS
    model = dad.load(out / "model.safetensors")
    model.fit(images, time_budget=100.0, out=out, resume=True)
    assert model.provenance["train_steps"] == model.train_config.steps == STEPS
    monkeypatch.undo()
    assert weights(model) == weights(small().fit(images, steps=STEPS))


def test_a_run_killed_before_its_first_checkpoint_keeps_its_number_of_steps(
    tmp_path, images, monkeypatch
):
    out = tmp_path / "run"
    monkeypatch.setattr(fitting.Fit, "_steps_within", lambda self, budget: round(3 * budget))
    monkeypatch.setattr(fitting.Fit, "_keep_to_budget", lambda self, per_step: None)
    monkeypatch.setattr(fitting.Fit, "_save", lambda self: None)  # as a kill would have it
    with pytest.raises(KeyboardInterrupt):
        small(checkpoint_every=100).fit(images, time_budget=2.0, out=out, progress=stop_at(2))
    monkeypatch.undo()
    assert {path.name for path in out.iterdir()} == {"state.safetensors"}
    model = small(checkpoint_every=100).fit(images, out=out, resume=True)
    assert model.train_config.steps == STEPS
    assert weights(model) == weights(small().fit(images, steps=STEPS))


def test_a_run_killed_before_its_first_checkpoint_is_not_resumed_as_the_one_before(
    tmp_path, images, whole, monkeypatch
):
    with pytest.raises(KeyboardInterrupt):
        small(seed=1).fit(images, steps=4, out=tmp_path, progress=stop_at(3))
    earlier = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="steps"):  # nothing is begun, so nothing is replaced
        small().fit(images, steps=0, out=tmp_path)
    assert checkpoints.load_state(tmp_path / "state.safetensors")[1]["iteration"] == 3
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "_save", lambda self: None)  # as a kill would have it
        with pytest.raises(KeyboardInterrupt):
            small().fit(images, steps=STEPS, out=tmp_path, progress=stop_at(1))
    assert (tmp_path / "model.safetensors").read_bytes() == earlier
    assert weights(small().fit(images, out=tmp_path, resume=True)) == whole
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + STEPS


def test_a_time_budget_is_turned_into_steps(images, monkeypatch):
    monkeypatch.setattr(fitting.Fit, "_keep_to_budget", lambda fit, per_step: None)
    model = small().fit(images, time_budget=1.5)
    assert model.train_config.steps >= 2
    assert model.provenance["train_steps"] == model.train_config.steps
    assert weights(model) == weights(small().fit(images, steps=model.train_config.steps))
    assert small().fit(images, time_budget=1e-6).train_config.steps == 1


def test_steps_are_planned_by_how_long_one_takes(images, monkeypatch):
    """A step of 1 s, the first of 9, within 100 s of which the end takes 12 and 5 are a reserve."""
    now, tried = [0.0], []

    def step(fit: fitting.Fit, trainer: dad.Trainer) -> StepResult:
        now[0] += 1.0 if tried else 9.0
        tried.append(trainer)
        trainer.iteration += 1
        return StepResult({}, np.empty(0), np.empty(0))

    monkeypatch.setattr(fitting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fitting.Fit, "_step", step)
    monkeypatch.setattr(fitting.Fit, "_seconds_at_end", lambda fit: 12.0)
    monkeypatch.setattr(fitting.Fit, "_keep_to_budget", lambda fit, per_step: None)
    model = small().fit(images, time_budget=100.0)
    spent = 9.0 + fitting.TIMING_STEPS - 1
    assert len(tried) == fitting.TIMING_STEPS + model.train_config.steps
    assert model.train_config.steps == int(100 - spent - 12 - 5)


def test_a_threshold_is_of_images_from_all_over(images, monkeypatch):
    """Held-out ones first, then others spread over all; the provenance says how many."""
    seen = []
    calibrate = dad.DiffusionAD.calibrate

    def noted(model: dad.DiffusionAD, found: np.ndarray, *rest: object) -> object:
        seen.append(np.asarray(found))
        return calibrate(model, found, *rest)

    monkeypatch.setattr(dad.DiffusionAD, "calibrate", noted)
    monkeypatch.setattr(fitting, "CALIBRATION_IMAGES", 6)
    grey = np.arange(20, 220, 20, dtype=np.uint8)
    many = np.broadcast_to(grey[:, None, None, None], (10, 32, 32, 3)).copy()
    model = small(validation_share=0.4, validations=1).fit(many, steps=1)
    [used] = seen
    assert model.provenance["threshold"] == (
        "reached by at most 0 of 6 good images, 4 of them held out"
    )
    shades = np.rint(used.mean(axis=(1, 2, 3)) * 255)
    rest = [shade for shade in grey if shade not in shades[:4]]
    assert list(shades[4:]) == [rest[0], rest[-1]]


class Clock:
    """What `time.monotonic` is to a run whose steps take as long as a function of their number.

    Without `train` that is all that they do.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        seconds: Callable[[int], float],
        train: bool = True,
    ) -> None:
        self.now, step = 0.0, fitting.Fit._step

        def slow(fit: fitting.Fit, trainer: dad.Trainer) -> object:
            self.now += seconds(trainer.iteration)
            if train:
                return step(fit, trainer)
            trainer.iteration += 1
            return StepResult({}, np.empty(0), np.empty(0))

        monkeypatch.setattr(fitting.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(fitting.Fit, "_step", slow)
        monkeypatch.setattr(fitting.Fit, "_steps_within", lambda fit, budget: int(0.95 * budget))


def test_a_run_on_a_machine_that_becomes_slower_keeps_to_its_budget(
    tmp_path, images, monkeypatch, caplog
):
    clock = Clock(monkeypatch, lambda step: 1.0 if step < 10 else 3.0)
    model = small(anneal=True)
    model.fit(images, time_budget=40.0, out=tmp_path)
    steps = model.train_config.steps
    assert 15 <= steps <= 20
    assert clock.now <= 40
    replanned = model.provenance["replanned"]
    assert (replanned[0]["from"], model.provenance["train_steps"]) == (38, steps)
    assert 10 < replanned[0]["at"] < replanned[-1]["to"] == steps
    assert "training steps instead of 38, for the time budget" in caplog.text


@pytest.mark.parametrize("slow", [4, 12])
def test_a_run_on_a_machine_that_becomes_faster_uses_its_budget(
    slow, tmp_path, images, monkeypatch, caplog
):
    clock = Clock(monkeypatch, lambda step: 1.0 if step < slow else 0.5)
    model = small(anneal=True)
    model.fit(images, time_budget=40.0, out=tmp_path)
    steps = model.train_config.steps
    assert 60 <= steps <= 72
    assert 30 < clock.now <= 40
    first = model.provenance["replanned"][0]
    assert (first["from"], model.provenance["train_steps"]) == (38, steps)
    assert "faster" in caplog.text
    assert f"{first['to']} training steps instead of 38, for the time budget" in caplog.text
    assert dad.load(tmp_path / "model.safetensors").train_config.steps == steps


def test_a_run_whose_rates_have_fallen_takes_no_further_steps(images, monkeypatch):
    Clock(monkeypatch, lambda step: 1.0 if step < 20 else 0.1)
    assert small(anneal=True).fit(images, time_budget=40.0).train_config.steps == 38


@pytest.mark.parametrize("seconds", [3.0, 0.4])
def test_a_replanned_run_has_the_rates_of_its_steps(seconds, images, monkeypatch):
    Clock(monkeypatch, lambda step: seconds)
    made, new = [], fitting.Fit._new_trainer
    monkeypatch.setattr(
        fitting.Fit, "_new_trainer", lambda *args: made.append(new(*args)) or made[-1]
    )
    model = small(anneal=True, lr_steps=0.01, warmup=9)
    monkeypatch.setattr(model, "started_from", "weights that were trained before")
    model.fit(images, time_budget=40.0)
    steps = model.train_config.steps
    assert steps != 38
    assert made[-1].unet_lr == min(model.train_config.unet_lr, 0.01 / steps)
    assert (made[-1].total_steps, made[-1].warmup) == (steps, min(9, steps // 4))


def test_validations_are_no_reason_to_plan_other_steps(images, monkeypatch):
    """Most looks at the clock see none of them, some see one."""
    clock = Clock(monkeypatch, lambda step: 0.55)
    measure = validation.Validation.measure

    def slow(held: validation.Validation, model: dad.DiffusionAD) -> validation.Scores:
        clock.now += 2.0
        return measure(held, model)

    def planned(fit: fitting.Fit, budget: float) -> int:
        assert fit.kept.seconds_left(0) == 8 * 2.0
        return 38

    monkeypatch.setattr(validation.Validation, "measure", slow)
    monkeypatch.setattr(fitting.Fit, "_steps_within", planned)
    many = np.concatenate([images, images, images])
    model = small(validation_share=0.5, validations=8, mirrored=False)
    model.fit(many, time_budget=43.0)
    assert "replanned" not in model.provenance
    assert clock.now == pytest.approx(38 * 0.55 + 9 * 2.0)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("validation_share", [0.0, 0.1])
def test_a_time_budget_is_for_the_end_of_the_run_too(
    validation_share, mirrored, standardised, images, monkeypatch
):
    """Where evaluating an image takes a fifth of a step, and 60 or 114 of them come at the end,
    each once or twice; also of a model that looks twice before, and not meanwhile."""
    within, repair = fitting.Fit._steps_within, inference.Detector._repair
    clock = Clock(monkeypatch, lambda step: 1.0, train=False)

    def slow(model: dad.DiffusionAD, x0: np.ndarray) -> object:
        clock.now += 0.2 * len(x0)
        return repair(model, x0)

    monkeypatch.setattr(fitting.Fit, "_steps_within", within)
    monkeypatch.setattr(inference.Detector, "_repair", slow)
    settings = {"standardised": standardised, "mirrored": mirrored}
    model = small(validation_share=validation_share, validations=4, **settings)
    many = np.concatenate([images] * 15)
    for _ in range(2):
        begun = clock.now
        model.fit(many, time_budget=120.0)
        assert 110 <= clock.now - begun <= 120
        assert "replanned" not in model.provenance
    assert model.normality is None or model.normality.pooled


def test_the_clock_is_looked_at_by_time_too(images, monkeypatch):
    """After a short time in which steps were quick, many are planned from one look to the next."""
    clock = Clock(monkeypatch, lambda step: 1.0 if step == 0 or step > 12 else 0.01)
    model = small(anneal=True).fit(images, time_budget=40.0)
    assert max(plan["to"] for plan in model.provenance["replanned"]) > 100
    assert clock.now <= 41


@pytest.mark.parametrize("start", [2, 30, 57, 80])
@pytest.mark.parametrize("held_up", [{0: 6.0}, {0: 18.0}, {0: 4.0, 1: 4.0}])
def test_a_stall_costs_about_as_much_as_it_takes(start, held_up, images, monkeypatch):
    """A pause, a longer one, and two slow steps, of 114 that were planned for 120 seconds."""
    clock = Clock(monkeypatch, lambda step: 1.0 + held_up.get(step - start, 0.0), train=False)
    steps = small(anneal=True).fit(images, time_budget=120.0).train_config.steps
    assert 113 - sum(held_up.values()) <= steps <= 114
    assert clock.now <= 120


@pytest.mark.parametrize("seconds", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("start", [0, 50, 80, 100, 110])
def test_a_machine_that_stays_slower_keeps_to_its_budget(start, seconds, images, monkeypatch):
    clock = Clock(monkeypatch, lambda step: 1.0 if step < start else seconds, train=False)
    small(anneal=True).fit(images, time_budget=120.0)
    assert 108 <= clock.now <= (120 if start < 110 or seconds < 10 else 130)  # by a step at most


@pytest.mark.parametrize("seconds", [1.05, 0.85])
def test_a_run_that_is_a_little_late_or_early_keeps_its_steps(seconds, images, monkeypatch):
    Clock(monkeypatch, lambda step: seconds)
    model = small().fit(images, time_budget=40.0)
    assert model.train_config.steps == 38
    assert "replanned" not in model.provenance


@pytest.mark.parametrize("seconds", [3.0, 0.4])
def test_a_replanned_run_is_resumed_with_its_new_number_of_steps(
    seconds, tmp_path, images, monkeypatch
):
    Clock(monkeypatch, lambda step: seconds)
    with pytest.raises(KeyboardInterrupt):
        small(checkpoint_every=100, anneal=True).fit(
            images, time_budget=40.0, out=tmp_path, progress=stop_at(9)
        )
    steps = dad.load(tmp_path / "model.safetensors").train_config.steps
    assert steps < 15 if seconds > 1 else steps > 60
    model = dad.load(tmp_path / "model.safetensors")
    model.fit(images, out=tmp_path, resume=True)
    assert model.provenance["train_steps"] == steps
    assert model.provenance["replanned"][-1]["to"] == steps
    whole = small(checkpoint_every=100, anneal=True).fit(images, time_budget=40.0)
    assert weights(model) == weights(whole)


# ---- several short runs from the same weights --------------------------------------------------


def trained(images: np.ndarray, **overrides: object) -> dad.DiffusionAD:
    """A model whose next run starts from weights that were trained before."""
    model = small(**{"anneal": True, "lr_steps": 4e-3, "member_steps": 4, **overrides})
    return model.fit(images, steps=1)


def states(model: dad.DiffusionAD) -> dict[str, np.ndarray]:
    return {
        f"{name}.{key}": value
        for name, network in model.networks.items()
        for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_long_run_gives_the_mean_of_its_members(ema_decay, images, monkeypatch):
    model = trained(images, ema_decay=ema_decay)
    start, before, after, rates = states(model), [], [], []
    update, step = Kept.update, fitting.Fit._step

    def seen(fit: fitting.Fit, trainer: dad.Trainer) -> object:
        before.append(states(model))
        rates.append(trainer.learning_rates(trainer.iteration)[0])
        return step(fit, trainer)

    def updated(kept: Kept, number: int) -> dict[str, float]:
        scores = update(kept, number)
        with dad.models.averaged(*(model.networks.values() if ema_decay else ())):
            after.append(states(model))
        return scores

    monkeypatch.setattr(fitting.Fit, "_step", seen)
    monkeypatch.setattr(Kept, "update", updated)
    model.fit(images, steps=10)  # five and five
    assert model.provenance["members"] == [0, 5]
    assert rates[:5] == rates[5:]
    assert rates[0] == 4e-3 / 5
    found = states(model)
    for name, value in start.items():
        np.testing.assert_array_equal(before[0][name], value)
        np.testing.assert_array_equal(before[5][name], value)
        mean = (after[4][name].astype(np.float64) + after[9][name]) / 2
        np.testing.assert_allclose(found[name], mean, rtol=1e-5, atol=1e-7)
    name = "seg.encoder_segment.block1.0.weight"  # Adam begins anew: a first step is the rate
    assert np.abs(before[6][name] - start[name]).max() == pytest.approx(rates[5], rel=1e-3)
    assert any((after[4][name] != after[9][name]).any() for name in start)


def test_every_member_counts_by_its_steps(images, monkeypatch):
    model, ends = trained(images, ema_decay=0.0), []
    begin = Kept.begin_member

    def ended(kept: Kept) -> None:
        ends.append(states(model))
        begin(kept)

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "begin_member", ended)
        patch.setattr(Kept, "settle", lambda kept: ends.append(states(model)))
        model.fit(images, steps=11)
    assert model.provenance["members"] == [0, 4, 8]
    whole = trained(images, ema_decay=0.0).fit(images, steps=11)
    for name, value in states(whole).items():
        if not name.endswith("num_batches_tracked"):
            first, second, last = (end[name].astype(np.float64) for end in ends)
            mean = (4 * first + 4 * second + 3 * last) / 11
            np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-7)


def test_members_that_are_not_finished_count_by_their_steps(images, tmp_path):
    """A run that is stopped in its second member, or right after its first, leaves their mean."""
    found, trained_on = {}, {}
    for step, members in ((5, [0]), (6, [0, 5]), (8, [0, 5])):
        model, out = trained(images, member_steps=5, ema_decay=0.0), tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            model.fit(images, steps=10, out=out, progress=stop_at(step))
        trained_on[step], values = checkpoints.load_state(out / fitting.STATE_FILE)
        assert values["members"] == members
        found[step] = states(model)
    for step, share in ((5, 1), (6, 1 / 6), (8, 3 / 8)):
        for name, first in found[5].items():
            present = np.asarray(trained_on[step][name])
            expected = (
                present
                if name.endswith("num_batches_tracked")
                else (first + share * (present - first))
            )
            np.testing.assert_allclose(found[step][name], expected, rtol=1e-5, atol=1e-7)


def test_members_are_as_long_as_the_images_bear(images):
    many = np.concatenate([images] * (fitting.FEW_IMAGES // len(images)))

    def members(source: np.ndarray, steps: int, **overrides: object) -> list[int]:
        model = trained(images, validation_share=0.0, **overrides).fit(source, steps=steps)
        return model.provenance.get("members", [0])

    assert members(images, 5) == [0]
    assert members(images, 11) == [0, 4, 8]
    assert members(images, 11, member_steps=0) == [0]
    assert members(np.concatenate([many, many[: len(many) // 2]]), 18) == [0, 9]
    assert "members" not in small(member_steps=2).fit(images, steps=6).provenance  # random weights


@pytest.mark.parametrize("step", [2, 3, 5, 6, 7])
def test_a_run_of_members_goes_on_bit_for_bit(tmp_path, images, step):
    held = {"validation_share": 0.4, "validations": 4, "ema_decay": 0.5, "member_steps": 3}
    many = np.concatenate([images, images, images])
    whole = trained(many, **held).fit(many, steps=9, out=tmp_path / "whole")
    assert whole.provenance["members"] == [0, 3, 6]
    model, out = trained(many, **held), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        model.fit(many, steps=9, out=out, progress=stop_at(step))
    read, stopped = dad.load(out / "model.safetensors"), states(model)
    for name, value in states(read).items():
        np.testing.assert_array_equal(value, stopped[name])
    again = trained(many, **held, seed=0).fit(many, out=out, resume=True)
    assert weights(again) == weights(whole)
    for name in ("members", "validation"):
        assert again.provenance[name] == whole.provenance[name]


def test_a_run_of_many_images_of_which_some_are_held_out_goes_on_bit_for_bit(tmp_path, images):
    """More than 200: rates and members follow their number, which is that of those trained on."""
    many = np.concatenate([images] * 75)
    held = {"validation_share": 0.1, "validations": 1, "member_steps": 1, "standardised": False}
    whole = trained(images, **held).fit(many, steps=5)
    assert whole.provenance["members"] == [0, 2, 4]  # by 270 images; by all 300: [0, 3]
    model = trained(images, **held)
    with pytest.raises(KeyboardInterrupt):
        model.fit(many, steps=5, out=tmp_path, progress=stop_at(3))
    again = trained(images, **held, seed=0).fit(many, out=tmp_path, resume=True)
    assert again.provenance["members"] == whole.provenance["members"]
    assert weights(again) == weights(whole)


@pytest.mark.parametrize(("seconds", "members"), [(2.0, 2), (0.4, 11)])
def test_a_replanned_run_has_as_many_members_as_its_steps_allow(
    seconds, members, images, monkeypatch
):
    model = trained(images, member_steps=9)
    clock = Clock(monkeypatch, lambda step: seconds)
    model.fit(images, time_budget=40.0)
    steps, begun = model.train_config.steps, model.provenance.get("members", [0])
    assert steps != 38
    assert clock.now <= 40
    lengths = np.diff([*begun, steps])
    assert len(lengths) == members
    assert lengths.min() >= 8
    assert lengths.max() <= 13


# ---- places that cannot be written ------------------------------------------------------------


def test_a_full_disk_ends_the_run_and_leaves_earlier_files(tmp_path, images, whole, monkeypatch):
    out = tmp_path / "run"
    write, calls = checkpoints._write, []

    def full(path: Path, *rest: object) -> None:
        calls.append(path)
        if len(calls) > 3:  # the model of the second checkpoint
            raise WriteError(f"{path}: cannot write: {os.strerror(errno.ENOSPC).lower()}")
        write(path, *rest)

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(WriteError, match=r"model\.safetensors: cannot write: no space"):
        small().fit(images, steps=STEPS, out=out)
    monkeypatch.undo()
    model = dad.load(out / "model.safetensors")
    assert model.provenance["train_steps"] == 2
    assert weights(model.fit(images, out=out, resume=True)) == whole


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path, images, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file: cannot make this folder"):
        small().fit(images, steps=1, out=tmp_path / "file")

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(WriteError, match="run: cannot write: permission denied"):
        small().fit(images, steps=1, out=tmp_path / "run", progress=stop_at(1))


def test_a_folder_is_free_again_after_a_run(tmp_path, images):
    with pytest.raises(InputError, match="steps"):
        small().fit(images, steps=0, out=tmp_path)
    small().fit(images, steps=1, out=tmp_path)
    small().fit(images, steps=1, out=tmp_path)


# ---- anomalies --------------------------------------------------------------------------------


def drawn(model: dad.DiffusionAD, monkeypatch: pytest.MonkeyPatch, **options: object) -> list:
    """Images, masks and labels of every step of a short run."""
    steps = []
    whole = dad.Trainer.step

    def step(self, images, masks, labels, **rest):
        steps.append((images, masks, labels))
        return whole(self, images, masks, labels, **rest)

    monkeypatch.setattr(dad.Trainer, "step", step)
    model.fit(**options)
    return steps


def test_anomalies_stay_inside_the_foreground(tmp_path, folder, monkeypatch):
    (tmp_path / "masks").mkdir()
    for path in folder.iterdir():
        mask = np.zeros((40, 36), np.uint8)
        mask[:20] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / path.name)
    model = small(batch_size=8, anomaly_probability=1.0)
    steps = drawn(model, monkeypatch, source=folder, foreground=tmp_path / "masks", steps=3)
    masks = np.concatenate([masks for _, masks, _ in steps])
    assert masks[:, :, :16].any()
    assert not masks[:, :, 16:].any()


def test_a_foreground_stays_with_its_image_when_others_are_held_out(tmp_path, monkeypatch):
    good, masks = tmp_path / "good", tmp_path / "masks"
    good.mkdir()
    masks.mkdir()
    for index in range(12):  # dark ones may have defects above, bright ones below
        grey, mask = 60 + 120 * (index % 2), np.zeros((40, 40), np.uint8)
        mask[20:] = index % 2
        mask[:20] = 1 - index % 2
        Image.new("L", (40, 40), grey).save(good / f"{index:02}.png")
        Image.fromarray(mask).save(masks / f"{index:02}.png")
    model = small(batch_size=8, anomaly_probability=1.0, validation_share=0.4, self_probability=0.0)
    kept = []
    hold_out = fitting.Fit._hold_out
    monkeypatch.setattr(
        fitting.Fit, "_hold_out", lambda fit: (hold_out(fit), kept.append(fit.kept.validation))
    )
    steps = drawn(model, monkeypatch, source=good, foreground=masks, steps=3)
    found = [(images, defects) for images, defects, _ in steps]
    found.append((kept[0].defective, kept[0].masks[-len(kept[0].defective) :]))
    seen = set()
    for images, defects in found:
        defects = defects.reshape(len(images), *defects.shape[-2:]) > 0
        for image, defect in zip(images, defects, strict=True):
            bright = int(np.median(image[:, ~defect]) > 0.45)
            half = slice(16, 32) if bright else slice(0, 16)
            outside = defect.copy()
            outside[half] = False
            assert not outside.any()
            seen.add((bright, bool(defect.any())))
    assert {(0, True), (1, True)} <= seen


def test_foregrounds_that_do_not_fit_are_named(tmp_path, folder, images):
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in (0, 1, 3):
        Image.new("L", (36, 40), 255).save(masks / f"{index}.png")
    with pytest.raises(InputError, match=r"masks: no mask for 1 of 4 images, for example '2'"):
        small().fit(folder, foreground=masks, steps=1)
    Image.new("L", (36, 40), 0).save(masks / "2.png")
    with pytest.raises(InputError, match=r"2\.png: the mask leaves no place"):
        small().fit(folder, foreground=masks, steps=1)
    with pytest.raises(InputError, match="foreground: expected images from files"):
        small().fit(images, foreground=masks, steps=1)


@pytest.fixture
def parts(tmp_path) -> Path:
    """A category of parts on a plain background: each a dark square, at 12 to 28 of 40 pixels."""
    good = tmp_path / "category" / "train" / "good"
    good.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for index in range(4):
        pixels = rng.integers(195, 205, (40, 40, 3), dtype=np.uint8)
        pixels[12:28, 12:28] = 40
        Image.fromarray(pixels).save(good / f"{index}.png")
    return good


def places(
    model: dad.DiffusionAD, monkeypatch: pytest.MonkeyPatch, **options: object
) -> np.ndarray:
    """The share of steps' masks in each pixel, 32 x 32."""
    masks = [masks for _, masks, _ in drawn(model, monkeypatch, steps=4, **options)]
    return np.asarray(np.concatenate(masks)[:, 0].mean(axis=0))


def anomalous() -> dad.DiffusionAD:
    return small(batch_size=8, anomaly_probability=1.0)


def test_anomalies_lie_on_the_object_that_is_found(monkeypatch, parts):
    data = datasets.open(parts.parents[1], test_fraction=0.0)
    assert data.kind == "object"
    model = anomalous()
    share = places(model, monkeypatch, source=data)
    assert SIZE == 32
    assert share[10:22, 10:22].any()
    share[9:23, 9:23] = 0
    assert not share.any()
    assert model.provenance["data"]["foreground"] == "found"


def test_a_texture_has_anomalies_anywhere_and_never_from_itself(monkeypatch, parts):
    model = anomalous()
    share = places(model, monkeypatch, source=parts, kind="texture")
    share[9:23, 9:23] = 0
    assert share.any()
    assert model.provenance["data"]["foreground"] is None
    config = model.train_config
    assert (config.kind, config.self_probability, config.random_part) == ("texture", 0.0, True)


def settled(model: dad.DiffusionAD, source: Any, kind: str | None = None) -> tuple[object, ...]:
    """The kind and what follows from it, of a run on this source."""
    model.fit(source, steps=1, kind=kind)
    found = model.train_config
    return found.kind, found.self_probability, found.random_part


def test_the_kind_of_an_earlier_fit_decides_nothing(tmp_path, parts, images):
    objects = datasets.open(parts.parents[1], test_fraction=0.0)
    cloth = dataclasses.replace(objects, kind="texture")
    texture, usual = ("texture", 0.0, True), ("object", 0.5, False)
    model = small()
    assert settled(model, images, "texture") == texture
    model.save(tmp_path / "m.safetensors")
    assert settled(model, objects, "object") == usual
    assert settled(model, cloth) == texture
    assert settled(model, objects) == usual
    assert settled(model, cloth) == texture
    assert settled(model, images) == ("auto", 0.5, False)
    for source, kind, expected in (
        (images, "object", usual), (objects, None, usual), (images, None, texture),
    ):  # fmt: skip
        assert settled(dad.load(tmp_path / "m.safetensors"), source, kind) == expected
    loaded = dad.load(tmp_path / "m.safetensors").set_params(kind="object")
    assert settled(loaded, cloth) == usual
    model = small(self_probability=0.3)
    assert settled(model, cloth) == texture
    assert settled(model, objects) == ("object", 0.3, False)
    model = small(kind="texture")  # given, so that it goes before the dataset's
    assert [settled(model, objects) for _ in range(2)] == [texture, texture]
    assert settled(model, objects, "object") == usual


def test_longer_runs_go_no_further_from_trained_weights(monkeypatch, images, tmp_path):
    rates = []

    class Noted(fitting.Trainer):
        def __init__(self, *networks: object, **options: float) -> None:
            super().__init__(*networks, **options)
            rates.append((self.unet_lr, self.seg_lr))

    monkeypatch.setattr(fitting, "Trainer", Noted)
    model = small(unet_lr=4e-4, seg_lr=1e-3, lr_steps=2e-3, validation_share=0.0)
    model.fit(images, steps=4)  # from random weights: no limit
    model.fit(images, steps=1)
    model.fit(images, steps=4, out=tmp_path / "run")
    model.fit(images, out=tmp_path / "run", resume=True)
    many = np.concatenate([images] * (fitting.FEW_IMAGES // len(images) + 1))
    model.fit(many[: fitting.FEW_IMAGES], steps=8)
    model.fit(np.concatenate([many, many])[: fitting.FEW_IMAGES * 3 // 2], steps=8)
    assert rates == [
        *((4e-4, 1e-3), (4e-4, 1e-3), (4e-4, 5e-4), (4e-4, 5e-4)),
        *((2.5e-4, 2.5e-4), (4e-4, 2e-3 * 1.5**2 / 8)),
    ]


def test_the_references_masks_beside_the_images_are_used(monkeypatch, parts):
    folder = parts.parents[1] / "DISthresh" / "good"
    folder.mkdir(parents=True)
    mask = np.zeros((40, 40), np.uint8)
    mask[:10] = 255
    for index in range(4):
        Image.fromarray(mask).save(folder / f"{index}.png")
    model = anomalous()
    share = places(model, monkeypatch, source=datasets.open(parts.parents[1]))
    assert share[:8].any()
    assert not share[8:].any()
    assert model.provenance["data"]["foreground"] == "good"


def test_found_masks_are_kept_beside_the_run(monkeypatch, tmp_path, parts):
    out, calls = tmp_path / "out", []
    find = saliency.ForegroundFinder.find
    monkeypatch.setattr(
        saliency.ForegroundFinder, "find", lambda *args: calls.append(0) or find(*args)
    )
    first = small().fit(parts, steps=4, out=out)
    assert len(calls) == 4
    kept = (out / "foregrounds.npz").read_bytes()
    again = small().fit(parts, steps=4, out=out)
    assert len(calls) == 4
    assert weights(first) == weights(again)
    for broken in (b"", b"PK", kept[: len(kept) // 2], kept[:-60] + bytes(60)):
        (out / "foregrounds.npz").write_bytes(broken)
        assert weights(small().fit(parts, steps=4, out=out)) == weights(first)
    assert len(calls) == 4 * 5
    Image.new("RGB", (40, 40), 90).save(parts / "0.png")
    small().fit(parts, steps=1, out=out)
    assert len(calls) == 4 * 6


def test_a_run_with_found_masks_goes_on_bit_for_bit(tmp_path, parts):
    whole = small().fit(parts, steps=STEPS)

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small().fit(parts, steps=STEPS, out=tmp_path / "out", progress=stop)
    (tmp_path / "out" / "foregrounds.npz").unlink()
    with pytest.raises(InputError, match="kind: this run has object and keeps it"):
        small().fit(parts, kind="texture", out=tmp_path / "out", resume=True)
    resumed = small().fit(parts, out=tmp_path / "out", resume=True)
    assert weights(resumed) == weights(whole)


def test_an_unknown_kind_is_named(images):
    with pytest.raises(InputError, match=r"kind: expected .* got 'cloth'"):
        small().fit(images, kind="cloth", steps=1)


def test_anomalies_come_from_the_given_textures(tmp_path, folder, monkeypatch):
    textures = tmp_path / "dtd" / "red"
    textures.mkdir(parents=True)
    Image.new("RGB", (50, 50), (255, 0, 0)).save(textures / "r.png")
    model = small(batch_size=8, anomaly_probability=1.0, self_probability=0.0)
    steps = drawn(model, monkeypatch, source=folder, anomaly_source=textures.parent, steps=2)
    images = np.concatenate([images for images, _, _ in steps]).transpose(1, 0, 2, 3)
    inside = np.concatenate([masks for _, masks, _ in steps])[:, 0] > 0
    red, green, blue = (channel[inside].mean() for channel in images)
    assert red > 1.3 * max(green, blue)
    assert model.provenance["data"]["anomaly_source"] == "dtd"


def test_bad_textures_are_named(tmp_path, images):
    textures = tmp_path / "dtd"
    textures.mkdir()
    with pytest.raises(InputError, match="dtd: no images in this folder"):
        small().fit(images, anomaly_source=textures, steps=1)
    (textures / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"dtd: .*, got 1 that cannot, .*broken\.png: not an"):
        small().fit(images, anomaly_source=textures, steps=1)


def test_textures_are_kept_up_to_a_limit_and_stay_the_same(tmp_path, monkeypatch):
    for index in range(5):
        Image.new("RGB", (9, 9), (index * 50, 0, 0)).save(tmp_path / f"{index}.png")
    seeds = [np.random.default_rng(2) for _ in range(2)]
    kept = sources.Textures(tmp_path, 8)
    expected = kept.draw(seeds[0], 20)
    assert expected.shape == (20, 3, 8, 8)
    assert len(np.unique(expected[:, 0, 0, 0])) == 5
    monkeypatch.setattr(sources, "TEXTURE_MEMORY", 2 * 8 * 8 * 3)
    limited = sources.Textures(tmp_path, 8)
    np.testing.assert_array_equal(limited.draw(seeds[1], 20), expected)
    assert len(limited._kept) == 2
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(kept.draw(np.random.default_rng(2), 20), expected)


def gallery(folder: Path, *broken: int) -> Path:
    """Six plain textures, each of a level of its own; some of them cut off in their pixels."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for index in range(6):
        pixels = rng.integers(40 * index, 40 * index + 9, (24, 24, 3), dtype=np.uint8)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        if index in broken:
            path.write_bytes(path.read_bytes()[:400])
    return folder


def test_textures_that_cannot_be_read_give_way_to_the_next(tmp_path, caplog):
    whole = sources.Textures(gallery(tmp_path / "whole"), 24)
    cut = sources.Textures(gallery(tmp_path / "cut", 2, 3, 5), 24)
    expected, found = (
        np.floor(textures.draw(np.random.default_rng(4), 40)[:, 0, 0, 0] * 255 / 40).astype(int)
        for textures in (whole, cut)
    )
    np.testing.assert_array_equal(found, np.array([0, 1, 4, 4, 4, 0])[expected])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3  # once for each
    for name in ("2.png", "3.png", "5.png"):
        assert sum(f"{name}: the image is broken" in message for message in messages) == 1
    with pytest.raises(InputError, match=r"bad: .*, got 6 that cannot, .*0\.png"):
        sources.Textures(gallery(tmp_path / "bad", *range(6)), 24).draw(np.random.default_rng(4), 1)


def test_a_run_with_a_texture_that_cannot_be_read_ends_and_resumes(tmp_path, images, caplog):
    options = {"anomaly_source": gallery(tmp_path / "textures", 1, 4)}
    whole = small().fit(images, steps=STEPS, **options)
    assert "1.png: the image is broken" in caplog.text
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=out, progress=stop_at(3), **options)
    model = dad.load(out / "model.safetensors").fit(images, out=out, resume=True, **options)
    assert weights(model) == weights(whole)


@pytest.mark.parametrize("step", [0, 3, 4])
def test_a_texture_that_is_gone_ends_the_run_saved(tmp_path, images, monkeypatch, step):
    """In the middle of a run and where a member would begin; before the first step none is left."""
    options = {"anomaly_source": gallery(tmp_path / "textures")}
    settings = {"checkpoint_every": 100, "member_steps": 4, "ema_decay": 0.5}
    whole = trained(images, **settings).fit(images, steps=8, **options)
    assert whole.provenance["members"] == [0, 4]
    monkeypatch.setattr(sources, "TEXTURE_MEMORY", 0)
    away, out, read = tmp_path / "away", tmp_path / "run", sources.Textures.draw

    def draw(textures: sources.Textures, *arguments: object) -> np.ndarray:
        drawn.append(0)
        if len(drawn) == step + 1:
            options["anomaly_source"].rename(away)
        return read(textures, *arguments)

    drawn: list[int] = []
    monkeypatch.setattr(sources.Textures, "draw", draw)
    model = trained(images, **settings)
    with pytest.raises(InputError, match=r"\.png: no such file"):
        model.fit(images, steps=8, out=out, **options)
    away.rename(options["anomaly_source"])
    if step == 0:
        assert list(out.iterdir()) == []
        return
    left = dad.load(out / "model.safetensors")
    assert left.provenance["train_steps"] == step
    for name, value in states(model).items():
        np.testing.assert_array_equal(value, states(left)[name])
    assert weights(left.fit(images, out=out, resume=True, **options)) == weights(whole)


def test_divergence_is_an_error_and_keeps_the_last_checkpoint(tmp_path, images, monkeypatch):
    out = tmp_path / "run"
    step = dad.Trainer.step

    def diverge(self, *args, **options):
        if self.iteration == 3:
            raise FloatingPointError("the loss is nan at iteration 3")
        return step(self, *args, **options)

    monkeypatch.setattr(dad.Trainer, "step", diverge)
    with pytest.raises(FloatingPointError, match="loss is nan"):
        small().fit(images, steps=STEPS, out=out)
    assert dad.load(out / "model.safetensors").provenance["train_steps"] == 2


def test_after_a_divergence_lower_rates_train_the_model(images):
    rates = {"unet_lr": 1e-4, "seg_lr": 1e-4, "warmup": 0, "lr_steps": 0.0}
    options = {"image_size": 32, "batch_size": 2, "kind": "texture", **rates}
    model = dad.DiffusionAD("tiny", **{**options, "unet_lr": 1e12})
    with pytest.raises(FloatingPointError, match=r"iteration [1-9]"):
        model.fit(images, steps=20)
    assert not model.__sklearn_is_fitted__()
    assert model.set_params(unet_lr=1e-4).fit(images, steps=2).provenance["train_steps"] == 2
    assert weights(model) == weights(dad.DiffusionAD("tiny", **options).fit(images, steps=2))


def test_a_trained_model_that_diverges_is_no_longer_finished(images):
    rates = {"unet_lr": 1e-4, "seg_lr": 1e-4, "warmup": 0, "lr_steps": 0.0}
    model = dad.DiffusionAD("tiny", image_size=32, batch_size=2, kind="texture", **rates)
    assert model.fit(images, steps=1).provenance["finished"]
    with pytest.raises(FloatingPointError):
        model.set_params(unet_lr=1e12).fit(images, steps=20)
    assert not model.provenance["finished"]


# ---- the ablation's other ways to repair ------------------------------------------------------


def test_an_autoencoder_trains_repairs_without_noise_and_resumes(tmp_path, images):
    options = {"mode": "autoencoder", "preconditioned": False}
    whole = small(**options).fit(images, steps=STEPS)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        small(**options).fit(images, steps=STEPS, out=out, progress=stop_at(3))
    model = dad.load(out / "model.safetensors").fit(images, out=out, resume=True)
    assert weights(model) == weights(whole)
    x0 = np.random.default_rng(1).random((2, 3, SIZE, SIZE), dtype=np.float32)
    found = model.predict(x0)
    np.testing.assert_array_equal(found.reconstructions, model.unet(x0, 0))
    model.seed = 9  # there is no noise that it could decide
    np.testing.assert_array_equal(model.predict(x0).maps, found.maps)
    stages = model.explain(x0)
    np.testing.assert_array_equal(stages.x_s, x0)
    assert stages.x_b is None
    assert model.training_memory()["total"] < small().training_memory()["total"]


def test_a_model_that_repairs_iteratively_takes_t_s_steps():
    x0 = np.random.default_rng(1).random((2, 3, SIZE, SIZE), dtype=np.float32)
    model = small(mode="iterative", t_s=3, seed=4)
    wanted = dad.denoise(model.unet, x0, "iterative", t_s=3, seed=4, schedule=model.schedule)
    np.testing.assert_array_equal(model.predict(x0).reconstructions, wanted.x0)


def in_another_thread(call: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_other_threads_do_not_look_while_a_model_is_trained(images):
    model, copies, refused = small(), [], []

    def look_elsewhere(_: object) -> None:
        looks = (
            lambda: model.predict(images),
            lambda: model.explain(images),
            lambda: model.predict_tiled(images),
            lambda: model.measure_normality(images),
            lambda: list(model.predict_stream(images)),
        )
        for look in looks:
            with pytest.raises(InputError, match="model: another thread trains it; look at images"):
                in_another_thread(look)
            refused.append(look)
        for train in (in_another_thread, lambda call: call()):
            with pytest.raises(InputError, match="model: it is being trained already"):
                train(lambda: model.fit(images, steps=1))
        model.predict(images)  # the thread that trains it may
        copies.append(copy.deepcopy(model))
        assert in_another_thread(lambda: copies[-1].predict(images)).scores.shape == (4,)

    model.fit(images, steps=2, progress=look_elsewhere)
    assert len(refused) == 10
    found = in_another_thread(lambda: model.predict(images))
    np.testing.assert_array_equal(found.maps, small().fit(images, steps=2).predict(images).maps)
    copies[0].fit(images, steps=1)  # made while the other was trained; trains all the same


def test_a_training_that_fails_leaves_the_model_to_other_threads(images, monkeypatch):
    model = small()

    def fail(_: object) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        model.fit(images, steps=1, progress=fail)
    with pytest.raises(InputError, match="images"):
        model.fit([], steps=1)
    assert in_another_thread(lambda: model.predict(images)).scores.shape == (4,)


def test_what_another_thread_does_waits_for_a_look_to_end(images, monkeypatch):
    model = small(standardised=True, mirrored=True).fit(images, steps=1)
    want, repair = model.predict(images), inference.Detector._repair
    assert want.labels is not None

    def fit_elsewhere() -> None:
        model.fit(images, steps=1)

    def change_elsewhere() -> None:
        model.set_params(mirrored=False)

    for call in (change_elsewhere, fit_elsewhere):
        other, done = copy.deepcopy(model), []
        thread = threading.Thread(target=lambda call=call, done=done: done.append(call()))

        def begin(one: dad.DiffusionAD, x0: np.ndarray, thread=thread, done=done) -> object:
            if not thread.ident:
                thread.start()
            time.sleep(0.05)
            assert not done
            return repair(one, x0)

        with monkeypatch.context() as patch:
            patch.setattr(inference.Detector, "_repair", begin)
            found = model.predict(images, batch_size=1)
            patch.undo()
            thread.join()
        np.testing.assert_array_equal(found.maps, want.maps)
        np.testing.assert_array_equal(found.labels, want.labels)
        assert done
        assert model.threshold != other.threshold
        vars(model).update(vars(other))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it keeps freed memory")
def test_a_trained_model_gives_back_the_memory_of_its_training(images):
    model, sizes = small(image_size=192, batch_size=4), []
    model.fit(images, steps=2, progress=lambda _: sizes.append(resident_mb()))
    arenas = [n._core.memory(4, training=True)["arena"] for n in model.networks.values()]
    assert min(arenas) > 2**25
    assert sizes[-1] - resident_mb() > sum(arenas) / 2**21
