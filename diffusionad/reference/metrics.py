"""Twins of the metrics: definitions as loops over thresholds and pixels, for small arrays only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Mean over all pairs of a positive and a negative: 1 when it scores higher, 1/2 on a tie."""
    difference = scores[labels][:, None] - scores[~labels][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def confusion(labels: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """True positives, false positives and thresholds of `score >= threshold`, from high to low."""
    thresholds = np.unique(scores)[::-1].astype(np.float64)
    tp = np.array([np.sum(labels & (scores >= t)) for t in thresholds], dtype=np.float64)
    fp = np.array([np.sum(~labels & (scores >= t)) for t in thresholds], dtype=np.float64)
    return tp, fp, thresholds


def average_precision(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Sum of precision times the step in recall."""
    tp, fp, _ = confusion(labels, scores)
    recall = tp / tp[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * tp / (tp + fp)))


def f1_max(labels: NDArray[np.bool_], scores: Floats) -> tuple[float, float]:
    """Largest F1, and the highest threshold that has it."""
    tp, fp, thresholds = confusion(labels, scores)
    f1 = 2 * tp / (tp + fp + tp[-1])
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def label_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """8-connected regions of one mask (H, W) by flood fill, numbered in raster order."""
    height, width = mask.shape
    labels = np.zeros(mask.shape, dtype=np.int32)
    count = 0
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        labels[start] = count
        pending = [start]
        while pending:
            y, x = pending.pop()
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if mask[v, u] and not labels[v, u]:
                        labels[v, u] = count
                        pending.append((v, u))
    return labels, count


def regions(masks: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Each region of masks (N, H, W) as a mask of that shape."""
    found = []
    for n, mask in enumerate(masks):
        labels, count = label_components(mask)
        for label in range(1, count + 1):
            region = np.zeros(masks.shape, dtype=np.bool_)
            region[n] = labels == label
            found.append(region)
    return found


def pro_curve(masks: NDArray[np.bool_], maps: Floats) -> tuple[Floats, Floats]:
    """False-positive rate and mean overlap of `map >= threshold`, from (0, 0) on."""
    parts = regions(masks)
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        positive = maps >= threshold
        fpr.append(float(positive[~masks].mean()))
        pro.append(float(np.mean([positive[part].mean() for part in parts])))
    return np.array(fpr), np.array(pro)


def aupro(masks: NDArray[np.bool_], maps: Floats, fpr_limit: float) -> float:
    """Trapezoids under the curve up to the limit, where it is interpolated; over the limit."""
    fpr, pro = pro_curve(masks, maps)
    inside = fpr <= fpr_limit
    x, y = list(fpr[inside]), list(pro[inside])
    if len(x) < len(fpr):
        k = len(x)
        part = (fpr_limit - fpr[k - 1]) / (fpr[k] - fpr[k - 1])
        x.append(fpr_limit)
        y.append(pro[k - 1] + part * (pro[k] - pro[k - 1]))
    return float(np.trapezoid(y, x)) / fpr_limit


def fill_holes(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The region (H, W) with what 8-connected steps from outside do not reach."""
    off = np.pad(~region, 1, constant_values=True)
    outside, _ = label_components(off)
    return np.asarray((outside != outside[0, 0])[1:-1, 1:-1])


def filled_pro(masks: NDArray[np.bool_], maps: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
    """False-positive rate and mean overlap of `map > threshold`.

    A filled hole counts as found, and not in the region's size.
    """
    parts = regions(masks)
    filled = [np.stack([fill_holes(image) for image in part]) for part in parts]
    fpr, pro = [], []
    for threshold in thresholds:
        positive = maps > threshold
        fpr.append(float(positive[~masks].mean()))
        found = [positive[f].sum() / p.sum() for f, p in zip(filled, parts, strict=True)]
        pro.append(float(np.mean(found)))
    return np.array(fpr), np.array(pro)


def image_scores(maps: Floats, top_k: int) -> Floats:
    """Mean of the top_k largest values of each map."""
    flat = np.sort(maps.reshape(len(maps), -1).astype(np.float64), axis=1)[:, ::-1]
    return np.asarray(flat[:, :top_k].mean(axis=1))


def nearest_distance(train: Floats, test: Floats) -> Floats:
    """Euclidean distance from each row of test (N, D) to the nearest of train (M, D)."""
    difference = test.astype(np.float64)[:, None] - train.astype(np.float64)[None]
    return np.asarray(np.sqrt(np.sum(difference**2, axis=2)).min(axis=1))


def count_scores(keys: NDArray[np.uint32], scores: NDArray[np.float32]) -> list[int]:
    """Scores above the first key, at it, between it and the second, ..., below the last."""
    own = [key_of(score) for score in scores]
    counts = [sum(k < keys[0] for k in own)] if len(keys) else [len(own)]
    for i, key in enumerate(keys):
        after = keys[i + 1] if i + 1 < len(keys) else 1 << 32
        counts += [sum(k == key for k in own), sum(key < k < after for k in own)]
    return counts


def key_of(score: np.float32) -> int:
    """32 bits that rise while the score falls; both zeros have the same."""
    bits = int((score + np.float32(0)).view(np.uint32))
    return bits if bits >> 31 else ~(bits | 1 << 31) & 0xFFFFFFFF


def weighted_metrics(
    masks: NDArray[np.bool_], maps: Floats, weights: NDArray[np.int64], fpr_limit: float
) -> list[float]:
    """AUROC, AP, F1-max and AUPRO of maps (N, H, W) where image n is there weights[n] times."""
    masks, maps = np.repeat(masks, weights, axis=0), np.repeat(maps, weights, axis=0)
    labels, scores = masks.ravel(), maps.ravel()
    return [
        auroc(labels, scores),
        average_precision(labels, scores),
        f1_max(labels, scores)[0],
        aupro(masks, maps, fpr_limit),
    ]
