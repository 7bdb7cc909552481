"""Model files: safetensors, written whole or not at all, with their own history inside.

A model file holds the tensors `unet.*` and `seg.*` (the official names, PyTorch's shapes), of some
models `normality.*` (what good images show), and the metadata `format`, `config`, `provenance` and
`threshold`, the last three as JSON. A state file holds what training needs beyond it to go on:
optimizer moments, the random state, the step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from diffusionad.errors import InputError
from diffusionad.files import PathLike, atomic_path, reason

if TYPE_CHECKING:
    from diffusionad.torch_files import AnyTensor

MODEL_FORMAT = "diffusionad/2"  # 2: normality
STATE_FORMAT = "diffusionad-state/1"
NETWORKS = ("unet", "seg")
PARTS = (*NETWORKS, "normality")
DTYPES = {
    "float64": "F64", "float32": "F32", "int64": "I64", "uint64": "U64",
    "int32": "I32", "uint32": "U32", "float16": "F16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip

# What Python raises for values of a file that are not what is expected there.
ODD = (KeyError, ValueError, TypeError, OverflowError, RecursionError)

Tensors = Mapping[str, "AnyTensor"]


@dataclass(frozen=True)
class Header:
    """What a model file says about itself, without its tensors."""

    config: dict[str, Any]
    provenance: dict[str, Any]
    threshold: float | None
    parameters: dict[str, int]  # network -> number of values


@dataclass(frozen=True)
class Checkpoint:
    """The content of a model file."""

    unet: Tensors
    seg: Tensors
    config: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    normality: Tensors = field(default_factory=dict)


def save_model(path: PathLike, checkpoint: Checkpoint) -> None:
    """Write a model file atomically. Raises WriteError; an earlier file then stays."""
    tensors = {
        f"{network}.{name}": value
        for network in PARTS
        for name, value in getattr(checkpoint, network).items()
    }
    metadata = {
        "format": MODEL_FORMAT,
        "config": _to_json(checkpoint.config),
        "provenance": _to_json(checkpoint.provenance),
        "threshold": _to_json(checkpoint.threshold),
    }
    _write(path, tensors, metadata)


def load_model(path: PathLike) -> Checkpoint:
    """Read a model file. Raises InputError if it is missing, broken or of an unknown format."""
    with opened_model(path) as found:
        unet, seg, normality = (
            {name: np.array(tensor) for name, tensor in getattr(found, part).items()}
            for part in PARTS
        )
        return dataclasses.replace(found, unet=unet, seg=seg, normality=normality)


@contextmanager
def opened_model(path: PathLike) -> Iterator[Checkpoint]:
    """The content of a model file, whose tensors become arrays while it is open.

    Each is mapped from the file when it is its turn, so that a large model is in memory once.
    Raises InputError as load_model() does.
    """
    _require_file(path)
    with open(path, "rb") as file:
        shapes, metadata = _read_shapes(path, MODEL_FORMAT)  # the library's checks
        if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            raise InputError(f"{path}: replaced by another file while it was read")
        tensors = _mapped(path, file)
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
            raise InputError(f"{path}: changed while it was read")
        yield _checkpoint(path, tensors, metadata)


def _checkpoint(
    path: PathLike, tensors: Mapping[str, MappedTensor], metadata: Mapping[str, str]
) -> Checkpoint:
    parts: dict[str, dict[str, MappedTensor]] = {part: {} for part in PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise InputError(f"{path}: unknown tensor {name!r} in a model file")
        parts[part][rest] = value
    for network in NETWORKS:
        if not parts[network]:
            raise InputError(f"{path}: no tensors {network}.* in this model file")
    config, provenance, threshold = _model_metadata(path, metadata)
    return Checkpoint(
        parts["unet"], parts["seg"], config, provenance, threshold, parts["normality"]
    )


def read_header(path: PathLike) -> Header:
    """Read what a model file says about itself; the tensors stay on disk. Raises InputError."""
    shapes, metadata = _read_shapes(path, MODEL_FORMAT)
    parameters = dict.fromkeys(NETWORKS, 0)
    for name, shape in shapes.items():
        network = name.partition(".")[0]
        if network in parameters:
            parameters[network] += math.prod(shape)
    return Header(*_model_metadata(path, metadata), parameters)


def read_shapes(path: PathLike) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model file; they stay on disk. Raises InputError."""
    return _read_shapes(path, MODEL_FORMAT)[0]


def save_state(path: PathLike, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Write training state atomically: arrays, and plain values for JSON. Raises WriteError."""
    _write(path, tensors, {"format": STATE_FORMAT, "values": _to_json(values)})


def load_state(path: PathLike) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Read what save_state wrote. Raises InputError if it is missing or broken."""
    tensors, metadata = _read(path, STATE_FORMAT)
    return tensors, _state_values(path, metadata)


def read_state_values(path: PathLike) -> dict[str, Any]:
    """The plain values that save_state wrote; the arrays stay on disk. Raises InputError."""
    return _state_values(path, _read_shapes(path, STATE_FORMAT)[1])


def _state_values(path: PathLike, metadata: Mapping[str, str]) -> dict[str, Any]:
    values = _from_json(path, metadata, "values")
    if not isinstance(values, dict):
        raise InputError(f"{path}: the metadata 'values' is broken")
    return values


# ---- files ------------------------------------------------------------------------------------


def _write(path: PathLike, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """The safetensors format, written here because the library orders metadata at random: equal
    content gives equal bytes."""
    # Widest values first keeps every tensor aligned, as the library does it.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        array = tensors[name]
        begin, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.asarray(tensors[name])
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            file.write(little.reshape(-1).view(np.uint8).data)


def _read(path: PathLike, expected: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    _require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _check_format(path, file.metadata(), expected)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise _broken(path, error) from error


@dataclass(frozen=True, eq=False)
class MappedTensor:
    """A tensor in an open file; ``numpy.asarray`` gives its values, read-only and mapped."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: BinaryIO
    start: int  # bytes

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype if dtype is None else dtype)
        values = np.memmap(self.file, self.dtype, "r", self.start, self.shape)
        return np.array(values, dtype=dtype, copy=copy)


def _mapped(path: PathLike, file: BinaryIO) -> dict[str, MappedTensor]:
    """By name, from the header of a file that the library has checked."""
    dtypes = {theirs: np.dtype(ours).newbyteorder("<") for ours, theirs in DTYPES.items()}
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in dtypes:
            raise InputError(f"{path}: {name}: values of type {entry['dtype']} are not read")
        start = 8 + length + entry["data_offsets"][0]
        tensors[name] = MappedTensor(tuple(entry["shape"]), dtypes[entry["dtype"]], file, start)
    return tensors


def _read_shapes(
    path: PathLike, expected: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    _require_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = _check_format(path, file.metadata(), expected)
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}, metadata
    except (SafetensorError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: PathLike, error: Exception) -> InputError:
    from diffusionad import torch_files

    if isinstance(error, InputError):
        return error
    if torch_files.is_torch_file(path):
        return InputError(f"{path}: a file of PyTorch; load_official() and `convert` read it")
    return InputError(f"{path}: not a complete safetensors file: {error}")


def _require_file(path: PathLike) -> None:
    file = Path(path)
    try:
        if file.is_dir():
            raise InputError(f"{file}: expected a model file, got a folder")
        with file.open("rb") as opened:
            if not opened.read(1):
                raise InputError(f"{file}: the file is empty")
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error


def _check_format(
    path: PathLike, metadata: Mapping[str, str] | None, expected: str
) -> dict[str, str]:
    """Refuse files of other programs and of newer versions; older numbers stay readable."""
    kind, newest = expected.split("/")
    found = (metadata or {}).get("format", "")
    match = re.fullmatch(rf"{kind}/([0-9]+)", found)
    if match is None:
        raise InputError(
            f"{path}: not a file of this package "
            f"(its format is {found or 'not given'}, expected {expected})"
        )
    if int(match[1]) > int(newest):
        raise InputError(
            f"{path}: written by a newer version (format {found}, this one reads up to {expected})"
        )
    return dict(metadata or {})


def _model_metadata(
    path: PathLike, metadata: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], float | None]:
    config = _from_json(path, metadata, "config")
    provenance = _from_json(path, metadata, "provenance")
    threshold = _from_json(path, metadata, "threshold")
    for name, value in (("config", config), ("provenance", provenance)):
        if not isinstance(value, dict):
            raise InputError(f"{path}: the metadata {name!r} is broken")
    return config, provenance, _threshold(path, threshold)


def _threshold(path: PathLike, value: Any) -> float | None:
    """No score reaches NaN or infinity: every image would be normal."""
    if value is None:
        return None
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # an int of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{path}: the metadata 'threshold' is broken, expected a finite number")
    return number


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _from_json(path: PathLike, metadata: Mapping[str, str], name: str) -> Any:
    try:
        return parse_json(metadata[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the metadata {name!r} is missing or broken") from error


def parse_json(text: str) -> Any:
    """A text of a file as plain values.

    Raises ValueError for what is no JSON, NaN and infinity included, which Python's reader takes,
    RecursionError where it is nested too deeply.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text}")
    return value
