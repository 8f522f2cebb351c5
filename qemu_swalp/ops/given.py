"""Checks of the scales and zero points that a caller gives (clause BLK-16)."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from ..arrays import Array, Namespace, host, numpy_namespace
from ..arrays.dtypes import SOURCE_DTYPES
from ..formats import Block, Format
from ..reference.blocks import blocks_shape
from ..reference.context import Context
from ..reference.given_scales import Given, outside, scales_in_format


def check_given(
    ctx: Context, x: Array, format: Format, scales: Any, zero_points: Any
) -> Given | None:
    """The scales and zero points as arrays of x's library; None without scales.

    Raises
    ------
    TypeError: if they are no numbers or arrays of x's library or NumPy.
    ValueError: if the format has no scales, computes them in two levels, or needs or lacks zero
        points; if a shape does not fit x's blocks; if values that are known now are no scales or
        zero points of the format.
    """
    if scales is None and zero_points is None:
        return None
    if not isinstance(format, Block):
        raise ValueError(
            f"{format} has no scales, got scales={_short(scales)}; give a block format, such as"
            f" block<{format},axis=0,scale=float<8,23>>"
        )
    if format.second is not None:
        raise ValueError(
            f"the scales of {format} follow from a scale of the whole array, got scales=; give a"
            " format without second= and with the products of both as its scales"
        )
    check_takes_scales(format)
    affine = format.rule == "minmax"
    if zero_points is not None and not affine:
        raise ValueError(
            f"{format} has no zero points, got zero_points={_short(zero_points)}; leave them out,"
            " or use a format such as int<8,zero_point>"
        )
    if scales is None or (affine and zero_points is None):
        there, lacking = ("zero_points", "scales") if scales is None else ("scales", "zero_points")
        raise ValueError(f"{format} needs {lacking}= beside {there}=; give both or neither")
    numbers = _as_array(ctx.xp, x, "scales", scales, floating=True)
    points = None
    if zero_points is not None:
        points = _as_array(ctx.xp, x, "zero_points", zero_points, floating=False)
    given = Given(
        _in_shape(ctx.xp, x, format, "scales", numbers),
        None if points is None else _in_shape(ctx.xp, x, format, "zero_points", points),
    )
    _check_values(ctx, format, given, scales, zero_points)
    return given


def check_takes_scales(format: Block) -> None:
    """ValueError for formats whose scales cannot be given (clause BLK-19)."""
    if format.in_integers:
        raise ValueError(
            f"rule={format.rule!r} computes scales of its own from the numbers, so that they cannot"
            " be given; use int<W> or int<W,zero_point> with that axis and size"
        )


def _as_array(xp: Namespace, x: Array, name: str, values: Any, floating: bool) -> Array:
    """An argument as an array of x's library."""
    kind = "floating" if floating else "integer"
    if xp.owns(values) and xp.name != "numpy":
        remedy = xp.remedy(values)
        if remedy is not None:
            raise TypeError(f"{name} must be a dense {xp.name} array; {remedy}")
        dtype = xp.dtype(values)
        right = dtype in SOURCE_DTYPES if floating else "int" in dtype and not dtype.startswith("q")
        if not right:
            raise TypeError(f"{name} must be {kind} numbers, got dtype {dtype}; convert them")
        return values if floating else _in_32_bits(xp, values)
    plain = None
    if isinstance(values, int | float | list | tuple | np.ndarray | np.generic):
        with contextlib.suppress(TypeError, ValueError):
            plain = np.asarray(values)
    bfloat16 = floating and plain is not None and plain.dtype.name == "bfloat16"
    if plain is None or (plain.dtype.kind not in ("iuf" if floating else "iu") and not bfloat16):
        libraries = " or ".join(dict.fromkeys((xp.name, "numpy")))
        raise TypeError(
            f"{name} must be {kind} numbers: one number, a list, or an array of {libraries}, got"
            f" {_short(values)}"
        )
    if floating:
        with np.errstate(over="ignore"):
            bits = plain.astype(np.float32).view(np.int32)
        return xp.floats(xp.reshape(xp.table(bits.reshape(-1), 32, x), plain.shape), "float32")
    plain = _in_32_bits(numpy_namespace(), plain)
    return xp.reshape(xp.table(plain.reshape(-1), 32, x), plain.shape)


def _in_32_bits(xp: Namespace, points: Array) -> Array:
    """As int32; what does not fit becomes -1 or 2^31 - 1, which are no zero points."""
    if xp.dtype(points) in ("int64", "uint64"):  # the upper half of uint64 wraps to below 0
        points = xp.clip(xp.cast(points, 64), -1, 2**31 - 1)
    return xp.cast(points, 32)


def _in_shape(xp: Namespace, x: Array, format: Block, name: str, values: Array) -> Array:
    """The array, if it has one entry, or one for each block: with or without the axes that a block
    spans.
    """
    shape = tuple(xp.lengths(x)) or (1,)
    whole = blocks_shape(shape, format)
    extents = format.extents(len(shape))
    short = tuple(n for n, extent in zip(whole, extents, strict=True) if extent is not None)
    got = tuple(xp.lengths(values))
    if not got or any(_fits(got, wanted) for wanted in (whole, short)):
        return values
    wanted = " or ".join(dict.fromkeys(map(_written, (whole, short))))
    raise ValueError(
        f"{name} must be a single number, or of shape {wanted}: one for each block that {format}"
        f" makes of an array of shape {_written(shape)}; got shape {_written(got)}"
    )


def _written(shape: tuple[Any, ...]) -> str:
    return str(tuple(n if isinstance(n, int) else None for n in shape))


def _fits(got: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether shapes agree as far as both are known."""
    pairs = zip(got, wanted, strict=False)
    return len(got) == len(wanted) and all(
        not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in pairs
    )


def _check_values(ctx: Context, format: Block, given: Given, scales: Any, zero_points: Any) -> None:
    """ValueError for known values that are no scales or zero points of the format; it tells what
    the caller gave.
    """
    xp = ctx.xp
    if xp.concrete(given.scales):
        _, invalid = scales_in_format(ctx, format, given.scales)
        if xp.any(invalid):
            wanted = "positive and finite in float32"
            if format.powers:
                wanted = "powers of two from 2^{} to 2^{}".format(*format.powers)
            raise ValueError(f"scales of {format} must be {wanted}, got {_first(scales, invalid)}")
    if given.zero_points is not None and xp.concrete(given.zero_points):
        invalid = outside(given.zero_points, format)
        if xp.any(invalid):
            raise ValueError(
                f"zero_points of {format} must be from 0 to {int(format.element.max)}, got"
                f" {_first(zero_points, invalid)}; of signed integers from -2^(W-1) add"
                " 2^(W-1)"
            )


def _first(values: Any, mask: Array) -> str:
    numbers = values if isinstance(values, int | float | list | tuple) else host("scales", values)
    flat, where = np.reshape(numbers, -1), host("mask", mask).reshape(-1)
    return repr(flat[np.flatnonzero(where)[0]].item())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__module__}.{type(value).__qualname__}"
