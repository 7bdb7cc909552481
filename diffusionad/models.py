"""The two networks: the reconstruction UNet and the segmentation network.

Both are thin: shapes and names here, everything else in ``_core.Network``. Images are float32 NCHW.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from . import _core
from .config import GROUPS
from .diffusion import Schedule, check_steps
from .errors import InputError
from .seeds import Seed, number

if TYPE_CHECKING:
    from .config import ModelConfig

FloatArray = npt.NDArray[np.float32]
StateDict = dict[str, npt.NDArray[Any]]

CHANNEL_MULTS: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 3, 4),
}
"""Channel multipliers per level for each image size of the reference."""

MAX_LEVELS, MAX_RES_BLOCKS = 16, 30  # what the core builds
SEGMENTER_MULTS = (1, 2, 4, 8, 8, 8)  # widths of its encoder's blocks


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter or buffer of a network, or what goes with it; ``numpy.asarray`` copies its
    present values."""

    network: _core.Network
    name: str
    shape: tuple[int, ...]
    what: Literal["value", "m", "v", "average"] = "value"
    dtype = np.dtype(np.float32)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> FloatArray:
        return np.asarray(self.network.read(self.name, self.what), dtype)


class _Network:
    """What both networks share: parameters by their official names, and the passes."""

    _core: _core.Network
    _zero_initialised: tuple[str, ...] = ()

    fast: bool = False
    """Evaluate with Winograd's F(6x6) on maps of 64x64 and more. Quicker, with about five times the
    rounding error (of the order of 1e-5 of the largest value). Training is not affected."""

    low_memory: bool = False
    """Evaluate the images of a batch one after the other, with the same results bit for bit, in the
    memory that one image takes."""

    _bfloat16: bool = False

    @property
    def bfloat16(self) -> bool:
        """Evaluate with what convolutions multiply rounded to bfloat16, 8 bits of precision;
        sums stay float32. Much quicker, with an error of the order of 1e-2 of the largest value; it
        goes before ``fast``. Training is not affected. Setting it raises InputError where the
        processor has no AVX512_BF16."""
        return self._bfloat16

    @bfloat16.setter
    def bfloat16(self, bfloat16: bool) -> None:
        if bfloat16 and not _core.has_bfloat16():
            raise InputError(
                "bfloat16: expected False, this processor or the SIMD level in use has no "
                "AVX512_BF16"
            )
        self._bfloat16 = bool(bfloat16)

    def _evaluate(self, x: FloatArray, t: FloatArray | None = None) -> FloatArray:
        how = {"fast": self.fast, "bfloat16": self.bfloat16}
        if not self.low_memory or np.ndim(x) != 4 or len(x) < 2:
            return self._core.forward(x, t, **how)
        times = [None] * len(x) if t is None else [t[i : i + 1] for i in range(len(x))]
        return np.concatenate(
            [self._core.forward(x[i : i + 1], times[i], **how) for i in range(len(x))]
        )

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the trainable parameters, in the order of the layers."""
        return {name: shape for name, shape, trainable in self._core.parameters() if trainable}

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers the network has."""
        return sum(math.prod(shape) for shape in self.parameters().values())

    def initialise(self, seed: Seed = 0) -> None:
        """Set the reference's initial weights: PyTorch's defaults, and zeros where it puts them.

        Uniform in ±1/√fan_in for weights and biases of convolutions and linear layers, 1 and 0 for
        normalisations. A parameter's values depend on ``seed`` and its name alone.
        """
        start = number(seed)
        shapes = {name: shape for name, shape, _ in self._core.parameters()}
        for name, shape in shapes.items():
            weight_shape = shapes.get(name.removesuffix(".bias") + ".weight", shape)
            values: FloatArray
            if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
                values = np.ones(shape, np.float32)
            elif (
                name.endswith("running_mean")
                or len(weight_shape) == 1
                or any(f".{part}." in f".{name}" for part in self._zero_initialised)
            ):
                values = np.zeros(shape, np.float32)
            else:
                bound = 1.0 / math.sqrt(math.prod(weight_shape[1:]))
                rng = np.random.default_rng([start, zlib.crc32(name.encode())])
                values = rng.uniform(-bound, bound, shape).astype(np.float32)
            self._core.write(name, values)

    def state_dict(self) -> StateDict:
        """Copies of all parameters and buffers: the reference's names, PyTorch's shapes."""
        return {name: self._core.read(name) for name, _, _ in self._core.parameters()}

    def parameter_views(self) -> dict[str, Parameter | npt.NDArray[Any]]:
        """The state dict, copied value by value when it is converted to arrays."""
        return {
            name: Parameter(self._core, name, shape) for name, shape, _ in self._core.parameters()
        }

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Replace all parameters and buffers.

        Raises KeyError where a name is missing or unknown, ValueError where a shape differs;
        nothing is changed then. What is no array yet, but has a shape and becomes one
        (``__array__``), is converted when it is its turn.
        """
        shapes = {name: shape for name, shape, _ in self._core.parameters()}
        for name, value in _checked(state, shapes).items():
            self._core.write(name, np.asarray(value, dtype=np.float32))

    def training_state(self, averages: bool = False) -> StateDict:
        """What training goes on from: values, and Adam's moments under ``m.`` and ``v.``.

        With ``averages``, also the moving averages of all values, under ``average.``.
        """
        views = self.training_views(averages)
        return {name: np.asarray(value) for name, value in views.items()}

    def training_views(self, averages: bool = False) -> dict[str, Parameter | npt.NDArray[Any]]:
        """The training state, copied value by value when it is converted to arrays."""
        views = self.parameter_views()
        kinds: tuple[Literal["m", "v", "average"], ...] = ("m", "v", "average")
        for what in kinds if averages else kinds[:2]:
            views |= {
                f"{what}.{name}": Parameter(self._core, name, shape, what)
                for name, shape, trainable in self._core.parameters()
                if trainable or what == "average"
            }
        return views

    def load_training_state(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Take over what training_state() gave. Raises as load_state_dict does."""
        prefixes = ("m.", "v.", "average.")
        beside = {name: v for name, v in state.items() if name.startswith(prefixes)}
        shapes = {f"{m}.{name}": s for m in ("m", "v") for name, s in self.parameters().items()}
        if any(name.startswith("average.") for name in beside):
            shapes |= {f"average.{name}": shape for name, shape, _ in self._core.parameters()}
        checked = _checked(beside, shapes)
        self.load_state_dict({name: v for name, v in state.items() if name not in beside})
        kinds: tuple[Literal["m", "v", "average"], ...] = ("m", "v", "average")
        for what in kinds:
            for name, _, _ in self._core.parameters():
                if f"{what}.{name}" in checked:
                    self._core.write(name, checked[f"{what}.{name}"], what)

    def forget_moments(self) -> None:
        """Let Adam start anew, where the network was trained before."""
        for name, shape in self.parameters().items():
            for moment in ("m", "v"):
                self._core.write(name, np.zeros(shape, np.float32), moment)

    def gradients(self) -> dict[str, FloatArray]:
        """Copies of the gradients accumulated so far, by parameter."""
        return {name: self._core.read(name, "gradient") for name in self.parameters()}


class UNet(_Network):
    """The reconstruction sub-network: a guided-diffusion UNet, predicts the noise in ``x_t``.

    ``image_size`` (pixels, square) sets the default ``channel_mults`` and, divided by
    ``attention_resolutions``, the strides at which attention is used. ``base_channels`` and every
    level's width must be multiples of 32. With ``patch_size`` p the network works on maps p times
    smaller: p × p pixels enter as one pixel of 3 p² channels (attention_resolutions still count
    the sides of the maps). ``preconditioned`` makes the noise from ``x_t`` and the layers' output,
    weighted by ``t`` (Karras et al. 2022), instead of from the output alone: small networks need
    not carry the noise through then; it uses ``schedule``. ``seed`` decides the initial weights;
    None leaves them zero, for weights that are loaded. Raises ValueError for anything else.

    >>> unet = UNet(image_size=32, base_channels=32, channel_mults=(1, 2), num_res_blocks=1)
    >>> unet(np.zeros((1, 3, 32, 32), np.float32), 200).shape
    (1, 3, 32, 32)
    """

    _zero_initialised = ("out_layers.3", "proj_out", "out.2")

    def __init__(
        self,
        image_size: int = 256,
        base_channels: int = 128,
        channel_mults: Sequence[float] | None = None,
        num_res_blocks: int = 2,
        num_heads: int = 4,
        num_head_channels: int = -1,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        resblock_updown: bool = True,
        in_channels: int = 3,
        out_channels: int = 3,
        dropout: float = 0.0,
        patch_size: int = 1,
        preconditioned: bool = False,
        schedule: Schedule | None = None,
        seed: Seed | None = 0,
    ) -> None:
        if channel_mults is None:
            if image_size not in CHANNEL_MULTS:
                raise ValueError(
                    f"channel_mults: give them for image_size {image_size}; "
                    f"known sizes are {sorted(CHANNEL_MULTS)}"
                )
            channel_mults = CHANNEL_MULTS[image_size]
        if base_channels < GROUPS or base_channels % GROUPS:
            raise ValueError(f"base_channels: expected a multiple of {GROUPS}, got {base_channels}")
        widths = [base_channels * m for m in channel_mults]
        if not 1 <= len(widths) <= MAX_LEVELS or any(w < GROUPS or w % GROUPS for w in widths):
            raise ValueError(
                f"channel_mults: expected 1 to {MAX_LEVELS} level widths that are multiples of "
                f"{GROUPS}, got {widths}"
            )
        channels = [int(width) for width in widths]
        _check_patch(patch_size)
        factor = patch_size * 2 ** (len(channels) - 1)
        if image_size < factor or image_size % factor:
            raise ValueError(
                f"image_size: {len(channels)} levels and patches of {patch_size} need "
                f"a multiple of {factor}, got {image_size}"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        if num_head_channels > 0:
            _check_divisible("num_head_channels", channels, num_head_channels)
        else:
            _check_divisible("num_heads", channels, num_heads)
        if not 1 <= num_res_blocks <= MAX_RES_BLOCKS:
            raise ValueError(
                f"num_res_blocks: expected 1 to {MAX_RES_BLOCKS}, got {num_res_blocks}"
            )
        _check_positive(in_channels=in_channels, out_channels=out_channels)
        if preconditioned and in_channels != out_channels:
            raise ValueError(
                f"preconditioned: {out_channels} channels of noise for {in_channels} of the image"
            )
        self.config: dict[str, Any] = {
            "image_size": image_size,
            "base_channels": base_channels,
            "channel_mults": list(channel_mults),
            "num_res_blocks": num_res_blocks,
            "num_heads": num_heads,
            "num_head_channels": num_head_channels,
            "attention_resolutions": list(attention_resolutions),
            "resblock_updown": resblock_updown,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "dropout": dropout,
            "patch_size": patch_size,
            "preconditioned": preconditioned,
        }
        self.schedule = schedule or Schedule("linear")
        self._core = _core.unet(
            height=image_size,
            width=image_size,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            embedding=base_channels,
            res_blocks=num_res_blocks,
            heads=num_heads,
            head_channels=num_head_channels,
            attention_strides=sorted(
                {
                    max(1, image_size // (patch_size * r))
                    for r in attention_resolutions
                    if 0 < r <= image_size
                }
            ),
            resblock_updown=resblock_updown,
            dropout=dropout,
            patch=patch_size,
        )
        if seed is not None:
            self.initialise(seed)

    def __call__(self, x: FloatArray, t: npt.ArrayLike) -> FloatArray:
        """Noise predicted in ``x`` (N, C, H, W) at time steps ``t`` (an int, or (N,) ints)."""
        return self._forward(x, t)

    def backward(
        self, x: FloatArray, t: npt.ArrayLike, grad_eps: FloatArray
    ) -> dict[str, FloatArray]:
        """Gradients of ``sum(eps * grad_eps)``: one array per parameter, and ``"x"``."""
        self._core.zero_gradients()
        self._forward(x, t, training=True, input_gradient=True)
        dx = self._backward(t, grad_eps)
        assert dx is not None
        return {**self.gradients(), "x": dx}

    def _forward(self, x: FloatArray, t: npt.ArrayLike, **options: Any) -> FloatArray:
        steps = check_steps(t, len(x)).astype(np.float32)
        output = self._core.forward(x, steps, **options) if options else self._evaluate(x, steps)
        if not self.config["preconditioned"]:
            return output
        return _core.precondition(x, output, self.schedule.alphas_cumprod_at(t, len(x)))

    def _backward(self, t: npt.ArrayLike, d_eps: FloatArray) -> FloatArray | None:
        """Add to the gradients of the last forward pass; the input's, where that asked for it."""
        if not self.config["preconditioned"]:
            return self._core.backward(d_eps)
        abar = self.schedule.alphas_cumprod_at(t, len(d_eps))
        d_output, direct = _core.precondition_backward(d_eps, abar)
        dx = self._core.backward(d_output)
        return None if dx is None else dx + direct


class SegmentationNet(_Network):
    """The segmentation sub-network: image and repair to a probability per pixel.

    Takes any height and width that are multiples of 32 times ``patch_size``; see UNet for patches.

    >>> seg = SegmentationNet(base_channels=4)
    >>> seg(np.zeros((1, 6, 64, 64), np.float32)).shape
    (1, 1, 64, 64)
    """

    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 1,
        base_channels: int = 64,
        patch_size: int = 1,
        seed: Seed | None = 0,
    ) -> None:
        _check_patch(patch_size)
        _check_positive(
            in_channels=in_channels, out_channels=out_channels, base_channels=base_channels
        )
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "base_channels": base_channels,
            "patch_size": patch_size,
        }
        self._core = _core.segmenter(
            height=32 * patch_size,
            width=32 * patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            base_channels=base_channels,
            patch=patch_size,
        )
        self._batches_tracked: dict[str, int] = {
            name.removesuffix("running_mean") + "num_batches_tracked": 0
            for name, _, _ in self._core.parameters()
            if name.endswith("running_mean")
        }
        if seed is not None:
            self.initialise(seed)

    def initialise(self, seed: Seed = 0) -> None:
        """As UNet's; no batches have been counted then."""
        super().initialise(seed)
        self._batches_tracked = dict.fromkeys(self._batches_tracked, 0)

    def __call__(self, x: FloatArray, training: bool = False) -> FloatArray:
        """Mask (N, 1, H, W) in [0, 1]; ``training`` uses and moves the batch statistics."""
        if not training:
            return self._evaluate(x)
        mask = self._core.forward(x, training=True)
        self.count_batch()
        return mask

    def count_batch(self) -> None:
        """Note that the running statistics have seen one more batch."""
        for name in self._batches_tracked:
            self._batches_tracked[name] += 1

    def running_statistics(self) -> dict[str, FloatArray]:
        """Copies of every BatchNorm's running mean and variance."""
        return {
            name: self._core.read(name)
            for name, _, trainable in self._core.parameters()
            if not trainable
        }

    def set_running_statistics(self, statistics: Mapping[str, FloatArray]) -> None:
        """Put back what ``running_statistics`` returned."""
        for name, values in statistics.items():
            self._core.write(name, values)

    def backward(self, x: FloatArray, grad_mask: FloatArray) -> dict[str, FloatArray]:
        """Gradients of ``sum(mask * grad_mask)`` with batch statistics; the running ones stay."""
        kept = self.running_statistics()
        try:
            self._core.zero_gradients()
            self._core.forward(x, training=True, input_gradient=True)
            dx = self._core.backward(grad_mask)
        finally:
            self.set_running_statistics(kept)
        assert dx is not None
        return {**self.gradients(), "x": dx}

    def state_dict(self) -> StateDict:
        """Copies of all parameters and buffers, BatchNorm's counts of batches among them."""
        state = super().state_dict()
        state.update({name: np.array(n, np.int64) for name, n in self._batches_tracked.items()})
        return state

    def parameter_views(self) -> dict[str, Parameter | npt.NDArray[Any]]:
        """The state dict, copied value by value when it is converted to arrays."""
        counts = {name: np.array(n, np.int64) for name, n in self._batches_tracked.items()}
        return {**super().parameter_views(), **counts}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Replace all parameters and buffers, as UNet's; a missing count of batches is 0."""
        counts = {name: _as_count(name, state.get(name, 0)) for name in self._batches_tracked}
        super().load_state_dict({k: v for k, v in state.items() if k not in counts})
        self._batches_tracked = counts


def _as_count(name: str, value: npt.ArrayLike) -> int:
    count = np.asarray(value)
    if count.shape != () or count.dtype.kind not in "iu" or not 0 <= int(count) < 1 << 63:
        raise ValueError(f"{name}: expected a count of batches, got {value!r}")
    return int(count)


def main_shapes(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Network, name and shape of the main parameters on the way down, without building any.

    All parameters of both networks together are at most some times as many. One by one, so that
    settings that say millions of blocks cost nothing where the first is not there.
    """
    base, image = config.base_channels, config.in_channels
    mults = config.channel_mults or CHANNEL_MULTS.get(config.image_size, ())
    widths = [int(base * mult) for mult in mults]
    yield "unet", "time_embedding.1.weight", (4 * base, base)
    before, block = 0, 1
    for width in widths:
        if before == 0:
            before = width
            yield "unet", "down.0.0.weight", (width, image * config.patch_size**2, 3, 3)
        for _ in range(config.num_res_blocks):
            yield "unet", f"down.{block}.0.embed_layers.1.weight", (width, 4 * base)
            yield "unet", f"down.{block}.0.in_layers.2.weight", (width, before, 3, 3)
            before, block = width, block + 1
        block += 1  # halves the maps
    before = 2 * image * config.seg_patch_size**2
    for index, mult in enumerate(SEGMENTER_MULTS, 1):
        width = mult * config.seg_channels
        yield "seg", f"encoder_segment.block{index}.0.weight", (width, before, 3, 3)
        before = width


@contextmanager
def averaged(*networks: UNet | SegmentationNet) -> Iterator[None]:
    """The moving averages of all values in the networks' places, and back afterwards."""
    for network in networks:
        network._core.swap_average()
    try:
        yield
    finally:
        for network in networks:
            network._core.swap_average()


def _checked(
    state: Mapping[str, npt.ArrayLike], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """All of ``state``, as float32 arrays or as what becomes one.

    Raises KeyError and ValueError unless it has these names and shapes.
    """
    missing = sorted(set(shapes) - set(state))
    unknown = sorted(set(state) - set(shapes))
    if missing or unknown:
        raise KeyError(
            f"state: {len(missing)} names missing, {len(unknown)} unknown, "
            f"for example {(missing or unknown)[0]!r}"
        )
    checked: dict[str, Any] = {}
    for name, shape in shapes.items():
        value: Any = state[name]
        if isinstance(value, np.ndarray) or not hasattr(value, "__array__"):
            value = np.asarray(value, dtype=np.float32)
        if tuple(value.shape) != shape:
            raise ValueError(f"state[{name!r}]: expected shape {shape}, got {tuple(value.shape)}")
        checked[name] = value
    return checked


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")


def _check_divisible(name: str, channels: Sequence[int], divisor: int) -> None:
    if divisor < 1 or any(c % divisor for c in channels):
        raise ValueError(f"{name}: {divisor} does not divide the level widths {list(channels)}")


def _check_patch(patch_size: int) -> None:
    if not 1 <= patch_size <= 16:
        raise ValueError(f"patch_size: expected 1 to 16, got {patch_size}")
