"""Images in memory, whatever holds them, as uint8 or float32 [H, W, 3].

An array of two axes is a grey image [H, W]. One of three is an image [H, W, C] or [C, H, W], with
C = 1 (grey) or 3 (RGB). One of four is N of those, [N, H, W, C] or [N, C, H, W]. Where the first
axis and the last could both be the channels, bytes are read as [H, W, C] and floats as [C, H, W].
A stack of grey images without channels, [N, H, W], is refused: for N = 3 it would be one image.

Values are uint8, or floating-point numbers in [0, 1], whose nearest float32 counts.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from diffusionad.errors import InputError, words_of

Pixels: TypeAlias = npt.NDArray[Any]  # uint8, or float32 in [0, 1]: [H, W, 3]

CHANNELS = (1, 3)
MOST_PIXELS = 65536  # of a side, that the core resizes


class SupportsDLPack(Protocol):
    """An array of another library."""

    def __dlpack__(self) -> Any: ...


class SupportsArrayInterface(Protocol):
    """What says itself where in memory it lies."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


def as_array(value: Any, name: str) -> npt.NDArray[Any] | None:
    """An array with the value's memory, where it can be shared; None for what is no array.

    Raises InputError where the value's library does not hand it out, such as from a GPU.
    """
    try:
        if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, AttributeError, BufferError) as error:
        what = f"{name}: this {type(value).__name__} gives no array"
        raise InputError(f"{what}: {words_of(error)}") from error
    return None


def as_pixels(array: npt.NDArray[Any], name: str) -> Pixels:
    """One image in any of the forms above as [H, W, 3]; a view, unless values are converted.

    Raises InputError, with the argument's name, for another shape or type, more than 65,536 pixels
    a side, and floats that are not in [0, 1].
    """
    image = _channels_last(array)
    if image is None or array.size == 0 or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise InputError(
            f"{name}: expected uint8, or floats in [0, 1], of shape [H, W], [H, W, C] or "
            f"[C, H, W] with C = 1 or 3, got {array.dtype} {list(array.shape)}"
        )
    if max(image.shape) > MOST_PIXELS:
        raise InputError(
            f"{name}: expected at most {MOST_PIXELS} pixels a side, got {list(image.shape[:2])}"
        )
    if image.dtype != np.uint8:
        image = _in_unit_range(image, name)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """The image as [H, W, C], None where no axis can be the channels."""
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        return None
    first, last = array.shape[0] in CHANNELS, array.shape[2] in CHANNELS
    if last and (array.dtype == np.uint8 or not first):
        return array
    return array.transpose(1, 2, 0) if first else None


def _in_unit_range(image: npt.NDArray[Any], name: str) -> npt.NDArray[np.float32]:
    # What float32 cannot hold is out of range, and said so, or rounds to its nearest.
    with np.errstate(over="ignore", under="ignore"):
        values = image.astype(np.float32, copy=False)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):
        raise InputError(f"{name}: expected values in [0, 1], got {low:g} to {high:g}")
    return values
