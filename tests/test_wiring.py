"""What one part hands to the next: a value that is lost on the way fails no other test.

Settings to the trainer, the synthesis and the repair; options to metrics, tiles and datasets; the
command line to recipes; the seed and the step to every draw; interrupts, averages and files.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from checks import draw
from networks import tiny_segmenter, tiny_unet
from PIL import Image
from test_checkpoints import example
from test_export import PAPER, make
from test_fitting import STEPS, Clock, drawn, small, states, stop_at, trained, weights
from test_normality import photographs
from test_training import batch, trainer

import diffusionad as dad
from diffusionad import (
    bootstrap,
    checkpoints,
    datasets,
    evaluation,
    fitting,
    metrics,
    normality,
    saliency,
    sources,
    tiling,
    validation,
)
from diffusionad.cli import build_parser
from diffusionad.commands.studies import recipe
from diffusionad.config import TrainConfig
from diffusionad.kept import Kept
from diffusionad.preview import preview
from diffusionad.tiling import Tiles

Calls = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 40, 36, 3), dtype=np.uint8)


def noted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Calls:
    """The arguments of every call of a function, which does what it did; a method's self first."""
    calls: Calls = []
    function = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def saved(folder: Path, pixels: Sequence[np.ndarray]) -> Path:
    """A folder of images 0.png, 1.png ..."""
    folder.mkdir(parents=True)
    for index, values in enumerate(pixels):
        Image.fromarray(values).save(folder / f"{index}.png")
    return folder


def squares(count: int, side: int) -> list[np.ndarray]:
    """Parts on a plain background: dark squares of two fifths of the side."""
    rng = np.random.default_rng(1)
    made = [rng.integers(195, 205, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    for pixels in made:
        pixels[side * 3 // 10 : side * 7 // 10, side * 3 // 10 : side * 7 // 10] = 40
    return made


# ---- settings of a run ------------------------------------------------------------------------


def test_the_trainer_has_the_settings(images, monkeypatch):
    given = {
        "guidance": 0.25, "t_s_range": (3, 5), "t_b_range": (7, 9), "weight_decay": 0.1,
        "seg_cosine_t_max": 4, "seed": 6,
    }  # fmt: skip
    steps = noted(monkeypatch, dad.Trainer, "step")
    small(schedule="cosine", anneal=False, **given).fit(images, steps=1)
    trainer_of_run = steps[0][0]
    assert {name: getattr(trainer_of_run, name) for name in given} == given
    assert trainer_of_run.schedule.kind == "cosine"


def test_training_and_validation_make_the_anomalies_that_are_asked_for(
    tmp_path, images, monkeypatch
):
    red = np.zeros((50, 50, 3), np.uint8)
    red[..., 0] = 255
    calls = [noted(monkeypatch, part, "synthesize_batch") for part in (fitting, validation)]
    model = small(
        smallest_exponent=1, largest_exponent=2, random_part=True, self_probability=0.25,
        validation_share=0.5, validations=1,
    )  # fmt: skip
    textures = saved(tmp_path / "red", [red])
    model.fit(np.concatenate([images] * 3), steps=1, anomaly_source=textures)
    for [(_, _, appearances, _, options)] in calls:
        assert options.exponents == (1, 2)
        assert options.random_part
        assert options.self_probability == 0.25
        assert appearances[:, 0].min() == 1
        assert appearances[:, 1:].max() == 0


def test_no_two_samples_of_a_run_have_the_same_anomaly(images, monkeypatch):
    model = small(anomaly_probability=1.0, batch_size=4)
    steps = drawn(model, monkeypatch, source=images, steps=3)
    assert len({mask.tobytes() for _, masks, _ in steps for mask in masks}) == 12


def test_the_seed_decides_the_samples(images, monkeypatch):
    first, second = (
        drawn(small(seed=seed), monkeypatch, source=images, steps=1)[-1][0] for seed in (0, 1)
    )
    assert (first != second).any()


def test_labels_are_those_of_the_masks(images, monkeypatch):
    steps = drawn(small(batch_size=8), monkeypatch, source=images, steps=2)
    labels = np.concatenate([labels for _, _, labels in steps])
    masks = np.concatenate([masks for _, masks, _ in steps])
    assert 0 < labels.mean() < 1
    np.testing.assert_array_equal(labels, masks.any(axis=(1, 2, 3)))


def test_an_autoencoder_is_shown_anomalies_and_the_images_without_them(images, monkeypatch):
    steps = noted(monkeypatch, dad.Trainer, "step_autoencoder")
    small(mode="autoencoder", anomaly_probability=1.0).fit(images, steps=1)
    _, shown, masks, clean = steps[0]
    inside = np.broadcast_to(masks > 0, shown.shape)
    assert (shown[inside] != clean[inside]).mean() > 0.5
    np.testing.assert_array_equal(shown[~inside], clean[~inside])


def test_every_step_drops_other_activations():
    fixed = {"t": (10, 500), "noise": (draw(3, 3, 32, 32),) * 2}
    training = trainer({"dropout": 0.5}, unet_lr=0.0, seg_lr=0.0)
    first, second = (training.step(*batch(), **fixed)["noise"] for _ in range(2))
    assert first != second


def test_layers_drop_other_activations_than_each_other():
    """Of networks that show which of a layer's ones are left."""
    kept = []
    for layer in ("middle.0", "middle.2"):
        net, one = tiny_unet(channel_mults=(1,), attention_resolutions=(), dropout=0.5), range(32)
        state = {name: np.zeros_like(values) for name, values in net.state_dict().items()}
        state[f"{layer}.out_layers.0.bias"][:] = 1
        state[f"{layer}.out_layers.3.weight"][one, one, 1, 1] = 1
        for name in state:
            if name.endswith("skip_connection.weight"):
                state[name][one, one] = 1
        state["out.0.weight"][:] = 1
        state["out.2.weight"][one[:3], one[:3], 1, 1] = 1
        net.load_state_dict(state)
        t = np.zeros(2, np.float32)
        shown = net._core.forward(draw(2, 3, 32, 32), t, training=True, seed=5)
        kept.append(shown > 0)
    first, second = kept
    assert 0.4 < first.mean() < 0.6
    assert 0.4 < (first == second).mean() < 0.6


def test_the_references_batch_is_the_usual_one():
    assert TrainConfig().batch_size == 16


def test_a_repair_starts_from_the_bigger_noise_scale_of_the_settings():
    x0 = np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)
    model = small(t_s=100, t_b=300, w=0.5, seed=4)
    wanted = dad.denoise(model.unet, x0, t_s=100, t_b=300, w=0.5, seed=4, schedule=model.schedule)
    np.testing.assert_array_equal(model.predict(x0).reconstructions, wanted.x0)


# ---- the course of a run ----------------------------------------------------------------------


def test_interrupts_have_their_usual_meaning_after_a_run(images):
    small().fit(images, steps=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_interrupt_does_not_wait_for_the_step(images):
    reached = []

    def interrupted(_: object) -> None:
        for number in (1, 2):
            signal.raise_signal(signal.SIGINT)
            reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=3, progress=interrupted)
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_after_the_last_step_ends_a_finished_run(images, tmp_path, monkeypatch):
    calibrate = dad.DiffusionAD.calibrate

    def interrupted(*args: Any, **options: Any) -> float:
        signal.raise_signal(signal.SIGINT)
        return calibrate(*args, **options)

    monkeypatch.setattr(dad.DiffusionAD, "calibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=1, out=tmp_path)
    assert dad.load(tmp_path / "model.safetensors").provenance["finished"]


def test_checkpoints_are_as_far_apart_in_time_as_was_said(images, tmp_path, monkeypatch):
    Clock(monkeypatch, lambda step: 0.4 * fitting.CHECKPOINT_SECONDS)
    states_saved = noted(monkeypatch, checkpoints, "save_state")
    small(checkpoint_every=100).fit(images, steps=7, out=tmp_path)
    assert [values["iteration"] for _, _, values in states_saved] == [3, 6, 7]


def test_the_seconds_before_a_resume_count(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small().fit(images, steps=STEPS, out=tmp_path, progress=stop_at(STEPS - 1))
    tensors, values = checkpoints.load_state(tmp_path / "state.safetensors")
    checkpoints.save_state(tmp_path / "state.safetensors", tensors, {**values, "seconds": 1e6})
    model = small().fit(images, out=tmp_path, resume=True)
    assert model.provenance["train_seconds"] > 1e6


def test_what_earlier_weights_showed_of_good_images_decides_nothing():
    good = photographs(0, place=0)
    first = small(validation_share=0.4, validations=4, ema_decay=0.5, standardised=True)
    first.fit(good, steps=3)
    bare = copy.deepcopy(first)
    bare.normality = None
    for model in (first, bare):
        model.fit(good, steps=3)
    assert first.provenance["validation"] == bare.provenance["validation"]
    assert weights(first) == weights(bare)


def test_averages_begin_with_each_member_and_soon_forget_its_first_weights(images, monkeypatch):
    model, decay = trained(images, ema_decay=0.9), 0.9
    start, own, averages = states(model), [], []
    update = Kept.update

    def updated(kept: Kept, step: int) -> dict[str, float]:
        own.append(states(model))
        scores = update(kept, step)
        with dad.models.averaged(*model.networks.values()):
            averages.append(states(model))
        return scores

    monkeypatch.setattr(Kept, "update", updated)
    model.fit(images, steps=8)
    assert model.provenance["members"] == [0, 4]
    name = "seg.encoder_segment.block1.0.weight"
    for begun in (0, 4):
        average = start[name].astype(np.float64)
        for done in range(1, 5):
            share = min(decay, (1 + done) / (10 + done))
            average = share * average + (1 - share) * own[begun + done - 1][name]
        np.testing.assert_allclose(averages[begun + 3][name], average, rtol=1e-5, atol=1e-7)


def test_a_step_is_as_good_as_it_finds_images_and_places():
    scores = {"val_image_auroc": 0.9, "val_pixel_auroc": 1.0, "val_aupro": 0.1}
    others = {"val_image_auroc": 0.8, "val_pixel_auroc": 0.0, "val_aupro": 0.8}
    assert validation.quality(scores) < validation.quality(others)


def test_foregrounds_too_small_for_a_defect_are_no_validation(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[0, 0] = 1
    good = saved(tmp_path / "good", [np.full((32, 32), 90, np.uint8)] * 12)
    model = small(validation_share=0.4, smallest_exponent=0, largest_exponent=0)
    model.fit(good, foreground=saved(tmp_path / "masks", [mask] * 12), steps=1)
    assert "validation" not in model.provenance


@pytest.mark.parametrize("kind", ["model", "state"])
def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last_one(tmp_path, monkeypatch, kind):
    done = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=function: (done.append(n), f(*a)))
    if kind == "model":
        checkpoints.save_model(tmp_path / "m", example())
    else:
        checkpoints.save_state(tmp_path / "s", example().unet, {"step": 1})
    assert done[:2] == ["fsync", "replace"]


# ---- foregrounds ------------------------------------------------------------------------------


def test_kept_foregrounds_are_of_one_size_and_one_extractor(tmp_path, monkeypatch):
    good, cache = saved(tmp_path / "good", squares(4, 80)), tmp_path / "foregrounds.npz"
    few, many = (sources.load_images(good, size) for size in (32, 64))
    sources.find_foregrounds(few, cache)
    wanted = sources.find_foregrounds(many)
    np.testing.assert_array_equal(sources.find_foregrounds(many, cache), wanted)
    looked = noted(monkeypatch, saliency.ForegroundFinder, "find")
    sources.find_foregrounds(many, cache)
    assert not looked
    monkeypatch.setattr(saliency, "VERSION", saliency.VERSION + 1)
    sources.find_foregrounds(many, cache)
    assert len(looked) == 4


def test_grey_levels_of_a_mask_are_kept(tmp_path):
    levels = np.tile(np.array([0, 100, 200, 255], np.uint8), (4, 1))
    good = saved(tmp_path / "good", [levels])
    found, _ = sources.choose_foregrounds(
        sources.load_images(good, 4), "object", saved(tmp_path / "masks", [levels])
    )
    np.testing.assert_array_equal(found[0], levels)


@pytest.mark.parametrize(("kind", "origin"), [("texture", None), ("object", "good")])
def test_masks_beside_the_images_are_for_what_is_no_texture(tmp_path, kind, origin):
    plain = [np.full((32, 32), 200, np.uint8)]
    good = saved(tmp_path / "cloth" / "train" / "good", plain)
    saved(tmp_path / "cloth" / "DISthresh" / "good", plain)
    masks, found = sources.choose_foregrounds(sources.load_images(good, 32), kind, None)
    assert found == origin
    assert (masks is None) == (origin is None)


def test_a_preview_learns_the_foreground_from_all_images(tmp_path, monkeypatch):
    saved(tmp_path / "part" / "train" / "good", squares(6, 40))
    saved(tmp_path / "part" / "test" / "good", squares(1, 40))
    data = datasets.open(tmp_path / "part")
    learnt = noted(monkeypatch, saliency, "ForegroundFinder")
    preview(data, count=2, size=32)
    assert [list(paths) for (paths,) in learnt] == [[sample.path for sample in data.train]]


# ---- evaluation -------------------------------------------------------------------------------


@pytest.fixture
def part(tmp_path) -> datasets.Dataset:
    """Noisy images, of which some have a darker square at one place."""
    rng = np.random.default_rng(0)
    bright = rng.integers(100, 256, (3, 5, 64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[8:27, 8:27] = 1
    bright[2, :, 8:28, 8:28] //= 2
    root = tmp_path / "part"
    folders = ("train/good", "test/good", "test/dent", "ground_truth/dent")
    for folder, pixels in zip(folders, (*bright, [mask] * 5), strict=True):
        saved(root / folder, pixels)
    return datasets.open(root)


@pytest.fixture
def model() -> fakes.FakeModel:
    return fakes.FakeModel(image_size=32, seed=4)


def measured(data: datasets.Dataset, maps: Sequence[np.ndarray]) -> metrics.PixelMetrics:
    pixels = metrics.PixelMetrics()
    for sample, one in zip(data.test, maps, strict=True):
        pixels.add(sample.mask, one, sample.defect if sample.label else None)
    return pixels


def test_the_limit_of_aupro_holds_for_kinds_of_defect_and_intervals(part, model):
    found = evaluation.evaluate(model, part, fpr_limit=0.05, resamples=50, resolution="native")
    maps = model.predict([sample.image for sample in part.test], size="input").maps
    pixels = measured(part, maps)
    assert found["per_defect"]["dent"]["aupro"] == pixels.result(0.05, "dent")["aupro"]
    wanted = pixels.intervals(50, evaluation.LEVEL, 4, 0.05)["aupro"]
    assert found["confidence"]["aupro"] == list(wanted)


def test_evaluation_looks_at_tiles_of_the_size_that_is_given(part, model):
    tiles = Tiles(48, 0.0)
    found = evaluation.evaluate(model, part, resolution="native", tiles=tiles, resamples=0)
    maps = model.predict_tiled([sample.image for sample in part.test], 48, 0.0).maps
    assert found["pixel_auroc"] == measured(part, maps).result()["pixel_auroc"]


def test_a_curve_with_fewer_points_still_goes_from_end_to_end(part, model, monkeypatch):
    monkeypatch.setattr(evaluation, "CURVE_POINTS", 5)
    curve = evaluation.evaluate(model, part, resamples=0)["curves"]["image"]
    assert len(curve["fpr"]) == 5
    assert (curve["fpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 1, 1)


def test_an_interval_moves_with_the_exact_value():
    values = np.array([0.5, 0.4, 0.5, 0.6])  # the first of all images, counted in steps
    found = bootstrap.interval(values, 0.7, 0.999)
    assert found == pytest.approx((0.6, 0.8), abs=1e-3)


def test_images_are_aligned_by_what_others_show_of_them():
    shown = np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32)
    assert normality.alignment([shown]) < 0.01  # noise shows nothing of others


# ---- options ----------------------------------------------------------------------------------


def test_tiles_have_the_overlap_that_is_given():
    image = np.zeros((32, 64, 3), np.uint8)
    assert [len(list(tiling.cut(image, 32, overlap))) for overlap in (0.0, 0.5)] == [2, 3]


def test_an_image_shorter_than_a_tile_is_mirrored():
    image = np.arange(20, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
    [tile] = tiling.cut(image, 32)
    np.testing.assert_array_equal(tile[20:, 0, 0], np.arange(19, 7, -1))


def test_masks_of_a_table_are_resized_where_that_is_asked_for(tmp_path):
    for name, side in (("a", 8), ("b", 8), ("m", 4)):
        Image.new("L", (side, side), 255).save(tmp_path / f"{name}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label,mask,split\na.png,0,,train\nb.png,1,m.png,test\n")
    [sample] = datasets.open(table, resize_masks=True).test
    assert sample.mask.shape == (8, 8)


def test_the_command_lines_memory_budget_is_the_recipes():
    args = build_parser().parse_args(["benchmark", "d", "--out", "o", "--memory-budget", "2"])
    args.settings = {}
    assert recipe(args).memory_budget == 2.0


def test_an_onnx_file_says_where_the_model_comes_from(tmp_path):
    onnx = pytest.importorskip("onnx", reason="exports need the extra onnx")
    exported = make(**PAPER)
    exported.provenance = {"train_steps": 7}
    exported.export_onnx(tmp_path / "m.onnx")
    notes = {one.key: one.value for one in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(notes["provenance"]) == {"train_steps": 7}


def test_a_network_goes_back_to_the_shape_of_its_pass_after_another_is_asked_about():
    core = tiny_segmenter()._core
    core.forward(draw(1, 6, 32, 64), training=True)
    core.memory(1, True, size=(64, 64))
    core.backward(draw(1, 1, 32, 64))
    assert core.memory(1, True) == core.memory(1, True, size=(32, 64))
