"""How each engine does each kind of job. Runs in a worker and imports that worker's engine alone.

A job is a dict: `engine`, `kind`, `threads`, and what the kind needs; BUILDERS at the end is the
table of contents. Jobs on networks name their `folder`, which holds what exporting.py wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inputs
import numpy as np

Settings = dict[str, Any]
Arrays = dict[str, np.ndarray]
LAYOUTS = ("torch", "torch-channels-last")


@dataclass
class Job:
    """What is measured (it may return its own seconds), and named results of the first image."""

    run: Callable[[], Any]
    outputs: Callable[[Any], Arrays] = lambda result: {}


def family(engine: str) -> str:
    """The engine without its memory layout."""
    return "torch" if engine in LAYOUTS else engine


def build(job: Settings) -> Job:
    """Import the engine and make the job ready to run."""
    engine = family(job["engine"])
    if job["kind"] == "first-result":  # what is prepared elsewhere is what counts here
        IMPORTS[engine]()
        later = {**job, "kind": "pass"}
        return Job(lambda: build(later).run())
    return BUILDERS[job["kind"], engine](job)


def graph_name(job: Settings) -> str:
    """Stem of the exported files of a job."""
    return f"{job['kind']}-{job['batch']}"


def in_bfloat16(job: Settings) -> bool:
    """Whether the engines that can are to round what they multiply to bfloat16."""
    return bool(job.get("options", {}).get("bfloat16"))


def batches(job: Settings, detect: Callable[[np.ndarray], Sequence[Any]]) -> Job:
    """Detection of all images, a batch at a time."""
    pixels, step = inputs.pixels(job["networks"]["size"], job["images"]), job["batch"]

    def run() -> list[Sequence[Any]]:
        return [detect(pixels[i : i + step]) for i in range(0, len(pixels), step)]

    return Job(run, lambda found: first_image(job, [np.asarray(a) for a in found[0]]))


def first_image(job: Settings, outputs: Sequence[np.ndarray]) -> Arrays:
    """The named outputs of a graph, of the first image alone; eps has both its noise scales."""
    names = ("eps", "x0", "mask") if job["kind"] == "pass" else ("x0", "mask", "score")
    found = dict(zip(names, outputs, strict=True))
    rows = {"eps": [0, job["batch"]]}
    return {name: np.asarray(a)[rows.get(name, [0])] for name, a in found.items()}


def pass_inputs(job: Settings) -> list[np.ndarray]:
    size, batch = job["networks"]["size"], job["batch"]
    return [inputs.images(size, batch), *inputs.noises(size, batch)]


def evaluation_noise(networks: Settings) -> list[np.ndarray]:
    """The pair of noise images that diffusionad gives every image, each (1, 3, H, W)."""
    rng = np.random.default_rng(networks["seed"])
    shape = (3, networks["size"], networks["size"])
    return [rng.standard_normal(shape, dtype=np.float32)[None] for _ in range(2)]


# ---- diffusionad --------------------------------------------------------------------------------


def import_ours() -> Any:
    import diffusionad

    return diffusionad


def our_model(job: Settings) -> Any:
    """The model of the folder, with the job's options set on both networks."""
    model = import_ours().load(Path(job["folder"], "model.safetensors"))
    for network in (model.unet, model.seg):
        for name, value in job.get("options", {}).items():
            setattr(network, name, value)
    return model


def our_pass(job: Settings) -> Job:
    dad, model = import_ours(), our_model(job)
    x0, *noise = pass_inputs(job)
    steps = {name: job["networks"][name] for name in ("t_s", "t_b", "w")}

    def run() -> Any:
        repair = dad.denoise(model.unet, x0, noise=noise, schedule=model.schedule, **steps)
        return repair, model.seg(np.concatenate([x0, repair.x0], axis=1))

    def outputs(result: Any) -> Arrays:
        repair, mask = result
        both = np.concatenate([repair.x_s, repair.x_b])
        eps = model.unet(both, np.repeat([steps["t_s"], steps["t_b"]], len(x0)))
        return first_image(job, [eps, repair.x0, mask])

    return Job(run, outputs)


def our_detector(job: Settings) -> Job:
    model = our_model(job)

    def detect(pixels: np.ndarray) -> list[np.ndarray]:
        found = model.predict(pixels, batch_size=job["batch"])
        return [found.reconstructions, found.maps[:, None], found.scores]

    return batches(job, detect)


def our_training(job: Settings) -> Job:
    dad, model = import_ours(), our_model(job)
    data = inputs.training_batch(job["networks"]["size"], job["batch"])
    trainer = dad.Trainer(model.unet, model.seg)
    t, noise = (data["t_s"], data["t_b"]), (data["eps_s"], data["eps_b"])
    arguments = (data["images"], data["masks"], data["labels"])

    def loss(out: Mapping[str, Any]) -> Arrays:
        return {"loss": np.array([float(out["total"])])}

    return Job(lambda: trainer.step(*arguments, t=t, noise=noise), loss)


def our_metrics(job: Settings) -> Job:
    dad = import_ours()
    maps, masks = inputs.scored_maps(job["size"], job["maps"])
    return Job(lambda: dad.metrics.pixel_metrics(masks, maps), Arrays)


def our_synthesis(job: Settings) -> Job:
    dad = import_ours()
    pixels, seeds = inputs.pixels(job["size"], job["images"]), np.arange(job["images"])
    options = dad.synthesis.SynthesisOptions(anomaly_probability=1.0)
    make = dad.synthesis.synthesize_batch
    return Job(lambda: make(pixels, None, None, seeds, options))


def our_conv(job: Settings) -> Job:
    from diffusionad import _core

    _core.set_num_threads(job["threads"])
    n, c, size, o, kernel = job["shape"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, size, size), dtype=np.float32)
    w = rng.standard_normal((o, c, kernel, kernel), dtype=np.float32)
    return Job(lambda: _core.conv2d_seconds(job["operation"], x, w))


def our_adam(job: Settings) -> Job:
    unet = import_ours().UNet(**job["networks"]["unet"])
    unet._core.zero_gradients()
    return Job(lambda: unet._core.adam_step(1e-4, 1))


# ---- PyTorch ------------------------------------------------------------------------------------


def import_torch() -> Any:
    import torch_networks

    return torch_networks


def torch_networks_of(job: Settings, trained: bool = True) -> tuple[Any, Any]:
    """Both networks with the folder's weights, mapped from the file and not copied."""
    twin = import_torch()
    torch = twin.torch
    torch.set_num_threads(job["threads"])
    with torch.device("meta"):
        unet = twin.UNet(**job["networks"]["unet"])
        seg = twin.SegmentationNet(**job["networks"]["seg"])
    state = torch.load(Path(job["folder"], "networks.pt"), mmap=trained, weights_only=True)
    for name, network in (("unet", unet), ("seg", seg)):
        network.load_state_dict(state[name], assign=True)
        network.train(not trained)
        network.to(memory_format=memory_format(job, torch))
    return unet, seg


def memory_format(job: Settings, torch: Any) -> Any:
    last = job["engine"] == "torch-channels-last"
    return torch.channels_last if last else torch.contiguous_format


def torch_graph(job: Settings) -> tuple[Any, list[Any]]:
    """The module of a job and its example inputs."""
    twin = import_torch()
    networks = job["networks"]
    steps = twin.Pass(*torch_networks_of(job), *(networks[k] for k in ("t_s", "t_b", "w")))
    if job["kind"] == "pass":
        return steps.eval(), [twin.torch.from_numpy(a) for a in pass_inputs(job)]
    noise = [twin.torch.from_numpy(n) for n in evaluation_noise(networks)]
    pixels = twin.torch.from_numpy(inputs.pixels(networks["size"], job["batch"]))
    return twin.Detector(steps, noise, networks["top_k"]).eval(), [pixels]


def torch_pass(job: Settings) -> Job:
    torch = import_torch().torch
    module, given = torch_graph(job)
    given = [a.contiguous(memory_format=memory_format(job, torch)) for a in given]

    def run() -> Any:
        rounded = torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16(job))
        with torch.inference_mode(), rounded:
            return module(*given)

    return Job(run, lambda found: first_image(job, [a.float().numpy() for a in found]))


def torch_detector(job: Settings) -> Job:
    torch = import_torch().torch
    module, _ = torch_graph(job)

    def detect(pixels: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(pixels))

    return batches(job, detect)


def torch_training(job: Settings) -> Job:
    """The paper's step, with the two UNet passes as one batch and the fused Adam."""
    twin = import_torch()
    torch = twin.torch
    trainer = twin.Trainer(*torch_networks_of(job, trained=False))
    data = inputs.training_batch(job["networks"]["size"], job["batch"])
    given = {name: torch.from_numpy(a) for name, a in data.items()}
    for name in ("images", "masks", "eps_s", "eps_b"):
        given[name] = given[name].contiguous(memory_format=memory_format(job, torch))
    t, noise = (given["t_s"], given["t_b"]), (given["eps_s"], given["eps_b"])
    arguments = (given["images"], given["masks"], given["labels"])

    def loss(out: Mapping[str, Any]) -> Arrays:
        return {"loss": np.array([float(out["total"].detach())])}

    return Job(lambda: trainer.step(*arguments, t, noise), loss)


def torch_conv(job: Settings) -> Job:
    torch = import_torch().torch
    torch.set_num_threads(job["threads"])
    n, c, size, o, kernel = job["shape"]
    layout = memory_format(job, torch)
    x = torch.randn(n, c, size, size).to(memory_format=layout)
    w = torch.randn(o, c, kernel, kernel).to(memory_format=layout)
    dy = torch.randn(n, o, size, size).to(memory_format=layout)
    if job["operation"] == "forward":
        return Job(lambda: torch.nn.functional.conv2d(x, w, padding=kernel // 2))
    wanted = [job["operation"] == "backward_data", job["operation"] == "backward_filter", False]
    fixed = ([1, 1], [kernel // 2] * 2, [1, 1], False, [0, 0], 1, wanted)
    return Job(lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *fixed))


def torch_adam(job: Settings) -> Job:
    twin = import_torch()
    twin.torch.set_num_threads(job["threads"])
    unet = twin.UNet(**job["networks"]["unet"])
    for parameter in unet.parameters():
        parameter.grad = twin.torch.zeros_like(parameter)
    return Job(twin.torch.optim.Adam(unet.parameters(), lr=1e-4, fused=True).step)


# ---- ONNX Runtime and OpenVINO ------------------------------------------------------------------


def import_onnxruntime() -> Any:
    import onnxruntime

    return onnxruntime


def onnx_infer(job: Settings) -> Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs only
    path = Path(job["folder"], f"{graph_name(job)}.onnx")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda given: session.run(None, dict(zip(names, given, strict=True)))


def import_openvino() -> Any:
    import openvino

    return openvino


def openvino_infer(job: Settings) -> Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]:
    openvino = import_openvino()
    settings = {
        "INFERENCE_NUM_THREADS": job["threads"],
        "INFERENCE_PRECISION_HINT": "bf16" if in_bfloat16(job) else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    path = Path(job["folder"], f"{graph_name(job)}.xml")
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda given: list(request.infer(list(given)).values())


def graph_pass(infer: Callable[[Settings], Any]) -> Callable[[Settings], Job]:
    def build_pass(job: Settings) -> Job:
        call, given = infer(job), pass_inputs(job)
        return Job(lambda: call(given), lambda found: first_image(job, found))

    return build_pass


def graph_detector(infer: Callable[[Settings], Any]) -> Callable[[Settings], Job]:
    def build_detector(job: Settings) -> Job:
        call = infer(job)
        return batches(job, lambda pixels: [np.array(a) for a in call([pixels])])

    return build_detector


# ---- others -------------------------------------------------------------------------------------


def adeval_metrics(job: Settings) -> Job:
    if not hasattr(np, "trapz"):  # adeval 1.1 still asks NumPy 2.4 for it
        np.trapz = np.trapezoid  # noqa: NPY201
    import adeval
    import cv2

    cv2.setNumThreads(job["threads"])
    maps, masks = inputs.scored_maps(job["size"], job["maps"])
    names = ("pixel_auroc", "pixel_ap", "aupro")

    def outputs(found: Sequence[float]) -> Arrays:
        return {name: np.array(value) for name, value in zip(names, found, strict=True)}

    return Job(lambda: adeval.auroc_aupr_aupro(maps, masks), outputs)


def numpy_gemm(job: Settings) -> Job:
    """A product of large matrices by NumPy's OpenBLAS: the peak of fused multiply-adds."""
    a = np.random.default_rng(0).standard_normal((job["size"], job["size"]), np.float32)
    out = np.empty_like(a)
    return Job(lambda: np.matmul(a, a, out=out))


def numpy_copy(job: Settings) -> Job:
    """A copy too large for any cache, a piece per thread."""
    count = job["threads"]
    source = np.ones((count, job["bytes"] // 4 // count), np.float32)
    target = np.zeros_like(source)
    pool = ThreadPoolExecutor(count)
    return Job(lambda: list(pool.map(np.copyto, target, source)))


def export(job: Settings) -> Job:
    import exporting

    return Job(lambda: exporting.export(job))


IMPORTS: dict[str, Callable[[], Any]] = {
    "ours": import_ours,
    "torch": import_torch,
    "onnxruntime": import_onnxruntime,
    "openvino": import_openvino,
}
BUILDERS: dict[tuple[str, str], Callable[[Settings], Job]] = {
    ("pass", "ours"): our_pass,
    ("pass", "torch"): torch_pass,
    ("pass", "onnxruntime"): graph_pass(onnx_infer),
    ("pass", "openvino"): graph_pass(openvino_infer),
    ("detect", "ours"): our_detector,
    ("detect", "torch"): torch_detector,
    ("detect", "onnxruntime"): graph_detector(onnx_infer),
    ("detect", "openvino"): graph_detector(openvino_infer),
    ("train", "ours"): our_training,
    ("train", "torch"): torch_training,
    ("metrics", "ours"): our_metrics,
    ("metrics", "adeval"): adeval_metrics,
    ("synthesis", "ours"): our_synthesis,
    ("conv", "ours"): our_conv,
    ("conv", "torch"): torch_conv,
    ("adam", "ours"): our_adam,
    ("adam", "torch"): torch_adam,
    ("gemm", "numpy"): numpy_gemm,
    ("copy", "numpy"): numpy_copy,
    ("export", "export"): export,
}
