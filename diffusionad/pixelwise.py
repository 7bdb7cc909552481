"""Exact pixel metrics of any number of images, of any sizes, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
Keys = NDArray[np.uint32]
Steps = tuple[Keys, NDArray[np.int64], NDArray[np.uint64]]  # keys, positives, shares
Part = tuple[Steps, NDArray[np.int64]]  # with the good pixels before and at each step

_BUCKETS = 1 << 16  # of keys, by their upper bits
_BUCKET_KEYS = 1 << 16
_STEP_BYTES = 96  # with all that is held of it while it is counted
_COARSE_STEPS = 1024  # of the bootstrap
_IMAGES = 16  # counted at once for it
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
    more than it had, whatever is added, and what one call of `add` is given. Where the defects have
    more distinct scores than fit (about ``memory_mb`` x 10,000), the file is read several times.

    >>> pixels = PixelMetrics()
    >>> pixels.add([[0, 1]], [[0.5, 0.25]], defect="dent")
    >>> pixels.add([[0, 0, 0]], [[0.0, 0.125, 0.25]])
    >>> pixels.result()["pixel_auroc"]
    0.625
    """

    def __init__(self, memory_mb: float = 1024, folder: PathLike | None = None) -> None:
        if not memory_mb > 0:
            raise InputError(f"memory_mb: expected a positive number, got {memory_mb}")
        self._memory = int(memory_mb * 2**20)
        self._store = PixelStore(self._memory // 4, folder)
        self._defective: list[bool] = []

    # ---- images -------------------------------------------------------------------------------

    def add(self, mask: ArrayLike, map: ArrayLike, defect: str | None = None) -> None:
        """Add an image (H, W), or several of one size (N, H, W); non-zero mask pixels are defects.

        Maps are float32, or of a type that float32 holds exactly. ``defect`` names the kind of
        defect; None stands for good images, and for defective ones whose kind does not matter.
        Raises InputError for float64 maps, ValueError for other shapes, for maps that are not the
        masks' size or not finite, TypeError for what are not numbers.
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
        number, first = len(masks), len(self._defective)
        self._defective += [defect is not None or count > 0 for count in counts.tolist()]
        self._store.add(
            Chunk(
                defect=defect,
                images=np.arange(first, first + number, dtype=np.int32),
                regions=int(regions.sum()),
                counts={"good": masks[0].size - counts, "defects": counts},
                values={"good": good, "defects": defects},
            )
        )

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

        With ``defect``, of that kind and the good images alone. Raises ValueError where one class
        is missing or the limit is not in (0, 1].
        """
        chunks = self._chunks(defect)
        found = _core.tally_steps(self._parts(chunks), _both_classes(chunks), fpr_limit)
        return {ours: found[name] for name, ours in NAMES.items()}

    def per_defect(self, fpr_limit: float = 0.3) -> dict[str, dict[str, float | None]]:
        """The result of each kind of defect; None where it is not defined."""
        kinds = sorted({c.defect for c in self._store.chunks if c.defect is not None})
        return {
            kind: {**self.result(fpr_limit, kind)}
            if self.defined(kind)
            else dict.fromkeys(NAMES.values())
            for kind in kinds
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
        for part in self._parts(chunks):
            found = _part_curve(part, totals, before[:, 0])
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

    def _chunks(self, defect: str | None = None) -> list[Chunk]:
        """All, or the good images and those of one kind."""
        if self._store.spilled:  # the memory is for the steps now
            self._store.spill()
        else:
            self._store.gather()
        return [c for c in self._store.chunks if defect is None or c.defect in (None, defect)]

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
        step, image, good, positives, shares = (np.concatenate(c) for c in zip(*found, strict=True))
        order = np.lexsort((image, step))
        return step[order], image[order], good[order], positives[order], shares[order]

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
    """Numbers that float32 holds, as float32; a list of Python's numbers is rounded to it."""
    array = inputs.numbers(map, "map")
    given = array.dtype if isinstance(map, np.ndarray) else np.dtype(np.float32)
    if not np.can_cast(given, np.float32):
        raise InputError(f"map: expected float32, got {given}; convert with .astype(np.float32)")
    return array.astype(np.float32, copy=False)


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


def _part_curve(part: Part, totals: tuple[int, int, int], before: Floats) -> Floats:
    """Points (fpr, tpr, overlap, threshold) just before and at each step, after those `before`."""
    (keys, found, shares), counts = part
    positives, negatives, regions = totals
    tpr = before[1] + np.cumsum(found) / positives
    whole = shares[:, 1].astype(np.float64) + shares[:, 0].astype(np.float64) * 2.0**-64
    overlap = before[2] + np.cumsum(whole) / regions
    points = np.empty((4, 2 * keys.size))
    points[0] = np.cumsum(counts[:-1]) / negatives
    for row, rates in ((1, tpr), (2, overlap)):
        points[row, 1::2] = rates
        points[row, ::2] = np.concatenate([[before[row]], rates[:-1]])
    bits = np.where(keys >> 31 != 0, keys, ~(keys | np.uint32(1 << 31)))
    thresholds = bits.astype(np.uint32).view(np.float32)
    points[3, 1::2] = thresholds
    points[3, ::2] = np.nextafter(thresholds, np.float32(np.inf))
    return points
