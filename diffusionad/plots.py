"""Pictures of a result: one row per image with every stage of the method, as plain pixels.

Drawn with Pillow alone. Images come as float [3, H, W] in [0, 1] (what the networks see), maps
and masks as [H, W]; pictures go out as uint8 [H, W, 3], ready for images.write_png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffusionad.images import Bytes, Mask, to_bytes

if TYPE_CHECKING:
    from PIL import ImageDraw

    from diffusionad.synthesis import Stages as SynthesisStages

FloatMap = npt.NDArray[np.floating[Any]]
Pieces = list[tuple[str, tuple[int, int, int]]]  # texts with their colours

# Every 17th colour of matplotlib's "magma" (CC0): even steps in lightness, dark for normal.
_MAGMA = np.array([
    0x000004, 0x0b0924, 0x20114b, 0x3b0f70, 0x57157e, 0x721f81, 0x8c2981, 0xa8327d,
    0xc43c75, 0xde4968, 0xf1605d, 0xfa7f5e, 0xfe9f6d, 0xfebf84, 0xfddea0, 0xfcfdbf,
])  # fmt: skip
_COLOURS = np.stack([_MAGMA >> 16, _MAGMA >> 8 & 255, _MAGMA & 255], axis=1).astype(np.float32)

_BACKGROUND = (22, 22, 26)
_TEXT = (236, 236, 240)
_FAINT = (150, 150, 160)
_GOOD = (96, 200, 130)
_BAD = (255, 110, 96)
_OUTLINE = (80, 230, 255)
_GAP = 6
_CAPTION = 30  # height of the line with the name
_LABEL = 18  # height of the line with the tiles' titles
_NAMES = 150  # width of the column with the rows' names, in a grid


@dataclass(frozen=True)
class Stages:
    """What one image goes through, in the order of the panel; what is None is left out."""

    image: FloatMap  # [3, H, W] in [0, 1], as all images here
    score_map: FloatMap  # [H, W] in [0, 1]
    mask: Mask | None = None  # bool, any size
    x_s: FloatMap | None = None
    x_b: FloatMap | None = None
    x0_s: FloatMap | None = None
    x0_b: FloatMap | None = None
    x0: FloatMap | None = None


def colormap(values: FloatMap, low: float = 0.0, high: float = 1.0) -> Bytes:
    """Values [H, W] as colours uint8 [H, W, 3] of a perceptual scale; others are clipped.

    >>> colormap(np.array([[0.0, 1.0]])).tolist()
    [[[0, 0, 4], [252, 253, 191]]]
    """
    span = max(high - low, 1e-12)
    place = np.clip((np.asarray(values, np.float32) - low) / span, 0.0, 1.0) * (len(_COLOURS) - 1)
    below = np.minimum(place.astype(np.intp), len(_COLOURS) - 2)
    part = (place - below)[..., None]
    mixed = _COLOURS[below] * (1.0 - part) + _COLOURS[below + 1] * part
    colours: Bytes = (mixed + 0.5).astype(np.uint8)
    return colours


def overlay(
    image: Bytes, score_map: FloatMap, mask: Mask | None = None, high: float = 1.0
) -> Bytes:
    """The map laid over its image [H, W, 3], clearer where it is higher; the mask as an outline."""
    share = np.clip(np.asarray(score_map, np.float32) / max(high, 1e-12), 0.0, 1.0)[..., None]
    opacity = 0.75 * np.sqrt(share)
    grey = image.mean(axis=2, keepdims=True, dtype=np.float32) * 0.85
    mixed = grey * (1.0 - opacity) + colormap(score_map, 0.0, high) * opacity
    result: Bytes = (mixed + 0.5).astype(np.uint8)
    if mask is not None:
        result[_outline(mask)] = _OUTLINE
    return result


def panel(
    stages: Stages,
    *,
    name: str = "",
    score: float | None = None,
    threshold: float | None = None,
    defect: str | None = None,
    tile: int = 192,
    high: float = 1.0,
) -> Bytes:
    """One row: input, mask, noisy images, the three reconstructions, map, overlay, each labelled.

    Above it stand the file's name, the score, the verdict where a threshold is given, and the true
    label where `defect` is known. The map's colours run from 0 to `high`. uint8 [H, W, 3].
    """
    return _row(_tiles(stages, tile, high), name, _verdict(score, threshold, defect))


def synthesis_row(
    image: Bytes, stages: SynthesisStages, index: int, *, name: str = "", tile: int = 160
) -> Bytes:
    """One sample of a batch: image [H, W, 3], foreground, noise, mask, appearance, result."""
    label = "anomaly" if stages.labels[index] else "normal: no place for an anomaly"
    tiles = [
        ("image", picture(image.transpose(2, 0, 1) / np.float32(255), tile)),
        ("foreground", _grey(stages.parts[index, 0], tile)),
        ("noise", colormap(_scaled(stages.noises[index, 0], tile), -1.0, 1.0)),
        ("mask", _grey(stages.masks[index, 0], tile)),
        ("appearance", picture(stages.appearances[index], tile)),
        ("result", picture(stages.samples[index], tile)),
    ]
    return _row(tiles, name, [(label, _BAD if stages.labels[index] else _GOOD)])


def _grey(plane: FloatMap, tile: int) -> Bytes:
    return np.repeat(to_bytes(_scaled(plane, tile))[..., None], 3, axis=2)


def _row(
    tiles: Sequence[tuple[str, Bytes]],
    name: str,
    pieces: Pieces,
) -> Bytes:
    """Tiles side by side with their titles, under the name and pieces of text. uint8 [H, W, 3]."""
    from PIL import Image, ImageDraw

    tile = tiles[0][1].shape[0]
    width = _GAP + len(tiles) * (tile + _GAP)
    top = _CAPTION + _LABEL
    canvas = Image.new("RGB", (width, top + tile + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_caption(draw, width, name, pieces)
    for index, (title, pixels) in enumerate(tiles):
        left = _GAP + index * (tile + _GAP)
        draw.text((left + 1, _CAPTION + 2), title, fill=_FAINT, font=font_of(12))
        canvas.paste(Image.fromarray(pixels), (left, top))
    return np.asarray(canvas)


def contact_sheet(panels: Sequence[Bytes], title: str = "") -> Bytes:
    """Panels one below the other under a title, as one picture. uint8 [H, W, 3]."""
    from PIL import Image, ImageDraw

    if not panels:
        raise ValueError("panels: expected at least one panel, got none")
    header = 34 if title else 0
    width = max(item.shape[1] for item in panels)
    height = header + sum(item.shape[0] + _GAP for item in panels)
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    if title:
        ImageDraw.Draw(canvas).text((_GAP + 1, 8), title, fill=_TEXT, font=font_of(18))
    top = header
    for item in panels:
        canvas.paste(Image.fromarray(item), (0, top))
        top += item.shape[0] + _GAP
    return np.asarray(canvas)


def grid(
    titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Bytes]]], title: str = ""
) -> Bytes:
    """Tiles in rows, each with its lines of text on the left, under the columns' titles.

    All tiles are uint8 [T, T, 3] of one size. uint8 [H, W, 3].
    """
    from PIL import Image, ImageDraw

    if not rows:
        raise ValueError("rows: expected at least one row, got none")
    tile = rows[0][1][0].shape[0]
    header = 34 if title else 0
    top = header + _LABEL + _GAP
    width = _NAMES + len(titles) * (tile + _GAP)
    canvas = Image.new("RGB", (width, top + len(rows) * (tile + _GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP + 1, 8), drawable(title), fill=_TEXT, font=font_of(18))
    for index, text in enumerate(titles):
        left = _NAMES + index * (tile + _GAP)
        draw.text((left + 1, header + 3), text, fill=_FAINT, font=font_of(12))
    for number, (text, tiles) in enumerate(rows):
        y = top + number * (tile + _GAP)
        for line, words in enumerate(text.splitlines()):
            name = _cut(draw, drawable(words), font_of(12), _NAMES - 3 * _GAP)
            colour = _FAINT if line else _TEXT
            draw.text((_GAP + 1, y + 2 + 16 * line), name, fill=colour, font=font_of(12))
        for index, pixels in enumerate(tiles):
            canvas.paste(Image.fromarray(pixels), (_NAMES + index * (tile + _GAP), y))
    return np.asarray(canvas)


def picture(image: FloatMap, tile: int) -> Bytes:
    """An image [3, H, W] in [0, 1] as a tile, uint8 [tile, tile, 3]."""
    from PIL import Image

    pixels = Image.fromarray(np.ascontiguousarray(to_bytes(image).transpose(1, 2, 0)))
    return np.asarray(pixels.resize((tile, tile), Image.Resampling.BICUBIC))


def mask_picture(mask: Mask | None, tile: int) -> Bytes:
    """A mask [H, W] as a tile, white where the defect is; grey all over where it is not known."""
    if mask is None:
        return np.full((tile, tile, 3), 64, np.uint8)
    return np.repeat(_scaled_mask(mask, tile)[..., None], 3, axis=2) * np.uint8(255)


def map_picture(score_map: FloatMap, tile: int, high: float = 1.0) -> Bytes:
    """A map [H, W] as a tile in colours from 0 to `high`."""
    return colormap(_scaled(score_map, tile), 0.0, high)


def overlay_picture(
    image: FloatMap, score_map: FloatMap, mask: Mask | None, tile: int, high: float = 1.0
) -> Bytes:
    """A map over its image [3, H, W] as a tile, see overlay(); the mask as an outline."""
    outline = None if mask is None else _scaled_mask(mask, tile)
    return overlay(picture(image, tile), _scaled(score_map, tile), outline, high)


def colour_limit(threshold: float | None) -> float:
    """Upper end of the maps' colours: the threshold, where there is one, lies in the middle."""
    return 1.0 if threshold is None else min(1.0, max(2.0 * threshold, 0.02))


def _tiles(stages: Stages, tile: int, high: float) -> list[tuple[str, Bytes]]:
    mask = stages.mask
    tiles = [("input", picture(stages.image, tile))]
    if mask is not None:
        tiles.append(("defect mask", mask_picture(mask, tile)))
    for title, pixels in (
        ("x_s  noisy", stages.x_s),
        ("x_b  noisier", stages.x_b),
        ("x0_s  from x_s", stages.x0_s),
        ("x0_b  from x_b", stages.x0_b),
        ("x0  norm-guided", stages.x0),
    ):
        if pixels is not None:
            tiles.append((title, picture(pixels, tile)))
    peak = float(np.max(stages.score_map))
    shown = map_picture(stages.score_map, tile, high)
    tiles.append((f"map  0 to {high:.3g}, peak {peak:.3g}", shown))
    outlined = mask is not None and bool(mask.any())
    title = "overlay, defect outlined" if outlined else "overlay"
    tiles.append((title, overlay_picture(stages.image, stages.score_map, mask, tile, high)))
    return tiles


def _verdict(score: float | None, threshold: float | None, defect: str | None) -> Pieces:
    """Pieces of text with their colours, from left to right."""
    pieces: Pieces = []
    if defect is not None:
        pieces.append((f"truth: {drawable(defect)}", _FAINT))
    if score is not None:
        pieces.append((f"score {score:.4f}", _TEXT))
        if threshold is not None:
            anomalous = score >= threshold
            word = "anomalous" if anomalous else "normal"
            pieces.append((f"{word} (threshold {threshold:.4f})", _BAD if anomalous else _GOOD))
    return pieces


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    width: int,
    name: str,
    pieces: Pieces,
) -> None:
    font = font_of(15)
    name = drawable(name)
    right = float(width - _GAP - 1)
    for text, colour in reversed(pieces):
        right -= draw.textlength(text, font=font)
        draw.text((right, _GAP), text, fill=colour, font=font)
        right -= 18
    draw.text((_GAP + 1, _GAP), _cut(draw, name, font, right - _GAP), fill=_TEXT, font=font)


def drawable(text: str) -> str:
    """The text with question marks for what no font has a picture of."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _cut(draw: ImageDraw.ImageDraw, text: str, font: Any, room: float) -> str:
    """The end of a text that is too long for its room."""
    while len(text) > 2 and draw.textlength(text, font=font) > room:
        text = "…" + text[2:]
    return text


@cache
def font_of(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _scaled(score_map: FloatMap, tile: int) -> FloatMap:
    from PIL import Image

    plane = Image.fromarray(np.ascontiguousarray(score_map, np.float32))
    return np.asarray(plane.resize((tile, tile), Image.Resampling.BILINEAR))


def _scaled_mask(mask: Mask, tile: int) -> Mask:
    """The mask at the tile's size; a defect smaller than one pixel of it stays visible."""
    from PIL import Image

    plane = Image.fromarray(mask.astype(np.float32))
    return np.asarray(plane.resize((tile, tile), Image.Resampling.BOX)) > 0


def _outline(mask: Mask) -> Mask:
    """Pixels just outside the mask, 4-connected."""
    padded = np.pad(mask, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return np.asarray(near & ~mask)
