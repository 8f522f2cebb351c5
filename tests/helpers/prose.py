"""Sentences of Markdown, to find those that are too long."""

from __future__ import annotations

import re

MOST_WORDS = 30
CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
NO_PROSE = re.compile(r"^ *(\||#|!!!|===|<|```).*$", re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
INLINE_CODE = re.compile(r"`[^`]*`")
ITEM = re.compile(r"^ *(?:[-*]|\d+\.) ", re.MULTILINE)
END = re.compile(r"(?<=[.?!])[)\"”]?\s+(?=[^a-z])")


def sentences(markdown: str) -> list[str]:
    """The sentences of a page, without code, tables, headings and link targets.

    >>> sentences("# Title\\n\\nOne `a. b` here,\\nand on. Two, [see](x.md).\\n\\n- An item\\n")
    ['One CODE here, and on.', 'Two, see.', 'An item']
    """
    text = NO_PROSE.sub("\n\n", CODE.sub("\n\n", markdown))
    text = INLINE_CODE.sub("CODE", LINK.sub(r"\1", PICTURE.sub("", text)))
    paragraphs = re.split(r"\n\s*\n", ITEM.sub("\n\n", text))
    return [
        sentence
        for paragraph in paragraphs
        for sentence in END.split(" ".join(paragraph.split()))
        if sentence
    ]


def long_sentences(markdown: str) -> list[str]:
    """Those of more than `MOST_WORDS` words.

    >>> long_sentences("Less" + " word" * 29 + ". More" + " word" * 30 + ".")[0][:9]
    'More word'
    """
    return [each for each in sentences(markdown) if len(each.split()) > MOST_WORDS]
