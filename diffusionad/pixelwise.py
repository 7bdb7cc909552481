"""Exact pixel metrics of any number of images, of any sizes, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusionad import _core
from diffusionad import metric_inputs as inputs
from diffusionad.bootstrap import Interval, interval, resample
from diffusionad.errors import InputError
from diffusionad.files import PathLike
from diffusionad.pixel_store import Chunk, PixelStore
from diffusionad.seeds import Seed

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Keys = NDArray[np.uint32]
Steps = tuple[Keys, NDArray[np.int64], NDArray[np.uint64]]  # keys, positives, shares
Part = tuple[Steps, NDArray[np.int64]]  # with the good pixels before and at each step

_BUCKETS = 1 << 16  # of keys, by their upper bits
_BUCKET_KEYS = 1 << 16
_STEP_BYTES = 96  # with all that is held of it while it is counted
_CURVE_STEPS = 1 << 13  # made into points at once
_COARSE_STEPS = 1024  # of the bootstrap
_IMAGES = 16  # counted at once for it
_MOST_MB = 2**40  # more, or infinity, is the same
NAMES = {
    "auroc": "pixel_auroc",
    "average_precision": "pixel_ap",
    "f1_max": "pixel_f1_max",
    "aupro": "aupro",
}


class PixelMetrics:
    """Collects masks and maps image by image; results are those of all images held at once.

    Nothing is binned: a result is exact, with every distinct score a threshold and equal scores one
    threshold, and is the same bit for bit whatever the memory, the order of the images and the
    number of threads.

    Good pixels are kept as float32 and defect pixels as eight bytes: in memory up to a quarter of
    ``memory_mb``, beyond it in an unnamed temporary file in ``folder`` (the system's choice by
    default), which goes away with the object. The process takes at most about ``memory_mb`` MiB
    more than it had, whatever is added, and what one call of `add` is given; infinity is no limit.
    `intervals` takes up to 100 KB for each image as well. Where the defects have more distinct
    scores than fit (about ``memory_mb`` x 10,000), the file is read several times.

    >>> pixels = PixelMetrics()
    >>> pixels.add([[0, 1]], [[0.5, 0.25]], defect="dent")
    >>> pixels.add([[0, 0, 0]], [[0.0, 0.125, 0.25]])
    >>> pixels.result()["pixel_auroc"]
    0.625
    """

    def __init__(self, memory_mb: float = 1024, folder: PathLike | None = None) -> None:
        if not memory_mb > 0:
            raise InputError(f"memory_mb: expected a positive number, got {memory_mb}")
        self._memory = int(float(min(memory_mb, _MOST_MB)) * 2**20)
        self._store = PixelStore(self._memory // 4, folder)
        self._defective: list[bool] = []

    # ---- images -------------------------------------------------------------------------------

    def add(self, mask: ArrayLike, map: ArrayLike, defect: str | None = None) -> None:
        """Add an image (H, W), or several of one size (N, H, W); non-zero mask pixels are defects.

        Maps are float32, or of a type that float32 holds exactly. ``defect`` names the kind of
        defect; None stands for good images, and for defective ones whose kind does not matter.
        Raises InputError for float64 maps, ValueError for other shapes, for maps that are not the
        masks' size or not finite, TypeError for what are not numbers, WriteError where the
        temporary file cannot be written; the image has not been added then.
        """
        masks, maps = inputs.mask(mask, "mask"), _float32(map)
        if masks.ndim == maps.ndim == 2:
            masks, maps = masks[None], maps[None]
        if masks.ndim != 3 or masks.shape != maps.shape:
            raise InputError(
                f"map: expected the mask's shape, (H, W) or (N, H, W), got {np.shape(map)} "
                f"for a mask of {np.shape(mask)}"
            )
        good, defects, counts, regions = _core.split_pixels(masks, maps)
        rest, first = masks[0].size - counts, len(self._defective)
        kinds = [counts == 0, counts > 0] if defect is None else [counts >= 0]
        self._store.add([
            Chunk(
                defect=defect,
                unnamed=defect is None and bool(counts[chosen].any()),
                images=(first + np.flatnonzero(chosen)).astype(np.int32),
                regions=int(regions[chosen].sum()),
                counts={"good": rest[chosen], "defects": counts[chosen]},
                values={
                    "good": _of_images(good, rest, chosen),
                    "defects": _of_images(defects, counts, chosen),
                },
            )
            for chosen in kinds
            if chosen.any()
        ])  # fmt: skip
        self._defective += [defect is not None or count > 0 for count in counts.tolist()]

    def __len__(self) -> int:
        """Images added so far."""
        return len(self._defective)

    def close(self) -> None:
        """Let go of all images and of the temporary file."""
        self._store.close()
        self._defective = []

    def __enter__(self) -> PixelMetrics:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- results ------------------------------------------------------------------------------

    def defined(self, defect: str | None = None) -> bool:
        """Whether there are good and defect pixels, so that there is a result."""
        positives, negatives, _ = _totals(self._chunks(defect))
        return positives > 0 and negatives > 0

    def result(self, fpr_limit: float = 0.3, defect: str | None = None) -> dict[str, float]:
        """`pixel_auroc`, `pixel_ap`, `pixel_f1_max` and `aupro` up to a false-positive rate.

        With ``defect``, of that kind and the good images alone. Raises InputError for a kind that
        has not been added, ValueError where one class is missing or the limit is not in (0, 1].
        """
        if defect is not None and defect not in self._kinds:
            known = ", ".join(self._kinds) or "none"
            raise InputError(
                f"defect: expected a kind that has been added ({known}), got {defect!r}"
            )
        chunks = self._chunks(defect)
        found = _core.tally_steps(self._parts(chunks), _both_classes(chunks), fpr_limit)
        return {ours: found[name] for name, ours in NAMES.items()}

    def per_defect(self, fpr_limit: float = 0.3) -> dict[str, dict[str, float | None]]:
        """The result of each kind of defect; None where it is not defined."""
        return {
            kind: {**self.result(fpr_limit, kind)}
            if self.defined(kind)
            else dict.fromkeys(NAMES.values())
            for kind in self._kinds
        }

    def curves(self, points: int = 1000) -> dict[str, Floats]:
        """ROC, precision-recall and overlap curves at the same thresholds, from high to low.

        Arrays of one length: `fpr`, `tpr` (recall), `precision`, `overlap` (mean over regions) and
        `thresholds` (score >= threshold is positive). All points are exact; about ``points`` are
        kept, spread evenly over the rates. The first threshold is infinite, the last minus
        infinite. Raises ValueError where one class is missing.
        """
        if points < 2:
            raise InputError(f"points: expected 2 or more, got {points}")
        chunks = self._chunks()
        totals = _both_classes(chunks)
        positives, negatives, _ = totals
        before = np.array([[0.0], [0.0], [0.0], [np.inf]])
        kept = [before]
        steps = max(1, points // 3)  # a whole number: where a rate reaches 1 is then kept
        for found in _curve_pieces(self._parts(chunks), totals):
            rates = np.hstack([before, found])[:3]
            kept.append(found[:, np.any(np.diff(np.floor(rates * steps)) != 0, axis=0)])
            before = found[:, -1:]
        fpr, tpr, overlap, thresholds = np.hstack([*kept, [[1.0], [1.0], [1.0], [-np.inf]]])
        tp, fp = tpr * positives, fpr * negatives
        precision = np.divide(tp, tp + fp, out=np.ones_like(tp), where=tp + fp > 0)
        return {
            "fpr": fpr,
            "tpr": tpr,
            "precision": precision,
            "overlap": np.minimum(overlap, 1.0),
            "thresholds": thresholds,
        }

    def intervals(
        self,
        resamples: int = 1000,
        level: float = 0.95,
        seed: Seed = 0,
        fpr_limit: float = 0.3,
    ) -> dict[str, Interval]:
        """Confidence interval (low, high) of each metric of `result`, by resampling images.

        Images are drawn with replacement, good and defective ones by themselves. For this, pixels
        are counted per image in steps of at most 1/1024 of the defect pixels (exactly where they
        have fewer distinct scores than that), and the intervals are moved to the exact result.
        Raises InputError for bad arguments, ValueError where one class is missing.
        """
        exact = self.result(fpr_limit)
        entries = self._image_steps(self._chunks())
        values = resample(
            *entries, np.array(self._defective), resamples, level, seed, fpr_limit=fpr_limit
        )
        return {
            name: interval(values[:, index], exact[name], level)
            for index, name in enumerate(NAMES.values())
        }

    # ---- counting -----------------------------------------------------------------------------

    @property
    def _kinds(self) -> list[str]:
        return sorted({c.defect for c in self._store.chunks if c.defect is not None})

    def _chunks(self, defect: str | None = None) -> list[Chunk]:
        """All, or the good images and those of one kind."""
        if self._store.spilled:  # the memory is for the steps now
            self._store.spill()
        else:
            self._store.gather()
        kinds = [(None, False), (defect, False)]
        return [c for c in self._store.chunks if defect is None or c.kind in kinds]

    def _parts(self, chunks: Sequence[Chunk]) -> Iterator[Part]:
        """The distinct scores of defects and the good pixels among them, high scores first."""
        for steps in self._steps(chunks):
            counts = np.zeros(2 * steps[0].size + 1, np.int64)
            for scores in self._store.parts(chunks, "good"):
                counts += _core.count_scores(steps[0], scores)
            yield steps, counts

    def _steps(self, chunks: Sequence[Chunk]) -> Iterator[Steps]:
        """The distinct scores of defects, in as many parts as the memory asks for."""
        for low, high in self._key_ranges(chunks):
            steps: Steps | None = None
            for items in self._store.parts(chunks, "defects"):
                found = _core.defect_steps(items, low, high)
                steps = found if steps is None else _core.merge_steps(steps, found)
            if steps is not None and steps[0].size:
                yield steps

    def _key_ranges(self, chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
        """Ranges of keys, rising, with at most as many distinct ones as the memory has room for."""
        most = max(self._memory // (_STEP_BYTES + 8 * _core.get_num_threads()), _BUCKET_KEYS)
        if _totals(chunks)[0] <= most:
            return [(0, _BUCKETS * _BUCKET_KEYS - 1)]
        sizes = np.zeros(_BUCKETS, np.int64)
        for items in self._store.parts(chunks, "defects"):
            buckets = (items >> np.uint64(32)) // np.uint64(_BUCKET_KEYS)
            sizes += np.bincount(buckets.astype(np.int64), minlength=_BUCKETS)
        starts, held = [0], 0
        for bucket, size in enumerate(np.minimum(sizes, _BUCKET_KEYS).tolist()):
            if held + size > most:
                starts.append(bucket)
                held = 0
            held += size
        ends = [*starts[1:], _BUCKETS]
        return [
            (low * _BUCKET_KEYS, high * _BUCKET_KEYS - 1)
            for low, high in zip(starts, ends, strict=True)
        ]

    # ---- bootstrap ----------------------------------------------------------------------------

    def _image_steps(
        self, chunks: Sequence[Chunk]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats, Floats, Floats]:
        """What each image has at each coarse step: the entries that `resample` takes."""
        first, last = self._coarse_steps(chunks)
        found: list[list[NDArray[Any]]] = []
        for chunk in chunks:
            for at in range(0, chunk.images.size, _IMAGES):
                images = slice(at, min(at + _IMAGES, chunk.images.size))
                values: list[NDArray[Any]] = []
                for sort in ("good", "defects"):
                    starts = np.concatenate([[0], np.cumsum(chunk.counts[sort])])
                    here = starts[images.start : images.stop + 1].astype(np.int64)
                    size = int(here[-1] - here[0])
                    values += [self._store.read(chunk, sort, int(here[0]), size), here - here[0]]
                found.append(_entries(first, last, values, chunk.images[images]))
        # Taken out of `found` one by one: all together they are as large again.
        columns = [np.concatenate([part.pop(0) for part in found]) for _ in range(5)]
        order = np.lexsort((columns[1], columns[0]))
        for index, column in enumerate(columns):
            columns[index] = column[order]
        step, image, good, positives, shares = columns
        return step, image, good, positives, shares

    def _coarse_steps(self, chunks: Sequence[Chunk]) -> tuple[Keys, Keys]:
        """First and last keys of steps with about equally many defect pixels."""
        positives = _totals(chunks)[0]
        first: list[Keys] = []
        last: list[Keys] = []
        passed = 0
        for keys, found, _ in self._steps(chunks):
            ends = passed + np.cumsum(found)
            group = (ends - 1) * _COARSE_STEPS // positives
            if passed == 0 and ends[-1] == positives and keys.size <= _COARSE_STEPS:
                group = np.arange(keys.size)  # each by itself: nothing is coarse
            passed = int(ends[-1])
            cut = np.flatnonzero(np.diff(group))
            first.append(keys[np.concatenate([[0], cut + 1])])
            last.append(keys[np.concatenate([cut, [keys.size - 1]])])
        return np.concatenate(first), np.concatenate(last)


def _float32(map: ArrayLike) -> NDArray[Any]:
    """Numbers that float32 holds, as float32; Python's numbers in lists are rounded to it."""
    array = inputs.numbers(map, "map")
    if not (np.can_cast(array.dtype, np.float32) or _is_python(map)):
        raise InputError(
            f"map: expected float32, got {array.dtype}; convert with .astype(np.float32)"
        )
    return array.astype(np.float32, copy=False)


def _is_python(values: Any) -> bool:
    """Whether these are lists and tuples of Python's own numbers, which have no dtype."""
    if isinstance(values, (list, tuple)):
        return all(_is_python(value) for value in values)
    return type(values) in (int, float, bool)


def _of_images(values: NDArray[Any], counts: NDArray[np.int64], chosen: Mask) -> NDArray[Any]:
    """Those of some images; each image has so many of them."""
    return values if chosen.all() else values[np.repeat(chosen, counts)]


def _totals(chunks: Sequence[Chunk]) -> tuple[int, int, int]:
    """Defect pixels, good pixels, regions."""
    return (
        sum(chunk.total("defects") for chunk in chunks),
        sum(chunk.total("good") for chunk in chunks),
        sum(chunk.regions for chunk in chunks),
    )


def _both_classes(chunks: Sequence[Chunk]) -> tuple[int, int, int]:
    positives, negatives, regions = _totals(chunks)
    if positives == 0 or negatives == 0:
        kind = "good (zero)" if negatives else "defective (non-zero)"
        what = f"every pixel is {kind}" if positives or negatives else "no image has been added"
        raise ValueError(f"masks: both classes are needed, but {what}")
    return positives, negatives, regions


def _entries(
    first: Keys, last: Keys, values: Sequence[NDArray[Any]], images: NDArray[np.int32]
) -> list[NDArray[Any]]:
    """Step, image, good pixels, defect pixels, shares, where an image has any."""
    good, positives, shares = _core.count_images(first, last, *values)
    found, parts = np.zeros(good.shape), np.zeros(good.shape)
    found[:, 1::2], parts[:, 1::2] = positives, shares
    row, step = np.nonzero((good != 0) | (found != 0))
    at = (row, step)
    return [step.astype(np.int32), images[row], good[at].astype(np.float64), found[at], parts[at]]


def _curve_pieces(parts: Iterable[Part], totals: tuple[int, int, int]) -> Iterator[Floats]:
    """Points (fpr, tpr, overlap, threshold) just before and at each step, some steps at a time."""
    positives, negatives, regions = totals
    tp, overlap = np.zeros(1, np.int64), np.zeros(1)
    for (keys, found, shares), counts in parts:
        fp = 0  # a part's first count is of all good pixels before it
        for at in range(0, keys.size, _CURVE_STEPS):
            here = slice(at, at + _CURVE_STEPS)
            whole = shares[here, 1] + shares[here, 0] * 2.0**-64
            tp = np.cumsum(np.concatenate([tp[-1:], found[here]]))
            overlap = np.cumsum(np.concatenate([overlap[-1:], whole]))
            last = 2 * at + 2 * whole.size
            passed = fp + np.cumsum(counts[2 * at : last])
            fp = int(passed[-1])
            yield np.stack([
                passed / negatives,
                np.repeat(tp, 2)[1:-1] / positives,
                np.repeat(overlap, 2)[1:-1] / regions,
                _thresholds(keys[here]),
            ])  # fmt: skip


def _thresholds(keys: Keys) -> NDArray[np.float32]:
    """The scores that lead to just before and to each step."""
    bits = np.where(keys >> 31 != 0, keys, ~(keys | np.uint32(1 << 31)))
    scores = bits.astype(np.uint32).view(np.float32)
    with np.errstate(over="ignore", under="ignore"):  # exact beside zero and infinity, too
        above = np.nextafter(scores, np.float32(np.inf))
    return np.stack([above, scores], axis=1).ravel()
