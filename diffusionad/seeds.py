"""Seeds: whole numbers, or NumPy's generators, which draw one."""

from __future__ import annotations

import operator
from typing import TypeAlias

import numpy as np

Seed: TypeAlias = "int | np.random.Generator"  # quoted: numpy loads generators when named

BELOW = 2**63  # of what is drawn: files of settings hold signed numbers


def number(seed: Seed, below: int = BELOW) -> int:
    """The seed itself, or a generator's next whole number from 0 to ``below`` − 1.

    Raises TypeError for anything else, ValueError for an int that is not from 0 to 2^64 − 1.
    """
    try:
        value = operator.index(seed)  # type: ignore[arg-type] # a generator has none
    except TypeError:
        if not isinstance(seed, np.random.Generator):
            raise TypeError(
                f"seed: expected an int or a numpy.random.Generator, got {type(seed).__name__}"
            ) from None
        return int(seed.integers(below, dtype=np.uint64))
    if not 0 <= value < 2**64:
        raise ValueError(f"seed: expected an int from 0 to 2**64 - 1, got {value}")
    return value
