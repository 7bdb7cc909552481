"""What the tests of the layers share: drawn arrays, and the two comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusionad import _core


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-6) -> None:
    """Arrays, or tuples of them: the largest error against the largest value."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, tolerance)
        return
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max() + 1e-30


def assert_same_for_any_thread_count(function: Any, *args: Any, **kwargs: Any) -> None:
    """Bit for bit; leaves the thread count changed, which the fixture every_level undoes."""

    def run(threads: int) -> list[bytes]:
        _core.set_num_threads(threads)
        result = function(*args, **kwargs)
        parts = result if isinstance(result, tuple) else (result,)
        return [np.asarray(part).tobytes() for part in parts]

    single = run(1)
    assert all(run(threads) == single for threads in (2, 3, 4))
