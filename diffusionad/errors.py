"""What can go wrong outside the numbers: the command line turns each into one line and a code."""

from __future__ import annotations


def words_of(error: BaseException) -> str:
    """An error's message as one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class DiffusionADError(Exception):
    """Base of the package's own errors; `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(DiffusionADError, ValueError):
    """A file, folder or argument that cannot be used; the message names it."""

    exit_code = 2


class TooManyPixels(InputError):
    """An image that declares more pixels than are allowed; none of them was decoded."""


class WriteError(DiffusionADError, OSError):
    """A file could not be written; an earlier file of that name is left as it was."""


class MissingPackage(DiffusionADError, ImportError):
    """Something asked for needs a package that is an extra; the message says which."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'diffusionad[{extra}]'")
