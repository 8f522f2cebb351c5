"""Checks of what a user passes to the functions on arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import Array, Namespace, namespace_of
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import Block, Format, Overflow, Squeezed, TableFormat
from ..formats.axis_words import unresolved
from ..random_bits import RandomBits
from ..reference.context import Target, element_of
from ..reference.scaled_table import element_dtype, least_of_tables
from ..rounding import Rounding


def as_array(x: Any, format: Format | None = None, name: str = "x") -> Array:
    """An argument as an array that can be computed with.

    Python numbers and (nested) lists become NumPy float64, or float32 for a format that is defined
    by float32 steps. NumPy arrays of the other byte order are swapped. TypeError for arrays that
    are refused (`Namespace.remedy`), ValueError for integers that float64 does not represent.
    """
    if type(x) is np.ndarray and x.dtype.isnative:  # what follows would take a microsecond
        return x
    if isinstance(x, int | float | complex | str | bytes | list | tuple) and not isinstance(
        x, np.generic
    ):
        single = isinstance(format, Block) and format.in_float32
        return _numbers(name, x).astype(np.float32 if single else np.float64)
    xp = namespace_of(x)
    remedy = xp.remedy(x)
    if remedy is not None:
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name} must be a dense {xp.name} array, got {kind}; {remedy}")
    return xp.native(x)


def as_arrays(*operands: Any) -> list[Array]:
    """Operands as `as_array`; Python numbers beside an array are of its dtype, as in NumPy."""
    names = "abc" if len(operands) > 1 else "x"
    arrays = [as_array(x, name=name) for x, name in zip(operands, names, strict=False)]
    for x, array in zip(operands, arrays, strict=True):
        if array is x and isinstance(x, np.ndarray | np.generic):
            return [
                a if a is o else a.astype(x.dtype) for a, o in zip(arrays, operands, strict=True)
            ]
    return arrays


def _numbers(name: str, x: Any) -> np.ndarray:
    """Python numbers as float64. TypeError or ValueError for what is none, or not represented."""
    accepted = "an array, a number, or a list of numbers with rows of one length"
    try:
        values = np.asarray(x, object)
        ragged = any(isinstance(value, list | tuple) for value in values.flat)
    except ValueError:
        ragged = True
    if ragged:
        raise ValueError(f"{name} must be {accepted}, got rows of several lengths")
    for value in values.flat:
        if isinstance(value, complex | np.complexfloating):
            raise TypeError(
                f"{name} must be {accepted}, got {value!r}; round .real and .imag apart"
            )
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.integer | np.floating
        ):
            raise TypeError(f"{name} must be {accepted}, got {value!r}; convert it, as in float(…)")
    if any(isinstance(v, int) and (abs(v) >> 1024 or int(float(v)) != v) for v in values.flat):
        raise ValueError(
            f"{name} has integers that float64 does not represent; round them first, with float(…)"
        )
    return values.astype(np.float64)


def check_like(xp: Namespace, name: str, x: Array, like_name: str, like: Array) -> None:
    """TypeError unless x is an array of the library and dtype of another."""
    if not xp.owns(x) or xp.dtype(x) != xp.dtype(like):
        got = xp.dtype(x) if xp.owns(x) else f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(
            f"{name} must be a {xp.name} array of {xp.dtype(like)} like {like_name}, got {got}"
        )


@lru_cache(maxsize=4096)
def check_representable(format: Format, dtype: SourceDtype) -> None:
    """TypeError unless the dtype represents the values of the format (clause SRC-1)."""
    if isinstance(format, Block) and format.in_float32 and dtype.width > 32:
        raise TypeError(
            f"{format} is defined by float32 steps, and {dtype.name} has more; convert it to"
            " float32"
        )
    lacking = _lacking(format, dtype)
    if lacking:
        wider = next((d.name for d in SOURCE_DTYPES.values() if not _lacking(format, d)), None)
        remedy = f"convert it to {wider}" if wider else "no supported dtype represents them"
        raise TypeError(
            f"an array of {dtype.name} cannot represent the values of {format}: it lacks {lacking};"
            f" {remedy}"
        )


def _lacking(format: Format, dtype: SourceDtype) -> str:
    """What the dtype lacks to represent the values of the format; "" if nothing."""
    element = element_of(format)
    scaled_table = isinstance(format, Block) and isinstance(element, TableFormat)
    if scaled_table:
        dtype = element_dtype(dtype)
    if element.precision > dtype.precision:
        return f"precision ({element.precision} bits, it has {dtype.precision})"
    if isinstance(element, TableFormat) and scaled_table:
        least = min(abs(v) for v in element.finite if v)
        if least < least_of_tables(dtype):
            return f"small values ({least:g}, and under scales from {least_of_tables(dtype):g})"
    elif isinstance(format, Block) and format.powers:
        return ""
    elif element.least_exponent < dtype.least_exponent:
        return (
            f"small values (multiples of 2^{element.least_exponent}, it has"
            f" 2^{dtype.least_exponent})"
        )
    if max(element.max, -element.min) > dtype.max:
        return f"range (up to {max(element.max, -element.min):g}, it has {dtype.max:g})"
    return ""


def target_of(
    format: Format, rounding: Rounding, overflow: Overflow | None, dtype: SourceDtype
) -> Target:
    """What arrays of a dtype are rounded to; errors as `check_representable` and `policy_of`."""
    if overflow is None:
        return _target_of(format, rounding, dtype.name)
    check_representable(format, dtype)
    return Target(format, policy_of(format, overflow), rounding)


@lru_cache(maxsize=4096)
def _target_of(format: Format, rounding: Rounding, dtype: str) -> Target:
    check_representable(format, SOURCE_DTYPES[dtype])
    return Target(format, policy_of(format, None), rounding)


def policy_of(format: Format, overflow: Overflow | None) -> str:
    """The overflow policy in force (of blocks: `Block.overflow_in_force`). ValueError where the
    format cannot express it, or names axes by words.
    """
    if isinstance(format, Squeezed):
        return format.overflow_in_force(overflow)
    if isinstance(format, Block):
        if format.axis_words:
            raise unresolved(format, format.axis_words)
        return format.overflow_in_force(overflow)
    element = element_of(format)
    if overflow is None:
        return element.overflow
    element.check_overflow(overflow)
    return overflow


def check_random(
    xp: Namespace, x: Array, rounding: Rounding, random: RandomBits | Array | None
) -> None:
    """ValueError unless there are random bits where the rounding needs them."""
    if not rounding.stochastic or isinstance(random, RandomBits):
        return
    if random is None:
        raise ValueError(
            f"rounding {rounding} needs random=: RandomBits(seed, stream, step), with another"
            " stream for every tensor and another step for every call, or an array of 32-bit"
            " random words"
        )
    if not xp.owns(random) or not xp.same_shape(random, x) or "int32" not in xp.dtype(random):
        got = (
            f"{xp.dtype(random)} of shape {tuple(random.shape)}"
            if xp.owns(random)
            else type(random).__qualname__
        )
        raise ValueError(
            f"random must be RandomBits, or a uint32 or int32 {xp.name} array of shape"
            f" {tuple(x.shape)}, got {got}; convert it, as in random.astype('uint32')"
        )


def check_out(xp: Namespace, x: Array, out: Array, dtype: SourceDtype) -> None:
    """TypeError or ValueError unless `out` is an array like x."""
    if not xp.owns(out):
        raise TypeError(
            f"out must be a {xp.name} array like x, got"
            f" {type(out).__module__}.{type(out).__qualname__}"
        )
    if xp.records(out):
        raise ValueError(
            "out must not require a gradient while gradients are recorded: the write would not be"
            " recorded; call it under torch.no_grad(), or with out=out.detach()"
        )
    if xp.dtype(out) != dtype.name == xp.dtype(xp.native(out)):
        raise ValueError(
            f"out must have the byte order of the machine, got {xp.dtype(out)}; pass another array,"
            f" as in numpy.empty(out.shape, {dtype.name!r})"
        )
    if not xp.same_shape(out, x) or xp.dtype(out) != dtype.name:
        raise ValueError(
            f"out must have x's shape {tuple(x.shape)} and dtype {dtype.name}, "
            f"got {tuple(out.shape)} and {xp.dtype(out)}"
        )
    if xp.concrete(out) != xp.concrete(x):
        raise ValueError(
            "out must hold values where x does, and one of them has none (PyTorch's device 'meta',"
            " or a traced graph); pass both on one device, as in torch.empty_like(x)"
        )
