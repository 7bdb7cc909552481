"""Execute notebooks in order, each in a process of its own; `--store` keeps the outputs in them.

    python notebooks/execute.py [--store] [NOTEBOOK ...]

Without names it is all of them, from a detector trained anew. Results go to build/notebooks. Stops
at the first error, and at anything on stderr: a stored notebook shows no warnings.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent / "build" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs, and nothing in it of when and where they were made."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise SystemExit(f"{path.name}: wrote to stderr: {output.text.strip()}")
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--store", action="store_true", help="replace the outputs in the files")
    args = parser.parse_args()
    BUILT.mkdir(parents=True, exist_ok=True)
    if not args.notebooks:
        shutil.rmtree(BUILT / "run", ignore_errors=True)
    for path in args.notebooks or sorted(HERE.glob("*.ipynb")):
        begun = time.monotonic()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            sys.exit(f"{path.name}: {error}")
        nbformat.write(notebook, BUILT / path.name)
        if args.store:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
