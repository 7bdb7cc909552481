"""Images as HTTP brings them: a form or a raw body of limited size, decoded for the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePath

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile

from diffusionad.console import printable
from diffusionad.images import Bytes, decode_image, resize

FORM = "multipart/form-data"
TYPES = frozenset({
    "application/octet-stream", "image/bmp", "image/gif", "image/jpeg", "image/jpg", "image/pjpeg",
    "image/png", "image/tif", "image/tiff", "image/webp", "image/x-ms-bmp", "image/x-png",
    "image/x-portable-anymap", "image/x-portable-graymap", "image/x-portable-pixmap",
})  # fmt: skip
SHOWN = 1024  # pixels of the longer side of an overlay


@dataclass(frozen=True)
class Decoded:
    """An image's own size, what the model will see of it [S, S, 3], and a copy to be shown."""

    width: int
    height: int
    pixels: Bytes
    shown: Bytes | None


class _Limited(Request):
    """A request that ends in 413 as soon as its body, however it is read, has too many bytes."""

    def __init__(self, request: Request, most: int) -> None:
        super().__init__(request.scope, request.receive)
        self._most = most

    async def stream(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > self._most:
                raise HTTPException(413, f"expected at most {self._most:,} bytes, got more")
            yield chunk


async def read_upload(request: Request, most: int) -> tuple[str, bytes]:
    """Name and content of the image in a request. Raises HTTPException: 400, 413, 415."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"Content-Encoding: expected none, got {printable(encoding)}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != FORM and kind not in TYPES:
        raise HTTPException(
            415, f"Content-Type: expected an image's, such as image/png, or {FORM}, got {kind}"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise HTTPException(413, f"expected at most {most:,} bytes, got {int(declared):,}")
    limited = _Limited(request, most)
    return await _from_form(limited) if kind == FORM else ("image", await limited.body())


async def _from_form(request: Request) -> tuple[str, bytes]:
    try:
        async with request.form(max_files=1, max_fields=16) as form:
            for value in form.values():
                if isinstance(value, UploadFile):
                    name = printable(PurePath(value.filename or "").name)[-100:]
                    return name or "image", await value.read()
    except FormParserError as error:  # which starlette answers itself since 0.40
        raise HTTPException(
            400, f"expected a form of type {FORM}: {printable(str(error))}"
        ) from error
    raise HTTPException(400, "expected an image as a file in the form, got none")


def decode(data: bytes, name: str, max_pixels: int, size: int, show: bool) -> Decoded:
    """Bring an image to the size that the model sees, so that one which waits takes little memory.

    predict() would resize it alike: results are the same, bit by bit. Raises InputError.
    """
    pixels = decode_image(data, name, max_pixels)
    height, width = pixels.shape[:2]
    seen = resize(pixels, size, size)
    return Decoded(width, height, seen, _reduced(pixels) if show else None)


def _reduced(pixels: Bytes) -> Bytes:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN, SHOWN))
    return np.asarray(picture)
