"""Files of every format ever written stay readable; those of newer versions are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from golden.make_format import images
from networks import GOLDEN
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import diffusionad as dad
from diffusionad import checkpoints, config
from diffusionad.errors import InputError

FORMATS = sorted(GOLDEN.glob("format_*.tar.xz"))
NEWEST = checkpoints.MODEL_FORMAT.split("/")[1]


@pytest.fixture(params=FORMATS, ids=lambda path: path.name.split(".")[0])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a run that was stopped after two of three steps; see golden/make_format.py."""
    with tarfile.open(request.param) as archive:
        for file in archive:  # extractall asks for a filter that Python before 3.11.4 has not
            (tmp_path / file.name).write_bytes(archive.extractfile(file).read())
    return tmp_path


def test_the_format_that_is_written_has_a_golden_file():
    assert GOLDEN / f"format_{NEWEST}.tar.xz" in FORMATS


def test_a_model_predicts_what_it_did(run):
    model = dad.load(run / "model.safetensors")
    expected = json.loads((run / "expected.json").read_text())
    found = model.predict(images())
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-5)
    np.testing.assert_allclose(found.maps[:, ::8, ::8], expected["maps"], rtol=1e-5)
    assert found.labels.tolist() == expected["labels"]
    assert 0 < sum(expected["labels"]) < len(expected["labels"])
    assert np.ptp(expected["maps"]) > 1e-3
    assert model.provenance["train_steps"] == 2
    assert model.provenance["versions"]["diffusionad"]


def test_a_run_goes_on_where_it_was_stopped(run):
    model = dad.load(run / "model.safetensors")
    model.fit(images(), out=run, resume=True)
    expected = json.loads((run / "expected.json").read_text())
    model.normality = None  # these images keep no place, and had plain maps then
    scores = model.predict(images()).scores
    np.testing.assert_allclose(scores, expected["resumed_scores"], rtol=1e-3)
    assert not np.allclose(scores, expected["scores"], rtol=1e-3)
    assert model.provenance["finished"]
    assert len((run / "log.csv").read_text().splitlines()) == 1 + 3


def test_settings_say_the_same_in_both_files(run):
    model_config, train_config = config.from_toml(run / "config.toml")
    model = dad.load(run / "model.safetensors")
    assert (model.config, model.train_config) == (model_config, train_config)
    assert (model_config.image_size, train_config.steps) == (32, 3)


def test_a_setting_that_an_older_file_lacks_has_its_default(run):
    path = run / "config.toml"
    lines = path.read_text().splitlines()
    assert sum(line.startswith("top_k") for line in lines) == 1
    path.write_text("\n".join(line for line in lines if not line.startswith("top_k")))
    assert config.from_toml(path)[0].top_k == config.ModelConfig().top_k


def renumber(path: Path, newer: str) -> None:
    """Let a file say that it is of another format."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | {"format": newer})


def test_newer_files_are_refused_in_one_line(run):
    newer = f"diffusionad/{int(NEWEST) + 1}"
    path = run / "model.safetensors"
    renumber(path, newer)
    line = f"{path}: written by a newer version (format {newer}, this one reads up to diffusionad/"
    for read in (dad.load, checkpoints.read_header):
        with pytest.raises(InputError) as refused:
            read(path)
        assert str(refused.value).startswith(line)
    command = [sys.executable, "-m", "diffusionad", "info", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert line in done.stderr.replace("\n", "")
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_newer_state_is_refused(run):
    renumber(run / "state.safetensors", "diffusionad-state/2")
    with pytest.raises(InputError, match="written by a newer version"):
        dad.load(run / "model.safetensors").fit(images(), out=run, resume=True)
