"""Seeds of those who were given none: different within a process, the same at each run of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .._util.checks import check_int
from ..random_bits import philox_words

KEY = (0x73656564, 0)
"""Philox key of default seeds: "seed" in ASCII (clause RNG-6)."""

_made: Counter[str] = Counter()
"""How many default seeds were given, by what they are for."""


def nth_seed(n: int) -> int:
    """Default seed n = 0, 1, … (clause RNG-6): 0, then numbers that nobody chooses by chance.

    >>> nth_seed(0), nth_seed(1) == nth_seed(1), nth_seed(1) == nth_seed(2)
    (0, True, False)
    """
    check_int("n", n, 0, 2**32 - 1)
    low, high, _, _ = philox_words((n, 0, 0, 0), KEY)
    return (high << 32 | low) if n else 0


@contextmanager
def seed_for(kind: str, seed: int | None) -> Iterator[int]:
    """The seed that was given, or the next default one of that kind, used up unless what is within
    raises.

    TypeError or ValueError unless `seed` is an integer from 0 to 2^64 - 1, or None.
    """
    if seed is not None:
        check_int("seed", seed, 0, 2**64 - 1)
        yield seed
        return
    yield nth_seed(_made[kind])
    _made[kind] += 1


def restart_seeds() -> None:
    """Give default seeds from the first one again, as a new process does: for notebooks, sweeps and
    tests whose runs shall have the same random bits.

    >>> with seed_for("example", None) as first, seed_for("example", 5) as given:
    ...     given
    5
    >>> restart_seeds()
    >>> with seed_for("example", None) as again:
    ...     again == first
    True
    """
    _made.clear()


@contextmanager
def fresh_seeds() -> Iterator[None]:
    """Give default seeds from the first one within; afterwards they go on as if nothing within had
    drawn any.

    >>> with fresh_seeds(), seed_for("example", None) as first:
    ...     pass
    >>> with fresh_seeds(), seed_for("example", None) as again:
    ...     again == first
    True
    """
    before = _made.copy()
    _made.clear()
    try:
        yield
    finally:
        _made.clear()
        _made.update(before)
