"""Rows and columns of a vector file."""

from __future__ import annotations

import math
from collections.abc import Iterable


def text(number: float) -> str:
    """A float as compact hexadecimal that `float.fromhex` reads."""
    if number == 0 or not math.isfinite(number):
        return str(number).removesuffix(".0")
    digits, exponent = number.hex().split("p")
    return f"{digits.rstrip('0').removesuffix('.') if '.' in digits else digits}p{int(exponent)}"


def listed(items: Iterable[object]) -> str:
    """A list in one column: commas, `-` for what is not there."""
    return ",".join(cell(item) for item in items) or "-"


def cell(item: object) -> str:
    """One item of a list."""
    return "-" if item is None else text(item) if isinstance(item, float) else str(item)


def table(clauses: str, columns: str, rows: Iterable[str]) -> str:
    """A vector file: what it proves, what its columns are, its rows."""
    return "\n".join([f"# clauses: {clauses}", f"# columns: {columns}", *rows, ""])


def policy_column(policy: str | None) -> str:
    """The caller's overflow policy; `-` where there is none."""
    return policy or "-"


def same(a: float, b: float) -> bool:
    """Equal as results are: NaN is NaN, and -0 is not 0."""
    return text(a) == text(b)


def pair(first: float, results: list[float]) -> str:
    """Columns first, second and choices."""
    others = [r for r in results if not same(r, first)]
    if any(not same(r, others[0]) for r in others):
        raise AssertionError(f"more than two results: {first} {results}")
    choices = "".join("0" if same(r, first) else "1" for r in results)
    return f"{text(first)} {text(others[0]) if others else '-'} {choices}"
