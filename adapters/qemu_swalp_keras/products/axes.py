"""The axes of the products that are called by names, one letter each, as in einsum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Axes = tuple[str, str, str]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _matmul(r: int, s: int) -> Axes | None:
    if not (r and s):
        return None
    batch = _LETTERS[: max(r, s) - 2] if max(r, s) > 2 else ""
    x = "X" if r == 1 else batch[len(batch) - (r - 2) :] + "WX"
    y = "X" if s == 1 else batch[len(batch) - (s - 2) :] + "XY"
    return x, y, batch + ("W" if r > 1 else "") + ("Y" if s > 1 else "")


def _dot(r: int, s: int) -> Axes | None:
    if not (r and s):
        return None
    return _tensordot(r, s, ((r - 1,), (max(s - 2, 0),)))


def _inner(r: int, s: int) -> Axes | None:
    return _tensordot(r, s, ((r - 1,), (s - 1,))) if r and s else None


def _tensordot(r: int, s: int, axes: Any = 2) -> Axes | None:
    if isinstance(axes, int):
        pairs = [(r - axes + i, i) for i in range(axes)]
    else:
        left, right = ((n,) if isinstance(n, int) else tuple(n) for n in axes)
        pairs = [(i % r, j % s) for i, j in zip(left, right, strict=True)]
    if not pairs:
        return None
    x, y = list(_LETTERS[:r]), list(_LETTERS[r : r + s])
    for i, j in pairs:
        y[j] = x[i]
    common = set(x) & set(y)
    out = "".join(c for c in (*x, *y) if c not in common)
    return "".join(x), "".join(y), out


AXES: dict[str, Callable[..., Axes | None]] = {
    "numpy.matmul": _matmul,
    "numpy.dot": _dot,
    "numpy.inner": _inner,
    "numpy.tensordot": _tensordot,
    "numpy.vdot": lambda r, s: (_LETTERS[:r], _LETTERS[:s], "") if r == s and r else None,
}
"""By the name of a function of the backend, those of its operands and its result, by their ranks;
None where it multiplies elementwise.
"""
