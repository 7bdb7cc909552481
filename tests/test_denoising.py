"""diffusionad.denoise: golden values of every mode, its noise, and refused arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import draw
from networks import each_thread_count, golden, tiny_unet

import diffusionad as dad
from diffusionad.denoising import evaluation_noise

DATA, _ = golden("denoise_tiny")
CASES = sorted({name.split("/")[0] for name in DATA if "/" in name})
FIELDS = {"x0": "guided", "x0_s": "one_step_s", "x0_b": "one_step_b"} | {
    "x_s": "x_ts", "x_b": "x_tb", "x_s_from_b": "x_ts_from_b",
}  # fmt: skip
SHAPE = (3, 32, 32)


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    t_s, t_b, w = (float(part.lstrip("tsbw")) for part in case.split("_"))
    net, x0, noise = tiny_unet(), DATA["x0"], (DATA["noise_s"], DATA["noise_b"])
    repair = dad.denoise(net, x0, t_s=int(t_s), t_b=int(t_b), w=w, noise=noise)
    for ours, theirs in FIELDS.items():
        np.testing.assert_allclose(getattr(repair, ours), DATA[f"{case}/{theirs}"], atol=1e-3)
    one = dad.denoise(net, x0, "one_step", t_s=int(t_s), noise=noise[:1])
    np.testing.assert_allclose(one.x0, DATA[f"{case}/one_step_s"], atol=1e-3)
    np.testing.assert_array_equal(one.x_s, repair.x_s)
    assert one.x0_b is one.x_b is one.x_s_from_b is None


@pytest.mark.usefixtures("every_level")
def test_golden_iterative() -> None:
    noise = (DATA["noise_s"], DATA["iterative_noises"])
    repair = dad.denoise(tiny_unet(), DATA["x0"], "iterative", t_s=20, noise=noise)
    np.testing.assert_allclose(repair.x0, DATA["iterative_t20"], atol=1e-3)


def test_without_guidance_it_is_one_step() -> None:
    net, x0 = tiny_unet(), draw(2, *SHAPE)
    guided = dad.denoise(net, x0, w=0.0, seed=3)
    np.testing.assert_array_equal(guided.x0, dad.denoise(net, x0, "one_step", seed=3).x0)


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize("mode", ["norm_guided", "one_step", "iterative"])
def test_a_repair_does_not_depend_on_batch_or_threads(mode: str) -> None:
    """The default noise is the same for every image."""
    net, x0, t_s = tiny_unet(), draw(3, *SHAPE), 2 if mode == "iterative" else 200
    for _ in each_thread_count():
        together = dad.denoise(net, x0, mode, t_s=t_s, seed=4).x0
        for i in range(3):
            alone = dad.denoise(net, x0[i : i + 1], mode, t_s=t_s, seed=4).x0[0]
            np.testing.assert_array_equal(alone, together[i])


def test_default_noise_is_that_of_the_seed() -> None:
    net, x0 = tiny_unet(), draw(2, *SHAPE)
    noise = evaluation_noise(SHAPE, 9)
    given = dad.denoise(net, x0, noise=(noise[0], np.stack([noise[1]] * 2)))
    np.testing.assert_array_equal(dad.denoise(net, x0, seed=9).x0, given.x0)
    assert (dad.denoise(net, x0, seed=8).x0 != given.x0).any()


def test_a_step_per_image() -> None:
    net, x0, t_s, t_b = tiny_unet(), draw(2, *SHAPE), [10, 290], np.array([300, 800])
    together = dad.denoise(net, x0, t_s=t_s, t_b=t_b)
    for i in range(2):
        alone = dad.denoise(net, x0[i : i + 1], t_s=t_s[i], t_b=int(t_b[i]))
        np.testing.assert_array_equal(together.x0[i], alone.x0[0])


def test_another_schedule_is_used() -> None:
    net, x0, noise = tiny_unet(), draw(1, *SHAPE), draw(1, *SHAPE, seed=1)
    cosine = dad.Schedule("cosine", timesteps=250)
    repair = dad.denoise(net, x0, "one_step", t_s=249, noise=(noise,), schedule=cosine)
    np.testing.assert_array_equal(repair.x_s, cosine.q_sample(x0, 249, noise))
    with pytest.raises(ValueError, match="expected steps from 0 to 249, got 250"):
        dad.denoise(net, x0, "one_step", t_s=250, schedule=cosine)


ONE = np.zeros((2, *SHAPE), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "none"}, ValueError, "mode: expected one of norm_guided, one_step, iterative"),
        ({"t_s": 1000}, ValueError, "t_s: expected steps from 0 to 999, got 1000"),
        ({"t_b": -1}, ValueError, "t_b: expected steps from 0 up, got -1"),
        ({"t_b": [1, 2, 3]}, ValueError, "t_b: expected an int or shape"),
        ({"t_s": 0.5}, TypeError, "t_s: expected an int"),
        ({"w": float("nan")}, ValueError, "w: expected a finite weight"),
        ({"noise": (ONE,)}, ValueError, "noise: expected 2 arrays, got 1"),
        ({"noise": (ONE, ONE[..., 1:])}, ValueError, r"noise\[1\]: expected shape"),
        ({"mode": "iterative", "t_s": 0}, ValueError, "t_s: expected an int from 1 to 1000"),
        ({"mode": "iterative", "t_s": [3, 4]}, ValueError, "t_s: expected an int from 1"),
        ({"mode": "iterative", "t_s": 3, "noise": (ONE, [ONE])}, ValueError, "expected 3 noise"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dad.denoise(tiny_unet(), draw(2, *SHAPE), **options)
