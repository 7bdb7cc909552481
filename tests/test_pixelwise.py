"""Pixel metrics image by image: equal to all at once, whatever the memory, order and threads."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from test_metrics import GOLDEN, KINDS, golden_maps, random_maps

from diffusionad import _core, bootstrap, metrics, pixel_store, pixelwise
from diffusionad.errors import InputError, WriteError
from diffusionad.reference import metrics as twin

NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
LITTLE = 0.01  # MiB: nearly everything goes into the file
Array = np.ndarray[Any, np.dtype[Any]]


def collect(masks: Array, maps: Array, memory_mb: float = 64, **options: Any) -> Any:
    pixels = metrics.PixelMetrics(memory_mb, **options)
    for mask, score_map in zip(masks, maps, strict=True):
        pixels.add(mask, score_map)
    return pixels


def saturated(seed: int, shape: tuple[int, int, int], gain: float = 6) -> tuple[Array, Array]:
    """Blobs of defects in every second image, and maps of which many values are 0 and 1."""
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < 0.1
    masks[::2] = False
    logits = gain * (rng.standard_normal(shape) + 2 * masks - 1)
    maps = 1 / (1 + np.exp(-logits))
    return masks, (maps > 0.999) + np.where(maps > 0.999, 0, maps).astype(np.float32)


# ---- equal to all at once -----------------------------------------------------------------------


@pytest.mark.parametrize("memory", [64, LITTLE])
@pytest.mark.parametrize("kind", KINDS)
def test_golden_values_image_by_image(kind: str, memory: float) -> None:
    masks, maps = golden_maps(kind)
    pixels = collect(masks, maps, memory)
    for limit in (0.05, 0.3, 1.0):
        assert pixels.result(limit) == metrics.pixel_metrics(masks, maps, limit)
        want = float(GOLDEN[f"{kind}/aupro_{limit}"])  # of a float32 false-positive rate
        assert pixels.result(limit)["aupro"] == pytest.approx(want, abs=2e-6)
    assert pixels.result()["pixel_ap"] == pytest.approx(float(GOLDEN[f"{kind}/pixel_ap"]), abs=1e-9)


def test_thousands_of_maps_with_little_memory_are_equal_bit_for_bit() -> None:
    masks, maps = saturated(0, (3000, 20, 24))
    pixels = collect(masks, maps, memory_mb=0.5)
    assert pixels._store.spilled
    held = sum(chunk.bytes_held for chunk in pixels._store.chunks)
    assert held <= 0.5 * 2**20 / 4
    assert len(pixels) == 3000
    assert pixels.result() == metrics.pixel_metrics(masks, maps)


@pytest.mark.parametrize("limit", [0.02, 0.3, 1.0])
def test_defects_with_more_scores_than_fit_are_read_in_ranges(limit: float) -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((6, 200, 300)) < 0.5
    maps = (rng.standard_normal(masks.shape) + masks).astype(np.float32)
    pixels = collect(masks, maps, LITTLE)
    ranges = pixels._key_ranges(pixels._chunks())
    assert len(ranges) >= 3
    assert [low for low, _ in ranges[1:]] == [high + 1 for _, high in ranges[:-1]]
    assert pixels.result(limit) == metrics.pixel_metrics(masks, maps, limit)
    whole = collect(masks, maps)
    for name, values in pixels.curves().items():
        np.testing.assert_array_equal(values, whole.curves()[name])


def test_curves_take_little_more_memory_than_the_steps() -> None:
    rng = np.random.default_rng(24)
    masks = rng.random((1, 600, 500)) < 0.9
    maps = rng.standard_normal(masks.shape, np.float32)
    pixels = collect(masks, maps)
    pixels.result()
    tracemalloc.start()
    pixels.result()
    steps = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    pixels.curves()
    assert tracemalloc.get_traced_memory()[1] < steps + 8e6
    tracemalloc.stop()


def test_order_size_and_calls_do_not_matter() -> None:
    masks, maps = saturated(2, (12, 14, 9))
    want = metrics.pixel_metrics(masks, maps)
    turned = metrics.PixelMetrics()
    for n in np.random.default_rng(0).permutation(12):
        if n % 3:
            turned.add(masks[n].T, maps[n].T)  # another size, the same regions
        else:
            turned.add(masks[n : n + 1].astype(np.int64) * 7, maps[n : n + 1].tolist())
    assert turned.result() == want
    at_once = metrics.PixelMetrics()
    at_once.add(masks, maps)
    assert at_once.result() == want


def test_results_can_be_asked_for_between_images() -> None:
    masks, maps = saturated(3, (20, 16, 16))
    for memory in (64, LITTLE):
        pixels = metrics.PixelMetrics(memory)
        for n in range(20):
            pixels.add(masks[n], maps[n])
            if n % 5 == 4:
                assert pixels.result() == metrics.pixel_metrics(masks[: n + 1], maps[: n + 1])


def test_agrees_with_sklearn_and_the_twin() -> None:
    for decimals in (None, 1, 0):
        masks, maps = random_maps(4, (3, 11, 8), decimals)
        found = collect(masks, maps, LITTLE).result()
        labels, scores = masks.ravel(), maps.ravel()
        auroc = sklearn_metrics.roc_auc_score(labels, scores)
        assert found["pixel_auroc"] == pytest.approx(auroc, abs=1e-9)
        ap = sklearn_metrics.average_precision_score(labels, scores)
        assert found["pixel_ap"] == pytest.approx(ap, abs=1e-9)
        assert found["pixel_f1_max"] == pytest.approx(twin.f1_max(labels, scores)[0], abs=1e-12)
        want = twin.aupro(masks, maps.astype(np.float64), 0.3)
        assert found["aupro"] == pytest.approx(want, abs=1e-12)


def test_each_kind_of_defect_against_the_good_images() -> None:
    masks, maps = saturated(5, (30, 12, 12))
    kinds = [("dent", "stain", "speck")[n % 3] if n % 2 else None for n in range(30)]
    masks[[n for n, kind in enumerate(kinds) if kind == "speck"]] = False
    pixels = metrics.PixelMetrics(LITTLE)
    for mask, score_map, kind in zip(masks, maps, kinds, strict=True):
        pixels.add(mask, score_map, kind)
    rows = pixels.per_defect()
    assert list(rows) == ["dent", "speck", "stain"]
    for kind in ("dent", "stain"):
        chosen = [n for n in range(30) if kinds[n] in (None, kind)]
        assert rows[kind] == metrics.pixel_metrics(masks[chosen], maps[chosen])
    assert rows["speck"] == dict.fromkeys(NAMES)
    assert not pixels.defined("speck")
    assert pixels.result() == metrics.pixel_metrics(masks, maps)


def test_defective_images_without_a_name_count_for_no_kind() -> None:
    masks, maps = saturated(21, (9, 12, 12))
    masks[1::4] = False
    masks[1, 2:5, 2:5] = masks[5, 6:9, 1:5] = True
    unnamed = masks.any(axis=(1, 2))
    assert 0 < unnamed.sum() < 9
    for memory in (64, LITTLE):
        pixels = metrics.PixelMetrics(memory)
        pixels.add(masks, maps)  # good and defective ones in one call
        pixels.add(masks[3:4], maps[3:4] / 2, "dent")
        dent = (
            np.concatenate([masks[~unnamed], masks[3:4]]),
            np.concatenate([maps[~unnamed], maps[3:4] / 2]),
        )
        assert pixels.result(defect="dent") == metrics.pixel_metrics(*dent)
        assert pixels.per_defect() == {"dent": pixels.result(defect="dent")}
        whole = np.concatenate([masks, masks[3:4]]), np.concatenate([maps, maps[3:4] / 2])
        assert pixels.result() == metrics.pixel_metrics(*whole)
        assert pixels.intervals(20) == collect(*whole).intervals(20)
        assert not pixels.defined("dnet")
        with pytest.raises(
            InputError, match=r"defect: expected a kind that .*\(dent\), got 'dnet'"
        ):
            pixels.result(defect="dnet")


def everything(masks: Array, maps: Array) -> list[Any]:
    pixels = collect(masks, maps, LITTLE)
    curves = [array.tobytes() for array in pixels.curves().values()]
    return [pixels.result(), pixels.intervals(50), *curves]


def test_same_bits_at_any_thread_count() -> None:
    masks, maps = saturated(6, (8, 160, 200), gain=1)
    assert np.unique(maps[masks]).size > 1000
    _core.set_num_threads(1)
    want = everything(masks, maps)
    for threads in (2, 3, 5):
        _core.set_num_threads(threads)
        assert everything(masks, maps) == want


MASKS, MAPS = np.zeros((4, 300, 400), np.bool_), np.zeros((4, 300, 400), np.float32)
MANY = 1 << 19
ONES = np.full(MANY, 1, np.uint64)
GOOD, STARTS = np.zeros(MANY, np.float32), np.array([0, 0, MANY], np.int64)
NO_ITEMS, NO_STARTS = np.zeros(0, np.uint64), np.zeros(3, np.int64)
WORDS, WEIGHT = np.zeros((4, 300, 400), np.uint16), np.ones((1, 4))
KEYS = np.arange(1, MANY, dtype=np.uint32)
IMAGES, VALUES = np.zeros(MANY, np.int32), np.ones(MANY)
REST = np.ones(KEYS.size, np.int64), np.zeros((KEYS.size, 2), np.uint64)
NO_DEFECTS, COLUMNS = (NO_ITEMS, NO_STARTS), (VALUES,) * 3
ENDS, ODDS = np.array([0, MANY], np.int64), (np.full((4, 12 * 13 * 13 * 6), 1e-4),) * 2


@pytest.mark.parametrize(
    ("array", "other", "function"),
    [
        (MASKS, True, lambda array: _core.split_pixels(array, MAPS)),
        (MASKS, True, lambda array: _core.pixel_metrics(array, MAPS)),
        (MASKS, True, lambda array: _core.pixel_curve(array, MAPS)),
        (MAPS, np.nan, lambda array: _core.pixel_metrics(MASKS, array)),
        (ONES, 0, lambda array: _core.defect_steps(array)),
        (KEYS, 1 << 31, lambda array: _core.merge_steps((KEYS, *REST), (array, *REST))),
        (KEYS, 1 << 31, lambda array: _core.count_scores(array, GOOD)),
        (STARTS, 1 << 40, lambda array: _core.count_images(KEYS, KEYS, GOOD, array, *NO_DEFECTS)),
        (IMAGES, 1 << 30, lambda array: _core.weighted_metrics(ENDS, array, *COLUMNS, WEIGHT)),
        (WORDS, 65535, lambda array: _core.word_counts(array)),
        (WORDS, 65535, lambda array: _core.word_evidence(array, *ODDS)),
    ],
)
def test_memory_that_another_thread_changes(array: Array, other: Any, function: Any) -> None:
    """Whatever comes out, nothing is read or written beyond its arrays."""
    torn, done = array.copy(), threading.Event()

    def tear() -> None:
        while not done.is_set():
            torn[...] = other
            time.sleep(1e-3)
            torn[...] = array
            time.sleep(1e-3)

    thread = threading.Thread(target=tear)
    thread.start()
    try:
        for _ in range(60):
            with contextlib.suppress(ValueError):  # where the checks see it
                function(torn)
    finally:
        done.set()
        thread.join()


def test_counting_in_buckets_finds_the_same() -> None:
    """Above 2^16 steps scores are put into buckets first, which must not move any."""
    rng = np.random.default_rng(7)
    masks = rng.random((2, 500, 400)) < 0.4
    maps = rng.standard_normal(masks.shape).astype(np.float32)
    maps[:, ::50] = np.float32(rng.choice([-1e30, -1e-30, 0.0, -0.0, 1e-30, 1e30]))
    steps = _core.defect_steps(_core.split_pixels(masks, maps)[1])
    assert steps[0].size > 1 << 16
    good = maps[~masks]
    counts = _core.count_scores(steps[0], good)
    keys = np.sort(np.array([twin.key_of(s) for s in good[:300]], np.uint64))
    sample = _core.count_scores(steps[0], good[:300])
    assert counts.sum() == good.size
    before = np.searchsorted(keys, steps[0].astype(np.uint64))
    np.testing.assert_array_equal(np.cumsum(sample)[:-1:2], before)
    tied = np.isin(steps[0], keys[np.isin(keys, steps[0])])
    assert np.all(sample[1::2][~tied] == 0)
    found = metrics.pixel_metrics(masks, maps)
    auroc = sklearn_metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert found["pixel_auroc"] == pytest.approx(auroc, abs=1e-9)


@pytest.mark.parametrize("name", ["low", "high"])
@pytest.mark.parametrize("key", [-1, 2**32])
def test_keys_have_32_bits(name: str, key: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected an int from 0 .* got {key}$"):
        _core.defect_steps(NO_ITEMS, **{name: key})


@pytest.mark.parametrize("name", ["ulonglong", "uint64"])
def test_both_of_numpys_numbers_for_a_type_are_taken(name: str) -> None:
    """Where long has 64 bits, long long is another type of the same name."""
    items = np.array([5 << 32 | 1, 7 << 32 | 2], name)
    keys, _, shares = _core.defect_steps(items)
    assert keys.tolist() == [5, 7]
    steps = keys, np.ones(2, np.longlong), shares.astype(np.ulonglong)
    assert _core.merge_steps(steps, steps)[1].tolist() == [2, 2]


PEAK = """
import resource
import numpy as np
from diffusionad import _core

rng = np.random.default_rng(0)
masks = rng.random((1, 1500, 2000)) < 0.4
maps = rng.standard_normal(masks.shape, np.float32)
results, peaks = [], []
for threads in (1, 16):
    _core.set_num_threads(threads)
    results.append(_core.pixel_metrics(masks, maps))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB on Linux
assert results[0] == results[1]
print((peaks[1] - peaks[0]) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss differs")
def test_more_threads_take_no_more_memory() -> None:
    """Each counts among a million steps: 16 threads would take 150 MB."""
    command = [sys.executable, "-c", PEAK]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(run.stdout) < 50


def test_count_scores_twin() -> None:
    rng = np.random.default_rng(8)
    edges = [-np.finfo(np.float32).max, -1.0, -0.0, 0.0, 1e-45, 1.0, np.finfo(np.float32).max]
    for decimals in (0, 1, 3):
        maps = rng.standard_normal((1, 1, 60)).round(decimals).astype(np.float32)
        maps[0, 0, : len(edges)] = edges
        steps = _core.defect_steps(_core.split_pixels(maps < 3e38, maps)[1])
        scores = np.concatenate([maps[0, 0], rng.standard_normal(90).round(1)]).astype(np.float32)
        assert _core.count_scores(steps[0], scores).tolist() == twin.count_scores(steps[0], scores)
    none = np.empty(0, np.uint32)
    assert _core.count_scores(none, scores).tolist() == [150] == twin.count_scores(none, scores)


def test_steps_of_parts_are_the_steps_of_the_whole() -> None:
    masks, maps = random_maps(9, (4, 30, 30), 1)
    items = _core.split_pixels(masks, maps)[1]
    whole = _core.defect_steps(items)
    a, b = (_core.defect_steps(part) for part in np.split(items, [50]))
    for got, want in zip(_core.merge_steps(a, b), whole, strict=True):
        np.testing.assert_array_equal(got, want)
    middle = int(whole[0][whole[0].size // 2])
    high, low = _core.defect_steps(items, 0, middle), _core.defect_steps(items, middle + 1)
    for first, second, want in zip(high, low, whole, strict=True):
        np.testing.assert_array_equal(np.concatenate([first, second]), want)
    regions = sum(count for _, count in map(twin.label_components, masks))
    assert whole[2][:, 1].sum() + whole[2][:, 0].sum(dtype=np.float64) * 2.0**-64 == pytest.approx(
        regions, abs=1e-12
    )


# ---- curves -------------------------------------------------------------------------------------


def test_curves_are_exact_points_of_the_whole_curves() -> None:
    masks, maps = saturated(10, (6, 40, 40), gain=1)
    curves = collect(masks, maps, LITTLE).curves(100)
    assert 60 < len(curves["fpr"]) < 320
    assert curves["thresholds"][0] == np.inf
    assert curves["thresholds"][-1] == -np.inf
    parts = twin.regions(masks)
    for fpr, tpr, precision, overlap, threshold in zip(*curves.values(), strict=True):
        positive = maps >= threshold
        assert fpr == pytest.approx(positive[~masks].mean(), abs=1e-12)
        assert tpr == pytest.approx(positive[masks].mean(), abs=1e-12)
        if positive.any():
            assert precision == pytest.approx(masks[positive].mean(), abs=1e-12)
        assert overlap == pytest.approx(np.mean([positive[p].mean() for p in parts]), abs=1e-12)
    assert curves["precision"][0] == 1.0


def test_areas_under_the_curves_are_the_metrics() -> None:
    masks, maps = saturated(11, (6, 30, 30))
    pixels = collect(masks, maps)
    curves = pixels.curves(10**6)
    assert np.trapezoid(curves["tpr"], curves["fpr"]) == pytest.approx(
        pixels.result()["pixel_auroc"], abs=1e-12
    )
    assert np.trapezoid(curves["overlap"], curves["fpr"]) == pytest.approx(
        pixels.result(1.0)["aupro"], abs=1e-12
    )
    few = pixels.curves(2)
    assert len(few["fpr"]) < 10
    with pytest.raises(InputError, match="points: expected 2 or more, got 1"):
        pixels.curves(1)


# ---- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.1, 0.3, 1.0])
def test_weighted_metrics_are_those_of_repeated_images(limit: float) -> None:
    masks, maps = random_maps(12, (6, 7, 8), 1)
    masks[:2] = False
    pixels = collect(masks, maps)
    weights = np.random.default_rng(0).integers(0, 4, (11, 6))
    weights[0] = 1
    weights[1] = [3, 0, 0, 0, 0, 0]  # nothing is defective
    weights[2] = 0
    step, *entries = pixels._image_steps(pixels._chunks())
    starts = np.searchsorted(step, np.arange(step[-1] + 2)).astype(np.int64)
    found = _core.weighted_metrics(starts, *entries, weights.astype(np.float64), limit)
    assert np.all(np.isnan(found[1:3]))
    for row, counts in zip(found[3:], weights[3:], strict=True):
        want = twin.weighted_metrics(masks, maps.astype(np.float64), counts, limit)
        np.testing.assert_allclose(row, want, rtol=0, atol=1e-12)
    exact = list(pixels.result(limit).values())
    np.testing.assert_allclose(found[0], exact, rtol=0, atol=1e-12)


def test_coarse_steps_change_intervals_little(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, maps = saturated(13, (24, 48, 48), gain=1)
    pixels = collect(masks, maps)
    assert pixels._coarse_steps(pixels._chunks())[0].size > 900
    coarse = pixels.intervals(200, seed=3)
    monkeypatch.setattr(pixelwise, "_COARSE_STEPS", 10**6)
    assert pixels._coarse_steps(pixels._chunks())[0].size > 2000
    fine = pixels.intervals(200, seed=3)
    for name in NAMES:
        near = 1e-3 if name == "pixel_f1_max" else 1e-4  # the best of all steps, or of coarse ones
        np.testing.assert_allclose(coarse[name], fine[name], rtol=0, atol=near)
        low, high = fine[name]
        assert low < pixels.result()[name] < high


def test_intervals_do_not_depend_on_memory_or_groups() -> None:
    masks, maps = saturated(14, (40, 24, 24))
    want = collect(masks, maps).intervals(100, level=0.8, seed=5)
    assert collect(masks, maps, LITTLE).intervals(100, level=0.8, seed=5) == want
    assert collect(masks, maps).intervals(100, level=0.8, seed=6) != want
    wide = collect(masks, maps).intervals(100, level=0.99, seed=5)
    assert all(wide[name][0] <= want[name][0] < want[name][1] <= wide[name][1] for name in NAMES)


def test_intervals_take_at_most_100_kilobytes_per_image() -> None:
    rng = np.random.default_rng(25)
    masks = np.zeros((40, 128, 128), np.bool_)
    masks[::2, :32, :32] = True
    pixels = collect(masks, rng.random(masks.shape, np.float32), 1)
    tracemalloc.start()
    pixels.result()
    without = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    pixels.intervals(200)
    assert tracemalloc.get_traced_memory()[1] - without < 100e3 * len(masks)
    tracemalloc.stop()


@pytest.mark.parametrize("decimals", [None, 1])
def test_image_intervals_are_percentiles_of_resampled_images(decimals: int | None) -> None:
    rng = np.random.default_rng(15)
    labels = np.arange(50) % 3 == 0
    scores = rng.standard_normal(50) + labels
    scores = scores if decimals is None else scores.round(decimals)
    found = metrics.image_intervals(labels, scores, resamples=60, level=0.9, seed=2)
    weights = bootstrap.draw_weights(labels, 60, 2)[1:].astype(int)
    draws = [(np.repeat(labels, w), np.repeat(scores, w)) for w in weights]
    for name, function in (
        ("image_auroc", sklearn_metrics.roc_auc_score),
        ("image_ap", sklearn_metrics.average_precision_score),
        ("image_f1_max", metrics.f1_max),
    ):
        want = np.quantile([function(*draw) for draw in draws], [0.05, 0.95])
        np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-12)


def test_resamples_keep_the_number_of_good_and_defective_images() -> None:
    labels = np.array([True] * 3 + [False] * 8 + [True] * 2)
    weights = bootstrap.draw_weights(labels, 500, np.random.default_rng(0))
    assert np.all(weights[0] == 1)
    assert np.all(weights[:, labels].sum(axis=1) == 5)
    assert np.all(weights[:, ~labels].sum(axis=1) == 8)
    assert weights[1:].mean(axis=0) == pytest.approx(np.ones(13), abs=0.2)
    assert np.all(bootstrap.draw_weights(np.ones(2, bool), 3, 0).sum(axis=1) == 2)


# ---- what is refused ----------------------------------------------------------------------------


class Holder:
    """Something of another package that NumPy can make an array of."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array


def test_maps_may_be_what_numpy_makes_arrays_of() -> None:
    masks, maps = saturated(23, (4, 6, 5))
    want = collect(masks, maps).result()
    for given in (
        [*maps],
        [[*score_map] for score_map in maps],
        maps.tolist(),
        Holder(maps),
        (tuple(map(tuple, maps[0].tolist())), *maps[1:].tolist()),
    ):
        pixels = metrics.PixelMetrics()
        pixels.add(masks, given)
        assert pixels.result() == want


def test_bad_images_are_refused_and_change_nothing() -> None:
    masks, maps = saturated(16, (4, 6, 5))
    pixels = collect(masks, maps)
    want = pixels.result()
    bad = maps[0].copy()
    bad[3, 2] = np.nan
    for mask, score_map, error, words in (
        (masks[0], bad, ValueError, "maps: expected finite values, got nan at element 17"),
        (masks[0], maps[0].T, InputError, r"map: expected the mask's shape.*got \(5, 6\)"),
        (masks[0], maps[0].astype(np.float64), InputError, "map: expected float32, got float64"),
        (masks[0], [*maps[0].astype(np.float64)], InputError, "map: expected float32, got float64"),
        (masks[0], [[np.float64(v) for v in row] for row in maps[0]], InputError, "got float64"),
        (masks[0], memoryview(maps[0].astype(np.float64)), InputError, "got float64"),
        (masks[0], Holder(maps[0].astype(np.float64)), InputError, "got float64"),
        (masks[0], maps[0].ravel(), InputError, "map: expected the mask's shape"),
        (masks[0][0], maps[0][0], InputError, "map: expected the mask's shape"),
        (masks[:0], maps[:0], ValueError, "mask: expected a non-empty array"),
        (masks[0], np.full((6, 5), "a"), TypeError, "map: expected numbers"),
        (masks[0] * 1j, maps[0], TypeError, "mask: expected numbers"),
    ):
        with pytest.raises(error, match=words):
            pixels.add(mask, score_map)
    assert len(pixels) == 4
    assert pixels.result() == want


@pytest.mark.parametrize("memory", [float("inf"), 1e300, 10**400, np.int32(4096)])
def test_memory_may_be_without_limit(memory: Any) -> None:
    masks, maps = saturated(17, (2, 5, 5))
    found = collect(masks, maps, memory).result()
    assert found == collect(masks, maps).result()


def test_curves_where_numpy_raises_on_rounding() -> None:
    pixels = collect([[[0, 1, 1]]], np.array([[[0.5, 0.0, 3.4028235e38]]], np.float32))
    want = pixels.curves()["thresholds"].tolist()
    with np.errstate(all="raise"):
        assert pixels.curves()["thresholds"].tolist() == want


def test_missing_classes_and_bad_arguments_are_refused() -> None:
    empty = metrics.PixelMetrics()
    asked = (empty.result, empty.curves, empty.intervals)
    for ask in asked:
        with pytest.raises(
            ValueError, match="both classes are needed, but no image has been added"
        ):
            ask()
    assert not empty.defined()
    assert empty.per_defect() == {}
    for value, word in ((0, "good"), (1, "defective")):
        pixels = metrics.PixelMetrics()
        pixels.add(np.full((2, 3), value), np.zeros((2, 3), np.float32))
        with pytest.raises(ValueError, match=f"masks: both classes are needed.*{word}"):
            pixels.result()
    pixels = collect(*saturated(17, (2, 5, 5)))
    for limit in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="fpr_limit: expected 0 < fpr_limit <= 1"):
            pixels.result(limit)
    with pytest.raises(InputError, match="resamples: expected 1 or more, got 0"):
        pixels.intervals(0)
    with pytest.raises(InputError, match="level: expected a number between 0 and 1, got 95"):
        metrics.image_intervals([0, 1], [0.1, 0.2], level=95)
    with pytest.raises(ValueError, match="labels: both classes are needed"):
        metrics.image_intervals([1, 1], [0.1, 0.2])
    with pytest.raises(InputError, match="memory_mb: expected a positive number, got 0"):
        metrics.PixelMetrics(0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    masks, maps = saturated(18, (8, 40, 40))
    with pytest.raises(WriteError, match="none: cannot keep the pixels of more images here: no su"):
        collect(masks, maps, LITTLE, folder=tmp_path / "none")
    with collect(masks, maps, LITTLE, folder=tmp_path) as pixels:
        assert pixels.result() == metrics.pixel_metrics(masks, maps)
        assert list(tmp_path.iterdir()) == []  # the file has no name
    assert len(pixels) == 0


@pytest.mark.parametrize("image", [0, 3])  # the first of all, one beside those that are held
def test_an_image_that_cannot_be_kept_has_not_been_added(tmp_path: Path, image: int) -> None:
    masks, maps = saturated(20, (8, 20, 20))
    folder = tmp_path / "later"
    pixels = metrics.PixelMetrics(LITTLE if image else 1e-4, folder=folder)
    for mask, score_map in zip(masks[:image], maps[:image], strict=True):
        pixels.add(mask[:4], score_map[:4])
    for _ in range(2):
        with pytest.raises(WriteError, match="later: cannot keep"):
            pixels.add(masks, maps)
        assert len(pixels) == image
    folder.mkdir()
    pixels.add(masks, maps)
    assert len(pixels) == image + 8
    again = collect(masks, maps)
    for mask, score_map in zip(masks[:image], maps[:image], strict=True):
        again.add(mask[:4], score_map[:4])
    assert pixels.result() == again.result()


def test_a_disk_that_is_full_for_a_while_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, maps = saturated(22, (8, 20, 20))
    pixels = metrics.PixelMetrics(0.1)
    for mask, score_map in zip(masks[:6], maps[:6], strict=True):
        pixels.add(mask, score_map)
    full, opened = [True], tempfile.TemporaryFile

    def file(**options: Any) -> Any:
        real = opened(**options)
        written: list[int] = []

        def write(data: Any) -> int:
            written.append(1)
            if full and len(written) == 2:
                raise OSError(28, "No space left on device")
            return int(real.write(data))

        return types.SimpleNamespace(
            write=write, seek=real.seek, flush=real.flush, readinto=real.readinto, close=real.close
        )

    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    with pytest.raises(WriteError, match=r"(?i)no space left"):
        pixels._store.spill()
    full.clear()
    for mask, score_map in zip(masks[6:], maps[6:], strict=True):
        pixels.add(mask, score_map)
    pixels._store.spill()
    assert pixels.result() == metrics.pixel_metrics(masks, maps)


def test_adding_takes_as_long_for_the_last_image_as_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(
        pixel_store.Chunk, "bytes_held", property(lambda chunk: looked.append(1) or 8)
    )
    pixels = metrics.PixelMetrics()
    mask, score_map = np.eye(4, dtype=np.bool_), np.zeros((4, 4), np.float32)
    for _ in range(50):
        pixels.add(mask, score_map)
    assert len(looked) <= 150


def test_the_core_refuses_what_would_lead_it_astray() -> None:
    masks, maps = random_maps(19, (2, 5, 5))
    good, items, _, _ = _core.split_pixels(masks, maps)
    keys, positives, shares = steps = _core.defect_steps(items)
    with pytest.raises(ValueError, match="defects: a region has no pixels"):
        _core.defect_steps(items >> np.uint64(32) << np.uint64(32))
    with pytest.raises(ValueError, match="expected rising intervals"):
        _core.count_scores(keys[::-1].copy(), good)
    with pytest.raises(TypeError, match="maps: expected dtype float32, got float64"):
        _core.split_pixels(masks, maps.astype(np.float64))
    with pytest.raises(ValueError, match="positives: expected shape"):
        _core.merge_steps(steps, (keys, positives[1:], shares))
    with pytest.raises(ValueError, match="shares: expected shape"):
        _core.merge_steps((keys, positives, shares[:, :1].copy()), steps)
    counts = _core.count_scores(keys, good)
    with pytest.raises(ValueError, match="counts: expected shape"):
        _core.tally_steps([(steps, counts[1:])], (1, 1, 1), 0.3)
    with pytest.raises(ValueError, match="totals: expected pixels of both classes"):
        _core.tally_steps([(steps, counts)], (0, 1, 1), 0.3)
    with pytest.raises(ValueError, match="parts: expected tuples"):
        _core.tally_steps([None], (1, 1, 1), 0.3)  # type: ignore[list-item]
    ends = np.array([0, good.size], np.int64)
    for starts in (ends + 1, ends[::-1].copy(), ends[:0]):
        with pytest.raises(ValueError, match="good_starts: expected places"):
            _core.count_images(keys, keys, good, starts, items, np.array([0, items.size]))
    row, weights = np.ones(1), np.ones((2, 3))
    one = np.array([0, 1], np.int64)
    for image in (-1, 3):
        with pytest.raises(ValueError, match="images: an entry is of an image that has no weight"):
            _core.weighted_metrics(one, np.array([image], np.int32), row, row, row, weights)
    with pytest.raises(ValueError, match="starts: expected places"):
        _core.weighted_metrics(one * 2, np.zeros(1, np.int32), row, row, row, weights)
