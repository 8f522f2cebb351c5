"""What `generate.py` writes about elementary operations."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import oracle
from oracle import DETERMINISTIC, OPERATIONS, Element, Fixed, Float

from .inputs import FLOAT32_MAX, float32
from .sums import spelled_quantizer
from .writing import listed, table

STREAM, STEP = 6, 3
FORMATS: tuple[Element, ...] = (Float(6, 9), Float(5, 2), Fixed(8, 2))
STOCHASTIC = ("stochastic_a", "stochastic_b<8>", "stochastic_c<3>")
ULP = 2.0**-21
"""Of float32 numbers from 4 to 8."""


def quantizers() -> Iterator[tuple[Element, str]]:
    """Every mode of three formats; a wide one, where the last bit of float64 counts."""
    for mode in (*DETERMINISTIC, *STOCHASTIC):
        yield from ((fmt, mode) for fmt in FORMATS)
    yield from (
        (Float(8, 23), mode)
        for mode in ("nearest_even", "to_odd", "toward_zero", "stochastic_a<20>")
    )


def operands() -> tuple[list[float], list[float]]:
    """Ties and their neighbours, cancellation, subnormals, overflow, special values, numbers drawn
    at random.
    """
    pairs = [
        (1.0, 3.0),
        (2.0, -3.0),
        (6.75, 3.0),
        (6.75 + ULP, 3.0),
        (6.75 - ULP, 3.0),
        (5.0625, 2.25),
        (5.0625 + ULP, 4.0),
        (5.0625 - ULP, 0.5),
        (256.0, 1.0),
        (1.0, 2.0**-30),
        (1.0, -(2.0**-30)),
        (2.25, 2.0**-100),
        (-2.25, 2.0**-100),
        (1.5, 1.5),
        (7.0, 7.0),
        (7.0, -7.0),
        (2.0**-149, 3.0),
        (2.0**-149, 2.0**127),
        (2.0**127, 2.0**-149),
        (FLOAT32_MAX, FLOAT32_MAX),
        (FLOAT32_MAX, 2.0**-20),
        (0.0, 0.0),
        (-0.0, 0.0),
        (-0.0, -0.0),
        (0.0, -0.0),
        (1.0, 0.0),
        (-1.0, 0.0),
        (1.0, -0.0),
        (math.inf, math.inf),
        (math.inf, -math.inf),
        (-math.inf, 0.0),
        (0.0, math.inf),
        (5.0, -math.inf),
        (math.nan, 1.0),
        (1.0, math.nan),
    ]
    drawn = random.Random(21)
    pairs += [
        (drawn.randint(-15, 15) * 2.0 ** drawn.randint(-3, 3), drawn.randint(1, 15) / 4)
        for _ in range(8)
    ]
    codes = [(drawn.randrange(1 << 30), drawn.randrange(1 << 30)) for _ in range(8)]
    pairs += [(float32(a), float32(b) * drawn.choice((1, -1))) for a, b in codes]
    left, right = zip(*pairs, strict=True)
    return list(left), list(right)


def arithmetic_file() -> str:
    """Each operation with each quantizer on all operands; the seed is the row's number."""
    a, b = operands()
    wide = (
        [1 / 3, 0.1, 1e300, -1e300, 2.0**-1000, 2.0, 0.7],
        [1 / 7, -0.1, 1e-300, 1e300, 3.0, -0.0, 0.7],
    )
    rows: list[str] = []
    for operation in OPERATIONS:
        for quantizer in quantizers():
            for dtype, x, y in (("float32", a, b), ("float64", *wide)):
                seed = len(rows)
                words = (oracle.element_word(seed, STREAM, STEP, i) for i in range(len(x)))
                results = [
                    oracle.operate(operation, *pair, quantizer, dtype, word)
                    for pair, word in zip(zip(x, y, strict=True), words, strict=True)
                ]
                rows.append(
                    f"{operation} {dtype} {seed} {listed(x)} {listed(y)} {listed(results)} "
                    f"{spelled_quantizer(quantizer)}"
                )
    columns = (
        f"operation dtype seed a b output quantizer; stream {STREAM}, step {STEP}; sqrt takes a"
        " alone"
    )
    return table("OPS-1 OPS-2", columns, rows)
