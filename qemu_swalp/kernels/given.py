"""Scales and zero points that a caller gives, in the memory where the kernels read them (clause
BLK-16).
"""

from __future__ import annotations

import numpy as np

from ..arrays import host
from ..formats import Block, Format
from ..reference.context import BINARY64, Target
from ..reference.given_scales import Given
from ..reference.scale_formats import fractional
from ..rounding import NEAREST
from . import structs
from .cpu import CPU
from .plan import Plan, plan_of
from .processor import Memory


class BlockScales:
    """Checked scales as numbers of their format, one for each block or one for all.

    structure : points into arrays of this object.
    """

    def __init__(self, format: Format, given: Given) -> None:
        scales = np.array(host("scales", given.scales), np.float64).reshape(-1)
        if isinstance(format, Block) and not format.powers:
            scales = _in_format(scales, format)
        self._scales, self._zero_points = scales, None
        self.structure = structs.Given(scales.ctypes.data, scale_step=int(scales.size > 1))
        if given.zero_points is not None:
            points = np.array(host("zero_points", given.zero_points), np.int64).reshape(-1)
            self._zero_points = points
            self.structure.zero_points = points.ctypes.data
            self.structure.zero_point_step = int(points.size > 1)


def scale_plan(format: Block) -> Plan:
    """Of rounding numbers in float64 to the scales of a format, which are no powers of two."""
    grid = fractional(format)
    plan = plan_of(BINARY64, Target(grid, "saturate", NEAREST))
    if plan is None:
        raise TypeError(f"the kernels do not round to {grid}")
    return plan


def _in_format(scales: np.ndarray, format: Block) -> np.ndarray:
    """Rounded to nearest even, and not below the least positive scale."""
    grid = fractional(format)
    memory = Memory(scales.ctypes.data, (1,))
    CPU.quantize(scale_plan(format), grid, scales.shape, memory, memory, structs.Random())
    raised: np.ndarray = np.maximum(scales, grid.min_positive)
    return raised
