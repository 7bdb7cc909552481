"""Checkpoints of the reference: structure from names and shapes, both ways, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pickles as p
import pytest
from networks import GOLDEN, TINY, assert_equal, recipe

import diffusionad as dad
from diffusionad import _core, official, restricted_pickle
from diffusionad.errors import InputError
from diffusionad.models import CHANNEL_MULTS, SegmentationNet, UNet

SMALL = {**TINY, "image_size": 32, "seg_channels": 4}
ARGS: dict[str, Any] = {
    "img_size": [32, 32], "Batch_Size": 4, "T": 500, "base_channels": 32, "channel_mults": "",
    "beta_schedule": "cosine", "dropout": 0, "num_heads": 2, "num_head_channels": -1,
    "channels": 3, "condition_w": 2, "eval_normal_t": 100, "eval_noisier_t": 300,
    "diffusion_lr": 2e-4, "random_slice": True, "output_path": "outputs",
}  # fmt: skip
States = dict[str, dict[str, np.ndarray]]


def states(**options: Any) -> States:
    unet, seg = UNet(**{**TINY, **options}), SegmentationNet(base_channels=4)
    return {"unet": recipe(unet), "seg": recipe(seg)}


def checkpoint(
    path: Path,
    networks: States,
    args: Any = ARGS,
    legacy: bool = False,
    prefix: str = "",
    more: dict[str, Any] | None = None,
) -> Path:
    """A file as the reference saves it; ``args`` in bytes are instructions."""
    made = p.Checkpoint(legacy)
    content = {"n_epoch": p.number(49)}
    for network, key in official.NETWORKS.items():
        state = {f"{prefix}{name}": array for name, array in networks[network].items()}
        content[key] = made.state(state)
    if args is not None:
        content["args"] = args if isinstance(args, bytes) else made.args(args)
    content |= {key: p.plain(value) for key, value in (more or {}).items()}
    write = p.legacy if legacy else p.archive
    return write(path, p.whole(p.mapping(content)), made.storages)


def assert_has(model: dad.DiffusionAD, networks: States) -> None:
    assert_equal(model.unet.state_dict(), networks["unet"])
    assert_equal(model.seg.state_dict(), networks["seg"])


# ---- reading ------------------------------------------------------------------------------------


def test_the_pickle_of_a_real_checkpoint(tmp_path: Path) -> None:
    """That of the reference's own file, with other numbers in its storages."""
    pickle = (GOLDEN / "params-best.pkl").read_bytes()
    rng = np.random.default_rng(0)
    storages = {
        key: 0.02 * rng.random(storage.size, "f4") if storage.dtype == "float32" else np.array([7])
        for key, storage in restricted_pickle.load(pickle).storages.items()
    }
    model = dad.load_official(p.archive(tmp_path / "params-best.pt", pickle, storages))
    config = model.config
    assert (config.image_size, config.base_channels, config.channel_mults) == (32, 32, (1, 2))
    assert (config.num_res_blocks, config.num_heads, config.seg_channels) == (1, 4, 4)
    assert (config.attention_resolutions, config.resblock_updown) == ((16,), True)
    assert (config.t_s, config.t_b, config.w, config.top_k) == (200, 400, 1.0, 50)
    assert (model.threshold, model.train_config.batch_size) == (None, 4)
    assert model.provenance == {"official": "params-best.pt", "epochs": 49}
    first = model.unet.state_dict()["time_embedding.1.weight"]
    np.testing.assert_array_equal(first.ravel(), storages["0"])
    assert {int(n) for name, n in model.seg.state_dict().items() if "tracked" in name} == {7}
    assert np.isfinite(model.predict(np.zeros((1, 3, 32, 32), "f4")).scores).all()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_formats_and_data_parallel(tmp_path: Path, legacy: bool, prefix: str) -> None:
    networks = states()
    model = dad.load_official(checkpoint(tmp_path / "x.pt", networks, ARGS, legacy, prefix))
    assert_has(model, networks)
    config, train = model.config, model.train_config
    assert (config.schedule, config.timesteps, config.num_heads) == ("cosine", 500, 2)
    assert (config.t_s, config.t_b, config.w, config.preset) == (100, 300, 2.0, "paper")
    assert (train.batch_size, train.unet_lr, train.seg_lr) == (4, 2e-4, 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resblock_updown": False},
        {"channel_mults": (1,), "attention_resolutions": ()},
        {"channel_mults": (1, 2, 3), "num_res_blocks": 2, "attention_resolutions": (32, 8)},
        {"channel_mults": (0.5, 1), "base_channels": 64, "image_size": 64},
        {"channel_mults": (2, 2), "in_channels": 1, "out_channels": 1},
        {"channel_mults": (1, 1, 1, 1), "attention_resolutions": (4,), "resblock_updown": False},
    ],
)
def test_the_structure_is_inferred(options: dict[str, Any]) -> None:
    unet = UNet(**{**TINY, **options})
    shapes = {name: array.shape for name, array in unet.state_dict().items()}
    found = official.unet_structure(shapes)
    strides = found.pop("attention_strides")
    size = unet.config["image_size"]
    known = {**found, "attention_resolutions": tuple(size // stride for stride in strides)}
    twin = UNet(image_size=size, out_channels=unet.config["out_channels"], **known)
    assert {name: array.shape for name, array in twin.state_dict().items()} == shapes
    for name in ("base_channels", "num_res_blocks", "in_channels"):
        assert found[name] == unet.config[name]


def test_the_structure_of_the_full_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in (GOLDEN / "state_dict_names.txt").read_text().splitlines():
        network, name, shape = line.split(" ", 2)
        shapes.setdefault(network, {})[name] = tuple(json.loads(shape))
    found = official.unet_structure(shapes["unet_model_state_dict"])
    assert (found["base_channels"], found["num_res_blocks"]) == (128, 2)
    assert (found["channel_mults"], found["attention_strides"]) == ((1, 1, 2, 2, 4, 4), [8, 16, 32])
    assert official._guess_image_size(found) == 256
    found = official.segmenter_structure(shapes["seg_model_state_dict"])
    assert found == {"seg_channels": 64, "seg_patch_size": 1}


def test_without_arguments(tmp_path: Path) -> None:
    """The reference's own networks tell their image size, others need it."""
    options = {"channel_mults": CHANNEL_MULTS[64], "image_size": 64}
    networks = states(**options, attention_resolutions=(32, 16, 8))
    for args in (None, {}, {"img_size": "", "T": ""}):
        model = dad.load_official(checkpoint(tmp_path / "x.pt", networks, args))
        assert (model.config.image_size, model.config.num_heads) == (64, 4)
        assert model.config.attention_resolutions == (32, 16, 8)
        assert_has(model, networks)
    file = checkpoint(tmp_path / "x.pt", states(), None)
    with pytest.raises(InputError, match=r"x\.pt: image_size: the file does not say it"):
        dad.load_official(file)
    model = dad.load_official(file, image_size=64, num_heads=2, top_k=9, batch_size=3)
    assert (model.config.image_size, model.config.attention_resolutions) == (64, (32,))
    assert (model.config.num_heads, model.config.top_k) == (2, 9)
    assert model.train_config.batch_size == 3


def test_settings_go_before_the_file_but_not_its_structure(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "x.pt", states())
    model = dad.load_official(file, t_s=50, seed=3, base_channels=64, seg_channels=99)
    assert (model.config.t_s, model.seed, model.config.base_channels) == (50, 3, 32)
    with pytest.raises(InputError, match=r"x\.pt: colour: no such setting"):
        dad.load_official(file, colour=1)
    with pytest.raises(InputError, match=r"x\.pt: image_size: expected a whole number up to 8,192"):
        dad.load_official(file, image_size="64")
    with pytest.raises(InputError, match="num_heads: 3 does not divide"):
        dad.load_official(file, num_heads=3)


# ---- writing ------------------------------------------------------------------------------------


def test_everything_comes_back(tmp_path: Path) -> None:
    model = dad.DiffusionAD("paper", **SMALL, mode="one_step", top_k=7, w=0.5, t_s=10, unet_lr=0.1)
    model.threshold = 0.1 + 0.2
    model.provenance["epochs"] = 12
    model.seg.count_batch()
    model.save_official(tmp_path / "x.pt")
    again = dad.load_official(tmp_path / "x.pt")
    networks = {"unet": model.unet.state_dict(), "seg": model.seg.state_dict()}
    assert_has(again, networks)
    assert (again.threshold, again.train_config) == (model.threshold, model.train_config)
    assert again.provenance == {**model.provenance, "official": "x.pt"}
    changed = {"attention_resolutions": (16,), "channel_mults": (1, 2)}  # 8 px maps are too deep
    assert again.config == dad.config.update(model.config, changed)
    images = np.random.default_rng(0).random((2, 3, 32, 32), "f4")
    ours, theirs = model.predict(images), again.predict(images)
    np.testing.assert_array_equal(ours.maps, theirs.maps)
    np.testing.assert_array_equal(ours.labels, theirs.labels)

    again.save(tmp_path / "x.safetensors")
    assert_has(dad.load(tmp_path / "x.safetensors"), networks)
    model.save_official(tmp_path / "y.pt")
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "y.pt").read_bytes()


def test_a_threshold_is_dropped_with_the_settings_of_its_scores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = dad.DiffusionAD("paper", **SMALL, t_s=10)
    model.threshold = 0.5
    model.save_official(tmp_path / "x.pt")
    assert dad.load_official(tmp_path / "x.pt", t_s=10, batch_size=2).threshold == 0.5
    assert not caplog.records
    again = dad.load_official(tmp_path / "x.pt", t_s=20)
    assert again.threshold is None
    assert not {"threshold", "calibrated_on"} & again.provenance.keys()
    assert "x.pt: the threshold was set with other settings, dropped" in caplog.text


def test_arguments_are_those_of_the_reference(tmp_path: Path) -> None:
    dad.DiffusionAD("paper", **SMALL).save_official(tmp_path / "x.pt")
    with official.torch_files.opened(tmp_path / "x.pt") as file:
        args = file.value["args"]
        assert list(file.value) == [
            "n_epoch", "unet_model_state_dict", "seg_model_state_dict", "args", "diffusionad",
        ]  # fmt: skip
    names = [*official.ARGUMENTS, "base_channels", "channel_mults", "channels"]
    assert set(names) <= set(args)
    assert (args["img_size"], args["channel_mults"], args["channels"]) == ([32, 32], [1, 2], 3)


def test_other_networks_than_the_references_are_not_written(tmp_path: Path) -> None:
    for options, words in (
        ({}, r"x\.pt: this model has patch_size = 4, for which"),
        ({"patch_size": 1}, "preconditioned = True"),
        ({"patch_size": 1, "preconditioned": False, "seg_patch_size": 2}, "seg_patch_size = 2"),
    ):
        model = dad.DiffusionAD("compact", image_size=64, **options)
        with pytest.raises(InputError, match=words):
            model.save_official(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_what_good_images_show_is_not_left_out_silently(tmp_path: Path) -> None:
    """The threshold, which is of standardised maps, would be written without it."""
    model = dad.DiffusionAD("paper", **SMALL)
    images = np.random.default_rng(0).random((2, 3, 32, 32), "f4")
    model.measure_normality(images)
    with pytest.raises(InputError, match=r"x\.pt: this model has standardised = True"):
        model.save_official(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
    model.set_params(standardised=False)
    model.save_official(tmp_path / "x.pt")
    again = dad.load_official(tmp_path / "x.pt")
    np.testing.assert_array_equal(again.predict(images).maps, model.predict(images).maps)


# ---- what is refused ----------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        dad.load_official(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    for value, words in (
        ([1], "expected a dict with state dicts"),
        ({}, "no unet_model_state_dict, so this is no checkpoint"),
        ({"unet_model_state_dict": {}}, "no unet_model_state_dict"),
        ({"unet_model_state_dict": [1]}, "no unet_model_state_dict"),
        ({"unet_model_state_dict": {"a": 1}}, "expected names and tensors only"),
    ):
        refused(p.archive(file, p.whole(p.plain(value)), {}), words)
    dad.DiffusionAD("compact", image_size=64).save(file)
    refused(file, r"a safetensors file; diffusionad\.load reads")
    checkpoint(file, states())
    with pytest.raises(InputError, match=r"a file of PyTorch; load_official\(\)"):
        dad.load(file)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("img_size", [32, 64], "expected two equal numbers"),
        ("img_size", ["a", "a"], "expected two equal numbers"),
        ("img_size", [32], "expected a number or a short text"),
        ("img_size", [1 << 40, 1 << 40], "image_size: expected a whole number up to 8,192"),
        ("img_size", [-32, -32], "image_size: expected a multiple of 32"),
        ("img_size", [48, 48], "image_size: expected a multiple of 32, got 48"),
        ("T", 10**9, "timesteps: expected a whole number up to 100,000"),
        ("T", 1.5, "timesteps: expected a whole number"),
        ("T", "many", "timesteps: expected a whole number"),
        ("T", [1], r"args\['T'\]: expected a number or a short text"),
        ("T", None, r"args\['T'\]: expected a number or a short text"),
        ("beta_schedule", "x" * 81, "expected a number or a short text"),
        ("beta_schedule", "square", "schedule: expected linear or cosine"),
        ("condition_w", "1", "w: expected a finite number"),
        ("num_heads", 5, "num_heads: 5 does not divide"),
        ("num_heads", True, "expected a number or a short text"),
        ("eval_normal_t", 400, "t_s, t_b: expected t_s < t_b"),
    ],
)
def test_odd_arguments_are_refused(tmp_path: Path, name: str, value: Any, words: str) -> None:
    refused(checkpoint(tmp_path / "x.pt", states(), {**ARGS, name: value}), words)


def test_arguments_nested_without_end_are_never_shown(tmp_path: Path) -> None:
    """Their repr() would take years, or all of the stack."""
    twice = b"]" + b"q\x000](h\x00h\x00e" * 60
    deep = b"]" * 100_000 + b"a" * 99_999
    for args in (twice, deep):
        file = checkpoint(tmp_path / "x.pt", states(), args)
        refused(file, "args: expected a dict")
        file = checkpoint(tmp_path / "x.pt", states(), b"}" + p.text("T") + args + b"s")
        refused(file, r"args\['T'\]: expected a number")


def test_damaged_notes_of_our_own_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    config = {"model": {}, "train": {}}
    good = {"config": config, "provenance": {}, "threshold": None}
    checkpoint(file, states(), more={"diffusionad": json.dumps(good)})
    dad.load_official(file)
    for note in (
        1, "{", "[]", "[" * 100_000, "NaN", {"a": 1}, {**good, "threshold": "high"},
        {**good, "threshold": [1]}, {**good, "provenance": 3}, {**good, "config": {"model": 1}},
        {**good, "config": {**config, "model": {"colour": 1}}}, {**good, "config": None},
        '{"threshold": NaN, "provenance": {}, "config": {"model": {}, "train": {}}}',
        '{"threshold": 1e999, "provenance": {}, "config": {"model": {}, "train": {}}}',
        {**good, "threshold": 10**400}, {**good, "config": {**config, "model": {"w": 10**400}}},
    ):  # fmt: skip
        text = json.dumps(note) if isinstance(note, dict) else note
        refused(checkpoint(file, states(), more={"diffusionad": text}), "'diffusionad' is damaged")


@pytest.mark.parametrize(("name", "most"), [("timesteps", "100,000"), ("image_size", "8,192")])
def test_our_own_notes_are_not_believed_beyond_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: str
) -> None:
    config = {"model": {name: 1 << 30}, "train": {}}
    note = json.dumps({"config": config, "provenance": {}, "threshold": None})
    file = checkpoint(tmp_path / "x.pt", states(), None, more={"diffusionad": note})
    for core in ("schedule", "unet"):
        monkeypatch.setattr(_core, core, lambda *_, **__: pytest.fail("memory was taken"))
    refused(file, f"{name}: expected at most {most}, got 1,073,741,824")


def test_networks_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    file, networks = tmp_path / "x.pt", states()

    def without(network: str, name: str) -> States:
        kept = {key: value for key, value in networks[network].items() if key != name}
        return {**networks, network: kept}

    def reshaped(network: str, name: str, *shape: int) -> States:
        return {**networks, network: {**networks[network], name: np.zeros(shape, "f4")}}

    for changed, words in (
        (without("unet", "time_embedding.1.weight"), "unet_model_state_dict: no time_embedding"),
        (without("unet", "down.1.0.in_layers.2.weight"), "no down.1.0.in_layers.2.weight"),
        (without("unet", "out.2.bias"), "1 names missing, 0 unknown, for example 'out.2.bias'"),
        (without("seg", "encoder_segment.block6.0.weight"), "seg_model_state_dict: no encoder"),
        (without("seg", "encoder_segment.block1.1.running_var"), "1 names missing"),
        (reshaped("unet", "extra", 1), "0 names missing, 1 unknown, for example 'extra'"),
        (reshaped("unet", "down.9.0.x", 1), "blocks on the way down do not make 2 levels"),
        (reshaped("unet", "time_embedding.1.weight", 8), r"expected shape \[any, any\], got \[8\]"),
        (reshaped("unet", "time_embedding.1.weight", 100, 32), r"\[128, 32\], got \[100, 32\]"),
        (reshaped("unet", "down.0.0.weight", 32, 3, 1, 1), r"\[any, any, 3, 3\]"),
        (reshaped("unet", "down.0.0.weight", 0, 3, 3, 3), r"\[any, any, 3, 3\]"),
        (reshaped("unet", "out.2.bias", 4), r"expected shape \(3,\), got \(4,\)"),
        (reshaped("seg", "encoder_segment.block1.0.weight", 4, 5, 3, 3), "expected shape"),
    ):
        refused(checkpoint(file, changed), words)


def test_a_wide_network_must_bring_its_weights(tmp_path: Path) -> None:
    """Or a file of a few kB would have networks of terabytes made for it."""
    networks = states()
    wide = {**networks["unet"], "down.1.0.in_layers.2.weight": np.zeros((1 << 20, 1, 1, 1), "u1")}
    refused(checkpoint(tmp_path / "x.pt", {**networks, "unet": wide}), r"\[1048576, 32, 3, 3\]")
    seg = {**networks["seg"], "encoder_segment.block1.0.weight": np.zeros((1 << 16, 6, 3, 3), "u1")}
    refused(checkpoint(tmp_path / "x.pt", {**networks, "seg": seg}), r"\[131072, 65536, 3, 3\]")


# ---- memory, and PyTorch itself -----------------------------------------------------------------


@pytest.mark.slow
def test_reading_takes_little_more_memory_than_the_model(tmp_path: Path) -> None:
    options = {"base_channels": 64, "seg_channels": 32, "image_size": 256}
    file = tmp_path / "x.pt"
    dad.DiffusionAD("paper", **options).save_official(file)
    script = """if True:
        import sys
        import diffusionad
        from diffusionad.system import peak_memory_mb
        before = peak_memory_mb()
        model = diffusionad.load_official(sys.argv[1])
        print(peak_memory_mb() - before)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(dad.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert float(done.stdout) < 1.15 * file.stat().st_size / 2**20


def test_pytorchs_networks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    twin = pytest.importorskip("torch_networks")
    source = checkpoint(tmp_path / "x.pt", states(), {**ARGS, "T": 1000, "beta_schedule": "linear"})
    model = dad.load_official(source)
    model.save_official(tmp_path / "y.pt")
    for mapped in (False, True):
        content = torch.load(tmp_path / "y.pt", weights_only=True, mmap=mapped)
    c = model.config
    networks = twin.UNet(**{**TINY, "num_heads": 2}), twin.SegmentationNet(base_channels=4)
    for network, key in zip(networks, official.NETWORKS.values(), strict=True):
        network.load_state_dict(content[key])
    images = np.random.default_rng(0).random((2, 3, 32, 32), "f4")
    noise = [torch.from_numpy(a)[None] for a in dad.denoising.evaluation_noise((3, 32, 32), 0)]
    with torch.inference_mode():
        steps = twin.Pass(*networks, c.t_s, c.t_b, c.w).eval()
        _, repaired, mask = steps(torch.from_numpy(images), *noise)
    found = model.predict(images)
    assert np.abs(found.reconstructions - repaired.numpy()).max() < 2e-5
    assert np.abs(found.maps - mask.numpy()[:, 0]).max() < 2e-5

    whole = torch.load(source, weights_only=False)  # what PyTorch writes itself is read too
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        torch.save(whole, tmp_path / "z.pt", **options)
        again = dad.load_official(tmp_path / "z.pt")
        np.testing.assert_array_equal(again.predict(images).maps, found.maps)
