"""A step of quantized SGD by the fused kernels, where they take it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..carriers import CARRIERS
from ..quantization import check_held, policy_of
from .recipe import Draw, Quantizer, Recipe

ROLES = ("gradient", "momentum", "accumulator", "weight")


def fused_step(weight: Any, gradient: Any, velocity: Any, accumulator: Any, hyper: Any, recipe: Recipe, draw: Draw,
               in_place: bool) -> tuple[Any, Any, Any] | None:
    """The next (weight, velocity, accumulator) of `sgd_step`; None where the kernels do not take it.

    in_place : whether the given arrays are written.
    """
    if not kernels.enabled() or not isinstance(weight, np.ndarray) or not _plain(hyper):
        return None
    from ..kernels import sgd

    old = sgd.Buffers(weight, velocity if hyper.momentum else None, accumulator)

    def target(given: Any) -> np.ndarray:
        return given if in_place and given is not None else np.empty_like(weight)

    new = sgd.Buffers(target(weight), target(velocity) if hyper.momentum else None,
                      target(accumulator) if recipe.accumulator is not None else None)
    if not sgd.takes(gradient, old, new):
        return None
    used = (recipe.gradient, recipe.momentum if hyper.momentum else None, recipe.accumulator, recipe.weight)
    if not all(quantizer is None or quantizer.plain for quantizer in used):
        return None
    chunks = sgd.chunks_of(weight.shape, str(weight.dtype), _rules(str(weight.dtype), used))
    if chunks is None:
        return None
    random = tuple(draw(role) if quantizer is not None and quantizer.rounding.stochastic else None
                   for role, quantizer in zip(ROLES, used, strict=True))
    for bits in random:
        if bits is not None:
            bits.check_reach(weight.shape)
    numbers = sgd.Numbers(hyper.learning_rate, hyper.momentum, hyper.dampening, hyper.weight_decay, hyper.nesterov,
                          hyper.maximize)
    sgd.step(gradient, old, new, numbers, chunks, random)
    return new.weight, velocity if new.velocity is None else new.velocity, new.accumulator


def _plain(hyper: Any) -> bool:
    """Whether the numbers are Python's: those of NumPy may change the dtype."""
    return all(type(number) in (int, float, bool) for number in vars(hyper).values())


@lru_cache(maxsize=1024)
def _rules(dtype: str, quantizers: tuple[Quantizer | None, ...]) -> tuple[Any, ...]:
    """As `kernels.sgd` takes them. TypeError where the dtype does not hold a format."""
    for quantizer in quantizers:
        if quantizer is not None:
            check_held(quantizer.format, CARRIERS[dtype])
    return tuple(None if q is None else (q.format, policy_of(q.format, None), q.rounding) for q in quantizers)
