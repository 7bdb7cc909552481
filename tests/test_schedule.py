"""csrc/pipeline/schedule.c and diffusionad.diffusion.Schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusionad import _core
from diffusionad.diffusion import Schedule, check_steps
from diffusionad.reference import pipeline as twin

GOLDEN = np.load(Path(__file__).parent / "golden" / "schedule.npz")


@pytest.mark.parametrize("name", GOLDEN.files)
def test_golden_table(name: str) -> None:
    kind, steps, table = name.split("/")
    got = getattr(Schedule(kind, timesteps=int(steps)), table)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, GOLDEN[name], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("kind", "steps"), [("linear", 21), ("cosine", 2), ("cosine", 4000)])
def test_twin(kind: str, steps: int) -> None:
    got, want = _core.schedule(kind, steps), twin.schedule(kind, steps)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-15, err_msg=name)
    assert ((got["betas"] > 0) & (got["betas"] < 1)).all()


@pytest.mark.parametrize(
    ("kind", "steps", "argument"),
    [
        ("quadratic", 10, "kind"),
        ("linear", 20, "timesteps"),
        ("cosine", 1, "timesteps"),
        ("cosine", -3, "timesteps"),
        ("linear", 10**7, "timesteps"),
    ],
)
def test_refused(kind: str, steps: int, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        Schedule(kind, timesteps=steps)


def test_is_a_value() -> None:
    schedule = Schedule("cosine", timesteps=50)
    assert schedule == Schedule("cosine", timesteps=50)
    assert len({schedule, Schedule("cosine", timesteps=50), Schedule("linear", timesteps=50)}) == 2
    assert repr(schedule) == "Schedule('cosine', timesteps=50)"
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 0.5


def test_steps() -> None:
    np.testing.assert_array_equal(check_steps(7, 3, 10), [7, 7, 7])
    np.testing.assert_array_equal(check_steps(np.array([0, 9], np.uint8), 2, 10), [0, 9])
    for wrong in (-1, 10, [0, 10], [0], [[0, 1]]):
        with pytest.raises(ValueError, match=r"^t_s: "):
            check_steps(wrong, 2, 10, "t_s")
    for wrong in (0.5, [1.0, 2.0], True):
        with pytest.raises(TypeError, match=r"^t: "):
            check_steps(wrong, 2, 10)
