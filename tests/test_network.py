"""The object _core.Network: passes, gradients, memory, threads, SIMD levels, and its errors."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from checks import assert_close, draw
from networks import THREADS, assert_equal, tiny_segmenter, tiny_unet

from diffusionad import _core
from diffusionad.models import UNet
from diffusionad.reference import layers as reference

Gradients = dict[str, np.ndarray]
SMALL: dict[str, Any] = {"image_size": 8, "channel_mults": (1, 1), "attention_resolutions": (4,)}


def times(*steps: int) -> np.ndarray:
    return np.array(steps, np.float32)


def backward(core: Any, x: np.ndarray, dy: np.ndarray, **options: Any) -> tuple[Any, Gradients]:
    """The output, and all gradients of sum(output * dy)."""
    core.zero_gradients()
    y = core.forward(x, training=True, input_gradient=True, **options)
    dx = core.backward(dy)
    names = [name for name, _, trainable in core.parameters() if trainable]
    return y, {**{name: core.read(name, "gradient") for name in names}, "x": dx}


# ---- gradients ----------------------------------------------------------------------------------


def slope(core: Any, names: list[str], directions: Gradients, loss: Any, step: float) -> float:
    """The derivative of loss() along the directions, by central differences."""
    start = {name: core.read(name) for name in names}
    values = []
    for sign in (1, -1):
        for name in names:
            core.write(name, start[name] + np.float32(sign * step) * directions[name])
        values.append(loss())
    for name in names:
        core.write(name, start[name])
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 1, "out_channels": 5, "num_heads": 1, "dropout": 0.3},
        {"resblock_updown": False, "num_head_channels": 8, "num_res_blocks": 2},
        {"patch_size": 2, "dropout": 0.1},
        {"channel_mults": (1, 3, 1), "attention_resolutions": (8, 4, 2), "num_heads": 2},
    ],
)
def test_unet_gradients_by_differences(options: dict[str, Any]) -> None:
    net = tiny_unet(**(SMALL | options))
    x, t = draw(2, net.config["in_channels"], 8, 8), times(3, 700)
    dy = draw(2, net.config["out_channels"], 8, 8, seed=1)

    def loss() -> float:
        y = net._core.forward(x, t, training=True, seed=5)
        return float((y.astype(np.float64) * dy).sum())

    _, gradients = backward(net._core, x, dy, t=t, seed=5)
    parameters = list(net.parameters())
    for kind in ("weight", "bias"):
        for part in range(4):
            names = [n for n in parameters if n.endswith(kind)][part::4]
            norm = np.sqrt(sum((gradients[n].astype(np.float64) ** 2).sum() for n in names))
            along = {n: (gradients[n] / norm).astype(np.float32) for n in names}
            step = min(3e-3, 0.05 / norm)  # above rounding, below the curvature
            assert slope(net._core, names, along, loss, step) == pytest.approx(norm, rel=1e-2)


def test_gradients_add_up_until_they_are_zeroed() -> None:
    core, x, dy = tiny_unet()._core, draw(1, 3, 32, 32), draw(1, 3, 32, 32, seed=1)
    _, once = backward(core, x, dy, t=times(9))
    core.forward(x, times(9), training=True)
    assert core.backward(dy) is None  # the image's gradient was not asked for
    once.pop("x")
    for name, gradient in once.items():
        assert_close(core.read(name, "gradient"), 2 * gradient, 1e-6)
    core.zero_gradients()
    assert not any(core.read(name, "gradient").any() for name in once)


@pytest.mark.parametrize("network", ["unet", "unet with dropout", "segmenter"])
def test_recomputing_changes_no_bit_and_saves_memory(network: str) -> None:
    if network == "segmenter":
        make, x, dy = tiny_segmenter, draw(2, 6, 64, 64), draw(2, 1, 64, 64)
        options: dict[str, Any] = {}
    else:
        x, dy = draw(2, 3, 32, 32), draw(2, 3, 32, 32, seed=1)
        options = {"t": times(1, 400), "seed": 11}

        def make() -> Any:
            return tiny_unet(dropout=0.4 if "dropout" in network else 0.0)

    results, networks = {}, {}
    for share in (0.0, 0.3, 1.0):
        networks[share] = net = make()
        y, gradients = backward(net._core, x, dy, recompute=share, **options)
        results[share] = {**gradients, "y": y, **net.state_dict()}
    assert_equal(results[0.3], results[0.0])
    assert_equal(results[1.0], results[0.0])
    core = networks[1.0]._core
    plain, some, less = (core.memory(2, training=True, recompute=share) for share in networks)
    assert less["arena"] < 0.9 * plain["arena"]
    assert less["arena"] < some["arena"] < plain["arena"]
    assert less["weights"] == plain["weights"] == 4 * core.memory(2)["weights"]
    assert core.memory(2)["arena"] < less["arena"]


def test_what_is_cheap_is_made_again_first_then_the_largest_maps() -> None:
    """Shares of what a UNet like the paper's can save; a tenth of its 33 blocks are three."""
    core = UNet(image_size=256, base_channels=32)._core
    arenas = [core.memory(4, True, share)["arena"] for share in (0.0, 0.001, 0.1, 1.0)]
    most, cheap, some, least = arenas
    assert most - cheap > 0.7 * (most - least)
    assert cheap - some > 0.4 * (cheap - least)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_shares_that_are_none_are_refused(share: float) -> None:
    core = tiny_unet()._core
    for call in (
        lambda: core.memory(1, recompute=share),
        lambda: core.forward(draw(1, 3, 32, 32), times(1), training=True, recompute=share),
    ):
        with pytest.raises(ValueError, match="recompute: expected a share from 0 to 1"):
            call()


def test_memory_of_images_of_another_size() -> None:
    core, x = tiny_segmenter()._core, draw(2, 6, 64, 64)
    core.forward(x, training=True)
    here, there = (core.memory(2, True, size=(side, side)) for side in (64, 128))
    assert core.memory(2, True) == here
    assert 3.9 * here["arena"] < there["arena"] < 4.1 * here["arena"]
    core.backward(draw(2, 1, 64, 64))  # the pass before is still there
    core.forward(draw(2, 6, 128, 128), training=True)
    assert core.memory(2, True) == there
    with pytest.raises(MemoryError):
        core.memory(2, size=(2**28, 2**28))
    sizes = ((-1, 64), (-(2**63), 32), (-1, -1), (0, 0), (100, 64), (2**40, 2**40), (2**62, 2**62))
    for size in sizes:
        with pytest.raises(ValueError, match=r"size: this network .* cannot take images of"):
            core.memory(2, size=size)
    assert core.memory(2, True) == there


def test_dropout_depends_on_the_seed_and_is_off_in_evaluation() -> None:
    core, x, t = tiny_unet(dropout=0.5)._core, draw(1, 3, 32, 32), times(9)

    def run(seed: int) -> np.ndarray:
        return core.forward(x, t, training=True, seed=seed)

    np.testing.assert_array_equal(run(3), run(3))
    assert (run(3) != run(4)).any()
    want = tiny_unet()._core.forward(x, t)
    np.testing.assert_array_equal(core.forward(x, t, seed=3), want)


# ---- calls out of order -------------------------------------------------------------------------


def test_backward_needs_a_training_pass() -> None:
    core, x, t = tiny_unet()._core, draw(1, 3, 32, 32), times(9)
    with pytest.raises(RuntimeError, match="expected a forward pass with training=True"):
        core.backward(x)
    core.forward(x, t)
    with pytest.raises(RuntimeError):
        core.backward(x)
    core.forward(x, t, training=True)
    core.backward(x)
    with pytest.raises(RuntimeError):  # what it needed is gone
        core.backward(x)
    core.forward(x, t, training=True)
    core.trim()
    with pytest.raises(RuntimeError):
        core.backward(x)


def test_time_is_given_where_the_network_has_it() -> None:
    with pytest.raises(TypeError, match="t: expected a time step per image, got None"):
        tiny_unet()._core.forward(draw(1, 3, 32, 32))
    with pytest.raises(TypeError, match="t: this network has no time"):
        tiny_segmenter()._core.forward(draw(1, 6, 64, 64), times(1))


def test_other_image_sizes() -> None:
    for net, channels in ((tiny_unet(), 3), (tiny_segmenter(), 6)):
        t = times(9) if channels == 3 else None
        small, large = draw(1, channels, 32, 64), draw(1, channels, 96, 32)
        want = {side: net._core.forward(x, t) for side, x in (("s", small), ("l", large))}
        assert want["l"].shape[2:] == (96, 32)
        net._core.forward(small, t, training=True)
        with pytest.raises(ValueError, match="x: this network halves its maps"):
            net._core.forward(draw(1, channels, 32, 31), t)
        with pytest.raises(RuntimeError):
            net._core.backward(draw(1, net.config["out_channels"], 32, 64))
        if channels == 3:  # the segmenter's running statistics have moved
            np.testing.assert_array_equal(net._core.forward(small, t), want["s"])
            np.testing.assert_array_equal(net._core.forward(large, t), want["l"])


def test_networks_are_made_by_functions() -> None:
    with pytest.raises(TypeError, match="cannot create"):
        _core.Network()
    options = {"in_channels": 3, "out_channels": 1, "base_channels": 4, "patch": 1}
    for height, width in ((32, 33), (0, 32), (16, 16), (32, -32)):
        with pytest.raises(ValueError, match="network: the shapes do not fit"):
            _core.segmenter(height, width, **options)
    with pytest.raises(ValueError, match="network: the shapes do not fit"):
        _core.segmenter(32, 32, 3, 1, 2**62, 1)
    unet = {"height": 8, "width": 8, "in_channels": 1, "out_channels": 1, "embedding": 32} | {
        "res_blocks": 1, "heads": 1, "head_channels": -1, "resblock_updown": True, "dropout": 0.0,
        "patch": 1,
    }  # fmt: skip
    assert _core.unet(channels=(32,), attention_strides=[], **unet).parameters()
    for channels, error in (
        ([], ValueError),
        ([48], ValueError),
        ([0], ValueError),
        ([32] * 17, ValueError),
        ([32.0], TypeError),
        (32, TypeError),
    ):
        with pytest.raises(error):
            _core.unet(channels=channels, attention_strides=[], **unet)


# ---- weights, moments, the optimizer ------------------------------------------------------------


def test_read_and_write() -> None:
    core = tiny_segmenter()._core
    name, mean = "encoder_segment.block1.0.weight", "encoder_segment.block1.1.running_mean"
    shape = dict((n, s) for n, s, _ in core.parameters())[name]
    for what in ("value", "average", "gradient", "m", "v"):
        values = draw(*shape, seed=len(what))
        core.write(name, values, what)
        values_back = core.read(name, what=what)
        np.testing.assert_array_equal(values_back, values)
        values_back[:] = 0  # a copy
        np.testing.assert_array_equal(core.read(name, what), values)
    core.write(name, np.asfortranarray(draw(*shape)))
    np.testing.assert_array_equal(core.read(name), draw(*shape))
    with pytest.raises(KeyError, match='no parameter "nothing"'):
        core.read("nothing")
    with pytest.raises(ValueError, match=r'what: parameter ".*" has no "w"'):
        core.read(name, "w")
    with pytest.raises(ValueError, match='running_mean" has no "gradient"'):
        core.read(mean, "gradient")
    with pytest.raises(ValueError, match="expected shape"):
        core.write(name, draw(3))
    with pytest.raises(TypeError, match="expected dtype float32"):
        core.write(name, np.zeros(shape))
    np.testing.assert_array_equal(core.read(name), draw(*shape))


@pytest.mark.usefixtures("every_level")
def test_adam_moves_the_weights_as_its_twin_does() -> None:
    core, x = tiny_unet()._core, draw(1, 3, 32, 32)
    names = [name for name, _, _ in core.parameters()]
    expected = {name: (core.read(name), *2 * (np.zeros_like(core.read(name)),)) for name in names}
    options = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.01}
    before = core.forward(x, times(9))
    for step in (1, 2, 3):
        _, gradients = backward(core, x, draw(1, 3, 32, 32, seed=step), t=times(9))
        core.adam_step(1e-3, step, **options)
        for name in names:
            expected[name] = reference.adam(
                *expected[name], gradients[name], lr=1e-3, step=step, **options
            )
    for name in names:
        for what, want in zip(("value", "m", "v"), expected[name], strict=True):
            assert_close(core.read(name, what), want, 2e-6)
    assert (core.forward(x, times(9)) != before).any()
    with pytest.raises(ValueError, match="step: expected 1 or more, got 0"):
        core.adam_step(1e-3, 0)


@pytest.mark.usefixtures("every_level")
def test_averages_follow_the_weights_and_change_places_with_them() -> None:
    core, x = tiny_segmenter()._core, draw(1, 6, 32, 32)
    states = [
        {name: draw(*shape, seed=7 * i) for name, shape, _ in core.parameters()} for i in range(3)
    ]
    expected = None
    for state, decay in zip(states, (0.5, 0.9, 0.25), strict=True):
        for name, values in state.items():
            core.write(name, np.abs(values))  # variances are not negative
        core.average_step(decay)
        expected = expected or {name: np.abs(values) for name, values in state.items()}
        for name, values in state.items():
            expected[name] = reference.moving_average(expected[name], np.abs(values), decay)
    for name, values in expected.items():
        assert_close(core.read(name, "average"), values)
    outputs = [core.forward(x)]
    for _ in range(2):
        core.swap_average()
        outputs.append(core.forward(x))
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert (outputs[0] != outputs[1]).any()
    for name in expected:
        core.write(name, core.read(name, "average"))
    np.testing.assert_array_equal(core.forward(x), outputs[1])
    with pytest.raises(ValueError, match=r"decay: expected 0 to 1, got 1\.5"):
        core.average_step(1.5)
    core.forward(draw(2, 6, 64, 64), training=True)
    core.swap_average()
    with pytest.raises(RuntimeError):
        core.backward(draw(2, 1, 64, 64))


def test_memory_is_of_the_size_asked_for() -> None:
    core = tiny_unet()._core
    one, four = core.memory(1), core.memory(4)
    assert one.keys() == {"weights", "arena", "scratch"}
    assert 3.9 < four["arena"] / one["arena"] <= 4
    with pytest.raises(ValueError, match="batch_size: expected 1 or more, got 0"):
        core.memory(0)


def resident_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it keeps freed memory")
def test_networks_are_freed() -> None:
    def live() -> None:
        net = tiny_unet()
        backward(net._core, draw(1, 3, 32, 32), draw(1, 3, 32, 32), t=times(9))
        net._core.adam_step(1e-3, 1)
        with pytest.raises(TypeError):
            net._core.forward(draw(1, 3, 32, 32))
        with pytest.raises(ValueError, match="x: "):
            net._core.forward(draw(1, 3, 31, 32), times(9))

    for _ in range(3):
        live()
    gc.collect()
    before = resident_mb()
    for _ in range(20):  # each holds 20 MB
        live()
    gc.collect()
    assert resident_mb() < before + 20


# ---- threads, SIMD levels, processes ------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_two_callers_at_once(training: bool) -> None:
    core, other = tiny_unet()._core, tiny_segmenter()._core
    jobs = [(draw(1 + i % 2, 3, 32, 32, seed=i), times(*range(1 + i % 2))) for i in range(12)]

    def run(job: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        other.forward(draw(1, 6, 32, 32))  # a second network, in between
        return core.forward(*job, training=training)

    want = [run(job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        for got, expected in zip(pool.map(run, jobs), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_the_class_of_an_array_may_call_the_network() -> None:
    """A copy that is made of an argument asks the array's class, whatever that does then."""
    script = (
        "import numpy as np\n"
        "from diffusionad import _core\n"
        "net, seen = _core.segmenter(32, 32, 1, 1, 1, 1), []\n"
        "class Asked(np.ndarray):\n"
        "    def __array_finalize__(self, other):\n"
        "        seen.append(net.read('decoder_segment.fin_out.0.bias').shape)\n"
        "x = np.zeros((1, 1, 32, 64), np.float32)[..., ::2].view(Asked)\n"
        "del seen[:]\n"
        "print(net.forward(x).shape, bool(seen))"
    )
    done = subprocess.run(  # a deadlock holds a lock without the interpreter's, and takes no signal
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[0] == "(1, 1, 32, 32) True"


@pytest.mark.usefixtures("every_level")
def test_the_thread_count_may_change_between_the_passes() -> None:
    """At 64 channels scratch follows the threads, and 16 of them need far more than a page."""
    core, x, dy = _core.segmenter(64, 64, 6, 1, 64, 1), draw(1, 6, 64, 64), draw(1, 1, 64, 64)
    for i, (name, shape, _) in enumerate(core.parameters()):
        core.write(name, 0.05 * draw(*shape, seed=i))
    names = [name for name, _, trainable in core.parameters() if trainable]
    _core.set_num_threads(1)
    _, want = backward(core, x, dy)
    for first, second in ((1, 16), (16, 1), (2, 3), (3, 4), (1, 8)):
        core.trim()  # else what more threads left behind is large enough
        core.zero_gradients()
        _core.set_num_threads(first)
        core.forward(x, training=True)
        _core.set_num_threads(second)
        core.backward(dy)
        for name in names:
            np.testing.assert_array_equal(core.read(name, "gradient"), want[name])


def test_the_thread_count_may_change_during_a_call() -> None:
    """Scratch is sized before the GIL is released, and cut by the thread count afterwards."""
    x, w, dy = draw(1, 64, 32, 32), draw(64, 64, 3, 3), draw(1, 64, 32, 32)
    core, image = tiny_segmenter()._core, draw(1, 6, 64, 64)

    def run() -> bytes:
        parts = [*_core.conv2d_backward(dy, x, w), core.forward(image)]
        return b"".join(part.tobytes() for part in parts)

    want = run()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run) for _ in range(30)]
        counts = cycle((16, 1, 7, 2))
        while not all(job.done() for job in jobs):
            count = next(counts)
            _core.set_num_threads(count)
            assert _core.get_num_threads() == (count if _core.build_info()["openmp"] else 1)
        assert all(job.result() == want for job in jobs)


FORK = """
import os, signal, sys
import numpy as np
from diffusionad import _core

before, after = map(int, sys.argv[1:])
x, w = np.ones((1, 64, 32, 32), np.float32), np.ones((64, 64, 3, 3), np.float32)
_core.set_num_threads(before)
want = _core.conv2d(x, w).tobytes()
child = os.fork()
if child == 0:
    signal.alarm(60)  # a test that fails leaves none behind
    code = 1
    try:
        assert _core.get_num_threads() == 1
        assert _core.conv2d(x, w).tobytes() == want
        try:
            _core.set_num_threads(after)
        except RuntimeError as error:
            assert before > 1 and after > 1 and "spawn" in str(error)
        else:
            assert before == 1 or after == 1
            assert _core.conv2d(x, w).tobytes() == want
        code = 0
    finally:
        os._exit(code)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not _core.build_info()["openmp"], reason="no fork")
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 2), (1, 2)])
def test_a_forked_process_computes(before: int, after: int) -> None:
    """OpenMP's threads are not copied: a child that counted on them would wait forever."""
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(before), str(after)]
    subprocess.run(command, check=True, timeout=120)


@pytest.mark.skipif(len(_core.simd_levels()) < 2, reason="there is one level")
def test_the_level_may_not_change_during_a_call() -> None:
    x, w = draw(1, 64, 128, 128), draw(64, 64, 3, 3)
    refused = 0
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(lambda: [_core.conv2d(x, w) for _ in range(20)])
        levels = cycle(_core.simd_levels())
        while not job.done():
            try:
                _core.set_simd_level(next(levels))
            except RuntimeError:
                refused += 1
            _core.set_simd_level(_core.simd_level())  # nothing changes: never refused
    assert refused > 0


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resblock_updown": False, "num_res_blocks": 2},
        {"base_channels": 64, "num_head_channels": 16},
        {"patch_size": 2},
    ],
)
def test_what_evaluation_leaves_out_changes_nothing(options: dict[str, Any]) -> None:
    """Concatenations, upsamplings and normalised maps are made in training, not in evaluation."""
    core = tiny_unet(**options)._core
    x, t = draw(3, 3, 32, 64), times(9, 700, 0)
    assert_close(core.forward(x, t), core.forward(x, t, training=True), 8e-6)


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (96, 64, {}),
        (48, 112, {"resblock_updown": False}),
        (56, 104, {"base_channels": 64, "image_size": 16, "channel_mults": (1, 2)}),
    ],
)
def test_large_upsampled_maps_are_convolved_at_half_their_size(
    height: int, width: int, options: dict[str, Any]
) -> None:
    core = tiny_unet(**options)._core
    x, t = draw(3, 3, height, width), times(9, 700, 0)
    want = core.forward(x, t)
    assert_close(want, core.forward(x, t, training=True), 8e-6)
    for count in THREADS:
        _core.set_num_threads(count)
        np.testing.assert_array_equal(core.forward(x, t), want)
    np.testing.assert_array_equal(core.forward(x[1:2], t[1:2]), want[1:2])


def test_batch_norm_in_the_convolution_uses_the_running_statistics() -> None:
    net = tiny_segmenter()
    x = draw(2, 6, 32, 64)
    before = net(x)
    net.set_running_statistics(
        {name: values * 1.5 + 0.1 for name, values in net.running_statistics().items()}
    )
    assert np.abs(net(x) - before).max() > 1e-4


def test_evaluation_needs_less_memory_than_its_unfused_maps() -> None:
    core = UNet(image_size=256)._core
    evaluation = core.memory(2)
    largest = 2 * 128 * 256 * 256 * 4  # bytes of one map at full size
    assert evaluation["arena"] < 7 * largest


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize("net", [tiny_unet, tiny_segmenter])
def test_fast_rounds_more_and_leaves_training_alone(net: Any) -> None:
    core = net()._core
    unet = net is tiny_unet
    x, t = draw(2, 3 if unet else 6, 64, 96), times(9, 700) if unet else None
    exact, quick = core.forward(x, t), core.forward(x, t, fast=True)
    assert (exact != quick).any()
    assert_close(quick, exact, 5e-5)
    np.testing.assert_array_equal(
        core.forward(x, t, training=True, fast=True), core.forward(x, t, training=True)
    )
    small = x[..., :32, :32]
    np.testing.assert_array_equal(core.forward(small, t, fast=True), core.forward(small, t))


def test_fast_is_the_same_at_any_number_of_threads() -> None:
    core, x, t = tiny_unet()._core, draw(2, 3, 64, 96), times(9, 700)
    want = core.forward(x, t, fast=True)
    for count in THREADS:
        _core.set_num_threads(count)
        np.testing.assert_array_equal(core.forward(x, t, fast=True), want)


def test_low_memory_gives_the_same_bits() -> None:
    unet, seg = tiny_unet(), tiny_segmenter()
    x, x6, t = draw(3, 3, 32, 32), draw(3, 6, 32, 32), np.array([9, 700, 0])
    want = unet(x, t), seg(x6)
    unet.low_memory = seg.low_memory = True
    np.testing.assert_array_equal(unet(x, t), want[0])
    np.testing.assert_array_equal(unet(x, 9)[1:], unet(x[1:], 9))
    np.testing.assert_array_equal(seg(x6), want[1])
    with pytest.raises(ValueError, match="x: expected"):
        seg(x6[0])


@pytest.mark.usefixtures("every_level")
def test_a_network_serves_every_level_in_turn() -> None:
    x, t = draw(1, 3, 32, 32), times(9)
    now = _core.simd_level()
    want = tiny_unet()._core.forward(x, t)
    for other in _core.simd_levels():
        core = tiny_unet()._core
        _core.set_simd_level(other)
        core.forward(x, t)
        _core.set_simd_level(now)
        np.testing.assert_array_equal(core.forward(x, t), want)


def import_with(level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from diffusionad import _core; print(_core.simd_level())"],
        env={**os.environ, "DIFFUSIONAD_ISA": level},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("level", ["", *_core.simd_levels()])
def test_the_environment_chooses_the_level(level: str) -> None:
    done = import_with(level)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [level or _core.simd_levels()[-1]]


def test_an_unknown_level_is_an_import_error() -> None:
    done = import_with("mmx")
    assert done.returncode == 1
    assert 'ImportError: DIFFUSIONAD_ISA: this processor has no level "mmx"' in done.stderr


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("net", [tiny_unet, tiny_segmenter])
def test_memory_of_huge_batches_is_exact_or_refused(net: Any, training: bool) -> None:
    core, refused = net()._core, False
    before = core.memory(1 << 20, training)
    for power in range(21, 63):
        try:
            now = core.memory(1 << power, training)
        except MemoryError:
            refused = True
            continue
        assert not refused  # nothing larger fits again
        assert now["arena"] == 2 * before["arena"]
        assert now["scratch"] >= before["scratch"] > 0
        before = now
    assert refused


def test_memory_of_huge_maps_is_told_or_refused_for_any_thread_count() -> None:
    core = _core.unet(1, 1, 1, 1, (32,), 2, 1, 1, -1, [1], True, 0.0, 1)
    count = _core.get_num_threads()
    try:
        for threads in (1, 1024):
            _core.set_num_threads(threads)
            scratch = 0
            for power in range(57):
                try:
                    now = core.memory(1, size=(1, 1 << power))["scratch"]
                except MemoryError:
                    scratch = 1 << 63  # nothing larger fits again
                else:
                    assert now >= scratch
                    scratch = now
            assert scratch == 1 << 63
    finally:
        _core.set_num_threads(count)


@pytest.mark.parametrize("change", ["write", "adam_step"])
def test_other_weights_forbid_the_backward_pass(change: str) -> None:
    core = tiny_segmenter()._core
    x = draw(2, 6, 32, 32)
    name = "encoder_segment.block1.0.weight"
    y = core.forward(x, training=True)
    core.write(name, core.read(name, "gradient"), "gradient")  # no weight
    core.backward(y)
    core.forward(x, training=True)
    if change == "write":
        core.write(name, 2 * core.read(name))
    else:
        core.adam_step(1e-2, 1)
    with pytest.raises(RuntimeError, match="expected a forward pass with training=True just"):
        core.backward(y)


@pytest.mark.parametrize("dropout", [-0.5, 1.5, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout: expected a probability from 0 to 1"):
        _core.unet(8, 8, 1, 1, (32,), 32, 1, 1, -1, [], True, dropout, 1)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^seed: expected an int from 0 .* got {seed}$"):
        tiny_segmenter()._core.forward(draw(1, 6, 32, 32), seed=seed)


@pytest.mark.parametrize("count", ["0", "-1", "1025", "2x", "two", "99999999999999999999"])
def test_the_environment_chooses_a_sensible_thread_count(count: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import diffusionad"],
        env={**os.environ, "DIFFUSIONAD_NUM_THREADS": count},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f'ImportError: DIFFUSIONAD_NUM_THREADS: expected 1 to 1024, got "{count}"' in done.stderr


@pytest.mark.skipif(not _core.build_info()["openmp"], reason="one thread")
@pytest.mark.parametrize(("count", "want"), [("3", 3), ("", 5)])
def test_the_environment_chooses_the_thread_count(count: str, want: int) -> None:
    script = "from diffusionad import _core; print(_core.get_num_threads())"
    environment = {"DIFFUSIONAD_NUM_THREADS": count, "OMP_NUM_THREADS": "5"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == want


def test_an_interrupt_while_a_seed_is_asked_for_stays_one() -> None:
    class Interrupted:
        def __index__(self) -> int:
            raise KeyboardInterrupt

    core = tiny_segmenter()._core
    with pytest.raises(KeyboardInterrupt):
        core.forward(draw(1, 6, 32, 32), seed=Interrupted())
    with pytest.raises(TypeError, match="seed: expected an int from 0"):
        core.forward(draw(1, 6, 32, 32), seed=1.0)


def test_arrays_of_types_without_a_number_are_refused() -> None:
    """As those are that other packages add; NumPy has one to test with."""
    umath = pytest.importorskip("numpy._core._multiarray_umath", reason="NumPy's own tests' type")
    make = getattr(umath, "_get_sfloat_dtype", None)
    if make is None:
        pytest.skip("this NumPy has no type to test with")
    with pytest.raises(TypeError, match="x: expected dtype float32"):
        _core.silu(np.ones(2).view(make()(1.0)))


def test_a_core_that_is_loaded_again_keeps_the_thread_count() -> None:
    script = """if True:
        import sys
        import diffusionad
        from diffusionad import _core
        _core.set_num_threads(3)
        wanted = _core.get_num_threads()
        del sys.modules["diffusionad._core"], diffusionad._core
        from diffusionad import _core
        assert _core.get_num_threads() == wanted
    """
    subprocess.run([sys.executable, "-c", script], check=True)
