"""The programs for GPUs compile, and only if Python lays out their structures as they do."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import qemu_swalp as q
from qemu_swalp.kernels import build, layouts
from qemu_swalp.kernels.gpu import matmul, multi_tensor, quantize
from tests.helpers import nvrtc
from tests.helpers.samples import ACCUMULATIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVRTC is installed on Linux alone")

PROGRAMS = [
    quantize.program_of("Single", "nearest_even"),
    quantize.program_of("Single", "stochastic_a"),
    quantize.program_of("Half", "stochastic_b"),
    quantize.program_of("BFloat", "to_odd"),
    quantize.program_of("Double", "stochastic_c"),
    multi_tensor.sgd_program_of("Single", ["stochastic_a", "stochastic_a", "", "stochastic_a"]),
    multi_tensor.sgd_program_of(
        "Double", ["nearest_even", "stochastic_a", "toward_zero", "stochastic_c"]
    ),
    multi_tensor.rounding_program_of("Single", "stochastic_a"),
    multi_tensor.rounding_program_of("Double", "nearest_even"),
]
"""Those for GPUs; every mode's lines are in each."""


def flushing(ptx: str) -> list[str]:
    """Instructions that take subnormal numbers for zeros, as CuPy has the compiler do with float
    operators.
    """
    return [line.strip() for line in ptx.splitlines() if ".ftz" in line]


@pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: "-".join(value for _, value in program.defined)
)
def test_they_compile_for_gpus(program: build.CudaProgram) -> None:
    ptx = nvrtc.ptx(program)
    kernels_of = {
        "cuda/quantize.cu": ("qs_round", "qs_reduce", "qs_blocks"),
        "cuda/round_many.cu": ("qs_round_many",),
        "cuda/sgd.cu": ("qs_sgd",),
    }
    assert all(f".entry {name}" in ptx for name in kernels_of[program.source])
    assert not flushing(ptx)


def test_errors_in_the_source_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROGRAMS[0].text()
    broken = text.replace("__syncthreads()", "__syncthreads(", 1)
    monkeypatch.setattr(build.CudaProgram, "text", lambda self: broken)
    with pytest.raises(RuntimeError, match="error"):
        nvrtc.ptx(PROGRAMS[0])


def test_other_layouts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: Any = layouts.layouts() | {"TensorRounding.source": 0}
    monkeypatch.setattr(layouts, "layouts", lambda: offsets)
    with pytest.raises(RuntimeError, match="Python lays these structures out differently"):
        nvrtc.ptx(multi_tensor.rounding_program_of("Single", "nearest_even"))


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
def test_products_compile(accumulation: str) -> None:
    ptx = nvrtc.ptx(matmul.program_of(q.Accumulation.parse(accumulation).targets))
    assert "qs_matmul" in ptx
    assert not flushing(ptx)
