"""Text for people: aligned tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(
    header: Sequence[object], lines: Iterable[Sequence[object]], left: Collection[int] = (0,)
) -> str:
    """Columns aligned to the right, those in `left` to the left, under a rule.

    >>> print(table(("name", "bits"), [("bf16", 16), ("e5m2", 8)]))
    name  bits
    ────  ────
    bf16    16
    e5m2     8
    """
    cells = [[str(cell) for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("─" * width for width in widths)
    head, *rest = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
    return "\n".join([head, rule, *rest])
