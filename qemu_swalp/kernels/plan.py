"""A format, a rounding and a policy in a source dtype, as the plain numbers with which the kernels
compute.

Nothing here asks which family a format is of: a binade format is sampled (its quantum in every
binade), a table format lists its values. So kernels support a user's own format like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import numpy_namespace
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import BinadeFormat, Block, TableFormat
from ..formats.binade import binade
from ..reference.binary32 import bits32
from ..reference.context import BINARY32, Target
from ..reference.element import parts
from ..reference.overflow import results_of
from ..reference.scale_formats import fractional
from ..reference.table import thresholds_of
from ..reference.table_stochastic import sign_view_of
from ..reference.table_values import keys, value_bits
from ..rounding import DETERMINISTIC, NEAREST, STOCHASTIC
from . import structs, table_index

DTYPES = list(SOURCE_DTYPES)
MODES = DETERMINISTIC + STOCHASTIC
RULES = (
    "floor",
    "ceil",
    "rceil",
    "even",
    "nearest",
    "minmax",
    "two_nearest",
    "transformer_engine",
    "torchao",
)
NO_BINADE = 10**6
"""Beyond every binade."""


@dataclass(frozen=True, eq=False)
class Plan:
    """`structure` for the kernels; `arrays` are those that it points into."""

    structure: structs.Plan
    arrays: tuple[np.ndarray, ...]


class _Arrays(list[np.ndarray]):
    """Keeps arrays alive to which structures point."""

    def pointer(self, values: Any, dtype: str) -> int:
        self.append(np.ascontiguousarray(values, dtype))
        return int(self[-1].ctypes.data)


@lru_cache(maxsize=4096)
def plan_of(source: SourceDtype, target: Target) -> Plan | None:
    """The plan; None for what the kernels do not support: ties by another parity than n's (clause
    RND-5), neighbours in a table too far apart for exact stochastic rounding, tables under scales,
    scales of another top (BLK-15), scales that are searched (BLK-17), rounding modes and scale
    rules of one's own.
    """
    arrays, rounding = _Arrays(), target.rounding
    if rounding.rule is not None:
        return None
    plan = structs.Plan(
        DTYPES.index(source.name), 0, MODES.index(rounding.mode), rounding.random_bits
    )
    element = target.element
    if isinstance(target.format, Block) and (
        not target.format.reaches_max or target.format.rule not in RULES
    ):
        return None
    if isinstance(element, TableFormat):
        plan.family = 1
        if isinstance(target.format, Block) or not _fill_table(plan.table, arrays, source, target):
            return None
    elif isinstance(element, BinadeFormat) and _counts_by_n(element):
        plan.element = _element(arrays, source, target)
        if isinstance(target.format, Block):
            plan.family = 2
            plan.element32 = _element(arrays, BINARY32, target)
            plan.scaling = _scaling(arrays, source, target.format, element)
            plan.scaling.spoiled_from = _spoiled_from(target.format, target.policy)
    else:
        return None
    return Plan(plan, tuple(arrays))


def _counts_by_n(format: BinadeFormat) -> bool:
    """Whether ties go by the parity of n in every binade."""
    if type(format).parity is BinadeFormat.parity:
        return True
    xp = numpy_namespace()
    binades, _ = format.sample()
    return all(
        (xp.broadcast(format.parity(binades * 0 + n, binades, xp), binades.shape) == n & 1).all()
        for n in range(4)
    )


def _element(arrays: _Arrays, source: SourceDtype, target: Target) -> structs.Element:
    format: Any = target.element
    binades, quanta = format.sample()
    fraction_bits = int(binades[-1] - quanta[-1])
    # Binades before those whose quanta are steadily 2^(binade - fraction_bits).
    below = int(np.flatnonzero(np.append(True, quanta != binades - fraction_bits))[-1])
    element = structs.Element(
        breakpoint=int(binades[0]) + below, ulp_exponent=int(quanta[0]), fraction=fraction_bits
    )
    if below == 0:
        element.breakpoint = -NO_BINADE
    elif (quanta[:below] != quanta[0]).any():
        element.table_first, element.table_count = int(binades[0]), len(quanta)
        element.table = arrays.pointer(quanta, "int32")
    hidden = 1 << source.significand
    element.max_exponent, fraction = parts(source, format.max)
    element.max_significand = fraction + hidden
    element.min_exponent, element.min_significand = element.max_exponent, element.max_significand
    if format.signed:
        element.min_exponent, fraction = parts(source, -format.min)
        element.min_significand = fraction + hidden
    element.least_exponent = binade(format.min_positive)
    element.is_signed, element.has_zero = format.signed, format.has_zero
    element.has_negative_zero = format.has_negative_zero
    results = results_of(target)
    for name, result in results._asdict().items():
        setattr(element, name, result)
    element.random_bits = target.rounding.random_bits
    return element


def _scaling(
    arrays: _Arrays, source: SourceDtype, format: Block, element: BinadeFormat
) -> structs.Scaling:
    top = binade(element.max)
    rule = "two_nearest" if format.rule == "nearest" and format.second is not None else format.rule
    scaling = structs.Scaling(
        rule=RULES.index(rule),
        even_bits=top - element.quantum_at(top),
    )
    if format.powers:
        scaling.least_power, scaling.greatest_power = format.powers
        return scaling
    scale = fractional(format)
    scaling.scale = _element(
        arrays,
        source if format.second is None else BINARY32,
        Target(scale, "saturate", NEAREST),
    )
    if format.second is not None:
        scaling.element_max32, scaling.scale_max32 = bits32(element.max), bits32(scale.max)
        scaling.scale_least32, scaling.full_range32 = (
            bits32(scale.min_positive),
            bits32(element.max * scale.max),
        )
    return scaling


def _spoiled_from(format: Block, policy: str) -> int:
    """What makes a block NaN (clause BLK-13): 1 infinities and NaN, 2 NaN, 3 nothing."""
    if format.nonfinite == "element":
        return 3
    return 1 if policy == "block" else 2


def _fill_table(table: structs.Table, arrays: _Arrays, source: SourceDtype, target: Target) -> bool:
    wide, rounding = source.wide(), target.rounding
    format: Any = target.element
    values = value_bits(format, wide)
    table.values, table.count = arrays.pointer(values, "int64"), len(values)
    if rounding.stochastic:
        halves = []
        for name, sign in (("positive", 1), ("negative", -1)):
            view = sign_view_of(format, wide, sign)
            if view.divisors.max() >= 1 << 62:
                return False
            halves.append(table_index.of_view(format, view, sign, source))
            setattr(
                table,
                name,
                structs.SignView(
                    *(
                        arrays.pointer(
                            getattr(view, column),
                            "int32" if column == "ulp_exponents" else "int64",
                        )
                        for column in ("keys", "bits", "ulp_exponents", "starts", "divisors")
                    ),
                    len(view.keys),
                    view.not_positive,
                ),
            )
        positive, negative = halves
    else:
        thresholds = thresholds_of(format, wide, rounding)
        table.thresholds = arrays.pointer(thresholds, "int64")
        positive, negative = table_index.of_thresholds(thresholds, values)
    table.index = table_index.index_of((positive, negative), source, arrays.pointer)
    table.random_bits, table.has_negative_zero = rounding.random_bits, format.has_negative_zero
    table.low, table.high = map(int, keys((format.min, format.max), wide))
    results = results_of(target)
    table.above, table.below, table.positive_infinity, table.negative_infinity, _ = results
    return True
