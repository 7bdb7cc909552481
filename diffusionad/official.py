"""Checkpoints of the reference implementation: `.pt` files with two state dicts and arguments.

What the networks look like is read off the names and shapes of their parameters; the arguments say
the rest (image size, schedule, heads, noise scales), and where they are missing the reference's own
defaults hold. See ``torch_files`` for how such a file is read without running anything of it.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusionad import torch_files
from diffusionad.checkpoints import ODD, Checkpoint, parse_json
from diffusionad.config import MOST, ModelConfig, TrainConfig, from_dict, preset, to_dict, update
from diffusionad.errors import InputError
from diffusionad.files import PathLike
from diffusionad.inference import THRESHOLD_NOTES
from diffusionad.models import CHANNEL_MULTS, SEGMENTER_MULTS
from diffusionad.restricted_pickle import Tensor
from diffusionad.torch_files import StoredTensor, TorchFile

log = logging.getLogger(__name__)

NETWORKS = {"unet": "unet_model_state_dict", "seg": "seg_model_state_dict"}
OWN = "diffusionad"  # a JSON text: our settings, provenance and threshold

ARGUMENTS = {
    "img_size": "image_size", "num_heads": "num_heads", "num_head_channels": "num_head_channels",
    "dropout": "dropout", "T": "timesteps", "beta_schedule": "schedule", "eval_normal_t": "t_s",
    "eval_noisier_t": "t_b", "condition_w": "w", "Batch_Size": "batch_size",
    "diffusion_lr": "unet_lr", "seg_lr": "seg_lr",
}  # fmt: skip
"""The reference's arguments, and what they are called here."""

COARSEST = 32  # side of the largest maps on which the reference has attention, pixels

Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]


@contextmanager
def opened(path: PathLike, settings: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """The content of an official checkpoint; its tensors can be read while it is open.

    ``settings`` of ModelConfig and TrainConfig go before what the file says, except that the
    structure of the networks is what it is. Raises InputError that names the file.
    """
    void, name = False, Path(path).name
    with torch_files.opened(path) as file:
        try:
            checkpoint = _checkpoint(file, settings, name)
            if checkpoint.threshold is not None:  # set with the settings of the file
                void = _checkpoint(file, {}, name).config["model"] != checkpoint.config["model"]
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if void:
            notes = {k: v for k, v in checkpoint.provenance.items() if k not in THRESHOLD_NOTES}
            checkpoint = replace(checkpoint, threshold=None, provenance=notes)
        yield checkpoint
    if void:
        log.warning("%s: the threshold was set with other settings, dropped", path)


def save(path: PathLike, checkpoint: Checkpoint) -> None:
    """Write an official checkpoint.

    Raises InputError for networks with patches or preconditioning, which the reference's do not
    have, and for standardised maps, and WriteError.
    """
    model = from_dict(ModelConfig, checkpoint.config["model"])
    train = from_dict(TrainConfig, checkpoint.config["train"])
    for name in ("patch_size", "preconditioned", "seg_patch_size", "match_brightness"):
        if (value := getattr(model, name)) != getattr(ModelConfig(), name):
            raise InputError(
                f"{path}: this model has {name} = {value}, for which the reference's networks have "
                'no place; models of the preset "paper" can be written'
            )
    if "mean" in checkpoint.normality:
        raise InputError(
            f"{path}: this model has standardised = True, and the reference's files no place for "
            "what good images show; set_params(standardised=False) gives a model of plain maps"
        )
    own = {
        "config": {"model": to_dict(model), "train": to_dict(train)},
        "provenance": checkpoint.provenance,
        "threshold": checkpoint.threshold,
    }
    epochs = checkpoint.provenance.get("epochs")
    content = {
        "n_epoch": epochs if type(epochs) is int else 0,
        **{key: OrderedDict(getattr(checkpoint, name)) for name, key in NETWORKS.items()},
        "args": _arguments(model, train, checkpoint.unet["out.2.bias"].shape[0]),
        OWN: json.dumps(own, sort_keys=True, allow_nan=False),
    }
    torch_files.write(path, content)


def _arguments(model: ModelConfig, train: TrainConfig, channels: int) -> Settings:
    """The reference's arguments for these settings, those that it reads from its own file too."""
    settings = {**to_dict(train), **to_dict(model)}
    mults = model.channel_mults or CHANNEL_MULTS[model.image_size]
    return {
        **{theirs: settings[ours] for theirs, ours in ARGUMENTS.items()},
        "img_size": [model.image_size, model.image_size],
        "base_channels": model.base_channels,
        "channel_mults": [int(m) if m == int(m) else m for m in mults],
        "attention_resolutions": ",".join(map(str, model.attention_resolutions)),
        "channels": channels,
        "noise_fn": "gauss",
        "loss_type": "l2",
        "weight_decay": 0.0,
        "less_t_range": 300,
        "noisier_t_range": 600,
        "arg_num": "1",
    }


# ---- reading ----------------------------------------------------------------------------------


def _checkpoint(file: TorchFile, settings: Mapping[str, Any], name: str) -> Checkpoint:
    if type(file.value) is not dict:
        raise InputError("expected a dict with state dicts, as the reference saves it")
    unet, seg = (_state(file, key) for key in NETWORKS.values())
    structure = unet_structure({name: tensor.shape for name, tensor in unet.items()})
    structure |= segmenter_structure({name: tensor.shape for name, tensor in seg.items()})
    model, train, provenance, threshold = _own(file.value)
    said = {**_said(file.value), **settings}
    if OWN not in file.value and "image_size" not in said:
        said["image_size"] = _guess_image_size(structure)
    size = said.get("image_size", model.image_size)
    for key in ("image_size", "timesteps"):
        most = MOST[key]
        if type(said.get(key, 0)) is not int or said.get(key, 0) > most:
            raise InputError(f"{key}: expected a whole number up to {most:,}, got {said[key]!r}")
    strides = structure.pop("attention_strides")
    said |= {**structure, "attention_resolutions": tuple(size // stride for stride in strides)}
    model, train = _changed(model, train, said)
    epochs = file.value.get("n_epoch")
    if type(epochs) is int:
        provenance["epochs"] = epochs
    return Checkpoint(
        unet=unet,
        seg=seg,
        config={"model": to_dict(model), "train": to_dict(train)},
        provenance={**provenance, "official": name},
        threshold=threshold,
    )


def _changed(
    model: ModelConfig, train: TrainConfig, changes: Settings
) -> tuple[ModelConfig, TrainConfig]:
    of_model = {key: value for key, value in changes.items() if hasattr(model, key)}
    of_train = {key: value for key, value in changes.items() if key not in of_model}
    for key in of_train:
        if not hasattr(train, key):
            raise InputError(f"{key}: no such setting")
    return update(model, of_model), update(train, of_train)


def _state(file: TorchFile, key: str) -> dict[str, StoredTensor]:
    """A state dict; names as if it had never been inside of DataParallel."""
    state = file.value.get(key)
    if type(state) is not dict or not state:
        raise InputError(f"no {key}, so this is no checkpoint of DiffusionAD")
    for name, tensor in state.items():
        if type(name) is not str or type(tensor) is not Tensor:
            raise InputError(f"{key}: expected names and tensors only")
    inside = all(name.startswith("module.") for name in state)
    return {
        name.removeprefix("module.") if inside else name: file.stored(tensor)
        for name, tensor in state.items()
    }


def _said(value: Mapping[str, Any]) -> Settings:
    """Settings of the reference's arguments; as there, an empty text stands for none."""
    arguments = value.get("args", {})
    if type(arguments) is not dict:
        raise InputError("args: expected a dict")
    settings = {}
    for theirs, ours in ARGUMENTS.items():
        given = arguments.get(theirs, "")
        if type(given) in (list, tuple) and theirs == "img_size" and len(given) == 2:
            height, given = given
            if type(height) is not int or type(given) is not int or height != given:
                raise InputError("args['img_size']: expected two equal numbers")
        # Nothing else is looked at or shown: lists can be nested and shared without end.
        if type(given) not in (int, float, str) or (type(given) is str and len(given) > 80):
            raise InputError(f"args[{theirs!r}]: expected a number or a short text")
        if given != "":
            settings[ours] = given
    return settings


def _own(value: Mapping[str, Any]) -> tuple[ModelConfig, TrainConfig, Settings, float | None]:
    """What save() noted: settings, provenance, threshold; for files from elsewhere the paper's."""
    if OWN not in value:
        return *preset("paper"), {}, None

    try:
        own = parse_json(value[OWN])
        model = from_dict(ModelConfig, own["config"]["model"])
        train = from_dict(TrainConfig, own["config"]["train"])
        provenance, threshold = dict(own["provenance"]), own["threshold"]
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError("threshold")
    except InputError as error:
        raise InputError(f"the entry {OWN!r} is damaged: {error}") from error
    except (*ODD, AttributeError) as error:
        raise InputError(f"the entry {OWN!r} is damaged") from error
    return model, train, provenance, None if threshold is None else float(threshold)


def _guess_image_size(structure: Mapping[str, Any]) -> int:
    """From where attention begins, for the reference's own networks only."""
    size = COARSEST * min(structure["attention_strides"], default=0)
    if CHANNEL_MULTS.get(size) != structure["channel_mults"]:
        raise InputError("image_size: the file does not say it; give it")
    return size


# ---- structure --------------------------------------------------------------------------------


def unet_structure(shapes: Shapes) -> Settings:
    """Settings of the UNet with these parameters, and the strides at which it has attention.

    Raises InputError where they are no such network's. Every convolution on the way down is looked
    at, so that a network is never much larger than the file that it is made from.
    """
    look = _Look("unet_model_state_dict", shapes)
    _, base = look.shape("time_embedding.1.weight", None, None)
    look.shape("time_embedding.1.weight", 4 * base, base)
    width, in_channels, *_ = look.shape("down.0.0.weight", None, None, 3, 3)
    found = re.compile(r"up\.[0-9]+\.[12]\.(?:in_layers\.2|conv)\.weight")
    levels = 1 + sum(found.fullmatch(name) is not None for name in shapes)
    blocks = look.count(r"down\.([0-9]+)\.")
    per_level = blocks // levels
    if blocks % levels or per_level < 2:
        raise look.error(f"{blocks} blocks on the way down do not make {levels} levels")
    updown = not any(".downsample." in name for name in shapes)
    widths, strides = [], []
    for level in range(levels):
        first = 1 + level * per_level
        before, (width, *_) = width, look.shape(f"down.{first}.0.in_layers.2.weight", *4 * (None,))
        for block in range(first, first + per_level - 1):
            look.shape(f"down.{block}.0.in_layers.2.weight", width, before, 3, 3)
            before = width
        if level + 1 < levels:
            name = "in_layers.2" if updown else "downsample"
            look.shape(f"down.{first + per_level - 1}.0.{name}.weight", width, width, 3, 3)
        widths.append(width)
        if f"down.{first}.1.to_qkv.weight" in shapes:
            strides.append(2**level)
    return {
        "base_channels": base,
        "channel_mults": tuple(w // base if w % base == 0 else w / base for w in widths),
        "num_res_blocks": per_level - 1,
        "resblock_updown": updown,
        "in_channels": in_channels,
        "attention_strides": strides,
        "patch_size": 1,
        "preconditioned": False,
    }


def segmenter_structure(shapes: Shapes) -> Settings:
    """Settings of the segmentation network with these parameters. Raises InputError."""
    look = _Look("seg_model_state_dict", shapes)
    width, before, *_ = look.shape("encoder_segment.block1.0.weight", None, None, 3, 3)
    for block, mult in enumerate(SEGMENTER_MULTS, 1):
        look.shape(f"encoder_segment.block{block}.0.weight", mult * width, before, 3, 3)
        before = mult * width
    return {"seg_channels": width, "seg_patch_size": 1}


class _Look:
    """Looks at the shapes of a state dict; errors name it."""

    def __init__(self, name: str, shapes: Shapes) -> None:
        self.name, self.shapes = name, shapes

    def error(self, text: str) -> InputError:
        return InputError(f"{self.name}: {text}; this is no network of DiffusionAD")

    def shape(self, name: str, *wanted: int | None) -> tuple[int, ...]:
        """The shape of a parameter, which is as wanted; None stands for any number from 1 up."""
        found = self.shapes.get(name)
        if found is None:
            raise self.error(f"no {name}")
        fits = len(found) == len(wanted) and all(
            n > 0 and want in (None, n) for n, want in zip(found, wanted, strict=True)
        )
        if not fits:
            text = ", ".join("any" if want is None else str(want) for want in wanted)
            raise self.error(f"{name}: expected shape [{text}], got {list(found)}")
        return found

    def count(self, pattern: str) -> int:
        """How many numbers a pattern finds at the start of names."""
        found = re.compile(pattern)
        return len({match[1] for name in self.shapes if (match := found.match(name))})
