"""What `generate.py` writes about sums of products."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

import oracle
from oracle import DETERMINISTIC, Accumulation, Element, Fixed, Float

from .inputs import FLOAT32_MAX, float32
from .writing import listed, table, text

STREAM, STEP = 5, 2
TERMS = 11
WANG, FP16, E5M2, FIXED = (
    Float(6, 9),
    Float(5, 10),
    Float(5, 2),
    Fixed(8, 2),
)  # 1812.08011 has the first
WIDE = Float(8, 23)
NAMED = {FP16: "fp16", E5M2: "e5m2"}


def spelled(rule: Accumulation) -> str:
    """STR-3."""
    parts = [spelled_quantizer(rule.sum)]
    parts += [f"product={spelled_quantizer(rule.product)}"] if rule.product else []
    parts += [f"group={rule.group}"] if rule.group > 1 else []
    parts += [f"chunk={rule.chunk}"] if rule.chunk else []
    parts += [f"total={spelled_quantizer(rule.total)}"] if rule.total else []
    return "; ".join(parts)


def spelled_quantizer(given: tuple[Element, str]) -> str:
    """STR-2."""
    fmt, rounding = given
    return f"{NAMED.get(fmt) or oracle.spell(fmt)}/{rounding}"


def accumulations() -> Iterator[Accumulation]:
    """Every mode, and every part of an accumulation with and without the others."""
    for mode in (*DETERMINISTIC, "stochastic_a", "stochastic_b<8>", "stochastic_c<3>"):
        yield Accumulation((WANG, mode))
        yield Accumulation((E5M2, mode), chunk=4, total=(FP16, mode))
    yield Accumulation((WIDE, "nearest_even"))
    yield Accumulation((WIDE, "to_odd"), group=3)
    yield Accumulation((FIXED, "nearest_away"), product=(Fixed(9, 4), "toward_zero"))
    yield Accumulation((FP16, "stochastic_a<11>"), product=(E5M2, "stochastic_a"), group=2, chunk=6)
    yield Accumulation((WANG, "nearest_even"), group=2, chunk=4, total=(WIDE, "stochastic_a<5>"))
    yield Accumulation((oracle.Codebook((-4.0, -1.5, 0.0, 0.5, 3.0)), "nearest_even"), chunk=3)


def operands() -> Iterator[tuple[str, list[float], list[float]]]:
    """(source dtype, a, b): ties, cancellation, what float64 does not hold, subnormals, overflow,
    special values.
    """
    drawn = random.Random(12)
    for _ in range(4):
        yield (
            "float32",
            *(
                [drawn.randint(-15, 15) * 2.0 ** drawn.randint(-5, 2) for _ in range(TERMS)]
                for _ in "ab"
            ),
        )
    for _ in range(4):
        bits = [
            [drawn.randrange(float32_code(-20), float32_code(20)) for _ in range(TERMS)]
            for _ in "ab"
        ]
        yield "float32", *([float32(n) * drawn.choice((1, -1)) for n in side] for side in bits)
    yield (
        "float32",
        [1.0, 2.0**-60, -1.0, 2.0**30, 2.0**-30, -(2.0**30)],
        [1.0, 1.0, 1.0, 2.0**30, 2.0**-30, 2.0**30],
    )
    yield "float32", [1.0, 2.0**-11, 2.0**-40, 3.0, 2.0**-10, -(2.0**-50)], [1.0] * 6
    yield (
        "float32",
        [2.0**-149, 2.0**-126, -(2.0**-149), 2.0**-100],
        [2.0**-149, 2.0**-20, 3.0, 2.0**-50],
    )
    yield (
        "float32",
        [FLOAT32_MAX, FLOAT32_MAX, -FLOAT32_MAX, 1.0],
        [FLOAT32_MAX, 2.0, FLOAT32_MAX, 1.0],
    )
    yield "float32", [math.inf, 1.0, -1.0], [1.0, -math.inf, 2.0]
    yield "float32", [math.inf, 1.0, 2.0], [0.0, 1.0, 3.0]
    yield "float32", [-math.inf, 1.0, 500.0], [1.0, 1.0, 500.0]
    yield "float32", [-0.0, 0.0, -1.0], [1.0, -1.0, 0.0]
    yield "float32", [-0.0], [1.0]
    yield "float64", [1 / 3, -1 / 3, 2.0**600, 0.1], [1 / 7, 1 / 7, 2.0**600, 0.3]
    yield "float64", [1e300, 1e300, -1e300, 2.0**-1074], [1e5, -1e300, 1e5, 2.0**-40]


def float32_code(exponent: int) -> int:
    """Of a power of two."""
    return (exponent + 127) << 23


def sums_file() -> str:
    """Each accumulation on each pair; the seed is the row's number."""
    rows: list[str] = []
    for rule, (dtype, a, b) in product(accumulations(), operands()):
        seed = len(rows)

        def word(kind: int, n: int, seed: int = seed) -> int:
            key = oracle.part_key(seed, STREAM, n, kind)
            return int(oracle.philox((0, STEP, *key), key)[0])

        result = oracle.sum_of_products(a, b, rule, word)
        rows.append(f"{dtype} {seed} {listed(a)} {listed(b)} {text(result)} {spelled(rule)}")
    columns = (
        f"dtype seed a b output accumulation; stream {STREAM}, step {STEP}; accumulation is the"
        " rest of the line"
    )
    return table("SUM-1 SUM-2 SUM-3 SUM-4 SUM-5 STR-3", columns, rows)
