"""Synthetic anomalies: what the networks learn defects from, since training images have none.

A sample is x·(1 − M) + (1 − β)·A·M + β·x·M with a mask M of thresholded Perlin noise and an
appearance A: a texture, or the image itself cut up (paper, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusionad import _core
from diffusionad.seeds import Seed, number

__all__ = [
    "Stages",
    "SynthesisOptions",
    "perlin_noise",
    "synthesize",
    "synthesize_batch",
    "synthesize_stages",
    "texture",
]

KINDS = ("object", "texture")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SynthesisOptions:
    """How anomalies are made; the defaults are the paper's for objects.

    Attributes:
        anomaly_probability: else the image stays as it is, with label 0.
        self_probability: that the appearance is made from the image itself.
        beta: range of the image's share within the anomaly.
        exponents: range of i and j; the noise has 2^i by 2^j cells, fewer on small images.
        threshold: of the noise, 0 up to 1: lower makes larger anomalies.
        random_part: confine the anomaly to a random part of the foreground.
    """

    anomaly_probability: float = 0.5
    self_probability: float = 0.5
    beta: tuple[float, float] = (0.2, 0.8)
    exponents: tuple[int, int] = (0, 5)
    threshold: float = 0.5
    random_part: bool = False

    @classmethod
    def for_textures(cls) -> SynthesisOptions:
        """The paper's choice for surfaces without an object: textures only, a random part."""
        return cls(self_probability=0.0, random_part=True)

    @classmethod
    def for_kind(cls, kind: str) -> SynthesisOptions:
        """The paper's choice for "object" or "texture". Raises ValueError for another kind."""
        if kind not in KINDS:
            raise ValueError(f"kind: expected {' or '.join(KINDS)}, got {kind!r}")
        return cls.for_textures() if kind == "texture" else cls()


DEFAULTS = SynthesisOptions()
OF_TEXTURES = {  # what follows from this kind
    name: getattr(SynthesisOptions.for_textures(), name)
    for name in ("self_probability", "random_part")
}


def without_kind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the kind, and without what a training has settled by it."""
    settled: Mapping[str, Any] = OF_TEXTURES if settings.get("kind") == "texture" else {}
    return {
        name: value
        for name, value in settings.items()
        if name != "kind" and not (name in settled and value == settled[name])
    }


def _seeds(seeds: ArrayLike) -> NDArray[np.uint64]:
    given = np.asarray(seeds)
    if given.dtype.kind not in "iu":
        # NumPy makes floats, or objects, of ints that no type of its own holds together.
        exact = np.asarray(seeds, dtype=object)
        if not all(type(seed) is int or isinstance(seed, np.integer) for seed in exact.flat):
            raise TypeError(f"seeds: expected ints from 0 to 2**64 - 1, got {given.dtype}")
        given = exact
    for seed in (int(given.min()), int(given.max())) if given.size else ():
        if not 0 <= seed < 2**64:
            raise ValueError(f"seeds: expected ints from 0 to 2**64 - 1, got {seed}")
    return given.astype(np.uint64)


def perlin_noise(
    shape: tuple[int, int],
    res: tuple[int, int],
    angles: ArrayLike | None = None,
    seed: Seed = 0,
) -> Floats:
    """Gradient noise of a (rows, columns) grid, float32 of the given (height, width).

    Args:
        angles: of the gradients, in radians, (rows + 1, columns + 1); drawn from seed if None.

    Raises:
        ValueError: more cells than pixels, or angles of another shape.

    >>> perlin_noise((64, 64), (4, 8)).shape
    (64, 64)
    """
    (height, width), (rows, columns) = shape, res
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(
            f"res: expected 1 to {height} by 1 to {width} cells for {height} x {width} pixels, "
            f"got {rows} x {columns}"
        )
    corners = (rows + 1, columns + 1)
    if angles is None:
        angles = np.random.default_rng(seed).uniform(0.0, 2.0 * np.pi, corners)
    given = np.asarray(angles, dtype=np.float64)
    if given.shape != corners:
        raise ValueError(f"angles: expected shape {corners}, got {given.shape}")
    return _core.perlin_noise(given, height, width)


def texture(shape: tuple[int, int], seed: Seed = 0) -> Floats:
    """A procedural surface, float32 (3, height, width) in [0, 1].

    >>> texture((32, 48), seed=1).shape
    (3, 32, 48)
    """
    return np.ascontiguousarray(_core.texture(*shape, number(seed, 2**64)).transpose(2, 0, 1))


def _channels_last(images: NDArray[Any], name: str) -> Floats:
    """(N, H, W, 3) float32 from (N, 3, H, W) float32 or (N, H, W, 3) uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3:
        scaled: Floats = np.divide(images, np.float32(255), dtype=np.float32)
        return scaled
    if images.dtype == np.float32 and images.ndim == 4 and images.shape[1] == 3:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if images.dtype not in (np.uint8, np.float32):
        raise TypeError(f"{name}: expected dtype float32 or uint8, got {images.dtype}")
    raise ValueError(
        f"{name}: expected shape (N, 3, H, W) for float32 or (N, H, W, 3) for uint8, "
        f"got {images.shape} of {images.dtype}"
    )


def _masks(foregrounds: NDArray[Any], name: str) -> Floats:
    foregrounds = np.asarray(foregrounds)
    if foregrounds.dtype not in (np.bool_, np.float32):
        raise TypeError(f"{name}: expected dtype float32 or bool, got {foregrounds.dtype}")
    return foregrounds.astype(np.float32, copy=False)


def synthesize_batch(
    images: NDArray[Any],
    foregrounds: NDArray[Any] | None,
    appearances: NDArray[Any] | None,
    seeds: ArrayLike,
    options: SynthesisOptions = DEFAULTS,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Each image with an anomaly or as it is; a sample depends on its own inputs and seed alone.

    Args:
        images: float32 (N, 3, H, W) in [0, 1] or uint8 (N, H, W, 3).
        foregrounds: where anomalies may lie, float32 in [0, 1] or bool (N, H, W); None: anywhere.
        appearances: like images; None: procedural textures.
        seeds: (N,) ints from 0 to 2^64 − 1.

    Returns:
        Samples (N, 3, H, W), masks (N, 1, H, W), both float32, and labels (N,), 1 for an anomaly.
    """
    return _core.synthesize(*_inputs(images, foregrounds, appearances, seeds), **_as_dict(options))


def _inputs(
    images: NDArray[Any],
    foregrounds: NDArray[Any] | None,
    appearances: NDArray[Any] | None,
    seeds: ArrayLike,
) -> tuple[Floats, Floats | None, Floats | None, NDArray[np.uint64]]:
    return (
        _channels_last(images, "images"),
        None if foregrounds is None else _masks(foregrounds, "foregrounds"),
        None if appearances is None else _channels_last(appearances, "appearances"),
        _seeds(seeds),
    )


def _as_dict(options: SynthesisOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(options)}


@dataclass(frozen=True)
class Stages:
    """N samples and what they were made of, float32; zeros where the label is 0.

    Attributes:
        samples: (N, 3, H, W).
        masks: (N, 1, H, W): where the noise exceeds the threshold, times `parts`.
        labels: (N,), 1 for an anomaly.
        noises: (N, 1, H, W), rotated.
        parts: (N, 1, H, W): where the anomaly could lie, the foreground or a random part of it.
        appearances: (N, 3, H, W), after the augmenters.
    """

    samples: Floats
    masks: Floats
    labels: NDArray[np.int64]
    noises: Floats
    parts: Floats
    appearances: Floats


def synthesize_stages(
    images: NDArray[Any],
    foregrounds: NDArray[Any] | None,
    appearances: NDArray[Any] | None,
    seeds: ArrayLike,
    options: SynthesisOptions = DEFAULTS,
) -> Stages:
    """What synthesize_batch() makes, bit for bit, and what it makes it of.

    >>> always = SynthesisOptions(anomaly_probability=1.0)
    >>> image = np.full((1, 3, 32, 32), 0.5, np.float32)
    >>> stages = synthesize_stages(image, None, None, [0], always)
    >>> stages.labels, stages.noises.shape
    (array([1]), (1, 1, 32, 32))
    """
    inputs = _inputs(images, foregrounds, appearances, seeds)
    return Stages(*_core.synthesize(*inputs, **_as_dict(options), stages=True))


def synthesize(
    image: NDArray[Any],
    foreground: NDArray[Any] | None = None,
    appearance: NDArray[Any] | None = None,
    seed: Seed = 0,
    options: SynthesisOptions = DEFAULTS,
) -> tuple[Floats, Floats, int]:
    """One image with an anomaly, or (half of the time) as it is: sample, mask, label.

    Args:
        image: float32 (3, H, W) in [0, 1] or uint8 (H, W, 3).
        foreground: where an anomaly may lie, float32 in [0, 1] or bool (H, W); None: anywhere.
        appearance: like image; None: a procedural texture.

    Returns:
        The sample (3, H, W) and its mask (H, W), both float32, and the label, 1 for an anomaly.

    >>> image = np.full((3, 32, 32), 0.5, np.float32)
    >>> sample, mask, label = synthesize(image, seed=3)
    >>> bool((sample == image)[:, mask == 0].all())
    True
    """
    samples, masks, labels = synthesize_batch(
        np.asarray(image)[None],
        None if foreground is None else np.asarray(foreground)[None],
        None if appearance is None else np.asarray(appearance)[None],
        np.array([number(seed, 2**64)], dtype=np.uint64),
        options,
    )
    return samples[0], masks[0, 0], int(labels[0])
