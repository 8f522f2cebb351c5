"""Text for people: aligned tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

TERMINAL = 100
"""Columns that the tables of the command line fit."""
NARROWEST = 20
"""Columns that a cell is broken into at least."""
WORDS = re.compile(r"(?<= )")
PARTS = re.compile(r"(?<=[,;._/])")


def table(
    header: Sequence[object],
    lines: Iterable[Sequence[object]],
    left: Collection[int] = (0,),
    width: int | None = None,
) -> str:
    """Columns aligned to the right, those in `left` to the left, under a rule.

    width : of the table at most, as far as that can be had: the widest column of those in `left` is
        broken into several lines. None: no line is broken.

    >>> print(table(("name", "bits"), [("bf16", 16), ("e5m2", 8)]))
    name  bits
    ────  ────
    bf16    16
    e5m2     8
    """
    rows = [[[str(cell)] for cell in line] for line in (header, *lines)]
    widths = _widths(rows)
    excess = sum(widths) + 2 * len(widths) - 2 - (width or 0)
    if width is not None and excess > 0 and left:
        widest = max(left, key=lambda i: widths[i])
        room = max(widths[widest] - excess, NARROWEST)
        for row in rows:
            row[widest] = broken(row[widest][0], room)
        widths = _widths(rows)
    rule = "  ".join("─" * each for each in widths)
    head, *rest = (_row(row, widths, left) for row in rows)
    return "\n".join([head, rule, *rest])


def broken(text: str, width: int) -> list[str]:
    """The text in lines of at most so many characters, broken at spaces; within words that are
    longer after punctuation, or anywhere.

    >>> broken("of encoder.layers.0.weight", 16), broken("mantissa", 5)
    (['of encoder.', 'layers.0.weight'], ['manti', 'ssa'])
    """
    lines = [""]
    words = WORDS.split(text)
    for piece in (p for w in words for p in ([w] if len(w) <= width else PARTS.split(w))):
        if len(lines[-1]) + len(piece.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def _widths(rows: Sequence[Sequence[Sequence[str]]]) -> list[int]:
    return [
        max(len(text) for cell in column for text in cell) for column in zip(*rows, strict=True)
    ]


def _row(row: Sequence[Sequence[str]], widths: Sequence[int], left: Collection[int]) -> str:
    """The cells side by side, in as many lines as the tallest has."""
    lines = []
    for k in range(max(map(len, row))):
        texts = [cell[k] if k < len(cell) else "" for cell in row]
        cells = [
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
