"""TensorFlow: eager, in `tf.function`, and under XLA."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from .namespace import Array, Namespace

INTEGER = {16: tf.int16, 32: tf.int32, 64: tf.int64}
UNSIGNED = {8: tf.uint8, 16: tf.uint16, 32: tf.uint32}
MASK = 0xFFFFFFFF


class TensorflowNamespace(Namespace):
    name = "tensorflow"

    def owns(self, x: object) -> bool:
        return bool(isinstance(x, tf.Tensor | tf.Variable))

    def dtype(self, x: Array) -> str:
        return str(x.dtype.name)

    def shape(self, x: Array) -> tuple[int, ...]:
        if x.shape.rank is None or None in x.shape.as_list():
            raise ValueError(f"the shape must be known while tracing, got {x.shape}; "
                             "give the tf.function an input_signature with static shapes")
        return tuple(x.shape.as_list())

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

    def table(self, values: Sequence[int], width: int, like: Array) -> Array:
        return tf.constant(list(values), INTEGER[width])

    def gather(self, table: Array, index: Array) -> Array:
        return tf.gather(table, index)

    def searchsorted(self, values: Sequence[int], x: Array) -> Array:
        table = self.table(values, self.width(x), x)
        found = tf.searchsorted(table, tf.reshape(x, [-1]), side="right")
        return tf.cast(tf.reshape(found, x.shape), x.dtype)

    def width(self, x: Array) -> int:
        return int(x.dtype.size) * 8

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return tf.reshape(x, list(shape))

    def broadcast(self, x: Array | int, shape: Sequence[int]) -> Array:
        return tf.broadcast_to(x, list(shape))

    def max_over(self, x: Array, axes: Sequence[int]) -> Array:
        return tf.reduce_max(x, axis=list(axes), keepdims=True)

    def pad_end(self, x: Array, axis: int, count: int) -> Array:
        return tf.pad(x, [[0, count if i == axis else 0] for i in range(x.shape.rank)])

    def repeat(self, x: Array, count: int, axis: int) -> Array:
        return tf.repeat(x, count, axis=axis)

    def any(self, mask: Array) -> bool:
        return bool(tf.reduce_any(mask))

    def lanes(self, start: int, count: int, like: Array) -> Array:
        return tf.range(start, start + count, dtype=tf.int64) & MASK

    def lane(self, word: Array | int, like: Array) -> Array:
        return tf.constant(word, tf.int64) if isinstance(word, int) else tf.cast(word, tf.int64) & MASK

    def multiply_wide(self, lanes: Array, factor: int) -> tuple[Array, Array]:
        product = lanes * factor  # may wrap to a negative int64: the bits are those of the unsigned product
        return tf.bitwise.right_shift(product, tf.constant(32, tf.int64)) & MASK, product & MASK

    def words(self, lanes: Sequence[Array]) -> Array:
        return tf.cast(tf.reshape(tf.stack(list(lanes), axis=-1), [-1]), tf.int32)


NAMESPACE = TensorflowNamespace()
