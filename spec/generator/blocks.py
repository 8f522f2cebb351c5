"""What `generate.py` writes about block floating point."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import oracle
from oracle import DETERMINISTIC, Bfp, Element

from .inputs import FLOAT32_MAX, float32, float32_bits
from .writing import listed, policy_column, table

MANTISSAS = (
    1.0,
    -1.984375,
    0.515625,
    -0.0078125,
    0.75,
    1.4921875,
    -0.9921875,
    0.33203125,
    1.25,
    -0.125,
    3 / 256,
    -1.0,
)


def block_arrays() -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """Shapes and contents that BLK-2 and BLK-3 tell apart."""
    just_below = [float32(float32_bits(2.0**k) - 1) for k in (-3, 0, 1, 7, 10, 100)]
    rising = [m * 2.0**k for k, m in enumerate(MANTISSAS)]
    yield (12,), list(MANTISSAS)
    yield (3, 4), rising
    yield (2, 3, 2), rising[::-1]
    yield (6,), just_below
    yield (2, 3), [-x for x in just_below]
    yield (2, 5), [0.0, -0.0, 0.0, 0.0, 0.0, 3.0, math.nan, -0.3, math.inf, 1.1]
    yield (2, 3), [math.nan, math.nan, math.nan, math.inf, -math.inf, 0.0]
    yield (
        (7,),
        [2.0**-149, 2.0**-148 * 3, -(2.0**-140), 2.0**-127, 2.0**-130 * 1.25, 0.0, -(2.0**-126)],
    )
    yield (5,), [FLOAT32_MAX, -FLOAT32_MAX, 2.0**127, 2.0**121 * 1.5, -1.0]
    yield (4,), [2.0**200, -(2.0**128), 2.0**122 * 1.5, 1.0]
    yield (3,), [2.0**-200, 2.0**-134, -(2.0**-133) * 1.5]
    yield (6,), [65504.0, -65504.0, 1000.5, -512.25, 0.0, 255.75]
    yield (4,), [-128.0, 127.0, 3.0, 5.0]
    yield (1,), [-1.9990234375]
    yield (1, 1), [2.0**-24]
    yield (), [0.7001953125]


def geometries(shape: tuple[int, ...]) -> Iterator[tuple[int | tuple[int, ...] | None, int | None]]:
    """BLK-2: axis and size."""
    yield None, None
    if shape:
        yield 0, None
        yield -1, 4
    if len(shape) > 1:
        yield (0, 1), None
        yield 0, 2


def block_words(count: int, seed: int) -> list[int]:
    """Random words for a block, by RNG-3."""
    return [oracle.element_word(seed, 0, 0, i) for i in range(count)]


def block_policies(fmt: Element, array: list[float]) -> Iterator[str]:
    """BLK-13: the policies a caller may name, for arrays with infinities."""
    if any(map(math.isinf, array)):
        yield from ("saturate", "propagate", "nan", *["infinity"][: fmt.has_infinity])


def block_row(
    fmt: Bfp,
    mode: str,
    policy: str | None,
    shape: tuple[int, ...],
    array: list[float],
    words: list[int] | None,
) -> str:
    """One array under one format, rounding and policy."""
    blocks = oracle.quantize_blocks(array, shape, fmt, mode, words, policy)
    spelled = [f"{word:08x}" for word in words or ()]
    columns = (
        shape,
        array,
        spelled,
        blocks.values,
        blocks.codes,
        blocks.exponent_shape,
        blocks.exponents,
    )
    return " ".join([oracle.spell(fmt), mode, policy_column(policy), *map(listed, columns)])


def blocks_file() -> str:
    """Block floating point; the roundings take turns, so that each meets each format, range and
    geometry.
    """
    modes = [*DETERMINISTIC, "stochastic_a", "stochastic_b<8>", "stochastic_c<3>"]
    rows: list[str] = []
    by_policy: list[str] = []
    for (place, (shape, array)), word, bounds in product(
        enumerate(block_arrays()), (4, 6, 8), ("symmetric", "twos")
    ):
        for turn, (axis, size) in enumerate(geometries(shape)):
            fmt = Bfp(word, axis, size, bounds)
            first = (place + turn + word // 2) % len(modes)
            for mode in {"nearest_even": 0, modes[first]: 0, modes[(first + 4) % len(modes)]: 0}:
                words = block_words(len(array), len(rows)) if "stochastic" in mode else None
                rows.append(block_row(fmt, mode, None, shape, array, words))
            by_policy += [
                block_row(fmt, "nearest_even", policy, shape, array, None)
                for policy in block_policies(fmt.element, array)
            ]
    columns = (
        "format rounding policy shape input words output codes exponent_shape exponents; lists in C"
        " order, policy the caller's"
    )
    clauses = "BLK-1 BLK-2 BLK-3 BLK-4 BLK-5 BLK-13 COD-4 RND-8 RND-9 SRC-1 SRC-2 STR-1"
    return table(clauses, columns, [*rows, *by_policy])
