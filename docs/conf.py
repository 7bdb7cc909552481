"""Settings of the documentation; `make docs` builds it.

The source folder is the repository's root: pages beside this folder belong to the site from where
they lie, and links between pages work here as they do on a code-hosting page.
"""

from __future__ import annotations

import dataclasses
import os
import re
from argparse import _SubParsersAction
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

from diffusionad import __version__, cli
from diffusionad.config import PRESETS

project = "diffusionad"
copyright = "the authors of diffusionad, Apache-2.0"
release = version = __version__

root_doc = "docs/index"
include_patterns = ["docs/**.md", "csrc/README.md", "benchmarks/*.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "diffusionad", "tests", "notebooks"]  # not gone through

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "code"  # of `names` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {  # which would else be written out
    name: name.rpartition(".")[2]
    for name in ("ArrayLike", "npt.ArrayLike", "PathLike", "ImageSource", "OneImage", "StateDict")
}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"diffusionad {release}"
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["math.css"]
html_css_files = ["math.css"]


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


class CommandHelp(SphinxDirective):
    """A section for each command with what its --help prints."""

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "80"  # argparse's width; not that of who builds
        parser = cli.build_parser()
        [commands] = [a for a in parser._actions if isinstance(a, _SubParsersAction)]
        sections: list[nodes.Node] = []
        for name, command in commands.choices.items():
            text = command.format_help()
            section = nodes.section("", nodes.title("", name), ids=[f"command-{name}"])
            section += nodes.literal_block(text, text, language="none")
            sections.append(section)
        return sections


class Settings(SphinxDirective):
    """Tables of all settings with what the presets give them."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for part in ("model", "train"):
            given = [getattr(preset, part) for preset in PRESETS.values()]
            rows += ["", f"## `[{part}]`", "", f"| setting | {' | '.join(PRESETS)} |"]
            rows.append("|---" * (len(given) + 1) + "|")
            for field in dataclasses.fields(given[0]):
                values = [getattr(one, field.name) for one in given]
                shown = " | ".join(f"`{value}`" for value in values)
                rows.append(f"| `{field.name}`: {field.metadata['about']} | {shown} |")
        return self.parse_text_to_nodes("\n".join(rows), allow_section_headings=True)


def _plain_names(*about: Any) -> tuple[str | None, str | None]:
    """A signature without what autodoc writes around an alias that is part of a union."""
    names = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
    signature, returns = (None if text is None else names.sub(r"\1", text) for text in about[-2:])
    return signature, returns


def _write_front(app: Sphinx, error: Exception | None) -> None:
    """The site's own address leads to its first page, which is in the folder docs."""
    if error is None and app.builder.format == "html":
        target = '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        Path(app.outdir, "index.html").write_text(target, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw by themselves: a page loads nothing for them."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_directive("command-help", CommandHelp)
    app.add_directive("settings", Settings)
    app.connect("autodoc-process-signature", _plain_names)
    app.connect("build-finished", _write_front)
