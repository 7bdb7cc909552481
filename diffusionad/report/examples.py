"""Test images worth looking at: likely false alarms, likely misses, the clearest hits."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusionad import plots
from diffusionad.datasets import Sample
from diffusionad.images import Bytes, as_floats
from diffusionad.tables import html_text

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD
    from diffusionad.prediction import ImageResult
    from diffusionad.tiling import Tiles

EXAMPLES = 6  # images of each group, whatever the number of test images
TILE = 256  # side of an embedded picture at the most, pixels
QUALITY = 85  # of its JPEG; with all three, a page of pure noise stays below five million bytes
BATCH = 4  # images whose stages are held in memory at once


@dataclass(frozen=True)
class Group:
    """Test images by number, the most telling first."""

    title: str
    about: str
    chosen: Sequence[int]


def choose(labels: Sequence[int], scores: Sequence[float], most: int = EXAMPLES) -> list[Group]:
    """Up to `most` images of each group; none is in two of them, a group without is left out."""
    rising = np.argsort(np.asarray(scores), kind="stable").tolist()
    good = [index for index in rising if not labels[index]]
    defective = [index for index in rising if labels[index]]
    missed = defective[: min(most, (len(defective) + 1) // 2)]
    hits = defective[len(missed) :]
    groups = (
        Group(
            "Good images with the highest scores",
            "What the model takes for defects where there are none: from the threshold on these "
            "are false alarms.",
            good[::-1][:most],
        ),
        Group(
            "Defective images with the lowest scores",
            "What the model overlooks: below the threshold these are missed.",
            missed,
        ),
        Group("Defective images with the highest scores", "The clearest hits.", hits[::-1][:most]),
    )
    return [group for group in groups if group.chosen]


def pictures(
    model: DiffusionAD, samples: Sequence[Sample], tiles: Tiles | None = None
) -> Iterator[list[tuple[str, str]]]:
    """Name and data URI of each picture of each image, in the order in which they are shown.

    With `tiles` the maps are those of predict_tiled(), which has no reconstructions.
    """
    high = plots.colour_limit(model.threshold)
    side = min(model.config.image_size, TILE)
    for sample, said in zip(samples, _said(model, samples, tiles), strict=True):
        mask = sample.mask
        seen = as_floats(said.image[None])[0]
        truth = "ground truth" if mask is not None else "ground truth: unknown"
        yield [
            ("image", jpeg(plots.picture(seen, side))),
            (truth, png(plots.mask_picture(mask, side))),
            _reconstruction(said, side),
            ("map", jpeg(plots.overlay_picture(seen, said.map, mask, side, high), sharp=True)),
        ]


def _reconstruction(said: ImageResult, side: int) -> tuple[str, str]:
    """Grey all over where there is none."""
    if said.reconstruction is None:
        return "reconstruction: none of tiles", png(plots.mask_picture(None, side))
    return "reconstruction", jpeg(plots.picture(said.reconstruction, side))


def _said(
    model: DiffusionAD, samples: Sequence[Sample], tiles: Tiles | None
) -> Iterator[ImageResult]:
    """What the model says of each image, a few of them in memory at once; of large ones, one."""
    most = BATCH if tiles is None else 1
    for first in range(0, len(samples), most):
        images = [sample.image for sample in samples[first : first + most]]
        if tiles is None:
            yield from model.explain(images)
        else:
            yield from model.predict_tiled(images, tile=tiles.size, overlap=tiles.overlap)


def figure(
    sample: Sample,
    name: str,
    score: float,
    threshold: float | None,
    drawn: Sequence[tuple[str, str]],
) -> str:
    """One image with its pictures, each a button that shows it large."""
    name = html_text(name)
    tiles = "".join(
        f'<button type="button" class="tile {title.split()[0]}">'
        f'<img src="{source}" alt="{name}: {title}" width="{TILE}" height="{TILE}">'
        f"<span>{title}</span></button>"
        for title, source in drawn
    )
    word, style = verdict(sample.label, score, threshold)
    return (
        f'<figure class="example"><figcaption><b>{html_text(sample.defect)}</b> '
        f'<span class="name">{name}</span> score {score:.4g} '
        f'<span class="{style}">{word}</span></figcaption><div class="tiles">{tiles}</div></figure>'
    )


def verdict(label: int, score: float, threshold: float | None) -> tuple[str, str]:
    """A word on what the threshold makes of an image, and its class in the style.

    >>> verdict(1, 0.4, 0.5)
    ('missed', 'wrong')
    """
    if threshold is None:
        return "", ""
    if label:
        return ("found", "right") if score >= threshold else ("missed", "wrong")
    return ("false alarm", "wrong") if score >= threshold else ("passed", "right")


def jpeg(pixels: Bytes, *, sharp: bool = False) -> str:
    """A photograph as a data URI; `sharp` keeps the edges of what is drawn in colour."""
    # Pillow's optimize fails on noise, whose file does not fit the buffer that it gets.
    return _data_uri(pixels, "JPEG", quality=QUALITY, subsampling=0 if sharp else 2)


def png(pixels: Bytes) -> str:
    """A mask in greys as a data URI."""
    return _data_uri(pixels[..., 0], "PNG", optimize=True)


def _data_uri(pixels: Bytes, kind: str, **options: Any) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
