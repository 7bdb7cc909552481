"""Samples of known seeds: figures of what is drawn for them, and what draws range over.

The figures pin the random draws: where they change, every seed stands for other anomalies and every
training run gives another model. They are of the first version that had this test, written by
``python tests/test_golden_synthesis.py``, to be run again only for draws that change on purpose.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import GOLDEN
from test_synthesis import ALWAYS, photo

from diffusionad.synthesis import SynthesisOptions, synthesize_stages

FILE = GOLDEN / "synthesis.npz"
COUNT, SIDE = 48, 64
OBJECT = SynthesisOptions(**ALWAYS)
OPTIONS = {
    "object": OBJECT,
    "texture": replace(SynthesisOptions.for_textures(), **ALWAYS),
    "small foreground": OBJECT,
}


def figures(name: str) -> np.ndarray:
    """Of each sample: label; means of mask and appearance, whose deviation; mean of the sample."""
    images = np.stack([photo(SIDE, SIDE, seed) for seed in range(COUNT)])
    foregrounds = None
    if name == "small foreground":  # which many masks miss, and then are drawn again
        foregrounds = np.zeros((COUNT, SIDE, SIDE), np.float32)
        foregrounds[:, 30:34, 30:34] = 1
    made = synthesize_stages(images, foregrounds, None, range(COUNT), OPTIONS[name])
    masks, appearances, samples = (
        part.reshape(COUNT, -1) for part in (made.masks, made.appearances, made.samples)
    )
    return np.stack(
        [
            made.labels, masks.mean(axis=1), appearances.mean(axis=1), appearances.std(axis=1),
            samples.mean(axis=1),
        ],
        axis=1,
    ).astype(np.float32)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_samples_of_known_seeds(name: str) -> None:
    np.testing.assert_allclose(figures(name), np.load(FILE)[name], atol=2e-3)


def test_the_images_share_ranges_over_all_of_beta() -> None:
    images = np.random.default_rng(0).random((COUNT, 3, SIDE, SIDE), dtype=np.float32)
    options = replace(OBJECT, beta=(0.2, 0.8), self_probability=0.0)
    made = synthesize_stages(images, None, None, range(COUNT), options)
    shares = []
    for image, sample, appearance, mask in zip(
        images, made.samples, made.appearances, made.masks, strict=True
    ):
        x, y, a = (part[:, mask[0] == 1].astype(np.float64) for part in (image, sample, appearance))
        shares.append(float(((y - a) * (x - a)).sum() / ((x - a) ** 2).sum()))
    assert 0.2 <= min(shares) < 0.3
    assert 0.7 < max(shares) <= 0.8
    assert 0.4 < np.mean(shares) < 0.6


def test_noise_is_turned() -> None:
    """At the corners of its cells noise is 0, unless it was turned."""
    images = np.zeros((COUNT, 3, SIDE, SIDE), np.float32)
    options = replace(OBJECT, exponents=(2, 2))
    noises = synthesize_stages(images, None, None, range(COUNT), options).noises
    assert np.abs(noises[:, 0, 16::16, 16::16]).max() > 0.1


if __name__ == "__main__":
    np.savez_compressed(FILE, **{name: figures(name) for name in OPTIONS})
