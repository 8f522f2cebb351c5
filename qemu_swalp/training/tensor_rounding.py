"""Rounding one tensor for its role, with the random bits of that tensor, role and step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..arrays import Array
from ..ops.quantizer import Quantizer
from ..random_bits import RandomBits, stream_id


@dataclass(frozen=True)
class TensorRandomBits:
    """The random bits of one tensor at one step of the optimizer, by role: `draw("weight")`.

    Parameters
    ----------
    seed : of the run, 0 … 2^64 - 1.
    tensor : index of the tensor among the parameters.
    step : number of updates before this one; an int, or a 0-d integer array.

    >>> TensorRandomBits(7, tensor=2, step=10)("momentum").step
    10
    """

    seed: int
    tensor: int
    step: int | Array

    def __call__(self, role: str) -> RandomBits:
        return _first_bits(self.seed, self.tensor, role).at(self.step)


@lru_cache(maxsize=65536, typed=True)
def _first_bits(seed: int, tensor: int, role: str) -> RandomBits:
    """The random bits at step 0, validated once."""
    return RandomBits(seed, stream_id(role, tensor))


def apply(quantizer: Quantizer | None, x: Array, draw: TensorRandomBits, role: str) -> Any:
    """x rounded for its role, or x itself where the role stays in full precision."""
    if quantizer is None:
        return x
    return quantizer(x, draw(role) if quantizer.rounding.stochastic else None)
