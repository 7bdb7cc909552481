"""csrc/pipeline/diffuse.c and guide.c."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffusionad import _core
from diffusionad.diffusion import Schedule
from diffusionad.reference import pipeline as twin

SCHEDULE = Schedule("linear", timesteps=1000)
SHAPES = [(1, 3, 1, 1), (2, 3, 7, 5), (3, 3, 32, 32), (1, 1, 97, 173), (2, 3, 80, 80), (4, 5)]
GOLDEN = np.load(Path(__file__).parent / "golden" / "denoise.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files if "/" in name})


def images(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def guide_arguments(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Inputs for which a good part of both clips is active, and none sits on an edge."""
    count = shape[0]
    x0, noise_s, noise_b = (images(i, shape, 0.6) for i in range(3))
    t_s, t_b = np.arange(count) * 37 % 300, 300 + np.arange(count) * 131 % 500
    abar_s, abar_b = SCHEDULE.alphas_cumprod[t_s], SCHEDULE.alphas_cumprod[t_b]
    x_s = _core.q_sample(x0, noise_s, abar_s)
    x_b = _core.q_sample(x0, noise_b, abar_b)
    eps_s = noise_s + images(3, shape, 0.3)
    eps_b = noise_b + images(4, shape, 0.3)
    return x_s, x_b, eps_s, eps_b, abar_s, abar_b


def doubled(arguments: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [a.astype(np.float64) for a in arguments]


def test_preconditioning_without_noise() -> None:
    """As abar goes to 1, the factor of x_t goes to 0."""
    x_t, output = images(0, (2, 3, 4, 4)), images(1, (2, 3, 4, 4))
    abar = np.array([1.0, 1 - 1e-12])
    eps = _core.precondition(x_t, output, abar)
    np.testing.assert_array_equal(eps[0], -output[0])
    np.testing.assert_allclose(eps[1], -output[1], atol=1e-4)
    d_output, dx_t = _core.precondition_backward(output, abar)
    np.testing.assert_array_equal(d_output[0], -output[0])
    assert not dx_t[0].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0, 200, 999])
def test_q_sample_and_back(shape: tuple[int, ...], t: int) -> None:
    x0, noise = images(0, shape), images(1, shape)
    abar = SCHEDULE.alphas_cumprod_at(t, len(x0))
    x_t = SCHEDULE.q_sample(x0, t, noise)
    np.testing.assert_allclose(x_t, twin.q_sample(x0, noise, abar), atol=1e-6)
    back = SCHEDULE.predict_x0(x_t, t, noise)
    error = 2e-6 * (1 + SCHEDULE.sqrt_recipm1_alphas_cumprod[t])
    np.testing.assert_allclose(back, x0, atol=4 * error)
    clipped = _core.predict_x0(x_t, noise, abar, clip=True)
    np.testing.assert_array_equal(clipped, np.clip(back, -1, 1))


def test_a_step_per_image() -> None:
    x0, noise, t = images(0, (3, 3, 8, 8)), images(1, (3, 3, 8, 8)), [0, 500, 999]
    together = SCHEDULE.q_sample(x0, t, noise)
    for i in range(3):
        alone = SCHEDULE.q_sample(x0[i : i + 1], t[i], noise[i : i + 1])
        np.testing.assert_array_equal(together[i : i + 1], alone)


@pytest.mark.parametrize("shape", SHAPES)
def test_ancestral_step(shape: tuple[int, ...]) -> None:
    x_t, eps, noise = images(0, shape), images(1, shape), images(2, shape)
    t = np.arange(shape[0]) * 301 + 1
    got = SCHEDULE.ancestral_step(x_t, t, eps, noise)
    levels = (SCHEDULE.alphas_cumprod[t], SCHEDULE.alphas_cumprod[t - 1], SCHEDULE.betas[t])
    want = twin.ancestral_step(x_t, eps, noise, *levels, SCHEDULE.betas[t])
    np.testing.assert_allclose(got, want, atol=3e-6)


def test_the_last_ancestral_step_adds_no_noise() -> None:
    x_t, eps, noise = (images(i, (2, 3, 8, 8)) for i in range(3))
    got = SCHEDULE.ancestral_step(x_t, 0, eps, noise)
    np.testing.assert_array_equal(got, SCHEDULE.ancestral_step(x_t, 0, eps, None))
    abar = SCHEDULE.alphas_cumprod_at(0, 2)
    np.testing.assert_allclose(got, _core.predict_x0(x_t, eps, abar, clip=True), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_guide(shape: tuple[int, ...], w: float) -> None:
    arguments = guide_arguments(shape)
    got, want = _core.guide(*arguments, w), twin.guide(*doubled(arguments), w)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=5e-5, err_msg=name)
    np.testing.assert_array_equal(_core.norm_guided_eps(*arguments, w), got["eps_hat"])
    if w == 0.0:
        # Not bit for bit: where multiply-add is one instruction the two are contracted differently.
        np.testing.assert_allclose(got["x0_hat"], got["x0_s"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """The network's predictions are not stored: they follow from its intermediate images."""
    t_s, t_b, w = (float(part.lstrip("tsbw")) for part in case.split("_"))
    x0, g = GOLDEN["x0"], {k: GOLDEN[f"{case}/{k}"] for k in ("x_ts", "x_tb", "guided")}
    count = len(x0)
    abar_s = SCHEDULE.alphas_cumprod_at(int(t_s), count)
    abar_b = SCHEDULE.alphas_cumprod_at(int(t_b), count)
    np.testing.assert_allclose(
        SCHEDULE.q_sample(x0, int(t_s), GOLDEN["noise_s"]), g["x_ts"], atol=1e-6
    )
    np.testing.assert_allclose(
        SCHEDULE.q_sample(x0, int(t_b), GOLDEN["noise_b"]), g["x_tb"], atol=1e-6
    )
    coarse, again = GOLDEN[f"{case}/one_step_b"], GOLDEN[f"{case}/x_ts_from_b"]
    a, b = abar_s[0], abar_b[0]
    eps_s = ((again - np.sqrt(a) * coarse) / np.sqrt(1 - a)).astype(np.float32)
    eps_b = ((g["x_tb"] / np.sqrt(b) - coarse) / np.sqrt(1 / b - 1)).astype(np.float32)
    got = _core.guide(g["x_ts"], g["x_tb"], eps_s, eps_b, abar_s, abar_b, w)
    np.testing.assert_allclose(got["x0_hat"], g["guided"], atol=2e-4)
    np.testing.assert_allclose(got["x0_s"], GOLDEN[f"{case}/one_step_s"], atol=2e-4)
    np.testing.assert_allclose(got["x_s_from_b"], again, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("w", [1.0, 0.3])
def test_guide_backward_twin(shape: tuple[int, ...], w: float) -> None:
    arguments, gradient = guide_arguments(shape), images(9, shape)
    got = _core.guide_backward(gradient, *arguments, w)
    want = twin.guide_backward(gradient.astype(np.float64), *doubled(arguments), w)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_guide_backward_is_the_derivative() -> None:
    """Central differences of the twin, away from the clips' edges."""
    arguments, gradient = doubled(guide_arguments((2, 3, 6, 6))), images(9, (2, 3, 6, 6))
    got = _core.guide_backward(
        gradient, *(a.astype(np.float32) for a in arguments[:4]), *arguments[4:], 1.0
    )
    before = twin.guide(*arguments)
    unclipped = twin.predict_x0(arguments[0], before["eps_hat"], arguments[4])
    coarse = twin.predict_x0(arguments[1], arguments[3], arguments[5])
    clear = (abs(abs(unclipped) - 1) > 1e-3) & (abs(abs(coarse) - 1) > 1e-3)
    assert (abs(unclipped) > 1).any()
    assert (abs(coarse) > 1).any()
    for which, step in ((2, 1e-5), (3, 1e-5)):
        up, down = list(arguments), list(arguments)
        up[which], down[which] = arguments[which] + step, arguments[which] - step
        slope = (twin.guide(*up)["x0_hat"] - twin.guide(*down)["x0_hat"]) / (2 * step)
        np.testing.assert_allclose(got[which - 2][clear], (slope * gradient)[clear], atol=1e-4)


def test_a_clip_passes_the_gradient_at_its_edge() -> None:
    one = np.ones((1, 1), np.float32)
    zero, abar = np.zeros((1, 1), np.float32), np.ones(1)
    d_s, _ = _core.guide_backward(one, one, zero, zero, zero, abar, abar, 0.0)
    assert d_s[0, 0] == 0  # at abar = 1 the prediction plays no part
    half = np.array([0.25])  # exact: x_t / sqrt(abar) = 2 x_t
    for x, passes in ((0.5, True), (-0.5, True), (np.nextafter(np.float32(0.5), 1), False)):
        d_s, _ = _core.guide_backward(one, one * x, zero, zero, zero, half, abar, 0.0)
        assert (d_s[0, 0] != 0) == passes


def test_threads_and_strides_change_nothing() -> None:
    arguments, gradient = guide_arguments((3, 3, 96, 96)), images(9, (3, 3, 96, 96))
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim > 1 else a for a in arguments]
    before = _core.get_num_threads()
    try:
        _core.set_num_threads(1)
        want = _core.guide(*arguments), _core.guide_backward(gradient, *arguments)
        for threads in (2, 3, 4):
            _core.set_num_threads(threads)
            got = _core.guide(*strided), _core.guide_backward(gradient, *strided)
            for name in want[0]:
                np.testing.assert_array_equal(got[0][name], want[0][name])
            np.testing.assert_array_equal(got[1], want[1])
    finally:
        _core.set_num_threads(before)


def test_refused() -> None:
    x, abar = images(0, (2, 3, 4, 4)), np.array([0.5, 0.5])
    with pytest.raises(TypeError, match=r"^x0: expected dtype float32"):
        _core.q_sample(x.astype(np.float64), x, abar)
    with pytest.raises(ValueError, match=r"^noise: expected shape"):
        _core.q_sample(x, x[:1], abar)
    with pytest.raises(TypeError, match=r"^abar: expected dtype float64"):
        _core.q_sample(x, x, abar.astype(np.float32))
    for wrong in ([0.5, 0.0], [0.5, 1.5], [np.nan, 0.5], [0.5, -1.0]):
        with pytest.raises(ValueError, match=r"^abar: expected values in"):
            _core.q_sample(x, x, np.array(wrong))
    with pytest.raises(ValueError, match=r"^abar: expected shape"):
        _core.predict_x0(x, x, abar[:1])
    with pytest.raises(ValueError, match=r"^x0: expected a non-empty"):
        _core.q_sample(x[:0], x[:0], abar[:0])
    with pytest.raises(ValueError, match=r"^x0: expected at least 1"):
        _core.q_sample(x[0, 0, 0, 0:1].reshape(()), x, abar)
    with pytest.raises(ValueError, match=r"^eps_b: expected shape"):
        _core.guide(x, x, x, x[..., :2], abar, abar)
    with pytest.raises(ValueError, match=r"^w: "):
        _core.norm_guided_eps(x, x, x, x, abar, abar, float("nan"))
    with pytest.raises(ValueError, match=r"^abar: expected values below 1"):
        _core.ancestral_step(x, x, None, np.ones(2), np.ones(2), abar, abar)
    with pytest.raises(ValueError, match=r"^t: expected steps from 0 to 999, got 1000"):
        SCHEDULE.q_sample(x, 1000, x)
