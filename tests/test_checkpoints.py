"""Model files: whole or not at all, readable by safetensors, clear about what is wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from diffusionad import checkpoints, files
from diffusionad.checkpoints import Checkpoint
from diffusionad.errors import InputError, WriteError


def example(value: float = 1.0) -> Checkpoint:
    rng = np.random.default_rng(0)
    return Checkpoint(
        unet={"in.weight": rng.random((4, 3, 3, 3), "f4"), "in.bias": np.full(4, value, "f4")},
        seg={"bn.running_mean": np.zeros(2, "f4"), "bn.num_batches_tracked": np.array(7, "i8")},
        config={"model": {"image_size": 64}, "name": "größe"},
        provenance={"seed": 3, "steps": 10},
        threshold=0.1 + 0.2,
    )


def test_round_trip_is_exact(tmp_path):
    original = example()
    checkpoints.save_model(tmp_path / "m.safetensors", original)
    read = checkpoints.load_model(tmp_path / "m.safetensors")
    for network in ("unet", "seg"):
        ours, theirs = getattr(original, network), getattr(read, network)
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            assert theirs[name].dtype == value.dtype
            np.testing.assert_array_equal(theirs[name], value)
            assert theirs[name].shape == value.shape
    assert (read.config, read.provenance) == (original.config, original.provenance)
    assert read.threshold == original.threshold


def test_file_is_what_the_interface_says(tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoints.save_model(path, example())
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        assert metadata["format"] == "diffusionad/2"
        assert json.loads(metadata["config"]) == example().config
        assert json.loads(metadata["threshold"]) == example().threshold
        assert set(file.keys()) == {
            "unet.in.weight", "unet.in.bias", "seg.bn.running_mean", "seg.bn.num_batches_tracked",
        }  # fmt: skip
    header = checkpoints.read_header(path)
    assert header.parameters == {"unet": 4 * 27 + 4, "seg": 3}
    assert header.provenance == {"seed": 3, "steps": 10}


def test_equal_content_gives_equal_bytes(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        checkpoints.save_model(path, example())
    assert len({path.read_bytes() for path in paths}) == 1
    assert int.from_bytes(paths[0].read_bytes()[:8], "little") % 8 == 0


def test_non_contiguous_and_big_endian_tensors(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {"t": values.T, "s": values[:, ::2], "b": values.astype(">f4"), "e": values[:0]}
    checkpoints.save_state(tmp_path / "s", tensors, {"step": 4})
    read, plain = checkpoints.load_state(tmp_path / "s")
    assert plain == {"step": 4}
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name], value)


def test_state_and_model_are_not_mixed_up(tmp_path):
    checkpoints.save_state(tmp_path / "state", {"m": np.zeros(1, "f4")}, {})
    with pytest.raises(InputError, match=r"format is diffusionad-state/1, expected diffusionad/2"):
        checkpoints.load_model(tmp_path / "state")
    checkpoints.save_model(tmp_path / "model", example())
    with pytest.raises(InputError, match="expected diffusionad-state/1"):
        checkpoints.load_state(tmp_path / "model")


def test_broken_files_are_refused_by_name(tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoints.save_model(path, example())
    whole = path.read_bytes()
    for length in (1, 7, 8, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        for read in (checkpoints.load_model, checkpoints.read_header):
            with pytest.raises(InputError, match=r"m\.safetensors: not a complete"):
                read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        checkpoints.load_model(path)
    with pytest.raises(InputError, match="no such file"):
        checkpoints.load_model(tmp_path / "none")
    with pytest.raises(InputError, match="got a folder"):
        checkpoints.load_model(tmp_path)


def test_an_opened_model_maps_each_tensor_when_it_is_asked_for(tmp_path):
    path, whole = tmp_path / "m.safetensors", example()
    checkpoints.save_model(path, whole)
    with checkpoints.opened_model(path) as found:
        for part in checkpoints.PARTS:
            kept, stored = getattr(whole, part), getattr(found, part)
            assert set(stored) == set(kept)
            for name, value in kept.items():
                array = np.asarray(stored[name])
                assert not array.flags.writeable or array.size == 0
                assert (array.shape, array.dtype) == (value.shape, value.dtype)
                np.testing.assert_array_equal(array, value)
                assert np.asarray(stored[name], np.float64).dtype == np.float64


def test_a_file_replaced_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    checkpoints.save_model(path, example())
    opened = open

    def late(file, *mode):
        handle = opened(file, *mode)
        checkpoints.save_model(path, example())
        return handle

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "open", late, raising=False)
        with pytest.raises(InputError, match=r"m\.safetensors: replaced by another file"):
            checkpoints.load_model(path)
    read = checkpoints._read_shapes

    def early(*arguments):
        found = read(*arguments)
        checkpoints.save_model(path, example())
        return found

    monkeypatch.setattr(checkpoints, "_read_shapes", early)
    with pytest.raises(InputError, match=r"m\.safetensors: replaced by another file"):
        checkpoints.load_model(path)


def test_values_of_unknown_types_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    header = {
        "__metadata__": {"format": "diffusionad/2", "config": "{}", "provenance": "{}",
                         "threshold": "null"},
        "unet.a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
    }  # fmt: skip
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(InputError, match=r"unet\.a: values of type BF16 are not read"):
        checkpoints.load_model(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": None}, "its format is not given"),
        ({"format": "pt"}, "its format is pt"),
        ({"format": "diffusionad/3"}, "written by a newer version"),
        ({"config": None}, "'config' is missing or broken"),
        ({"config": "[1]"}, "'config' is broken"),
        ({"provenance": "{"}, "'provenance' is missing or broken"),
        ({"threshold": '"high"'}, "'threshold' is broken"),
        ({"threshold": "true"}, "'threshold' is broken, expected a finite number"),
        ({"threshold": "NaN"}, "'threshold' is missing or broken"),
        ({"threshold": "-Infinity"}, "'threshold' is missing or broken"),
        ({"threshold": "1e999"}, "'threshold' is missing or broken"),
        ({"threshold": "9" * 400}, "'threshold' is broken, expected a finite number"),
        ({"threshold": "9" * 5000}, "'threshold' is missing or broken"),
        ({"threshold": "[" * 100_000}, "'threshold' is missing or broken"),
        ({"config": '{"a":' * 100_000}, "'config' is missing or broken"),
        ({"provenance": '{"a": ' + "[" * 100_000}, "'provenance' is missing or broken"),
        ({"provenance": '{"a": NaN}'}, "'provenance' is missing or broken"),
    ],
)
def test_foreign_metadata_is_refused(tmp_path, changes, words):
    metadata = {"format": "diffusionad/1", "config": "{}", "provenance": "{}", "threshold": "null"}
    metadata |= changes
    tensors = {"unet.a": np.zeros(2, "f4"), "seg.a": np.zeros(2, "f4")}
    path = tmp_path / "m"
    save_file(tensors, path, metadata={k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(InputError, match=words):
        checkpoints.load_model(path)


def test_tensors_of_both_networks_are_needed(tmp_path):
    metadata = {"format": "diffusionad/1", "config": "{}", "provenance": "{}", "threshold": "null"}
    save_file({"unet.a": np.zeros(2, "f4")}, tmp_path / "m", metadata=metadata)
    with pytest.raises(InputError, match=r"no tensors seg\.\*"):
        checkpoints.load_model(tmp_path / "m")
    save_file({"vae.a": np.zeros(2, "f4")}, tmp_path / "m", metadata=metadata)
    with pytest.raises(InputError, match=r"unknown tensor 'vae\.a'"):
        checkpoints.load_model(tmp_path / "m")


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    checkpoints.save_model(path, example(1.0))
    before = path.read_bytes()

    def full(self: Path, *args: object, **options: object) -> IO[bytes]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(WriteError, match=r"m\.safetensors: cannot write: no space left on"):
            checkpoints.save_model(path, example(2.0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_stops_growing_leaves_the_earlier_one(tmp_path):
    """A limit on file size makes the system refuse in the middle of the tensors."""
    script = """if True:
        import resource, sys
        import numpy as np
        from diffusionad import checkpoints
        from diffusionad.errors import WriteError
        def save(count):
            part = {"a": np.ones(count, np.float32)}
            checkpoints.save_model(sys.argv[1], checkpoints.Checkpoint(part, part, {}))
        save(10)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(1_000_000)
        except WriteError as error:
            print(error)
    """
    path = tmp_path / "m.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"{path}: cannot write: file too large", done.stderr
    assert checkpoints.read_header(path).parameters == {"unet": 10, "seg": 10}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "before")

    def interrupted() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written(tmp_path):
    with pytest.raises(WriteError, match="cannot write: no such file or directory"):
        checkpoints.save_model(tmp_path / "none" / "m", example())
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot make this folder"):
        files.make_folder(tmp_path / "file" / "sub")
    with pytest.raises(WriteError, match="cannot write"):
        files.write_text(tmp_path / "file" / "x", "")


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    files.write_json(tmp_path / "ours", {"a": 1})
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "ours", {"a": float("nan")})
    assert json.loads((tmp_path / "ours").read_text()) == {"a": 1}
