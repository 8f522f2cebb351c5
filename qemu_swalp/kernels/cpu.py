"""The compiled library, which runs the kernels on the CPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Structure, addressof, c_char, c_int, c_int64, c_void_p
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ..formats import Format
from ..random_bits import RandomBits
from ..reference.accumulation import AccumulationTargets
from . import layouts, matmul_plan as plans, structs, threads
from .build import LIBRARY, digest
from .chunks import Chunks, Limits
from .matmul_in_float32 import Span, plainness, products_of
from .matmul_plan import Matrix, Shape
from .plan import DTYPES, Plan
from .processor import Memory, Processor
from .strides import layout_of, operands_of

SIGNATURES: dict[str, list[Any]] = {
    "qs_quantize": [
        ctypes.POINTER(structs.Plan),
        ctypes.POINTER(structs.Layout),
        ctypes.POINTER(structs.Random),
        c_void_p,
        c_void_p,
        c_int,
    ],
    "qs_quantize_given": [
        ctypes.POINTER(structs.Plan),
        ctypes.POINTER(structs.Layout),
        ctypes.POINTER(structs.Random),
        ctypes.POINTER(structs.Given),
        c_void_p,
        c_void_p,
        c_int,
    ],
    "qs_round_many": [c_void_p, c_int, c_int],
    "qs_sgd": [c_void_p, c_int, c_int],
    "qs_matmul": [c_void_p, c_int],
    "qs_operate": [
        c_int,
        c_int,
        ctypes.POINTER(structs.Plan),
        ctypes.POINTER(structs.Layout),
        ctypes.POINTER(structs.Random),
        c_void_p,
        c_void_p,
        c_void_p,
        c_int,
    ],
    "qs_span": [c_void_p, c_int64, c_void_p],
    "qs_hadamard": [c_int, *[c_int64] * 4, c_void_p, c_void_p, c_void_p, c_int],
    "qs_share_threads": [ctypes.POINTER(c_int)],
}

OPERATIONS = ("add", "subtract", "multiply", "divide", "sqrt")
"""In the order of `Operation` in `src/cpu/operate.h`."""


def library() -> Any:
    """The compiled library; None if there is none that fits: `refusal` says why."""
    return _loaded()[0]


def refusal() -> str:
    """Why there is no library, as a clause; "" if there is one."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[Any, str]:
    if not LIBRARY.exists():
        return None, "no compiled kernels"
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        loaded.qs_sources.restype = loaded.qs_instruction_set.restype = ctypes.c_char_p
        loaded.qs_layouts.restype = ctypes.POINTER(structs.LayoutEntry)
        sources, laid_out = loaded.qs_sources().decode(), _layouts(loaded)
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels cannot be loaded ({error})"
    if sources != digest():
        return None, "the compiled kernels are of other sources"
    if difference := _difference(laid_out, layouts.layouts()):
        return None, f"the compiled kernels lay out {difference}"
    for name, types in SIGNATURES.items():
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = types, None
    loaded.qs_calls.restype = c_int64
    loaded.qs_register_xla.argtypes = [c_void_p, ctypes.c_char_p]
    loaded.qs_register_tensorflow.argtypes = [c_void_p]
    loaded.qs_register_xla.restype = loaded.qs_register_tensorflow.restype = ctypes.c_char_p
    return loaded, ""


def _layouts(loaded: Any) -> dict[str, int]:
    """Sizes and offsets of the structures as the library was compiled with."""
    count = c_int()
    entries = loaded.qs_layouts(ctypes.byref(count))
    return {entry.name.decode(): entry.value for entry in entries[: count.value]}


def _difference(library: dict[str, int], python: dict[str, int]) -> str:
    """The first structure or field that both do not lay out alike; "" if there is none."""
    for name in python | library:
        if library.get(name) != python.get(name):
            return f"{name} at {library.get(name)}, Python at {python.get(name)}"
    return ""


def instruction_set() -> str | None:
    """The instruction set in use: avx512, avx2 or baseline; None without a library."""
    return None if library() is None else str(library().qs_instruction_set().decode())


@contextmanager
def instructions(name: str) -> Iterator[None]:
    """A context in which the kernels use an instruction set.

    Raises
    ------
    ValueError: if this machine or the library lacks it.
    """
    before = instruction_set()
    if before is None or not library().qs_choose(name.encode()):
        raise ValueError(
            f"this machine's kernels do not use the instruction set {name!r}; they use {before}"
        )
    try:
        yield
    finally:
        library().qs_choose(before.encode())


class Cpu(Processor):
    """The CPU, by the compiled library, on as many threads as `get_num_threads` says."""

    limits = Limits(chunk=8192, most=1 << 17, host=True)
    """Gradient, momentum and weight of a chunk stay in the cache."""

    def quantize(
        self,
        plan: Plan,
        format: Format,
        shape: Shape,
        source: Memory,
        target: Memory,
        random: structs.Random,
        given: structs.Given | None = None,
        order: tuple[int, ...] | None = None,
    ) -> bool:
        layout = layout_of(shape, source.strides, target.strides, format)
        if layout is None:
            return False
        memory = source.address, target.address, threads.get_num_threads()
        if given is None:
            library().qs_quantize(plan.structure, layout, random, *memory)
        else:
            library().qs_quantize_given(plan.structure, layout, random, given, *memory)
        return True

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
        dtype_computed, plain = _computing(dtype, a, b, targets)
        roundings = plans.plans_of(targets, dtype_computed)
        if roundings is None:
            return False
        shape = plans.result_shape(a.shape, b.shape)
        addresses = a.address, b.address, out
        if dtype_computed != dtype:
            wide = [_array(matrix, dtype).astype(dtype_computed) for matrix in (a, b)]
            wide.append(np.empty(shape, dtype_computed))
            addresses = (wide[0].ctypes.data, wide[1].ctypes.data, wide[2].ctypes.data)
        call = plans.structure_of(dtype_computed, a.shape, b.shape, targets, drawn, random, plain)
        firsts = [plans.firsts(operand.shape, shape[:-2]) for operand in (a, b)]
        call.first_a, call.first_b = (first.ctypes.data for first in firsts)
        call.a, call.b, call.out = addresses
        call.plans = structs.MatmulPlans(
            *(None if plan is None else addressof(plan.structure) for plan in roundings)
        )
        library().qs_matmul(addressof(call), threads.get_num_threads())
        if dtype_computed != dtype:
            _array(Matrix(out, shape), dtype)[...] = wide[2]
        return True

    def operate(
        self,
        operation: str,
        dtype: str,
        plan: Plan,
        shape: Shape,
        operands: Sequence[Memory],
        out: int,
        drawn: structs.Random,
    ) -> bool:
        a, b = operands[0], operands[-1]
        layout = operands_of(shape, a.strides, b.strides)
        if layout is None:
            return False
        library().qs_operate(
            OPERATIONS.index(operation),
            DTYPES.index(dtype),
            plan.structure,
            layout,
            drawn,
            a.address,
            b.address,
            out,
            threads.get_num_threads(),
        )
        return True

    def hadamard(
        self, dtype: str, shape: Shape, axis: int, size: int, signs: int, source: int, target: int
    ) -> bool:
        lengths = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        library().qs_hadamard(
            DTYPES.index(dtype), *lengths, size, signs, source, target, threads.get_num_threads()
        )
        return True

    def structure(
        self, chunks: Chunks, kind: type[Structure], names: tuple[str, ...]
    ) -> tuple[Structure, object]:
        return _structure(chunks, kind, names), chunks

    def round_many(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        library().qs_round_many(tensors.ctypes.data, len(tensors), threads.get_num_threads())

    def sgd(self, tensors: np.ndarray, chunks: Sequence[Chunks]) -> None:
        library().qs_sgd(tensors.ctypes.data, len(tensors), threads.get_num_threads())


@lru_cache(maxsize=4096)
def _structure(chunks: Chunks, kind: type[Structure], names: tuple[str, ...]) -> Structure:
    roundings = [None if plan is None else plan.pointers for plan in chunks.plans]
    return chunks.structure(kind, names, roundings)


CPU = Cpu()


def computing(a: np.ndarray, b: np.ndarray, targets: AccumulationTargets) -> plans.Computing:
    """How the kernels compute a·b, contiguous arrays of float32 or float64 with elements."""
    first, second = (Matrix(x.ctypes.data, x.shape) for x in (a, b))
    return _computing(str(a.dtype), first, second, targets)


def _computing(dtype: str, a: Matrix, b: Matrix, targets: AccumulationTargets) -> plans.Computing:
    terms = a.shape[-1]
    limit = plans.limit_of(targets, terms) if dtype == "float32" else None
    products = None if limit is None else products_of(_span(a), _span(b), limit)
    if products is None:
        return plans.Computing("float64", 0)
    if targets.product is not None:
        return plans.Computing("float32", 0)
    return plans.Computing(
        "float32", plainness(products, targets.sum, targets.total, terms, targets.chunk)
    )


def _span(x: Matrix) -> Span:
    found = (ctypes.c_uint32 * 3)()
    library().qs_span(x.address, math.prod(x.shape), found)
    return Span(*found)


def _array(matrix: Matrix, dtype: str) -> np.ndarray:
    """Contiguous memory as NumPy sees it, without a reference to who owns it."""
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(matrix.shape))
    memory = memoryview((c_char * size).from_address(matrix.address))
    return np.frombuffer(memory, kind).reshape(matrix.shape)
