"""JAX arrays, eager and traced: on a CPU the kernels are a custom call of XLA.

The operation is a primitive of JAX with one meaning and two compilations: the custom call where a
program runs on one CPU, or on a shard of several devices that `shard_map` gives; the reference
implementation on other platforms, where XLA divides arrays between devices, and in `jax.export`,
whose programs must not need this package.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ...arrays import Array, namespace_of
from ...arrays._jax import is_whole
from ...arrays.dtypes import SourceDtype
from ...random_bits import KEY_STEPS, MASK, ROUNDS, Counters, RandomBits
from ...reference.context import Target
from ...reference.given_scales import Given
from ...reference.quantize import by_reference
from .. import cpu
from ..gpu.availability import OTHERS
from ..stored_call import RANDOM_KINDS, TARGET, share_threads, stored_call, warn_of_refusal
from .base import KernelBackend

round_p = Primitive("qemu_swalp_quantize")
"""(x, *random, *words of given scales), all with `batch` leading axes, which have length 1 where
all share an operand.
"""


@cache
def refusal() -> str:
    """Why JAX cannot call the kernels, as a clause; "" if it can."""
    library = cpu.library()
    if library is None:
        return cpu.refusal()
    try:
        share_threads()
        handler = jax.ffi.pycapsule(library.qs_xla_quantize)
        jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
        _define()
    except Exception as error:  # whichever a version without this interface raises
        reason = f"JAX {jax.__version__} does not accept the kernels ({error})"
        warn_of_refusal("JAX", reason)
        return reason
    return ""


class JaxBackend(KernelBackend):
    """Arrays and tracers of any platform: which of the two is compiled, JAX asks when it knows."""

    def accepts(self, x: Any, out: Any = None) -> bool:
        return out is None and refusal() == ""

    def refusals(self) -> dict[str, str]:
        return {"on a CPU as a custom call of XLA, eager and compiled": refusal(), **OTHERS}

    def quantize(
        self,
        x: Array,
        dtype: SourceDtype,
        target: Target,
        random: RandomBits | Array | None,
        out: Array | None,
        given: Given | None = None,
    ) -> Array | None:
        if not x.ndim:  # blocks need an axis
            result = self.quantize(x.reshape(1), dtype, target, random, out, given)
            return None if result is None else result.reshape(())
        kind, operands = _operands(random, x)
        scales, words = _words_of(given)
        if stored_call(dtype, target, x.ndim, kind, scales) is None:
            return None
        if isinstance(x, jax.core.Tracer):
            x = lax.stop_gradient(x)  # as the bit casts of the reference implementation do
        how = {"source": dtype, "target": target, "random": kind, "scales": scales}
        return round_p.bind(x, *operands, *words, **how, batch=0)


def _operands(random: RandomBits | Array | None, x: Array) -> tuple[str, list[Array]]:
    if random is None:
        return "none", []
    if isinstance(random, RandomBits):
        place = np.array([random.offset // 4, random.offset % 4, *random.key], "uint32")
        step = random.step
        words = (
            np.uint32(step) if isinstance(step, int) else lax.convert_element_type(step, "uint32")
        )
        return "counters", [place, words]
    return "words", [lax.convert_element_type(random, "uint32").reshape(x.shape)]


def _words_of(given: Given | None) -> tuple[str, list[Array]]:
    """(kind of the scales, their bits and the zero points as 32-bit words)."""
    if given is None:
        return "none", []
    scales, points = _flat(given.scales), given.zero_points
    if scales.dtype.itemsize < 4:
        scales = lax.convert_element_type(scales, "float32")
    words = [lax.bitcast_convert_type(scales, "uint32")]
    if points is not None:
        words.append(lax.bitcast_convert_type(_flat(points), "uint32"))
    return scales.dtype.name, words


def _flat(x: Array) -> Array:
    """One entry for each block, or a scalar for all."""
    return x.reshape(-1) if x.ndim else x


def _given(scales: str, words: tuple[Array, ...]) -> Given | None:
    """And back."""
    if scales == "none":
        return None
    points = [lax.bitcast_convert_type(each, "int32") for each in words[1:]]
    return Given(lax.bitcast_convert_type(words[0], scales), *points)


BACKEND = JaxBackend()


def _define() -> None:
    round_p.def_impl(_eager)
    round_p.def_abstract_eval(_abstract)
    mlir.register_lowering(round_p, _lower_by_reference)
    mlir.register_lowering(round_p, _lower_on_cpu, platform="cpu")
    batching.primitive_batchers[round_p] = _batched


def _eager(*operands: Any, **how: Any) -> Any:
    if jax.config.jax_disable_jit:
        with jax.disable_jit(False):  # or the call of a program would be a call of itself
            return _compiled(tuple(how.items()), *operands)
    return _compiled(tuple(how.items()), *operands)


@partial(jax.jit, static_argnums=0)
def _compiled(how: tuple[tuple[str, Any], ...], *operands: Any) -> Any:
    return round_p.bind(*operands, **dict(how))


def _abstract(x: Any, *others: Any, batch: int, **how: Any) -> Any:
    lengths = [
        max(axis) for axis in zip(*(each.shape[:batch] for each in (x, *others)), strict=True)
    ]
    return x.update(shape=(*lengths, *x.shape[batch:]))


def _batched(operands: Any, axes: Any, *, batch: int, **how: Any) -> tuple[Any, int]:
    """`vmap`: one more axis before all others."""
    moved = [
        lax.expand_dims(each, (0,)) if axis is None else jax.numpy.moveaxis(each, axis, 0)
        for each, axis in zip(operands, axes, strict=True)
    ]
    return round_p.bind(*moved, batch=batch + 1, **how), 0


def _by_reference(x: Any, *others: Any, **how: Any) -> Any:
    """The same by the reference implementation."""
    operands, batch = (x, *others), how["batch"]
    if batch == 0:
        count = RANDOM_KINDS.index(how["random"])
        drawn, given = _drawn(how["random"], others[:count]), _given(how["scales"], others[count:])
        return by_reference(namespace_of(x), how["source"], how["target"], x, drawn, given)
    shared = [each.shape[0] == 1 for each in operands]
    if all(shared):
        shared = [False] * len(shared)
    inner = jax.vmap(
        partial(_by_reference, **how | {"batch": batch - 1}),
        [None if alike else 0 for alike in shared],
    )
    return inner(
        *(each[0] if alike else each for each, alike in zip(operands, shared, strict=True))
    )


def _drawn(kind: str, random: tuple[Any, ...]) -> Any:
    """The operands as the reference implementation takes them."""
    if kind != "counters":
        return random[0] if random else None
    place, step = random
    keys = [
        [place[2 + i] + np.uint32(number * KEY_STEPS[i] & MASK) for i in range(2)]
        for number in range(ROUNDS)
    ]
    return Counters(place[0], place[1], step, keys)


_lowered = mlir.lower_fun(_by_reference, multiple_results=False)


def _lower_by_reference(ctx: Any, *operands: Any, **how: Any) -> Any:
    """Programs may be compiled outside of the `enable_x64` in which they were traced."""
    with jax.enable_x64(jax.config.jax_enable_x64 or how["source"].width == 64):
        return _lowered(ctx, *operands, **how)


def _lower_on_cpu(
    ctx: Any, *operands: Any, source: Any, target: Any, random: str, scales: str, batch: int
) -> Any:
    how = {"source": source, "target": target, "random": random, "scales": scales, "batch": batch}
    if not is_whole(ctx.module_context):
        return _lower_by_reference(ctx, *operands, **how)
    call = stored_call(source, target, ctx.avals_in[0].ndim - batch, random, scales)
    return jax.ffi.ffi_lowering(TARGET)(ctx, *operands, call=call)
