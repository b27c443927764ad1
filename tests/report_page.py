"""Reading a report page back, and the numbers it carries."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

VOID = {"meta", "link", "br", "input", "img", "hr"}


class Page(HTMLParser):
    """Elements of a page with their attributes and text; fails where a tag is closed that was not opened last."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {[tag for tag, _, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> says something twice: {names}"
        element = (tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element[2].append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        """Text inside the elements of a kind."""
        return [
            "".join(text)
            for name, found, text in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        (text,) = self.texts("script", id="data")
        return dict(json.loads(text))

    @property
    def scripts(self) -> list[str]:
        """The scripts that run."""
        return ["".join(text) for name, found, text in self.elements if name == "script" and "type" not in found]

    def links_out(self) -> list[str]:
        """Whatever a browser would fetch: links to anything but the page's own data, in attributes and style sheets."""
        found = [
            value
            for _, attributes, _ in self.elements
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "action", "poster", "data")
        ]
        found += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", " ".join(self.texts("style")))
        return [str(value) for value in found if not str(value).startswith(("data:", "#"))]


def numbers(text: str, dtype: str) -> np.ndarray:
    """An array of the page's data."""
    return np.frombuffer(base64.b64decode(text), dtype=dtype)


def digest(script: str) -> str:
    """As a content security policy writes it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
