"""Matrix products with every partial sum rounded, of NumPy arrays: `qemu_swalp.matmul`.

The kernels compute in float64, as the array program does, or in float32 where that gives the same bits (`single`).
"""

from __future__ import annotations

import math
from ctypes import addressof
from typing import NamedTuple

import numpy as np

from ..carriers import CARRIERS, Carrier
from ..randombits import PRODUCT, SUM, TOTAL, RandomBits, part_keys
from . import cpu, single, structures
from .plan import DTYPES, Plan, Rule, plan_of


class Rules(NamedTuple):
    """How products, sums and totals are rounded; None: not, or there are none. group, chunk : as in `Accumulation`."""

    product: Rule | None
    sum: Rule
    total: Rule | None
    group: int
    chunk: int | None


class _Rounding(NamedTuple):
    """One kind of rounding. keys : of each, where they are stochastic."""

    plan: Plan
    keys: np.ndarray | None

    def structure(self) -> structures.Roundings:
        return structures.Roundings(addressof(self.plan.structure),
                                    None if self.keys is None else self.keys.ctypes.data)


def matmul(a: np.ndarray, b: np.ndarray, rules: Rules, random: RandomBits | None) -> np.ndarray | None:
    """As `qemu_swalp.matmul` of checked float32 or float64 arrays with elements; in their dtype or in float64. None
    where the kernels do not round so.
    """
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    sums = [rule for rule in (rules.sum, rules.total) if rule is not None]
    in_single = rules.group == 1 and single.suffices(a, b, rules.product, sums)
    carrier = CARRIERS["float32" if in_single else "float64"]
    roundings = _roundings(carrier, rules, a.shape[-1], random)
    if roundings is None:
        return None
    a, b = a.astype(carrier.name, copy=False), b.astype(carrier.name, copy=False)
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.empty((*leading, a.shape[-2], b.shape[-1]), carrier.name)
    arrays = (_firsts(a, leading), _firsts(b, leading), a, b, out)
    drawn = (0, 0) if random is None else (random.offset, int(random.step))
    cpu.multiply(structures.Products(
        DTYPES.index(carrier.name), rules.group, rules.chunk or 0, math.prod(leading), *out.shape[-2:], a.shape[-1],
        *(x.ctypes.data for x in arrays), *drawn,
        *(structures.Roundings() if rounding is None else rounding.structure() for rounding in roundings)))
    return out


def _roundings(carrier: Carrier, rules: Rules, terms: int, random: RandomBits | None) -> list[_Rounding | None] | None:
    """Of products, sums and totals; None where the kernels do not round so."""
    chunk, group = rules.chunk or terms, rules.group
    full, rest = divmod(terms, chunk)
    counts = {PRODUCT: terms, SUM: full * -(-chunk // group) + -(-rest // group), TOTAL: full + (rest > 0)}
    found: list[_Rounding | None] = []
    for kind, rule in ((PRODUCT, rules.product), (SUM, rules.sum), (TOTAL, rules.total)):
        if rule is None:
            found.append(None)
            continue
        plan = plan_of(carrier, *rule)
        if plan is None:
            return None
        keys = None
        if rule.rounding.stochastic and random is not None:
            keys = part_keys(random.seed, random.stream, kind, counts[kind])
        found.append(_Rounding(plan, keys))
    return found


def _firsts(x: np.ndarray, leading: tuple[int, ...]) -> np.ndarray:
    """The element at which the matrix of each batch begins in a contiguous array."""
    count, size = math.prod(x.shape[:-2]), math.prod(x.shape[-2:])
    return np.ascontiguousarray(np.broadcast_to(np.arange(count).reshape(x.shape[:-2]) * size, leading), np.int64)

