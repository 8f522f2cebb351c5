"""JAX, eager and traced. 32-bit arithmetic only unless the user has enabled x64."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._numpy import INTEGER, NumpyNamespace
from .namespace import Array


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
            raise TypeError("this needs 64-bit integers, which JAX has only after "
                            'jax.config.update("jax_enable_x64", True)')
        return super().cast(x, width)

    def table(self, values: Sequence[int], width: int, like: Array) -> Array:
        return jnp.asarray(np.asarray(values, INTEGER[width]))

    def lanes(self, start: int, count: int, like: Array) -> Array:
        return jnp.arange(count, dtype="uint32") + np.uint32(start & 0xFFFFFFFF)

    def lane(self, word: Array | int, like: Array) -> Array:
        return jnp.asarray(np.uint32(word)) if isinstance(word, int) else word.astype("uint32")

    def multiply_wide(self, lanes: Array, factor: int) -> tuple[Array, Array]:
        # Schoolbook on 16-bit halves; no partial sum exceeds (2^16 - 1)^2 + 2·(2^16 - 1) = 2^32 - 1.
        a0, a1 = lanes & 0xFFFF, lanes >> 16
        b0, b1 = np.uint32(factor & 0xFFFF), np.uint32(factor >> 16)
        middle = a1 * b0 + (a0 * b0 >> 16)
        high = a1 * b1 + (middle >> 16) + ((middle & 0xFFFF) + a0 * b1 >> 16)
        return high, lanes * np.uint32(factor)

    def words(self, lanes: Sequence[Array]) -> Array:
        return lax.bitcast_convert_type(jnp.stack(list(lanes), axis=-1).reshape(-1), "int32")

    def write(self, out: Array, result: Array) -> Array:
        raise TypeError("out= is not possible: JAX arrays cannot be written; use the returned array")


NAMESPACE = JaxNamespace(jnp)
