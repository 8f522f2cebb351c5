"""What the reference implementation needs of an array library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
"""An array of any supported library."""

Table = Sequence[int] | np.ndarray
"""Integers of the host that go to the device as a table."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Source dtypes (clause SRC-1)."""


class Namespace(ABC):
    """One array library. Integer arrays are int16, int32 or int64; masks are boolean arrays.

    Arithmetic, comparison and the bitwise operators `& | ^` come from the arrays themselves, for
    equal integer dtypes and Python ints, and wrap around. This class has what
    libraries call by different names.
    """

    name: str
    chunk: int | None = None
    """Elements to work on at a time, where that is faster (NumPy arrays on the host); None: all at
    once.
    """

    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this library."""

    @abstractmethod
    def dtype(self, x: Array) -> str:
        """Name of the dtype, as in "float32"."""

    @abstractmethod
    def shape(self, x: Array) -> tuple[int, ...]:
        """Static shape."""

    def lengths(self, x: Array) -> tuple[int | Array, ...]:
        """The shape to compute with: a length that a traced graph leaves open is a 0-d integer
        array.
        """
        return self.shape(x)

    def same_shape(self, a: Array, b: Array) -> bool:
        """Whether the shapes agree, as far as they are known."""
        return self.shape(a) == self.shape(b)

    def conversion(self, x: object) -> str | None:
        """The expression that makes an array of what is one of the library's other kinds of tensor;
        None for all others.
        """
        return None

    def remedy(self, x: Array) -> str | None:
        """What to do with an array of a kind that is refused; None for all others."""
        return None

    def native(self, x: Array) -> Array:
        """The same numbers in the byte order of the machine."""
        return x

    def records(self, x: Array) -> bool:
        """Whether the library records what is written to the array, for a gradient."""
        return False

    def concrete(self, x: Array) -> bool:
        """Whether the values are known now (not while a graph is being traced)."""
        return True

    # Bit casts and conversions

    @abstractmethod
    def bits(self, x: Array) -> Array:
        """Bits of a floating array, as the signed integer of its width."""

    @abstractmethod
    def floats(self, bits: Array, dtype: str) -> Array:
        """The floating array with these bits; inverse of `bits`."""

    def converted(self, x: Array, dtype: str) -> Array | None:
        """Numbers in another floating dtype that represents them; None where subnormal ones may
        become zeros.
        """
        return None

    @abstractmethod
    def cast(self, x: Array, width: int) -> Array:
        """Integer array as int16, int32 or int64, wrapping around; booleans give 0 and 1."""

    @abstractmethod
    def unsigned(self, x: Array, width: int) -> Array:
        """Integer array as uint8, uint16 or uint32, wrapping around."""

    @abstractmethod
    def signed(self, x: Array, width: int) -> Array:
        """Integer array as int8 or int16."""

    @abstractmethod
    def float_bits(self, n: Array) -> Array:
        """Bits of the float32 (of int32 input) or float64 (int64) nearest to the integers."""

    # Elementwise

    @abstractmethod
    def shift_left(self, x: Array, count: Array | int) -> Array:
        """x·2^count; 0 ≤ count < width."""

    @abstractmethod
    def shift_right(self, x: Array, count: Array | int) -> Array:
        """⌊x/2^count⌋ (arithmetic shift); 0 ≤ count < width."""

    def where(self, mask: Array, a: Array | int, b: Array | int) -> Array:
        """a where the mask holds, else b. TypeError unless one of them is an array, whose dtype
        is the result's.
        """
        if isinstance(a, int) and isinstance(b, int):
            raise TypeError(
                f"where(mask, {a}, {b}) has no dtype; make one an array: {b} + 0*binade"
            )
        return self.select(mask, a, b)

    @abstractmethod
    def select(self, mask: Array, a: Array | int, b: Array | int) -> Array:
        """`where`, once it is known that a or b is an array."""

    @abstractmethod
    def maximum(self, a: Array | int, b: Array | int) -> Array: ...

    @abstractmethod
    def minimum(self, a: Array | int, b: Array | int) -> Array: ...

    @abstractmethod
    def abs(self, x: Array) -> Array: ...

    @abstractmethod
    def sqrt(self, x: Array) -> Array:
        """Of float64 numbers, rounded to nearest."""

    @abstractmethod
    def log(self, x: Array) -> Array:
        """Natural logarithm of positive numbers. Its last bits differ between libraries."""

    @abstractmethod
    def exp(self, x: Array) -> Array:
        """e^x. Its last bits differ between libraries."""

    def clip(self, x: Array, low: int, high: int) -> Array:
        return self.minimum(self.maximum(x, low), high)

    # Tables, made on the host and moved to where `like` is

    @abstractmethod
    def table(self, values: Table, width: int, like: Array) -> Array:
        """Integers of the host as an array beside `like`."""

    def integers(self, values: Table, width: int) -> Array:
        """Integers of the host as an array."""
        return self.table(values, width, None)

    @abstractmethod
    def gather(self, table: Array, index: Array) -> Array:
        """table[index] for a 1-d table."""

    def take(self, values: Table, index: Array) -> Array:
        """values[index], in the dtype of `index`."""
        return self.gather(self.table(values, self.width(index), index), index)

    @abstractmethod
    def searchsorted(self, values: Table, x: Array) -> Array:
        """How many of the ascending `values` are ≤ x, in the dtype of x."""

    @abstractmethod
    def width(self, x: Array) -> int:
        """Bits of an integer array's dtype."""

    # Shapes

    @abstractmethod
    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        """Zeros in the dtype and on the device of `like`."""

    @abstractmethod
    def reshape(self, x: Array, shape: Sequence[int | Array]) -> Array: ...

    def transposed(self, x: Array) -> Array:
        """A matrix with rows for columns."""
        return x.T

    @abstractmethod
    def permuted(self, x: Array, order: Sequence[int]) -> Array:
        """Its axes in another order."""

    @abstractmethod
    def concatenate(self, parts: Sequence[Array], axis: int) -> Array:
        """Arrays one after another along an axis."""

    @abstractmethod
    def broadcast(self, x: Array | int, shape: Sequence[int]) -> Array: ...

    @abstractmethod
    def max_over(self, x: Array, axes: Sequence[int]) -> Array:
        """Maximum over the axes, which stay with length 1."""

    @abstractmethod
    def sum_over(self, x: Array, axes: Sequence[int]) -> Array:
        """Sum over the axes, which stay with length 1, in the dtype of x."""

    @abstractmethod
    def pad_end(self, x: Array, axis: int, count: int | Array) -> Array:
        """`count` zeros after the end of an axis."""

    @abstractmethod
    def repeat(self, x: Array, count: int, axis: int) -> Array:
        """Each index of the axis `count` times in a row."""

    def first(self, x: Array, count: int | Array, axis: int) -> Array:
        """The first `count` indices of an axis."""
        return x[(slice(None),) * axis + (slice(0, count),)]

    @abstractmethod
    def any(self, mask: Array) -> bool:
        """Whether the mask of a concrete array holds anywhere."""

    @abstractmethod
    def all_finite(self, arrays: Sequence[Array]) -> bool:
        """Whether concrete arrays, at least one, hold neither infinities nor NaN; the device is
        asked once.
        """

    # Random words: unsigned 32-bit numbers, in whichever dtype the library computes with them.
    # `first`, `skipped`, `step` and `key` are those of `random_bits.Counters`, as 0-d words.

    @abstractmethod
    def as_words(self, word: Any) -> Any:
        """An int, a 0-d integer array of the library, or nested tuples of ints, as 0-d words."""

    @abstractmethod
    def block_numbers(self, first: Any, skipped: Any, count: int | Array, like: Array) -> Array:
        """The Philox blocks of `count` elements: a word for each block, or for each element,
        whichever is faster.
        """

    @abstractmethod
    def multiply_wide(self, words: Array, factor: int) -> tuple[Array, Array]:
        """(high, low) words of the 64-bit products with an unsigned 32-bit factor. The words may be
        overwritten.
        """

    @abstractmethod
    def words(self, outputs: Sequence[Array], skipped: Any, count: int | Array) -> Array:
        """Each element's word of the four words of its block, as a 1-d int32 array; `outputs` are
        Philox's four, in the order of `block_numbers`.
        """

    def generator_device(self, like: Array) -> str | None:
        """The device for which `generate` would make the words; None where the library has no
        Philox generator, or where `block_numbers` are faster.
        """
        return None

    def generate(
        self, first: Any, skipped: Any, count: int | Array, step: Any, key: Sequence[Any]
    ) -> Array:
        """The same words by the library's generator."""
        raise TypeError(f"{self.name} has no Philox generator")

    def try_generate(self, device: str, *counters: Any) -> list[int]:
        """Words of `generate`, on a device and outside any graph; [] where that fails."""
        return []

    # Programs and results

    def run(self, program: Callable[..., Any], settings: tuple[Any, ...], *arrays: Any) -> Any:
        """program(self, *settings, *arrays), compiled where operations one by one are slow."""
        return program(self, *settings, *arrays)

    def forget_programs(self) -> None:  # noqa: B027 (most libraries compile none)
        """Forget what `run` has compiled."""

    @abstractmethod
    def host(self, x: Array) -> np.ndarray:
        """The same numbers in NumPy, as a view where the library gives one; bfloat16, which NumPy
        lacks, as float32.
        """

    def write(self, out: Array, result: Array) -> Array:
        """Copy the result into `out`. TypeError where arrays cannot be written."""
        raise TypeError(
            f"out= is not possible: {self.name} arrays cannot be written; use the returned array"
        )
