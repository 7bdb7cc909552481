"""What each command of the command line does, from checked arguments to files and an exit code.

A file a theme; `running` and `results` hold what several commands share (models, what is shown and
written), `places` which images predict reads and what it may write beside them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from importlib import import_module

THEMES = {
    "demo": "training",
    "train": "training",
    "evaluate": "inference",
    "predict": "inference",
    "serve": "inference",
    "benchmark": "studies",
    "ablate": "studies",
    "datasets": "data",
    "synthesize": "data",
    "convert": "model_files",
    "export": "model_files",
    "info": "about",
    "completion": "about",
}


def run(args: Namespace) -> int:
    """Do what the command says, and return its exit code; no other theme is imported."""
    theme = import_module(f"{__name__}.{THEMES[args.command]}")
    command: Callable[[Namespace], int] = getattr(theme, args.command)
    return command(args)
