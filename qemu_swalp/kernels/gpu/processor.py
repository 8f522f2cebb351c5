"""A GPU as a processor of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import Structure
from typing import Any

import numpy as np

from ...formats import Format
from ...random_bits import RandomBits
from ...reference.accumulation import AccumulationTargets
from .. import structs
from ..chunks import Chunks
from ..matmul_plan import Matrix
from ..plan import Plan
from ..processor import Memory, Processor
from . import matmul, multi_tensor, quantize
from .device import Device


class Gpu(Processor):
    """The kernels of `src/cuda` on a device."""

    any_order = True
    limits = multi_tensor.LIMITS

    def __init__(self, device: Device) -> None:
        self.device = device

    def stream(self) -> AbstractContextManager[Any]:
        return self.device.stream()

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
        return quantize.quantize(self.device, plan, format, shape, source, target, random, order)

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
        return matmul.matmul(self.device, dtype, a, b, out, targets, drawn, random)

    def structure(
        self, chunks: Chunks, kind: type[Structure], names: tuple[str, ...]
    ) -> tuple[Structure, object]:
        return multi_tensor.structure_on(self.device, chunks, kind, names)

    def capturing(self) -> bool:
        return self.device.capturing()

    def hold(self, *scratch: object) -> None:
        self.device.hold((), scratch)

    def round_many(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        multi_tensor.round_many(self.device, tensors, chunks)

    def sgd(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        multi_tensor.sgd(self.device, tensors, chunks)
