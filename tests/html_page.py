"""Reads the pages that the package writes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

EMPTY_TAGS = ("meta", "img", "path", "br")


class Page(HTMLParser):
    """Reads a page, insists on closed tags; keeps its words and the attributes of its tags."""

    def __init__(self, path: Path):
        super().__init__()
        # Open tags, each with its number in the page; and words with the tags around them.
        self._open: list[tuple[int, str, str | None]] = []
        self._words: list[tuple[tuple[tuple[int, str, str | None], ...], str]] = []
        self.style = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY_TAGS:
            self._open.append((len(self.tags), tag, dict(attributes).get("class")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[1] == tag

    def handle_data(self, data):
        if "style" in [tag for _, tag, _ in self._open]:
            self.style += data
        else:
            self._words.append((tuple(self._open), data))

    @property
    def text(self) -> str:
        """All words, white space collapsed."""
        return " ".join(" ".join(words for _, words in self._words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of each tag of that name."""
        return [attributes for tag, attributes in self.tags if tag == name]

    def drawings(self) -> list[str]:
        """What each chart says to those who cannot see it."""
        return [tag["aria-label"] for _, tag in self.tags if "aria-label" in tag]

    def within(self, name: str, kind: str | None = None) -> list[str]:
        """The text of each element of that name (and class), as it is written."""
        texts: dict[int, str] = {}
        for around, words in self._words:
            for number, tag, its_kind in around:
                if tag == name and kind in (None, its_kind):
                    texts[number] = texts.get(number, "") + words
        return list(texts.values())

    def fetched(self) -> list[str]:
        """What a browser would have to get from elsewhere; scripts too."""
        found = re.findall(r"url\(.*?\)|@import", self.style)
        found += [tag for tag, _ in self.tags if tag in ("script", "link", "iframe", "object")]
        for _, attributes in self.tags:
            for key in ("src", "href", "xlink:href", "srcset"):
                value = attributes.get(key) or "data:"
                if not value.startswith(("data:", "#")):
                    found.append(value)
        return found
