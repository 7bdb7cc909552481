"""What a training run reads: good images, textures for the anomalies, masks of the part."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusionad import datasets, saliency
from diffusionad.datasets import Dataset
from diffusionad.datasets.samples import size_fingerprint
from diffusionad.errors import InputError
from diffusionad.files import PathLike, as_path, atomic_path
from diffusionad.images import (
    Bytes,
    Floats,
    Mask,
    as_floats,
    as_items,
    list_images,
    natural_key,
    read_image,
    read_mask,
    resize,
    to_bytes,
    to_network,
)
from diffusionad.saliency_network import SaliencyNetwork, is_network
from diffusionad.synthesis import KINDS

log = logging.getLogger(__name__)

OWN_MASKS = "DISthresh"  # the reference implementation's folder of masks, in a category's
TEXTURE_MEMORY = 512 << 20  # bytes of textures that are kept; more are read again when drawn


@dataclass(frozen=True)
class TrainingImages:
    """Images at network size: uint8 (N, H, W, 3) from files, float32 (N, 3, H, W) from arrays."""

    pixels: npt.NDArray[Any]
    origin: dict[str, Any]  # "images" (see load_images), "category", "layout", "count"
    paths: Sequence[Path] = ()  # of the files; empty for arrays
    kind: str | None = None  # "object" or "texture", where the dataset says so

    def draw(self, rng: np.random.Generator, count: int) -> tuple[npt.NDArray[np.intp], Floats]:
        """Which, and float32 (count, 3, H, W)."""
        chosen = rng.integers(0, len(self.pixels), count)
        return chosen, as_floats(self.pixels[chosen])

    def take(self, chosen: npt.NDArray[np.intp]) -> TrainingImages:
        """Some of them; `origin` stays that of all."""
        return dataclasses.replace(
            self,
            pixels=self.pixels[chosen],
            paths=[self.paths[i] for i in chosen] if self.paths else (),
        )

    def spread(self, count: int) -> Floats:
        """Up to `count` of them, evenly over all."""
        return as_floats(self.pixels[evenly(len(self.pixels), count)])


def evenly(total: int, count: int) -> npt.NDArray[np.intp]:
    """Up to `count` of the first `total` whole numbers, from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.intp))


def load_images(source: Any, size: int) -> TrainingImages:
    """Read a Dataset's training part, a folder, a file, or images as to_network() takes them.

    "images" of the origin is the files' fingerprint; in another order than the natural one it
    depends on the order, since batches and masks go by it.
    """
    if isinstance(source, (str, os.PathLike)):
        path = as_path(source)
        source = [path] if path.is_file() else datasets.open(path, test_fraction=0.0)
    origin: dict[str, Any] = {"category": None, "layout": None}
    kind = getattr(source, "kind", None)
    if isinstance(source, Dataset):
        paths = [sample.path for sample in source.train]
        origin = {"category": source.category, "layout": source.layout}
        root = source.root
    else:
        source = as_items(source)
        if not all(isinstance(item, (str, os.PathLike)) for item in source):
            floats = to_network(source, size)
            digest = hashlib.sha256(floats.data).hexdigest()
            return TrainingImages(floats, {**origin, "images": digest, "count": len(floats)})
        paths = [Path(path) for path in source]
        root = paths[0].parent
    if not paths:
        raise InputError(f"{root}: no images to train on")
    absolute = [Path(os.path.abspath(path)) for path in paths]
    in_order = absolute != sorted(set(absolute), key=natural_key)
    if isinstance(source, Dataset) and not in_order:
        fingerprint = source.fingerprint(train_only=True)
    else:
        fingerprint = datasets.fingerprint(paths, root, in_order=in_order)
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    for index, path in enumerate(paths):
        pixels[index] = resize(read_image(path), size, size)
    origin |= {"images": fingerprint, "count": len(paths)}
    return TrainingImages(pixels, origin, paths, kind if kind in KINDS else None)


def load_foregrounds(folder: PathLike, paths: Sequence[Path], size: int) -> Bytes:
    """A mask for each image, found by its name without extension: uint8 (N, size, size).

    Grey levels say how much of the object a pixel is; masks of two values, or of none above 127
    (numbers of classes), are read as no and yes.
    """
    if not paths:
        raise InputError("foreground: expected images from files, to find masks by their names")
    _by_stem(paths)  # no two images share a mask
    found = _by_stem(list_images(folder))
    missing = [path.stem for path in paths if path.stem not in found]
    if missing:
        raise InputError(
            f"{folder}: no mask for {len(missing)} of {len(paths)} images, "
            f"for example {missing[0]!r}"
        )
    masks = np.empty((len(paths), size, size), np.uint8)
    for index, image in enumerate(paths):
        mask = found[image.stem]
        levels = read_image(mask).max(axis=2)
        if levels.max() < 128:
            levels = read_mask(mask) * np.uint8(255)
        elif np.isin(levels, (0, levels.max())).all():
            levels = (levels > 0) * np.uint8(255)
        masks[index] = resize(levels, size, size)
        if not masks[index].any():
            raise InputError(f"{mask}: the mask leaves no place for an anomaly")
    return masks


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(
                f"{other} and {path}: expected names that differ without their extension, "
                "by which masks are found"
            )
    return found


def own_masks(images: TrainingImages) -> dict[Path, Path]:
    """Folders of masks by those of the images: `<category>/DISthresh/good` for `train/good`.

    Empty unless each folder of images has one.
    """
    folders = {path.parent for path in images.paths}
    own = {good: good.parent.parent / OWN_MASKS / good.name for good in folders}
    beside = all(good.parent.name == "train" and masks.is_dir() for good, masks in own.items())
    return own if beside else {}


def choose_foregrounds(
    images: TrainingImages,
    kind: str,
    folder: PathLike | None,
    cache: Path | None = None,
    learn_from: Sequence[Path] | None = None,
) -> tuple[Bytes | None, str | None]:
    """Masks uint8 (N, size, size) and where they come from; None and None: the whole image.

    In this order: the masks in `folder`, or what the network finds whose ONNX file it is; for what
    is no texture, masks that lie beside the images; for an object, what the extractor finds,
    "found".
    """
    size = images.pixels.shape[-2]
    if folder is None and kind != "texture" and (own := own_masks(images)):
        masks = np.empty((len(images.paths), size, size), np.uint8)
        for good, beside in own.items():
            here = [index for index, path in enumerate(images.paths) if path.parent == good]
            masks[here] = load_foregrounds(beside, [images.paths[index] for index in here], size)
        return masks, images.paths[0].parent.name
    if folder is not None and is_network(folder):
        return network_foregrounds(images, SaliencyNetwork(folder), cache), Path(folder).name
    if folder is not None:
        return load_foregrounds(folder, images.paths, size), Path(folder).name
    if kind == "object":
        return find_foregrounds(images, cache, learn_from), "found"
    return None, None


def find_foregrounds(
    images: TrainingImages, cache: Path | None = None, learn_from: Sequence[Path] | None = None
) -> Bytes:
    """The built-in extractor's masks, uint8 (N, size, size), kept in the file `cache`.

    It learns from all images, or from the files `learn_from` of which they are a few. Where it is
    unsure the whole image is the foreground; a warning says of how many.
    """

    def find() -> Iterator[tuple[Mask, str]]:
        source: Any = images.paths or images.pixels
        finder = saliency.ForegroundFinder(source if learn_from is None else learn_from)
        for index in range(len(images.pixels)):
            found = finder.find(source[index])
            yield found.mask, found.reason

    return _kept_masks(images, cache, str(saliency.VERSION), find)


def network_foregrounds(
    images: TrainingImages, network: SaliencyNetwork, cache: Path | None = None
) -> Bytes:
    """The masks of a network, like those of find_foregrounds()."""

    def find() -> Iterator[tuple[Mask, str]]:
        for index, pixels in enumerate(images.pixels):
            if images.paths:
                image = read_image(images.paths[index])
            else:
                image = to_bytes(pixels.transpose(1, 2, 0))
            mask = network.find(image)
            yield mask, "" if mask.any() else "the network finds nothing"

    return _kept_masks(
        images, cache, datasets.fingerprint([network.path], network.path.parent), find
    )


def _kept_masks(
    images: TrainingImages,
    cache: Path | None,
    finder: str,
    find: Callable[[], Iterator[tuple[Mask, str]]],
) -> Bytes:
    """At network size, from the file `cache` if `finder` has left them there for these images."""
    size, count = images.pixels.shape[-2], len(images.pixels)
    key = f"{finder} {images.origin['images']} {count} {size}"
    if cache is not None and (kept := _read_masks(cache, key, (count, size, size))) is not None:
        return kept
    masks = np.empty((count, size, size), np.uint8)
    reasons: Counter[str] = Counter()
    for index, (found, reason) in enumerate(find()):
        mask = resize(found * np.uint8(255), size, size) >= 128
        # An object of less than a pixel would leave no place for an anomaly.
        masks[index] = (mask if mask.any() else ~mask) * np.uint8(255)
        reasons[reason] += 1
    unsure = count - reasons.pop("", 0)
    if unsure:
        log.warning(
            "foreground: the whole image is taken for %d of %d images, mostly because: %s; "
            "masks of your own (foreground) confine the anomalies, kind texture needs none",
            unsure, count, reasons.most_common(1)[0][0],
        )  # fmt: skip
    if cache is not None:
        with atomic_path(cache, durable=False) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, key=np.array(key), masks=np.packbits(masks >= 128))
    return masks


def _read_masks(cache: Path, key: str, shape: tuple[int, ...]) -> Bytes | None:
    """What _kept_masks() left for the same images; None where there is none, or no more."""
    try:
        with np.load(cache, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                bits = np.unpackbits(kept["masks"], count=int(np.prod(shape)))
                return bits.reshape(shape) * np.uint8(255)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    return None


class Textures:
    """Appearances of anomalies: the images of a folder, read when drawn, kept at network size.

    In the place of an image that cannot be read the next one is taken, on every run the same.
    """

    def __init__(self, folder: PathLike, size: int) -> None:
        self.folder = Path(folder)
        self.paths = list_images(folder, recursive=True)
        if not self.paths:
            raise InputError(f"{folder}: no images in this folder")
        self.size = size
        self._kept: dict[int, Bytes] = {}
        self._unreadable: set[int] = set()

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` of them, float32 (count, 3, size, size)."""
        chosen = rng.integers(0, len(self.paths), count)
        return as_floats(np.stack([self._readable(int(index)) for index in chosen]))

    def _readable(self, index: int) -> Bytes:
        """That image, or the next one that can be read; a warning names those passed over.

        Raises InputError where none can be read, and for a file that has gone: once it is back, a
        run goes on with the same images.
        """
        errors: dict[int, InputError] = {}
        for candidate in chain(range(index, len(self.paths)), range(index)):
            if candidate in self._unreadable:
                continue
            try:
                pixels = self._read(candidate)
            except InputError as error:
                if not os.path.exists(self.paths[candidate]):
                    raise
                errors[candidate] = error
                continue
            for said in errors.values():
                log.warning("%s; the next image of the folder is taken instead", said)
            self._unreadable |= errors.keys()
            return pixels
        raise InputError(
            f"{self.folder}: expected images that can be read, got {len(self.paths)} that cannot, "
            f"for example {errors[min(errors)]}"
        )

    def _read(self, index: int) -> Bytes:
        pixels = self._kept.get(index)
        if pixels is None:
            pixels = resize(read_image(self.paths[index]), self.size, self.size)
            if len(self._kept) * pixels.nbytes < TEXTURE_MEMORY:
                self._kept[index] = pixels
        return pixels

    def fingerprint(self) -> str:
        """SHA-256 over the files' names and sizes: there may be gigabytes of them."""
        return size_fingerprint((path.relative_to(self.folder), path) for path in self.paths)


def synthesis_inputs(
    images: npt.NDArray[Any],
    masks: Bytes | None,
    textures: Textures | None,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[Any], Floats | None, Floats | None, npt.NDArray[np.uint64]]:
    """What synthesize_batch() takes, but for its options: textures and seeds drawn from `rng`."""
    count = len(images)
    return (
        images,
        None if masks is None else as_shares(masks),
        None if textures is None else textures.draw(rng, count),
        rng.integers(0, 2**64, count, dtype=np.uint64),
    )


def as_shares(masks: Bytes) -> Floats:
    """uint8 masks to float32 in [0, 1]."""
    return np.divide(masks, np.float32(255), dtype=np.float32)
