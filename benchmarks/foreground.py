"""How well the built-in extractor finds the object: intersection over union on screws.

    python benchmarks/foreground.py DATA [--count 40] [--seed 0] [--json FILE] [--sheets DIR]

DATA holds `mvtec/screw/train/good` (the MVTec AD category) and `dtd/images` (textures). Truth is
Otsu's threshold on the original, plain background, its holes filled. Cases:

    plain      the images as they are, as a set and each for itself
    uneven     under a gradient and a spot of light, as a set and each for itself
    textured   screws cut out and pasted on another texture each, under uneven light
    static     one collage of textures and screws, under changing light, another screw in each
    alone      `textured`, each image for itself: often unsure, then the whole image is taken

`IoU` is the mean over all images, `sure` over those whose mask is used. Every further folder of
DATA with `train/good` in it is then looked at without a truth: how many masks, how large.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusionad import _core
from diffusionad.files import write_json
from diffusionad.images import Bytes, Mask, read_image, resize, write_png
from diffusionad.saliency import SURE, Foreground, find_foreground, foreground_of_set

SIDE = 320
LIMITS = {"plain": 0.9, "uneven": 0.75, "textured": 0.75, "static": 0.75}
Case = tuple[Bytes, Mask]


def otsu_mask(image: Bytes) -> Mask:
    """The darker class of Otsu's threshold, holes filled: the truth on a plain background."""
    grey = image.mean(axis=2).round().astype(np.intp)
    counts = np.bincount(grey.ravel(), minlength=256).astype(float)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * (below[-1] - below))
    dark = grey <= int(np.nanargmax(between[:-1]))
    return fill(dark)


def fill(mask: Mask) -> Mask:
    """With what the border cannot reach: grown from a frame around the image until it rests."""
    outside = np.pad(~mask, 1, constant_values=True)
    free, reached = outside.copy(), np.zeros_like(outside)
    reached[0, :] = reached[-1, :] = reached[:, 0] = reached[:, -1] = True
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if (grown == reached).all():
            return np.asarray(~reached[1:-1, 1:-1])
        reached = grown


def light(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Factors (SIDE, SIDE, 1): a gradient from low to high, and a spot."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    along = (along - along.min()) / (along.max() - along.min())
    spot = np.exp(-((y - rng.uniform()) ** 2 + (x - rng.uniform()) ** 2) / 0.32)
    return ((low + (high - low) * along) * (0.8 + 0.4 * spot))[..., None]


def lit(image: Bytes, factors: np.ndarray) -> Bytes:
    return np.asarray(np.clip(image * factors, 0, 255).astype(np.uint8))


class Composites:
    """Draws the cases from DATA's screws and textures."""

    def __init__(self, data: Path, seed: int) -> None:
        self.screws = sorted((data / "mvtec/screw/train/good").glob("*.png"))
        self.textures = sorted((data / "dtd/images").glob("*/*.jpg"))
        self.rng = np.random.default_rng(seed)

    def texture(self) -> Bytes:
        image = read_image(self.textures[self.rng.integers(len(self.textures))])
        side = min(image.shape[:2])
        return resize(np.ascontiguousarray(image[:side, :side]), SIDE, SIDE)

    def paste(self, background: Bytes) -> Case:
        """A screw, smaller by up to 0.6, somewhere on the background."""
        image = read_image(self.screws[self.rng.integers(len(self.screws))])
        image = resize(image, SIDE, SIDE)
        mask = otsu_mask(image)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        scale = self.rng.uniform(0.6, 1.0)
        height, width = (int(n * scale) for n in mask[box].shape)
        screw = resize(np.ascontiguousarray(image[box]), height, width)
        shape = resize(mask[box] * np.uint8(255), height, width) >= 128
        y = self.rng.integers(SIDE - height + 1)
        x = self.rng.integers(SIDE - width + 1)
        pasted, truth = background.copy(), np.zeros((SIDE, SIDE), np.bool_)
        truth[y : y + height, x : x + width] = shape
        pasted[truth] = screw[shape]
        return pasted, truth

    def plain(self, count: int) -> list[Case]:
        chosen = np.linspace(0, len(self.screws) - 1, count).astype(int)
        images = [resize(read_image(self.screws[i]), SIDE, SIDE) for i in chosen]
        return [(image, otsu_mask(image)) for image in images]

    def uneven(self, count: int) -> list[Case]:
        return [
            (lit(image, light(self.rng, 0.55, 1.25)), mask) for image, mask in self.plain(count)
        ]

    def textured(self, count: int) -> list[Case]:
        cases = [self.paste(self.texture()) for _ in range(count)]
        return [(lit(image, light(self.rng, 0.55, 1.25)), mask) for image, mask in cases]

    def static(self, count: int) -> list[Case]:
        scene = self.texture().copy()
        for _ in range(12):
            part = self.texture()
            height, width = self.rng.integers(40, 140, 2)
            y, x = self.rng.integers(SIDE - height), self.rng.integers(SIDE - width)
            scene[y : y + height, x : x + width] = part[:height, :width]
        for _ in range(2):
            scene, _ = self.paste(scene)
        base, cases = light(self.rng, 0.55, 1.25), []
        for _ in range(count):
            image, mask = self.paste(scene)
            noise = self.rng.normal(0, 2, image.shape)
            image = lit(image, base * light(self.rng, 0.85, 1.15) + noise / 128)
            cases.append((image, mask))
        return cases


def overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def measure(cases: list[Case], found: list[Foreground]) -> dict[str, Any]:
    scores = np.array([overlap(f.mask, mask) for f, (_, mask) in zip(found, cases, strict=True)])
    sure = np.array([f.confidence >= SURE for f in found])
    return {
        "iou": round(float(scores.mean()), 4),
        "median": round(float(np.median(scores)), 4),
        "sure_iou": round(float(scores[sure].mean()), 4) if sure.any() else None,
        "sure": int(sure.sum()),
        "count": len(cases),
        "methods": dict(Counter(f.method for f in found)),
    }


def sheet(images: list[Bytes], found: list[Foreground]) -> Bytes:
    """Images over themselves with the background darkened, eight a row."""
    tiles = []
    for image, one in zip(images, found, strict=True):
        dimmed = np.where(one.mask[..., None], image, image // 5)
        tiles.append(np.concatenate([resize(image, 160, 160), resize(dimmed, 160, 160)]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
    rows = [np.concatenate(tiles[i : i + 8], axis=1) for i in range(0, len(tiles), 8)]
    return np.concatenate(rows)


def one_by_one(images: list[Bytes]) -> list[Foreground]:
    return [find_foreground(image) for image in images]


Ways = tuple[tuple[str, str, Callable[[list[Bytes]], list[Foreground]]], ...]
WAYS: Ways = (
    ("plain", "plain", foreground_of_set),
    ("plain, alone", "plain", one_by_one),
    ("uneven", "uneven", foreground_of_set),
    ("uneven, alone", "uneven", one_by_one),
    ("textured", "textured", foreground_of_set),
    ("static", "static", foreground_of_set),
    ("textured, alone", "textured", one_by_one),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=40, help="images a case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder of contact sheets")
    options = parser.parse_args()
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
    source, rows = Composites(options.data, options.seed), {}
    drawn = {case: getattr(source, case)(options.count) for case in LIMITS}
    print(f"SIMD level {_core.simd_level()}, {options.count} images a case, seed {options.seed}")
    for name, case, way in WAYS:
        images = [image for image, _ in drawn[case]]
        found = way(images)
        rows[name] = measure(drawn[case], found)
        print(f"{name:18s} {json.dumps(rows[name])}", flush=True)
        if options.sheets:
            write_png(options.sheets / f"{name.replace(', ', '_')}.png", sheet(images, found))
    for folder in sorted(options.data.glob("*/*/train/good")):
        paths = sorted(folder.iterdir())
        paths = paths[:: max(1, len(paths) // options.count)]
        images = [read_image(path) for path in paths]
        found = foreground_of_set(images)
        name, used = folder.parts[-3], [f for f in found if f.confidence >= SURE]
        size = float(np.mean([f.mask.mean() for f in used])) if used else 1.0
        rows[name] = {"sure": len(used), "count": len(found), "area": round(size, 4)}
        print(f"{name:18s} {json.dumps(rows[name])}", flush=True)
        if options.sheets:
            write_png(options.sheets / f"{name}.png", sheet(images[:16], found[:16]))
    if options.json:
        write_json(options.json, {"limits": LIMITS, "rows": rows})


if __name__ == "__main__":
    main()
