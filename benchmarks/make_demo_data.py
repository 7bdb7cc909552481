"""Makes the demo's images out of BSData: every k-th file, resized to 256x256, masks of 0 and 255.

    python benchmarks/make_demo_data.py BSDATA diffusionad/data/bsdata

BSDATA holds `ball_screw/` in MVTec AD's layout, with LICENSE beside it; the target's ATTRIBUTION.md
says what was changed and is written by hand.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (256, 256)
EVERY = {"train/good": 3, "test/good": 2, "test/pitting": 2}
MASKS = {"test/pitting": "ground_truth/pitting"}


def write_image(source: Path, target: Path) -> None:
    """Antialiased triangle filter; JPEG like the source, without colour subsampling."""
    with Image.open(source) as image:
        small = image.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)
    small.save(target, quality=90, subsampling=0, optimize=True)


def write_mask(source: Path, target: Path) -> None:
    """Defect where at least half of the pixel's area is; a defect that small is never lost."""
    with Image.open(source) as image:
        covered = np.asarray(image.convert("L").resize(SIZE, Image.Resampling.BOX))
    mask = covered >= min(128, int(covered.max()))
    if not covered.any():
        raise SystemExit(f"{source}: the mask is empty")
    Image.fromarray(mask.astype(np.uint8) * 255).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    source, target = arguments.source / "ball_screw", arguments.target / "ball_screw"
    for folder, step in EVERY.items():
        (target / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / folder).iterdir())[::step]:
            write_image(path, target / folder / path.name)
            if folder in MASKS:
                name = f"{path.stem}_mask.png"
                (target / MASKS[folder]).mkdir(parents=True, exist_ok=True)
                write_mask(source / MASKS[folder] / name, target / MASKS[folder] / name)
    shutil.copyfile(arguments.source / "LICENSE", arguments.target / "LICENSE")


if __name__ == "__main__":
    main()
