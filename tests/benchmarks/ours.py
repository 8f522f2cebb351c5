"""What of ours is measured: the kernels, the reference implementation, and the reference
implementation as torch.compile fuses it.
"""

from __future__ import annotations

from typing import Any

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.arrays import namespace_of
from qemu_swalp.arrays.dtypes import source_dtype
from qemu_swalp.reference.quantize import by_reference
from tests.benchmarks.cases import CASES, ROUNDINGS, bits_of
from tests.benchmarks.libraries import Numpy
from tests.benchmarks.timing import Call

COLUMNS = ("out=", "new array", "reference")
COMPILED = "torch.compile"


def candidates(library: Numpy, case: str, rounding: str, x: Any) -> dict[str, Call]:
    """By the names in `COLUMNS`: into an array that is there, into a new one, without the
    kernels.
    """
    format, mode, bits = CASES[case], ROUNDINGS[rounding], bits_of(rounding)
    out = library.empty(x)

    def program() -> Any:
        with kernels.disabled():
            return q.quantize(x, format, mode, random=bits)

    return dict(
        zip(
            COLUMNS,
            (
                lambda: q.quantize(x, format, mode, random=bits, out=out),
                lambda: q.quantize(x, format, mode, random=bits),
                program,
            ),
            strict=True,
        )
    )


def compiled(case: str, rounding: str, x: Any) -> Call | None:
    """The reference implementation of `quantize` as one graph of torch.compile; None where it
    cannot be traced so.
    """
    import torch

    xp = namespace_of(x)
    dtype = source_dtype(xp.dtype(x))
    target = q.Quantizer(CASES[case], ROUNDINGS[rounding]).target
    bits = bits_of(rounding)
    counters = None if bits is None else bits.counters(xp, xp.lengths(x))

    def program(x: Any, random: Any) -> Any:
        return by_reference(xp, dtype, target, x, random)

    program(x, counters)  # what a format derives once is there then, and need not be traced
    torch.compiler.reset()  # which otherwise refuses a function that it has compiled eight times
    fused = torch.compile(program, fullgraph=True, dynamic=False)
    try:
        fused(x, counters)
    except torch._dynamo.exc.Unsupported:
        return None
    return lambda: fused(x, counters)
