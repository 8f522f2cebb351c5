"""Which numbers a rounding clips."""

from __future__ import annotations

from ..arrays import Array, namespace_of
from ..arrays.dtypes import source_dtype
from ..formats import Format, parse
from ..reference.context import Context, Target
from ..reference.overflow import MARK
from ..rounding import Rounding
from .quantize import round_array

OUTWARD = tuple(Rounding.parse(f"toward_{sign}") for sign in ("positive", "negative"))


def clipped(x: Array, format: Format | str) -> Array:
    """Mask of the numbers beyond the ends of a format, under the scale of their block; NaN is
    none of them.
    """
    xp = namespace_of(x)
    ctx, form = Context(xp, source_dtype(xp.dtype(x))), parse(format)
    # Whatever is beyond an end is rounded outward past it, and marked by NaN.
    above, below = (round_array(ctx, x, Target(form, MARK, way), None) for way in OUTWARD)
    return (x < 0) & (below != below) | (x >= 0) & (above != above)
