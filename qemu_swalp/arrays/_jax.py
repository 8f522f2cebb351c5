"""JAX, eager and traced. 32-bit arithmetic only unless the user has enabled x64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ._numpy import INTEGER, NumpyNamespace
from .namespace import Array, Table

high_word_p = Primitive("qemu_swalp_high_word")
"""The upper halves of words times a factor: an instruction where XLA is given whole arrays. Its
partitioner for several devices does not know that (JAX 0.10.2), nor does TensorFlow, which reads
what `jax.export` writes (2.21): there it is long multiplication.
"""


def _multiplied_by_halves(words: Array, *, factor: int) -> Array:
    low, high = np.uint32(factor & 0xFFFF), np.uint32(factor >> 16)
    a, b = words & 0xFFFF, words >> 16
    middle = a * high + (a * low >> 16)
    carried = b * low + (middle & 0xFFFF)
    return b * high + (middle >> 16) + (carried >> 16)


_lower_by_halves = mlir.lower_fun(_multiplied_by_halves, multiple_results=False)
_lower_by_instruction = mlir.lower_fun(
    lambda words, *, factor: lax.mulhi(words, lax.full_like(words, factor)), multiple_results=False
)


def _lower_high_word(ctx: Any, words: Any, *, factor: int) -> Any:
    whole = is_whole(ctx.module_context)
    return (_lower_by_instruction if whole else _lower_by_halves)(ctx, words, factor=factor)


def is_whole(module: Any) -> bool:
    """Whether a program that is being compiled sees whole arrays on one device, or shards that it
    handles itself; False in `jax.export`, whose programs run anywhere.
    """
    if module.lowering_parameters.for_export:
        return False
    context = module.axis_context
    if hasattr(context, "num_devices"):
        return bool(context.num_devices == 1)
    mesh = getattr(context, "mesh", None)
    return mesh is None or set(mesh.axis_names) == set(context.manual_axes)


high_word_p.def_impl(_multiplied_by_halves)
high_word_p.def_abstract_eval(lambda words, *, factor: words)
mlir.register_lowering(high_word_p, _lower_high_word)
batching.primitive_batchers[high_word_p] = lambda words, axes, *, factor: (
    high_word_p.bind(*words, factor=factor),
    axes[0],
)


class JaxNamespace(NumpyNamespace):
    name = "jax"

    def owns(self, x: object) -> bool:
        return isinstance(x, jax.Array)

    def concrete(self, x: Array) -> bool:
        return not isinstance(x, jax.core.Tracer)

    def bits(self, x: Array) -> Array:
        return lax.bitcast_convert_type(x, INTEGER[x.dtype.itemsize * 8])

    def floats(self, bits: Array, dtype: str) -> Array:
        return lax.bitcast_convert_type(bits, jnp.dtype(dtype))

    def float_bits(self, n: Array) -> Array:
        return self.bits(n.astype(f"float{self.width(n)}"))

    def cast(self, x: Array, width: int) -> Array:
        if width == 64 and not jax.config.jax_enable_x64:
            raise TypeError(
                "this needs 64-bit integers, which JAX has only after "
                'jax.config.update("jax_enable_x64", True)'
            )
        return super().cast(x, width)

    def table(self, values: Table, width: int, like: Array) -> Array:
        return jnp.asarray(np.asarray(values, INTEGER[width]))

    def block_numbers(self, first: Any, skipped: Any, count: int | Array, like: Array) -> Array:
        # A block for each element, on rows of four: XLA is many times slower at interleaving the
        # words of a block than at computing it four times, and slower still in
        # `lax.rng_bit_generator`.
        rows = (-(-count // 4), 4)
        return lax.broadcasted_iota("uint32", rows, 0) + (
            first + (self._column(rows, skipped) >> 2)
        )

    def _column(self, rows: tuple[int, int], skipped: Any) -> Array:
        return lax.broadcasted_iota("uint32", rows, 1) + skipped

    def multiply_wide(self, words: Array, factor: int) -> tuple[Array, Array]:
        return high_word_p.bind(words, factor=factor), words * np.uint32(factor)

    def words(self, outputs: Sequence[Array], skipped: Any, count: int | Array) -> Array:
        word = self._column(outputs[0].shape, skipped) & 3
        even, odd = (jnp.where(word < 2, outputs[i], outputs[i + 2]) for i in (0, 1))
        return self.bits(jnp.where(word & 1 == 0, even, odd)).reshape(-1)[:count]

    def run(self, program: Callable[..., Any], settings: tuple[Any, ...], *arrays: Any) -> Any:
        return _compiled(program, settings, *arrays)

    def forget_programs(self) -> None:
        _compiled.clear_cache()

    def write(self, out: Array, result: Array) -> Array:
        raise TypeError(
            "out= is not possible: JAX arrays cannot be written; use the returned array"
        )


NAMESPACE = JaxNamespace(jnp)


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _compiled(program: Callable[..., Any], settings: tuple[Any, ...], *arrays: Any) -> Any:
    return program(NAMESPACE, *settings, *arrays)
