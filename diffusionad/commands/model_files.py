"""The commands that write a model in another form: convert, export."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from diffusionad import system
from diffusionad.commands.results import open_console, write_result
from diffusionad.commands.running import load_model
from diffusionad.config import to_dict
from diffusionad.console import Console, bytes_text
from diffusionad.errors import InputError
from diffusionad.model import DiffusionAD
from diffusionad.torch_files import is_torch_file

OFFICIAL, OURS, ONNX = (".pt", ".pth"), (".safetensors",), (".onnx",)


def convert(args: Namespace) -> int:
    """Turn a checkpoint of the reference implementation into a model file, or back."""
    console = open_console(args)
    official = _new_file(args, OFFICIAL + OURS) in OFFICIAL
    if is_torch_file(args.source) == official and Path(args.source).is_file():
        other = OURS if official else OFFICIAL
        raise InputError(f"{args.out}: {args.source} is of that kind already, expected {other[0]}")
    given = {"image_size": args.image_size, "num_heads": args.num_heads}
    settings = {name: value for name, value in given.items() if value is not None}
    if official:
        for name in settings:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: a model file says it itself, only a .pt may need it")
        model = load_model(args.source, args.seed)
        model.save_official(args.out)
    else:
        model = load_model(args.source, args.seed, **settings)
        model.save(args.out)
    _show_written(console, model, args.out)
    write_result(args, _described(args, model))
    return 0


def export(args: Namespace) -> int:
    """Write a model as one ONNX graph: image to score, map and reconstruction."""
    console = open_console(args)
    _new_file(args, ONNX)
    model = load_model(args.model, args.seed)
    model.export_onnx(args.out, noise_inputs=args.noise_inputs)
    _show_written(console, model, args.out)
    side = model.config.image_size
    shape = f"[N, {model.config.in_channels}, {side}, {side}]"
    console.pairs(
        "graph",
        {
            "image": f"float32 {shape}, RGB from 0 to 1",
            "noise": "inputs, one image or one for each" if args.noise_inputs else "of the seed",
            "outputs": f"score [N], map [N, {side}, {side}], reconstruction {shape}",
        },
    )
    write_result(args, {**_described(args, model), "noise_inputs": args.noise_inputs})
    return 0


def _new_file(args: Namespace, suffixes: tuple[str, ...]) -> str:
    """The suffix of --out, which is one of these and names no file yet."""
    suffix = Path(args.out).suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{args.out}: expected a name that ends in {', '.join(suffixes)}")
    if Path(args.out).exists() and not args.overwrite:
        raise InputError(f"{args.out}: exists already; add --overwrite, or choose another")
    return suffix


def _described(args: Namespace, model: DiffusionAD) -> dict[str, Any]:
    return {
        "file": args.out,
        "bytes": Path(args.out).stat().st_size,
        "config": to_dict(model.config),
        "parameters": model.num_parameters,
        "threshold": model.threshold,
        "provenance": model.provenance,
        "versions": system.versions(),
    }


def _show_written(console: Console, model: DiffusionAD, path: str) -> None:
    size = bytes_text(Path(path).stat().st_size)
    threshold = "none" if model.threshold is None else f"{model.threshold:.6g}"
    console.say(
        f"{path}: {size}, {model.num_parameters:,} parameters, "
        f"{model.config.image_size} px, threshold {threshold}"
    )
