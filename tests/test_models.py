"""The two networks: golden values, the reference's names, refused arguments, equal bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_close, draw
from networks import (
    GOLDEN,
    TINY,
    assert_equal,
    distance,
    each_thread_count,
    golden,
    largest,
    recipe,
    sampled,
    tiny_segmenter,
    tiny_unet,
    under,
)

from diffusionad.models import SegmentationNet, UNet

T = np.array([3, 500, 999])


# ---- golden values ------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize("name", ["unet_tiny", "unet_tiny_headch_plain_updown"])
def test_unet_golden(name: str) -> None:
    data, config = golden(name)
    net = UNet(**config)
    net.load_state_dict(recipe(net))
    assert_close(net(data["x"], data["t"]), data["eps"], 2e-5)
    gradients = net.backward(data["x"], data["t"], data["grad_eps"])
    assert distance(gradients.pop("x"), data["grad_x"]) < 1e-3
    want = under(data, "grad/")
    assert gradients.keys() == want.keys()
    for parameter, gradient in gradients.items():
        assert distance(sampled(gradient), want[parameter], largest(want)) < 1e-3, parameter


@pytest.mark.usefixtures("every_level")
def test_segmentation_golden() -> None:
    data, config = golden("seg_tiny")
    net = SegmentationNet(**config)
    net.load_state_dict(recipe(net))
    assert_close(net(data["x"]), data["mask_eval"], 2e-5)
    before = net.state_dict()
    gradients = net.backward(data["x"], data["grad_mask"])
    assert_equal(net.state_dict(), before)
    assert distance(gradients.pop("x"), data["grad_x"]) < 5e-2
    want = under(data, "grad/")
    assert gradients.keys() == want.keys()
    for parameter, gradient in gradients.items():
        assert distance(sampled(gradient), want[parameter], largest(want)) < 5e-2, parameter


@pytest.mark.usefixtures("every_level")
def test_training_mode_moves_the_running_statistics() -> None:
    data, _ = golden("seg_tiny")
    net = tiny_segmenter()
    assert_close(net(data["x"], training=True), data["mask_train"], 1e-4)
    state, after = net.state_dict(), under(data, "after/")
    assert len(after) == 2 * 27
    for name, want in after.items():
        np.testing.assert_allclose(state[name], want, rtol=1e-4, atol=1e-6, err_msg=name)
    counts = [int(n) for name, n in state.items() if name.endswith("num_batches_tracked")]
    assert counts == [1] * 27


# ---- names and shapes ---------------------------------------------------------------------------


def test_full_networks_have_the_official_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (UNet, SegmentationNet):  # a hundred million weights need no values here
        monkeypatch.setattr(network, "initialise", lambda self, seed: None)
    official: dict[str, dict[str, str]] = {}
    for line in (GOLDEN / "state_dict_names.txt").read_text().splitlines():
        network, name, shape = line.split(" ", 2)
        official.setdefault(network, {})[name] = shape
    assert sum(map(len, official.values())) == 757
    for network, net in (
        ("unet_model_state_dict", UNet()),
        ("seg_model_state_dict", SegmentationNet()),
    ):
        shapes = {name: str(list(array.shape)) for name, array in net.state_dict().items()}
        assert shapes == official[network]


@pytest.mark.parametrize(
    ("image_size", "base_channels", "widths"),
    [
        (32, 32, [32, 64, 96, 128]),
        (64, 32, [32, 64, 96, 128]),
        (128, 32, [32, 32, 64, 96, 128]),
        (256, 32, [32, 32, 64, 64, 128, 128]),
        (512, 64, [32, 64, 64, 128, 128, 256, 256]),
    ],
)
def test_level_widths(image_size: int, base_channels: int, widths: list[int]) -> None:
    net = UNet(image_size=image_size, base_channels=base_channels, num_res_blocks=1)
    shapes = net.parameters()
    levels = [f"down.{1 + 2 * i}.0.out_layers.3.weight" for i in range(len(widths))]
    assert [shapes[name][0] for name in levels] == widths
    assert net.num_parameters == sum(int(np.prod(shape)) for shape in shapes.values())


def test_initial_weights_are_the_reference_s() -> None:
    state = UNet(**TINY).state_dict()
    assert not state["out.2.weight"].any()
    assert not state["down.1.0.out_layers.3.bias"].any()
    assert (state["down.1.0.in_layers.0.weight"] == 1).all()
    bound = 1 / np.sqrt(32 * 9)
    for name in ("down.1.0.in_layers.2.weight", "down.1.0.in_layers.2.bias"):
        assert 0.8 * bound < np.abs(state[name]).max() <= np.float32(bound)
    assert_equal(UNet(**TINY, seed=0).state_dict(), state)
    other = UNet(**TINY, seed=1).state_dict()
    assert (other["down.0.0.weight"] != state["down.0.0.weight"]).all()


# ---- patches, preconditioning --------------------------------------------------------------------


def blocks(x: np.ndarray, p: int) -> np.ndarray:
    """Each p by p pixels of (N, C, H, W) as one of p² C channels: by row, column, channel."""
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // p, p, w // p, p).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(split.reshape(n, p * p * c, h // p, w // p))


@pytest.mark.parametrize("p", [2, 4])
def test_a_patch_is_a_pixel_of_more_channels(p: int) -> None:
    net = tiny_unet(image_size=16 * p, patch_size=p)
    plain = tiny_unet(image_size=16, in_channels=3 * p * p, out_channels=3 * p * p)
    x, grad = draw(2, 3, 16 * p, 16 * p), draw(2, 3, 16 * p, 16 * p, seed=1)
    np.testing.assert_array_equal(blocks(net(x, T[:2]), p), plain(blocks(x, p), T[:2]))
    got, want = net.backward(x, 5, grad), plain.backward(blocks(x, p), 5, blocks(grad, p))
    assert_equal({**got, "x": blocks(got["x"], p)}, want)
    seg, pair = tiny_segmenter(patch_size=p), draw(1, 6, 32 * p, 64 * p)
    plain_seg = tiny_segmenter(in_channels=6 * p * p, out_channels=p * p)
    np.testing.assert_array_equal(blocks(seg(pair), p), plain_seg(blocks(pair, p)))


def test_preconditioning_is_its_formula() -> None:
    net, plain = tiny_unet(preconditioned=True), tiny_unet()
    x, dy = draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1)
    abar = net.schedule.alphas_cumprod[T][:, None, None, None]
    c = (1 / 16) / ((1 - abar) / abar + 1 / 16)
    direct = (1 - c) / np.sqrt(1 - abar)
    want = direct * (x - np.sqrt(abar) / 2) - np.sqrt(c) * plain(x, T)
    np.testing.assert_allclose(net(x, T), want, rtol=1e-5, atol=1e-5)
    got = net.backward(x, T, dy)
    inner = plain.backward(x, T, (-np.sqrt(c) * dy).astype(np.float32))
    inner["x"] = (inner["x"] + direct * dy).astype(np.float32)
    for name, gradient in inner.items():
        assert distance(got[name], gradient, largest(inner)) < 1e-4, name


# ---- refused arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("base_channels", {"base_channels": 48}),
        ("base_channels", {"base_channels": 0}),
        ("image_size", {"image_size": 31}),
        ("image_size", {"image_size": 0}),
        ("channel_mults", {"image_size": 48, "channel_mults": None}),
        ("channel_mults", {"channel_mults": ()}),
        ("channel_mults", {"channel_mults": (0.5, 1)}),
        ("channel_mults", {"channel_mults": (1, 1.5)}),
        ("channel_mults", {"channel_mults": (1,) * 17}),
        ("num_heads", {"num_heads": 0}),
        ("num_heads", {"num_heads": 5}),
        ("num_head_channels", {"num_head_channels": 24}),
        ("num_res_blocks", {"num_res_blocks": 0}),
        ("num_res_blocks", {"num_res_blocks": 31}),
        ("in_channels", {"in_channels": 0}),
        ("out_channels", {"out_channels": -1}),
        ("patch_size", {"patch_size": 0}),
        ("patch_size", {"patch_size": 17}),
        ("image_size", {"patch_size": 3}),
        ("preconditioned", {"preconditioned": True, "out_channels": 4}),
        ("dropout", {"dropout": 1.0}),
        ("dropout", {"dropout": float("nan")}),
    ],
)
def test_unet_refuses_options(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        UNet(**(TINY | options))


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "base_channels"])
def test_segmentation_refuses_options(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected 1 or more, got 0"):
        SegmentationNet(**{"base_channels": 4, name: 0})


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((1, 3, 32, 32)), TypeError, "x: expected dtype float32, got float64"),
        (np.zeros((3, 32, 32), np.float32), ValueError, "x: expected 4 dimensions, got 3"),
        (np.zeros((1, 4, 32, 32), np.float32), ValueError, "x: expected shape"),
        (np.zeros((0, 3, 32, 32), np.float32), ValueError, "x: expected a non-empty array"),
        (np.zeros((1, 3, 33, 32), np.float32), ValueError, "x: this network halves its maps"),
    ],
)
def test_images_are_checked(x: np.ndarray, error: type[Exception], message: str) -> None:
    unet, seg = tiny_unet(), tiny_segmenter(in_channels=3)
    with pytest.raises(error, match=message):
        unet(x, 5)
    with pytest.raises(error, match=message):
        seg(x)
    assert unet(draw(1, 3, 32, 32), 5).shape == (1, 3, 32, 32)
    assert seg(draw(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        ([1, 2, 3], ValueError, r"t: expected an int or shape \(2,\), got shape \(3,\)"),
        ([[1, 2]], ValueError, "t: expected an int or shape"),
        (0.5, TypeError, "t: expected an int or an array of ints, got float64"),
        ([1.0, 2.0], TypeError, "t: expected an int"),
        ([1, -2], ValueError, "t: expected steps from 0 up, got -2"),
    ],
)
def test_time_steps_are_checked(t: Any, error: type[Exception], message: str) -> None:
    net, x = tiny_unet(), draw(2, 3, 32, 32)
    with pytest.raises(error, match=message):
        net(x, t)
    with pytest.raises(error, match=message):
        net.backward(x, t, x)


def test_gradients_are_checked() -> None:
    net, x = tiny_unet(), draw(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"dy: expected shape \(2, 3, 32, 32\)"):
        net.backward(x, 1, x[:1])
    with pytest.raises(TypeError, match="dy: expected dtype float32"):
        net.backward(x, 1, x.astype(np.float64))
    seg, pair = tiny_segmenter(), draw(2, 6, 64, 64)
    before = seg.state_dict()
    with pytest.raises(ValueError, match="dy: expected shape"):
        seg.backward(pair, draw(2, 2, 64, 64))
    assert_equal(seg.state_dict(), before)


def test_batch_statistics_need_more_than_one_value() -> None:
    net, x = tiny_segmenter(), draw(1, 6, 32, 32)
    before = net.state_dict()
    with pytest.raises(ValueError, match="x: one image of this size"):
        net(x, training=True)
    assert_equal(net.state_dict(), before)
    assert net(x).shape == (1, 1, 32, 32)
    assert np.isfinite(net(draw(2, 6, 32, 32), training=True)).all()


def test_what_is_not_contiguous_is_taken() -> None:
    net, x = tiny_unet(), draw(2, 3, 32, 32)
    want = net(x, 7)
    strided = np.zeros((2, 3, 64, 32), np.float32)[:, :, ::2]
    strided[:] = x
    np.testing.assert_array_equal(net(strided, 7), want)
    np.testing.assert_array_equal(net(np.asfortranarray(x), 7), want)
    np.testing.assert_array_equal(net(x.astype(">f4"), 7), want)


def test_nan_goes_through() -> None:
    x = draw(2, 3, 32, 32)
    x[0, 1, 4, 4] = np.nan
    y = tiny_unet()(x, 7)
    assert np.isnan(y[0]).any()
    assert np.isfinite(y[1]).all()


# ---- state dicts --------------------------------------------------------------------------------


def test_state_dict_round_trip() -> None:
    for net, other in ((tiny_unet(), UNet(**TINY)), (tiny_segmenter(), SegmentationNet(6, 1, 4))):
        state = net.state_dict()
        other.load_state_dict(state)
        assert_equal(other.state_dict(), state)
        next(iter(state.values()))[:] = 0  # a copy: the network keeps its own
        assert not (next(iter(net.state_dict().values())) == 0).all()


def test_load_state_dict_changes_nothing_when_it_fails() -> None:
    net = tiny_segmenter()
    net(draw(1, 6, 64, 64), training=True)
    before = net.state_dict()
    name = next(reversed(net.parameters()))
    wrong = {key: np.zeros_like(array) for key, array in before.items()}
    for error, message, state in (
        (KeyError, "1 names missing", {k: v for k, v in wrong.items() if k != name}),
        (KeyError, "1 unknown, for example 'more'", {**wrong, "more": np.zeros(1)}),
        (ValueError, "expected shape", {**wrong, name: np.zeros(7, np.float32)}),
        (ValueError, "could not convert", {**wrong, name: np.array(["a"])}),
    ):
        with pytest.raises(error, match=message):
            net.load_state_dict(state)
        assert_equal(net.state_dict(), before)


def test_counters_may_be_missing() -> None:
    net = tiny_segmenter()
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    net(draw(1, 6, 64, 64), training=True)
    net.load_state_dict(state)
    assert not any(v for k, v in net.state_dict().items() if "num_batches" in k)


# ---- equal bits ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resblock_updown": False, "num_head_channels": 16},
        {"patch_size": 2, "preconditioned": True},
    ],
)
def test_an_image_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    net, x = tiny_unet(**options), draw(3, 3, 32, 32)
    together = net(x, T)
    for i in range(3):
        np.testing.assert_array_equal(net(x[i : i + 1], T[i : i + 1])[0], together[i])


@pytest.mark.usefixtures("every_level")
def test_a_mask_does_not_depend_on_its_batch() -> None:
    net, x = tiny_segmenter(), draw(3, 6, 64, 96)
    together = net(x)
    for i in range(3):
        np.testing.assert_array_equal(net(x[i : i + 1])[0], together[i])


@pytest.mark.usefixtures("every_level")
def test_the_thread_count_changes_no_bit() -> None:
    unet, seg = tiny_unet(), tiny_segmenter()
    x, pair, grad_mask = draw(3, 3, 32, 32), draw(3, 6, 64, 64), draw(3, 1, 64, 64)
    first: dict[str, np.ndarray] | None = None
    for _ in each_thread_count():
        results = {
            "eps": unet(x, T),
            "mask": seg(pair),
            **{f"unet {name}": g for name, g in unet.backward(x, T, x).items()},
            **{f"seg {name}": g for name, g in seg.backward(pair, grad_mask).items()},
        }
        first = first or results
        assert_equal(results, first)


@pytest.mark.parametrize("count", [np.array([3]), 2**64 - 1, np.uint64(2**63), 3.7, -5])
def test_a_count_of_batches_is_a_whole_number(count: Any) -> None:
    net = tiny_segmenter()
    before = net.state_dict()
    name = "encoder_segment.block1.1.num_batches_tracked"
    with pytest.raises(ValueError, match=f"{name}: expected a count of batches, got "):
        net.load_state_dict({**before, name: count})
    assert_equal(net.state_dict(), before)
