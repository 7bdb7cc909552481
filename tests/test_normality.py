"""Maps measured by what good images show: the arithmetic, the file, the whole way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw
from test_model import SIZE, tiny

import diffusionad as dad
from diffusionad import _core, checkpoints, config, normality, studies
from diffusionad.errors import InputError
from diffusionad.reference import pipeline as reference


def drawn(count: int = 3, side: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    maps = rng.random((count, side, side), dtype=np.float32)
    maps[0, 0, :2] = 0, 1
    images, repairs = (rng.random((count, 3, side, side), dtype=np.float32) for _ in range(2))
    return maps, images, repairs


def pooled(maps: np.ndarray, images: np.ndarray, repairs: np.ndarray) -> np.ndarray:
    return normality.departures(maps, images, repairs, pooled=True)


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


def test_departures_are_their_twin() -> None:
    maps, x, repairs = drawn()
    found = _core.departures(maps, x, repairs)
    assert_close(found, reference.departures(maps, x, repairs), 2e-6)
    assert_same_for_any_thread_count(_core.departures, maps, x, repairs)


@pytest.mark.parametrize("radius", [0, 1, 3, 30])
def test_related_errors_are_their_twin(radius: int) -> None:
    maps, x, repairs = drawn()
    repairs[1] = x[1]  # no error anywhere
    departures = _core.departures(maps, x, repairs)
    found = _core.relate_errors(departures, radius)
    assert_close(found, reference.relate_errors(departures, radius), 2e-6)
    np.testing.assert_array_equal(found[:, 0], departures[:, 0])
    assert not found[1, 1].any()
    # in multiples of each image's mean
    np.testing.assert_allclose(found[[0, 2], 1].mean(axis=(1, 2)), 1, atol=0.05)
    assert_same_for_any_thread_count(_core.relate_errors, departures, radius)


def test_errors_of_any_size_are_related() -> None:
    maps, x, _ = drawn(1)
    for size in (1e-38, 1e-30, 1.0):
        departures = _core.departures(maps, np.full_like(x, size), np.zeros_like(x))
        found = _core.relate_errors(departures, radius=2)
        np.testing.assert_allclose(found[:, 1], 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 1, 1)])
def test_maps_are_their_twin(shape: tuple[int, ...]) -> None:
    found = _core.relate_errors(_core.departures(*drawn()), radius=2)
    mean, deviation = draw(*shape), np.abs(draw(*shape, seed=1))
    result = _core.standardise(found, mean, deviation)
    assert_close(result, reference.standardise(found, mean, deviation), 2e-6)
    assert result.min() >= 0
    assert result.max() <= 1
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
    for radius in (-1, 2**40):
        with pytest.raises(ValueError, match="radius: expected 0 to 2147483647 pixels"):
            _core.relate_errors(found, radius)
    with pytest.raises(ValueError, match="departures: expected shape"):
        _core.relate_errors(found[:, :1], 1)
    with pytest.raises(ValueError, match="departures: expected shape"):
        _core.standardise(found[:, :1], found[0], found[0])
    with pytest.raises(ValueError, match="deviation: expected shape"):
        _core.standardise(found, found[0], found[0, :, 1:])
    with pytest.raises(ValueError, match="deviation: expected shape"):
        _core.standardise(found, found[0, :, :1, :1], found[0])
    with pytest.raises(ValueError, match="mean: expected shape"):
        _core.standardise(found, found[0, :, :1], found[0])


def test_mean_and_deviation_of_batches() -> None:
    """Of each pixel where images are alike, of all together where they are not."""
    parts = [drawn(5), drawn(4)]
    measured = normality.measure((pooled(*part) for part in parts), pooled=True)
    assert measured.pooled
    found = np.concatenate([_core.departures(*part) for part in parts])
    found = _core.relate_errors(found, normality.pooled_radius(9))
    assert_close(measured.mean, found.mean(axis=(0, 2, 3))[:, None, None], 1e-6)
    assert_close(measured.deviation, found.std(axis=(0, 2, 3))[:, None, None], 1e-5)
    alone = (normality.departures(*part, pooled=False) for part in parts)
    measured = normality.measure(alone, pooled=False)
    assert not measured.pooled
    found = np.concatenate([_core.departures(*part) for part in parts])
    assert_close(measured.mean, found.mean(axis=0), 1e-6)
    assert_close(measured.deviation, found.std(axis=0), 1e-5)


@pytest.mark.parametrize(("side", "radius"), [(9, 1), (64, 3), (128, 6), (256, 12)])
def test_errors_are_smoothed_over_a_part_of_the_image(side: int, radius: int) -> None:
    assert normality.pooled_radius(side) == radius


def test_alignment_is_what_other_images_explain() -> None:
    shown = np.zeros((16, 3, 8, 8), np.float32)
    pattern = np.random.default_rng(3).random((8, 8)).astype(np.float32)
    shown[:] = pattern
    assert normality.alignment([shown]) == normality.alignment([shown[:5], shown[5:]])
    assert normality.alignment([shown]) == pytest.approx(1.0)
    assert normality.alignment([shown[:7]]) == 0.0  # too few
    for n in range(16):
        shown[n] = np.roll(pattern, (n // 4, n % 4), (0, 1))
    assert normality.alignment([shown]) < 0.4
    assert normality.alignment([0 * shown]) == 0.0
    drawn_at_random = np.random.default_rng(0).random(shown.shape, np.float32)
    assert normality.alignment([drawn_at_random]) < 0.1


# ---- models -------------------------------------------------------------------------------------


def fitted(images: np.ndarray, path: Path) -> tuple[dad.DiffusionAD, dad.DiffusionAD]:
    """A model whose maps are relative to what these images show, and what its file gives."""
    model = tiny(standardised=True, mirrored=False).fit(images, steps=2)
    said = model.predict(images)
    raw = tiny(standardised=False).fit(images, steps=2).predict(images)
    x0 = dad.images.to_network(images, SIZE)
    good = model.normality
    found = normality.departures(np.asarray(raw.maps), x0, raw.reconstructions, good.pooled)
    expected = good.maps(found)
    np.testing.assert_array_equal(said.maps, expected)
    assert (said.scores < model.threshold).all()
    np.testing.assert_array_equal(model.explain(images).maps, said.maps)
    model.save(path)
    read = dad.load(path)
    np.testing.assert_array_equal(read.predict(images).maps, said.maps)
    return model, read


def test_fit_measures_and_the_file_keeps_it(tmp_path, images) -> None:
    model, read = fitted(images, tmp_path / "m.safetensors")
    assert not model.normality.pooled
    anew = dad.load(tmp_path / "m.safetensors")  # with the weights that the run left
    anew.measure_normality(images)
    np.testing.assert_array_equal(anew.normality.mean, model.normality.mean)
    np.testing.assert_array_equal(anew.normality.deviation, model.normality.deviation)
    assert model.provenance["alignment"] >= normality.ALIGNED
    assert checkpoints.read_header(tmp_path / "m.safetensors").parameters == {
        "unet": sum(v.size for v in model.unet.state_dict().values()),
        "seg": sum(v.size for v in model.seg.state_dict().values()),
    }
    again = read.fit(images, steps=1)  # the earlier one says nothing of the new weights
    assert (again.normality.mean != model.normality.mean).any()


@pytest.mark.parametrize("found", [photographs(0, place=0)[:5], photographs(0, place=SIZE)])
def test_maps_of_few_images_and_moved_parts_are_relative_to_all_pixels(tmp_path, found) -> None:
    model, _ = fitted(found, tmp_path / "m.safetensors")
    assert model.normality.pooled
    assert model.provenance["alignment"] < normality.ALIGNED


def test_what_a_repair_changes_counts_where_nothing_keeps_its_place() -> None:
    """A map that sees nothing, and a repair that changes one region more than the rest."""
    rng = np.random.default_rng(2)
    shown = rng.random((16, 3, 40, 40), np.float32)
    repairs = shown + rng.normal(0, 0.05, shown.shape).astype(np.float32)
    nothing = rng.uniform(0.01, 0.02, (16, 40, 40)).astype(np.float32)
    measured = normality.measure([pooled(nothing, shown, repairs)], pooled=True)
    repairs[:, :, 10:20, 20:30] += 2 * (repairs - shown)[:, :, 10:20, 20:30]
    found = measured.maps(pooled(nothing, shown, repairs))
    assert found[:, 13:17, 23:27].min() > found[:, 25:].max()
    brighter = measured.maps(pooled(nothing, 2 * shown, 2 * repairs))
    np.testing.assert_allclose(brighter, found, atol=1e-4)  # only their place counts


def test_a_defect_is_found_where_good_images_are_all_alike() -> None:
    rng = np.random.default_rng(1)
    maps = np.full((16, 8, 8), 0.5, np.float32)
    maps[:, :, 4:] += rng.uniform(-0.4, 0.4, (16, 8, 4)).astype(np.float32)  # good parts vary here
    images = draw(1, 3, 8, 8).repeat(16, axis=0)
    good = normality.departures(maps, images, images, pooled=False)
    measured = normality.measure([good], pooled=False)
    shown = maps[:1].copy()
    shown[0, 2, 2] = 0.85  # less than much of the right half
    found = measured.maps(normality.departures(shown, images[:1], images[:1], pooled=False))
    assert np.unravel_index(found.argmax(), found.shape) == (0, 2, 2)
    assert np.unravel_index(shown.argmax(), shown.shape) != (0, 2, 2)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (slice(1, None), slice(None), r"m.safetensors: normality.mean: expected \[2, "),
        (slice(1), slice(1), r"m.safetensors: normality.deviation: expected \[2, 1, 1\], got"),
    ],
)
def test_a_file_with_another_size_of_it_is_refused(
    rows, columns, message, tmp_path, images
) -> None:
    model = tiny(standardised=True).fit(images, steps=1)
    mean, deviation = model.normality.mean, model.normality.deviation
    model.normality = normality.Normality(mean[:, rows, columns], deviation)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=message):
        dad.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.5])
def test_a_file_with_deviations_that_are_none_is_refused(value, tmp_path, images) -> None:
    model = tiny(standardised=True).fit(images, steps=1)
    mean, deviation = model.normality.mean, model.normality.deviation.copy()
    deviation.flat[1] = value
    model.normality = normality.Normality(mean, deviation)
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"m\.safetensors: normality: expected finite means, and"):
        dad.load(tmp_path / "m.safetensors")


def test_normality_of_another_type_is_converted_as_weights_are(tmp_path, images) -> None:
    model = tiny(standardised=True).fit(images, steps=1)
    want = model.predict(images)
    mean, deviation = model.normality.mean, model.normality.deviation
    model.normality = normality.Normality(mean.astype(np.float64), deviation.astype(np.float64))
    model.save(tmp_path / "m.safetensors")
    got = dad.load(tmp_path / "m.safetensors").predict(images)
    np.testing.assert_array_equal(got.scores, want.scores)


# ---- mirror images ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turned() -> np.ndarray:
    return photographs(0, place=SIZE)


def test_mirrored_maps_are_the_mean_of_both_views(turned) -> None:
    model = tiny(standardised=True, mirrored=True).fit(turned, steps=2)
    assert model.normality.pooled
    plain = tiny(standardised=False).fit(turned, steps=2)

    def departures(images: np.ndarray) -> np.ndarray:
        said = plain.predict(images)
        return pooled(said.maps, dad.images.to_network(images, SIZE), said.reconstructions)

    both = (departures(turned) + departures(turned[:, :, ::-1])[..., ::-1]) / 2
    good = normality.measure([both], pooled=True)
    np.testing.assert_array_equal(good.mean, model.normality.mean)
    np.testing.assert_array_equal(good.deviation, model.normality.deviation)
    said = model.predict(turned)
    np.testing.assert_array_equal(said.maps, good.maps(both))
    np.testing.assert_array_equal(said.reconstructions, plain.predict(turned).reconstructions)
    np.testing.assert_array_equal(model.explain(turned).maps, said.maps)


def test_a_mirrored_image_has_the_mirrored_map(tmp_path, turned) -> None:
    model = tiny(standardised=True, mirrored=True).fit(turned, steps=2)
    said, other = model.predict(turned), model.predict(turned[:, :, ::-1])
    np.testing.assert_array_equal(other.maps, said.maps[..., ::-1])
    np.testing.assert_array_equal(other.scores, said.scores)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(dad.load(tmp_path / "m").predict(turned).maps, said.maps)
    once = tiny(standardised=True, mirrored=False).fit(turned, steps=2)
    assert (once.predict(turned[:, :, ::-1]).maps != once.predict(turned).maps[..., ::-1]).any()


def test_tiles_and_streams_are_mirrored_too(turned) -> None:
    model = tiny(standardised=True, mirrored=True).fit(turned, steps=2)
    said = model.predict(turned)
    streamed = list(model.predict_stream(turned, batch_size=3))
    np.testing.assert_array_equal(np.stack([one.map for one in streamed]), said.maps)
    np.testing.assert_allclose(model.predict_tiled(turned).maps, said.maps, atol=1e-6)


def test_parts_that_keep_their_place_are_not_mirrored(images) -> None:
    both, once = (tiny(standardised=True, mirrored=m).fit(images, steps=2) for m in (True, False))
    np.testing.assert_array_equal(both.predict(images).maps, once.predict(images).maps)


def test_plain_maps_are_not_mirrored(turned) -> None:
    both, once = (tiny(standardised=False, mirrored=m).fit(turned, steps=2) for m in (True, False))
    np.testing.assert_array_equal(both.predict(turned).maps, once.predict(turned).maps)


def test_other_views_drop_what_was_measured_where_they_count(images, turned, caplog) -> None:
    model = tiny(standardised=True)
    model._has_weights = True
    for good in (images, turned):
        model.measure_normality(good)
        model.calibrate(good)
        aligned = good is images
        model.set_params(mirrored=not model.config.mirrored)
        assert (model.normality is not None) == (model.threshold is not None) == aligned
        assert len(caplog.records) == (0 if aligned else 1)
    assert f"mirrored changed, dropped what no longer holds: normality, threshold; {RENEWED}" in (
        caplog.text
    )


def test_other_views_of_a_measure_out_of_force_leave_the_threshold(turned, caplog) -> None:
    model = tiny(standardised=True)
    model._has_weights = True
    model.measure_normality(turned)
    model.set_params(standardised=False)
    model.calibrate(turned)
    model.set_params(mirrored=False)
    assert model.normality is None is not model.threshold
    assert "mirrored changed, dropped what no longer holds: normality; to renew:" in caplog.text


# ---- other settings -----------------------------------------------------------------------------


@pytest.fixture
def measured(images) -> dad.DiffusionAD:
    """Loaded or trained, as far as settings go, with normality and a threshold."""
    model = tiny(standardised=True)
    model._has_weights = True
    model.measure_normality(images)
    model.calibrate(images)
    return model


OF_REPAIRS = {"seed": 1, "mode": "one_step", "t_s": 100, "t_b": 300, "w": 2.0}
RENEWED = "to renew: measure_normality(good_images), then calibrate(good_images)"


@pytest.mark.parametrize("name", OF_REPAIRS)
def test_another_repair_drops_what_was_measured_with_the_one_before(
    measured, images, caplog, name
) -> None:
    for same in (measured.get_params()[name], OF_REPAIRS[name]):
        assert not caplog.records
        assert measured.normality is not None is not measured.threshold
        if name == "seed":
            measured.seed = same
        else:
            measured.set_params(**{name: same})
    assert measured.normality is None is measured.threshold
    assert "threshold" not in measured.provenance
    [record] = caplog.records
    assert record.name == "diffusionad.inference"
    assert record.getMessage() == (
        f"{name} changed, dropped what no longer holds: normality, threshold; {RENEWED}"
    )
    found = measured.predict(images)
    plain = tiny(standardised=False, **{name: OF_REPAIRS[name]})
    for ours, theirs in ((plain.unet, measured.unet), (plain.seg, measured.seg)):
        ours.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(found.maps, plain.predict(images).maps)
    assert found.labels is None
    measured.measure_normality(images)
    measured.calibrate(images)
    assert measured.predict(images).labels is not None
    measured.set_params(top_k=9, fast=True, batch_size=1)
    assert "top_k changed, dropped what no longer holds: threshold; to renew: calibrate(" in (
        caplog.text
    )
    assert measured.normality is not None


def test_settings_that_change_nothing_drop_nothing(measured, images, caplog) -> None:
    measured.set_params(mode="one_step")
    measured.measure_normality(images)
    measured.calibrate(images)
    caplog.clear()
    measured.set_params(w=5.0, t_b=900)  # there is one noise scale
    assert not caplog.records
    assert measured.normality is not None is not measured.threshold
    plain = tiny(standardised=False)
    plain.calibrate(images)
    plain.set_params(standardised=True)  # nothing is known to measure maps by
    assert not caplog.records
    assert plain.threshold is not None


def test_standardised_switches_normality_off_and_on(tmp_path, measured, images, caplog) -> None:
    before = measured.predict(images)
    measured.set_params(standardised=False)
    assert "standardised changed, dropped what no longer holds: threshold; to" in caplog.text
    plain = measured.predict(images)
    np.testing.assert_array_equal(plain.maps, tiny(standardised=False).predict(images).maps)
    measured.save(tmp_path / "plain")
    read = dad.load(tmp_path / "plain")
    assert (read.config, read.normality) == (measured.config, None)
    np.testing.assert_array_equal(read.predict(images).maps, plain.maps)
    measured.set_params(standardised=True)
    np.testing.assert_array_equal(measured.predict(images).maps, before.maps)
    assert measured.threshold is None
    caplog.clear()
    measured.set_params(standardised=False)
    measured.set_params(seed=3)
    measured.set_params(standardised=True)
    assert measured.normality is None
    assert len(caplog.records) == 1


def test_a_measurement_that_fails_changes_nothing(tmp_path, measured, images) -> None:
    before, notes = measured.predict(images), dict(measured.provenance)
    with pytest.raises(InputError):
        measured.measure_normality(tmp_path / "nowhere")
    np.testing.assert_array_equal(measured.predict(images).maps, before.maps)
    assert measured.threshold == before.threshold is not None
    assert measured.provenance == notes


def test_the_alignment_is_that_of_the_measure_in_force(measured, images) -> None:
    assert measured.provenance["alignment"] == round(measured.measure_normality(images), 4)
    measured.provenance["alignment"] = 0.97  # of a training
    alignment = measured.measure_normality(images[:2])
    assert measured.provenance["alignment"] == alignment == 0.0
    notes = dict(measured.provenance)
    with studies.with_settings(measured, [], w=2.0):
        assert "alignment" not in measured.provenance
    assert measured.provenance == notes
    measured.set_params(w=3.0)
    assert "alignment" not in measured.provenance


def test_measuring_makes_maps_standardised(tmp_path, images) -> None:
    model = tiny(standardised=False)
    model.measure_normality(images)
    assert model.config.standardised
    model.save(tmp_path / "m")
    found = model.predict(images)
    np.testing.assert_array_equal(dad.load(tmp_path / "m").predict(images).maps, found.maps)
    model.config = config.update(model.config, {"standardised": False})  # as earlier versions said
    model._in_force = lambda: model.normality
    model.save(tmp_path / "old")
    read = dad.load(tmp_path / "old")
    assert read.config.standardised
    np.testing.assert_array_equal(read.predict(images).maps, found.maps)
