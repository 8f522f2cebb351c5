"""What the kernels need to know of an array library, and what they do with its arrays.

A library gets a subclass here: a module of the library's name whose `BACKEND` is an instance, and a
line in `kernels.BACKENDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...arrays import Array
from ...arrays.dtypes import SourceDtype
from ...formats import Block, Format
from ...random_bits import RandomBits
from ...reference.accumulation import AccumulationTargets
from ...reference.context import BINARY64, Target
from ...reference.given_scales import Given
from .. import structs
from ..given import BlockScales
from ..matmul_plan import Matrix, result_shape
from ..plan import plan_of
from ..processor import Memory, Processor, random_of
from ..strides import order_of, rows_of

LARGEST_TRANSFORM = 1 << 12
"""Of blocks that kernels transform, so that a thread's stay in the cache."""


class TensorKey(NamedTuple):
    """What tensors of one call of the kernels have in common."""

    dtype: str
    processor: Processor
    order: tuple[int, ...] | None = None
    """Their axes as they lie in memory, outermost first; None: C order."""


class KernelBackend(ABC):
    """Hands the arrays of one library to the kernels."""

    @abstractmethod
    def accepts(self, x: Array, out: Array | None = None) -> bool:
        """Whether the kernels can work on x, and write to `out`."""

    @abstractmethod
    def quantize(
        self,
        x: Array,
        dtype: SourceDtype,
        target: Target,
        random: RandomBits | Array | None,
        out: Array | None,
        given: Given | None = None,
    ) -> Array | None:
        """x rounded, in `out` or a new array, under the scales that are given, if any; None if the
        kernels do not support that. x and `out` are accepted.
        """

    def matmul(
        self, a: Array, b: Array, targets: AccumulationTargets, random: RandomBits | None
    ) -> Array | None:
        """a·b of accepted arrays; None if the kernels do not support them."""
        return None

    def operate(
        self, operation: str, operands: Sequence[Array], target: Target, random: RandomBits | None
    ) -> Array | None:
        """An operation on accepted arrays of one shape; None if the kernels do not support it."""
        return None

    def hadamard(self, x: Array, axis: int, size: int, signs: Array | None) -> Array | None:
        """An accepted array of float32 or float64 transformed along an axis; None if no kernel
        does it.
        """
        return None

    def refusals(self) -> dict[str, str]:
        """The ways in which programs of the library call the kernels, each with why they do not, as
        a clause; "" if they do.
        """
        return {}

    def by_address(self) -> MemoryBackend | None:
        """Itself, if its arrays lie in memory where the kernels may read them now."""
        return None


class MemoryBackend(KernelBackend):
    """For arrays that lie in memory: they go to the kernels by their addresses, without copies
    where strides allow.
    """

    def by_address(self) -> MemoryBackend:
        return self

    @abstractmethod
    def processor_of(self, x: Array) -> Processor:
        """What works on an accepted array: the CPU, or the GPU that holds it."""

    @abstractmethod
    def tensor_key(self, x: Array) -> TensorKey | None:
        """For work on many tensors at once; None if x cannot take part: if it has gaps, no
        elements, or a dtype that the processor does not step.
        """

    @abstractmethod
    def address(self, x: Array) -> int:
        """Of the first element."""

    @abstractmethod
    def memory(self, x: Array) -> Memory:
        """The address, and strides in elements, of an array that is `in_rows`."""

    @abstractmethod
    def in_rows(self, x: Array) -> bool:
        """Whether elements lie whole strides apart, and those of the last axis side by side."""

    @abstractmethod
    def contiguous(self, x: Array) -> Array:
        """The array in C order, a copy unless it is `in_rows` already."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """A new array in C order, of the dtype and device of another."""

    def aligned(self, x: Array) -> bool:
        """Whether elements lie whole strides apart, at multiples of their size."""
        return True

    @abstractmethod
    def may_overlap(self, a: Array, b: Array) -> bool:
        """Whether two arrays may share memory."""

    @abstractmethod
    def widened(self, x: Array) -> Array:
        """x in C order, in float32 if it has fewer bits."""

    @abstractmethod
    def cast(self, x: Array, like: Array) -> Array:
        """x in the dtype of another array."""

    @abstractmethod
    def words(self, random: Array, like: Array) -> Array:
        """Random words in C order, on the device of another array."""

    def detached(self, x: Array) -> Array:
        """The array without its history, for libraries that record gradients."""
        return x

    def writable(self, x: Array) -> bool:
        """Whether x may be written in place."""
        return True

    def write(self, out: Array, x: Array) -> Array:
        """`out`, to which x has been copied."""
        out[...] = x
        return out

    def written(self, out: Array) -> Array:
        """`out`, to which the kernels have written."""
        return out

    def step_address(self, step: Any, like: Array) -> int | None:
        """Of a step in the memory of the GPU that holds `like`, which is read when the kernel runs;
        else None.
        """
        return None

    def empty_beside(self, x: Array) -> Array:
        """A new array that lies in memory as one with a `tensor_key` does."""
        return self.empty_like(x)

    def empty_like(self, x: Array) -> Array:
        """A new array in C order, of the shape, dtype and device of another."""
        return self.empty(tuple(x.shape), x)

    def quantize(
        self,
        x: Array,
        dtype: SourceDtype,
        target: Target,
        random: RandomBits | Array | None,
        out: Array | None,
        given: Given | None = None,
    ) -> Array | None:
        plan = plan_of(dtype, target, given is not None)
        processor, format = self.processor_of(x), target.format
        if plan is None or plan.host_only > processor.limits.host:
            return None
        scales = None if given is None else BlockScales(format, given)
        per_block = None if scales is None else scales.structure
        with processor.stream():
            x = self.detached(x)
            order = self._order(x, processor, format, random, given)
            source = x if order or self.in_rows(x) else self.contiguous(x)
            read, written = self.memory(source), None
            if out is not None:
                written = self._direct(source, read, self.detached(out), order)
            direct = written is not None
            result = out if direct else self.empty_beside(x) if order else self.empty_like(x)
            words, drawn = self._draw(random, x)
            shape, memories = tuple(x.shape), (read, written or self.memory(result))
            if not processor.quantize(plan, format, shape, *memories, drawn, per_block, order):
                source, result, direct = self.contiguous(source), self.empty_like(x), False
                processor.quantize(
                    plan, format, shape, self.memory(source), self.memory(result), drawn, per_block
                )
            processor.hold(*_made(source, x), *_made(words, random), *_made(result, out))
            del words, scales  # needed up to here
            if out is None:
                return result
            return self.written(out) if direct else self.write(out, result)

    def _order(
        self,
        x: Array,
        processor: Processor,
        format: Format,
        random: RandomBits | Array | None,
        given: Given | None,
    ) -> tuple[int, ...] | None:
        """The axes of x as they lie in memory, outermost first, if that is not C order and the
        kernels read x so.
        """
        if not processor.any_order or given is not None or self.in_rows(x) or not self.aligned(x):
            return None
        shape, strides = tuple(x.shape), self.memory(x).strides
        if random is None:
            return rows_of(shape, strides)
        return None if isinstance(format, Block) else order_of(shape, strides)

    def _direct(
        self, source: Array, read: Memory, out: Array, order: tuple[int, ...] | None
    ) -> Memory | None:
        """The memory of `out`, if the kernels may write there what they read of `source`."""
        if not (self.aligned(out) if order else self.in_rows(out)):
            return None
        written = self.memory(out)
        pairs = zip(written.strides, out.shape, strict=True)
        if any(stride == 0 and length > 1 for stride, length in pairs):
            return None  # elements of one address: the library says what becomes of that
        return written if written == read or not self.may_overlap(out, source) else None

    def _draw(
        self, random: RandomBits | Array | None, like: Array
    ) -> tuple[Array | None, structs.Random]:
        """Random words in memory, if they are given, and how the kernels read them."""
        if random is None or isinstance(random, RandomBits):
            step_at = None if random is None else self.step_address(random.step, like)
            return None, random_of(random, step_at=step_at)
        words = self.words(random, like)
        return words, random_of(None, words=self.address(words))

    def matmul(
        self, a: Array, b: Array, targets: AccumulationTargets, random: RandomBits | None
    ) -> Array | None:
        processor = self.processor_of(a)
        if self.processor_of(b) is not processor:
            return None
        shapes = tuple(a.shape), tuple(b.shape)
        with processor.stream():
            wide_a, wide_b = self.widened(self.detached(a)), self.widened(self.detached(b))
            out = self.empty(result_shape(*shapes), wide_a)
            done = processor.matmul(
                self.dtype_name(wide_a),
                Matrix(self.address(wide_a), shapes[0]),
                Matrix(self.address(wide_b), shapes[1]),
                self.address(out),
                targets,
                self._draw(random, wide_a)[1],
                random,
            )
            processor.hold(*_made(wide_a, a), *_made(wide_b, b), *_made(out, None))
            return self.cast(out, a) if done else None

    def operate(
        self, operation: str, operands: Sequence[Array], target: Target, random: RandomBits | None
    ) -> Array | None:
        processor, plan = self.processor_of(operands[0]), plan_of(BINARY64, target)
        if plan is None or any(self.processor_of(x) is not processor for x in operands):
            return None
        with processor.stream():
            read = [x if self.in_strides(x) else self.contiguous(x) for x in operands]
            read = [self.detached(x) for x in read]
            result = self.empty_like(read[0])
            done = processor.operate(
                operation,
                self.dtype_name(result),
                plan,
                tuple(result.shape),
                [self.memory(x) for x in read],
                self.address(result),
                self._draw(random, result)[1],
            )
            return result if done else None

    def hadamard(self, x: Array, axis: int, size: int, signs: Array | None) -> Array | None:
        processor, name = self.processor_of(x), self.dtype_name(x)
        shape = tuple(x.shape)
        if name not in ("float32", "float64") or size > LARGEST_TRANSFORM or 0 in shape:
            return None
        with processor.stream():
            x = self.widened(self.detached(x))
            signs = None if signs is None else self.widened(self.detached(signs))
            result = self.empty_like(x)
            done = processor.hadamard(
                name,
                shape,
                axis,
                size,
                0 if signs is None else self.address(signs),
                self.address(x),
                self.address(result),
            )
            return result if done else None

    def in_strides(self, x: Array) -> bool:
        """Whether elements lie whole strides apart."""
        return True

    def dtype_name(self, x: Array) -> str:
        """Such as "float32"."""
        return str(x.dtype)


def _made(array: Array | None, given: object) -> tuple[Array, ...]:
    """The array, if it was made within a call."""
    return () if array is None or array is given else (array,)
