"""NVFP4 by the arithmetic that TransformerEngine's reference quantizer in Python defines
(`custom_recipes/reference_nvfp4.py`), written anew with PyTorch's float32 operations.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

import qemu_swalp as q

SIGNS = "+++-+------+-+--"
TILES = "block<e2m1fn,axis=(-2,-1),size=16,scale=e4m3fn,rule=transformer_engine,second=float<8,23>>"
GREATEST = torch.tensor(torch.finfo(torch.float32).max)
TIES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def element_codes(x: torch.Tensor) -> torch.Tensor:
    """E2M1, to nearest even: of the ties the second, fourth and sixth go up."""
    magnitude = x.abs()[..., None]
    up = torch.tensor([False, True, False, True, False, True, False])
    place = torch.where(up, magnitude >= TIES, magnitude > TIES).sum(-1)
    return place + 8 * torch.signbit(x)


def quantized(x: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(element codes, block scales, values) of a matrix in blocks of rows·16."""
    m, n = x.shape
    amax = x.abs().reshape(m // rows, rows, n // 16, 16).amax((1, 3))
    encode = torch.minimum(torch.tensor(448.0) * 6.0 / x.abs().max(), GREATEST)
    encode = torch.where(encode == 0, torch.ones(()), encode)
    scale = torch.minimum(amax * (encode * torch.reciprocal(torch.tensor(6.0))), GREATEST)
    scale = scale.clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    decode = scale.float() * (1.0 / encode)
    inverse = torch.minimum(1.0 / decode, GREATEST)
    spread = inverse.repeat_interleave(rows, 0).repeat_interleave(16, 1)
    codes = element_codes((x * spread).clamp(-6.0, 6.0))
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values = grid[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
    return codes, scale, values * decode.repeat_interleave(rows, 0).repeat_interleave(16, 1)


matrices = arrays(
    np.float32, (32, 64), elements=st.floats(-1000, 1000, width=32), fill=st.just(np.float32(0.3))
)


@settings(max_examples=25)
@given(matrices, st.integers(-40, 40))
@pytest.mark.parametrize(("format", "rows"), [("nvfp4", 1), (TILES, 16)])
def test_codes_scales_and_values(format: str, rows: int, x: np.ndarray, exponent: int) -> None:
    noise = np.random.default_rng(abs(exponent)).standard_normal(x.shape).astype(np.float32)
    for y in (np.ldexp(x, exponent), np.ldexp(noise, exponent)):
        codes, scales, values = quantized(torch.from_numpy(y), rows)
        found = q.encode(y, format, "nearest_even")
        assert (found.codes == codes.numpy()).all()
        assert (found.scales == scales.view(torch.uint8).numpy()).all()
        np.testing.assert_allclose(q.decode(found, format), values.numpy(), rtol=3e-7)


def test_columns_are_transformed_before_they_are_rounded() -> None:
    """The transposed matrix by 16×16: rows of it times signs, times the Hadamard matrix, over 4."""
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    matrix = torch.ones(1, 1)
    while len(matrix) < 16:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.tensor([1.0 if sign == "+" else -1.0 for sign in SIGNS])
    turned = (x.T.reshape(-1, 16).double() @ (signs.diag() @ matrix).double() / 4).reshape(32, 64)
    found = q.hadamard_transform(x.T.contiguous(), f"hadamard<16,signs={SIGNS}>")
    np.testing.assert_allclose(found.numpy(), turned.numpy(), atol=1e-6)
    codes, scales, _ = quantized(found, 1)
    ours = q.encode(found, "nvfp4", "nearest_even")
    assert (ours.codes == codes).all()
    assert (ours.scales == scales.view(torch.uint8)).all()
