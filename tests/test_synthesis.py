"""csrc/pipeline/augment.c, synthesize.c and diffusionad.synthesis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from diffusionad import _core
from diffusionad.reference import synthesis as twin
from diffusionad.synthesis import (
    SynthesisOptions,
    synthesize,
    synthesize_batch,
    synthesize_stages,
)

ALWAYS = {"anomaly_probability": 1.0}
AUGMENTATIONS = [
    ("gamma", (0.5, 1.0, 2.0)),
    ("brightness", (1.2, -30.0, 0.0)),
    ("brightness", (0.8, 25.5, 1.0)),
    ("sharpness", (0.0,)),
    ("sharpness", (1.0,)),
    ("sharpness", (2.7,)),
    ("hue_saturation", (50.0, -50.0)),
    ("hue_saturation", (-50.0, 33.0)),
    ("solarize", (64.0,)),
    ("solarize", (256.0,)),
    ("posterize", (1.0,)),
    ("posterize", (3.0,)),
    ("posterize", (8.0,)),
    ("invert", ()),
    ("autocontrast", (0.0,)),
    ("autocontrast", (13.0,)),
    ("equalize", ()),
    ("rotation", (0.0,)),
    ("rotation", (-37.5,)),
    ("rotation", (90.0,)),
]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shading with edges and noise: what augmenters meet."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / 5 + c) + np.cos(x / (4 + c)) for c in range(3)], axis=-1)
    return np.clip(90 + 40 * waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)


# ---- augment.c ----


@pytest.mark.parametrize(("name", "parameters"), AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (31, 44), (64, 64)])
def test_augmenter_twin(name: str, parameters: tuple[float, ...], size: tuple[int, int]) -> None:
    image = photo(*size)
    before = image.copy()
    got = _core.augment(image, name, parameters)
    np.testing.assert_array_equal(image, before)
    difference = np.abs(got.astype(int) - twin.augment(image, name, parameters))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.1 or difference.size < 100
    np.testing.assert_array_equal(
        _core.augment(image[:, ::-1], name, parameters),
        _core.augment(image[:, ::-1].copy(), name, parameters),
    )


@pytest.mark.parametrize("seed", range(3))
def test_augmenters_agree_with_pillow(seed: int) -> None:
    image = photo(40, 56, seed)
    pillow = Image.fromarray(image)
    pairs = [
        (("equalize", ()), ImageOps.equalize(pillow)),
        (("invert", ()), ImageOps.invert(pillow)),
        (("solarize", (77.0,)), ImageOps.solarize(pillow, 77)),
        (("autocontrast", (0.0,)), ImageOps.autocontrast(pillow)),
        (("autocontrast", (7.0,)), ImageOps.autocontrast(pillow, cutoff=7)),
    ]
    for (name, parameters), theirs in pairs:
        np.testing.assert_array_equal(_core.augment(image, name, parameters), theirs, name)
    for factor in (0.0, 0.4, 2.5):
        got = _core.augment(image, "sharpness", (factor,)).astype(int)
        assert np.abs(got - np.asarray(ImageEnhance.Sharpness(pillow).enhance(factor))).max() <= 1


def test_augmenters_keep_a_plain_image_plain() -> None:
    for level in (0, 128, 255):
        image = np.full((9, 9, 3), level, np.uint8)
        for name, parameters in AUGMENTATIONS:
            if name != "rotation":
                got = _core.augment(image, name, parameters)
                assert (got == got[0, 0]).all(), name


def test_augmenter_refused() -> None:
    image = photo(4, 4)
    with pytest.raises(ValueError, match=r'^name: no augmenter "blur"'):
        _core.augment(image, "blur", ())
    with pytest.raises(ValueError, match=r"^parameters: gamma takes 3, got 1"):
        _core.augment(image, "gamma", (1.0,))
    for name, wrong in (
        ("posterize", 9.0),
        ("posterize", 0.0),
        ("sharpness", float("nan")),
        ("rotation", 1e9),
    ):
        with pytest.raises(ValueError, match=r"^parameters: .* does not suit"):
            _core.augment(image, name, (wrong,))
    with pytest.raises(ValueError, match=r"^image: expected shape"):
        _core.augment(image[..., :1], "invert", ())
    with pytest.raises(TypeError, match=r"^image: expected dtype uint8"):
        _core.augment(image.astype(np.float32), "invert", ())


# ---- synthesize.c ----


def batch(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width, 3), dtype=np.float32)


def seeds(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint64)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 90), (37, 61), (64, 64)])
@pytest.mark.parametrize("random_part", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_invariants(size: tuple[int, int], random_part: bool, given: bool) -> None:
    images = batch(12, *size)
    appearances = batch(12, *size)[::-1] if given else None
    foregrounds = (batch(12, *size)[..., 0] > 0.3).astype(np.float32) * np.float32(0.5)
    samples, masks, labels = _core.synthesize(
        images, foregrounds, appearances, seeds(12), random_part=random_part
    )
    assert samples.shape == (12, 3, *size)
    assert masks.shape == (12, 1, *size)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, masks.any(axis=(1, 2, 3)))
    assert np.isin(masks[:, 0], (0, 0.5)).all()
    assert not masks[:, 0][foregrounds == 0].any()
    assert samples.min() >= 0
    assert samples.max() <= 1
    untouched = np.broadcast_to(masks == 0, samples.shape)
    np.testing.assert_array_equal(samples[untouched], images.transpose(0, 3, 1, 2)[untouched])


def test_the_image_shows_through_by_beta() -> None:
    """Over a plain appearance, sample against image is a line of slope 1 − M + beta M."""
    images = batch(40, 48, 48)
    appearances = np.full_like(images, 0.3)
    foregrounds = np.full((40, 48, 48), 0.75, np.float32)
    samples, masks, labels = _core.synthesize(
        images, foregrounds, appearances, seeds(40), **ALWAYS, self_probability=0.0, beta=(0.4, 0.4)
    )
    plain = 0
    for sample, image, mask in zip(
        samples[labels == 1], images[labels == 1], masks[labels == 1], strict=True
    ):
        inside = mask[0] > 0
        x, y = image[inside].T, sample[:, inside]
        appearance = (y - x * (1 - 0.75) - 0.4 * x * 0.75) / (0.6 * 0.75)
        if np.ptp(appearance, axis=1).max() < 1e-5:  # not rotated: no black corners
            plain += 1
            want = twin.blend(x, np.float64(0.75), appearance, 0.4)
            np.testing.assert_allclose(y, want, atol=1e-6)
            np.testing.assert_allclose(appearance * 255, np.rint(appearance * 255), atol=1e-2)
    assert plain >= 15


def test_anomalies_are_large_and_small() -> None:
    _, masks, labels = _core.synthesize(
        batch(60, 64, 64), None, batch(60, 64, 64), seeds(60), **ALWAYS
    )
    assert labels.mean() > 0.95  # 50 attempts
    share = masks[labels == 1].mean(axis=(1, 2, 3))
    assert share.min() < 0.03
    assert share.max() > 0.08
    assert share.max() < 0.6


def test_probabilities() -> None:
    images = batch(400, 16, 16)
    for probability in (0.0, 0.25, 1.0):
        _, _, labels = _core.synthesize(
            images, None, images, seeds(400), anomaly_probability=probability, threshold=0.2
        )
        assert abs(labels.mean() - probability) <= 0.1


def test_an_empty_foreground_gives_a_normal_image() -> None:
    images = batch(3, 32, 32)
    samples, masks, labels = _core.synthesize(
        images, np.zeros((3, 32, 32), np.float32), None, seeds(3), **ALWAYS
    )
    assert not labels.any()
    assert not masks.any()
    np.testing.assert_array_equal(samples, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 69), (40, 16)])
def test_self_augmentation_puts_even_columns_first(height: int, width: int) -> None:
    """Columns of two colours by the parity of their strip: afterwards each half has one."""
    strip = width // 8
    even = (np.arange(width) // strip) % 2 == 0
    images = np.where(even[:, None], np.float32(0.25), np.float32(0.75))
    images = np.broadcast_to(images, (60, height, width, 3))
    samples, masks, _ = _core.synthesize(
        images,
        None,
        None,
        seeds(60),
        **ALWAYS,
        self_probability=1.0,
        beta=(0.0, 0.0),
        threshold=0.2,
    )
    parted = 0
    for sample, mask in zip(samples, masks[:, 0], strict=True):
        left, right = mask > 0, mask > 0
        left, right = left.copy(), right.copy()
        left[:, 4 * strip :] = False
        right[:, : 4 * strip] = right[:, 8 * strip :] = False
        if left.any() and right.any():
            a, b = sample[:, left], sample[:, right]
            uniform = max(np.ptp(a, axis=1).max(), np.ptp(b, axis=1).max()) < 1e-6
            parted += bool(uniform and (a[:, 0] != b[:, 0]).any())
    assert parted >= 12  # rotation and sharpening blur the rest


def test_a_sample_depends_on_its_own_inputs_alone(restored_threads: None) -> None:
    images, appearances = batch(7, 40, 33), batch(7, 40, 33)[::-1]
    foregrounds = np.ones((7, 40, 33), np.float32)
    _core.set_num_threads(1)
    want = _core.synthesize(images, foregrounds, appearances, seeds(7), **ALWAYS)
    for threads in (2, 3, 4):
        _core.set_num_threads(threads)
        got = _core.synthesize(images, foregrounds, appearances, seeds(7), **ALWAYS)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for i in range(7):
        alone = _core.synthesize(
            images[i : i + 1], foregrounds[i : i + 1], appearances[i : i + 1], seeds(1, i), **ALWAYS
        )
        for ours, theirs in zip(alone, want, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[i])


def test_refused() -> None:
    images = batch(2, 8, 8)
    wrong = [
        ((images * 2, None, None, seeds(2)), {}, r"^images: expected values in \[0, 1\]"),
        ((images * np.float32(np.nan), None, None, seeds(2)), {}, r"^images: expected values"),
        ((images[..., :1], None, None, seeds(2)), {}, r"^images: expected shape"),
        ((images[:0], None, None, seeds(0)), {}, r"^images: expected a non-empty"),
        ((images, images[..., 0][:1], None, seeds(2)), {}, r"^foregrounds: expected shape"),
        ((images, -images[..., 0], None, seeds(2)), {}, r"^foregrounds: expected values"),
        ((images, None, images[:, :4], seeds(2)), {}, r"^appearances: expected shape"),
        ((images, None, None, seeds(3)), {}, r"^seeds: expected shape"),
        ((images, None, None, seeds(2)), {"anomaly_probability": 1.5}, r"^anomaly_probability: "),
        ((images, None, None, seeds(2)), {"self_probability": -0.1}, r"^self_probability: "),
        ((images, None, None, seeds(2)), {"beta": (0.8, 0.2)}, r"^beta: "),
        ((images, None, None, seeds(2)), {"exponents": (0, 11)}, r"^exponents: "),
        ((images, None, None, seeds(2)), {"exponents": (3, 2)}, r"^exponents: "),
        ((images, None, None, seeds(2)), {"threshold": 1.0}, r"^threshold: "),
    ]
    for arguments, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            _core.synthesize(*arguments, **options)
    with pytest.raises(TypeError, match=r"^seeds: expected dtype uint64"):
        _core.synthesize(images, None, None, np.arange(2))
    with pytest.raises(TypeError, match=r"^images: expected dtype float32"):
        _core.synthesize(images.astype(np.float64), None, None, seeds(2))


# ---- diffusionad.synthesis ----


def test_one_image_either_way() -> None:
    pixels = photo(48, 40)
    planes = np.divide(pixels, np.float32(255), dtype=np.float32).transpose(2, 0, 1)
    appearance = photo(48, 40, 1)
    mask = pixels[..., 0] > 60
    for seed in range(6):
        sample, where, label = synthesize(pixels, mask, appearance, seed=seed)
        again = synthesize(planes, mask.astype(np.float32), appearance, seed=seed)
        assert sample.shape == (3, 48, 40)
        assert where.shape == (48, 40)
        assert isinstance(label, int)
        np.testing.assert_array_equal(sample, again[0])
        np.testing.assert_array_equal(where, again[1])
        assert label == again[2] == where.any()
        assert not where[~mask].any()


def test_a_generator_moves_on() -> None:
    image = photo(32, 32)
    options = SynthesisOptions(anomaly_probability=1.0)
    rng = np.random.default_rng(0)
    first, second = (synthesize(image, seed=rng, options=options)[0] for _ in range(2))
    again = synthesize(image, seed=np.random.default_rng(0), options=options)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_a_sample_is_what_its_stages_make_it(kind: str) -> None:
    images = np.stack([photo(40, 56, i) for i in range(12)])
    foregrounds = np.zeros((12, 40, 56), np.float32)
    foregrounds[:, 5:35, 8:50] = 0.8
    options = replace(SynthesisOptions.for_kind(kind), beta=(0.3, 0.3))
    stages = synthesize_stages(images, foregrounds, None, range(12), options)
    plain = synthesize_batch(images, foregrounds, None, range(12), options)
    for ours, theirs in zip(plain, (stages.samples, stages.masks, stages.labels), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 0 < stages.labels.sum() < 12
    np.testing.assert_array_equal(
        stages.masks, np.where(stages.noises > options.threshold, stages.parts, 0)
    )
    for index, label in enumerate(stages.labels):
        if not label:
            assert not stages.noises[index].any()
            assert not stages.appearances[index].any()
            continue
        part = stages.parts[index, 0]
        assert np.isin(part[foregrounds[index] > 0], (0, np.float32(0.8))).all()
        assert not part[foregrounds[index] == 0].any()
        if kind == "object":
            np.testing.assert_array_equal(part, foregrounds[index])
        wanted = twin.blend(
            images[index].transpose(2, 0, 1) / 255.0,
            stages.masks[index],
            stages.appearances[index],
            0.3,
        )
        np.testing.assert_allclose(stages.samples[index], wanted, atol=2e-6)


@pytest.mark.parametrize("given", [[1, 2**63], [2**64 - 1, 0], (np.uint64(2**64 - 1), -0)])
def test_seeds_of_64_bits_stay_what_they_are(given: Sequence[int]) -> None:
    """NumPy makes floats of a list of ints that no type of its own holds."""
    images = np.stack([photo(16, 16)] * 2)
    alone = [synthesize(images[0], seed=seed)[0] for seed in given]
    np.testing.assert_array_equal(synthesize_batch(images, None, None, given)[0], alone)


def test_batch_of_textures() -> None:
    images = np.stack([photo(32, 32, i) for i in range(5)])
    samples, masks, labels = synthesize_batch(
        images, None, None, range(5), SynthesisOptions.for_textures()
    )
    assert samples.shape == (5, 3, 32, 32)
    assert masks.shape == (5, 1, 32, 32)
    np.testing.assert_array_equal(labels, masks.any(axis=(1, 2, 3)))


def test_python_refuses() -> None:
    with pytest.raises(ValueError, match=r"^kind: expected object or texture, got 'cloth'"):
        SynthesisOptions.for_kind("cloth")
    image = photo(8, 8)
    with pytest.raises(TypeError, match=r"^images: expected dtype float32 or uint8, got float64"):
        synthesize(image / 255.0)
    with pytest.raises(ValueError, match=r"^images: expected shape"):
        synthesize(image.astype(np.float32))
    with pytest.raises(TypeError, match=r"^foregrounds: expected dtype float32 or bool"):
        synthesize(image, foreground=image[..., 0])
    with pytest.raises(ValueError, match=r"^appearances: expected shape"):
        synthesize(image, appearance=photo(9, 8))
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"^seed: "):
            synthesize(image, seed=seed)
    with pytest.raises(ValueError, match=r"^seeds: .* got -1"):
        synthesize_batch(image[None], None, None, [-1])
    for seed in (2**64, -(2**64)):
        with pytest.raises(ValueError, match=rf"^seeds: .* got {seed}"):
            synthesize_batch(image[None], None, None, [seed])
    for seeds in ([0.5], [1, 2.0**63], np.array([1.0]), [True], ["1"]):
        with pytest.raises(TypeError, match=r"^seeds: "):
            synthesize_batch(image[None], None, None, seeds)
