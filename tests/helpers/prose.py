"""Sentences of Markdown and of pages, to find those that are too long."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser

import markdown

MOST_WORDS = 30
NO_PROSE = {"pre", "table", "script", "style", "nav", "svg", *(f"h{n}" for n in range(1, 7))}
BLOCKS = NO_PROSE | {"p", "li", "ul", "ol", "div", "summary", "dt", "dd"}
END = re.compile(r"(?<=[.?!])[)\"”]?\s+(?=[^a-z]|\w+ : )|; (?=if )")
"""Between sentences, attributes, and the conditions that raise an error, which are a list."""


class _Prose(HTMLParser):
    """Gathers the paragraphs of a page. Code within them is one word."""

    def __init__(self, within: str) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._within, self._text, self._depth = within, "", dict.fromkeys((*NO_PROSE, "code"), 0)
        self._depth[within] = 0 if within else 1

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in BLOCKS:
            self.end_paragraph()
        if tag == "code" and self._is_prose():
            self._text += "CODE"
        if tag in self._depth:
            self._depth[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.end_paragraph()
        if tag in self._depth:
            self._depth[tag] -= 1

    def handle_data(self, data: str) -> None:
        if self._is_prose():
            self._text += data

    def _is_prose(self) -> bool:
        outside = all(not n for tag, n in self._depth.items() if tag != self._within)
        return outside and self._depth[self._within] > 0

    def end_paragraph(self) -> None:
        if text := " ".join(self._text.split()):
            self.paragraphs.append(text)
        self._text = ""


def of_html(page: str, within: str = "") -> list[str]:
    """The paragraphs of a page, or of the elements of that name in it, without code and tables.

    >>> of_html("<p>No.</p><main><h1>No</h1><p>One <code>a. b</code>,<br>on.</main>", "main")
    ['One CODE, on.']
    """
    parser = _Prose(within)
    parser.feed(page.replace("<br>", " "))
    parser.end_paragraph()
    return parser.paragraphs


def of_markdown(text: str) -> list[str]:
    """The paragraphs of a text, without code, tables, headings and link targets.

    >>> of_markdown("# Title\\n\\nOne `a. b`,\\nand on, [see](x.md).\\n\\n- An item\\n- More\\n")
    ['One CODE, and on, see.', 'An item', 'More']
    """
    return of_html(markdown.markdown(text, extensions=["tables", "fenced_code"]))


def long_sentences(paragraphs: Iterable[str]) -> list[str]:
    """Those of more than `MOST_WORDS` words; signs alone, as of arithmetic, are none.

    >>> long_sentences(["Less - 1" + " word" * 28 + ". More" + " word" * 30 + "."])[0][:9]
    'More word'
    """
    return [
        sentence
        for paragraph in paragraphs
        for sentence in END.split(paragraph)
        if sum(any(map(str.isalnum, word)) for word in sentence.split()) > MOST_WORDS
    ]
