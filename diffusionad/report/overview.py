"""A benchmark's results as a page: the table of all categories, then each of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffusionad.console import duration_text, number
from diffusionad.errors import InputError
from diffusionad.evaluation import IMAGE_METRICS, PIXEL_METRICS, TITLES
from diffusionad.files import PathLike, write_text
from diffusionad.images import read_image
from diffusionad.report import examples, page, result
from diffusionad.report.page import Section
from diffusionad.tables import PLUS_MINUS, Table, html_text

METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
DETAILED = 30  # categories with charts and a picture, about 110 kB each; others have numbers

Row = Mapping[str, Any]


def write_benchmark_report(
    path: PathLike,
    values: Row,
    table: Table,
    pages: Mapping[str, Path],
    figures: Mapping[str, Path],
) -> None:
    """Write what benchmark() found as one HTML page, whole or not at all.

    `values` is its result and `table` that for people. By category, `pages` are the reports to link
    to and `figures` the pictures to take into the page; those that are not there are left out.
    Raises WriteError.
    """
    names = [summary["category"] for summary in values["categories"]]
    links = {name: f"#category-{index}" for index, name in enumerate(names, 1)}
    parts = [
        Section("summary", "Summary", _summary(values)),
        Section("categories", "All categories", page.table(table, links)),
    ]
    for index, summary in enumerate(values["categories"]):
        name = summary["category"]
        rows = [row for row in values["rows"] if row["category"] == name and "error" not in row]
        body = _numbers(summary)
        if rows and index < DETAILED:
            body += _details(rows[0], figures[name])
        if pages[name].exists():
            body += _link(Path(path), pages[name], name)
        parts.append(Section(links[name][1:], name, body))
    parts.append(Section("settings", "Settings", _settings(values["settings"])))
    about = f"{len(names)} categories, protocol {values['protocol']}, preset {values['preset']}"
    title = f"Benchmark: {values['dataset']}"
    write_text(path, page.page(title, about, parts), durable=False)


def _summary(values: Row) -> str:
    total = values["mean"]
    return page.cards(_cards(total)) + page.facts({
        "mean of": f"{total['categories']} of {len(values['categories'])} categories",
        "protocol": values["protocol"],
        "preset": values["preset"],
        "seeds": ", ".join(map(str, values["seeds"])),
        "failed": ", ".join(values["failed"]) or None,
        "wall time": duration_text(values["wall_seconds"]),
        "versions": ", ".join(f"{name} {version}" for name, version in values["versions"].items()),
    })  # fmt: skip


def _cards(summary: Row) -> list[tuple[str, str, str]]:
    """Means, with how much they differ from seed to seed."""
    found = []
    for name in METRICS:
        spread = summary["spread"][name]
        more = "" if spread is None else f"{PLUS_MINUS.strip()} {number(spread)} over seeds"
        found.append((TITLES[name], number(summary[name]), more))
    return [*found, result.baseline_card(summary["nearest_training_image_auroc"])]


def _numbers(summary: Row) -> str:
    notes = [*summary["notes"], *([f"failed: {summary['error']}"] if "error" in summary else [])]
    shown = page.cards(_cards(summary)) if summary["seeds"] else ""
    return shown + "".join(page.paragraph(note) for note in notes)


def _details(row: Row, figure: Path) -> str:
    """Charts, kinds of defects and a picture of the first seed."""
    parts = (result.scores(row), result.curves(row), result.per_defect(row))
    return f"<h3>Seed {row['seed']}</h3>" + "".join(parts) + _picture(figure, row["category"])


def _picture(file: Path, name: str) -> str:
    try:
        pixels = read_image(file)
    except InputError:
        return ""
    text = html_text(f"{name}: input, ground truth, reconstruction and map of some defects")
    height, width = pixels.shape[:2]
    source = examples.jpeg(pixels, sharp=True)
    return (
        f'<figure class="picture"><img src="{source}" alt="{text}" width="{width}" '
        f'height="{height}"></figure>'
    )


def _link(here: Path, there: Path, name: str) -> str:
    address = quote(os.fsencode(os.path.relpath(there, here.parent)))
    text = html_text(f"Report of {name}: intervals, and the most telling images")
    return f'<p><a href="{html_text(address)}">{text}</a></p>'


def _settings(settings: Row) -> str:
    rows = [[name, result.shown(value)] for name, value in result.flattened(settings)]
    return page.table(Table("What the results depend on", ("", "value"), (rows,)), words=True)
