"""What `encode` says of elements that have no code (clauses COD-1, COD-4, RND-9)."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import Array, Namespace, host
from ..formats import Format
from ..rounding import Rounding


class LacksCode(Exception):
    """Some element of a part has no code; the caller finds out which."""


def check_codes(xp: Namespace, lacking: Array) -> None:
    """LacksCode where the mask of a concrete array holds somewhere."""
    if xp.concrete(lacking) and xp.any(lacking):
        raise LacksCode


def no_code_error(
    format: Format, rounding: Rounding | str | None, x: Array, values: Array, lacking: Array
) -> ValueError:
    """The error about the first element of a mask that has no code.

    x : what `encode` was given. values : what it is rounded to, x itself without a rounding.
    """
    shape = np.shape(host("x", x))
    first = int(np.flatnonzero(host("x", lacking))[0])
    value, result = (float(host("x", array).reshape(-1)[first]) for array in (x, values))
    place = ", ".join(str(int(index)) for index in np.unravel_index(first, shape))
    where = f"x[{place}]" if place else "x"
    if math.isfinite(result):
        return ValueError(
            f"encode needs values of {format}, and {where} = {value!r} is none; give the rounding"
            f' as well: encode(x, "{format}", "nearest_even")'
        )
    if math.isnan(value):
        remedy = f'encode(nan_to_num(x), "{format}", "{rounding or "nearest_even"}")'
        remedy = f"replace it, as in {remedy}"
    else:
        remedy = f'encode(x, "{format}", "{rounding or "nearest_even"}", overflow="saturate")'
        remedy = f"take the end of the range, as in {remedy}"
    verb = "is" if str(value) == str(result) else "becomes"
    return ValueError(f"{format} has no code for {result}, which {where} {verb}; {remedy}")
