"""Gives the package's docstrings to the API reference in the form that it reads."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTIONS = {"Parameters": "Args", "Returns": "Returns", "Raises": "Raises", "Yields": "Yields"}
ITEM = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?: (.*)")
DECORATION = re.compile(r"\n-+\n")


def google_style(text: str) -> str:
    """The docstring in Google's style: sections with indented items, examples of `>>>` lines.

    >>> print(google_style("Add.\\n\\nParameters\\n----------\\nx : a number.\\n\\n>>> 1\\n1"))
    Add.
    <BLANKLINE>
    Args:
        x: a number.
    <BLANKLINE>
    Examples:
        >>> 1
        1
    """
    paragraphs = re.split(r"\n{2,}", text.strip())
    return "\n\n".join(map(_paragraph, _joined(paragraphs)))


def _joined(paragraphs: list[str]) -> list[str]:
    """One paragraph of all examples that follow one another, as one section."""
    joined: list[str] = []
    for paragraph in paragraphs:
        if joined and joined[-1].startswith(">>>") and paragraph.startswith(">>>"):
            joined[-1] += "\n\n" + paragraph
        else:
            joined.append(paragraph)
    return joined


def _paragraph(paragraph: str) -> str:
    if paragraph.startswith(">>>"):
        return "Examples:\n" + _indented(paragraph)
    title, _, rest = paragraph.partition("\n")
    if title not in SECTIONS or not rest.startswith("---"):
        return paragraph
    body = rest.partition("\n")[2]
    if SECTIONS[title] in ("Returns", "Yields"):
        return f"{SECTIONS[title]}:\n{_indented(' '.join(body.split()))}"
    lines: list[str] = []
    for line in body.splitlines():
        item = ITEM.fullmatch(line)
        lines.append(f"{item[1]}: {item[2]}" if item else f"    {line.strip()}")
    return f"{SECTIONS[title]}:\n{_indented(chr(10).join(lines))}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Griffe calls it for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = google_style(obj.docstring.value)
