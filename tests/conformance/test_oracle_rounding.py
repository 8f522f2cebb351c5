"""The oracle's roundings and codes of element formats, judged by brute force."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction

import numpy as np
import pytest

from tests.conformance import spec
from tests.conformance.judging import assert_same, judged, random_inputs
from tests.helpers.peers import VARIANTS

oracle = spec.oracle()
FORMATS = spec.formats()
SMALL = {
    name: fmt
    for name, fmt in spec.formats().items()
    if isinstance(fmt, oracle.Element) and fmt.bits <= 8
}


def test_neighbours_by_enumeration() -> None:
    """RND-2, RND-3, RND-4: directed modes give the values next to x, nearest modes none further
    than another.
    """
    for name in sorted(set(SMALL) & set(spec.round_names())):
        fmt = SMALL[name]
        values = fmt.values()
        for row in spec.read_round(name):
            if not math.isfinite(row.input) or not values[0] <= Fraction(row.input) <= values[-1]:
                continue
            x = Fraction(row.input)
            below, above = (
                values[bisect.bisect_right(values, x) - 1],
                values[bisect.bisect_left(values, x)],
            )
            even, away, _, up, down, odd = map(Fraction, row.results)
            assert (up, down) == (above, below), (name, row)
            if isinstance(
                fmt, oracle.Posit | oracle.Takum | oracle.Logarithmic
            ):  # RND-12: not the nearest in value
                assert {even, away} <= {below, above}
            else:
                assert abs(even - x) == abs(away - x) == min(x - below, above - x), (name, row)
            assert odd in (below, above), (name, row)


def test_to_odd_makes_double_rounding_harmless() -> None:
    """RND-4: rounding to odd with two bits more, then to nearest, is rounding once (Boldo and
    Melquiond, 2008).
    """
    wide, narrow = oracle.Float(8, 9), oracle.Float(8, 7)
    for row in spec.read_round("bf16"):
        twice = oracle.quantize(oracle.quantize(row.input, wide, "to_odd"), narrow)
        assert_same(np.array([row.input]), np.array([twice]), np.array([row.results[0]]))


@pytest.mark.parametrize("mode", [mode for mode in oracle.DETERMINISTIC if mode != "to_odd"])
@pytest.mark.parametrize("wide", ["fp16", "bf16"])
def test_to_odd_prepares_any_mode(wide: str, mode: str) -> None:
    """RND-7: to fp16 or bf16 to odd and then to e5m2 is rounding once, at the ends of both ranges
    too, whatever the second mode.
    """
    narrow = FORMATS["e5m2"]
    edges = [float(FORMATS[wide].high) * share for share in (0.5, 1.0, 1 + 2.0**-20, 1.5, 2.0)]
    x = [*edges, *(-v for v in edges), *(row.input for row in spec.read_round("e5m2"))]
    x += [row.input for row in spec.read_round(wide)] + random_inputs(narrow, 2000)
    twice = [oracle.quantize(oracle.quantize(v, FORMATS[wide], "to_odd"), narrow, mode) for v in x]
    assert_same(np.array(x), np.array(twice), judged(np.array(x), narrow, mode, "infinity"))


def test_to_odd_at_the_ends() -> None:
    """RND-7: the odd one of max and infinity, under `infinity` alone; an infinity stays."""
    beyond = [60000.0, 65535.0, 65536.0, -65536.0]
    fmt = FORMATS["e5m2"]
    assert [oracle.quantize(x, fmt, "to_odd") for x in beyond] == [57344.0] * 3 + [-57344.0]
    assert oracle.quantize(math.inf, fmt, "to_odd") == math.inf
    assert math.isnan(oracle.quantize(65536.0, fmt, "to_odd", policy="nan"))
    for even in (oracle.Float(3, 0), FORMATS["p3109_k8p4se"]):
        assert oracle.quantize(2.0**30, even, "to_odd") == math.inf
        assert oracle.quantize(-(2.0**30), even, "to_odd") == -math.inf
    assert oracle.quantize(2.0**30, oracle.P3109(4, 2, signed=False), "to_odd") == 6.0


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_share_of_words_that_go_away(bits: int) -> None:
    """RND-4: of the 2^N values of R, A sends ⌊ν·2^N⌋ away, B that of ν + 2^-(N+1), C the nearest
    even.
    """
    unit, scale = oracle.Fixed(8, 0), 2**bits
    for nu in (Fraction(k, 128 * scale) for k in range(1, 128 * scale, 7 + scale)):
        away = {
            mode: sum(
                oracle.quantize(nu, unit, f"{mode}<{bits}>", r << (32 - bits)) == 1
                for r in range(scale)
            )
            for mode in VARIANTS
        }
        assert away == {
            "stochastic_a": math.floor(nu * scale),
            "stochastic_b": math.floor(nu * scale + Fraction(1, 2)),
            "stochastic_c": round(nu * scale),
        }


def test_parity_is_that_of_the_integer() -> None:
    """RND-5: without mantissa bits n is 1 in every binade, so that every tie goes away, save that
    below the least.
    """
    powers = oracle.Float(3, 0, specials="finite")
    assert [oracle.quantize(x, powers) for x in (0.75, 1.5, 3.0, 6.0)] == [1.0, 2.0, 4.0, 8.0]
    assert oracle.quantize(float(powers.least) / 2, powers) == 0


def test_a_codebook_without_zero() -> None:
    """RND-3, RND-6: zero counts as positive, a tie that goes to the even place, -1; toward zero
    keeps the sign.
    """
    binary = FORMATS["binary"]
    modes = dict(zip(oracle.DETERMINISTIC, (-1, 1, 1, 1, -1, 1), strict=True))
    assert {mode: oracle.quantize(-0.0, binary, mode) for mode in modes} == modes
    assert [oracle.quantize(x, binary, "toward_zero") for x in (-0.25, 0.25)] == [-1.0, 1.0]


@pytest.mark.parametrize("name", SMALL)
def test_codes_come_back(name: str) -> None:
    """COD-1, COD-2: each value has one code; NaN the least positive quiet one."""
    fmt = SMALL[name]
    for code, value in fmt.codes():
        if math.isnan(value):
            assert fmt.encode(value) in fmt.nan_codes
        else:
            assert fmt.encode(value) == code
    for near in {math.nextafter(float(v), math.inf) for v in fmt.values()}:
        with pytest.raises(ValueError, match="is not in"):
            fmt.encode(near)


def test_undefined_codes() -> None:
    """FMT-3, FMT-5, FMT-7: a code that stands for nothing decodes to nothing."""
    symmetric, flushed = oracle.Fixed(8, 6, symmetric=True), oracle.Float(4, 3, subnormals=False)
    for fmt, code in ((symmetric, 0x80), (flushed, 0x07), (FORMATS["ternary"], 3)):
        with pytest.raises(ValueError, match="stands for nothing"):
            fmt.decode(code)


@pytest.mark.parametrize("name", SMALL)
def test_values_stay(name: str) -> None:
    """RND-11: every value is its own rounding, in every mode, under every policy, with any bits."""
    fmt = SMALL[name]
    modes = [(mode, 0) for mode in oracle.DETERMINISTIC] + [
        (mode, w) for mode in VARIANTS for w in (0, 2**32 - 1)
    ]
    for value in map(float, fmt.values()):
        assert {
            oracle.quantize(value, fmt, mode, word, p) for mode, word in modes for p in fmt.policies
        } == {value}
