"""Tables: Markdown, LaTeX and CSV, with everything special escaped."""

from __future__ import annotations

import csv
import io

import pytest

from diffusionad import literature, tables

TABLE = tables.Table(
    caption="A & B: 50% of #1",
    columns=("", "image_auroc", "time"),
    sections=(
        [["metal_nut", "98.0 ± 1.2", "3s"], ["  its paper", "99.0", "-"]],
        [],
        [["mean|{x}\\~^$", "97.0", "-"]],
    ),
    notes=("a_b: 9 of 20 < 30", "line\nbreak"),
)


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        r"**A & B: 50% of \#1**",
        "",
        r"|  | image\_auroc | time |",
        "| --- | ---: | ---: |",
        r"| metal\_nut | 98.0 ± 1.2 | 3s |",
        "| &emsp;its paper | 99.0 | - |",
        r"| mean\|{x}\\~^$ | 97.0 | - |",
        "",
        r"- a\_b: 9 of 20 \< 30",
        "- line break",
    ]


def test_html_is_whole_and_escaped():
    lines = TABLE.html({"metal_nut": '#"1"', "its paper": "#2"}).splitlines()
    assert lines == [
        "<table>",
        "<caption>A &amp; B: 50% of #1</caption>",
        '<thead><tr><td></td><th scope="col">image_auroc</th><th scope="col">time</th></tr>'
        "</thead>",
        "<tbody>",
        '<tr><th scope="row"><a href="#&quot;1&quot;">metal_nut</a></th>'
        "<td>98.0 ± 1.2</td><td>3s</td></tr>",
        '<tr class="indented"><th scope="row">its paper</th><td>99.0</td><td>-</td></tr>',
        "</tbody>",
        "<tbody>",
        r'<tr><th scope="row">mean|{x}\~^$</th><td>97.0</td><td>-</td></tr>',
        "</tbody>",
        "</table>",
    ]


def test_latex_is_whole_and_escaped():
    lines = TABLE.latex().splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\caption{A \& B: 50\% of \#1}" in lines
    assert r"\begin{tabular}{lrr}" in lines
    assert r"metal\_nut & 98.0 $\pm$ 1.2 & 3s \\" in lines
    assert r"\quad its paper & 99.0 & - \\" in lines
    assert (
        r"mean\textbar{}\{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}\$ & 97.0 & - \\"
        in lines
    )
    assert r"\par\footnotesize a\_b: 9 of 20 \textless{} 30" in lines
    assert r"\par\footnotesize line break" in lines
    assert lines.count(r"\midrule") == 2  # an empty section has none
    for name in ("table", "tabular"):
        assert sum(line.startswith(rf"\begin{{{name}}}") for line in lines) == 1
        assert lines.count(rf"\end{{{name}}}") == 1


@pytest.mark.parametrize("letter", "\\{}$&#_%~^")
def test_no_special_letter_reaches_latex_bare(letter):
    shown = tables.latex_text(f"a{letter}b")
    assert shown != f"a{letter}b"
    assert shown.startswith("a\\")


def test_csv_keeps_all_digits_and_leaves_unknown_values_empty():
    text = tables.csv_text(
        ("name", "x", "y"), [{"name": 'a,"b"', "x": 1 / 3, "z": 9}, {"name": "c", "x": None}]
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [{"name": 'a,"b"', "x": repr(1 / 3), "y": ""}, {"name": "c", "x": "", "y": ""}]


def test_published_figures_are_of_public_datasets_only():
    assert [row.method for row in literature.of_dataset("visa_raw")] == [
        "DiffusionAD (paper), mean of its four datasets"
    ]
    assert literature.of_dataset("folder") == ()
    assert literature.of_category("visa", "screw") == ()
    paper = literature.of_dataset("mvtec")[0]
    assert (paper.image_auroc, paper.pixel_auroc, paper.aupro, paper.pixel_ap) == (
        0.997, 0.987, 0.957, 0.761,
    )  # fmt: skip


def test_csv_of_names_that_are_no_text_can_be_written():
    text = tables.csv_text(("error",), [{"error": "pi\udce8ce.png: broken"}])
    assert text.encode() == b"error\npi\\udce8ce.png: broken\n"
