"""Steps of quantized SGD on many tensors in one call of the kernels, where they support them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import kernels
from ..ops.round_many import chunks_for
from ..random_bits import RandomBits
from .tensor_rounding import TensorRandomBits

if TYPE_CHECKING:
    from ..kernels.multi_tensor import SgdNumbers, SgdStep

ROLES = ("gradient", "momentum", "accumulator", "weight")

NARROW = ("float16", "bfloat16")

Stepped = tuple[Any, Any, Any]
"""The next (weight, velocity, accumulator) of a tensor."""


def fused_steps(steps: Sequence[Any], in_place: bool) -> list[Stepped | None]:
    """The result of `sgd_step` for each of its `StepInputs`; None if the kernels do not support it.

    All that are supported are made in one call, once every one of them is known to be sound.
    in_place : whether the arrays of the steps are written.
    """
    if not kernels.enabled():
        return [None] * len(steps)
    hypers = {id(step.hyper): step.hyper for step in steps}
    numbers = {key: _numbers(hyper) if _plain(hyper) else None for key, hyper in hypers.items()}
    prepared = [_prepared(step, numbers[id(step.hyper)], in_place) for step in steps]
    supported = [each[0] for each in prepared if each is not None]
    if supported:
        from ..kernels import multi_tensor

        multi_tensor.sgd(supported)
    return [None if each is None else each[1] for each in prepared]


def _prepared(
    step: Any, numbers: SgdNumbers | None, in_place: bool
) -> tuple[SgdStep, Stepped] | None:
    """What the kernels are told, and what they will write."""
    weight, gradient, (velocity, accumulator), hyper, recipe, draw, widen = step
    backend = kernels.backend_of(weight)
    key = None if backend is None else backend.tensor_key(weight)
    if backend is None or key is None or numbers is None:
        return None
    dtype = key.dtype if widen is None or key.dtype not in NARROW else "float32"
    if dtype in NARROW:  # arithmetic of 16 bits rounds each product and sum to them
        return None
    before, momentum = (velocity, recipe.momentum) if hyper.momentum else (None, None)
    for array in (gradient, before, accumulator):
        if array is not None and (backend.tensor_key(array) != key or array.shape != weight.shape):
            return None
    quantizers = recipe.gradient, momentum, recipe.accumulator, recipe.weight
    if not all(quantizer is None or quantizer.plain for quantizer in quantizers):
        return None
    if not isinstance(draw.step, int):
        # On a device, where array functions alone use it. Without random bits too: the launches of
        # a warm-up are then those that the capture of a CUDA graph repeats.
        return None
    limits, shape = key.processor.limits, tuple(weight.shape)
    chunks = chunks_for(shape, dtype, quantizers, limits, key.order, key.dtype)
    if chunks is None:
        return None
    number, keys = 0, NO_KEYS
    if chunks.stochastic:
        number, keys = _CHECKED.at(draw.step).step, _keys(draw.seed, draw.tensor)

    def target(array: Any) -> Any:
        if in_place and array is not None and backend.writable(array):
            return array
        return backend.empty_beside(weight)

    new = (
        target(weight),
        target(before) if hyper.momentum else None,
        target(accumulator) if recipe.accumulator is not None else None,
    )
    from ..kernels.multi_tensor import SgdMemory, SgdStep

    memory = SgdMemory(
        *[
            0 if a is None else backend.address(a)
            for a in (gradient, weight, before, accumulator, *new)
        ]
    )
    stepped = new[0], new[1] if hyper.momentum else velocity, new[2]
    return SgdStep(key.processor, chunks, memory, numbers, number, keys), stepped


NO_KEYS = ((0, 0),) * len(ROLES)
_CHECKED = RandomBits()
"""Its method `at` checks a step and nothing else."""


@lru_cache(maxsize=65536)
def _keys(seed: int, tensor: int) -> tuple[tuple[int, int], ...]:
    """Keys of a tensor's streams, role by role."""
    return tuple(bits.key for bits in map(TensorRandomBits(seed, tensor, 0), ROLES))


def _plain(hyper: Any) -> bool:
    """Whether the numbers are Python's: those of NumPy may change the dtype."""
    return all(type(number) in (int, float, bool) for number in vars(hyper).values())


@lru_cache(maxsize=256)
def _numbers(hyper: Any) -> SgdNumbers:
    """As the kernels read them."""
    from ..kernels.multi_tensor import SgdNumbers

    return SgdNumbers(
        hyper.learning_rate,
        hyper.momentum,
        1 - hyper.dampening,
        hyper.weight_decay,
        hyper.nesterov,
        hyper.maximize,
        bool(hyper.momentum),
        bool(hyper.weight_decay),
    )
