"""Foregrounds by a network of the user's own; here one that finds what is dark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import diffusionad as dad
from diffusionad import sources
from diffusionad.errors import InputError, MissingPackage
from diffusionad.images import write_png
from diffusionad.saliency_network import SaliencyNetwork


def write_network(path: Path, height: object = 32, width: object = 48, channels: int = 3) -> Path:
    """The darker a pixel, the larger; the map keeps one channel."""
    nodes = [
        helper.make_node("Neg", ["image"], ["dark"]),
        helper.make_node("ReduceMean", ["dark", "axes"], ["map"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes, "dark",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, height, width])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, None)],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def dark_box(level: int = 40) -> np.ndarray:
    image = np.full((64, 96, 3), 200, np.uint8)
    image[16:48, 24:72] = level
    return image


@pytest.mark.parametrize("sides", [(32, 48), ("h", "w")])
def test_the_middle_of_the_range_is_the_threshold(tmp_path, sides):
    network = SaliencyNetwork(write_network(tmp_path / "n.onnx", *sides))
    mask = network.find(dark_box())
    wanted = np.zeros((64, 96), bool)
    wanted[16:48, 24:72] = True
    assert mask.shape == wanted.shape
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.9
    assert not network.find(np.full((20, 30, 3), 90, np.uint8)).any()


def test_training_takes_its_masks_and_keeps_them(tmp_path, caplog, monkeypatch):
    (tmp_path / "good").mkdir()
    for index in range(4):
        write_png(tmp_path / "good" / f"{index}.png", dark_box(40 if index else 200))
    network = write_network(tmp_path / "n.onnx")
    images = sources.load_images(tmp_path / "good", 32)
    masks, name = sources.choose_foregrounds(images, "object", network, tmp_path / "masks.npz")
    assert name == "n.onnx"
    assert masks.shape == (4, 32, 32)
    assert masks[0].all()  # nothing was found there
    assert 0.2 < (masks[1] > 0).mean() < 0.3
    [told] = [r.getMessage() for r in caplog.records]
    assert told.startswith("foreground: the whole image is taken for 1 of 4 images")
    monkeypatch.setattr(SaliencyNetwork, "find", None)
    again, _ = sources.choose_foregrounds(images, "object", network, tmp_path / "masks.npz")
    np.testing.assert_array_equal(again, masks)


def test_arrays_have_foregrounds_too(tmp_path):
    floats = np.stack([dark_box().transpose(2, 0, 1)] * 2).astype(np.float32) / 255
    network = write_network(tmp_path / "n.onnx")
    model = dad.DiffusionAD("tiny", batch_size=2, validation_share=0.0)
    model.fit(floats, steps=1, foreground=network)
    assert model.provenance["data"]["foreground"] == "n.onnx"


def test_what_is_no_such_network_is_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    for path, words in (
        (tmp_path / "none.onnx", "none.onnx: no such file"),
        (tmp_path / "broken.onnx", "broken.onnx: not a network for ONNX Runtime: "),
        (
            write_network(tmp_path / "grey.onnx", channels=1),
            r"grey.onnx: expected an input of float32 \(1, 3, H, W\), got tensor",
        ),
    ):
        with pytest.raises(InputError, match=words) as refused:
            SaliencyNetwork(path)
        assert "\n" not in str(refused.value)


def test_without_onnxruntime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackage, match=r"pip install 'diffusionad\[foreground\]'"):
        SaliencyNetwork(write_network(tmp_path / "n.onnx"))
