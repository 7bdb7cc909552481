"""The documentation: docstrings, examples, links and commands are there and true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import diffusionad as dad
from diffusionad import _core, cli, evaluation, report, tiling

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "csrc" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md")),
]  # fmt: skip
MODULES = [
    found.name
    for found in pkgutil.walk_packages(dad.__path__, "diffusionad.")
    if found.name not in ("diffusionad.__main__", "diffusionad._core")
]
RUN = "how-to.md"  # the page whose Python is run; that of the others trains for long


def blocks(page: Path, *languages: str) -> list[str]:
    """The contents of a page's code blocks in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


def each(pages: list[Path], *languages: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}-{index}")
        for page in pages
        for index, text in enumerate(blocks(page, *languages))
    ]


# ---- docstrings ---------------------------------------------------------------------------------


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module says is public, with the modules among it gone through."""
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public(value)
        elif callable(value):
            yield f"{module.__name__}.{name}", value


def members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An object, and of a class what this package gives it."""
    yield name, value
    if not inspect.isclass(value):
        return
    for key, member in inspect.getmembers(value):
        ours = any(
            key in vars(base) and base.__module__.startswith("diffusionad")
            for base in value.__mro__
        )
        if ours and not key.startswith("_") and (callable(member) or isinstance(member, property)):
            yield f"{name}.{key}", member


def signature(value: Any) -> str:
    """Of a class as dataclasses write it into the docstring; empty for others."""
    if not inspect.isclass(value):
        return ""
    try:
        return str(inspect.signature(value)).replace(" -> None", "")
    except ValueError:  # of the core
        return ""


def test_every_public_object_has_a_docstring():
    core = [(name, value) for name, value in vars(_core).items() if not name.startswith("_")]
    found = [*public(dad), *public(report), *core]
    found += [("evaluate", evaluation.evaluate), ("cut", tiling.cut)]
    lacking = [
        name
        for start in found
        for name, value in members(*start)
        # A dataclass without one gets its signature instead.
        if (value.__doc__ or "").strip() in ("", f"{name.rpartition('.')[2]}{signature(value)}")
    ]
    assert len(found) > 100
    assert not lacking


@pytest.mark.parametrize("name", ["diffusionad", *MODULES])
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# ---- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", each(PAGES, "python", "py"))
def test_python_compiles(text):
    compile(text, "page", "exec")


def test_python_of_the_how_to_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = dad.DiffusionAD(image_size=32)
    model.threshold = 0.5
    model.save("model.safetensors")
    for name, part in (("good", "train/good"), ("photos", "test/pitting")):
        Path(name).mkdir()
        for image in sorted((dad.datasets.bundled().root / part).iterdir())[:2]:
            Path(name, image.name).write_bytes(image.read_bytes())
    namespace: dict[str, Any] = {}
    for text in blocks(ROOT / "docs" / RUN, "python"):
        exec(text, namespace)
    assert Path("calibrated.safetensors").exists()


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    install, *steps = blocks(ROOT / "docs" / "tutorial.md", "sh")
    assert "pip install ." in install  # which the tests are run after
    script = "".join(steps).replace("--steps 200", "--steps 2")
    assert "--steps 2\n" in script
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=tmp_path, env={**os.environ, "PATH": path}, check=True,
    )  # fmt: skip
    parts = tmp_path / "parts"
    assert len(list((parts / "results").glob("*.png"))) == 72
    assert (parts / "report.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, place = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not place or place in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The headings of a page as the ends of links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of the calls of diffusionad in a block of shell commands."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        for sign in (">", ">>", "|"):
            words = words[: words.index(sign)] if sign in words else words
        if words[:1] == ["diffusionad"]:
            yield words[1:]


@pytest.mark.parametrize("text", each(PAGES, "sh"))
def test_commands_are_known(text):
    for arguments in commands(text):
        if "--config" not in arguments:  # which gives what the command line need not say
            try:
                cli.build_parser().parse_args(arguments)
            except SystemExit as left:
                pytest.fail(f"{shlex.join(arguments)}: exit {left.code}")
