"""What runs the kernels: the CPU or a GPU, on arrays that are given by their addresses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from ctypes import Structure
from typing import Any, NamedTuple

import numpy as np

from ..formats import Format
from ..random_bits import RandomBits
from ..reference.accumulation import AccumulationTargets
from . import structs
from .chunks import Chunks, Limits
from .matmul_plan import Matrix
from .plan import Plan

NO_STREAM = nullcontext()


class Memory(NamedTuple):
    """Where an array lies: its address, and its strides in elements."""

    address: int
    strides: tuple[int, ...]


class Processor(ABC):
    """The CPU, or a GPU. Instances are equal only if they are the same."""

    any_order = False
    """Whether `quantize` takes an `order`."""
    limits: Limits
    """Of the chunks in which many tensors are worked on."""

    def stream(self) -> AbstractContextManager[Any]:
        """A context in which arrays of the caller's library are allocated and copied."""
        return NO_STREAM

    @abstractmethod
    def quantize(
        self,
        plan: Plan,
        format: Format,
        shape: tuple[int, ...],
        source: Memory,
        target: Memory,
        random: structs.Random,
        given: structs.Given | None = None,
        order: tuple[int, ...] | None = None,
    ) -> bool:
        """Round `source` to `target`, which is the same memory or does not overlap it.

        given : scales that are given, of blocks in C order; where `limits.host` alone. order : the
        axes as they lie in memory, where `any_order`; None: C order.

        Returns
        -------
        bool : False, and nothing is written, if the strides have to be simplified by a copy first.
        """

    @abstractmethod
    def matmul(
        self,
        dtype: str,
        a: Matrix,
        b: Matrix,
        out: int,
        targets: AccumulationTargets,
        drawn: structs.Random,
        random: RandomBits | None,
    ) -> bool:
        """Write a·b to the address `out`; all three are contiguous, of float32 or float64.

        drawn : `random` as the kernels read it.

        Returns
        -------
        bool : False, and nothing is written, if the kernels do not round by these targets.
        """

    def operate(
        self,
        operation: str,
        dtype: str,
        plan: Plan,
        shape: tuple[int, ...],
        operands: Sequence[Memory],
        out: int,
        drawn: structs.Random,
    ) -> bool:
        """Write an elementary operation to the address `out`, in C order; `plan` is in float64.

        Returns
        -------
        bool : False, and nothing is written, if there is no kernel for it.
        """
        return False

    def hadamard(
        self,
        dtype: str,
        shape: tuple[int, ...],
        axis: int,
        size: int,
        signs: int,
        source: int,
        target: int,
    ) -> bool:
        """Write a Hadamard transform (`ops/hadamard.py`) of one address to another, arrays of
        float32 or float64 in C order.

        size : of blocks. signs : address of a number for each index of the axis, or 0.

        Returns
        -------
        bool : False, and nothing is written, if there is no kernel for it.
        """
        return False

    @abstractmethod
    def structure(
        self, chunks: Chunks, kind: type[Structure], names: tuple[str, ...]
    ) -> tuple[Structure, object]:
        """A structure of a tensor (`Chunks.structure`), its roundings pointing to plans in the
        memory of the processor, and their owner. To be asked for anew by each call.
        """

    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured."""
        return False

    def hold(self, *scratch: object) -> None:  # noqa: B027
        """Arrays of the caller's library that a call has needed: see `gpu.device.Device.hold`.
        For a CPU they have served.
        """

    @abstractmethod
    def round_many(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        """Round tensors of one dtype, an array of `structs.TensorRounding`."""

    @abstractmethod
    def sgd(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        """Make the SGD steps of tensors of one dtype, an array of `structs.SgdTensor`."""


def random_of(
    random: RandomBits | None, words: int | None = None, step_at: int | None = None
) -> structs.Random:
    """Random words as the kernels read them.

    words : address of one 32-bit word for each element in C order, in place of `random`.
    step_at : address of the step in a GPU's memory, in place of `random.step`.
    """
    if random is None:
        return structs.Random(words)
    step = int(random.step) if step_at is None else 0
    return structs.Random(None, step_at, random.offset, step, random.key)
