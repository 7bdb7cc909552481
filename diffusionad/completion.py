"""What makes a shell complete `diffusionad`: written by shtab (the extra "completion")."""

from __future__ import annotations

import argparse

from diffusionad.errors import MissingPackage
from diffusionad.option_files import commands_of

FOLDERS = ("DIR",)
FILES = ("DATA", "FILE", "IMAGE_OR_FOLDER", "IN", "MODEL", "OUT", "PATH")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for bash, zsh or fish; what an argument is called tells whether it is a path.

    Raises MissingPackage.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingPackage("shtab", "completion") from error
    for command in commands_of(parser).values():
        for action in command._actions:
            if action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    written: str = shtab.complete(parser, shell)
    return written
