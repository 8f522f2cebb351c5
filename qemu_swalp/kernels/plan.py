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
from ..formats import BinadeFormat, Block, Squeezed, TableFormat
from ..formats.binade import binade
from ..formats.scale import GGML, SEARCH_RULES, VENDOR_RULES, candidates_of
from ..reference.binary32 import bits32
from ..reference.context import BINARY32, BINARY64, Target
from ..reference.element import parts
from ..reference.overflow import results_of
from ..reference.scale_formats import fractional
from ..reference.scaled_table import cut_thresholds
from ..reference.table import thresholds_of
from ..reference.table_stochastic import sign_view_of
from ..reference.table_values import keys, value_bits
from ..rounding import DETERMINISTIC, NEAREST, STOCHASTIC
from . import structs, table_index, table_spacing

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
    "ggml",
)
NO_BINADE = 10**6
"""Beyond every binade."""


@dataclass(frozen=True, eq=False)
class Plan:
    """`structure` for the kernels; `arrays` are those that it points into."""

    structure: structs.Plan
    arrays: tuple[np.ndarray, ...]
    host_only: bool
    """Whether the kernels for GPUs do without it: tables under scales (BLK-15), scales of another
    top, searched ones (BLK-17), those of ggml (BLK-18), and given ones (BLK-16).
    """


class Unsupported(Exception):
    """What the kernels do not support; the message says why, as a clause."""


class _Arrays(list[np.ndarray]):
    """Keeps arrays alive to which structures point."""

    def pointer(self, values: Any, dtype: str) -> int:
        self.append(np.ascontiguousarray(values, dtype))
        return int(self[-1].ctypes.data)


def plan_of(source: SourceDtype, target: Target, given: bool = False) -> Plan | None:
    """The plan; None for what the kernels do not support: `refusal_of` says why.

    given : whether the caller gives the scales (clause BLK-16).
    """
    found = _plan_or_reason(source, target, given)
    return found if isinstance(found, Plan) else None


def refusal_of(source: SourceDtype, target: Target, given: bool = False) -> str:
    """Why there is no plan, as a clause; "" if there is one."""
    found = _plan_or_reason(source, target, given)
    return found if isinstance(found, str) else ""


@lru_cache(maxsize=4096)
def _plan_or_reason(source: SourceDtype, target: Target, given: bool) -> Plan | str:
    try:
        return _plan(source, target, given)
    except Unsupported as reason:
        return str(reason)


def _plan(source: SourceDtype, target: Target, given: bool) -> Plan:
    arrays, rounding, format = _Arrays(), target.rounding, target.format
    if rounding.rule is not None:
        raise Unsupported(f"no kernel has the rounding mode {rounding}")
    if isinstance(format, Squeezed):
        raise Unsupported("no kernel has squeezed formats")
    plan = structs.Plan(
        DTYPES.index(source.name), 0, MODES.index(rounding.mode), rounding.random_bits
    )
    element, host_only = target.element, given
    if isinstance(format, Block):
        plan.family = 2
        plan.scaling = _scaling(arrays, source, format, given)
        plan.scaling.spoiled_from = _spoiled_from(format, target.policy)
        host_only |= not format.reaches_max or plan.scaling.top_count > 0 or format.rule == GGML
    if isinstance(element, TableFormat):
        if isinstance(format, Block):
            if plan.scaling.top_count and rounding != NEAREST:
                raise Unsupported("no kernel has searched scales of tables but for nearest_even")
            plan.scaling.in_table, host_only = True, True
            _fill_table(plan.table, arrays, BINARY64, target)
            if source.width == 32:
                _fill_table(plan.table32, arrays, BINARY32, target, cut=True)
        else:
            plan.family = 1
            _fill_table(plan.table, arrays, source, target)
    elif isinstance(element, BinadeFormat) and _counts_by_n(element):
        plan.element = _element(arrays, source, target)
        if isinstance(format, Block):
            plan.element32 = _element(arrays, BINARY32, target)
    else:
        raise Unsupported(f"no kernel has the ties of {element}, by another parity than n's")
    return Plan(plan, tuple(arrays), host_only)


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
    element.min_exponent = -NO_BINADE
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


def _scaling(arrays: _Arrays, source: SourceDtype, format: Block, given: bool) -> structs.Scaling:
    scaling = structs.Scaling(rule=RULES.index(_rule(format, given)), top=_top(source, format.top))
    most = None
    if format.rule in SEARCH_RULES and not given:
        tops, most = candidates_of(format.rule, format.top, bool(format.powers))
        scaling.top_count = len(tops)
        scaling.tops = arrays.pointer(
            np.frombuffer(b"".join(bytes(_top(source, top)) for top in tops), "int64"), "int64"
        )
    if isinstance(format.element, BinadeFormat):
        top = binade(format.element.max)
        scaling.even_bits = top - format.element.quantum_at(top)
    if format.powers:
        scaling.least_power, scaling.greatest_power = format.powers
        return scaling
    scale = fractional(format)
    scaling.scale = _element(
        arrays,
        BINARY32 if format.in_float32 else source,
        Target(scale, "saturate", NEAREST),
    )
    if format.second is not None:
        scaling.scale_max32 = bits32(most or scale.max)
        scaling.scale_least32 = bits32(scale.min_positive)
        if format.rule in VENDOR_RULES:
            scaling.full_range32 = bits32(format.top * scale.max)
    return scaling


def _rule(format: Block, given: bool) -> str:
    """Of `RULES`: of given scales, what they are; of searched ones, how each is made."""
    if (given and format.rule != "minmax") or format.rule in SEARCH_RULES:
        if format.powers:
            return "floor"
        return "nearest" if format.second is None else "two_nearest"
    if format.second is None and format.rule not in RULES:
        raise Unsupported(f"no kernel has the scale rule {format.rule}")
    return "two_nearest" if format.rule == "nearest" and format.second is not None else format.rule


def _top(source: SourceDtype, top: float) -> structs.Top:
    exponent, fraction = parts(source, top)
    return structs.Top(exponent, bits32(top), fraction + (1 << source.significand))


def _spoiled_from(format: Block, policy: str) -> int:
    """What makes a block NaN (clause BLK-13): 1 infinities and NaN, 2 NaN, 3 nothing."""
    if format.nonfinite == "element":
        return 3
    return 1 if policy == "block" else 2


def _fill_table(
    table: structs.Table,
    arrays: _Arrays,
    source: SourceDtype,
    target: Target,
    cut: bool = False,
) -> None:
    """cut : for quotients that are cut to the dtype (`TableLookup` in `src/cpu/table_rows.h`)."""
    wide, rounding = source.wide(), target.rounding
    format: Any = target.element
    values = value_bits(format, wide)
    table.values, table.count = arrays.pointer(values, "int64"), len(values)
    if rounding.stochastic:
        halves = []
        for name, sign in (("positive", 1), ("negative", -1)):
            view = sign_view_of(format, wide, sign)
            if view.divisors.max() >= 1 << 62:
                raise Unsupported(f"no kernel has neighbours as far apart as those of {format}")
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
        thresholds = (
            cut_thresholds(format, rounding) if cut else thresholds_of(format, wide, rounding)
        )
        table.thresholds = arrays.pointer(thresholds, "int64")
        positive, negative = table_index.of_thresholds(thresholds, values)
    table.index = table_index.index_of((positive, negative), source, arrays.pointer)
    if rounding.mode in ("nearest_even", "stochastic_a"):
        table.spacing = table_spacing.spacing_of(
            (positive, negative), source, rounding.stochastic, arrays.pointer
        )
    table.random_bits, table.has_negative_zero = rounding.random_bits, format.has_negative_zero
    table.low, table.high = map(int, keys((format.min, format.max), wide))
    results = results_of(target)
    table.above, table.below, table.positive_infinity, table.negative_infinity, _ = results
