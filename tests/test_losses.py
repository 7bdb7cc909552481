"""Losses and their gradients against their float64 twins and golden values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw

from diffusionad import _core
from diffusionad.reference import layers as reference

pytestmark = pytest.mark.usefixtures("every_level")

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["focal_loss", "smooth_l1_loss", "bce_loss", "dice_loss"]
COUNTS = [1, 5, 16, 33, 4097, 300_001]  # tails; more than one part; more than 64 of the smallest


def prediction(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    p = generator.random(count, dtype=np.float32)
    return p, (generator.random(count) > 0.7).astype(np.float32)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_losses(name: str, count: int) -> None:
    p, t = prediction(count)
    if name == "smooth_l1_loss":
        p = 4.0 * p - 2.0  # both branches
    value, gradient = getattr(_core, name)(p, t)
    expected, expected_gradient = getattr(reference, name)(p, t)
    assert value == pytest.approx(expected, rel=1e-6)
    assert_close(gradient, expected_gradient)
    if count == max(COUNTS):
        assert_same_for_any_thread_count(getattr(_core, name), p, t)


@pytest.mark.parametrize("name", ["focal", "smooth_l1"])
def test_losses_agree_with_the_reference_implementation(name: str) -> None:
    golden = np.load(GOLDEN / "losses.npz")
    value, gradient = getattr(_core, f"{name}_loss")(golden["pred"], golden["target"])
    assert value == pytest.approx(float(golden[name]), rel=1e-6)
    assert_close(gradient, golden[f"grad_{name}"], 1e-6)


@pytest.mark.parametrize("name", ["focal_loss", "bce_loss"])
def test_logarithms_are_clamped(name: str) -> None:
    p = np.array([0, 1, 0, 1, 1e-30, 1e-42, 1e-8, 1 - 6e-8, 1e-30, 1 - 6e-8], np.float32)
    t = np.array([0, 1, 1, 0, 1, 1, 0, 1, 0, 0], np.float32)
    value, gradient = getattr(_core, name)(p, t)
    expected, expected_gradient = getattr(reference, name)(p, t)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=2e-6, atol=1e-9)


def test_logarithm_is_accurate() -> None:
    p = np.concatenate([np.geomspace(1e-38, 1.0, 3001), np.linspace(0.5, 1.0, 997)])
    p = p.astype(np.float32)
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    for value in p:
        for target in (ones, zeros):
            if value == 1.0 and target[0] == 0.0:
                continue
            actual = _core.bce_loss(np.full(1, value), target)[0]
            exact = -np.log(np.float64(value)) if target[0] else -np.log1p(-np.float64(value))
            assert actual == pytest.approx(exact, rel=3e-7, abs=1e-40)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 5, 7), (2, 1, 70, 90)])
def test_squared_error(shape: tuple[int, ...]) -> None:
    a, b, weight = draw(*shape), draw(*shape, seed=1), draw(shape[0], seed=2)
    for arguments in ((a, b), (a, b, weight)):
        values, gradient = _core.squared_error(*arguments)
        expected, expected_gradient = reference.squared_error(*arguments)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        assert_close(gradient, expected_gradient)
    if len(shape) == 4:
        assert_same_for_any_thread_count(_core.squared_error, a, b, weight)


def test_losses_pass_nan_on_and_refuse() -> None:
    p, t = prediction(40)
    with pytest.raises(ValueError, match="target: expected shape"):
        _core.focal_loss(p, t[1:])
    with pytest.raises(TypeError, match="pred: expected dtype float32"):
        _core.dice_loss(p.astype(np.float64), t)
    with pytest.raises(ValueError, match="weight: expected shape"):
        _core.squared_error(p.reshape(4, 10), t.reshape(4, 10), draw(3))
    p[37] = np.nan
    assert all(np.isnan(getattr(_core, name)(p, t)[0]) for name in NAMES)
