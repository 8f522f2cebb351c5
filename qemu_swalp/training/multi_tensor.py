"""Many tensors in one call of the fused kernels, where they take them: steps of quantized SGD, or
rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from .. import kernels
from ..arrays.dtypes import SOURCE_DTYPES
from ..ops.arguments import check_representable
from ..ops.quantizer import Quantizer
from ..random_bits import RandomBits
from .tensor_rounding import TensorRandomBits

ROLES = ("gradient", "momentum", "accumulator", "weight")

Found = tuple[Any, Any, Any]
"""The next (weight, velocity, accumulator) of a tensor."""


def fused_steps(steps: Sequence[Any], in_place: bool) -> list[Found | None]:
    """What `sgd_step` gives for each `StepInputs`; None where the kernels do not take it.

    All that are taken are made in one call, once every one of them is known to be sound. in_place :
    whether the given arrays are written.
    """
    if not kernels.enabled():
        return [None] * len(steps)
    hypers = {id(step.hyper): step.hyper for step in steps}
    numbers = {key: _numbers(hyper) if _plain(hyper) else None for key, hyper in hypers.items()}
    found = [_prepared(step, numbers[id(step.hyper)], in_place) for step in steps]
    taken = [prepared[0] for prepared in found if prepared is not None]
    if taken:
        from ..kernels import multi_tensor as sgd

        sgd.run(taken)
    return [None if prepared is None else prepared[1] for prepared in found]


def _prepared(step: Any, numbers: Any, in_place: bool) -> tuple[Any, Found] | None:
    """The `kernels.sgd.Step` and what it will write."""
    weight, gradient, (velocity, accumulator), hyper, recipe, draw = step
    route = kernels.route_of(weight)
    kind = route.kind(weight) if hasattr(route, "kind") else None
    if kind is None or numbers is None:
        return None
    before, momentum = (velocity, recipe.momentum) if hyper.momentum else (None, None)
    for array in (gradient, before, accumulator):
        if array is not None and (route.kind(array) != kind or array.shape != weight.shape):
            return None
    used = recipe.gradient, momentum, recipe.accumulator, recipe.weight
    for quantizer in used:
        if quantizer is not None and not quantizer.plain:
            return None
    chunks = _chunks(tuple(weight.shape), kind[0], used, route.SGD_LIMITS)
    if chunks is None:
        return None
    from ..kernels.multi_tensor import Memory, Step, Words

    words = Words(0, NO_KEYS)
    if chunks.stochastic:
        if not isinstance(
            draw.step, int
        ):  # it may stand on a device, where only the array functions leave it
            return None
        words = Words(int(RandomBits(step=draw.step).step), _keys(draw.seed, draw.tensor))

    def target(given: Any) -> Any:
        return (
            given
            if in_place and given is not None and route.writable(given)
            else route.empty_like(weight)
        )

    new = (
        target(weight),
        target(before) if hyper.momentum else None,
        target(accumulator) if recipe.accumulator is not None else None,
    )
    memory = Memory(
        *[
            0 if a is None else route.address(a)
            for a in (gradient, weight, before, accumulator, *new)
        ]
    )
    found = new[0], new[1] if hyper.momentum else velocity, new[2]
    return Step(route, kind, chunks, memory, numbers, words), found


def round_in_place(
    arrays: Sequence[Any], quantizers: Sequence[Quantizer], random: Sequence[RandomBits | None]
) -> list[bool]:
    """Round arrays where they are, all that the kernels take in one call; False for each that is
    left as it was.
    """
    if not kernels.enabled():
        return [False] * len(arrays)
    found = [_rounding(*given) for given in zip(arrays, quantizers, random, strict=True)]
    taken = [step for step in found if step is not None]
    if taken:
        from ..kernels import multi_tensor as sgd

        sgd.run(taken)
    return [step is not None for step in found]


def _rounding(array: Any, quantizer: Quantizer, random: RandomBits | None) -> Any:
    """The `kernels.sgd.Step` that only rounds an array."""
    route = kernels.route_of(array)
    kind = route.kind(array) if hasattr(route, "kind") else None
    if kind is None or not route.writable(array) or not quantizer.plain:
        return None
    chunks = _chunks(tuple(array.shape), kind[0], (None, None, None, quantizer), route.SGD_LIMITS)
    if chunks is None:
        return None
    from ..kernels.multi_tensor import Memory, Numbers, Step, Words

    words = Words(0, NO_KEYS)
    if chunks.stochastic:
        if random is None or random.offset or not isinstance(random.step, int):
            return None
        words = Words(random.step, (*NO_KEYS[1:], random.key))
    address = route.address(array)
    nothing = Numbers(0, 0, 0, 0, False, False, False, False)
    return Step(route, kind, chunks, Memory(0, address, 0, 0, address, 0, 0), nothing, words)


NO_KEYS = ((0, 0),) * len(ROLES)


@lru_cache(maxsize=65536)
def _keys(seed: int, tensor: int) -> tuple[tuple[int, int], ...]:
    """Keys of a tensor's streams, role by role."""
    return tuple(bits.key for bits in map(TensorRandomBits(seed, tensor, 0), ROLES))


def _plain(hyper: Any) -> bool:
    """Whether the numbers are Python's: those of NumPy may change the dtype."""
    return all(type(number) in (int, float, bool) for number in vars(hyper).values())


@lru_cache(maxsize=256)
def _numbers(hyper: Any) -> Any:
    """As `kernels.sgd` takes them."""
    from ..kernels import multi_tensor as sgd

    return sgd.Numbers(
        hyper.learning_rate,
        hyper.momentum,
        1 - hyper.dampening,
        hyper.weight_decay,
        hyper.nesterov,
        hyper.maximize,
        bool(hyper.momentum),
        bool(hyper.weight_decay),
    )


Quantizers = tuple[Quantizer | None, ...]
_known: dict[tuple[Any, ...], tuple[Quantizers, Any]] = {}
"""By the quantizers' identity, since hashing them takes longer than all else. Kept, they keep their
ids.
"""


def _chunks(shape: tuple[int, ...], dtype: str, quantizers: Quantizers, limits: Any) -> Any:
    """`kernels.sgd.Chunks`, or None. TypeError where the dtype does not hold a format."""
    key = (shape, dtype, limits, *map(id, quantizers))
    if key not in _known:
        if len(_known) >= 65536:
            _known.clear()
        _known[key] = quantizers, _chunks_of(shape, dtype, quantizers, limits)
    return _known[key][1]


def _chunks_of(shape: tuple[int, ...], dtype: str, quantizers: Quantizers, limits: Any) -> Any:
    from ..kernels import multi_tensor as sgd

    for quantizer in quantizers:
        if quantizer is not None:
            check_representable(quantizer.format, SOURCE_DTYPES[dtype])
            if quantizer.rounding.stochastic:
                RandomBits().check_reach(shape)
    return sgd.chunks_of(
        shape, dtype, tuple(None if q is None else q.target for q in quantizers), limits
    )
