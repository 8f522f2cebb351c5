"""Bit-for-bit agreement of MX and NVFP4 with torchao, on a structured and random sample.

Where torchao differs, a test shows it against the oracle.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import qemu_swalp as q
from tests.conformance import spec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchao.prototype.mx_formats.config import ScaleCalculationMode  # type: ignore[import-not-found]
    from torchao.prototype.mx_formats.kernels import (  # type: ignore[import-not-found]
        f4_unpacked_to_f32,
        unpack_uint4,
    )
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx  # type: ignore[import-not-found]
    from torchao.prototype.mx_formats.nvfp4_tensor import (  # type: ignore[import-not-found]
        nvfp4_quantize,
        per_tensor_amax_to_scale,
    )

ELEMENTS: dict[str, Any] = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": torch.float4_e2m1fn_x2,
}
RULES = ("floor", "ceil", "rceil", "even")


def mx(x: np.ndarray, name: str, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """torchao's scales and element codes."""
    scales, data = to_mx(
        torch.from_numpy(x), ELEMENTS[name], 32, ScaleCalculationMode[rule.upper()]
    )
    data = unpack_uint4(data) if name == "mxfp4" else data
    codes = data if data.dtype == torch.uint8 else data.view(torch.uint8)
    return scales.view(torch.uint8).numpy(), codes.numpy().reshape(x.shape)


def sample() -> np.ndarray:
    """Ordinary blocks at every scale; random bit patterns; amax at and beside every edge of the
    rules.
    """
    rng = np.random.default_rng(0)
    ordinary = rng.standard_normal((4000, 32)) * 2.0 ** rng.integers(-100, 120, (4000, 1))
    bits = rng.integers(0, 2**32, (4000, 32), dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = np.array(
        [448, 464, 480, 496, 512, 57344, 61440, 28, 30, 31, 32, 6, 7, 7.5, 7.75, 8, 5], np.float32
    )
    tops = (edges[:, None] * np.float32(2.0) ** np.arange(-80, 80, dtype=np.float32)).reshape(-1)
    tops = np.concatenate(
        [tops, np.nextafter(tops, np.float32(np.inf)), np.nextafter(tops, np.float32(0))]
    )
    structured = rng.uniform(-1, 1, (tops.size, 32)).astype(np.float32) * tops[:, None]
    structured[:, 7] = tops
    return np.concatenate([ordinary.astype(np.float32), bits[np.isfinite(bits).all(1)], structured])


X = sample()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_mx(name: str, rule: str) -> None:
    """BLK-3, BLK-7: scales and elements, but for the blocks that the tests below are about."""
    format = q.parse(name).replace(rule=rule)
    scales, codes = mx(X, name, rule)
    ours = q.encode(X, format, "nearest_even")
    same = (ours.scales == scales).reshape(-1)
    if rule == "rceil":  # its logarithm errs beside powers of two
        same |= np.frexp(np.abs(X).max(1) / format.element.max)[0] - 0.5 < 2.0**-20
    assert same.all(), (X[~same][:2], ours.scales[~same][:2], scales[~same][:2])
    agreed = (ours.scales == scales).reshape(-1) & (scales[:, 0] > 0)
    assert agreed.mean() > 0.95
    assert (ours.codes == codes)[agreed].all()


def test_the_logarithm_of_torchao() -> None:
    """BLK-7: amax/6 just above 2^87 needs 2^88; log2 in float32 rounds to 87, and 6 is exceeded."""
    amax = np.nextafter(np.float32(6 * 2.0**87), np.float32(np.inf))
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = amax
    element = spec.formats()["e2m1fn"]
    oracle = spec.oracle().Block(element, -1, 32, spec.formats()["e8m0fnu"], "rceil")
    expected = spec.oracle().quantize_scaled(x[0].tolist(), (32,), oracle).scales
    assert Fraction(float(amax)) / 6 > Fraction(2) ** 87
    assert expected == [88 + 127]
    assert q.encode(x, q.parse("mxfp4").replace(rule="rceil"), "nearest_even").scales.tolist() == [
        [88 + 127]
    ]
    assert mx(x, "mxfp4", "rceil")[0].tolist() == [[87 + 127]]


@pytest.mark.parametrize("rule", ["floor", "ceil", "even"])
def test_the_least_scale_of_torchao(rule: str) -> None:
    """BLK-3, BLK-7: scale 2^-127 is code 0; torchao divides by 2^-126 there, and so halves the
    block.
    """
    x = np.full((1, 32), 2.0**-125, np.float32)
    scales, _ = mx(x, "mxfp8_e4m3", rule)
    encoded = reversed(to_mx(torch.from_numpy(x), torch.float8_e4m3fn, 32))
    theirs = to_dtype(*encoded, torch.float8_e4m3fn, 32, torch.float32)
    assert scales.tolist() == [[0]]
    assert (theirs.numpy() == x / 2).all()
    assert (q.quantize(x, q.parse("mxfp8_e4m3").replace(rule=rule)) == x).all()


def test_infinity_and_nan() -> None:
    """BLK-13: a NaN makes its block NaN by scale code 255, as there; so does an infinity, where
    `to_mx` gives the block a great scale that flushes its neighbours to zero.
    """
    x = np.ones((2, 32), np.float32)
    x[0, 3], x[1, 3] = math.inf, math.nan
    encoded = reversed(to_mx(torch.from_numpy(x), torch.float8_e4m3fn, 32))
    theirs = to_dtype(*encoded, torch.float8_e4m3fn, 32, torch.float32).numpy()
    assert theirs[0].tolist() == [0.0] * 3 + [math.inf] + [0.0] * 28
    assert np.isnan(theirs[1]).all()
    assert np.isnan(q.quantize(x, "mxfp8_e4m3")).all()
    for name in ELEMENTS:
        codes = q.encode(x, name, "nearest_even")
        assert codes.scales.tolist() == [[255], [255]]
        assert mx(x[1:], name, "floor")[0].tolist() == [[255]]


def nvfp4(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """torchao's block scales, element codes, tensor scale and values."""
    tensor = torch.from_numpy(x)
    g = per_tensor_amax_to_scale(tensor.abs().max())
    scales, data = nvfp4_quantize(tensor, 16, g)
    codes = unpack_uint4(data).reshape(x.shape)
    values = f4_unpacked_to_f32(codes).reshape(len(x), -1, 16) * (
        g * scales.to(torch.float)
    ).unsqueeze(-1)
    return (
        scales.view(torch.uint8).numpy(),
        codes.numpy(),
        g.item(),
        values.reshape(x.shape).numpy(),
    )


@pytest.mark.parametrize(
    "scale", [1.0, 2.0**-60, 2.0**60, 2.0**120, 2.0**-110, 2.0**-120, 2.0**-130]
)
def test_nvfp4(scale: float) -> None:
    """BLK-11: scales, elements and values, but for zeros where (1/g)/b exceeds float32 (0·∞)."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((1500, 64)) * 2.0 ** rng.integers(-14, 3, (1500, 1)) * scale).astype(
        np.float32
    )
    x[:, ::9] = 0
    scales, codes, g, values = nvfp4(x)
    ours = q.encode(x, "nvfp4_torchao", "nearest_even")
    assert ours.second.view(np.float32).item() == g
    assert (ours.scales == scales).all()
    with np.errstate(over="ignore"):
        inverse = (
            np.float32(1)
            / np.float32(g)
            / torch.from_numpy(scales).view(torch.float8_e4m3fn).float().numpy()
        )
    lost = (x == 0) & np.isinf(np.repeat(inverse, 16, axis=1))
    assert (ours.codes == codes)[~lost].all()
    got = q.quantize(x, "nvfp4_torchao")
    assert (got.view(np.int32) == values.view(np.int32))[~lost].all()
    assert (got[lost] == 0).all()


def test_an_array_of_zeros() -> None:
    """BLK-11: stays zero; torchao divides zero by zero."""
    zeros = np.zeros((2, 16), np.float32)
    assert np.isnan(nvfp4(zeros)[3]).all()
    for name in ("nvfp4", "nvfp4_torchao"):
        assert (q.quantize(zeros, name) == 0).all()
