"""Maps measured by what good images show: the arithmetic, the file, the whole way round."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad import _core, checkpoints, normality
from diffusionad.errors import InputError
from diffusionad.reference import pipeline as reference


def drawn(count: int = 3, side: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    maps = rng.random((count, side, side), dtype=np.float32)
    maps[0, 0, :2] = 0, 1
    images, repairs = (rng.random((count, 3, side, side), dtype=np.float32) for _ in range(2))
    return maps, images, repairs


def photographs(seed: int, place: int) -> np.ndarray:
    """Twelve images of one part with a little noise, each moved by up to `place` pixels."""
    rng = np.random.default_rng(seed)
    part = np.kron(rng.integers(40, 216, (SIZE // 4, SIZE // 4, 3)), np.ones((4, 4, 1), int))
    moved = [np.roll(part, rng.integers(-place, place + 1, 2), (0, 1)) for _ in range(12)]
    return (np.stack(moved) + rng.integers(-9, 10, (12, SIZE, SIZE, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return photographs(0, place=0)


# ---- arithmetic ---------------------------------------------------------------------------------


def test_departures_and_maps_are_their_twins() -> None:
    maps, x, repairs = drawn()
    found = _core.departures(maps, x, repairs)
    assert_close(found, reference.departures(maps, x, repairs), 2e-6)
    mean, deviation = draw(2, 9, 9), np.abs(draw(2, 9, 9, seed=1))
    result = _core.standardise(found, mean, deviation)
    assert_close(result, reference.standardise(found, mean, deviation), 2e-6)
    assert result.min() >= 0
    assert result.max() <= 1
    assert_same_for_any_thread_count(_core.departures, maps, x, repairs)
    assert_same_for_any_thread_count(_core.standardise, found, mean, deviation)


def test_order_is_kept_far_from_the_middle() -> None:
    found = np.zeros((1, 2, 1, 40), np.float32)
    found[0, 0, 0] = np.linspace(-200, 200, 40)
    nothing = np.zeros((2, 1, 40), np.float32)
    result = _core.standardise(found, nothing, nothing)[0, 0]
    assert (np.diff(result) > 0).all()
    assert _core.standardise(found * 0 + 1, nothing, nothing)[0, 0, 0] > 0.5  # 2 + 100 deviations


def test_refused_arguments() -> None:
    maps, x, repairs = drawn()
    with pytest.raises(ValueError, match="maps: expected shape"):
        _core.departures(maps[:2], x, repairs)
    with pytest.raises(ValueError, match="repairs: expected shape"):
        _core.departures(maps, x, repairs[:, :1])
    with pytest.raises(TypeError, match="images: expected dtype float32"):
        _core.departures(maps, x.astype(float), repairs)
    found = _core.departures(maps, x, repairs)
    with pytest.raises(ValueError, match="departures: expected shape"):
        _core.standardise(found[:, :1], found[0], found[0])
    with pytest.raises(ValueError, match="deviation: expected shape"):
        _core.standardise(found, found[0], found[0, :, 1:])


def test_mean_and_deviation_of_batches() -> None:
    parts = [drawn(5), drawn(4)]
    measured, alignment = normality.measure(parts)
    found = np.concatenate([_core.departures(*part) for part in parts])
    assert_close(measured.mean, found.mean(axis=0), 1e-6)
    assert_close(measured.deviation, found.std(axis=0), 1e-5)
    assert alignment < 0.1  # drawn at random
    assert normality.measure([drawn(7)])[1] == 0.0


def test_alignment_is_what_other_images_explain() -> None:
    nothing, shown = np.zeros((16, 8, 8), np.float32), np.zeros((16, 3, 8, 8), np.float32)
    pattern = np.random.default_rng(3).random((8, 8)).astype(np.float32)
    shown[:] = pattern
    assert normality.measure([(nothing, shown, shown)])[1] == pytest.approx(1.0)
    for n in range(16):
        shown[n] = np.roll(pattern, (n // 4, n % 4), (0, 1))
    assert normality.measure([(nothing, shown, shown)])[1] < 0.4
    assert normality.measure([(nothing, 0 * shown, shown)])[1] == 0.0


# ---- models -------------------------------------------------------------------------------------


def test_fit_measures_and_the_file_keeps_it(tmp_path, images) -> None:
    model = tiny(standardised=True).fit(images, steps=2)
    assert model.normality is not None
    assert model.provenance["alignment"] >= normality.ALIGNED
    said = model.predict(images)
    raw = tiny(standardised=False).fit(images, steps=2).predict(images)
    x0 = dad.images.to_network(images, SIZE)
    expected = model.normality.maps(np.asarray(raw.maps), x0, raw.reconstructions)
    np.testing.assert_array_equal(said.maps, expected)
    assert (said.scores < model.threshold).all()
    np.testing.assert_array_equal(model.explain(images).maps, said.maps)
    model.save(tmp_path / "m.safetensors")
    read = dad.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(read.predict(images).maps, said.maps)
    assert checkpoints.read_header(tmp_path / "m.safetensors").parameters == {
        "unet": sum(v.size for v in model.unet.state_dict().values()),
        "seg": sum(v.size for v in model.seg.state_dict().values()),
    }
    again = read.fit(images, steps=1)  # the earlier one says nothing of the new weights
    assert (again.normality.mean != model.normality.mean).any()


@pytest.mark.parametrize("found", [photographs(0, place=0)[:5], photographs(0, place=SIZE)])
def test_few_images_and_moved_parts_leave_maps_as_they_are(found) -> None:
    model = tiny(standardised=True).fit(found, steps=1)
    assert model.normality is None
    assert model.threshold is not None
    assert model.provenance["alignment"] < normality.ALIGNED


def test_a_defect_is_found_where_good_images_are_all_alike() -> None:
    rng = np.random.default_rng(1)
    maps = np.full((16, 8, 8), 0.5, np.float32)
    maps[:, :, 4:] += rng.uniform(-0.4, 0.4, (16, 8, 4)).astype(np.float32)  # good parts vary here
    nothing = np.zeros((16, 3, 8, 8), np.float32)
    measured, _ = normality.measure([(maps, nothing, nothing)])
    shown = maps[:1].copy()
    shown[0, 2, 2] = 0.85  # less than much of the right half
    found = measured.maps(shown, nothing[:1], nothing[:1])
    assert np.unravel_index(found.argmax(), found.shape) == (0, 2, 2)
    assert np.unravel_index(shown.argmax(), shown.shape) != (0, 2, 2)


def test_a_file_with_another_size_of_it_is_refused(tmp_path, images) -> None:
    model = tiny(standardised=True).fit(images, steps=1)
    small = SimpleNamespace(**vars(model.normality))
    model.normality = normality.Normality(small.mean[:, 1:], small.deviation)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"m.safetensors: normality.mean: expected \[2, "):
        dad.load(tmp_path / "m.safetensors")
