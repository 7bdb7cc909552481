"""Images from files and memory: reading, masks, listings, network input, PNG output."""

from __future__ import annotations

import io
import math
import os
import re
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diffusionad.arrays import (
    MOST_PIXELS,
    Pixels,
    SupportsArrayInterface,
    SupportsDLPack,
    as_array,
    as_pixels,
)
from diffusionad.errors import InputError, TooManyPixels
from diffusionad.files import PathLike, as_path, atomic_path, reason

if TYPE_CHECKING:
    from PIL import Image

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
OneImage: TypeAlias = (
    "PathLike | npt.NDArray[Any] | SupportsArrayInterface | SupportsDLPack | Image.Image"
)
ImageSource: TypeAlias = "OneImage | Iterable[OneImage]"

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
)
# What these extensions stand for, whatever a file is called: of others Pillow would even run a
# program (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
_EXIF_ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WARNINGS = threading.Lock()  # the filters of warnings belong to the process, not to a thread
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError)


def read_image(path: PathLike) -> Bytes:
    """Read an image file as RGB uint8 [H, W, 3].

    EXIF rotation is applied, alpha dropped (not blended), one-channel, palette and CMYK images are
    converted, 16-bit grey is divided by 257 and rounded, as is that of 12 bits by its own range.
    (Of 16-bit colour Pillow hands out the upper byte, which is at most one level away.) Of several
    frames the first one counts.
    Raises InputError, naming the file, when it is missing, empty, broken, too big for Pillow's
    limit on pixels, or of a format that EXTENSIONS does not have, whatever its name.
    """
    with _opened(path) as image:
        return np.ascontiguousarray(_to_rgb(image))


def decode_image(data: bytes, name: str, max_pixels: int) -> Bytes:
    """Decode an image file that someone sent, as read_image would read it: uint8 [H, W, 3].

    Raises InputError that calls the image `name`, and TooManyPixels, before a pixel is decoded, for
    an image that declares more than `max_pixels`.
    """
    with _opened(io.BytesIO(data), name, max_pixels) as image:
        return np.ascontiguousarray(_to_rgb(image))


def read_mask(path: PathLike, size: tuple[int, int] | None = None, *, resize: bool = False) -> Mask:
    """Read a mask file as bool [H, W]: every non-zero pixel is a defect (0/255, or classes 1..k).

    `size` is the (height, width) that its image has. A mask of another size raises InputError;
    with `resize` it is brought to that size by the nearest pixel instead.
    """
    with _opened(path) as image:
        mask = _nonzero(image)
    if size is None or mask.shape == size:
        return mask
    if not resize:
        raise InputError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"its image {size[1]}x{size[0]}"
        )
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[rows[:, None], columns[None, :]])


def image_size(path: PathLike) -> tuple[int, int]:
    """(height, width) of an image as read_image would return it; as a rule from its header."""
    from PIL import ImageOps

    with _opened(path) as image:
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        if turned and image.format == "TIFF":  # Pillow turns these itself, at times when opening
            image, turned = ImageOps.exif_transpose(image), False
        width, height = image.size
    return (width, height) if turned else (height, width)


def natural_key(path: Path) -> tuple[list[tuple[tuple[int, int, str], ...]], str]:
    """Sort key under which "2.png" comes before "10.png", folder by folder; no two paths tie."""
    pieces = [
        tuple(
            (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"([0-9]+)", part.casefold())
        )
        for part in path.parts
    ]
    return pieces, str(path)


def is_image_name(path: Path) -> bool:
    """Whether a name looks like an image's: a known extension in any case, not hidden."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def list_images(folder: PathLike, *, recursive: bool = False) -> list[Path]:
    """Image files of a folder in natural order; hidden files and others are passed over.

    Links are followed, but not back to a folder that they lie in.
    Raises InputError when the folder is missing or cannot be read. An empty list is fine.
    """
    top = as_path(folder)
    require_folder(top)
    return sorted(_images_in(top, recursive, frozenset()), key=natural_key)


def _images_in(folder: Path, recursive: bool, above: frozenset[Path]) -> Iterator[Path]:
    above |= {folder.resolve()}
    try:
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if recursive and entry.resolve() not in above:
                    yield from _images_in(entry, recursive, above)
            elif is_image_name(entry):
                yield entry
    except OSError as error:
        raise InputError(f"{folder}: cannot read this folder: {reason(error)}") from error


@contextmanager
def naming_files() -> Iterator[None]:
    """Make an OSError, as of a folder that may not be looked into, an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {reason(error)}") from error


@naming_files()
def require_folder(path: Path) -> None:
    """Raise InputError unless `path` is a folder."""
    if not path.exists():
        raise InputError(f"{path}: no such folder")
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder, got a file")


def resize(image: Bytes, height: int, width: int) -> Bytes:
    """Bilinear resize of a uint8 [H, W, 3] or [H, W] image: half-pixel centres, no antialiasing."""
    from diffusionad import _core

    if image.shape[:2] == (height, width):
        return image
    resized: Bytes = _core.resize_u8(image, height, width)
    return resized


def as_items(images: ImageSource) -> Sequence[Any]:
    """The images as something to take batches from: the files of a folder, an array, or a list.

    Raises InputError where there are none, and for what is neither an image nor has any.
    """
    if isinstance(images, (str, os.PathLike)):
        folder = as_path(images)
        listed = list_images(folder) if folder.is_dir() else [folder]
        if not listed:
            raise InputError(f"{folder}: no images in this folder")
        return listed
    if is_pillow(images):
        return [images]
    array = as_array(images, "images")
    items: Any
    if array is not None and array.dtype.kind not in "OU":  # paths may come as an array, too
        items = array if array.ndim == 4 else [array]
    else:
        try:
            items = list(images)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(
                f"images: expected arrays, PIL images or paths, got {type(images).__name__}"
            ) from error
    if len(items) == 0:
        raise InputError("images: expected at least one image, got none")
    return items  # type: ignore[no-any-return]


def pixels_of(item: Any, name: str) -> Pixels:
    """One image, a path, a PIL image or an array (see arrays), as uint8 or float32 [H, W, 3].

    Raises InputError that names the file, or else the argument by `name`.
    """
    array: npt.NDArray[Any] | None
    if isinstance(item, (str, os.PathLike)):
        name, array = os.fsdecode(item), read_image(item)
    elif is_pillow(item):
        try:
            array = _to_rgb(item)
        except _BROKEN as error:
            raise InputError(f"{name}: this PIL image cannot be used: {error}") from error
    else:
        array = as_array(item, name)
    if array is None:
        raise InputError(
            f"{name}: expected an array, a PIL image or a path, got {type(item).__name__}"
        )
    return as_pixels(array, name)


def fit_to_network(pixels: Pixels, size: int) -> Floats:
    """Pixels [H, W, 3] as float32 [3, size, size] in [0, 1]; bytes are resized before division."""
    from diffusionad import _core

    if pixels.dtype == np.uint8:
        resized = resize(pixels, size, size).transpose(2, 0, 1)
        return np.divide(resized, np.float32(255), dtype=np.float32)
    planes: Floats = pixels.transpose(2, 0, 1)
    return planes if planes.shape[1:] == (size, size) else _core.resize_f32(planes, size, size)


def as_floats(images: npt.NDArray[Any]) -> Floats:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [0, 1]; float32 stays."""
    if images.dtype == np.float32:
        return images
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32)
    scaled /= np.float32(255)
    return scaled


def to_network(images: ImageSource, size: int, first: int = 0) -> Floats:
    """Bring images to float32 [N, 3, size, size] in [0, 1], the form that the networks take.

    Accepted is whatever as_items() and pixels_of() take: paths, a folder, PIL images and arrays,
    one or many, each image of its own size. Raises InputError that names what was expected and
    what came; the images count from `first`.
    """
    return batch_of(as_items(images), size, first)[0]


def batch_of(items: Sequence[Any], size: int, first: int) -> tuple[Floats, list[tuple[int, int]]]:
    """What to_network() gives, and each image's own (height, width); read one after the other."""
    batch = np.empty((len(items), 3, size, size), np.float32)
    shapes = []
    for index, item in enumerate(items):
        pixels = pixels_of(item, f"images[{first + index}]")
        batch[index] = fit_to_network(pixels, size)
        shapes.append((pixels.shape[0], pixels.shape[1]))
    return batch, shapes


def to_bytes(images: npt.NDArray[np.floating[Any]]) -> Bytes:
    """Values in [0, 1] to uint8 0..255 of the same shape; others are clipped."""
    levels: Bytes = (np.clip(images, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return levels


def write_png(path: PathLike, pixels: Bytes) -> None:
    """Write uint8 [H, W, 3] or [H, W] as PNG, whole or not at all. Raises WriteError."""
    from PIL import Image

    with atomic_path(path, durable=False) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


@contextmanager
def _opened(
    source: PathLike | io.BytesIO, name: str = "", max_pixels: float = math.inf
) -> Iterator[Image.Image]:
    """Open an image file of a known format; whatever Pillow raises, also later, names the file."""
    from PIL import Image, UnidentifiedImageError

    file = source if isinstance(source, io.BytesIO) else as_path(source)
    name = name or str(file)
    try:
        _require_content(file, name)
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
        with image:
            size = f"{image.width}x{image.height}"
            if image.width * image.height > max_pixels:
                raise TooManyPixels(f"{name}: expected at most {max_pixels:,} pixels, got {size}")
            if max(image.size) > MOST_PIXELS:
                raise InputError(
                    f"{name}: expected at most {MOST_PIXELS} pixels a side, got {size} pixels"
                )
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(
            f"{name}: the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the limit "
            "against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from error
    except PermissionError as error:
        raise InputError(f"{name}: {reason(error)}") from error
    except (*_BROKEN, struct.error, zlib.error) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: the image is broken: {text}") from error


def _require_content(file: Path | io.BytesIO, name: str) -> None:
    if isinstance(file, io.BytesIO):
        size = file.getbuffer().nbytes
    elif file.is_dir():
        raise InputError(f"{name}: expected an image file, got a folder")
    else:
        size = file.stat().st_size
    if size == 0:
        raise InputError(f"{name}: the file is empty")


def is_pillow(item: Any) -> bool:
    """Whether this is an image of Pillow, which is no array yet, and may be broken."""
    from PIL import Image

    return isinstance(item, Image.Image)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. Raises ValueError for grey levels that Pillow hands out inverted."""
    from PIL import ImageOps

    if image.mode.startswith("I") and _tag(image, _PHOTOMETRIC) == 0:
        raise ValueError("0 is white; expected 16-bit pixels whose 0 is black")
    return ImageOps.exif_transpose(image)


def _tag(image: Image.Image, number: int) -> Any:
    """The value of a TIFF file's tag, None where it has none."""
    return getattr(image, "tag_v2", {}).get(number)


def _to_rgb(image: Image.Image) -> Bytes:
    most = 4095 if _tag(image, _BITS) == (12,) else 65535
    image = _upright(image)
    if image.mode.startswith("I"):
        return np.repeat(_to_eight_bits(np.asarray(image), most)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels; expected 8 or 16 bits")
    # A palette's transparency and premultiplied alpha both need the detour over RGBA.
    if image.mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.asarray(image.convert("RGB"))


def _to_eight_bits(values: npt.NDArray[Any], most: int) -> Bytes:
    """0 to `most` as 0 to 255, rounded; `most` is odd."""
    wide = values.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > most):
        raise ValueError("32-bit pixels; expected 8 or 16 bits")
    return ((wide * 255 + most // 2) // most).astype(np.uint8)


def _nonzero(image: Image.Image) -> Mask:
    image = _upright(image)
    if image.mode == "P" and any((image.getpalette() or [0, 0, 0])[:3]):
        # Index 0 is usually the background whatever its neighbours look like (class numbers);
        # where it is not black, the palette's colours say what is what.
        image = image.convert("RGB")
    elif image.mode in ("LA", "La", "PA"):
        image = image.convert("LA").getchannel(0)
    elif image.mode in ("RGBA", "RGBa", "CMYK", "YCbCr", "HSV"):
        image = image.convert("RGBA").convert("RGB")
    values = np.asarray(image)
    return np.asarray(values.any(axis=2) if values.ndim == 3 else values != 0)


def unique_stems(paths: Iterable[Path]) -> list[str]:
    """A file name without extension for each path, different for each (also where case is lost).

    A stem stays as it is unless several paths share it: then the extension is put behind it
    (files of one folder), folder names before it, and, where all that agrees, a number behind.
    """
    listed = [Path(os.path.abspath(path)) for path in paths]
    same_folder = set(_clashing([str(path.with_suffix("")) for path in listed]))
    bases = [
        path.stem + (path.suffix.replace(".", "_") if index in same_folder else "")
        for index, path in enumerate(listed)
    ]
    names = list(bases)
    for depth in range(1, max((len(path.parts) for path in listed), default=1)):
        for index in _clashing(names):
            names[index] = "_".join([*listed[index].parent.parts[1:][-depth:], bases[index]])
    taken: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in taken:
            number += 1
            names[index] = f"{name}_{number}"
        taken.add(names[index].casefold())
    return names


def _clashing(names: Sequence[str]) -> list[int]:
    count = Counter(name.casefold() for name in names)
    return [index for index, name in enumerate(names) if count[name.casefold()] > 1]
