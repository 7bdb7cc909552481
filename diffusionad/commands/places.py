"""Where predict finds images, and which results it may write beside or over what is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from diffusionad.errors import InputError
from diffusionad.images import is_image_name, list_images
from diffusionad.result_files import (
    TABLE,
    among_images,
    files_of,
    has_results,
    is_panel,
    require_other_files,
)

log = logging.getLogger(__name__)


def collect(given: Sequence[str], out: Path) -> list[Path]:
    """The images that files and folders stand for, each once, in the order given.

    Folders are searched but for `out`, and for pictures of results in folders below: those of
    earlier calls. Raises InputError where a picture of the results would replace an image.
    """
    paths: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = _place_in(path, out)
            found = [
                image
                for image in list_images(path, recursive=True)
                if inside is None or inside not in image.parents
            ]
            left_out = {image for image in found if image.parent != path and is_panel(image)}
            for folder in sorted({image.parent for image in left_out}):
                words = "holds results of an earlier call; their pictures are left out"
                log.warning("%s: %s", folder, words)
            found = [image for image in found if image not in left_out]
            if not found:
                raise InputError(f"{path}: no images in this folder")
            paths += found
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder")
        elif not is_image_name(path):
            raise InputError(f"{path}: not an image file by its name")
        elif path.resolve() == (out / f"{path.stem}.png").resolve():
            raise among_images(f"--out {out}")
        else:
            paths.append(path)
    return list(dict.fromkeys(paths))


def require_free(out: Path, stems: Sequence[str], images: Sequence[Path]) -> None:
    """Raise InputError where results would replace an image, or what no call of predict left."""
    files = files_of(out, stems)
    require_other_files(files, images)
    if has_results(out):
        return
    for path in (out / TABLE, *files):
        if path.is_file():
            raise InputError(
                f"{path}: a result would replace this file, which is no result itself "
                f"(no {TABLE} of ours lies there); choose another --out"
            )


def _place_in(folder: Path, out: Path) -> Path | None:
    """The path of the results below a folder of images; None where they lie elsewhere.

    Raises InputError where both are one folder.
    """
    top, results = folder.resolve(), out.resolve()
    if results == top:
        raise among_images(f"--out {out}")
    return folder / results.relative_to(top) if results.is_relative_to(top) else None
