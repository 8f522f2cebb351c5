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
SPILLED: dict[str, float] = WRITTEN["spilled"]
BYTES = {"Half": 2, "BFloat": 2, "Single": 4, "Double": 8}


def fast_loops(source: str, loops: tuple[machine_code.Loop, ...]) -> list[tuple[float, float]]:
    """(instructions, those of the integer pipe) for an element, the shortest loop first."""
    elements = TURN / BYTES[source]
    return sorted(
        (loop.instructions / elements, loop.integer / elements)
        for loop in loops
        if loop.stored == TURN and not loop.calls
    )


def check_way(
    source: str,
    kernel: machine_code.Kernel,
    needs: dict[str, int],
    most: list[float],
    called: str = "",
) -> None:
    """needs, called : of `shortest_way`. most : instructions, and those of the integer pipe, for an
    element on it.
    """
    way = machine_code.shortest_way(kernel, needs, called)
    assert way is not None
    elements = TURN // BYTES[source]
    assert all(count / elements <= bound for count, bound in zip(way, most, strict=True)), way


def check_ways(bounds: dict[str, Any], kernels: dict[str, machine_code.Kernel]) -> None:
    """Where blocks are held; in the search for one scale, whose loads wait for none; and in another
    order of axes, where four elements share a block of random words.
    """
    source, packs = bounds["source"], TURN // 16
    elements = TURN // BYTES[source]
    rounded = {r"\bFADD": 3 * elements, machine_code.WIDE_STORE: packs}
    for name, most in bounds["ways"].items():
        check_way(source, kernels[name], rounded, most)
    check_way(source, kernels["qs_reduce"], {r"\bLD\S*\.128": packs}, bounds["search"])
    if "tiles" in bounds:
        drawn = {r"\bIMAD\.WIDE": 18 * elements // 4}
        check_way(source, kernels["qs_order"], rounded | drawn, bounds["tiles"], "words_of_rows")


def divisions(kernel: machine_code.Kernel) -> int:
    """Of integers, by numbers that the compiler does not know: tens of instructions each."""
    return sum("MUFU.RCP" in text or ("CALL" in text and "_div_" in text) for text in kernel.code)


def check_spilled(
    source: str, kernels: dict[str, machine_code.Kernel], arch: str = "sm_90"
) -> None:
    """Whether all loops, those that call functions too, work on registers."""
    most = SPILLED["more" if source == "Double" or arch == "sm_80" else "others"]
    for name, kernel in kernels.items():
        for loop in kernel.loops:
            assert loop.local <= most * loop.instructions, (name, loop)


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
    for name, most in bounds["divisions"].items():
        assert divisions(kernels[name]) <= most, name
    assert all(loop.local == 0 for loop in kernels["qs_round"].loops if not loop.calls)
    check_spilled(bounds["source"], kernels)
    check_ways(bounds, kernels)
    called = [loop for loop in kernels["qs_round"].loops if loop.calls and loop.stored == TURN]
    assert len(called) >= 2, "tables, and what no shape fits, are stored by 16 bytes"
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
    check_spilled("Single", {"qs_sgd": kernel})


@pytest.mark.exhaustive
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCE_DTYPES)
def test_every_program(source: str, mode: str, arch: str) -> None:
    program = quantize.program_of(source, mode)
    assert ".ftz" not in nvrtc.ptx(program, arch)
    kernels = machine_code.kernels(program, arch)
    assert {name: kernel.local for name, kernel in kernels.items()} == dict.fromkeys(kernels, 0)
    check_spilled(source, kernels, arch)


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
