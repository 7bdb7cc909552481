"""What ``torch.save`` writes, put together by hand: instructions of pickles, and both file formats.

Expressions are bytes that leave one value on the stack of the pickle machine.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KINDS = {
    "float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long", "uint8": "Byte",
    "int32": "Int", "int16": "Short", "int8": "Char", "bool": "Bool",
}  # fmt: skip


def whole(*expressions: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(expressions) + b"."


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def row(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(values: tuple[int, ...]) -> bytes:
    return row(*map(number, values))


def sequence(*items: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(items) + b"e"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def called(name: str, *arguments: bytes) -> bytes:
    return named(name) + row(*arguments) + b"R"


def ordered(items: Mapping[str, bytes]) -> bytes:
    """An OrderedDict with the attribute that state dicts have."""
    made = called("collections.OrderedDict") + mapping(items)[1:]
    return made + mapping({"_metadata": called("collections.OrderedDict")}) + b"b"


def storage(key: str, kind: str, size: int, *more: bytes) -> bytes:
    place = (text("storage"), named(f"torch.{kind}Storage"), text(key), text("cpu"), number(size))
    return row(*place, *more) + b"Q"


def tensor(
    key: str,
    kind: str,
    size: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    *more: bytes,
) -> bytes:
    if strides is None:
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return called(
        "torch._utils._rebuild_tensor_v2", storage(key, kind, size, *more), number(offset),
        numbers(shape), numbers(strides), b"\x89", called("collections.OrderedDict"),
    )  # fmt: skip


def plain(value: Any) -> bytes:
    """Of texts, numbers, lists and dicts of these."""
    return pickle.dumps(value, protocol=2)[2:-1]


class Checkpoint:
    """A checkpoint of the reference in the making; arrays become tensors and storages."""

    def __init__(self, legacy: bool = False) -> None:
        self.pickle = b""
        self.storages: dict[str, np.ndarray] = {}
        self.view = (b"N",) if legacy else ()

    def tensor(self, array: np.ndarray) -> bytes:
        key = str(len(self.storages))
        self.storages[key] = array
        kind = KINDS[array.dtype.name]
        return tensor(key, kind, array.size, array.shape, None, 0, *self.view)

    def state(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        return ordered({name: self.tensor(array) for name, array in arrays.items()})

    def args(self, values: Mapping[str, Any]) -> bytes:
        made = called("collections.defaultdict", named("__builtin__.unicode"))
        return made + mapping({name: plain(value) for name, value in values.items()})[1:]


def archive(
    path: Path,
    content: bytes,
    storages: Mapping[str, np.ndarray | bytes],
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """The newer format; ``records`` are added, or replace those that would be there."""
    parts = {"data.pkl": content, "byteorder": b"little"}
    parts |= {
        f"data/{key}": bytes(np.asarray(array).tobytes()) if not isinstance(array, bytes) else array
        for key, array in storages.items()
    }
    parts |= {"version": b"3\n", **(records or {})}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in parts.items():
            file.writestr(f"params-best/{name}", data)
    return path


def legacy(
    path: Path,
    content: bytes,
    storages: Mapping[str, np.ndarray],
    little: bool = True,
    keys: list[str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """The older format; ``keys`` and ``sizes`` are what the file says of its storages."""
    order = "<" if little else ">"
    machine = {"protocol_version": VERSION, "little_endian": little, "type_sizes": {"int": 4}}
    head = [pickle.dumps(value, protocol=2) for value in (MAGIC, VERSION, machine)]
    listed = list(storages) if keys is None else keys
    with path.open("wb") as file:
        file.write(b"".join([*head, content, pickle.dumps(listed, protocol=2)]))
        for key, array in storages.items():
            size = (sizes or {}).get(key, array.size)
            file.write(struct.pack(f"{order}q", size))
            file.write(array.astype(array.dtype.newbyteorder(order)).tobytes())
    return path
