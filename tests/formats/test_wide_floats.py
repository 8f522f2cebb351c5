"""float32 and float64 as formats, and what lies between: up to 52 mantissa bits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.rounding import DETERMINISTIC

RNG = np.random.default_rng(0)
X = RNG.standard_normal(3000) * 2.0 ** RNG.integers(-1060, 1020, 3000)
ENDS = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.0**-1022, np.finfo(np.float64).max]
NUMBERS = np.concatenate([X, ENDS])
MODES = (*DETERMINISTIC, "stochastic", "stochastic_b<5>", "stochastic_c")


def bits(x: np.ndarray) -> list[int]:
    return np.where(np.isnan(x), np.nan, x).view(np.int64).tolist()


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_float64_and_float32_hold_their_own_numbers(
    mode: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemu_swalp.kernels._enabled", kernels)
    random = q.RandomBits(1) if mode.startswith("stochastic") else None
    assert bits(q.quantize(NUMBERS, "float64", mode, random=random)) == bits(NUMBERS)
    with np.errstate(over="ignore"):
        single = NUMBERS.astype(np.float32)
    assert bits(q.quantize(single, "float32", mode, random=random).astype(np.float64)) == bits(
        single.astype(np.float64)
    )


@pytest.mark.parametrize(("exponent", "mantissa"), [(11, 51), (11, 24), (10, 40), (8, 52)])
def test_formats_between_round_exactly(exponent: int, mantissa: int) -> None:
    f = q.Float(exponent, mantissa)
    finite = X[np.abs(X) < f.max]
    expected = []
    for x in finite.tolist():
        e = max(math.frexp(x)[1] - 1, 2 - 2 ** (exponent - 1))
        ulp = Fraction(2) ** (e - mantissa)
        expected.append(math.copysign(float(round(Fraction(x) / ulp) * ulp), x))
    assert q.quantize(finite, f).tolist() == expected
    assert q.quantize(np.float64(f.max), f) == f.max


def test_parameters_of_float64() -> None:
    f, info = q.parse("float64"), np.finfo(np.float64)
    assert (f.max, f.min_normal, f.min_subnormal, f.epsilon) == (
        *(float(info.max), float(info.tiny), 5e-324, float(info.eps)),
    )
    assert (f.bits, f.precision, str(f), f.value_count) == (
        *(64, 53, "float<11,52>", 2**64 - 2**53 - 1),
    )
    with pytest.raises(ValueError, match="mantissa must be from 0 to 52, got 53"):
        q.Float(11, 53)


def test_codes_of_more_than_32_bits_are_refused() -> None:
    for call in (
        lambda: q.encode(X, "float64"),
        lambda: q.encode(X, "float<8,30>", "rne"),
        lambda: q.decode(np.uint32([1]), "float64", "float64"),
        lambda: q.pack(np.uint32([1]), "float64"),
        lambda: q.unpack(np.uint8([1]), "float64", 1),
        lambda: q.quantize_state_dict({"x": X}, "float64"),
    ):
        with pytest.raises(ValueError, match="codes have at most 32 bits, and this format has"):
            call()
    with pytest.raises(TypeError, match="float32 cannot represent the values of float<11,52>"):
        q.quantize(np.float32([1]), "float64")
