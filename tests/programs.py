"""What tests of scripts and programs share."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/ as a module, for the length of a test."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def on_terminal(script: str, environment: Mapping[str, str]) -> str:
    """What a Python script writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:  # how Linux tells that the other end has closed
        pass
    os.close(ours)
    text = b"".join(pieces).decode()
    assert process.wait() == 0, text
    return text
