"""A format, a rounding and a policy in a carrier, as the plain numbers that the kernels compute
with.

Nothing here asks which family a format is of: a binade format is sampled (its quantum in every
binade), a table format lists its values. So a user's own format takes the kernels like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import numpy_namespace
from ..arrays.dtypes import SOURCE_DTYPES, SourceDtype
from ..formats import BinadeFormat, Block, ElementFormat, Format, TableFormat
from ..formats.binade import binade
from ..reference.binary32 import bits32
from ..reference.block_scales import fractional
from ..reference.context import BINARY32
from ..reference.element import parts
from ..reference.table import steps_of
from ..reference.table_stochastic import sign_view_of
from ..reference.table_values import keys, value_bits
from ..rounding import DETERMINISTIC, NEAREST, STOCHASTIC, Rounding
from . import structs

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
BOUND, INFINITY, NAN, LEAST, ZERO = range(5)
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
def plan_of(carrier: SourceDtype, format: Format, policy: str, rounding: Rounding) -> Plan | None:
    """The plan; None where the kernels do not round so: where ties go by another parity than n's
    (clause RND-5), and where a table's neighbours lie too far apart for its exact stochastic
    rounding.
    """
    arrays = _Arrays()
    plan = structs.Plan(
        DTYPES.index(carrier.name), 0, MODES.index(rounding.mode), rounding.random_bits
    )
    element = format.element if isinstance(format, Block) else format
    if isinstance(element, TableFormat):
        plan.family = 1
        if not _fill_table(plan.table, arrays, carrier, element, policy, rounding):
            return None
    elif isinstance(element, BinadeFormat) and _counts_by_n(element):
        plan.element = _element(arrays, carrier, element, policy, rounding)
        if isinstance(format, Block):
            plan.family = 2
            plan.element32 = _element(arrays, BINARY32, element, policy, rounding)
            plan.scaling = _scaling(arrays, carrier, format)
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


def _element(
    arrays: _Arrays, carrier: SourceDtype, format: BinadeFormat, policy: str, rounding: Rounding
) -> structs.Element:
    binades, quanta = format.sample()
    kept = int(binades[-1] - quanta[-1])
    below = int(
        np.flatnonzero(np.append(True, quanta != binades - kept))[-1]
    )  # how many before the steady ones
    found = structs.Element(knee=int(binades[0]) + below, floor=int(quanta[0]), fraction=kept)
    if below == 0:
        found.knee = -NO_BINADE
    elif (quanta[:below] != quanta[0]).any():
        found.table_first, found.table_count = int(binades[0]), len(quanta)
        found.table = arrays.pointer(quanta, "int32")
    hidden = 1 << carrier.significand
    found.max_exponent, fraction = parts(carrier, format.max)
    found.max_significand = fraction + hidden
    found.min_exponent, found.min_significand = found.max_exponent, found.max_significand
    if format.signed:
        found.min_exponent, fraction = parts(carrier, -format.min)
        found.min_significand = fraction + hidden
    found.least_exponent = binade(format.min_positive)
    found.is_signed, found.has_zero = format.signed, format.has_zero
    found.has_negative_zero = format.has_negative_zero
    found.above, found.below, found.positive_infinity, found.negative_infinity = _ways(
        format, policy, rounding
    )
    found.zero = ZERO if format.has_zero else NAN if policy in ("infinity", "nan") else LEAST
    if not format.has_zero and not format.signed and policy in ("infinity", "nan"):  # clause FMT-9
        found.below = found.negative_infinity = NAN
    found.random_bits = rounding.random_bits
    return found


def _ways(format: ElementFormat, policy: str, rounding: Rounding) -> tuple[int, int, int, int]:
    """Where finite numbers above and below the range go, and the infinities (clauses RND-7 and
    RND-8).
    """
    one_sided = format.min >= 0
    if policy == "saturate":
        return BOUND, BOUND, BOUND, BOUND
    if policy == "propagate":
        if not format.has_infinity:
            return BOUND, BOUND, NAN, NAN
        return BOUND, BOUND, INFINITY, BOUND if one_sided else INFINITY
    up = NAN if policy == "nan" else INFINITY
    down = NAN if one_sided else up
    stays = [format.stays_in_range(rounding.mode, policy, above) for above in (True, False)]
    return BOUND if stays[0] else up, BOUND if stays[1] else down, up, down


def _scaling(arrays: _Arrays, carrier: SourceDtype, format: Block) -> structs.Scaling:
    element = format.element
    top = binade(element.max)
    rule = "two_nearest" if format.rule == "nearest" and format.second is not None else format.rule
    found = structs.Scaling(
        rule=RULES.index(rule),
        even_bits=top - element.quantum_at(top),
        spoiled_from=2 if format.spreads_nan else 3,
    )
    if format.powers:
        found.least_power, found.greatest_power = format.powers
        return found
    scale = fractional(format)
    found.scale = _element(
        arrays, carrier if format.second is None else BINARY32, scale, "saturate", NEAREST
    )
    if format.second is not None:
        found.element_max32, found.scale_max32 = bits32(element.max), bits32(scale.max)
        found.scale_least32, found.full_range32 = (
            bits32(scale.min_positive),
            bits32(element.max * scale.max),
        )
    return found


def _fill_table(
    found: structs.Table,
    arrays: _Arrays,
    carrier: SourceDtype,
    format: TableFormat,
    policy: str,
    rounding: Rounding,
) -> bool:
    wide = carrier.wide()
    values = value_bits(format, wide)
    found.values, found.count = arrays.pointer(values, "int64"), len(values)
    if rounding.stochastic:
        for name, sign in (("positive", 1), ("negative", -1)):
            frame = sign_view_of(format, wide, sign)
            if frame.divisors.max() >= 1 << 62:
                return False
            setattr(
                found,
                name,
                structs.Frame(
                    *(
                        arrays.pointer(
                            getattr(frame, column),
                            "int32" if column == "ulp_exponents" else "int64",
                        )
                        for column in ("keys", "bits", "ulp_exponents", "starts", "divisors")
                    ),
                    len(frame.keys),
                    frame.not_positive,
                ),
            )
    else:
        found.steps = arrays.pointer(steps_of(format, wide, rounding.mode), "int64")
    found.random_bits, found.has_negative_zero = rounding.random_bits, format.has_negative_zero
    found.low, found.high = map(int, keys((format.min, format.max), wide))
    found.above, found.below, found.positive_infinity, found.negative_infinity = _ways(
        format, policy, rounding
    )
    return True
