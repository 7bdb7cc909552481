"""The optimizer against its float64 twin."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw

from diffusionad import _core
from diffusionad.reference import layers as reference

pytestmark = pytest.mark.usefixtures("every_level")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1,), (15,), (16, 3), (4, 5, 3, 3), (40_001,)])
def test_adam(shape: tuple[int, ...], weight_decay: float) -> None:
    start = draw(*shape)
    ours = theirs = (start, np.zeros_like(start), np.zeros_like(start))
    options = {"lr": 1e-2, "beta1": 0.8, "beta2": 0.99, "weight_decay": weight_decay}
    for step in range(1, 6):
        dw = draw(*shape, seed=step)
        ours = _core.adam(*ours, dw, step=step, **options)
        theirs = reference.adam(*theirs, dw, step=step, **options)
        assert_close(ours, theirs)


@pytest.mark.parametrize("count", [3, 40_001])
def test_an_average_that_begins_anew_forgets_what_it_was(count: int) -> None:
    w = draw(count)
    for bad in (np.nan, np.inf):
        found = _core.moving_average(np.full(count, bad, np.float32), w, 0.0)
        np.testing.assert_array_equal(found, w)


def test_adam_of_a_tiny_gradient() -> None:
    zero = np.zeros(3, np.float32)
    dw = np.array([0.0, 1e-12, 1e-3], np.float32)
    w, m, v = _core.adam(zero, zero, zero, dw, 1e-3, 1)
    expected, *_ = reference.adam(zero, zero, zero, dw, 1e-3, 1)
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    assert w[0] == m[0] == v[0] == 0.0


def test_adam_keeps_its_promises() -> None:
    w, m, v, dw = draw(50_000), draw(50_000, seed=1), draw(50_000, seed=2) ** 2, draw(50_000)
    kept = [a.copy() for a in (w, m, v, dw)]
    assert_same_for_any_thread_count(_core.adam, w, m, v, dw, 1e-3, 7)
    assert all((a == b).all() for a, b in zip((w, m, v, dw), kept, strict=True))
    with pytest.raises(ValueError, match="step: expected 1 or more, got 0"):
        _core.adam(w, m, v, dw, 1e-3, 0)
    with pytest.raises(ValueError, match="v: expected shape"):
        _core.adam(w, m, v[1:], dw, 1e-3, 1)


@pytest.mark.parametrize("count", [1, 17, 20_000])
def test_moving_average(count: int) -> None:
    average, w = draw(count), draw(count, seed=1)
    assert_close(_core.moving_average(average, w, 0.99), reference.moving_average(average, w, 0.99))
    assert_same_for_any_thread_count(_core.moving_average, average, w, 0.99)
