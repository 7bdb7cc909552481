"""Writes what the engines load: weights, our model file, ONNX, OpenVINO IR, float64 results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import inputs
import numpy as np

Settings = dict[str, Any]


def export(job: Settings) -> None:
    """Write one of the files in WRITERS, named by `what`, for the graph `of`."""
    warnings.simplefilter("ignore")
    WRITERS[job["what"]]({**job, "kind": job.get("of", "pass"), "engine": "torch"})


def write_model(job: Settings) -> None:
    """model.safetensors: our own file, with weights by the recipe."""
    import diffusionad as dad

    model = dad.DiffusionAD(job["networks"]["preset"], **job["networks"]["overrides"])
    for network in (model.unet, model.seg):
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        network.load_state_dict(inputs.recipe(shapes))
    model.save(Path(job["folder"], "model.safetensors"))


def write_weights(job: Settings) -> None:
    """networks.pt: the same weights as state dicts."""
    twin = engines.import_torch()
    with twin.torch.device("meta"):
        networks = {
            "unet": twin.UNet(**job["networks"]["unet"]),
            "seg": twin.SegmentationNet(**job["networks"]["seg"]),
        }
    state = {name: twin.recipe_weights(network) for name, network in networks.items()}
    twin.torch.save(state, Path(job["folder"], "networks.pt"))


def write_onnx(job: Settings) -> None:
    torch = engines.import_torch().torch
    module, given = engines.torch_graph(job)
    path = Path(job["folder"], f"{engines.graph_name(job)}.onnx")
    with torch.inference_mode():
        torch.onnx.export(module, tuple(given), str(path), dynamo=False, opset_version=18)


def write_openvino(job: Settings) -> None:
    openvino = engines.import_openvino()
    torch = engines.import_torch().torch
    module, given = engines.torch_graph(job)
    with torch.inference_mode():
        traced = torch.jit.trace(module, tuple(given), check_trace=False)
        shapes = [tuple(a.shape) for a in given]
        model = openvino.convert_model(traced, example_input=tuple(given), input=shapes)
    path = Path(job["folder"], f"{engines.graph_name(job)}.xml")
    openvino.save_model(model, path, compress_to_fp16=False)


def write_reference(job: Settings) -> None:
    """<kind>.npz: the first image's results in float64, and the floating-point operations."""
    from torch.utils.flop_counter import FlopCounterMode

    twin = engines.import_torch()
    torch = twin.torch
    torch.set_num_threads(job["threads"])
    torch.set_default_dtype(torch.float64)
    try:
        steps = reference_graph(job, twin)
    finally:
        torch.set_default_dtype(torch.float32)
    given = [torch.from_numpy(a.astype(np.float64)) for a in reference_inputs(job)]
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        found = steps(*given)
    single = {**job, "batch": 1, "kind": "pass"}
    outputs = engines.first_image(single, [a.numpy() for a in found])
    path = Path(job["folder"], f"{job['kind']}.npz")
    np.savez(path, flops=flops.get_total_flops(), **outputs)


def reference_graph(job: Settings, twin: Any) -> Any:
    """The pass with constants and weights in the default type."""
    networks = job["networks"]
    unet, seg = twin.UNet(**networks["unet"]), twin.SegmentationNet(**networks["seg"])
    for network in (unet, seg):
        network.load_state_dict(twin.recipe_weights(network))
    return twin.Pass(unet, seg, *(networks[name] for name in ("t_s", "t_b", "w"))).eval()


def reference_inputs(job: Settings) -> list[np.ndarray]:
    """Image and noises of the first image of a job."""
    networks = job["networks"]
    if job["kind"] == "pass":
        return engines.pass_inputs({**job, "batch": 1})
    image = inputs.pixels(networks["size"], 1).transpose(0, 3, 1, 2) / 255.0
    return [image, *engines.evaluation_noise(networks)]


WRITERS: dict[str, Callable[[Settings], None]] = {
    "model": write_model,
    "weights": write_weights,
    "onnx": write_onnx,
    "openvino": write_openvino,
    "reference": write_reference,
}
