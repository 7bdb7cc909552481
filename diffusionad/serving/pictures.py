"""Maps as PNG: numbers in 16-bit grey, or colours over the image."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from diffusionad import _core, plots
from diffusionad.images import Bytes, Floats

LEVELS = 65535  # of a map's PNG: level / LEVELS is the map's value


def map_png(score_map: Floats, size: tuple[int, int] | None = None) -> bytes:
    """A map [H, W] in [0, 1] as 16-bit grey, at this (height, width) or its own."""
    values = score_map if size is None else _core.resize_f32(score_map, *size)
    return _png((np.clip(values, 0.0, 1.0) * LEVELS + 0.5).astype(np.uint16))


def overlay_png(shown: Bytes, score_map: Floats, threshold: float | None) -> bytes:
    """A map laid over its image [H, W, 3], in the colours of the panels that predict writes."""
    sized = _core.resize_f32(score_map, *shown.shape[:2])
    return _png(plots.overlay(shown, sized, high=plots.colour_limit(threshold)))


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _png(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()
