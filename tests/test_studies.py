"""What studies stand on: the results file and its settings, trainings that go on, choices."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

import diffusionad as dad
from diffusionad import checkpoints, datasets, studies, system
from diffusionad.console import Console
from diffusionad.datasets import Counts, Sample
from diffusionad.errors import InputError, WriteError
from diffusionad.studies import Recipe, Study

QUIET = Console(quiet=True)
SETTINGS = {"steps": 4, "seeds": (0, 1), "protocol": "benchmark", "rate": 0.5, "source": None}
TINY = Recipe(image_size=64, batch_size=2, steps=3)


@pytest.fixture
def data(tmp_path) -> datasets.Dataset:
    layouts.write(tmp_path / "data", "mvtec", "bottle", Counts(4, 2, 3), size=16)
    return datasets.open(tmp_path / "data", category="bottle")


# ---- the results file -------------------------------------------------------------------------


def test_rows_are_kept_replaced_and_found_again(tmp_path):
    study = Study(tmp_path, "trial", SETTINGS)
    study.put({"category": "a", "seed": 0, "value": 1}, "category", "seed")
    study.put({"category": "a", "seed": 1, "error": "no"}, "category", "seed")
    study.put({"category": "a", "seed": 0, "value": 2}, "category", "seed")
    study.save(mean=3)
    again = Study(tmp_path, "trial", {**SETTINGS, "seeds": [0, 1]})
    assert again.find(category="a", seed=0) == {"category": "a", "seed": 0, "value": 2}
    assert again.find(category="a", seed=1) is None  # failed: to be tried again
    assert again.find(category="b", seed=0) is None
    assert len(again.rows()) == 2
    assert again.values["mean"] == 3
    assert again.values["versions"]["diffusionad"] == dad.__version__
    assert [path.name for path in tmp_path.iterdir()] == ["trial.json"]


def test_wall_time_adds_up(tmp_path):
    study = Study(tmp_path, "trial", SETTINGS)
    study.begun -= 100.0
    study.save()
    again = Study(tmp_path, "trial", SETTINGS)
    again.begun -= 50.0
    again.save()
    assert 150.0 <= json.loads(again.path.read_text())["wall_seconds"] < 160.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 5}, "holds results with steps 4, this run has 5: choose another folder"),
        ({"seeds": (0,)}, "holds results with seeds 0, 1, this run has 0: "),
        ({"source": "dtd"}, "with source None, this run has dtd"),
        ({"more": 1}, "with more None, this run has 1"),
        ({"protocol": "x" * 99}, f"this run has {'x' * 57}"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, changes, words):
    Study(tmp_path, "trial", SETTINGS).save()
    with pytest.raises(InputError, match=words) as caught:
        Study(tmp_path, "trial", {**SETTINGS, **changes})
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("older", [{"recompute": False}, {"recompute": True}, {}])
def test_what_decides_no_result_may_differ(tmp_path, older):
    study = Study(tmp_path, "trial", {**TINY.settings(), **older})
    study.save()
    Study(tmp_path, "trial", dataclasses.replace(TINY, memory_budget=1.0).settings())


def test_settings_that_older_results_lack_were_the_papers(tmp_path):
    older = {k: v for k, v in TINY.settings().items() if k != "mirrored"}
    Study(tmp_path, "trial", older).save()
    Study(tmp_path, "trial", {**older, "mirrored": False})
    with pytest.raises(InputError, match="holds results with mirrored False, this run has True"):
        Study(tmp_path, "trial", {**older, "mirrored": True})


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": "other/1"}',
        b'{"format": "diffusionad-trial/2", "settings": {}}',
        b'{"format": "diffusionad-trial/1"}',
        b'{"format": "diffusionad-trial/1", "settings": {}, "rows": 3}',
        b'{"format": "diffusionad-trial/1", "settings": {}, "rows": [3]}',
        b'{"format": "diffusionad-trial/1", "settings": {}, "wall_seconds": "x"}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_stays(tmp_path, content):
    file = tmp_path / "trial.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"trial\.json: .*move it away to begin anew"):
        Study(tmp_path, "trial", {})
    assert file.read_bytes() == content


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path):
    (tmp_path / "trial.json").mkdir()
    with pytest.raises(InputError, match=r"trial\.json: cannot be read: is a directory"):
        Study(tmp_path, "trial", {})
    study = Study(tmp_path, "other", {})
    study.path = tmp_path / "gone" / "other.json"
    with pytest.raises(WriteError, match=r"other\.json: cannot write: no such file"):
        study.save()


# ---- trainings --------------------------------------------------------------------------------


def stop_at(step: int):
    def watch(p: dad.model.Progress) -> None:
        if p.step == step:
            raise KeyboardInterrupt

    return watch


@pytest.mark.slow
def test_a_training_is_begun_gone_on_with_and_found_finished(tmp_path, data):
    whole = studies.trained(tmp_path / "a", TINY.model(1), data, TINY, None, QUIET)
    out = tmp_path / "runs" / "b"
    with pytest.raises(KeyboardInterrupt):
        studies.trained(out, TINY.model(1), data, TINY, None, QUIET, stop_at(2))
    seen: list[int] = []
    model = studies.trained(out, TINY.model(1), data, TINY, 3, QUIET, lambda p: seen.append(p.step))
    assert seen == [3]
    for net in ("unet", "seg"):
        for name, value in getattr(whole, net).state_dict().items():
            np.testing.assert_array_equal(getattr(model, net).state_dict()[name], value)
    studies.forget_state(out)
    assert not (out / "state.safetensors").exists()
    seen.clear()
    found = studies.trained(out, TINY.model(1), data, TINY, 3, QUIET, stop_at(1))
    assert found.threshold == model.threshold


def test_a_folder_of_another_training_is_refused(tmp_path, data):
    out = tmp_path / "run"
    studies.trained(out, TINY.model(1), data, TINY, None, QUIET)
    for model in (TINY.model(2), TINY.model(1, guidance=0.0), TINY.model(1, mode="one_step")):
        with pytest.raises(InputError, match=r"model\.safetensors: a model with other settings"):
            studies.trained(out, model, data, TINY, None, QUIET)
    less = dataclasses.replace(data, train=data.train[:2])
    with pytest.raises(InputError, match="a model of other images than bottle's"):
        studies.trained(out, TINY.model(1), less, TINY, None, QUIET)
    half = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        studies.trained(half, TINY.model(1), data, TINY, None, QUIET, stop_at(2))
    with pytest.raises(InputError, match=r"state\.safetensors: a training with other settings"):
        studies.trained(half, TINY.model(1, guidance=0.0), data, TINY, None, QUIET)
    assert checkpoints.read_state_values(half / "state.safetensors")["iteration"] == 2


def test_a_training_of_another_length_or_anomaly_source_is_refused(tmp_path, data):
    """Where the results file was moved away, nothing else says it."""
    source, out, half = tmp_path / "dtd", tmp_path / "run", tmp_path / "half"
    source.mkdir()
    Image.new("RGB", (8, 8)).save(source / "a.png")
    studies.trained(out, TINY.model(1), data, TINY, None, QUIET)
    with pytest.raises(KeyboardInterrupt):
        studies.trained(half, TINY.model(1), data, TINY, None, QUIET, stop_at(2))
    anew = "choose another folder, or move this file away"
    longer = dataclasses.replace(TINY, steps=4)
    whole = dataclasses.replace(TINY, steps=None)
    timed = dataclasses.replace(whole, time_budget=9.0)
    for folder, name in ((out, "model"), (half, "state")):
        for recipe, steps, other in ((longer, None, 4), (timed, 5, 5), (whole, None, 2000)):
            words = f"{name}.safetensors: a training with steps 3, this study has {other}: {anew}"
            with pytest.raises(InputError, match=re.escape(words)):
                studies.trained(folder, TINY.model(1), data, recipe, steps, QUIET)
    textured = dataclasses.replace(TINY, anomaly_source=source)
    words = f"a training with anomaly_source procedural, this study has dtd: {anew}"
    with pytest.raises(InputError, match=words):
        studies.trained(out, TINY.model(1), data, textured, None, QUIET)
    assert studies.trained(out, TINY.model(1), data, timed, None, QUIET).threshold is not None
    assert studies.trained(half, TINY.model(1), data, timed, 3, QUIET).threshold is not None


def test_a_training_stopped_in_its_last_step_is_brought_to_its_end(tmp_path, data):
    with pytest.raises(KeyboardInterrupt):
        studies.trained(tmp_path, TINY.model(1), data, TINY, None, QUIET, stop_at(3))
    assert dad.load(tmp_path / "model.safetensors").threshold is None
    model = studies.trained(tmp_path, TINY.model(1), data, TINY, None, QUIET, stop_at(3))
    assert model.threshold is not None
    assert model.normality is not None


def test_settings_hold_what_decides_results(tmp_path):
    settings = TINY.settings()
    assert (settings["steps"], settings["image_size"], settings["batch_size"]) == (3, 64, 2)
    assert not settings.keys() & {"seed", "memory_budget"}
    assert Recipe(memory_budget=2.0).model(0).train_config.memory_budget == 2.0
    assert Recipe().settings()["steps"] == 2000  # the preset's
    by_time = Recipe(time_budget=9.0).settings()
    assert (by_time["steps"], by_time["time_budget"]) == (None, 9.0)
    source = tmp_path / "dtd"
    source.mkdir()
    with pytest.raises(InputError, match="dtd: no images"):
        Recipe(anomaly_source=source).settings()
    Image.new("RGB", (8, 8)).save(source / "a.png")
    one = Recipe(anomaly_source=source).settings()
    Image.new("RGB", (8, 8)).save(source / "b.png")
    two = Recipe(anomaly_source=source).settings()
    assert one["anomaly_source"] == two["anomaly_source"] == "dtd"
    assert one["anomaly_source_files"] != two["anomaly_source_files"]


@pytest.mark.parametrize("mode", ["norm_guided", "one_step"])
def test_ways_to_repair_are_measured_by_what_good_images_show_in_each(data, caplog, mode):
    model = TINY.model(0, standardised=True).fit(data, steps=2)
    before, said = model.__getstate__()["plain"].copy(), model.predict(data.test[0].image)
    caplog.clear()
    with studies.with_settings(model, data.train, mode=mode, t_s=50) as used:
        assert (used.config.mode, used.config.t_s, used.threshold) == (mode, 50, None)
        found = used.normality
        assert (found.mean != before["normality"].mean).any()
        used.measure_normality([sample.path for sample in data.train])
        np.testing.assert_array_equal(used.normality.mean, found.mean)
    with studies.with_settings(model, [], mode=mode) as used:
        assert used.normality is None
    assert {name: vars(model)[name] for name in before} == before
    assert model.predict(data.test[0].image).maps.tobytes() == said.maps.tobytes()
    assert not caplog.records


def test_models_without_normality_are_not_measured(data):
    model = TINY.model(0, standardised=False).fit(data, steps=2)
    threshold = model.threshold
    with studies.with_settings(model, data.train, t_s=50) as used:
        assert used.normality is None is used.threshold
    with studies.with_settings(model, data.train, mode="norm_guided") as used:
        assert used.threshold == threshold


# ---- data and numbers -------------------------------------------------------------------------


def test_a_datasets_files_are_known_by_names_and_sizes(tmp_path, data):
    first = studies.files_of(data)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = datasets.open(tmp_path / "moved", category="bottle")
    assert studies.files_of(moved) == first
    with pytest.raises(InputError, match="cannot be read: no such file"):
        studies.files_of(data)
    picture = moved.train[0].path
    content = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(content + b"x")
    assert studies.files_of(moved) != first


def test_samples_are_spread_over_kinds_and_over_each_kind():
    samples = [Sample(Path(f"{d}{i}.png"), 1, d) for d, n in (("a", 9), ("b", 1)) for i in range(n)]

    def names(count: int) -> list[str]:
        return [sample.path.stem for sample in studies.spread_samples(samples, count)]

    assert names(1) == ["a4"]
    assert names(2) == ["a4", "b0"]
    assert names(4) == ["a1", "a4", "a7", "b0"]
    assert len(set(names(10))) == len(names(99)) == 10
    assert studies.spread_samples([], 3) == []


def test_means_and_spreads_leave_out_what_is_not_defined():
    assert studies.mean([1.0, None, 3.0]) == 2.0
    assert studies.mean([None]) is None
    assert studies.spread([1.0, None, 3.0]) == pytest.approx(2**0.5)
    assert studies.spread([1.0, None]) is None


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not forget peaks"
)
def test_peak_memory_begins_anew():
    block = np.ones(64 << 20, np.uint8)
    high = system.peak_memory_mb()
    del block
    system.reset_peak_memory()
    assert system.peak_memory_mb() <= high - 32
