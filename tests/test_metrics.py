"""Metrics against golden values, scikit-learn, and the float64 twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from diffusionad import _core, metrics
from diffusionad.reference import metrics as twin

GOLDEN = np.load(Path(__file__).parent / "golden" / "metrics.npz")
KINDS = sorted({key.split("/")[0] for key in GOLDEN.files})
Array = np.ndarray[Any, np.dtype[Any]]


def golden_maps(kind: str) -> tuple[Array, Array]:
    return GOLDEN[f"{kind}/masks"], GOLDEN[f"{kind}/scores"]


def random_maps(
    seed: int, shape: tuple[int, int, int], decimals: int | None = None
) -> tuple[Array, Array]:
    """Masks with both classes and many small regions, and maps that know something of them."""
    rng = np.random.default_rng(seed)
    masks = rng.random(shape) < 0.2
    masks.flat[:2] = [True, False]
    maps = rng.standard_normal(shape) + masks
    return masks, (maps if decimals is None else maps.round(decimals)).astype(np.float32)


def sklearn_f1_max(labels: Array, scores: Array) -> float:
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


@pytest.mark.parametrize("kind", KINDS)
def test_golden_pixel_metrics(kind: str) -> None:
    masks, maps = golden_maps(kind)
    found = metrics.pixel_metrics(masks, maps)
    for ours, theirs in (("pixel_auroc",) * 2, ("pixel_ap",) * 2, ("pixel_f1_max",) * 2):
        assert found[ours] == pytest.approx(float(GOLDEN[f"{kind}/{theirs}"]), abs=1e-12)
    for limit in (0.05, 0.3, 1.0):
        want = float(GOLDEN[f"{kind}/aupro_{limit}"])  # of a float32 false-positive rate
        assert metrics.aupro(masks, maps, limit) == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_image_metrics(kind: str) -> None:
    masks, maps = golden_maps(kind)
    scores = metrics.image_scores(maps)
    np.testing.assert_allclose(scores, GOLDEN[f"{kind}/image_score_top50"], rtol=0, atol=1e-6)
    if f"{kind}/image_auroc_top50" in GOLDEN:
        found = metrics.image_metrics(masks.any(axis=(1, 2)), scores)
        assert found["image_auroc"] == pytest.approx(float(GOLDEN[f"{kind}/image_auroc_top50"]))
        assert found["image_ap"] == pytest.approx(float(GOLDEN[f"{kind}/image_ap_top50"]))


@pytest.mark.parametrize("kind", [k for k in KINDS if f"{k}/reference_pro" in GOLDEN])
def test_golden_reference_pro(kind: str) -> None:
    want = float(GOLDEN[f"{kind}/reference_pro"])
    assert metrics.reference_pro(*golden_maps(kind)) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("count", "decimals"),
    [(2, None), (3, 0), (100, 1), (5000, 2), (16385, None), (70000, 1), (70000, None)],
)
def test_agrees_with_sklearn(count: int, decimals: int | None, dtype: type) -> None:
    rng = np.random.default_rng(count)
    labels = rng.random(count) < 0.3
    labels[:2] = [True, False]
    scores = rng.standard_normal(count) + labels
    scores = (scores if decimals is None else scores.round(decimals)).astype(dtype)
    auroc = sklearn_metrics.roc_auc_score(labels, scores)
    assert metrics.auroc(labels, scores) == pytest.approx(auroc, abs=1e-9)
    ap = sklearn_metrics.average_precision_score(labels, scores)
    assert metrics.average_precision(labels, scores) == pytest.approx(ap, abs=1e-9)
    f1 = metrics.f1_max(labels, scores)
    assert f1 == pytest.approx(sklearn_f1_max(labels, scores), abs=1e-9)
    positive = scores >= metrics.f1_max_threshold(labels, scores)
    assert sklearn_metrics.f1_score(labels, positive) == pytest.approx(f1, abs=1e-12)


def test_large_saturated_maps_agree_with_sklearn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(1_500_000) < 0.05
    logits = 30 * (rng.standard_normal(labels.size) + labels)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert np.mean(scores == 1) > 0.2
    auroc = sklearn_metrics.roc_auc_score(labels, scores)
    assert metrics.auroc(labels, scores) == pytest.approx(auroc, abs=1e-9)
    ap = sklearn_metrics.average_precision_score(labels, scores)
    assert metrics.average_precision(labels, scores) == pytest.approx(ap, abs=1e-9)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_twins_of_label_metrics(decimals: int | None) -> None:
    masks, maps = random_maps(5, (1, 13, 17), decimals)
    labels, scores = masks.ravel(), maps.ravel().astype(np.float64)
    assert metrics.auroc(labels, scores) == pytest.approx(twin.auroc(labels, scores), abs=1e-12)
    ap = twin.average_precision(labels, scores)
    assert metrics.average_precision(labels, scores) == pytest.approx(ap, abs=1e-12)
    f1, threshold = twin.f1_max(labels, scores)
    assert metrics.f1_max(labels, scores) == pytest.approx(f1, abs=1e-12)
    assert metrics.f1_max_threshold(labels, scores) == threshold


def test_keys_keep_the_order_of_extreme_scores() -> None:
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        positive = [info.smallest_subnormal, info.tiny, 1, 1 + info.eps, info.max]
        scores = np.array([*(-x for x in positive[:1:-1]), -info.tiny, 0, *positive], dtype=dtype)
        labels = np.arange(10) == 0
        for cut in range(1, 10):
            assert metrics.auroc(np.arange(10) >= cut, scores) == 1.0
        _, _, thresholds = metrics.roc_curve(labels, scores[::-1].copy())
        np.testing.assert_array_equal(thresholds[1:], scores[::-1])


def test_negative_zero_ties_with_zero() -> None:
    for dtype in (np.float32, np.float64):
        assert metrics.auroc([0, 1], np.array([-0.0, 0.0], dtype=dtype)) == 0.5
        assert metrics.auroc([1, 0], np.array([-0.0, 0.0], dtype=dtype)) == 0.5


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("limit", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 1, 7), (2, 9, 1), (3, 11, 8)])
def test_aupro_twin(shape: tuple[int, int, int], limit: float, decimals: int | None) -> None:
    masks, maps = random_maps(3, shape, decimals)
    want = twin.aupro(masks, maps.astype(np.float64), limit)
    assert metrics.aupro(masks, maps, limit) == pytest.approx(want, abs=1e-12)
    assert metrics.aupro(masks, maps.astype(np.float64), limit) == pytest.approx(want, abs=1e-12)


def test_aupro_of_one_pixel_maps() -> None:
    masks = np.array([0, 1, 0, 1], dtype=bool).reshape(4, 1, 1)
    maps = np.array([0.1, 0.9, 0.2, 0.8]).reshape(4, 1, 1)
    assert metrics.aupro(masks, maps) == 1.0
    assert metrics.aupro(masks, -maps) == 0.0
    assert metrics.aupro(masks, np.zeros((4, 1, 1)), 1.0) == 0.5


def test_perfect_maps_reach_one() -> None:
    masks, _ = random_maps(0, (4, 40, 40))
    for limit in (1e-6, 0.3, 1.0):
        assert metrics.aupro(masks, masks.astype(np.float32), limit) == pytest.approx(1, abs=1e-12)
    assert metrics.pixel_metrics(masks, masks.astype(np.float32))["pixel_ap"] == 1.0


SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (7, 5), (16, 33), (40, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.2, 0.4, 0.6, 1.0])
def test_label_components_twin(shape: tuple[int, int], density: float) -> None:
    masks = np.random.default_rng(2).random((3, *shape)) < density
    labels, counts = metrics.label_components(masks)
    assert labels.dtype == counts.dtype == np.int32
    for n, mask in enumerate(masks):
        want, count = twin.label_components(mask)
        assert counts[n] == count
        np.testing.assert_array_equal(labels[n], want)
        np.testing.assert_array_equal(metrics.label_components(mask)[0], want)


def test_label_components_joins_spirals_and_combs() -> None:
    comb = np.zeros((9, 31), dtype=bool)
    comb[:, ::2] = True
    assert metrics.label_components(comb)[1][0] == 16
    comb[-1] = True  # joins all teeth from below
    assert metrics.label_components(comb)[1][0] == 1
    most = np.zeros((7, 9), dtype=bool)
    most[::2, ::2] = True
    assert metrics.label_components(most)[1][0] == 20
    diagonal = np.eye(12, dtype=bool)[:, ::-1]
    assert metrics.label_components(diagonal)[1][0] == 1


@pytest.mark.parametrize("seed", range(4))
def test_filled_pro_twin(seed: int) -> None:
    masks, maps = random_maps(seed, (2, 12, 15))
    masks[0, 2:9, 2:9] = True
    masks[0, 3:8, 3:8] = False
    masks[0, 5, 5] = True  # a region within the hole of another
    masks[1, 4, :] = True  # a hole that opens at a corner only
    masks[1, 4:7, 8] = masks[1, 4:7, 4] = True
    thresholds = np.linspace(2.0, -2.0, 9)
    fpr, pro = _core.filled_pro(masks, maps, thresholds)
    want_fpr, want_pro = twin.filled_pro(masks, maps.astype(np.float64), thresholds)
    np.testing.assert_allclose(fpr, want_fpr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pro, want_pro, rtol=0, atol=1e-12)


@pytest.mark.parametrize("thresholds", [[np.nan], [np.nan, 0.5], [0.5, np.nan], [0.2, 0.5]])
def test_filled_pro_wants_falling_thresholds(thresholds: list[float]) -> None:
    masks, maps = random_maps(0, (1, 8, 8))
    with pytest.raises(ValueError, match=r"^thresholds: expected falling values"):
        _core.filled_pro(masks, maps, np.array(thresholds))


def test_reference_pro_passes_one_on_rings() -> None:
    masks = np.zeros((1, 32, 32), dtype=bool)
    masks[0, 8:20, 8:20] = True
    masks[0, 10:18, 10:18] = False
    maps = np.linspace(0, 1, 32 * 32).reshape(1, 32, 32) / 2
    maps[0, 8:20, 8:20] += 0.5
    assert metrics.reference_pro(masks, maps) > 1
    assert metrics.aupro(masks, maps) < 1


def test_reference_pro_refuses_what_it_cannot_stretch() -> None:
    masks, maps = random_maps(0, (1, 8, 8))
    with pytest.raises(ValueError, match="maps: the reference's PRO is not defined"):
        metrics.reference_pro(masks, np.zeros_like(maps))


def test_roc_curve_agrees_with_sklearn() -> None:
    masks, maps = random_maps(7, (1, 30, 30), 1)
    want = sklearn_metrics.roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    for ours, theirs in zip(metrics.roc_curve(masks.ravel(), maps.ravel()), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_pr_curve_agrees_with_sklearn() -> None:
    masks, maps = random_maps(8, (1, 30, 30), 1)
    precision, recall, thresholds = metrics.pr_curve(masks.ravel(), maps.ravel())
    want = sklearn_metrics.precision_recall_curve(masks.ravel(), maps.ravel())
    np.testing.assert_allclose(precision, want[0][::-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall, want[1][::-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(thresholds[1:], want[2][::-1], rtol=0, atol=0)


def test_pro_curve_twin() -> None:
    masks, maps = random_maps(9, (2, 14, 11), 1)
    fpr, pro, thresholds = metrics.pro_curve(masks, maps)
    want_fpr, want_pro = twin.pro_curve(masks, maps)
    np.testing.assert_allclose(fpr, want_fpr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pro, want_pro, rtol=0, atol=1e-12)
    assert thresholds[0] == np.inf
    assert np.all(np.diff(thresholds) < 0)


@pytest.mark.parametrize("top_k", [1, 2, 7, 50, 63, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_image_scores_twin(top_k: int, dtype: type) -> None:
    for decimals in (None, 0):
        _, maps = random_maps(4, (5, 8, 8), decimals)
        found = metrics.image_scores(maps.astype(dtype), top_k)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, twin.image_scores(maps, top_k), rtol=1e-14)


def test_image_scores_do_not_depend_on_where_the_values_lie() -> None:
    _, maps = random_maps(4, (1, 40, 40))
    shuffled = np.random.default_rng(0).permuted(maps.ravel()).reshape(maps.shape)
    assert metrics.image_scores(maps)[0] == metrics.image_scores(shuffled)[0]


NEAREST = [(1, 1, 1), (1, 3, 7), (5, 2, 8), (129, 65, 31), (40, 30, 513), (3, 300, 1030)]


@pytest.mark.parametrize(("rows", "queries", "size"), NEAREST)
def test_nearest_distance_twin(rows: int, queries: int, size: int) -> None:
    rng = np.random.default_rng(size)
    train = rng.random((rows, size), dtype=np.float32) + np.float32(3)
    test = rng.random((queries, size), dtype=np.float32) + np.float32(3)
    test[0] = train[-1]
    found = _core.nearest_distance(train, test)
    assert found[0] == 0.0
    np.testing.assert_allclose(found, twin.nearest_distance(train, test), rtol=1e-13, atol=0)


def test_nearest_distance_tells_close_neighbours_apart() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(3000, dtype=np.float32)
    train = np.tile(base, (64, 1))
    train[np.arange(64), np.arange(64)] += np.linspace(2e-4, 1e-4, 64, dtype=np.float32)
    found = _core.nearest_distance(train, base[None])
    np.testing.assert_allclose(found, twin.nearest_distance(train, base[None]), rtol=1e-13)


def test_nearest_distance_survives_overflow_of_float32_products() -> None:
    train = np.array([[3e30, 0], [0, -3e30], [2e30, 2e30]], dtype=np.float32)
    test = np.array([[3e30, 1e30], [-3e30, -3e30]], dtype=np.float32)
    found = _core.nearest_distance(train, test)
    np.testing.assert_allclose(found, twin.nearest_distance(train, test), rtol=1e-13)


def everything() -> list[Any]:
    """Results of every function on arrays that take several blocks of the sort."""
    masks, maps = random_maps(11, (5, 128, 160))
    rng = np.random.default_rng(3)
    train, test = rng.random((150, 700), np.float32), rng.random((70, 700), np.float32)
    double = maps.astype(np.float64) + 1e-12 * rng.random(maps.shape)
    return [
        metrics.pixel_metrics(masks, maps),
        metrics.pixel_metrics(masks, double),
        metrics.image_metrics(masks, maps),
        *(array.tobytes() for array in metrics.pro_curve(masks, double)),
        *(array.tobytes() for array in metrics.reference_pro_curve(masks, maps)),
        metrics.image_scores(maps).tobytes(),
        _core.nearest_distance(train, test).tobytes(),
    ]


def test_same_bits_at_any_thread_count_and_simd_level() -> None:
    _core.set_num_threads(1)
    want = everything()
    for threads in (2, 3, 4):
        _core.set_num_threads(threads)
        assert everything() == want
    for level in _core.simd_levels():
        _core.set_simd_level(level)
        assert everything() == want


def test_inputs_may_be_strided_swapped_and_of_other_types() -> None:
    masks, maps = random_maps(12, (4, 10, 12), 1)
    want = metrics.pixel_metrics(masks, maps)
    inputs = masks.copy(), maps.copy()
    assert metrics.pixel_metrics(masks.astype(np.uint8) * 7, maps) == want
    assert metrics.pixel_metrics(masks.astype(np.int64) * -3, maps.astype(">f4")) == want
    doubles = metrics.pixel_metrics(masks.tolist(), maps.tolist())
    assert doubles == pytest.approx(want, abs=1e-14)  # by another way: float64 is sorted
    wide = np.repeat(maps, 2, axis=2)[:, :, ::2]
    assert not wide.flags.c_contiguous
    assert metrics.pixel_metrics(masks.transpose(0, 2, 1), wide.transpose(0, 2, 1)) == want
    halves = metrics.auroc(masks, maps.astype(np.float16))
    assert halves == metrics.auroc(masks, maps.astype(np.float16).astype(np.float64))
    grey = (maps * 10).astype(np.int16)
    assert metrics.auroc(masks.astype(int), grey) == metrics.auroc(masks, grey.astype(np.float32))
    one = metrics.pixel_metrics(masks[0], maps[0])
    assert one == metrics.pixel_metrics(masks[:1], maps[:1])
    np.testing.assert_array_equal(masks, inputs[0])
    np.testing.assert_array_equal(maps, inputs[1])


PAIR = np.array([0, 1]), np.array([0.5, 0.7])
LABEL_FUNCTIONS: list[Callable[..., Any]] = [
    metrics.auroc,
    metrics.average_precision,
    metrics.f1_max,
    metrics.f1_max_threshold,
    metrics.image_metrics,
    metrics.roc_curve,
    metrics.pr_curve,
]
MAP_FUNCTIONS: list[Callable[..., Any]] = [
    metrics.aupro,
    metrics.pixel_metrics,
    metrics.pro_curve,
    metrics.reference_pro,
]


@pytest.mark.parametrize("function", LABEL_FUNCTIONS)
def test_label_functions_refuse(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"labels: both classes are needed.*good"):
        function([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"labels: both classes are needed.*defective"):
        function([True, True], [0.1, 0.2])
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            with pytest.raises(ValueError, match=rf"scores: expected finite .* {bad} at element 1"):
                function([0, 1], np.array([0.1, bad], dtype=dtype))
    with pytest.raises(ValueError, match=r"scores: expected shape \(2,\), got \(3,\)"):
        function([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"labels: expected a non-empty array, got shape \(0,\)"):
        function([], [])
    with pytest.raises(ValueError, match="labels: expected 0 and 1, got -1"):
        function([-1, 1], [0.1, 0.2])
    with pytest.raises(TypeError, match="labels: expected numbers"):
        function(["good", "bad"], [0.1, 0.2])
    with pytest.raises(TypeError, match="scores: expected numbers"):
        function([0, 1], [0.1j, 0.2])


@pytest.mark.parametrize("function", MAP_FUNCTIONS)
def test_map_functions_refuse(function: Callable[..., Any]) -> None:
    masks, maps = random_maps(0, (2, 5, 6))
    with pytest.raises(ValueError, match=r"masks: both classes are needed.*good"):
        function(np.zeros_like(masks), maps)
    with pytest.raises(ValueError, match=r"masks: both classes are needed.*defective"):
        function(np.ones_like(masks), maps)
    with pytest.raises(ValueError, match=r"maps: expected shape \(2, 5, 6\), got \(2, 6, 5\)"):
        function(masks, maps.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="masks: expected 3 dimensions, got 1"):
        function(masks.ravel(), maps.ravel())
    with pytest.raises(ValueError, match="masks: expected a non-empty array"):
        function(masks[:0], maps[:0])
    bad = maps.copy()
    bad[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="maps: expected finite values, got nan at element 30"):
        function(masks, bad)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, np.nan])
def test_limits_out_of_range_are_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"fpr_limit: expected 0 < fpr_limit <= 1"):
        metrics.aupro(*random_maps(0, (2, 5, 6)), fpr_limit=limit)


def test_other_functions_refuse() -> None:
    maps = np.zeros((2, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="top_k: expected at least 1, got 0"):
        metrics.image_scores(maps, 0)
    with pytest.raises(ValueError, match="maps: expected 3 dimensions, got 2"):
        metrics.image_scores(maps[0])
    with pytest.raises(ValueError, match="maps: expected finite"):
        metrics.image_scores(maps + np.float32(np.nan))
    with pytest.raises(ValueError, match="masks: expected 2 or 3 dimensions, got 4"):
        metrics.label_components(np.zeros((1, 1, 1, 1)))
    with pytest.raises(ValueError, match="thresholds: expected falling values"):
        _core.filled_pro(random_maps(0, (2, 4, 4))[0], maps, np.array([0.0, 1.0]))
    rows = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"test: expected shape \('any', 3\), got \(2, 2\)"):
        _core.nearest_distance(rows, rows[:, :2])
    with pytest.raises(ValueError, match="train: expected finite"):
        _core.nearest_distance(rows + np.float32(np.inf), rows)
    with pytest.raises(TypeError, match="train: expected dtype float32, got float64"):
        _core.nearest_distance(rows.astype(np.float64), rows)
    with pytest.raises(TypeError, match="labels: expected dtype uint8, got int64"):
        _core.label_metrics(*PAIR)
