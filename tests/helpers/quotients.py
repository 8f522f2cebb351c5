"""Arrays whose quotients lie so close to a bound that few bits of them do not tell the side, by
number theory.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np

ROUNDINGS = ("stochastic_a", "stochastic_b", "stochastic_c", "stochastic_c<31>")
SCALE_BITS = {"float16": 9, "bfloat16": 6, "float32": 22, "float64": 24}
"""Of a scale d whose greatest element is 3: the dtype represents 3·d, and float32 d."""
E2M1_BOUNDS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
"""The positive values of e2m1fn below its greatest, and the middles."""


def beside_ties(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(elements, words): rows under odd scales d, if the greatest element of a row has the value 3.

    For x = (a + n·d)/2^k, x/d·2^33 = m + r/d, r next to 0 or to d by the choice of a. ⌊m/2⌋ modulo
    2^32, which are the first 32 bits of ν, and the word sum up to all ones: the next bit of ν and
    what is left decide.
    """
    bits = SCALE_BITS[dtype]
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    elements, words = [], []
    for d in (2**bits - 3, 2 ** (bits - 1) + 1, 2 ** (bits - 1) + 2 ** (bits - 3) + 5):
        row, drawn = [3.0 * d], [0]
        for k, r, n in itertools.product((0, 1, 2, 3, 8, 20), (-3, -2, -1, 1, 2, 3), range(3)):
            numerator = r * pow(2, k - 33, d) % d + n * d
            m = numerator * 2 ** (33 - k) // d
            row.append(numerator / 2**k * (-1) ** r)
            drawn.append(2**32 - 1 - m // 2 % 2**32)
        elements.append(row)
        words.append(drawn)
    return np.array(elements).astype(kind), np.array(words, np.uint32)


def above_middles(dividend: float) -> np.ndarray:
    """The float32 d in [1, 2) for which dividend/d exceeds the middle of two float32, the lower one
    even, by less than the 40 bits after the point of the significands' quotient show; as
    float64.
    """
    shifted = np.uint64(int(np.frexp(dividend)[0] * 2**24) << 40)
    d = np.arange(2**23, 2**24, dtype=np.uint64)
    quotient = shifted // d
    half = np.where(quotient >= 2**40, np.uint64(2**16), np.uint64(2**15))
    chosen = (quotient % (4 * half) == half) & (quotient * d != shifted)
    return np.ldexp(d[chosen].astype(np.float64), -23)


def amaxes(name: str) -> np.ndarray:
    """NVFP4: of arrays in which a step divides as in `above_middles`."""
    reciprocals = above_middles(1.0)[::12]
    values = (
        2688 * reciprocals
        if name == "nvfp4_torchao"
        else [*2688 / reciprocals, *above_middles(2688.0)[::12]]
    )
    return np.float32(values)


def under_second_scale(amax: np.float32) -> np.ndarray:
    """NVFP4: a block with the amax of the array, then blocks of scale 1 with elements next to every
    bound of e2m1fn.
    """
    unit = amax / np.float32(2688)
    x = np.zeros((8, 16), np.float32)
    x[0, 0], x[1:, 0] = amax, 6 * unit
    x[1:, 1 : 1 + len(E2M1_BOUNDS)] = np.outer(
        1 + np.arange(-3, 4) / 2**23, unit * np.float64(E2M1_BOUNDS)
    )
    return x
