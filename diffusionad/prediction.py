"""What a model says of images: scores, maps, labels; as files, as pictures, as plain values.

Masks follow one rule: a pixel is anomalous where the map reaches the threshold of the scores. A
score is the mean of the map's largest values, so where it reaches the threshold at least one pixel
does (a map made smaller by ``size="input"`` may lose it); below the threshold a few pixels may.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import numpy.typing as npt

from diffusionad.arrays import Pixels
from diffusionad.files import PathLike
from diffusionad.images import Bytes, Floats, Mask, as_floats, to_bytes, unique_stems
from diffusionad.tiling import Tiles

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 12  # images of a plot


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What the model says of one image.

    ``score``; ``map`` (H, W) float32 in [0, 1]; ``label``, 1 where the score reaches
    ``threshold``, None without one; ``reconstruction`` (3, S, S) float32, None from tiles;
    ``image`` (S, S, 3) uint8, what the networks saw; ``path`` of its file, None for arrays;
    ``index`` among the images given. ``stages`` holds x_s, x0_s, x_b and x0_b where explain()
    made them.
    """

    score: float
    map: Floats
    label: int | None
    reconstruction: Floats | None
    image: Bytes
    path: str | None
    index: int
    threshold: float | None
    stages: Mapping[str, Floats | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name, or else the index, such as "000007"."""
        return f"{self.index:06d}" if self.path is None else Path(self.path).name

    @property
    def mask(self) -> Mask | None:
        """Pixels (H, W) where the map reaches the threshold, bool; None without a threshold."""
        return mask_of(self.map, self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Index, path, score and label, ready for JSON."""
        named = ("index", "path", "score", "label")
        return {name: getattr(self, name) for name in named}

    def panel(self, mask: Mask | None = None, defect: str | None = None) -> Bytes:
        """All stages side by side, uint8 [H, W, 3]; with true mask and defect, where known."""
        from diffusionad import plots

        seen = self.image.transpose(2, 0, 1) / np.float32(255)
        stages = plots.Stages(seen, self.map, mask, x0=self.reconstruction, **self.stages)
        return plots.panel(
            stages,
            name=self.name,
            score=self.score,
            threshold=self.threshold,
            defect=defect,
            high=plots.colour_limit(self.threshold),
        )

    def plot(self) -> Image.Image:
        """The panel as a PIL image, which notebooks show."""
        return _as_picture(self.panel())

    def save(self, folder: PathLike) -> None:
        """Write ``<stem>.npy`` (the map) and ``<stem>.png`` (the panel); see ResultFolder.

        A table of many results is Prediction.save()'s and ResultFolder's. Raises WriteError, and
        InputError where the image itself would be replaced.
        """
        from diffusionad.result_files import write_result

        write_result(Path(folder), Path(self.name).stem, self)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of N images.

    ``scores`` (N,) float64, higher where more anomalous; ``maps`` (N, H, W) float32 in [0, 1], or
    a list of (H, W) maps where they differ in size; ``reconstructions`` (N, 3, S, S) float32, None
    from tiles; ``labels`` (N,), 1 where the score reaches ``threshold``, the model's, or None
    without one; ``images`` (N, S, S, 3) uint8, what the networks saw; ``paths`` of the files, None
    for arrays; ``tiles``, if the maps were made of them.

    It is a sequence of ImageResults: ``len(p)``, ``p[0]``, ``for result in p``. A slice is a
    Prediction of those images.
    """

    scores: npt.NDArray[np.float64]
    maps: Floats | list[Floats]
    reconstructions: Floats | None
    labels: npt.NDArray[np.int64] | None
    images: Bytes
    paths: Sequence[str | None]
    threshold: float | None
    tiles: Tiles | None = None

    _BY_IMAGE: ClassVar[Sequence[str]] = (
        "scores", "maps", "reconstructions", "labels", "images", "paths",
    )  # fmt: skip

    @property
    def masks(self) -> Mask | list[Mask] | None:
        """Pixels where the maps reach the threshold, in the form of maps; None without one."""
        if self.threshold is None:
            return None
        if isinstance(self.maps, np.ndarray):
            return mask_of(self.maps, self.threshold)
        return [found for one in self.maps if (found := mask_of(one, self.threshold)) is not None]

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> ImageResult: ...

    @overload
    def __getitem__(self, index: slice) -> Prediction: ...

    def __getitem__(self, index: int | slice) -> ImageResult | Prediction:
        if isinstance(index, slice):
            values: dict[str, Any] = {name: getattr(self, name) for name in self._BY_IMAGE}
            given = {name: value for name, value in values.items() if value is not None}
            return dataclasses.replace(self, **{name: v[index] for name, v in given.items()})
        place = range(len(self))[index]
        return ImageResult(
            score=float(self.scores[place]),
            map=self.maps[place],
            label=None if self.labels is None else int(self.labels[place]),
            reconstruction=None if self.reconstructions is None else self.reconstructions[place],
            image=self.images[place],
            path=self.paths[place],
            index=place,
            threshold=self.threshold,
            stages=self._stages(place),
        )

    def __iter__(self) -> Iterator[ImageResult]:
        return (self[index] for index in range(len(self)))

    def _stages(self, index: int) -> Mapping[str, Floats | None]:
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The threshold, and index, path, score and label of each image, ready for JSON."""
        return {"threshold": self.threshold, "images": [result.to_dict() for result in self]}

    def plot(self, most: int = SHOWN) -> Image.Image:
        """Panels of the first images below each other as a PIL image, which notebooks show."""
        from diffusionad import plots

        panels = [self[index].panel() for index in range(min(most, len(self)))]
        return _as_picture(plots.contact_sheet(panels))

    def save(self, folder: PathLike) -> None:
        """Write scores.csv, and ``<stem>.npy`` and ``<stem>.png`` for each image.

        Files of these names are replaced. Raises WriteError, and InputError before anything is
        written where one of them is an image that the results are of.
        """
        from diffusionad.result_files import ResultFolder, files_of, require_other_files

        stems = unique_stems([Path(result.path or result.name) for result in self])
        require_other_files(files_of(Path(folder), stems), self.paths)
        with ResultFolder(folder) as out:
            for result, stem in zip(self, stems, strict=True):
                out.write(result, stem)


@dataclass(frozen=True, eq=False)
class Explanation(Prediction):
    """A prediction with every stage of the method, each (N, 3, S, S); see Repair.

    One step without guidance has no ``x_b`` and ``x0_b``, the autoencoder neither.
    """

    x_s: Floats = field(kw_only=True)
    x0_s: Floats = field(kw_only=True)
    x_b: Floats | None = field(kw_only=True)
    x0_b: Floats | None = field(kw_only=True)

    STAGES: ClassVar[Sequence[str]] = ("x_s", "x0_s", "x_b", "x0_b")
    _BY_IMAGE: ClassVar[Sequence[str]] = (*Prediction._BY_IMAGE, *STAGES)

    @property
    def seen(self) -> Floats:
        """What the networks saw, (N, 3, S, S) in [0, 1]: in the light in which it was repaired."""
        return as_floats(self.images)

    @property
    def x0(self) -> Floats:
        """The reconstructions."""
        assert self.reconstructions is not None
        return self.reconstructions

    def _stages(self, index: int) -> Mapping[str, Floats | None]:
        stages = {name: getattr(self, name) for name in self.STAGES}
        return {name: None if one is None else one[index] for name, one in stages.items()}


def joined(parts: Sequence[Prediction]) -> Prediction:
    """One prediction of the images of several, made by one model."""
    first = parts[0]
    if len(parts) == 1:
        return first
    labels = [part.labels for part in parts if part.labels is not None]
    repairs = [part.reconstructions for part in parts if part.reconstructions is not None]
    return dataclasses.replace(
        first,
        scores=np.concatenate([part.scores for part in parts]),
        maps=stacked([one for part in parts for one in part.maps]),
        reconstructions=np.concatenate(repairs) if repairs else None,
        labels=np.concatenate(labels) if labels else None,
        images=np.concatenate([part.images for part in parts]),
        paths=[path for part in parts for path in part.paths],
    )


def stacked(maps: Sequence[Floats]) -> Floats | list[Floats]:
    """Maps (H, W) as one array, if they are of one size; a single one without copying it."""
    if len(maps) == 1:
        return maps[0][None]
    return np.stack(maps) if len({one.shape for one in maps}) == 1 else list(maps)


def labels_of(
    scores: npt.NDArray[np.float64], threshold: float | None
) -> npt.NDArray[np.int64] | None:
    """1 where a score reaches the threshold; None without one."""
    return None if threshold is None else (scores >= threshold).astype(np.int64)


def mask_of(score_map: Floats, threshold: float | None) -> Mask | None:
    """Where a map reaches the threshold; compared as float64, like the scores."""
    return None if threshold is None else np.asarray(score_map >= np.float64(threshold))


def paths_of(items: Sequence[Any]) -> list[str | None]:
    """The paths among images as they were given; None for the others."""
    return [os.fsdecode(item) if isinstance(item, (str, os.PathLike)) else None for item in items]


def shown(pixels: Pixels | Floats) -> Bytes:
    """What the networks saw, float32 (N, 3, S, S), as pictures uint8 (N, S, S, 3)."""
    return np.ascontiguousarray(to_bytes(pixels).transpose(0, 2, 3, 1))


def _as_picture(pixels: Bytes) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)
