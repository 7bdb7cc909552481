"""How many images each category of the public datasets has, as their authors published it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """Numbers of images; `left_out` are those that a layout uses neither to train nor to test."""

    train: int
    test_good: int
    test_defective: int
    left_out: int = 0

    def __add__(self, other: object) -> Counts:
        """Sum of two, number by number (and not one tuple behind the other)."""
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(mine + its for mine, its in zip(self, other, strict=True)))


# By category, the numbers that a copy may have: one set of them, or one for each convention.
Published = Mapping[str, tuple[Counts, ...]]


def _table(text: str) -> Published:
    """Read "bottle 209/20/63, cable 224/58/92, ..."."""
    rows = (row.split() for row in text.split(","))
    return {name: (Counts(*map(int, numbers.split("/"))),) for name, numbers in rows}


MVTEC = _table(
    "bottle 209/20/63, cable 224/58/92, capsule 219/23/109, carpet 280/28/89, grid 264/21/57, "
    "hazelnut 391/40/70, leather 245/32/92, metal_nut 220/22/93, pill 267/26/141, "
    "screw 320/41/119, tile 230/33/84, toothbrush 60/12/30, transistor 213/60/40, "
    "wood 247/19/60, zipper 240/32/119"
)

VISA = _table(
    "candle 900/100/100, capsules 542/60/100, cashew 450/50/100, chewinggum 453/50/100, "
    "fryum 450/50/100, macaroni1 900/100/100, macaroni2 900/100/100, pcb1 904/100/100, "
    "pcb2 901/100/100, pcb3 905/101/100, pcb4 904/101/100, pipe_fryum 450/50/100"
)

MPDD = _table(
    "bracket_black 289/32/47, bracket_brown 185/26/51, bracket_white 110/30/30, "
    "connector 128/30/14, metal_plate 54/26/71, tubes 122/32/69"
)

# (images in each half, defective ones in Train, in both) of Class1 to Class10
_DAGM_HALVES = (
    *((575, train, 150) for train in (79, 66, 66, 82, 70, 83)),
    *((1150, 150, 300) for _ in range(4)),
)

# Train on the good images of `Train`, test on all of `Test`.
DAGM_RAW: Published = {
    f"Class{number}": (Counts(half - bad, half - (both - bad), both - bad, bad),)
    for number, (half, bad, both) in enumerate(_DAGM_HALVES, 1)
}

# Converted copies test on the defective images of `Test`, or on those of both halves.
DAGM: Published = {
    name: (raw._replace(left_out=0), Counts(raw.train, raw.test_good, raw[2] + raw[3]))
    for name, (raw,) in DAGM_RAW.items()
}
