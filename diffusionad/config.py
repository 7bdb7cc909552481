"""Settings of a model and of its training: frozen dataclasses, presets, JSON and TOML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from diffusionad.diffusion import Schedule
from diffusionad.errors import InputError
from diffusionad.files import PathLike, reason
from diffusionad.seeds import number

MODES = ("norm_guided", "one_step", "iterative", "autoencoder")
SCHEDULES = ("linear", "cosine")
KINDS = ("auto", "object", "texture")
LOSSES = ("noise", "focal", "smooth_l1", "bce", "dice")
GROUPS = 32  # of every GroupNorm of the UNet
NO_RESULT = {"memory_budget"}  # settings that may change without changing what is learnt
MOST = {"image_size": 8192, "timesteps": 100_000, "seed": 2**64 - 1}  # files are believed so far
Config = TypeVar("Config", "ModelConfig", "TrainConfig")


def _setting(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


def _check_types(config: Any) -> None:
    """Refuse values of another type than declared; whole numbers are taken where floats are."""
    for name, wanted in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(config, name, float(value))
        elif wanted is float:
            if not isinstance(value, float) or not math.isfinite(value):
                raise InputError(f"{name}: expected a finite number, got {value!r}")
        elif wanted in (int, str, bool):
            if type(value) is not wanted:
                raise InputError(f"{name}: expected {wanted.__name__}, got {value!r}")
        elif value is not None or name != "channel_mults":
            numbers = (int, float) if name == "channel_mults" else (int,)
            if not isinstance(value, tuple) or any(type(item) not in numbers for item in value):
                raise InputError(f"{name}: expected a sequence of numbers, got {value!r}")


def _at_least(config: Any, low: float, *names: str) -> None:
    for name in names:
        if getattr(config, name) < low:
            raise InputError(f"{name}: expected at least {low}, got {getattr(config, name)}")


def _one_of(config: Any, name: str, choices: tuple[str, ...]) -> None:
    if getattr(config, name) not in choices:
        raise InputError(f"{name}: expected {' or '.join(choices)}, got {getattr(config, name)!r}")


@dataclass(frozen=True)
class ModelConfig:
    """The two networks and how they are used; the defaults are the paper's."""

    preset: str = _setting("paper", "preset that these settings started from")
    image_size: int = _setting(256, "pixels; images are resized to a square of this side")
    base_channels: int = _setting(128, "UNet: width of the first level, a multiple of 32")
    channel_mults: tuple[float, ...] | None = _setting(
        None, "UNet: width of each level in multiples of base_channels; none: by image_size"
    )
    num_res_blocks: int = _setting(2, "UNet: residual blocks per level")
    num_heads: int = _setting(4, "UNet: attention heads")
    num_head_channels: int = _setting(-1, "UNet: channels per head; -1: num_heads decides")
    attention_resolutions: tuple[int, ...] = _setting(
        (32, 16, 8), "UNet: sides of the maps that have attention, pixels"
    )
    resblock_updown: bool = _setting(True, "UNet: resample inside residual blocks")
    in_channels: int = _setting(3, "colour channels")
    patch_size: int = _setting(1, "UNet: blocks of so many pixels a side enter as one pixel")
    preconditioned: bool = _setting(False, "UNet: noise from x_t and the output, weighted by t")
    dropout: float = _setting(0.0, "UNet: dropout probability in residual blocks")
    seg_channels: int = _setting(64, "segmentation network: width of the first level")
    seg_patch_size: int = _setting(1, "segmentation network: patches as the UNet's")
    schedule: str = _setting("linear", "noise schedule: linear or cosine")
    timesteps: int = _setting(1000, "length of the noise schedule")
    mode: str = _setting("norm_guided", f"repair: {', '.join(MODES)}")
    t_s: int = _setting(200, "smaller noise scale, a time step counted from 0")
    t_b: int = _setting(400, "bigger noise scale, a time step counted from 0")
    w: float = _setting(1.0, "weight of the norm guidance")
    standardised: bool = _setting(
        False,
        "maps, with what repairs change, relative to what good images show: at each pixel where "
        "parts keep their place, else anywhere",
    )
    mirrored: bool = _setting(
        False,
        "standardised maps of parts that do not keep their place are the mean over the image and "
        "its mirror image, left and right, which takes twice the time",
    )
    match_brightness: bool = _setting(
        False, "scale every image to the mean brightness of the good ones"
    )
    top_k: int = _setting(50, "an image's score is the mean of so many largest map values")
    pretrained: bool = _setting(
        False, "start from the weights that come with the package, where they fit the networks"
    )
    seed: int = _setting(0, "decides weights, training and evaluation noise")

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "num_res_blocks", "num_heads", "in_channels", "seg_channels", "top_k")
        _at_least(self, 0, "seed", "t_s", "w")
        _at_least(self, 2, "timesteps")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise InputError(f"{name}: expected at most {most:,}, got {getattr(self, name):,}")
        _at_least(self, 1, "patch_size", "seg_patch_size")
        unit = 32 * self.seg_patch_size
        if self.image_size < unit or self.image_size % unit:
            raise InputError(f"image_size: expected a multiple of {unit}, got {self.image_size}")
        if self.base_channels < GROUPS or self.base_channels % GROUPS:
            raise InputError(
                f"base_channels: expected a multiple of {GROUPS} (the groups of GroupNorm), "
                f"got {self.base_channels}"
            )
        if self.channel_mults is not None and (
            not self.channel_mults or min(self.channel_mults) <= 0
        ):
            raise InputError(f"channel_mults: expected positive numbers, got {self.channel_mults}")
        if self.num_head_channels != -1:
            _at_least(self, 1, "num_head_channels")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout: expected 0 to less than 1, got {self.dropout}")
        _one_of(self, "schedule", SCHEDULES)
        _one_of(self, "mode", MODES)
        if self.mode == "iterative":
            _at_least(self, 1, "t_s")  # it takes so many steps
        if self.mode == "autoencoder" and self.preconditioned:
            raise InputError("preconditioned: expected False, an autoencoder predicts no noise")
        if not self.t_s < self.t_b < self.timesteps:
            raise InputError(
                f"t_s, t_b: expected t_s < t_b < {self.timesteps}, got {self.t_s} and {self.t_b}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """How the networks are trained; the defaults are the reference implementation's."""

    steps: int = _setting(20_000, "training steps; a time budget sets this")
    batch_size: int = _setting(16, "images per step")
    unet_lr: float = _setting(1e-4, "Adam's learning rate of the UNet")
    seg_lr: float = _setting(1e-5, "Adam's learning rate of the segmentation network")
    lr_steps: float = _setting(
        0.0,
        "of weights that were trained before: both rates times the steps of a member are at most "
        "this for up to 200 training images, more by the square of their number for more (and up "
        "to half more where steps were added on the way), so that longer runs go no further; "
        "0: no limit",
    )
    member_steps: int = _setting(
        0,
        "of weights that were trained before: a longer run is several, its members, of about so "
        "many steps each (more by the square of the number of images above 200), which all begin "
        "with these weights; the model is the mean of theirs; 0: one run",
    )
    seg_cosine_t_max: int = _setting(
        10, "half the period, in steps, of the segmentation rate's cosine; 0: constant"
    )
    anneal: bool = _setting(
        False, "instead of that cosine: both rates fall to 0 over the whole run"
    )
    warmup: int = _setting(0, "steps over which the rates rise first; with anneal")
    weight_decay: float = _setting(0.0, "decoupled weight decay of both networks")
    guidance: float = _setting(1.0, "weight of the norm guidance while training")
    t_s_range: tuple[int, int] = _setting(
        (0, 299), "while training, the smaller noise scale is drawn from these, first and last"
    )
    t_b_range: tuple[int, int] = _setting(
        (300, 999), "the same of the bigger one, as far as the noise schedule goes"
    )
    noise_weight: float = _setting(1.0, "weight of the noise loss")
    focal_weight: float = _setting(5.0, "weight of the focal loss of the map")
    smooth_l1_weight: float = _setting(1.0, "weight of the smooth L1 loss of the map")
    bce_weight: float = _setting(0.0, "weight of the cross-entropy of the map")
    dice_weight: float = _setting(0.0, "weight of the Dice loss of the map")
    ema_decay: float = _setting(
        0.0, "of the averages of all weights, which evaluation then takes; 0: none"
    )
    validation_share: float = _setting(
        0.0, "share of the good images (4 to 32) held out to choose the best step and the threshold"
    )
    validations: int = _setting(8, "how often, in a run, they are looked at")
    anomaly_probability: float = _setting(0.5, "share of images that get a synthetic anomaly")
    smallest_exponent: int = _setting(0, "synthesis: Perlin grids have at least 2^this cells")
    largest_exponent: int = _setting(5, "synthesis: and at most 2^this")
    self_probability: float = _setting(
        0.5, "synthesis: share of anomalies made from the image itself"
    )
    random_part: bool = _setting(False, "synthesis: confine each anomaly to a random part")
    kind: str = _setting(
        "auto",
        "object: anomalies lie on it; texture: random parts, no self-made anomalies; "
        "auto: as the dataset says",
    )
    checkpoint_every: int = _setting(500, "steps between checkpoints")
    memory_budget: float = _setting(
        8.0,
        "GB; steps that would take more make values again to keep it, as far as that goes: the "
        "same bits in up to a fifth more time; 0: as little as can be",
    )

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 1, "steps", "batch_size", "checkpoint_every", "validations")
        _at_least(
            self,
            0,
            "seg_cosine_t_max",
            "lr_steps",
            "member_steps",
            "warmup",
            "weight_decay",
            "guidance",
            "memory_budget",
        )
        _at_least(self, 0, *(f"{name}_weight" for name in LOSSES))
        for name in ("unet_lr", "seg_lr"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("anomaly_probability", "self_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        for name in ("ema_decay", "validation_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name}: expected 0 to below 1, got {getattr(self, name)}")
        _one_of(self, "kind", KINDS)
        scales = (*self.t_s_range, *self.t_b_range)
        if len(scales) != 4 or not 0 <= scales[0] <= scales[1] < scales[2] <= scales[3]:
            raise InputError(
                "t_s_range, t_b_range: expected first and last each, 0 <= first <= last, and the "
                f"last of t_s below the first of t_b, got {self.t_s_range} and {self.t_b_range}"
            )
        if not 0 <= self.smallest_exponent <= self.largest_exponent <= 10:
            raise InputError(
                "smallest_exponent, largest_exponent: expected 0 <= smallest <= largest <= 10, "
                f"got {self.smallest_exponent} and {self.largest_exponent}"
            )
        if not any(self.losses.values()):
            raise InputError("noise_weight and the others: expected at least one above 0")

    @property
    def losses(self) -> dict[str, float]:
        """Weights of the loss terms that count, by name."""
        weights = {name: getattr(self, f"{name}_weight") for name in LOSSES}
        return {name: weight for name, weight in weights.items() if weight > 0}


TABLES: Mapping[str, type[ModelConfig] | type[TrainConfig]] = {
    "model": ModelConfig,
    "train": TrainConfig,
}  # of a TOML file


@dataclass(frozen=True)
class Preset:
    """A named pair of settings, one line on what it is for, and one on its cost on two cores."""

    about: str
    cost: str
    model: ModelConfig
    train: TrainConfig


_COMPACT = Preset(
    "small networks at 128 px: minutes of training on an ordinary CPU",
    "0.3 s a training step, 0.6 GB, 100 images/s, 50 where parts lie anyhow",
    ModelConfig(
        preset="compact",
        image_size=128,
        base_channels=32,
        num_res_blocks=1,
        channel_mults=(1, 2, 3, 3),
        attention_resolutions=(16, 8),
        patch_size=4,
        preconditioned=True,
        seg_channels=16,
        pretrained=True,
        standardised=True,
        mirrored=True,
        match_brightness=True,
        top_k=12,  # the share of pixels that the paper's 50 are at 256 px
    ),
    TrainConfig(
        steps=2_000,
        batch_size=8,
        unet_lr=1e-3,
        seg_lr=1e-3,
        lr_steps=0.2,
        member_steps=300,
        t_s_range=(100, 299),  # around the noise scales that evaluation takes
        t_b_range=(300, 599),
        anneal=True,
        warmup=20,
        smooth_l1_weight=0.0,
        bce_weight=1.0,
        dice_weight=1.0,
        anomaly_probability=0.75,
        ema_decay=0.98,
        validation_share=0.1,
        checkpoint_every=200,
    ),
)


def _resized(model: ModelConfig, size: int) -> dict[str, Any]:
    """Settings that go with another image size: attention's levels, the paper's share of pixels."""
    attention = tuple(level * size // model.image_size for level in model.attention_resolutions)
    paper = ModelConfig()
    pixels = round(paper.top_k * (size / paper.image_size) ** 2)
    return {"image_size": size, "attention_resolutions": attention, "top_k": max(1, pixels)}


PRESETS: Mapping[str, Preset] = {
    "tiny": Preset(
        "compact's networks at 64 px: a first try in a minute, large defects only",
        "0.1 s a training step, 0.3 GB, 350 images/s, 175 where parts lie anyhow",
        dataclasses.replace(_COMPACT.model, preset="tiny", **_resized(_COMPACT.model, 64)),
        _COMPACT.train,
    ),
    "compact": _COMPACT,
    "standard": Preset(
        "compact's networks at 256 px: smaller defects, for an hour or a night",
        "1.6 s a training step, 1.8 GB, 21 images/s, 11 where parts lie anyhow",
        dataclasses.replace(_COMPACT.model, preset="standard", **_resized(_COMPACT.model, 256)),
        _COMPACT.train,
    ),
    "paper": Preset(
        "the networks, losses and rates of the paper: 160 million parameters at 256 px",
        "minutes a training step, 2.1 s an image",
        ModelConfig(),
        TrainConfig(),
    ),
}


def preset(name: str, **overrides: Any) -> tuple[ModelConfig, TrainConfig]:
    """Settings of a preset with some of them changed; None leaves one as it is.

    At another image size, presets with pretrained weights have attention at the same levels, so
    that these fit, and scores are of the same share of pixels; the paper's has both as they are,
    like the reference.

    Raises InputError for an unknown preset, an unknown setting or a value out of range.

    >>> model, train = preset("compact", image_size=64, steps=10)
    >>> model.image_size, model.base_channels, train.steps
    (64, 32, 10)
    """
    if name not in PRESETS:
        raise InputError(f"preset: no {name!r}; there are: {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    given = plain({key: value for key, value in overrides.items() if value is not None})
    of_model = {key: given.pop(key) for key in _names(ModelConfig) if key in given}
    of_train = {key: given.pop(key) for key in _names(TrainConfig) if key in given}
    if given:
        known = ", ".join([*_names(ModelConfig), *_names(TrainConfig)])
        raise InputError(f"{next(iter(given))}: no such setting; there are: {known}")
    if chosen.model.pretrained and isinstance(of_model.get("image_size"), int):
        of_model = _resized(chosen.model, of_model["image_size"]) | of_model
    return update(chosen.model, of_model), update(chosen.train, of_train)


def without_size(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a preset without the image size and what the preset itself gives for that size.

    For another size the preset then gives that anew; a value of one's own stays.

    >>> without_size("compact", {"image_size": 128, "attention_resolutions": [16, 8], "top_k": 5})
    {'top_k': 5}
    """
    chosen = PRESETS[name].model
    implied: Mapping[str, Any] = {}
    if chosen.pretrained:
        implied = _resized(chosen, changes.get("image_size", chosen.image_size))
    values = plain(changes)
    return {
        key: value
        for key, value in changes.items()
        if key != "image_size" and not (key in implied and values[key] == implied[key])
    }


def settings(name: str, **overrides: Any) -> tuple[ModelConfig, TrainConfig]:
    """preset(), with the preset's name kept in the settings, whatever the others."""
    model, train = preset(name, **overrides)
    return dataclasses.replace(model, preset=name), train


def update(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with some settings changed, checked. Lists become tuples."""
    return dataclasses.replace(config, **plain(changes))


def plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the dataclasses have them, from what may be given for them.

    Lists become tuples, numbers of NumPy Python's, a generator the seed that it draws, a Schedule
    its kind and its length. Raises InputError where ``timesteps`` beside a Schedule says something
    else, and for a seed that is none.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    values |= {name: v.item() for name, v in values.items() if isinstance(v, np.generic)}
    if not isinstance(values.get("seed"), int | float | str | None):
        try:
            values["seed"] = number(values["seed"])
        except TypeError as error:
            raise InputError(str(error)) from error
    schedule = values.get("schedule")
    if isinstance(schedule, Schedule):
        steps = values.setdefault("timesteps", schedule.timesteps)
        if steps != schedule.timesteps:
            raise InputError(f"timesteps: expected {schedule.timesteps} as schedule, got {steps}")
        values["schedule"] = schedule.kind
    return values


def to_dict(config: ModelConfig | TrainConfig) -> dict[str, Any]:
    """The settings as plain values for JSON: tuples become lists."""
    values = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Settings from plain values; what is missing keeps its default (files of older versions).

    Raises InputError for unknown names and bad values.
    """
    values = of_today(values)
    unknown = sorted(set(values) - set(_names(kind)))
    if unknown:
        raise InputError(f"{', '.join(unknown)}: no such setting in {kind.__name__}")
    return update(kind(), values)


def of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file of any version: memory_budget in the place of recompute."""
    now = dict(values)
    if now.pop("recompute", False) is True:
        now.setdefault("memory_budget", 0.0)
    return now


def to_toml(model: ModelConfig, train: TrainConfig) -> str:
    """Both as TOML with a comment on each setting; settings that are None are left out."""
    import tomlkit

    document = tomlkit.document()
    for name, config in (("model", model), ("train", train)):
        table = tomlkit.table()
        for setting in fields(config):
            value = to_dict(config)[setting.name]
            if value is not None:
                table.add(setting.name, tomlkit.item(value).comment(setting.metadata["about"]))
        document.add(name, table)
    return tomlkit.dumps(document)


def from_toml(path: PathLike) -> tuple[ModelConfig, TrainConfig]:
    """Read what to_toml wrote. Raises InputError that names the file."""
    values = read_toml(path)
    tables = {name: values.pop(name, {}) for name in TABLES}
    if values or not all(isinstance(table, dict) for table in tables.values()):
        raise InputError(f"{path}: expected the tables [model] and [train] and nothing else")
    try:
        return from_dict(ModelConfig, tables["model"]), from_dict(TrainConfig, tables["train"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_toml(path: PathLike) -> dict[str, Any]:
    """A TOML file as plain values. Raises InputError that names the file."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(Path(path).read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def _names(kind: type[ModelConfig] | type[TrainConfig]) -> list[str]:
    return [setting.name for setting in fields(kind)]
