"""A strict reader of HTML pages: every tag closed in its order, every id once, nothing external."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "link", "img", "input"}  # the elements without an end that pages here have


class Page(HTMLParser):
    """What a page holds; raises AssertionError where it is not well-formed or not complete."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        assert text.startswith("<!DOCTYPE html>\n")
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        ids = self.values("id")
        assert len(ids) == len(set(ids))
        for address in self.values("href"):
            if address.startswith("#"):
                assert address[1:] in ids, f"{address} leads nowhere"
        for name in ("src", "href"):
            assert not [v for v in self.values(name) if v.startswith(("http", "//", "file"))]
        assert all(source.startswith("data:image/") for source in self.values("src"))
        for tag, attributes in self.tags:
            assert tag != "img" or "alt" in attributes
            assert tag != "svg" or attributes["aria-label"]

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag}: an attribute twice: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> outside of a drawing"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, found in self.tags for name, value in found.items()
                if name == attribute and value is not None]  # fmt: skip

    def count(self, tag: str, **attributes: str) -> int:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(found == tag and wanted.items() <= values.items() for found, values in self.tags)

    def pictures(self) -> list[Image.Image]:
        sources = [found.get("src") for tag, found in self.tags if tag == "img"]
        data = [base64.b64decode(source.split(",")[1]) for source in sources if source]
        return [Image.open(io.BytesIO(item)) for item in data]
