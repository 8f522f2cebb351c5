"""What the partial sums of a matrix product are rounded to (clauses SUM)."""

from __future__ import annotations

from typing import NamedTuple

from .context import Target


class AccumulationTargets(NamedTuple):
    """What products, sums and totals are rounded to; None: not at all, or there are none.

    group, chunk : as in `Accumulation`.
    """

    product: Target | None
    sum: Target
    total: Target | None
    group: int
    chunk: int | None

    @property
    def roundings(self) -> tuple[Target | None, Target, Target | None]:
        """Of products, sums and totals."""
        return self.product, self.sum, self.total
