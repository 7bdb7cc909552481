"""Trainer: three golden steps, its learning rates, its random draws, and refused arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from checks import draw
from networks import (
    assert_equal,
    distance,
    each_thread_count,
    golden,
    sampled,
    tiny_segmenter,
    tiny_unet,
    under,
)

import diffusionad as dad
from diffusionad import _core
from diffusionad.reference import layers as reference
from diffusionad.training_memory import GB, SHARES, planned, recomputed

LABELS = [0, 1, 0]
State = dict[str, np.ndarray]


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    images = rng.random((3, 3, 32, 32), dtype=np.float32)
    masks = (rng.random((3, 1, 32, 32)) < 0.2).astype(np.float32)
    return images, masks * np.array(LABELS, np.float32)[:, None, None, None], LABELS


def trainer(unet_options: dict[str, Any] | None = None, **options: Any) -> dad.Trainer:
    return dad.Trainer(tiny_unet(**(unet_options or {})), tiny_segmenter(), **options)


def state(training: dad.Trainer) -> State:
    return {
        f"{part} {name}": array
        for part, net in (("unet", training.unet), ("seg", training.seg))
        for name, array in net.state_dict().items()
    }


# ---- golden values ------------------------------------------------------------------------------


def check_first_update(data: Any, part: str, start: State, now: State) -> None:
    """Adam turns a tiny gradient's rounding into a full step: only where the gradient is clear."""
    got, want = [], []
    for name, gradient in under(data, f"grad0/{part}/").items():
        clear = np.abs(gradient) > 1e-2 * np.abs(gradient).max()
        before = sampled(start[f"{part} {name}"])[clear]
        got.append(sampled(now[f"{part} {name}"])[clear] - before)
        want.append(data[f"after0/{part}/{name}"][clear] - before)
    assert distance(np.concatenate(got), np.concatenate(want)) < 0.3


def golden_step(training: dad.Trainer, data: Any, i: int, nudge: np.ndarray | float = 0) -> Any:
    step = under(data, f"step{i}/")
    return training.step(
        np.float32(step["image"] * (1 + nudge)),
        step["mask"],
        step["label"],
        t=(step["t_s"], step["t_b"]),
        noise=(step["noise_s"], step["noise_b"]),
    )


def golden_losses(data: Any, i: int) -> dict[str, float]:
    step = under(data, f"step{i}/")
    names = {"noise": "noise_loss", "focal": "focal", "smooth_l1": "smooth_l1", "total": "total"}
    return {name: float(step[key]) for name, key in names.items()}


def golden_trainer() -> tuple[dad.Trainer, Any]:
    data, config = golden("train_three_steps")
    options = {"unet_lr": 1e-4, "seg_lr": 1e-5, "seg_cosine_t_max": 10}
    return trainer(config["unet"], **options), data


@pytest.mark.usefixtures("every_level")
def test_the_first_golden_step() -> None:
    training, data = golden_trainer()
    start = state(training)
    out = golden_step(training, data, 0)
    for name, want in golden_losses(data, 0).items():
        assert out[name] == pytest.approx(want, rel=2e-5, abs=1e-6), name
    step = under(data, "step0/")
    np.testing.assert_allclose(out["x0"], step["pred_x0"], atol=1e-3)
    np.testing.assert_allclose(out["mask"], step["pred_mask"], atol=1e-4)
    now = state(training)
    check_first_update(data, "unet", start, now)
    check_first_update(data, "seg", start, now)
    statistics = {k: v for k, v in under(data, "after0/seg/").items() if "running" in k}
    assert len(statistics) == 2 * 27
    for name, want in statistics.items():
        np.testing.assert_allclose(now[f"seg {name}"], want, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("every_level")
def test_three_golden_steps() -> None:
    """Adam turns the rounding of a gradient near zero into a full step, so that one run in some
    thirty is 2e-3 from the second step's losses: the median of runs whose images differ in the last
    place is compared."""
    losses: list[list[dict[str, float]]] = [[], [], []]
    for seed in range(5):
        training, data = golden_trainer()
        for i in range(3):
            shape = data[f"step{i}/image"].shape
            nudge = np.random.default_rng(seed).choice([-6e-8, 0, 6e-8], shape)
            losses[i].append(golden_step(training, data, i, nudge if seed else 0).losses)
            rate = float(data[f"step{i}/lr_seg_next"])
            assert training.learning_rates(i + 1)[1] == pytest.approx(rate)
        counts = [int(v) for k, v in state(training).items() if "num_batches" in k]
        assert counts == [3] * 27
    for i, tolerance in enumerate((2e-5, 1e-3, 1e-2)):
        for name, want in golden_losses(data, i).items():
            got = float(np.median([one[name] for one in losses[i]]))
            assert got == pytest.approx(want, rel=tolerance, abs=1e-6), (i, name)


def test_the_losses_are_what_they_say() -> None:
    training = trainer(losses={"noise": 2.0, "dice": 3.0, "bce": 0.5})
    images, masks, labels = batch()
    eps = draw(6, 3, 32, 32)
    t_s, t_b = np.array([1, 100, 299]), np.array([300, 500, 999])
    x_s = training.schedule.q_sample(images, t_s, eps[:3])
    x_b = training.schedule.q_sample(images, t_b, eps[3:])
    predicted = training.unet(np.concatenate([x_s, x_b]), np.concatenate([t_s, t_b]))
    out = training.step(images, masks, labels, t=(t_s, t_b), noise=(eps[:3], eps[3:]))
    each = ((predicted.astype(np.float64) - eps) ** 2).mean(axis=(1, 2, 3))
    assert out["noise"] == pytest.approx((each[0] + each[3] + each[2] + each[5]) / 2, rel=1e-5)
    assert out["dice"] == pytest.approx(reference.dice_loss(out["mask"], masks)[0], rel=1e-5)
    assert out["bce"] == pytest.approx(reference.bce_loss(out["mask"], masks)[0], rel=1e-5)
    total = 2 * out["noise"] + 3 * out["dice"] + 0.5 * out["bce"]
    assert out["total"] == pytest.approx(total)
    assert set(out.losses) == {"noise", "dice", "bce", "total"}


# ---- learning rates -----------------------------------------------------------------------------


def test_reference_learning_rates() -> None:
    training = trainer(unet_lr=2.0, seg_lr=4.0, seg_cosine_t_max=10)
    rates = [training.learning_rates(i) for i in range(41)]
    assert {unet for unet, _ in rates} == {2.0}
    seg = [rate for _, rate in rates]
    assert seg[0] == 4.0
    assert seg[5] == pytest.approx(2.0)
    assert seg[10] == pytest.approx(0.0)
    assert seg[20:] == pytest.approx(seg[:21])  # it comes back: the period is 20
    assert seg[3] == pytest.approx(2 * (1 + math.cos(0.3 * math.pi)))
    constant = trainer(unet_lr=2.0, seg_lr=4.0, seg_cosine_t_max=0)
    assert {constant.learning_rates(i) for i in range(30)} == {(2.0, 4.0)}


def test_warm_up_and_half_cosine() -> None:
    training = trainer(unet_lr=1.0, seg_lr=0.1, total_steps=14, warmup=4)
    unet = [training.learning_rates(i)[0] for i in range(15)]
    assert unet[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert unet[9] == pytest.approx(0.5)
    assert unet[14] == pytest.approx(0.0)
    assert unet[4:] == sorted(unet[4:], reverse=True)
    seg = [training.learning_rates(i)[1] for i in range(15)]
    assert seg == pytest.approx([0.1 * rate for rate in unet])
    assert trainer(total_steps=3, warmup=3).learning_rates(3)[0] == pytest.approx(1e-4)
    assert [training.learning_rates(i)[0] for i in (15, 20, 24)] == [0.0] * 3  # it stays there


# ---- random draws -------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_iteration_alone() -> None:
    first, second = trainer(seed=5), trainer(seed=5)
    first.step(*batch(seed=1))
    second.iteration = 1
    second.unet.load_state_dict(first.unet.state_dict())
    second.seg.load_state_dict(first.seg.state_dict())
    results = [training.step(*batch()) for training in (first, second)]
    np.testing.assert_array_equal(results[0].x0, results[1].x0)
    assert results[0].losses == results[1].losses
    for other in ({"seed": 6}, {"seed": 5}):  # another seed; another iteration
        training = trainer(**other)
        training.unet.load_state_dict(first.unet.state_dict())
        assert (training.step(*batch()).x0 != results[0].x0).any()


def test_steps_are_drawn_from_their_ranges() -> None:
    training = trainer(schedule=dad.Schedule("linear", 400))
    drawn = []
    for training.iteration in range(200):
        t_s, t_b, eps = training._draw((4, 3, 2, 2), None, None)
        drawn.append((t_s, t_b))
    t_s, t_b = np.array(drawn).swapaxes(0, 1)
    assert (t_s.min(), t_s.max()) == (0, 299)
    assert (t_b.min(), t_b.max()) == (300, 399)
    assert eps.shape == (8, 3, 2, 2)
    assert eps.dtype == np.float32
    training = trainer(t_s_range=(7, 9), t_b_range=(20, 20))
    t_s, t_b, _ = training._draw((100, 3, 2, 2), None, None)
    assert sorted(set(t_s)) == [7, 8, 9]
    assert set(t_b) == {20}


def test_given_steps_and_noise_are_used() -> None:
    noise = (draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1))
    fixed = {"t": ([1, 2, 3], 500), "noise": noise}
    first, second = trainer(seed=1), trainer(seed=2)
    assert first.step(*batch(), **fixed).losses == second.step(*batch(), **fixed).losses
    assert_equal(state(first), state(second))


def test_the_repair_in_training_is_guided_as_asked_for() -> None:
    noise = (draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1))
    images, masks, labels = batch()
    repairs = {}
    for w in (0.0, 0.3):
        training = trainer(guidance=w)
        wanted = dad.denoise(training.unet, images, t_s=100, t_b=400, w=w, noise=noise).x0
        repairs[w] = training.step(images, masks, labels, (100, 400), noise).x0
        assert distance(repairs[w], wanted) < 1e-5
    assert distance(repairs[0.3], repairs[0.0]) > 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight_decay", 0.1), ("guidance", 0.0), ("schedule", dad.Schedule("cosine"))],
)
def test_options_change_what_a_step_does(name: str, value: Any) -> None:
    usual, other = trainer(unet_lr=1e-3), trainer(unet_lr=1e-3, **{name: value})
    for training in (usual, other):
        training.step(*batch(), t=(100, 400))
    name = "unet out.2.weight"
    assert distance(state(other)[name], state(usual)[name]) > 1e-6


def test_noise_is_added_to_the_clean_images_where_there_are_any() -> None:
    images, masks, labels = batch()
    clean, _, _ = batch(seed=1)
    t, noise = ([9, 99, 199], [300, 400, 500]), (draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1))
    both, usual = (
        trainer().step(shown, masks, labels, t, noise, clean=clean) for shown in (images, clean)
    )
    np.testing.assert_array_equal(both.x0, usual.x0)
    assert both.losses["noise"] == usual.losses["noise"]
    assert (both.mask != usual.mask).any()  # the segmentation network sees the images
    plain = trainer().step(clean, masks, labels, t, noise)
    np.testing.assert_array_equal(usual.mask, plain.mask)
    with pytest.raises(ValueError, match="clean: expected shape"):
        trainer().step(images, masks, labels, clean=clean[:2])


def test_dropout_depends_on_the_seed() -> None:
    fixed = {"t": (10, 500), "noise": (draw(3, 3, 32, 32),) * 2}
    losses = [
        trainer({"dropout": 0.5}, seed=seed).step(*batch(), **fixed)["noise"] for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


# ---- equal bits ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_level")
def test_the_thread_count_changes_no_bit() -> None:
    first: State | None = None
    for _ in each_thread_count():
        training = trainer({"dropout": 0.2})
        out = [training.step(*batch(seed)) for seed in range(2)][-1]
        result = {**state(training), "x0": out.x0, "mask": out.mask, **out.losses}
        first = first or result
        assert_equal(result, first)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_memory_budget_changes_no_bit(dropout: float) -> None:
    results = []
    for budget in (8.0, 0.0):
        training = trainer({"dropout": dropout}, memory_budget=budget)
        out = [training.step(*batch(seed)) for seed in range(2)][-1]
        results.append({**state(training), "x0": out.x0, **out.losses})
    assert_equal(results[1], results[0])


def test_the_least_share_that_keeps_a_budget_is_made_again() -> None:
    step = (tiny_unet(), tiny_segmenter(), 2, (64, 64), 2)
    totals = [planned(*step, share / SHARES)["total"] for share in range(SHARES + 1)]
    assert totals[0] > totals[1] > totals[-1]
    for budget in (totals[0], totals[0] - 1, totals[3], totals[-1], totals[-1] - 1, 0):
        keep = [share / SHARES for share, total in enumerate(totals) if total <= budget]
        least = totals.index(min(totals)) / SHARES
        assert recomputed(*step, budget) == min(keep, default=least)


def test_steps_keep_their_budget(monkeypatch) -> None:
    free = trainer()
    images, masks, labels = batch()
    step = (free.unet, free.seg, len(images), images.shape[2:])
    asked: list[float] = []
    forward = type(free.unet)._forward

    def recording(*args: Any, recompute: float, **options: Any) -> Any:
        asked.append(recompute)
        return forward(*args, recompute=recompute, **options)

    monkeypatch.setattr(type(free.unet), "_forward", recording)
    for passes in (2, 1):
        most, least = (planned(*step, passes, share)["total"] for share in (0.0, 1.0))
        budget = (most + least) / 2
        training = trainer(memory_budget=budget / GB)
        if passes == 2:
            training.step(images, masks, labels)
        else:
            training.step_autoencoder(images, masks, images)
        assert 0.0 < asked[-1] < 1.0
        assert planned(*step, passes, asked[-1])["total"] <= budget
    free.step(images, masks, labels)
    free.memory_budget = 0.0
    free.step(images, masks, labels)
    assert asked[2:] == [0.0, recomputed(*step, 2, 0.0)]


# ---- refused arguments --------------------------------------------------------------------------


def test_refused_options() -> None:
    with pytest.raises(ValueError, match="losses: 'tv' is none of noise, focal"):
        trainer(losses={"focal": 1.0, "tv": 1.0})
    with pytest.raises(ValueError, match="schedule: training draws t_b from 300 up"):
        trainer(schedule=dad.Schedule("linear", 300))
    with pytest.raises(ValueError, match="schedule: training draws t_s from 300 up"):
        trainer(t_s_range=(300, 400), t_b_range=(0, 9), schedule=dad.Schedule("linear", 300))
    with pytest.raises(ValueError, match="t_b_range: expected 0 <= first <= last, got 9 and 8"):
        trainer(t_b_range=(9, 8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [0, 1]}, ValueError, "labels: expected 3 labels"),
        ({"masks": draw(3, 1, 32, 31)}, ValueError, "target: expected shape"),
        ({"masks": np.zeros((3, 1, 32, 32))}, TypeError, "target: expected dtype float32"),
        ({"images": draw(3, 4, 32, 32)}, ValueError, "x: expected shape"),
        ({"images": draw(3, 3, 16, 16)}, ValueError, "images: size: this network halves its"),
        ({"images": draw(3, 32, 32)}, ValueError, r"images: expected \(N, C, H, W\), got shape"),
        ({"t": (0, 1000)}, ValueError, r"t\[1\]: expected steps from 0 to 999, got 1000"),
        ({"t": ([1, 2], 500)}, ValueError, r"t\[0\]: expected an int or shape"),
        ({"noise": (draw(3, 3, 32, 32), draw(2, 3, 32, 32))}, ValueError, r"noise\[1\]: expected"),
    ],
)
def test_a_refused_step_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    training = trainer()
    before = state(training)
    with pytest.raises(error, match=message):
        training.step(**(dict(zip(("images", "masks", "labels"), batch(), strict=True)) | change))
    assert_equal(state(training), before)
    assert training.iteration == 0


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    training, reference_trainer = trainer(), trainer()
    before = state(training)
    images, masks, labels = batch()
    broken = images.copy()
    broken[0, 0, 3, 3] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan at iteration 0"):
        training.step(broken, masks, labels)
    assert_equal(state(training), before)
    training.step(images, masks, labels)
    reference_trainer.step(images, masks, labels)
    assert_equal(state(training), state(reference_trainer))


def test_training_lowers_the_loss() -> None:
    training = trainer(unet_lr=1e-3, seg_lr=1e-3, seg_cosine_t_max=0)
    fixed = {"t": (100, 500), "noise": (draw(3, 3, 32, 32), draw(3, 3, 32, 32, seed=1))}
    losses = [training.step(*batch(), **fixed)["total"] for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]


# ---- the autoencoder of the ablation ------------------------------------------------------------


def test_the_autoencoder_learns_to_give_back_the_clean_image() -> None:
    images, masks, _ = batch()
    clean = batch(1)[0]
    training = trainer(losses={"noise": 2.0, "bce": 1.0})
    repaired = training.unet(images, 0)
    out = training.step_autoencoder(images, masks, clean)
    assert np.abs(out.x0 - repaired).max() < 1e-4  # other kernels than without gradients
    error = float(((repaired - clean).astype(np.float64) ** 2).mean())
    assert out.losses["noise"] == pytest.approx(error, rel=1e-4)
    assert out.losses["total"] == pytest.approx(2 * error + out.losses["bce"], rel=1e-4)
    assert training.iteration == 1


def test_the_autoencoders_gradients_are_those_of_both_losses() -> None:
    images, masks, _ = batch()
    clean = batch(1)[0]
    training, fresh = (trainer(losses={"noise": 2.0, "bce": 1.0}) for _ in range(2))
    repaired = training.step_autoencoder(images, masks, clean).x0
    pair = np.concatenate([images, repaired], axis=1)
    kept = fresh.seg.running_statistics()
    mask = fresh.seg(pair, training=True)
    fresh.seg.set_running_statistics(kept)
    _, d_mask = _core.bce_loss(mask, masks)
    d_repaired = fresh.seg.backward(pair, d_mask)["x"][:, 3:]
    d_error = np.float32(2 * 2 / images.size) * (repaired - clean)
    wanted = fresh.unet.backward(images, 0, np.ascontiguousarray(d_error + d_repaired))
    got = training.unet.gradients()
    assert set(got) == set(wanted) - {"x"}
    for name, gradient in got.items():
        assert distance(gradient, wanted[name]) < 1e-3, name


def test_an_autoencoders_step_that_is_refused_changes_nothing() -> None:
    images, masks, _ = batch()
    training = trainer()
    before = state(training)
    with pytest.raises(ValueError, match=r"clean: expected shape \(3, 3, 32, 32\), got \(2, "):
        training.step_autoencoder(images, masks, images[:2])
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        training.step_autoencoder(images, masks, np.full_like(images, np.nan))
    assert_equal(state(training), before)
