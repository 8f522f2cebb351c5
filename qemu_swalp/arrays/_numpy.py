"""NumPy, and through subclasses the libraries that copy its interface."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .namespace import Array, Namespace, Table

INTEGER = {16: "int16", 32: "int32", 64: "int64"}
_HIGH = int(sys.byteorder == "little")
"""Place of the high word in the two halves of a uint64."""


@cache
def _dtype_name(dtype: Any) -> str:
    return str(dtype)  # NumPy needs microseconds for it


class NumpyNamespace(Namespace):
    """`xp` is the module that stands for numpy."""

    name = "numpy"
    chunk: int | None = None

    def __init__(self, xp: Any = np) -> None:
        self.xp = xp

    def owns(self, x: object) -> bool:
        return isinstance(x, np.ndarray | np.generic)

    def dtype(self, x: Array) -> str:
        return _dtype_name(x.dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        return tuple(x.shape)

    def remedy(self, x: Array) -> str | None:
        if isinstance(x, np.ma.MaskedArray):
            return (
                "masked values would set the scales of blocks: fill them in, as in x.filled(0.0),"
                " or pass x.data to round them as well"
            )
        if isinstance(x, np.matrix):
            return "convert it, as in numpy.asarray(x)"
        return None

    def native(self, x: Array) -> Array:
        if self.xp is not np or x.dtype.isnative:
            return x
        return x.astype(x.dtype.newbyteorder("="))

    def bits(self, x: Array) -> Array:
        return x.view(INTEGER[x.dtype.itemsize * 8])

    def floats(self, bits: Array, dtype: str) -> Array:
        return bits.view(self.float_dtype(dtype))

    def float_dtype(self, dtype: str) -> Any:
        """The library's dtype of that name; bfloat16 comes from ml_dtypes, which NumPy users of it
        have loaded.
        """
        if dtype != "bfloat16":
            return self.xp.dtype(dtype)
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)

    def converted(self, x: Array, dtype: str) -> Array | None:
        return x.astype(self.float_dtype(dtype)) if self.xp is np else None

    def cast(self, x: Array, width: int) -> Array:
        return x.astype(INTEGER[width])

    def unsigned(self, x: Array, width: int) -> Array:
        return x.astype(f"uint{width}")

    def signed(self, x: Array, width: int) -> Array:
        return x.astype(f"int{width}")

    def float_bits(self, n: Array) -> Array:
        width = self.width(n)
        return n.astype(f"float{width}").view(INTEGER[width])

    def shift_left(self, x: Array, count: Array | int) -> Array:
        return x << count

    def shift_right(self, x: Array, count: Array | int) -> Array:
        return x >> count

    def select(self, mask: Array, a: Array | int, b: Array | int) -> Array:
        return self.xp.where(mask, a, b)

    def maximum(self, a: Array | int, b: Array | int) -> Array:
        return self.xp.maximum(a, b)

    def minimum(self, a: Array | int, b: Array | int) -> Array:
        return self.xp.minimum(a, b)

    def abs(self, x: Array) -> Array:
        return self.xp.abs(x)

    def sqrt(self, x: Array) -> Array:
        return self.xp.sqrt(x)

    def log(self, x: Array) -> Array:
        return self.xp.log(x)

    def exp(self, x: Array) -> Array:
        return self.xp.exp(x)

    def table(self, values: Table, width: int, like: Array) -> Array:
        return self.xp.asarray(np.asarray(values, INTEGER[width]))

    def gather(self, table: Array, index: Array) -> Array:
        return table[index]

    def searchsorted(self, values: Table, x: Array) -> Array:
        width = self.width(x)
        return self.xp.searchsorted(self.table(values, width, x), x, side="right").astype(
            INTEGER[width]
        )

    def width(self, x: Array) -> int:
        return int(x.dtype.itemsize) * 8

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        return self.xp.zeros(tuple(shape), like.dtype)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape(tuple(shape))

    def permuted(self, x: Array, order: Sequence[int]) -> Array:
        return self.xp.transpose(x, tuple(order))

    def concatenate(self, parts: Sequence[Array], axis: int) -> Array:
        return self.xp.concatenate(parts, axis=axis)

    def broadcast(self, x: Array | int, shape: Sequence[int]) -> Array:
        return self.xp.broadcast_to(self.xp.asarray(x), tuple(shape))

    def max_over(self, x: Array, axes: Sequence[int]) -> Array:
        return x.max(axis=tuple(axes), keepdims=True)

    def sum_over(self, x: Array, axes: Sequence[int]) -> Array:
        return x.sum(axis=tuple(axes), keepdims=True, dtype=x.dtype)

    def pad_end(self, x: Array, axis: int, count: int) -> Array:
        return self.xp.pad(x, [(0, count if i == axis else 0) for i in range(x.ndim)])

    def repeat(self, x: Array, count: int, axis: int) -> Array:
        return self.xp.repeat(x, count, axis=axis)

    def any(self, mask: Array) -> bool:
        return bool(mask.any())

    def all_finite(self, arrays: Sequence[Array]) -> bool:
        # A sum is finite only of finite numbers, and needs no mask; it may overflow, too.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.xp.isfinite(self.xp.stack([x.sum() for x in arrays])).all():
                return True
        return bool(self.xp.stack([self.xp.isfinite(x).all() for x in arrays]).all())

    def as_words(self, word: Any) -> Any:
        return word.astype("uint32") if self.owns(word) else np.asarray(word, "uint32")[()]

    def block_numbers(self, first: Any, skipped: Any, count: int | Array, like: Array) -> Array:
        return self.xp.arange(-(-(count + int(skipped)) // 4), dtype="uint32") + first

    def multiply_wide(self, words: Array, factor: int) -> tuple[Array, Array]:
        halves = (words.astype("uint64") * self.xp.uint64(factor)).view("uint32").reshape(-1, 2)
        return halves[:, _HIGH], halves[:, 1 - _HIGH]

    def words(self, outputs: Sequence[Array], skipped: Any, count: int | Array) -> Array:
        flat = self.xp.stack(list(outputs), axis=-1).reshape(-1).view("int32")
        return flat[int(skipped) : int(skipped) + count]

    def host(self, x: Array) -> np.ndarray:
        return np.asarray(x, np.float32 if self.dtype(x) == "bfloat16" else None)

    def write(self, out: Array, result: Array) -> Array:
        out[...] = result
        return out


class HostNamespace(NumpyNamespace):
    """NumPy itself. Pieces of 65,536 elements keep the temporaries of the reference implementation
    near the caches, and are long enough for the microseconds that each operation needs to start.
    """

    chunk = 65536


NAMESPACE = HostNamespace()

__all__ = ["INTEGER", "NAMESPACE", "NumpyNamespace"]
