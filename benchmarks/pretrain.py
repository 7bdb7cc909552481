"""Makes weights that the preset "compact" may start from, from procedural surfaces alone.

    python benchmarks/pretrain.py OUT.safetensors

Half of the images are surfaces, half are parts on a background: all from `synthesis.texture`, with
light, contrast and sensor noise of many kinds. Defects are synthesised on them as in any training;
images that get none may get thin curved lines (cracks, scratches, threads) or a soft region that is
a little different. The like is also there before the defect, and then is none.

In 60 % of the steps both noised images are made from the image before its defect, so that the
repair has lost the defect whatever the UNet can do: the segmentation network learns early what a
good repair is worth, and to compare. Averaged weights (0.999) are written, in half precision.

The weights that come with the package have seen twenty times as many images as the steps here:
pretrain_gpu.py made them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import diffusionad as dad
from diffusionad import _core, checkpoints
from diffusionad.models import averaged
from diffusionad.synthesis import SynthesisOptions, synthesize_batch

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator
Tensors = Mapping[str, npt.NDArray[Any]]
Change = tuple[Floats, Callable[[Floats], Floats]]  # mask [S, S], and what it does to [3, S, S]

STEPS, BATCH, LEARNING_RATE, WARMUP = 5000, 8, 1e-3, 100
POOL = 6000  # surfaces, drawn from again and again, turned and mirrored
CLEAN_SHARE = 0.6
DEFECT_SHARE = 0.6  # of the images without another defect, that get lines or a soft region
BELONGING_SHARE = 0.4  # of all images, that have such a thing without its being a defect
DECAY = 0.999
SAVE_EVERY = 500


class Scenes:
    """Images [S, S, 3] of no real thing, and where the object is, if there is one."""

    def __init__(self, side: int, pool: int | None = None, strokes_only: bool = False) -> None:
        """With `strokes_only` no soft regions, and nothing that only looks like a defect."""
        self.side, self.strokes_only = side, strokes_only
        self.y, self.x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
        surfaces = (_core.texture(side, side, seed) for seed in range(pool or POOL))
        self.pool = np.stack([np.rint(255 * s.clip(0, 1)).astype(np.uint8) for s in surfaces])

    def texture(self, rng: Rng) -> Floats:
        found, turn = self.pool[rng.integers(len(self.pool))], int(rng.integers(8))
        found = turned(found.transpose(2, 0, 1), turn).transpose(1, 2, 0)
        return found.astype(np.float32) / np.float32(255)

    def surface(self, rng: Rng, low: float = 0.15, high: float = 1.0) -> Floats:
        """A texture, often without colour, with a share of its contrast."""
        found = self.texture(rng)
        if rng.random() < 0.6:
            tint = 1 if rng.random() < 0.7 else rng.uniform(0.85, 1.15, 3).astype(np.float32)
            found = np.repeat(found.mean(-1, keepdims=True), 3, -1) * tint
        mean = found.mean((0, 1), keepdims=True)
        return (mean + rng.uniform(low, high) * (found - mean)).astype(np.float32)

    def lit(self, rng: Rng, image: npt.NDArray[np.floating]) -> Floats:
        """Under uneven light, exposed somehow, with the noise of a sensor."""
        if rng.random() < 0.6:
            a, b = rng.uniform(-0.5, 0.5, 2) * rng.uniform(0, 1)
            image = image * (1 + a * self.x + b * self.y)[..., None]
        image = (image - 0.5) * rng.uniform(0.6, 1.1) + rng.uniform(0.3, 0.7)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + noise * np.float32(rng.uniform(0, 0.03))
        return np.clip(image, 0, 1).astype(np.float32)

    def outline(self, rng: Rng) -> Mask:
        """One to three superellipses, added or cut out."""
        found = np.zeros((self.side, self.side), np.bool_)
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(-0.25, 0.25, 2)
            width, height = rng.uniform(0.08, 0.42, 2)
            angle, power = rng.uniform(0, np.pi), rng.choice([2, 2, 4, 10])
            along = (self.x - x) * np.cos(angle) + (self.y - y) * np.sin(angle)
            across = -(self.x - x) * np.sin(angle) + (self.y - y) * np.cos(angle)
            shape = (np.abs(along) / width) ** power + (np.abs(across) / height) ** power < 1
            found = found | shape if rng.random() < 0.75 else found & ~shape
        return found

    def image(self, rng: Rng) -> tuple[Floats, Mask | None]:
        if rng.random() < 0.5:
            return self.lit(rng, self.surface(rng)), None
        part = self.outline(rng)
        if part.mean() < 0.05:
            return self.lit(rng, self.surface(rng)), None
        if rng.random() < 0.7:
            background = self.surface(rng, 0.0, 0.3)
        else:
            background = np.ones((self.side, self.side, 3), np.float32) * rng.uniform(0, 1, 3)
        return self.lit(rng, np.where(part[..., None], self.surface(rng), background)), part

    def strokes(self, rng: Rng) -> Floats:
        """Mask of one to three random walks whose direction changes little by little, 1 to 5 wide.

        Widths are in pixels at 128 px, lengths a tenth of the side to all of it.
        """
        mask = np.zeros((self.side, self.side), np.float32)
        for _ in range(rng.integers(1, 4)):
            length = rng.integers(self.side // 10, self.side)
            angle = rng.uniform(0, 2 * np.pi) + np.cumsum(
                rng.normal(0, rng.uniform(0.01, 0.35), length)
            )
            y = rng.uniform(0, self.side) + np.cumsum(np.sin(angle))
            x = rng.uniform(0, self.side) + np.cumsum(np.cos(angle))
            radius = rng.uniform(0.4, 2.2) * self.side / 128
            reach = math.floor(radius)
            for dy, dx in np.ndindex(2 * reach + 1, 2 * reach + 1):
                if (dy - reach) ** 2 + (dx - reach) ** 2 <= radius**2:
                    i, j = (np.rint(v).astype(int) for v in (y + dy - reach, x + dx - reach))
                    inside = (i >= 0) & (j >= 0) & (i < self.side) & (j < self.side)
                    mask[i[inside], j[inside]] = 1
        return mask

    def stroke(self, rng: Rng) -> Change:
        """Strokes of one shade or of a texture, which the image shines through."""
        mask = self.strokes(rng)
        if rng.random() < 0.7:
            other = np.full((3, 1, 1), rng.uniform(0, 1), np.float32)
        else:
            other = self.texture(rng).transpose(2, 0, 1)
        share = np.float32(rng.uniform(0.1, 0.8))
        return mask, lambda x: np.where(mask > 0, share * x + (1 - share) * other, x)

    def region(self, rng: Rng) -> Change:
        """A soft region where one or two of contrast, light, sharpness, direction, size change."""
        cells = rng.integers(1, 5, 2)
        angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
        noise = _core.perlin_noise(angles, self.side, self.side)
        low = np.quantile(noise, rng.uniform(0.5, 0.95))
        inside = np.clip((noise - low) / rng.uniform(0.01, 0.25) + 0.5, 0, 1).astype(np.float32)
        contrast = rng.uniform(0.3, 0.75) if rng.random() < 0.5 else rng.uniform(1.3, 1.9)
        light = rng.uniform(0.75, 0.93) if rng.random() < 0.5 else rng.uniform(1.07, 1.3)
        radius, turn = rng.integers(1, 4) * self.side // 128, rng.integers(1, 8)
        larger = np.arange(self.side) * 2 // rng.integers(3, 5)
        kinds: tuple[Callable[[Floats], Floats], ...] = (
            lambda x: means(x, 8) + contrast * (x - means(x, 8)),
            lambda x: x * light,
            lambda x: means(x, radius),
            lambda x: 2 * x - means(x, radius),
            lambda x: turned(x, turn),
            lambda x: x[:, larger][:, :, larger],
        )
        chosen = sorted(rng.choice(len(kinds), rng.integers(1, 3), replace=False))

        def change(x: Floats) -> Floats:
            changed = x
            for kind in chosen:
                changed = kinds[kind](changed)
            return np.clip(x + inside * (changed - x), 0, 1).astype(np.float32)

        return (inside > 0.5).astype(np.float32), change

    def batch(self, step: int) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]:
        """Good images, the same with defects, masks, labels; of a step's number alone."""
        rng = np.random.default_rng([7, step])
        scenes = [self.image(rng) for _ in range(BATCH)]
        good = np.stack([image for image, _ in scenes]).transpose(0, 3, 1, 2).copy()
        anywhere = np.ones((self.side, self.side), np.bool_)
        parts = [anywhere if part is None or rng.random() < 0.3 else part for _, part in scenes]
        options = SynthesisOptions(
            anomaly_probability=0.75,
            self_probability=0.5 if step % 2 else 0.0,
            random_part=step % 3 == 0,
        )
        textures = np.stack([self.texture(rng) for _ in range(BATCH)]).transpose(0, 3, 1, 2).copy()
        seeds = rng.integers(0, 2**64, BATCH, dtype=np.uint64)
        images, masks, labels = synthesize_batch(good, np.stack(parts), textures, seeds, options)
        for n in range(BATCH):
            if labels[n] == 0 and rng.random() < DEFECT_SHARE:
                strokes = self.strokes_only or rng.random() < 0.5
                masks[n, 0], change = self.stroke(rng) if strokes else self.region(rng)
                images[n] = np.where(masks[n] > 0, change(good[n]), good[n])
                labels[n] = masks[n].any()
            if not self.strokes_only and rng.random() < BELONGING_SHARE:
                _, change = self.stroke(rng) if rng.random() < 0.8 else self.region(rng)
                good[n] = change(good[n])
                images[n] = np.where(masks[n] > 0, images[n], good[n])
        return good, images, masks, labels


def means(image: Floats, radius: int) -> Floats:
    """Of the square around each pixel [3, S, S]."""
    width = 2 * radius + 1
    edges = ((0, 0), (radius + 1, radius), (radius + 1, radius))
    sums = np.pad(image.astype(np.float64), edges, mode="edge").cumsum(1).cumsum(2)
    rows = sums[:, width:] - sums[:, :-width]
    return ((rows[:, :, width:] - rows[:, :, :-width]) / width**2).astype(np.float32)


def turned(image: Floats, turn: int) -> Floats:
    """[3, S, S] mirrored and transposed by the bits of a number."""
    image = image[:, ::-1] if turn & 1 else image
    image = image[:, :, ::-1] if turn & 2 else image
    return image.transpose(0, 2, 1) if turn & 4 else image


def pretrain(out: Path, steps: int) -> None:
    model = dad.DiffusionAD("compact", pretrained=False)
    trainer = dad.Trainer(
        model.unet,
        model.seg,
        unet_lr=LEARNING_RATE,
        seg_lr=LEARNING_RATE,
        losses=model.train_config.losses,
        total_steps=steps,
        warmup=WARMUP,
    )
    scenes, begun = Scenes(model.config.image_size), time.monotonic()
    for step in range(steps):
        good, images, masks, labels = scenes.batch(step)
        if np.random.default_rng([3, step]).random() < CLEAN_SHARE:
            losses = trainer.step(images, masks, 0 * labels, clean=good).losses
        else:
            losses = trainer.step(images, masks, labels).losses
        for network in model.networks.values():
            network._core.average_step(min(DECAY, (step + 1) / (step + 10)))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            with averaged(*model.networks.values()):
                weights = {name: net.state_dict() for name, net in model.networks.items()}
                write(out, model, step + 1, (step + 1) * BATCH, weights)
            told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            print(f"{step + 1:6d} steps, {time.monotonic() - begun:6.0f} s: {told}", flush=True)


def write(
    out: Path, model: dad.DiffusionAD, steps: int, images: int, weights: Mapping[str, Tensors]
) -> None:
    """A model file of weights by network, in half precision."""
    model.provenance = {
        "data": "procedural surfaces (benchmarks/pretrain.py)",
        "train_steps": steps,
        "train_images": images,
    }
    halves = {
        name: {
            key: value.astype(np.float16) if value.dtype == np.float32 else value
            for key, value in tensors.items()
        }
        for name, tensors in weights.items()
    }
    checkpoints.save_model(out, dataclasses.replace(model._checkpoint(), **halves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the model file")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    pretrain(args.out, args.steps)


if __name__ == "__main__":
    main()
