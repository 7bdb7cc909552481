"""The commands that tell of the package and of model files: info, completion."""

from __future__ import annotations

import dataclasses
import math
from argparse import Namespace
from typing import Any

from diffusionad import _core, checkpoints, system
from diffusionad.commands.results import open_console, write_result
from diffusionad.commands.running import load_model
from diffusionad.config import PRESETS, to_dict
from diffusionad.torch_files import is_torch_file


def info(args: Namespace) -> int:
    """Show versions and what the core runs on, or what a model file says about itself."""
    console = open_console(args)
    result: dict[str, Any] = {
        "versions": system.versions(),
        "simd": _core.simd_level(),
        "simd_levels": _core.simd_levels(),
        "threads": _core.get_num_threads(),
        "processors": system.processors(),
    }
    if args.system:
        result["system"] = system.report()
        for title, values in result["system"].items():
            console.pairs(title, values)
    elif args.model is None:
        console.pairs("versions", result["versions"])
        console.pairs(
            "core",
            {
                "SIMD level": f"{result['simd']} (of {', '.join(result['simd_levels'])})",
                "threads": f"{result['threads']} (of {result['processors']} processors)",
            },
        )
        console.pairs("presets", {name: row.about for name, row in PRESETS.items()})
        console.pairs("cost on two cores", {name: row.cost for name, row in PRESETS.items()})
    if args.model is not None:
        header = _header(args.model)
        result["model"] = dataclasses.asdict(header)
        sizes = {name: f"{count:,} parameters" for name, count in header.parameters.items()}
        threshold = "none" if header.threshold is None else f"{header.threshold:.6g}"
        console.pairs(args.model, {**sizes, "threshold": threshold})
        console.pairs("settings", header.config)
        console.pairs("provenance", header.provenance)
    write_result(args, result)
    return 0


def completion(args: Namespace) -> int:
    """Print what makes a shell complete commands, options and file names."""
    from diffusionad import completion as completing
    from diffusionad.cli import build_parser

    script = completing.script(build_parser(), args.shell)
    open_console(args).say(script)
    write_result(args, {"shell": args.shell, "script": script})
    return 0


def _header(path: str) -> checkpoints.Header:
    """What a model file says about itself; of a checkpoint of the reference what was read of it."""
    if not is_torch_file(path):
        return checkpoints.read_header(path)
    model = load_model(path, None)
    config = {"model": to_dict(model.config), "train": to_dict(model.train_config)}
    parameters = {
        name: sum(math.prod(values.shape) for values in network.parameter_views().values())
        for name, network in model.networks.items()
    }
    return checkpoints.Header(config, model.provenance, model.threshold, parameters)
