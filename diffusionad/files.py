"""Writing files whole or not at all: write aside, fsync, rename."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from diffusionad.errors import InputError, WriteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

# A list of numbers in indented JSON; a text in quotes holds no line breaks.
_NUMBER = r"\s*(?:-?[0-9][0-9.eE+-]*|null)"
_NUMBERS = re.compile(rf"\[\n{_NUMBER}(?:,\n{_NUMBER})*\n\s*\]")


def as_path(given: PathLike) -> Path:
    """As a Path, of which an empty one would be the current folder. Raises InputError."""
    if not os.fspath(given):
        raise InputError("expected a path, got ''")
    return Path(given)


def reason(error: OSError) -> str:
    """The system's words for an error, in lower case: "no space left on device"."""
    return (error.strerror or str(error)).lower()


def make_folder(path: PathLike) -> Path:
    """Create a folder and its parents; a folder that exists is fine. Raises WriteError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: cannot make this folder: {reason(error)}") from error
    return folder


@contextlib.contextmanager
def run_folder(path: PathLike) -> Iterator[Path]:
    """A folder for one run: made, known to be writable, and refused to every other run meanwhile.

    The lock is on the folder itself and ends with the process, however that ends. Raises WriteError
    for a folder that cannot be written, and InputError while another run holds it.
    """
    import tempfile

    folder = make_folder(path)
    with contextlib.ExitStack() as stack:
        try:
            tempfile.TemporaryFile(dir=folder).close()
            if fcntl is not None:  # else folders can neither be opened nor locked
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                lock(folder, handle)
        except OSError as error:
            raise WriteError(f"{folder}: cannot write: {reason(error)}") from error
        yield folder


def lock(folder: Path, handle: int) -> None:
    """Lock an open file or folder until it is closed, where the system can; InputError names the
    folder where another handle has it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{folder}: another run is writing to this folder") from error
    except OSError as error:
        # Some network file systems have no locks; a run works without.
        log.info("%s: not locked: %s", folder, reason(error))


@contextlib.contextmanager
def atomic_path(path: PathLike, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it once the block has ended well.

    With `durable`, file and folder are flushed to the disk before and after the rename, so that a
    power cut leaves the earlier file or the new one. On any error the earlier file stays, the
    temporary one is removed, and an OSError becomes a WriteError that names `path`. A symbolic
    link stays, its target is replaced; what is no file (/dev/stdout) is written to as it is.
    """
    import tempfile

    given = Path(path)
    target = Path(os.path.realpath(given))
    temporary: Path | None = None
    try:
        if given.exists() and not given.is_file():
            yield given
            return
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name[:80]}.", suffix=".tmp"
        )
        os.close(handle)
        temporary = Path(name)
        _use_default_permissions(temporary)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, target)
        temporary = None
        if durable and fcntl is not None:
            _flush(target.parent)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise WriteError(f"{given}: cannot write: {reason(error)}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def remove_temporaries(folder: Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed while writing these files has left in a folder."""
    for name in names:
        for temporary in folder.glob(f".{name}.*.tmp"):
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: PathLike, text: str, *, durable: bool = True) -> None:
    """Write a text file as UTF-8, whole or not at all. Raises WriteError."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: PathLike, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all. Raises WriteError.

    NaN and infinity have no place in JSON: they raise ValueError.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(json_text(value).encode())


def json_text(value: Any) -> str:
    """A value as indented JSON; what UTF-8 cannot say, such as odd file names, is escaped.

    A list of numbers takes one line.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = _NUMBERS.sub(
        lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )
    return text.encode("utf-8", "backslashreplace").decode()


def _use_default_permissions(path: Path) -> None:
    # mkstemp makes private files; the result should be as readable as any other new file.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing, and Linux opens no folder that way.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
