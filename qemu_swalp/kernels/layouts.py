"""Sizes and offsets of the structures that Python and C++ share.

`layouts` is compared with what the compiled library says when it is loaded, and `fingerprint` by
the compiler of the programs for GPUs (`src/common/layouts.h`).
"""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import Structure, sizeof

from . import structs

SHARED: tuple[type[Structure], ...] = (
    structs.Element,
    structs.Top,
    structs.Scaling,
    structs.SignView,
    structs.TableIndex,
    structs.TableSpacing,
    structs.Table,
    structs.Plan,
    structs.Given,
    structs.Layout,
    structs.Random,
    structs.Counts,
    structs.ChunkedRounding,
    structs.TensorRounding,
    structs.SgdTensor,
    structs.MatmulPlans,
    structs.Matmul,
    structs.Span,
    structs.QuantizeCall,
    structs.RoundManyCall,
    structs.SgdCall,
    structs.SpanCall,
    structs.MatmulCall,
    structs.StoredCall,
)
"""All that Python and C++ share."""


def layouts() -> dict[str, int]:
    """The size of each shared structure, by its name, and the offset of each field, by
    `Structure.field`; in bytes.
    """
    return dict(_entries())


def _entries() -> Iterator[tuple[str, int]]:
    for structure in SHARED:
        yield structure.__name__, sizeof(structure)
        for name, *_ in structure._fields_:
            yield f"{structure.__name__}.{name}", getattr(structure, name).offset


def fingerprint() -> int:
    """Of `layouts`, as `common/layouts.h` computes it: a GPU's compiler refuses a program of
    another one.
    """
    total = 0
    for name, value in layouts().items():
        total += (_fnv1a(name) ^ value) * FNV_PRIME
    return total % 2**64


FNV_PRIME = 0x100000001B3


def _fnv1a(text: str) -> int:
    """The 64-bit hash FNV-1a (Fowler, Noll and Vo)."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * FNV_PRIME % 2**64
    return value
