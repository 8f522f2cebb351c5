"""Mean and variance of data that come in batches, for batch normalization of averaged weights."""

from __future__ import annotations

from typing import Any


class PooledMoments:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan, Golub, LeVeque 1979).

    All three are numbers or float64 arrays of one library, by channel; the count may be an int.

    >>> moments = PooledMoments()
    >>> moments.add(3, 2.0, 8.0)  # of 0, 2, 4
    >>> moments.add(2, 7.0, 2.0)  # of 6, 8
    >>> moments.mean, moments.variance(), moments.variance(unbiased=True)
    (4.0, 8.0, 10.0)
    """

    def __init__(self) -> None:
        self.count: Any = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, count: Any, mean: Any, squares: Any) -> None:
        """Merge the moments of a batch. Channels of count 0 leave what was there."""
        total = self.count + count
        share = count / _at_least_one(total)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta * delta * (self.count * share)
        self.mean = self.mean + delta * share
        self.count = total

    def variance(self, unbiased: bool = False) -> Any:
        """The sum of squares divided by the count, or by the count less one."""
        return self.squares / _at_least_one(self.count - int(unbiased))


def _at_least_one(count: Any) -> Any:
    """A count ≥ 0, with 1 for 0; of numbers and of arrays of any library."""
    return count + (count == 0)
