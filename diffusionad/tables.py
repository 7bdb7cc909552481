"""A table of results for people: on the console, in Markdown, LaTeX, HTML; and rows as CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLUS_MINUS = " ± "
INDENT = "  "  # before the name of a row that belongs to the one above

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "–": "--", "−": "$-$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of text in sections, under column titles; the first column names the row."""

    caption: str
    columns: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    notes: Sequence[str] = ()

    @property
    def rows(self) -> list[Sequence[str]]:
        return [row for section in self.sections for row in section]

    def markdown(self) -> str:
        """GitHub's Markdown: caption, table, notes as a list."""
        lines = [f"**{markdown_text(self.caption)}**", ""]
        lines.append(_markdown_row(self.columns))
        lines.append(_markdown_row(["---"] + ["---:"] * (len(self.columns) - 1), plain=True))
        lines += [_markdown_row(row) for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {markdown_text(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""A `table` for a paper; needs \usepackage{booktabs}. Everything special is escaped."""
        lines = [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{latex_text(self.caption)}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            "\\toprule",
            _latex_row(self.columns),
        ]
        for section in self.sections:
            if section:
                lines += ["\\midrule", *(_latex_row(row) for row in section)]
        lines += ["\\bottomrule", "\\end{tabular}"]
        lines += [f"\\par\\footnotesize {latex_text(note)}" for note in self.notes]
        return "\n".join([*lines, "\\end{table}"]) + "\n"

    def html(self, links: Mapping[str, str] | None = None) -> str:
        """A `<table>`, a `<tbody>` for each section; the notes are not in it.

        `links` are addresses for rows, by the row's name. Everything special is escaped.
        """
        # An empty title is no header: readers of the screen would announce it.
        head = "".join(
            f'<th scope="col">{html_text(title)}</th>' if title else "<td></td>"
            for title in self.columns
        )
        lines = [
            "<table>",
            f"<caption>{html_text(self.caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
        ]
        for section in self.sections:
            if section:
                lines += ["<tbody>", *(_html_row(row, links or {}) for row in section), "</tbody>"]
        return "\n".join([*lines, "</table>"]) + "\n"


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; numbers in full, nothing where a value is None or missing."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode(errors="backslashreplace").decode()  # names of files may be odd


def latex_text(text: str) -> str:
    r"""Text as LaTeX shows it.

    >>> print(latex_text("metal_nut: 50% ± 2"))
    metal\_nut: 50\% $\pm$ 2
    """
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def markdown_text(text: str) -> str:
    """Text as Markdown shows it, also inside a table.

    >>> print(markdown_text("a|b *c*"))
    a\\|b \\*c\\*
    """
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", _one_line(text))


def html_text(text: str) -> str:
    """Text as HTML shows it, also between quotes.

    >>> print(html_text('<b title="1">'))
    &lt;b title=&quot;1&quot;&gt;
    """
    return html.escape(_one_line(text))


def percent(value: float | None, spread: float | None = None) -> str:
    """A share in per cent with one digit, as papers write it; a dash where there is none.

    >>> percent(0.9876), percent(0.9876, 0.0123), percent(None)
    ('98.8', '98.8 ± 1.2', '-')
    """
    if value is None:
        return "-"
    text = f"{100 * value:.1f}"
    return text if spread is None else f"{text}{PLUS_MINUS}{100 * spread:.1f}"


def _indented(cells: Sequence[str], indent: str, text: Callable[[str], str]) -> list[str]:
    first = indent if cells[0].startswith(INDENT) else ""
    return [first + text(cells[0].lstrip()), *map(text, cells[1:])]


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _markdown_row(cells: Sequence[str], plain: bool = False) -> str:
    shown = cells if plain else _indented(cells, "&emsp;", markdown_text)
    return "| " + " | ".join(shown) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_indented(cells, r"\quad ", latex_text)) + r" \\"


def _html_row(cells: Sequence[str], links: Mapping[str, str]) -> str:
    kind = ' class="indented"' if cells[0].startswith(INDENT) else ""
    name = html_text(cells[0].lstrip())
    if cells[0] in links:
        name = f'<a href="{html_text(links[cells[0]])}">{name}</a>'
    rest = "".join(f"<td>{html_text(cell)}</td>" for cell in cells[1:])
    return f'<tr{kind}><th scope="row">{name}</th>{rest}</tr>'
