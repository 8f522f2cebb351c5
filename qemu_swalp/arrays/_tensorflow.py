"""TensorFlow: eager, in `tf.function`, and under XLA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .namespace import Array, Namespace, Table

try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext as within_xla
# not public: without it every graph counts as one that XLA compiles, which costs time, not bits
except ImportError:

    def within_xla(graph: tf.Graph) -> bool:
        return True


def under_xla() -> bool:
    """Whether the graph that is being traced is one that XLA compiles."""
    return bool(within_xla(tf.compat.v1.get_default_graph()))


INTEGER = {16: tf.int16, 32: tf.int32, 64: tf.int64}
UNSIGNED = {8: tf.uint8, 16: tf.uint16, 32: tf.uint32}
MASK = 0xFFFFFFFF
PHILOX = 1
"""Philox in the `alg` of TensorFlow's stateless random operations."""
CONVERSIONS = {
    tf.SparseTensor: "tf.sparse.to_dense(x), or round its values, as in x.values",
    tf.RaggedTensor: "x.to_tensor(), or round its values, as in x.flat_values",
    tf.IndexedSlices: "tf.convert_to_tensor(x), or round its values, as in x.values",
    tf.TensorArray: "x.stack()",
}
"""TensorFlow's tensors that are no arrays."""


class TensorflowNamespace(Namespace):
    name = "tensorflow"

    def owns(self, x: object) -> bool:
        return bool(isinstance(x, tf.Tensor | tf.Variable))

    def conversion(self, x: object) -> str | None:
        return next((how for kind, how in CONVERSIONS.items() if isinstance(x, kind)), None)

    def dtype(self, x: Array) -> str:
        return str(x.dtype.name)

    def shape(self, x: Array) -> tuple[int, ...]:
        if x.shape.rank is None or None in x.shape.as_list():
            raise ValueError(
                f"the shape must be known while tracing, got {x.shape}; "
                "give the tf.function an input_signature with static shapes"
            )
        return tuple(x.shape.as_list())

    def lengths(self, x: Array) -> tuple[int | Array, ...]:
        if x.shape.rank is None:
            raise ValueError(
                "the number of dimensions must be known while tracing; "
                "give the tf.function an input_signature, or the tensor its rank by set_shape"
            )
        known = x.shape.as_list()
        if None not in known:
            return tuple(known)
        traced = tf.shape(x, out_type=tf.int64)
        return tuple(traced[i] if length is None else length for i, length in enumerate(known))

    def same_shape(self, a: Array, b: Array) -> bool:
        return bool(a.shape.is_compatible_with(b.shape))

    def concrete(self, x: Array) -> bool:
        return bool(tf.executing_eagerly())

    def bits(self, x: Array) -> Array:
        return tf.bitcast(x, INTEGER[x.dtype.size * 8])

    def floats(self, bits: Array, dtype: str) -> Array:
        return tf.bitcast(bits, tf.as_dtype(dtype))

    def cast(self, x: Array, width: int) -> Array:
        return tf.cast(x, INTEGER[width])

    def unsigned(self, x: Array, width: int) -> Array:
        return tf.cast(x, UNSIGNED[width])

    def signed(self, x: Array, width: int) -> Array:
        return tf.cast(x, tf.int8 if width == 8 else tf.int16)

    def float_bits(self, n: Array) -> Array:
        return tf.bitcast(tf.cast(n, tf.float32 if n.dtype == tf.int32 else tf.float64), n.dtype)

    def shift_left(self, x: Array, count: Array | int) -> Array:
        return tf.bitwise.left_shift(x, self._like(count, x))

    def shift_right(self, x: Array, count: Array | int) -> Array:
        return tf.bitwise.right_shift(x, self._like(count, x))

    def _like(self, a: Array | int, b: Array | int) -> Array:
        return tf.constant(a, b.dtype) if isinstance(a, int) and not isinstance(b, int) else a

    def select(self, mask: Array, a: Array | int, b: Array | int) -> Array:
        return tf.where(mask, self._like(a, b), self._like(b, a))

    def maximum(self, a: Array | int, b: Array | int) -> Array:
        return tf.maximum(self._like(a, b), self._like(b, a))

    def minimum(self, a: Array | int, b: Array | int) -> Array:
        return tf.minimum(self._like(a, b), self._like(b, a))

    def abs(self, x: Array) -> Array:
        return tf.abs(x)

    def sqrt(self, x: Array) -> Array:
        return tf.sqrt(x)

    def log(self, x: Array) -> Array:
        return tf.math.log(x)

    def exp(self, x: Array) -> Array:
        return tf.exp(x)

    def table(self, values: Table, width: int, like: Array) -> Array:
        return tf.constant(np.asarray(values, INTEGER[width].as_numpy_dtype))

    def gather(self, table: Array, index: Array) -> Array:
        return tf.gather(table, index)

    def searchsorted(self, values: Table, x: Array) -> Array:
        table = self.table(values, self.width(x), x)
        counts = tf.searchsorted(table, tf.reshape(x, [-1]), side="right")
        return tf.cast(tf.reshape(counts, tf.shape(x)), x.dtype)

    def width(self, x: Array) -> int:
        return int(x.dtype.size) * 8

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        return tf.zeros(tuple(shape), like.dtype)

    def reshape(self, x: Array, shape: Sequence[int | Array]) -> Array:
        return tf.reshape(x, list(shape))

    def transposed(self, x: Array) -> Array:
        return tf.transpose(x)

    def permuted(self, x: Array, order: Sequence[int]) -> Array:
        return tf.transpose(x, list(order))

    def concatenate(self, parts: Sequence[Array], axis: int) -> Array:
        return tf.concat(parts, axis)

    def broadcast(self, x: Array | int, shape: Sequence[int]) -> Array:
        return tf.broadcast_to(x, list(shape))

    def max_over(self, x: Array, axes: Sequence[int]) -> Array:
        return tf.reduce_max(x, axis=list(axes), keepdims=True)

    def sum_over(self, x: Array, axes: Sequence[int]) -> Array:
        return tf.reduce_sum(x, axis=list(axes), keepdims=True)

    def pad_end(self, x: Array, axis: int, count: int | Array) -> Array:
        return tf.pad(x, [[0, count if i == axis else 0] for i in range(x.shape.rank)])

    def repeat(self, x: Array, count: int, axis: int) -> Array:
        return tf.repeat(x, count, axis=axis)

    def any(self, mask: Array) -> bool:
        return bool(tf.reduce_any(mask))

    def all_finite(self, arrays: Sequence[Array]) -> bool:
        return bool(tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in arrays]))

    def host(self, x: Array) -> np.ndarray:
        here: np.ndarray = (tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x).numpy()
        return here

    def as_words(self, word: Any) -> Any:
        if isinstance(word, int | tuple) or word.dtype == tf.uint32:
            return word
        return tf.cast(tf.cast(word, tf.int64) & MASK, tf.uint32)

    def block_numbers(self, first: Any, skipped: Any, count: int | Array, like: Array) -> Array:
        # A block for each element: these are for XLA, which fuses that better than interleaving the
        # words of a block.
        place = self._place(skipped, count)
        return tf.cast(first + tf.bitwise.right_shift(place, tf.constant(2, tf.int64)), tf.uint32)

    def _place(self, skipped: Any, count: int | Array) -> Array:
        return tf.range(skipped, count + skipped, dtype=tf.int64)

    def multiply_wide(self, words: Array, factor: int) -> tuple[Array, Array]:
        product = tf.cast(words, tf.uint64) * tf.constant(factor, tf.uint64)
        high = tf.bitwise.right_shift(product, tf.constant(32, tf.uint64))
        return tf.cast(high, tf.uint32), tf.cast(product, tf.uint32)

    def words(self, outputs: Sequence[Array], skipped: Any, count: int | Array) -> Array:
        word = self._place(skipped, count) & 3
        even, odd = (tf.where(word < 2, outputs[i], outputs[i + 2]) for i in (0, 1))
        return tf.bitcast(tf.where(word & 1 == 0, even, odd), tf.int32)

    def generator_device(self, like: Array) -> str | None:
        if tf.executing_eagerly():
            return str(like.device)
        return None if under_xla() else ""

    def generate(
        self, first: Any, skipped: Any, count: int | Array, step: Any, key: Sequence[Any]
    ) -> Array:
        key64 = tf.constant(key[1] << 32 | key[0], tf.uint64)
        step64 = tf.bitwise.left_shift(tf.cast(step, tf.uint64), tf.constant(32, tf.uint64))
        words = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=tf.reshape(count + skipped, [1]),
            key=[key64],
            counter=[step64 + first, key64],
            alg=PHILOX,
            dtype=tf.uint32,
        )
        return tf.bitcast(words[skipped:], tf.int32)

    def try_generate(self, device: str, *counters: Any) -> list[int]:
        try:
            with tf.init_scope(), tf.device(device):
                return [int(word) for word in self.generate(*counters).numpy()]
        except (AttributeError, TypeError, ValueError, tf.errors.OpError):
            return []


NAMESPACE = TensorflowNamespace()
