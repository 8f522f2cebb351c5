"""Shapes, strides and blocks of two arrays in the fewest axes."""

from __future__ import annotations

import math
from functools import lru_cache

from ..formats import Block, Format
from . import structs

Shape = tuple[int, ...]


@lru_cache(maxsize=4096)
def layout_of(
    shape: Shape,
    source_strides: Shape,
    target_strides: Shape,
    format: Format,
    order: Shape | None = None,
) -> structs.Layout | None:
    """The layout of arrays of at least one element; strides count elements, those of the last axis
    are 1. order : the axes as they follow one another in the layout; None: as they are.

    None where more axes are left than the kernels support, or strides of the last one are not 1.
    """
    parts = (shape, source_strides, target_strides, extents_of(shape, format))
    return layout_by(*(permuted(part, order) for part in parts))


def layout_by(
    shape: Shape, source_strides: Shape, target_strides: Shape, extents: Shape
) -> structs.Layout | None:
    """The same for blocks of that length along each axis."""
    shape = shape or (1,)
    source_strides, target_strides = source_strides or (1,), target_strides or (1,)
    axes: list[list[int]] = []  # length, extent, stride of source, of target; the last axis first
    for axis in reversed(list(zip(shape, extents, source_strides, target_strides, strict=True))):
        length, extent, source, target = axis
        if axes and length == 1:
            continue
        if axes and axes[-1][0] == 1:
            axes[-1] = [length, extent, source, target]
        elif axes and _merge(axes[-1], length, extent, source, target):
            continue
        else:
            axes.append([length, extent, source, target])
    if axes[0][0] == 1:
        axes[0][2:] = [1, 1]
    if len(axes) > structs.MOST_AXES or axes[0][2:] != [1, 1]:
        return None
    found = structs.Layout(len(axes))
    for i, (length, extent, source, target) in enumerate(reversed(axes)):
        found.lengths[i], found.extents[i] = length, extent
        found.source_strides[i], found.target_strides[i] = source, target
    return found


@lru_cache(maxsize=4096)
def operands_of(shape: Shape, a_strides: Shape, b_strides: Shape) -> structs.Layout | None:
    """The layout of two operands of one shape, with at least one element and any strides; extents
    are not used. None where more axes are left than the kernels support.
    """
    axes: list[list[int]] = [[1, 1, 1]]  # length, stride of a, of b; the last axis first
    for length, a, b in reversed(list(zip(shape, a_strides, b_strides, strict=True))):
        inner = axes[-1]
        if length == 1:
            continue
        if inner[0] == 1:
            axes[-1] = [length, a, b]
        elif a == inner[0] * inner[1] and b == inner[0] * inner[2]:
            inner[0] *= length
        else:
            axes.append([length, a, b])
    if len(axes) > structs.MOST_AXES:
        return None
    found = structs.Layout(len(axes))
    for i, (length, a, b) in enumerate(reversed(axes)):
        found.lengths[i], found.source_strides[i], found.target_strides[i] = length, a, b
    return found


def extents_of(shape: Shape, format: Format) -> Shape:
    """The length of a block along each axis; elements by themselves have all of an array in one.
    A scalar counts as an array of one element.
    """
    shape = shape or (1,)
    if not isinstance(format, Block):
        return shape
    return tuple(
        length if extent is None else min(extent, length)
        for length, extent in zip(shape, format.extents(len(shape)), strict=True)
    )


@lru_cache(maxsize=4096)
def order_of(shape: Shape, strides: Shape) -> Shape | None:
    """The axes as they lie in memory, outermost first, of an array that fills its memory without a
    gap, such as one of channels_last; None of other ones.
    """
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], -shape[axis]))
    expected = 1
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != expected:
            return None
        expected *= shape[axis]
    return tuple(order)


@lru_cache(maxsize=4096)
def rows_of(shape: Shape, strides: Shape) -> Shape | None:
    """The axes as they lie in memory, outermost first, of an array of which some neighbours along
    an axis are neighbours in memory; None of other ones.
    """
    order = sorted(range(len(shape)), key=lambda axis: (-abs(strides[axis]), -shape[axis]))
    long = [axis for axis in order if shape[axis] > 1]
    return tuple(order) if long and strides[long[-1]] == 1 else None


def permuted(values: Shape, order: Shape | None) -> Shape:
    """Values of axes in their order; None: C order."""
    return values if order is None else tuple(values[axis] for axis in order)


def c_strides(shape: Shape) -> Shape:
    """Of an array in C order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _merge(inner: list[int], length: int, extent: int, source: int, target: int) -> bool:
    """Take an axis into the one within it, where blocks and memory allow; `inner` changes."""
    inner_length, inner_extent, inner_source, inner_target = inner
    if source != inner_length * inner_source or target != inner_length * inner_target:
        return False
    if inner_extent == inner_length:
        inner[:2] = length * inner_length, extent * inner_length
    elif extent == 1 and inner_length % inner_extent == 0:
        inner[0] = length * inner_length
    else:
        return False
    return True
