"""The machine code of the kernels for GPUs stays within the bounds of `cuda_bounds.toml`, keeps
what loops work on in registers, and flushes no subnormal number.

A selection; every source dtype and mode on every architecture by `python -m pytest -m exhaustive
tests/kernels/test_cuda_code.py`. `python -m tests.kernels.test_cuda_code` prints the table.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from qemu_swalp._util.tables import table
from qemu_swalp.kernels.gpu import multi_tensor, quantize
from qemu_swalp.kernels.gpu.device import SOURCE_DTYPES
from qemu_swalp.kernels.plan import MODES
from tests.helpers import machine_code, nvrtc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVRTC is installed on Linux alone")
WRITTEN = tomllib.loads((Path(__file__).parent / "cuda_bounds.toml").read_text())
BOUNDS: list[dict[str, Any]] = WRITTEN["program"]
STEPS: list[dict[str, Any]] = WRITTEN["step"]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
IN_CI = ("Single", "stochastic_a")
TURN = 64
"""Bytes that a thread stores in a turn of a fast loop."""
SPILLED = 0.02
"""Accesses of local memory that a loop may have for an instruction: what the compiler could not
keep of a turn beside what stands ready for seldom ways. They hit the first cache, which takes one
for four instructions.
"""
BYTES = {"Half": 2, "BFloat": 2, "Single": 4, "Double": 8}


def fast_loops(source: str, loops: tuple[machine_code.Loop, ...]) -> list[tuple[float, float]]:
    """(instructions, those of the integer pipe) for an element, the shortest loop first."""
    elements = TURN / BYTES[source]
    return sorted(
        (loop.instructions / elements, loop.integer / elements)
        for loop in loops
        if loop.stored == TURN and not loop.calls
    )


def way_of(source: str, kernel: machine_code.Kernel) -> tuple[float, float] | None:
    """(instructions, those of the integer pipe) for an element where blocks are held."""
    elements = TURN // BYTES[source]
    way = machine_code.shortest_way(kernel, {r"\bFADD": 3 * elements, r"\bST.*\.128": TURN // 16})
    return None if way is None else (way.instructions / elements, way.integer / elements)


def check_spilled(kernels: dict[str, machine_code.Kernel]) -> None:
    """Whether all loops, those that call functions too, work on registers."""
    for name, kernel in kernels.items():
        for loop in kernel.loops:
            assert loop.local <= SPILLED * loop.instructions, (name, loop)


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(
            each,
            marks=() if (each["source"], each["mode"]) == IN_CI else pytest.mark.exhaustive,
            id=f"{each['source']}-{each['mode']}",
        )
        for each in BOUNDS
    ],
)
def test_bounds(bounds: dict[str, Any]) -> None:
    assert not machine_code.missing(), machine_code.missing()
    kernels = machine_code.kernels(quantize.program_of(bounds["source"], bounds["mode"]), "sm_90")
    for name, most in bounds["registers"].items():
        assert kernels[name].registers <= most, name
    assert all(loop.local == 0 for loop in kernels["qs_round"].loops if not loop.calls)
    check_spilled(kernels)
    for name, most in bounds["ways"].items():
        found = way_of(bounds["source"], kernels[name])
        assert found is not None, name
        assert found <= tuple(most), name
    found = fast_loops(bounds["source"], kernels["qs_round"].loops)
    for (instructions, integer), most, most_integer in zip(
        found, bounds["instructions"], bounds["integer"], strict=False
    ):
        assert instructions <= most
        assert integer <= most_integer
    assert len(found) >= len(bounds["instructions"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("bounds", STEPS, ids=lambda each: each["mode"])
def test_bounds_of_steps(bounds: dict[str, Any]) -> None:
    mode = bounds["mode"]
    program = multi_tensor.sgd_program_of("Single", [mode, mode, "", mode])
    kernel = machine_code.kernels(program, "sm_90")["qs_sgd"]
    assert kernel.registers <= bounds["registers"]
    assert kernel.stack <= bounds["stack"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCE_DTYPES)
def test_every_program(source: str, mode: str, arch: str) -> None:
    program = quantize.program_of(source, mode)
    assert ".ftz" not in nvrtc.ptx(program, arch)
    kernels = machine_code.kernels(program, arch)
    assert {name: kernel.local for name, kernel in kernels.items()} == dict.fromkeys(kernels, 0)
    check_spilled(kernels)


def main() -> None:
    """Print what the compiler makes of each program, beside what it made before."""
    lines = []
    for each in BOUNDS:
        source, mode = each["source"], each["mode"]
        kernels = machine_code.kernels(quantize.program_of(source, mode), "sm_90")
        found = fast_loops(source, kernels["qs_round"].loops)[:3]
        cells = (", ".join(f"{column[which]:.1f}" for column in found) for which in (0, 1))
        before = (", ".join(map(str, each["before"][key])) for key in ("instructions", "integer"))
        registers = ", ".join(str(kernels[name].registers) for name in each["registers"])
        lines.append((source, mode, *before, *cells, registers))
    header = ("source", "mode", "before", "integer", "now", "integer", "registers")
    print(table(header, lines, left=(0, 1)))


if __name__ == "__main__":
    main()
