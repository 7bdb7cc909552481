"""The parts of a page: template, sections, facts, tables. What comes in as text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from diffusionad import __version__, system
from diffusionad.tables import Table, html_text


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading; `name` is its address in the page."""

    name: str
    title: str
    body: str


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole page: sections without a body are left out, the others linked at its top."""
    there = [section for section in sections if section.body]
    template = Template(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=html_text(title),
        about=html_text(about),
        links="".join(f'<li><a href="#{s.name}">{html_text(s.title)}</a></li>' for s in there),
        sections="\n".join(
            f'<section id="{s.name}"><h2>{html_text(s.title)}</h2>\n{s.body}</section>'
            for s in there
        ),
        written=html_text(f"diffusionad {__version__}, {system.now()}"),
    )


def paragraph(text: str) -> str:
    return f"<p>{html_text(text)}</p>"


def facts(pairs: Mapping[str, str | None]) -> str:
    """Names and values as a list; what is None is left out."""
    items = "".join(
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}</dd></div>"
        for name, value in pairs.items()
        if value is not None
    )
    return f'<dl class="facts">{items}</dl>'


def table(shown: Table, links: Mapping[str, str] | None = None, *, words: bool = False) -> str:
    """A table that scrolls, also by the keyboard, where it is too wide; `words`: no numbers."""
    style = "scroll words" if words else "scroll"
    notes = "".join(f"<li>{html_text(note)}</li>" for note in shown.notes)
    return (
        f'<div class="{style}" role="region" tabindex="0" aria-label="{html_text(shown.caption)}">'
        f"{shown.html(links)}</div>" + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def cards(values: Sequence[tuple[str, str, str]]) -> str:
    """Numbers to be seen first: title, value, and what is said below it."""
    items = "".join(
        f"<div><dt>{html_text(title)}</dt><dd>{html_text(value)}"
        + (f"<small>{html_text(more)}</small>" if more else "")
        + "</dd></div>"
        for title, value, more in values
    )
    return f'<dl class="cards">{items}</dl>'


def chart(title: str, svg: str, legend: Sequence[tuple[str, str]]) -> str:
    """A drawing under its title, and what its colours mean: classes of the style with texts."""
    items = "".join(f'<li class="{style}">{html_text(text)}</li>' for style, text in legend)
    return (
        f'<figure class="chart"><figcaption>{html_text(title)}</figcaption>'
        f'<ul class="legend">{items}</ul>{svg}</figure>'
    )


def grid(parts: Sequence[str]) -> str:
    """Charts and the like beside each other, as many as there is room for."""
    return f'<div class="charts">{"".join(parts)}</div>'
