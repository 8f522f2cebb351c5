"""What the machine code of the kernels for GPUs allows on an H100: `python -m
tests.benchmarks.gpu_estimate [--json FILE]`. It needs no GPU, and is no measurement of one.

NVRTC compiles the kernels for compute capability 9.0, and the shortest way around the loop that
rounds is counted, for an element. Where nothing is called, that is what runs for ordinary numbers.
A processor issues 128 instructions in a clock, 64 of them to the integer pipe. There are 132, at
1.98 GHz, and a copy moves 3.0 TB/s: "arithmetic" is the speed that this allows, in per cent of a
copy's. Kernels that look for the greatest number of an array first read it once more: "at most" is
what memory allows, too. Latencies leave less.

A step of SGD reads gradients, weights and velocities and writes the latter two, as PyTorch's does:
its copy is that of five numbers for two. It takes some minutes to count.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from qemu_swalp._util.tables import table
from qemu_swalp.kernels.build import CudaProgram
from qemu_swalp.kernels.gpu import multi_tensor, quantize
from tests.gpu.speed import TARGETS
from tests.helpers import machine_code

CLOCKS = 132 * 1.98e9
BYTES = 3.0e12
ISSUED, INTEGER = 128, 64
CARRIERS = {"float32": ("Single", 4), "bfloat16": ("BFloat", 2), "float16": ("Half", 2)}
MODES = {"nearest_even": "nearest_even", "stochastic": "stochastic_a"}
ADDITIONS = 3
"""That the rounding of a number is made of."""
STORES = 4
"""Packs of 16 bytes that a turn writes."""
STEP = 3
"""Additions of a step of SGD, beside roundings: weight decay, momentum and the move."""
STEP_TARGET = 67
"""Least per cent of the speed of PyTorch's fused step, which memory bounds: issue 19."""
STEP_STORES = 2
"""Packs that a turn of a step writes: of the velocity and of the weight."""
PRODUCTS = 18
"""Of 64 bits, at least, in what draws the four words of a block."""


class Case(NamedTuple):
    """A format, by which loop it is rounded, and what was before."""

    format: str
    dtype: str
    kernel: str
    multiplications: int
    """For an element, beside what rounds it."""
    reads_twice: bool
    before: tuple[str, str]
    """What arithmetic allowed for both roundings; of blocks an estimate from the source."""
    by_number: bool = False
    """Whether elements draw random words by their numbers, four of them from a block; nearest
    rounding is as in C order.
    """
    roles: int = 0
    """That a step of SGD rounds; 0: an array is rounded."""

    @property
    def stores(self) -> int:
        """Packs of 16 bytes that a turn writes."""
        return STEP_STORES if self.roles else STORES

    @property
    def elements(self) -> int:
        """Of a turn; a step works on one pack of each array."""
        return (1 if self.roles else STORES) * 16 // self.width

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return CARRIERS[self.dtype.split(",")[0]][1]

    @property
    def moved(self) -> int:
        """Bytes read and written for an element."""
        return (5 if self.roles else 2) * self.width

    def program(self, mode: str) -> CudaProgram:
        """That has the kernel."""
        source = CARRIERS[self.dtype.split(",")[0]][0]
        if self.roles:
            return multi_tensor.sgd_program_of(source, [mode, mode, "", mode])
        return quantize.program_of(source, mode)

    def needs(self, mode: str) -> dict[str, int]:
        """What stands on the way around a turn."""
        roundings = self.roles or 1
        additions = ADDITIONS * roundings + (STEP if self.roles else 0)
        found = {r"\bFADD": additions * self.elements, machine_code.WIDE_STORE: self.stores}
        if self.multiplications:
            found[r"\bFMUL"] = self.multiplications * self.elements
        if self.by_number or (self.roles and mode != "nearest_even"):
            found[r"\bIMAD\.WIDE"] = PRODUCTS * roundings * self.elements // 4
        return found


CASES = (
    Case("e4m3fn", "float32", "qs_round", 0, False, ("154", "113")),
    Case("e4m3fn", "bfloat16", "qs_round", 0, False, ("72", "57")),
    Case("e4m3fn", "float16", "qs_round", 0, False, ("", "")),
    Case("e4m3fn", "float32, channels_last", "qs_order", 0, False, ("", "62"), True),
    Case("e4m3fn", "bfloat16, channels_last", "qs_order", 0, False, ("", "34"), True),
    Case("bfp<8,axis=0>", "float32", "qs_rows", 0, False, ("60 to 75", "")),
    Case("mxfp8_e4m3", "float32", "qs_groups", 0, False, ("45 to 60", "")),
    Case("bfp<8,axis=0>", "bfloat16", "qs_rows", 0, False, ("", "")),
    Case("mxfp8_e4m3", "bfloat16", "qs_groups", 0, False, ("", "")),
    Case("bfp8", "float32", "qs_whole", 0, True, ("67", "")),
    Case("nvfp4", "float32", "qs_groups", 2, True, ("20 to 30", "")),
    Case("SGD, three roles in e4m3fn", "float32", "qs_sgd", 0, False, ("", ""), roles=3),
)


def arithmetic(instructions: float, integer: float, moved: int) -> float:
    """Per cent of a copy's speed; moved : bytes read and written for an element."""
    allowed = CLOCKS / (BYTES / moved)  # clocks for an element while it is copied
    return 100 * allowed / max(instructions / ISSUED, integer / INTEGER)


def at_most(arithmetic: float, reads_twice: bool) -> float:
    """Per cent of a copy's speed, memory considered."""
    return 100 / (max(1.0, 100 / arithmetic) + 0.5 * reads_twice)


def rows() -> list[tuple[str, ...]]:
    """Of the table."""
    found = []
    for case in CASES:
        for which, (rounding, mode) in enumerate(MODES.items()):
            if case.by_number and mode == "nearest_even":
                continue
            kernel = machine_code.kernels(case.program(mode), "sm_90")[case.kernel]
            called = "words_of_rows" if case.by_number else ""
            way = machine_code.shortest_way(
                kernel, case.needs(mode), called, innermost=case.roles > 0
            )
            if way is None:
                raise RuntimeError(f"no loop of {case.kernel} rounds as {case.format} asks")
            counts = way.instructions / case.elements, way.integer / case.elements
            allowed = arithmetic(*counts, case.moved)
            targets = TARGETS.get((case.dtype, case.format), ("", ""))
            found.append(
                (
                    case.format if case.roles else f"`{case.format}`",
                    case.dtype,
                    rounding,
                    f"{counts[0]:.1f}",
                    f"{counts[1]:.1f}",
                    case.before[which],
                    f"{allowed:.0f}",
                    f"{at_most(allowed, case.reads_twice):.0f}",
                    str(STEP_TARGET if case.roles else targets[which]),
                )
            )
    return found


COLUMNS = ("format", "dtype", "rounding", "instructions", "integer pipe", "before, %",
           "arithmetic, %", "at most, %", "target, %")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu_estimate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", help="where the table of the page of performance goes")
    chosen = parser.parse_args(arguments)
    found = rows()
    print(table(COLUMNS, found, left=(0, 1, 2)))
    if chosen.json:
        written = {
            "command": "python -m tests.benchmarks.gpu_estimate",
            "machine": "no GPU: counted in what NVRTC 13.5 compiles for an H100",
            "columns": list(COLUMNS),
            "rows": [list(row) for row in found],
        }
        Path(chosen.json).write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
