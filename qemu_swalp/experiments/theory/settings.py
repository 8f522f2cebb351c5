"""What `qemu-swalp reproduce theory` lets a user choose."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings as Common, option


@dataclass(frozen=True)
class Settings(Common):
    """Options of `qemu-swalp reproduce theory`."""

    steps: int = option(10_000, "steps of SGD", quick=500, above=1)
    replicas: int = option(100, "runs of each seed, to take means over", quick=50, above=1)
    learning_rate: float = option(0.01, "constant learning rate α", above=0)
    fraction: int = option(2, "part 1: fractional bits of the weight", above=0, most=20)
    random_bits: tuple[int, ...] = option(
        (2, 4, 8, 32), "part 1: of stochastic rounding", quick=(2, 32), above=0, most=32
    )
    fractions: tuple[int, ...] = option(
        (2, 3, 4, 5, 6), "part 2: fractional bits of the weight", quick=(2, 4), above=0, most=20
    )
    words: tuple[int, ...] = option(
        (4, 6, 8), "part 3: bits of a block floating point number", quick=(4,), above=1, most=24
    )
