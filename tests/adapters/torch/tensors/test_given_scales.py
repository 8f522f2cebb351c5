"""Rounding under scales that are given, as a step of a program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from qemu_swalp_torch import quantize

import qemu_swalp as q

FORMAT = "int<8,zero_point,axis=0>"
X = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
SCALES, POINTS = torch.tensor([0.1, 0.02, 1.0, 0.3, 0.5]), torch.tensor([0, 9, 128, 255, 50])


def rounded(x: Any, scales: Any, points: Any) -> Any:
    return quantize(x, FORMAT, scales=scales, zero_points=points, backward="bf16/toward_zero")


@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_the_same_in_compiled_programs(compiler: str | None) -> None:
    function = rounded
    if compiler is not None:
        function = torch.compile(rounded, fullgraph=True, backend=compiler)
    for factor in (1, 2):
        x = X.clone().requires_grad_()
        y = function(x, SCALES * factor, POINTS)
        (y * torch.pi).sum().backward()
        assert torch.equal(y, q.quantize(X, FORMAT, scales=SCALES * factor, zero_points=POINTS))
        expected = q.quantize(torch.full_like(X, torch.pi), "bf16", "toward_zero")
        assert torch.equal(x.grad, expected)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"positive and finite in float32, got -0\.1"):
        function(X, -SCALES, POINTS)


def test_numbers_arrays_and_random_bits_in_compiled_programs() -> None:
    random, array = q.RandomBits(3), np.float32([1, 2, 3, 4, 5])

    def several(x: Any, scales: Any) -> Any:
        one = quantize(x, "int<8,zero_point>", scales=0.1, zero_points=7)
        named = quantize(x, "int<8,axis=0>", scales=array)
        return one, named, quantize(x, "nf4_rows", "stochastic", random=random, scales=scales)

    q.register("nf4_rows", "block<nf4,axis=0,scale=float<8,23>>")
    try:
        compiled = torch.compile(several, fullgraph=True, backend="aot_eager")
        for found, expected in zip(compiled(X, SCALES), several(X, SCALES), strict=True):
            assert torch.equal(found, expected)
        expected = q.quantize(X, "nf4_rows", "stochastic", random=random, scales=SCALES)
        assert torch.equal(several(X, SCALES)[2], expected)
    finally:
        q.unregister("nf4_rows")


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs(strict: bool) -> None:
    class Step(torch.nn.Module):
        def forward(self, x: Any, scales: Any) -> Any:
            return quantize(x, "int<8,axis=0>", scales=scales) + quantize(x, "e4m3fn")

    program = torch.export.export(Step(), (X, SCALES), strict=strict).module()
    for scales in (SCALES, SCALES * 3):
        expected = q.quantize(X, "int<8,axis=0>", scales=scales) + q.quantize(X, "e4m3fn")
        assert torch.equal(program(X, scales), expected)


def test_transforms() -> None:
    expected = q.quantize(X, "int<8,axis=0>", scales=SCALES)
    by_sample = torch.vmap(lambda x, scale: quantize(x, "int<8>", scales=scale))
    assert torch.equal(by_sample(X, SCALES), expected)
    gradient = torch.func.grad(lambda x: quantize(x, "int<8,axis=0>", scales=SCALES).sum())
    assert torch.equal(gradient(X), torch.ones_like(X))


def test_the_operator() -> None:
    given = (X, f"{FORMAT}/nearest_even", SCALES, POINTS, 0, 0, torch.tensor(0), 0)
    torch.library.opcheck(torch.ops.qemu_swalp.round_given.default, given)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="needs zero_points= beside scales="):
        quantize(X, FORMAT, scales=SCALES)
    with pytest.raises(ValueError, match="needs scales= beside zero_points="):
        quantize(X, FORMAT, zero_points=POINTS)
    with pytest.raises(ValueError, match="format None passes x on, and has no scales="):
        quantize(X, None, scales=SCALES)
