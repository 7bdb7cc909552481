"""The notebooks as they are stored: complete, in order, executed once, small, and clean."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = ("image/png", "image/jpeg")
LARGEST, LARGEST_SUM = 150_000, 2_000_000  # bytes of a picture, and of all
PATHS = re.compile(r"(?<![\w./:])/(home|root|work|tmp|usr|opt|var|mnt|Users|private)/|[A-Z]:\\\\")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def pictures(path: Path) -> list[bytes]:
    found = [output.get("data", {}).get(kind) for output in outputs(path) for kind in PICTURES]
    return [base64.b64decode("".join(one)) for one in found if one]


def texts(path: Path) -> str:
    parts: list[str] = []
    for output in outputs(path):
        parts += output.get("text", [])
        for kind, value in output.get("data", {}).items():
            if kind not in PICTURES:
                parts += value
    return "".join(parts)


def test_they_are_numbered_without_gaps_and_in_the_index_in_this_order() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \|", index, re.MULTILINE)
    assert rows == [(path.name, path.name) for path in NOTEBOOKS]


@each
def test_valid_and_without_metadata_of_the_machine(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))
    content = read(path)
    assert set(content["metadata"]) == {"kernelspec", "language_info"}
    assert content["metadata"]["language_info"] == {"name": "python"}
    assert all(cell["metadata"] == {} for cell in content["cells"])


@each
def test_begins_with_a_title_of_its_number(path: Path) -> None:
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith(f"# {int(path.name[:2])}. ")


@each
def test_executed_once_from_top_to_bottom_without_errors_or_warnings(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [one for one in outputs(path) if one["output_type"] == "error"]
    assert not [one for one in outputs(path) if one.get("name") == "stderr"]


@each
def test_outputs_name_no_places_on_a_machine(path: Path) -> None:
    assert not PATHS.search(texts(path))
    assert not PATHS.search("".join("".join(cell["source"]) for cell in read(path)["cells"]))


@each
def test_pictures_are_small_and_described(path: Path) -> None:
    found = pictures(path)
    assert found
    assert max(map(len, found)) <= LARGEST
    for output in outputs(path):
        for kind in set(output.get("data", {})) & set(PICTURES):
            assert len(output["metadata"][kind]["alt"]) > 20


def test_pictures_are_small_together() -> None:
    assert sum(len(one) for path in NOTEBOOKS for one in pictures(path)) <= LARGEST_SUM


def test_code_passes_ruff() -> None:
    beside = Path(sys.executable).with_name("ruff")
    ruff = str(beside) if beside.exists() else shutil.which("ruff")
    if ruff is None:
        pytest.skip("needs ruff")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, str(FOLDER)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
