"""A model as one ONNX graph: noise, UNet, guidance, segmentation network, score.

The graph is written from the settings and the parameters' names, in operators that every runtime
has had since ONNX 1.12. What is the same for every image is worked out here: the time embedding
becomes a bias of each residual block's first convolution. Both noise scales are one batch, as in
``denoising``. Needs the package onnx, imported when used: ``pip install 'diffusionad[onnx]'``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffusionad.brightness import DARKEST, MOST
from diffusionad.config import GROUPS, to_dict
from diffusionad.denoising import evaluation_noise
from diffusionad.errors import InputError, MissingPackage
from diffusionad.files import PathLike, atomic_path
from diffusionad.normality import CENTRE, EDGE, FLOORS, POOLED_WEIGHT, Normality, pooled_radius

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

OPSET, IR_VERSION = 17, 8  # ONNX 1.12
FORMAT = "diffusionad-onnx/1"
LARGEST = (1 << 31) - (1 << 24)  # bytes of parameters; a file cannot be longer than 2 GiB
STEPS = {"norm_guided": ("t_s", "t_b"), "one_step": ("t_s",), "autoencoder": ()}  # by mode
EPSILON = 1e-5  # of every normalisation
SPREAD = 0.25  # of images about 1/2, in preconditioning

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Map:
    """A value of the graph: its name, and its shape but for the image count."""

    name: str
    channels: int
    side: int  # pixels, square


def export_onnx(model: DiffusionAD, path: PathLike, noise_inputs: bool = False) -> None:
    """Write a model as an ONNX file, whole or not at all.

    Input ``image``: float32 (N, 3, S, S) RGB in [0, 1] at the model's size S, any N. Outputs
    ``score`` (N,), ``map`` (N, S, S) and ``reconstruction`` (N, 3, S, S), as predict() gives them:
    the noise images of the model's seed are in the file. With ``noise_inputs`` they are inputs
    instead, ``noise_s`` and, but for one-step denoising, ``noise_b``: float32 (1, 3, S, S), or one
    for each image; an autoencoder has none. The metadata holds ``config``, ``provenance`` and
    ``threshold`` as JSON.

    Raises MissingPackage without onnx, InputError for models that repair iteratively, whose graph
    would hold the UNet once for every step, and for those of 2 GiB and more, WriteError.
    """
    if model.config.mode not in STEPS:
        raise InputError(f"{path}: mode: expected {', '.join(STEPS)}, got {model.config.mode!r}")
    onnx = _import_onnx()
    size = 4 * sum(
        math.prod(shape) for net in model.networks.values() for shape in net.parameters().values()
    )
    if size > LARGEST:
        raise InputError(f"{path}: {size / 2**30:.1f} GiB of parameters, ONNX files hold below 2")
    content = build(onnx, model, noise_inputs).SerializeToString(deterministic=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def build(onnx: Any, model: DiffusionAD, noise_inputs: bool) -> Any:
    """The model as an onnx.ModelProto."""
    config, graph = model.config, _Graph(onnx)
    channels, size = config.in_channels, config.image_size
    steps = [getattr(config, name) for name in STEPS[config.mode]]
    noises = evaluation_noise((channels, size, size), config.seed, len(steps))
    names = ["noise_s", "noise_b"][: len(steps)]
    inputs = [graph.declare("image", ["N", channels, size, size])]
    for name, noise in zip(names, noises, strict=True):
        if noise_inputs:
            inputs.append(graph.declare(name, ["N_noise", channels, size, size]))
        else:
            graph.constant(noise[None], name)
    image = _matched(graph, model, Map("image", channels, size))
    normal = model._in_force()
    twice = normal is not None and model._looks_twice(normal.pooled)
    if twice:  # the images, then their mirror images, all with the same noise
        shape = graph.node("Shape", image.name)
        noised = [graph.node("Expand", name, shape) for name in names]
        names = [graph.node("Concat", one, one, axis=0) for one in noised]
        both = graph.node("Concat", image.name, graph.mirrored(image.name), axis=0)
        image = Map(both, channels, size)
    repaired = _repair(graph, model, image, steps, names)
    found = _segmenter(graph, model, graph.concat([image, repaired]))
    if normal is not None:
        found = _standardised(graph, normal, found, image, repaired, twice)
    graph.node("Reshape", found.name, graph.whole([0, size, size]), output="map")
    flat = graph.node("Reshape", found.name, graph.whole([0, size * size]))
    top = graph.whole([min(config.top_k, size * size)])
    largest, _ = graph.nodes_of("TopK", 2, flat, top)
    graph.node("ReduceMean", largest, axes=[1], keepdims=0, output="score")
    own = graph.halves(repaired.name)[0] if twice else repaired.name
    graph.node("Identity", own, output="reconstruction")
    outputs = [
        graph.declare("score", ["N"]),
        graph.declare("map", ["N", size, size]),
        graph.declare("reconstruction", ["N", channels, size, size]),
    ]
    return graph.model(
        inputs,
        outputs,
        {
            "format": FORMAT,
            "config": json.dumps(to_dict(config), sort_keys=True),
            "provenance": json.dumps(model.provenance, sort_keys=True),
            "threshold": json.dumps(model.threshold),
        },
    )


def _matched(graph: _Graph, model: DiffusionAD, image: Map) -> Map:
    """The image at the brightness of the good images, as brightness.matched() has it."""
    if model.brightness is None:
        return image
    mean = graph.node("ReduceMean", image.name, axes=[1, 2, 3], keepdims=1)
    above = graph.node("Max", mean, graph.number(DARKEST))
    factor = graph.node("Div", graph.number(model.brightness), above)
    limits = (graph.number(1 / MOST), graph.number(MOST))
    scaled = graph.node("Mul", image.name, graph.node("Clip", factor, *limits))
    return Map(graph.node("Min", scaled, graph.number(1)), image.channels, image.side)


def _standardised(
    graph: _Graph, normal: Normality, found: Map, image: Map, repair: Map, twice: bool
) -> Map:
    """The map relative to what good images show, as csrc/pipeline/normality.c has it.

    With ``twice`` the second half of the batch are mirror images, whose departures count as much.
    """
    edge = graph.number(EDGE)
    one = graph.number(1)
    above = graph.node("Add", found.name, edge)
    below = graph.node("Add", graph.node("Sub", one, found.name), edge)
    odds = graph.node("Log", graph.node("Div", above, below))
    change = graph.node("Abs", graph.node("Sub", image.name, repair.name))
    error = graph.node("ReduceMean", change, axes=[1], keepdims=1)
    scales = normal.deviation + np.array(FLOORS, np.float32)[:, None, None]
    if normal.pooled:
        error = _related(graph, error, pooled_radius(found.side))
        scales[1] /= np.float32(POOLED_WEIGHT)
    departures = [_mean_of_views(graph, one) for one in (odds, error)] if twice else [odds, error]
    terms = [
        graph.node(
            "Div",
            graph.node("Sub", value, graph.constant(normal.mean[i][None, None])),
            graph.constant(scales[i][None, None]),
        )
        for i, value in enumerate(departures)
    ]
    z, centre = graph.node("Add", *terms), graph.number(CENTRE)
    u = graph.node("Div", graph.node("Sub", z, centre), centre)
    length = graph.node("Sqrt", graph.node("Add", one, graph.node("Mul", u, u)))
    half = graph.number(0.5)
    bent = graph.node("Add", one, graph.node("Div", u, length))
    return Map(graph.node("Mul", half, bent), found.channels, found.side)


def _mean_of_views(graph: _Graph, departures: str) -> str:
    own, mirrored = graph.halves(departures)
    return graph.scale(graph.add(own, graph.mirrored(mirrored)), 0.5)


def _related(graph: _Graph, error: str, radius: int) -> str:
    """Errors smoothed over a square, in multiples of their mean; 0 where all are 0."""
    side = 2 * radius + 1
    smoothed = graph.node(
        "AveragePool", error, kernel_shape=[side, side], pads=[radius] * 4, count_include_pad=0
    )
    mean = graph.node("ReduceMean", error, axes=[1, 2, 3], keepdims=1)
    smallest = graph.number(float(np.finfo(np.float32).tiny))
    return graph.node("Div", smoothed, graph.node("Max", mean, smallest))


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingPackage("onnx", "onnx") from error
    return onnx


# ---- denoising --------------------------------------------------------------------------------


def _repair(
    graph: _Graph, model: DiffusionAD, image: Map, steps: Sequence[int], noises: Sequence[str]
) -> Map:
    """One-step denoising at each step as one batch; of two, the second guides the first.

    Of none, what the UNet makes of the image itself, as denoising.autoencode() has it.
    """
    if not steps:
        return _unet(graph, model, image, [0], [1.0], None)
    abar = [float(model.schedule.alphas_cumprod[t]) for t in steps]
    noised = [
        graph.add(
            graph.scale(image.name, math.sqrt(a)), graph.scale(noise, math.sqrt(1 - a))
        )
        for a, noise in zip(abar, noises, strict=True)
    ]  # fmt: skip
    if len(steps) == 1:
        x = Map(noised[0], image.channels, image.side)
        e_s = _unet(graph, model, x, steps, abar, None).name
    else:
        x = Map(graph.node("Concat", *noised, axis=0), image.channels, image.side)
        eps = _unet(graph, model, x, steps, abar, graph.rows(image.name)).name
        e_s, e_b = graph.halves(eps)
        x0_b = graph.clip(_predict_x0(graph, noised[1], e_b, abar[1]))
        a, b = math.sqrt(abar[0]), math.sqrt(1 - abar[0])
        again = graph.add(graph.scale(x0_b, a), graph.scale(e_s, b))
        difference = graph.node("Sub", again, noised[0])
        e_s = graph.node("Sub", e_s, graph.scale(difference, b * model.config.w))
    repaired = graph.clip(_predict_x0(graph, noised[0], e_s, abar[0]))
    return Map(repaired, image.channels, image.side)


def _predict_x0(graph: _Graph, x_t: str, eps: str, abar: float) -> str:
    return graph.node(
        "Sub", graph.scale(x_t, 1 / math.sqrt(abar)), graph.scale(eps, math.sqrt(1 / abar - 1))
    )


# ---- the UNet ---------------------------------------------------------------------------------


def _unet(
    graph: _Graph,
    model: DiffusionAD,
    x: Map,
    steps: Sequence[int],
    abar: Sequence[float],
    rows: str | None,
) -> Map:
    """Noise in x; ``rows`` says which of the steps each image of the batch has."""
    config = model.unet.config
    state = _State(graph, model.unet.state_dict(), "unet")
    blocks = _Blocks(graph, state, _embedding(state, steps), rows, config)
    y = graph.to_depth(x, config["patch_size"])
    y = state.conv(y, "down.0.0")
    skips, number, stride = [y], 1, 1
    widths = [int(config["base_channels"] * m) for m in config["channel_mults"]]
    for level, width in enumerate(widths):
        for _ in range(config["num_res_blocks"]):
            y = blocks.residual(y, f"down.{number}.0", width)
            y = blocks.attention_at(stride, y, f"down.{number}.1")
            skips.append(y)
            number += 1
        if level + 1 < len(widths):
            y = blocks.halve(y, f"down.{number}.0")
            stride *= 2
            skips.append(y)
            number += 1
    y = blocks.residual(y, "middle.0", y.channels)
    y = blocks.attention(y, "middle.1")
    y = blocks.residual(y, "middle.2", y.channels)
    number = 0
    for level, width in reversed(list(enumerate(widths))):
        for i in range(config["num_res_blocks"] + 1):
            y = blocks.residual(graph.concat([y, skips.pop()]), f"up.{number}.0", width)
            before = y
            y = blocks.attention_at(stride, y, f"up.{number}.1")
            if level > 0 and i == config["num_res_blocks"]:
                y = blocks.twice(y, f"up.{number}.{1 if y is before else 2}")
                stride //= 2
            number += 1
    y = graph.silu(state.group_norm(y, "out.0"))
    y = graph.to_space(state.conv(y, "out.2"), config["patch_size"])
    return _precondition(graph, x, y, abar, rows) if config["preconditioned"] else y


def _embedding(state: _State, steps: Sequence[int]) -> Array:
    """SiLU of the time embedding of each step, float64 (steps, 4 base)."""
    first, second = (state.linear(f"time_embedding.{i}") for i in (1, 3))
    half = first[0].shape[1] // 2
    frequencies = np.exp(-math.log(10000) / half * np.arange(half))
    angles = np.array(steps, np.float64)[:, None] * frequencies
    encoded = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    hidden = _silu(encoded @ first[0].T + first[1])
    return _silu(hidden @ second[0].T + second[1])


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _precondition(
    graph: _Graph, x: Map, output: Map, abar: Sequence[float], rows: str | None
) -> Map:
    """eps = (1 − c)/√(1−ᾱ)·(x_t − √ᾱ/2) − √c·output (Karras et al. 2022), c by step."""
    a = np.array(abar)[:, None, None, None]
    share = SPREAD**2 / ((1 - a) / a + SPREAD**2)
    direct = (1 - share) / np.sqrt(1 - a)
    parts = [
        graph.node("Mul", x.name, graph.by_step(direct, rows)),
        graph.by_step(-direct * np.sqrt(a) / 2, rows),
        graph.node("Mul", output.name, graph.by_step(-np.sqrt(share), rows)),
    ]
    return Map(graph.add(graph.add(parts[0], parts[1]), parts[2]), output.channels, output.side)


class _Blocks:
    """The UNet's blocks; names are those of their first parameters' modules."""

    def __init__(
        self,
        graph: _Graph,
        state: _State,
        embedding: Array,
        rows: str | None,
        config: dict[str, Any],
    ) -> None:
        self.graph, self.state, self.config = graph, state, config
        self.embedding, self.rows = embedding, rows
        side = config["image_size"] // config["patch_size"]
        self.strides = {
            max(1, side // r)
            for r in config["attention_resolutions"]
            if 0 < r <= config["image_size"]
        }

    def residual(self, x: Map, name: str, width: int, resample: str | None = None) -> Map:
        """GN, SiLU, [resample], conv + time, GN, SiLU, conv, + skip."""
        graph, state = self.graph, self.state
        h = graph.silu(state.group_norm(x, f"{name}.in_layers.0"))
        skip = x
        if resample is not None:
            h, skip = graph.resampled(h, resample), graph.resampled(x, resample)
        weight, bias = state.linear(f"{name}.embed_layers.1")
        shift = self.embedding @ weight.T + bias + state.array(f"{name}.in_layers.2.bias")
        h = state.conv(h, f"{name}.in_layers.2", bias=False)
        shifts = graph.by_step(shift[:, :, None, None], self.rows)
        h = Map(graph.add(h.name, shifts), h.channels, h.side)
        h = graph.silu(state.group_norm(h, f"{name}.out_layers.0"))
        h = state.conv(h, f"{name}.out_layers.3")
        if x.channels != width:
            skip = state.conv(skip, f"{name}.skip_connection")
        return Map(graph.add(h.name, skip.name), width, h.side)

    def attention_at(self, stride: int, x: Map, name: str) -> Map:
        return self.attention(x, name) if stride in self.strides else x

    def attention(self, x: Map, name: str) -> Map:
        """Self-attention over the pixels; channels of qkv are grouped by head as [q, k, v]."""
        graph, state = self.graph, self.state
        width = self.config["num_head_channels"]
        heads = self.config["num_heads"] if width < 1 else x.channels // width
        width, pixels = x.channels // heads, x.side**2
        h = state.group_norm(x, f"{name}.norm")
        flat = graph.node("Reshape", h.name, graph.whole([0, x.channels, pixels]))
        qkv = state.conv1d(flat, f"{name}.to_qkv")
        qkv = graph.node("Reshape", qkv, graph.whole([0, heads, 3 * width, pixels]))
        q, k, v = graph.nodes_of("Split", 3, qkv, axis=2)
        q, k = (graph.scale(part, width**-0.25) for part in (q, k))
        scores = graph.node("MatMul", graph.node("Transpose", q, perm=[0, 1, 3, 2]), k)
        weights = graph.node("Softmax", scores, axis=3)
        y = graph.node("MatMul", v, graph.node("Transpose", weights, perm=[0, 1, 3, 2]))
        y = graph.node("Reshape", y, graph.whole([0, x.channels, pixels]))
        y = state.conv1d(y, f"{name}.proj_out")
        y = graph.node("Reshape", y, graph.whole([0, x.channels, x.side, x.side]))
        return Map(graph.add(x.name, y), x.channels, x.side)

    def halve(self, x: Map, name: str) -> Map:
        if self.config["resblock_updown"]:
            return self.residual(x, name, x.channels, "down")
        return self.state.conv(x, f"{name}.downsample", stride=2)

    def twice(self, x: Map, name: str) -> Map:
        if self.config["resblock_updown"]:
            return self.residual(x, name, x.channels, "up")
        return self.state.conv(self.graph.resampled(x, "up"), f"{name}.conv")


# ---- the segmentation network -----------------------------------------------------------------


def _segmenter(graph: _Graph, model: DiffusionAD, x: Map) -> Map:
    """Probability of a defect at each pixel."""
    state = _State(graph, model.seg.state_dict(), "seg")
    patch = model.seg.config["patch_size"]
    y = graph.to_depth(x, patch)
    maps: list[Map] = []
    for block in range(1, 7):
        if maps:
            y = graph.pooled(y, "MaxPool")
        y = state.conv_bn_relu_pair(y, f"encoder_segment.block{block}")
        maps.append(y)
    maps.pop()
    for stage in ("_b", "1", "2", "3", "4"):
        y = graph.resampled(y, "bilinear")
        y = state.conv_bn_relu(y, f"decoder_segment.up{stage}", 1)
        y = graph.concat([y, maps.pop()])
        y = state.conv_bn_relu_pair(y, f"decoder_segment.db{stage}")
    y = graph.to_space(state.conv(y, "decoder_segment.fin_out.0"), patch)
    return Map(graph.node("Sigmoid", y.name), y.channels, y.side)


# ---- writing nodes ----------------------------------------------------------------------------


class _Graph:
    """Nodes and constants in the making; values are named after the node they come from."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def nodes_of(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        name = f"{op}_{len(self.nodes)}"
        names = [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(op, inputs, names, name, **attributes))
        return names

    def constant(self, array: Array, name: str | None = None) -> str:
        name = name or f"constant_{len(self.constants)}"
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.constants[name] = tensor
        return name

    def whole(self, numbers: Sequence[int]) -> str:
        name = f"whole_{'_'.join(map(str, numbers))}"
        return name if name in self.constants else self.constant(np.array(numbers, np.int64), name)

    def number(self, value: float) -> str:
        value = float(np.float32(value))
        name = f"number_{value!r}"
        return name if name in self.constants else self.constant(np.array(value, np.float32), name)

    def declare(self, name: str, shape: Sequence[int | str]) -> Any:
        kind = self.onnx.TensorProto.FLOAT
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], about: dict[str, str]) -> Any:
        from diffusionad import __version__

        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "diffusionad", inputs, outputs, list(self.constants.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="diffusionad",
            producer_version=__version__,
        )
        helper.set_model_props(model, about)
        return model

    def rows(self, images: str) -> str:
        """Step of each image in the batch of both noise scales: 0 … 0, 1 … 1."""
        count = self.node("Shape", images, start=0, end=1)
        rows = [
            self.node(
                "ConstantOfShape", count,
                value=self.onnx.numpy_helper.from_array(np.array([step], np.int64)),
            )
            for step in (0, 1)
        ]  # fmt: skip
        return self.node("Concat", *rows, axis=0)

    def halves(self, x: str) -> list[str]:
        """Of a batch: of both noise scales, or of images and mirror images."""
        return self.nodes_of("Split", 2, x, axis=0)

    def mirrored(self, x: str) -> str:
        """Left and right exchanged."""
        last, first, axis = self.whole([-1]), self.whole([np.iinfo(np.int64).min]), self.whole([3])
        return self.node("Slice", x, last, first, axis, last)

    def by_step(self, table: Array, rows: str | None) -> str:
        """Of (steps, ...) values each image's own."""
        constant = self.constant(table.astype(np.float32))
        return constant if rows is None else self.node("Gather", constant, rows, axis=0)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def scale(self, x: str, factor: float) -> str:
        return self.node("Mul", x, self.number(factor))

    def clip(self, x: str) -> str:
        return self.node("Clip", x, self.number(-1.0), self.number(1.0))

    def silu(self, x: Map) -> Map:
        return Map(
            self.node("Mul", x.name, self.node("Sigmoid", x.name)), x.channels, x.side
        )  # fmt: skip

    def concat(self, maps: Sequence[Map]) -> Map:
        name = self.node("Concat", *(one.name for one in maps), axis=1)
        return Map(name, sum(one.channels for one in maps), maps[0].side)

    def pooled(self, x: Map, op: str) -> Map:
        name = self.node(op, x.name, kernel_shape=[2, 2], strides=[2, 2])
        return Map(name, x.channels, x.side // 2)

    def resampled(self, x: Map, how: str) -> Map:
        """Half the side ("down") or twice ("up", "bilinear" with aligned corners)."""
        if how == "down":
            return self.pooled(x, "AveragePool")
        options: dict[str, str] = {
            "up": {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            },
            "bilinear": {
                "mode": "linear",
                "coordinate_transformation_mode": "align_corners",
            },
        }[how]
        factors = "factors_1_1_2_2"
        if factors not in self.constants:
            self.constant(np.array([1, 1, 2, 2], np.float32), factors)
        name = self.node("Resize", x.name, "", factors, **options)
        return Map(name, x.channels, 2 * x.side)

    def to_depth(self, x: Map, patch: int) -> Map:
        if patch == 1:
            return x
        name = self.node("SpaceToDepth", x.name, blocksize=patch)
        return Map(name, x.channels * patch**2, x.side // patch)

    def to_space(self, x: Map, patch: int) -> Map:
        if patch == 1:
            return x
        name = self.node("DepthToSpace", x.name, blocksize=patch, mode="DCR")
        return Map(name, x.channels // patch**2, x.side * patch)


class _State:
    """The parameters of a network, and the layers that they belong to."""

    def __init__(self, graph: _Graph, state: dict[str, Array], prefix: str) -> None:
        self.graph, self.state, self.prefix = graph, state, prefix

    def array(self, name: str) -> Array:
        return self.state[name]

    def linear(self, name: str) -> tuple[Array, Array]:
        """Weight and bias, float64."""
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return weight.astype(np.float64), bias.astype(np.float64)

    def constant(self, name: str, shape: tuple[int, ...] | None = None) -> str:
        array = self.state[name]
        return self.graph.constant(
            array if shape is None else array.reshape(shape), f"{self.prefix}.{name}"
        )

    def conv(self, x: Map, name: str, stride: int = 1, bias: bool = True) -> Map:
        channels, _, kernel, _ = self.state[f"{name}.weight"].shape
        given = [self.constant(f"{name}.weight")]
        given += [self.constant(f"{name}.bias")] if bias else []
        value = self.graph.node(
            "Conv", x.name, *given,
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=4 * [kernel // 2],
        )  # fmt: skip
        return Map(value, channels, x.side // stride)

    def conv1d(self, x: str, name: str) -> str:
        parameters = (self.constant(f"{name}.{part}") for part in ("weight", "bias"))
        return self.graph.node("Conv", x, *parameters, kernel_shape=[1])

    def group_norm(self, x: Map, name: str) -> Map:
        graph = self.graph
        ones, zeros = (f"{what}_{GROUPS}" for what in ("ones", "zeros"))
        if ones not in graph.constants:
            graph.constant(np.ones(GROUPS, np.float32), ones)
            graph.constant(np.zeros(GROUPS, np.float32), zeros)
        groups = graph.node("Reshape", x.name, graph.whole([0, GROUPS, -1]))
        y = graph.node("InstanceNormalization", groups, ones, zeros, epsilon=EPSILON)
        y = graph.node("Reshape", y, graph.whole([0, x.channels, x.side, x.side]))
        weight, bias = (self.constant(f"{name}.{p}", (-1, 1, 1)) for p in ("weight", "bias"))
        return Map(graph.add(graph.node("Mul", y, weight), bias), x.channels, x.side)

    def conv_bn_relu(self, x: Map, name: str, index: int) -> Map:
        y = self.conv(x, f"{name}.{index}")
        norm = f"{name}.{index + 1}"
        parts = ("weight", "bias", "running_mean", "running_var")
        given = (self.constant(f"{norm}.{part}") for part in parts)
        value = self.graph.node("BatchNormalization", y.name, *given, epsilon=EPSILON)
        return Map(self.graph.node("Relu", value), y.channels, y.side)

    def conv_bn_relu_pair(self, x: Map, name: str) -> Map:
        return self.conv_bn_relu(self.conv_bn_relu(x, name, 0), name, 3)
