"""Files of torch.save, read and written without PyTorch; the fixtures are put together by hand."""

from __future__ import annotations

import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pickles as p
import pytest

from diffusionad import torch_files
from diffusionad.errors import InputError, WriteError

RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "float32": RNG.random((3, 4, 5), "f4"),
    "float64": RNG.random((2, 3)),
    "float16": RNG.random(7).astype("f2"),
    "int64": np.array(-3, "i8"),
    "int32": np.arange(5, dtype="i4"),
    "int16": np.arange(-4, 4, dtype="i2").reshape(2, 2, 2),
    "int8": np.arange(-4, 4, dtype="i1"),
    "uint8": np.arange(250, 256, dtype="u1"),
    "bool": np.array([True, False, True]),
    "empty": np.zeros((0, 4), "f4"),
}


def content(arrays: dict[str, np.ndarray], legacy: bool = False) -> p.Checkpoint:
    made = p.Checkpoint(legacy)
    made.pickle = p.whole(made.state(arrays))
    return made


def read(path: Path) -> dict[str, np.ndarray]:
    """Copies of all tensors of a flat dict."""
    with torch_files.opened(path) as file:
        return {name: np.array(file.stored(one)) for name, one in file.value.items()}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A small archive with two tensors."""
    made = content({"a": ARRAYS["float32"], "b": ARRAYS["int64"]})
    return p.archive(tmp_path / "x.pt", made.pickle, made.storages)


# ---- both formats -------------------------------------------------------------------------------


def test_the_newer_format(tmp_path: Path) -> None:
    made = content(ARRAYS)
    file = p.archive(tmp_path / "x.pt", made.pickle, made.storages)
    same(read(file), ARRAYS)
    assert torch_files.is_torch_file(file)


@pytest.mark.parametrize("little", [True, False])
def test_the_older_format(tmp_path: Path, little: bool) -> None:
    made = content(ARRAYS, legacy=True)
    file = p.legacy(tmp_path / "x.pt", made.pickle, made.storages, little)
    same(read(file), ARRAYS)
    assert torch_files.is_torch_file(file)


def test_an_archive_from_a_big_endian_machine(tmp_path: Path) -> None:
    made = content(ARRAYS)
    swapped = {key: a.astype(a.dtype.newbyteorder(">")) for key, a in made.storages.items()}
    file = p.archive(tmp_path / "x.pt", made.pickle, swapped, {"byteorder": b"big"})
    same(read(file), ARRAYS)


def test_views_of_one_storage(tmp_path: Path) -> None:
    """Transposed, every second, the tail, and far into a file: mappings begin at pages."""
    values = RNG.random(50_000).astype("f4")
    views = {
        "all": ((200, 250), (250, 1), 0, values.reshape(200, 250)),
        "turned": ((250, 200), (1, 250), 0, values.reshape(200, 250).T),
        "second": ((5,), (2,), 3, values[3:13:2]),
        "tail": ((3,), (1,), 49_997, values[-3:]),
        "one": ((), (), 12_345, values[12_345]),
    }
    pickle = p.whole(
        p.mapping({name: p.tensor("0", "Float", 50_000, *view[:3]) for name, view in views.items()})
    )
    found = read(p.archive(tmp_path / "x.pt", pickle, {"0": values}))
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view[3], err_msg=name)


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 0.0, np.inf, 1e-40], "f4")
    halves = (values.view("u4") >> 16).astype("u2")
    pickle = p.whole(p.mapping({"a": p.tensor("0", "BFloat16", 6, (2, 3))}))
    found = read(p.archive(tmp_path / "x.pt", pickle, {"0": halves}))["a"]
    assert found.dtype == np.float32
    wanted = (halves.astype("u4") << 16).view("f4").reshape(2, 3)
    np.testing.assert_array_equal(found, wanted)


def test_tensors_are_mapped_and_cannot_be_changed(example: Path) -> None:
    with torch_files.opened(example) as file:
        stored = file.stored(file.value["a"])
        assert (stored.shape, stored.dtype) == ((3, 4, 5), np.float32)
        view = np.asarray(stored)
        assert not view.flags.writeable
        assert not view.flags.owndata
        np.testing.assert_array_equal(np.asarray(stored, dtype=np.float64), ARRAYS["float32"])


# ---- writing ------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    value: dict[str, Any] = {
        "n": 49, "big": -(1 << 70), "x": 0.1, "t": "größe", "none": None, "yes": True,
        "list": [1, "a", [], {}], "tuple": (1, (2,)), "dict": {"a": {}, 3: False},
    }  # fmt: skip
    file = tmp_path / "x.pt"
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()}
    turned = {"turned": ARRAYS["float64"].T}
    torch_files.write(file, {**value, "state": OrderedDict({**swapped, **turned})})
    with torch_files.opened(file) as opened:
        state = opened.value.pop("state")
        assert opened.value == value
        same({n: np.array(opened.stored(t)) for n, t in state.items()}, {**ARRAYS, **turned})


def test_written_archives_are_as_torch_wants_them(tmp_path: Path) -> None:
    """Stored, storages at multiples of 64 bytes, the records of torch.save; equal bytes for equal
    values."""
    files = [tmp_path / name for name in ("a.pt", "b.pt")]
    for file in files:
        torch_files.write(file, {"state": ARRAYS})
    assert files[0].read_bytes() == files[1].read_bytes()
    data = files[0].read_bytes()
    with zipfile.ZipFile(files[0]) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            sizes = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
            assert (entry.header_offset + 30 + sum(sizes)) % 64 == 0
        names = {name.removeprefix("archive/") for name in archive.namelist()}
        assert names >= {"data.pkl", "byteorder", "version", "data/0", "data/9"}
        assert archive.read("archive/version") == b"3\n"


def test_what_cannot_be_written_leaves_the_earlier_file(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch_files.write(file, {"a": 1})
    before = file.read_bytes()
    for value in (object(), {1, 2}, np.array(["text"]), np.zeros(1, "c8")):
        with pytest.raises(TypeError, match=r"no value of a torch\.save file"):
            torch_files.write(file, {"a": value})
    assert file.read_bytes() == before
    with pytest.raises(WriteError, match="cannot write: no such file or directory"):
        torch_files.write(tmp_path / "none" / "x.pt", {})
    assert list(tmp_path.iterdir()) == [file]


# ---- broken files -------------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for data, words in (
        (b"", "the file is empty"),
        (b"PK", "not a file of PyTorch"),
        (b"\x93NUMPY" + bytes(100), "not a file of PyTorch"),
        (bytes(257) + b"ustar" + bytes(300), r"tar format of PyTorch before 0\.1\.10"),
        (b"\x80\x02}.", "a pickle, but not a file of PyTorch"),
        ((0x180).to_bytes(8, "little") + b'{"a":{}}', "a safetensors file"),
    ):
        file.write_bytes(data)
        refused(file, words)
    assert not torch_files.is_torch_file(file)
    assert not torch_files.is_torch_file(tmp_path / "none")
    refused(tmp_path / "none", "no such file")
    refused(tmp_path, "got a folder")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "")
    refused(file, r"no data\.pkl")


def test_storages_of_another_size_than_said(tmp_path: Path) -> None:
    pickle = p.whole(p.mapping({"a": p.tensor("0", "Float", 10, (10,))}))
    file = tmp_path / "x.pt"
    for data in (bytes(39), bytes(41), b"", bytes(4000)):
        words = f"storage 0 has {len(data)} bytes, expected 10 values of float32"
        refused(p.archive(file, pickle, {"0": data}), words)
    refused(p.archive(file, pickle, {"1": bytes(40)}), "storage 0 is missing")
    huge = p.whole(p.mapping({"a": p.tensor("0", "Float", 1 << 60, (1 << 60,))}))
    refused(p.archive(file, huge, {"0": bytes(40)}), "storage 0 has 40 bytes")
    elsewhere = p.whole(p.mapping({"a": p.tensor("../../x", "Byte", 4, (4,))}))
    refused(p.archive(file, elsewhere, {"0": bytes(4)}), "storage ../../x is missing")


def test_archives_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    pickle = p.whole(p.mapping({"a": p.tensor("0", "Float", 10_000_000, (10_000_000,))}))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = p.archive(tmp_path / "x.pt", pickle, {"0": bytes(40_000_000)}, compression=method)
        assert file.stat().st_size < 100_000
        refused(file, "is compressed or encrypted")
    file = p.archive(tmp_path / "x.pt", bytes(torch_files.MAX_BYTES + 1), {})
    refused(file, "16,777,217 bytes describe the values")
    refused(p.archive(file, pickle, {}, {"byteorder": b"middle"}), "byteorder is damaged")
    refused(p.archive(file, pickle, {}, {"byteorder": bytes(1000)}), "1,000 bytes describe")


def test_records_that_lie(example: Path) -> None:
    """Twice the same name, encrypted, beginning or ending elsewhere."""
    data = example.read_bytes()
    with zipfile.ZipFile(example) as archive:
        entry = archive.getinfo("params-best/data/0")
        directory = archive.start_dir
    at = data.index(b"PK\x01\x02", directory)
    while not data[at + 46 :].startswith(b"params-best/data/0"):
        at = data.index(b"PK\x01\x02", at + 4)

    def changed(offset: int, value: bytes) -> Path:
        broken = bytearray(data)
        broken[at + offset : at + offset + len(value)] = value
        example.write_bytes(broken)
        return example

    refused(changed(8, b"\x01\x00"), "compressed or encrypted")
    refused(changed(20, struct.pack("<II", 1 << 30, 1 << 30)), "damaged or not complete")
    refused(changed(20, struct.pack("<II", 8, 8)), "storage 0 has 8 bytes")
    refused(changed(42, struct.pack("<I", entry.header_offset + 1)), "damaged")
    refused(changed(42, struct.pack("<I", 1 << 30)), "damaged|ends too early")
    refused(changed(46 + len("params-best/data/"), b"1"), "data/1 is there twice")


def test_lists_of_storages_that_lie(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    made = content({"a": ARRAYS["float32"], "b": ARRAYS["int64"]}, legacy=True)
    pickle: bytes = made.pickle
    for keys in (["0"], ["0", "0"], ["0", "2"], ["1", "0", "2"]):
        refused(p.legacy(file, pickle, made.storages, keys=keys), "storage|not end")
    for size in (-1, 59, 61, 1 << 62):
        file = p.legacy(file, pickle, made.storages, sizes={"0": size})
        refused(file, f"storage 0 has {size} values, expected 60".replace("-1", ".*"))
    view = p.row(p.text("0"), p.number(0), p.number(1))
    pickle = p.whole(p.mapping({"a": p.tensor("0", "Float", 4, (1,), None, 0, view)}))
    refused(p.legacy(file, pickle, {"0": np.zeros(4, "f4")}), "a view of a storage|not end")


def written(tmp_path: Path, old: bool, a: str, b: str) -> tuple[Path, bytes]:
    """A file of two arrays of these types, and its bytes."""
    made = content({"a": ARRAYS[a], "b": ARRAYS[b]}, old)
    pickle: bytes = made.pickle
    file = tmp_path / "x.pt"
    (p.legacy if old else p.archive)(file, pickle, made.storages)
    return file, file.read_bytes()


@pytest.mark.parametrize("old", [False, True])
def test_cut_anywhere_it_is_refused(tmp_path: Path, old: bool) -> None:
    file, data = written(tmp_path, old, "float32", "int64")
    for length in range(len(data)):
        file.write_bytes(data[:length])
        refused(file, r"too early|not complete|empty|not a file|storage|not end")


@pytest.mark.parametrize("old", [False, True])
def test_damaged_anywhere_it_is_read_or_refused(tmp_path: Path, old: bool) -> None:
    """Whatever else is raised would be a traceback for the user."""
    file, data = written(tmp_path, old, "int64", "uint8")
    rng = random.Random(1)
    broken_files = 0
    for _ in range(2000):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            broken[rng.randrange(len(broken))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        file.write_bytes(broken)
        try:
            with torch_files.opened(file) as opened:
                if type(opened.value) is dict:
                    for one in opened.value.values():
                        if isinstance(one, torch_files.Tensor):
                            np.array(opened.stored(one))
        except InputError:
            broken_files += 1
    assert broken_files > 200
