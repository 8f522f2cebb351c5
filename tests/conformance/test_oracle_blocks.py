"""The oracle's block formats: geometry, scales, what is not finite."""

from __future__ import annotations

import ast
import math
import random
import re
from typing import Any

import numpy as np
import pytest

from tests.conformance import spec
from tests.conformance.judging import assert_same

oracle = spec.oracle()
FORMATS = spec.formats()


def test_blocks_twice() -> None:
    """BLK-6: symmetric blocks stay, scale and codes too; the paper's range moves the scale of the
    row it names.
    """
    for row in spec.read_blocks():
        if row.format.startswith("bfp<8") and "twos" not in row.format:
            fmt = oracle.Bfp(8, *geometry(row.format))
            again = oracle.quantize_blocks(row.output, row.shape, fmt, "nearest_even")
            assert_same(np.array(row.input), np.array(again.values), np.array(row.output))
            assert (tuple(again.codes), tuple(again.exponents)) == (row.codes, row.exponents)
    twos, example = oracle.Bfp(8, range="twos"), [-128.0, 127.0, 3.0, 5.0]
    once = oracle.quantize_blocks(example, (4,), twos)
    assert once.values == [-64.0 * 2, 64.0 * 2, 4.0, 4.0]


def geometry(text: str) -> tuple[Any, int | None]:
    """The axis and size of a block format's string."""
    axis = re.search(r"axis=(\([^)]*\)|-?\d+)", text)
    size = re.search(r"size=(\d+)", text)
    return ast.literal_eval(axis[1]) if axis else None, int(size[1]) if size else None


def test_block_geometry() -> None:
    """BLK-2, COD-4: which elements share an exponent, and the shape of the exponents."""
    ones = [1.0] * 24
    shape = (2, 3, 4)
    shapes = {
        (None, None): (1, 1, 1),
        (0, None): (2, 1, 1),
        (-1, None): (1, 1, 4),
        ((0, 2), None): (2, 1, 4),
        ((0, 1, -1), None): (1, 1, 1),
        (1, 2): (2, 2, 4),
        (-1, 3): (2, 3, 2),
    }
    assert {
        key: oracle.quantize_blocks(ones, shape, oracle.Bfp(8, *key)).exponent_shape
        for key in shapes
    } == shapes
    assert oracle.quantize_blocks(ones, (24,), oracle.Bfp(8, 0)).exponent_shape == (1,)


def test_scale_rule() -> None:
    """BLK-3, BLK-5: the binade of the greatest finite magnitude, clipped to eight bits; -128 where
    there is none.
    """
    rows = {
        (): -128,
        (0.0, math.nan): -128,
        (-3.0, math.inf): 1,
        (2.0**-200,): -128,
        (2.0**200,): 127,
    }
    assert {row: oracle.Bfp(8).scale(row) for row in rows} == rows
    assert oracle.Bfp(4).element == oracle.Fixed(4, 2, symmetric=True)
    assert oracle.Bfp(4, range="twos").element == oracle.Fixed(4, 2)


def scaled(name: str, x: list[float], policy: str | None = None) -> Any:
    """A row of numbers in a named format."""
    fmt = FORMATS[name]
    block = fmt.block_format if isinstance(fmt, oracle.Int) else fmt
    return oracle.quantize_scaled(x, (len(x),), block, policy=policy)


@pytest.mark.parametrize("special", [math.inf, -math.inf, math.nan])
def test_nonfinite_in_the_scale(special: float) -> None:
    """BLK-13, COD-4: MX and NVFP4 blocks with an infinity or NaN are NaN, by the code of their
    scale; other blocks are as without it.
    """
    for name, size, code in (("mxfp8_e4m3", 32, 255), ("mxfp4", 32, 255), ("nvfp4", 16, 0x7F)):
        with_it, without = (scaled(name, [x, *[1.0] * (2 * size - 1)]) for x in (special, 1.0))
        assert [math.isnan(v) for v in with_it.values] == [i < size for i in range(2 * size)]
        assert with_it.values[size:] == without.values[size:]
        assert with_it.scales == [code, without.scales[1]]
        assert with_it.codes[:size] == [0] * size


def test_nonfinite_at_its_place() -> None:
    """BLK-13: by the elements elsewhere, and under every policy that the caller names."""
    x = [math.inf, 1.0, -math.inf, 1.0]
    for name in ("int8", "fp8_1x128"):
        assert scaled(name, x).values == x
    assert oracle.quantize_blocks(x, (4,), oracle.Bfp(8)).values == x
    assert oracle.quantize_blocks(x, (4,), oracle.Bfp(8)).codes == [None, 64, None, 64]
    assert scaled("mxfp4", x, "propagate").values == x
    assert scaled("mxfp4", x, "saturate").values == [1.5, 1.0, -1.5, 1.0]
    assert [str(v) for v in scaled("mxfp4", x, "nan").values] == ["nan", "1.0", "nan", "1.0"]
    assert scaled("mxfp8_e5m2", x, "infinity").codes == [0x7C, 0x78, 0xFC, 0x78]
    assert all(map(math.isnan, scaled("mxfp4", [math.nan, *x], "propagate").values))
    assert scaled("mxfp4", [math.inf] * 4, "saturate").scales == [0]


def test_finite_numbers_under_a_policy() -> None:
    """BLK-13: `nan` is that of the element format where it has a NaN; else they saturate."""
    x = [7.0, 1.0]
    assert scaled("mxfp4", x, "nan").values == [6.0, 1.0]
    assert math.isnan(scaled("mxfp8_e4m3", [500.0, 1.0], "nan").values[0])


def test_rounding_by_the_binade() -> None:
    """SRC-2, SRC-3: the oracle's short cut to binary32 and the other sources gives what its search
    gives.
    """
    from oracle.binary32 import in_dtype

    draw = random.Random(0)
    for _ in range(300):
        x = (
            draw.choice((-1, 1))
            * draw.getrandbits(draw.choice((3, 24, 25, 26, 60)))
            * oracle.power(draw.randint(-200, 130))
        )
        for dtype in (oracle.BINARY32, oracle.Float(5, 10), oracle.Float(8, 7)):
            for mode in ("nearest_even", "toward_zero"):
                slow = oracle.quantize(x, dtype, mode, policy="saturate")
                assert in_dtype(x, dtype, mode == "toward_zero") == slow, (x, dtype, mode)


def test_scale_rules() -> None:
    """BLK-3, BLK-7, BLK-8: the rules at amax 448, 449 and 511 of E4M3, whose max is 448 =
    1.75·2^8.
    """
    e8m0, e4m3 = FORMATS["e8m0fnu"], FORMATS["e4m3fn"]
    powers = {"floor": (0, 0, 0), "rceil": (0, 1, 1), "ceil": (1, 1, 1), "even": (0, 0, 1)}
    for rule, expected in powers.items():
        fmt = oracle.Block(e4m3, scale=e8m0, rule=rule)
        scales = [
            oracle.quantize_scaled([x], (1,), fmt).scales[0] - 127 for x in (448.0, 449.0, 511.0)
        ]
        assert tuple(scales) == expected, rule
    thirds = oracle.quantize_scaled([1.0], (1,), oracle.Block(e4m3, scale=oracle.BINARY32))
    assert oracle.BINARY32.decode(thirds.scales[0]) == float(np.float32(1) / np.float32(448))
