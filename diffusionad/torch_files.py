"""Files of ``torch.save`` without PyTorch: both of its formats read, the newer one written.

The newer format is a ZIP archive of records that are stored, not compressed: a pickle that
describes the value, and a record of plain numbers per storage. The older one is a row of pickles
followed by the storages. Storages stay on the disk: a StoredTensor is mapped into memory when it is
asked for its values, and let go with them.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from diffusionad import restricted_pickle
from diffusionad.errors import InputError
from diffusionad.files import PathLike, atomic_path, reason
from diffusionad.restricted_pickle import MAX_BYTES, Refused, Storage, Tensor

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
PICKLE_START = b"\x80"
ALIGNMENT = 64  # of storages in an archive, so that they can be mapped

Array = npt.NDArray[Any]
Place = tuple[int, Storage]  # where a storage lies in the file


class AnyTensor(Protocol):
    """An array, or what becomes one when it is its turn, so that not all are in memory at once."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __array__(self) -> Array: ...


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in an open file, of NumPy's shape and dtype (bfloat16 becomes float32).

    ``numpy.asarray`` gives its values, read-only and mapped from the file where no conversion is
    needed.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: BinaryIO
    start: int  # of the storage in the file, bytes
    stored: np.dtype[Any]  # on the disk: its byte order; uint16 for bfloat16
    tensor: Tensor

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        values = self._map()
        if self.tensor.storage.dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return np.array(values, dtype=self.dtype if dtype is None else dtype, copy=copy)

    def _map(self) -> Array:
        if 0 in self.shape:
            return np.zeros(self.shape, self.stored)
        size = self.stored.itemsize
        first = self.start + self.tensor.offset * size
        spans = zip(self.shape, self.tensor.strides, strict=True)
        length = (1 + sum((n - 1) * stride for n, stride in spans)) * size
        page = first - first % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(
            self.file.fileno(), first - page + length, access=mmap.ACCESS_READ, offset=page
        )
        strides = tuple(stride * size for stride in self.tensor.strides)
        return np.ndarray(self.shape, self.stored, mapping, first - page, strides)


@dataclass(frozen=True, eq=False)
class TorchFile:
    """An open file of ``torch.save``: its value, in which tensors are described, not read."""

    value: Any
    file: BinaryIO
    places: Mapping[str, Place]
    order: str

    def stored(self, tensor: Tensor) -> StoredTensor:
        """The tensor of such a description; it can be read as long as the file is open."""
        start, storage = self.places[tensor.storage.key]
        dtype = np.dtype("float32" if storage.dtype == "bfloat16" else storage.dtype)
        return StoredTensor(
            tensor.shape, dtype, self.file, start, _stored(storage, self.order), tensor
        )


def is_torch_file(path: PathLike) -> bool:
    """Whether the file begins as those of ``torch.save`` do; False where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    # The length of a safetensors header may begin so too; the header itself is next.
    return start.startswith((ZIP_MAGIC, PICKLE_START)) and start[8:] != b"{"


@contextmanager
def opened(path: PathLike) -> Iterator[TorchFile]:
    """Open a file of ``torch.save`` that holds tensors, dicts, lists, numbers and texts.

    Nothing in the file is run. Raises InputError that names the file if it is missing, broken, or
    holds anything else.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: expected a file of PyTorch, got a folder") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    with file:
        try:
            content = _read(file)
        except Refused as error:
            raise InputError(f"{path}: {error}") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {reason(error)}") from error
        yield content


# ---- reading ----------------------------------------------------------------------------------


def _read(file: BinaryIO) -> TorchFile:
    start = file.read(512)
    if not start:
        raise Refused("the file is empty")
    if start.startswith(ZIP_MAGIC):
        return _read_archive(file)
    if start[8:9] == b"{":
        raise Refused("a safetensors file; diffusionad.load reads those of this package")
    if start.startswith(PICKLE_START):
        return _read_legacy(file)
    if start[257:262] == b"ustar":
        raise Refused("the tar format of PyTorch before 0.1.10; load and save it there once")
    raise Refused("not a file of PyTorch (torch.save)")


def _read_archive(file: BinaryIO) -> TorchFile:
    records = _records(file)
    folder = next((n.removesuffix("data.pkl") for n in records if n.endswith("/data.pkl")), "")
    if not folder:
        raise Refused("the archive holds no data.pkl, so it is not from torch.save")
    order = "<"
    if (place := records.get(f"{folder}byteorder")) is not None:
        order = _order(_bytes(file, *place, most=16))
    pickle = restricted_pickle.load(_bytes(file, *records[f"{folder}data.pkl"], most=MAX_BYTES))
    places: dict[str, Place] = {}
    for key, storage in pickle.storages.items():
        start, size = records.get(f"{folder}data/{key}", (0, -1))
        if size != storage.size * _stored(storage, order).itemsize:
            holds = "is missing" if size < 0 else f"has {size} bytes"
            raise Refused(
                f"storage {restricted_pickle.shown(key)} {holds}, "
                f"expected {storage.size} values of {storage.dtype}"
            )
        places[key] = start, storage
    return TorchFile(pickle.value, file, places, order)


def _records(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each record of the archive begins, and its length, in bytes."""
    end = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    # A module that is meant for whole archives has many ways to give up on broken ones.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error,
            IndexError, EOFError) as error:  # fmt: skip
        raise Refused("the archive is damaged or not complete") from error
    records: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name = restricted_pickle.shown(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"the record {name} is compressed or encrypted, torch.save does neither")
        if entry.filename in records:
            raise Refused(f"the record {name} is there twice")
        header = _bytes(file, entry.header_offset, 30, most=30)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if header[:4] != ZIP_MAGIC or start + entry.file_size > end:
            raise Refused(f"the record {name} is damaged or not complete")
        records[entry.filename] = start, entry.file_size
    return records


def _bytes(file: BinaryIO, start: int, size: int, most: int) -> bytes:
    if size > most:
        raise Refused(f"{size:,} bytes describe the values, expected {most:,} at the most")
    if start < 0:
        raise Refused("the archive is damaged or not complete")
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise Refused("the file ends too early")
    return data


def _read_legacy(file: BinaryIO) -> TorchFile:
    """Pickles of magic, version, machine, value and storage keys; per key a length, and values."""
    file.seek(0)
    data = file.read(MAX_BYTES)
    magic = restricted_pickle.load(data)
    if magic.value != LEGACY_MAGIC:
        raise Refused("a pickle, but not a file of PyTorch (torch.save)")
    version = restricted_pickle.load(data, magic.end)
    machine = restricted_pickle.load(data, version.end)
    value = restricted_pickle.load(data, machine.end)
    keys = restricted_pickle.load(data, value.end)
    if version.value != LEGACY_PROTOCOL:
        raise Refused("an unknown version of PyTorch's older format")
    little = machine.value.get("little_endian") if type(machine.value) is dict else None
    if type(little) is not bool or type(keys.value) is not list:
        raise Refused("the head of PyTorch's older format is damaged")
    order = "<" if little else ">"
    end, at = os.fstat(file.fileno()).st_size, keys.end
    places: dict[str, Place] = {}
    for key in keys.value:
        storage = value.storages.get(key) if type(key) is str else None
        if storage is None or key in places:
            raise Refused("the list of storages does not fit the values")
        size = int.from_bytes(_bytes(file, at, 8, most=8), "little" if little else "big")
        if size != storage.size:
            raise Refused(
                f"storage {restricted_pickle.shown(key)} has {size} values, expected {storage.size}"
            )
        places[key] = at + 8, storage
        at += 8 + size * _stored(storage, order).itemsize
        if at > end:
            raise Refused("the file ends too early")
    if len(places) < len(value.storages):
        raise Refused("the list of storages does not fit the values")
    return TorchFile(value.value, file, places, order)


def _order(text: bytes) -> str:
    if text not in (b"little", b"big"):
        raise Refused("the record byteorder is damaged")
    return "<" if text == b"little" else ">"


def _stored(storage: Storage, order: str) -> np.dtype[Any]:
    name = "uint16" if storage.dtype == "bfloat16" else storage.dtype
    return np.dtype(name).newbyteorder("<" if order == "<" else ">")


# ---- writing ----------------------------------------------------------------------------------


def write(path: PathLike, value: Mapping[str, Any]) -> None:
    """Write dicts, OrderedDicts, lists, texts, numbers and tensors as ``torch.save`` would.

    ``torch.load(weights_only=True)`` reads the file. Whatever has shape, dtype and ``__array__`` is
    a tensor, converted when it is its turn. Equal values give equal bytes. Raises WriteError;
    TypeError for other values.
    """
    tensors: list[AnyTensor] = []
    pickle = b"\x80\x02" + _pickled(value, tensors) + b"."
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        _add(archive, "data.pkl", pickle)
        _add(archive, ".format_version", b"1")
        _add(archive, ".storage_alignment", str(ALIGNMENT).encode())
        _add(archive, "byteorder", b"little")
        for index, tensor in enumerate(tensors):
            array = np.asarray(tensor)
            array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            _add(archive, f"data/{index}", array.reshape(-1).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """A record whose data begins at a multiple of ALIGNMENT."""
    entry = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(entry.filename) + 4
    padding = -begin % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    entry.file_size = len(data)
    with archive.open(entry, "w") as record:
        record.write(data)


def _pickled(value: Any, tensors: list[AnyTensor]) -> bytes:
    """Instructions that build the value; its tensors are appended to the list."""
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        length = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, (list, tuple)):
        items = b"".join(_pickled(item, tensors) for item in value)
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"
    if isinstance(value, Mapping):
        items = b"".join(_pickled(part, tensors) for item in value.items() for part in item)
        ordered = b"ccollections\nOrderedDict\n)R"
        return (ordered if isinstance(value, OrderedDict) else b"}") + b"(" + items + b"u"
    return _pickled_tensor(value, tensors)


def _pickled_tensor(value: AnyTensor, tensors: list[AnyTensor]) -> bytes:
    kinds = {dtype: one.name for one, dtype in restricted_pickle.STORAGES.items()}
    name = getattr(getattr(value, "dtype", None), "name", None)
    if name not in kinds:
        raise TypeError(f"no value of a torch.save file: {type(value).__name__}")
    shape = tuple(value.shape)
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    none: list[AnyTensor] = []
    key = str(len(tensors))
    tensors.append(value)

    def plain(*values: Any) -> bytes:
        return b"".join(_pickled(one, none) for one in values)

    storage = (
        b"(" + plain("storage") + _global(kinds[name]) + plain(key, "cpu", math.prod(shape)) + b"tQ"
    )
    rest = plain(0, shape, strides, False, OrderedDict())
    return _global(restricted_pickle.TENSOR.name) + b"(" + storage + rest + b"tR"


def _global(name: str) -> bytes:
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()
