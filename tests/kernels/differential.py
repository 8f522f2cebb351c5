"""The kernels against the reference implementation on random cases: `python -m
tests.kernels.differential --seconds 300 --first 1`.

A case is a format, a dtype, a rounding, a policy, an array in some order of memory and an
instruction set. Each is drawn from a seed of its own, by which a difference is found again:
`--first SEED --seconds 0`.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import cpu
from tests.helpers.samples import DTYPES, ELEMENTS, POLICIES, ROUNDINGS, bits, formats

INSTRUCTIONS = ("baseline", "avx2", "avx512")
SCALES = ("e8m0fnu", "bf16", "fp16", "e4m3fn", "e5m2", "float<8,23>", "exponent<4>", "exponent<8>")
RULES = (
    *(None,) * 6,
    *("ceil", "rceil", "even", "minmax", "ggml", "mse", "quest"),
    *("transformer_engine", "torchao", "four_over_six"),
)
SHORT = ((3, 67), (5, 4, 9), (1, 130), (40, 3), (2, 3, 3, 5), (16, 16), (97,), (2, 1, 1, 33))
LONG = ((1543,), (3, 1100), (2, 17, 129))
"""Of blocks of many vectors, and rows of several pieces."""
SHAPES = SHORT + LONG


class Case(NamedTuple):
    """What `quantize` is called with."""

    x: np.ndarray
    format: str
    rounding: str
    options: dict[str, Any]
    instructions: str

    def __str__(self) -> str:
        kind = f"{self.x.dtype}{list(self.x.shape)}"
        return f"{self.format} {self.rounding} {self.options} {kind} {self.instructions}"


def element(draw: Random) -> str:
    """A format of single numbers."""
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(ELEMENTS)
    if kind == 1:
        options = draw.choice(("", "", ",specials=fn", ",specials=finite", ",subnormals=false"))
        if draw.random() < 0.15:
            options = draw.choice((",zero=false,specials=fn", ",unsigned,zero=false,specials=fn"))
        return f"float<{draw.randint(2, 8)},{draw.randint(0, 7)}{options}>"
    if kind == 2:
        options = draw.choice(("", "", ",symmetric", ",unsigned"))
        return f"fixed<{draw.randint(2, 16)},{draw.randint(-3, 12)}{options}>"
    if kind == 3:
        values = sorted({draw.randint(-64, 64) / 16 for _ in range(draw.randint(2, 24))} | {-5, 5})
        return f"codebook<{','.join(f'{value:g}' for value in values)}>"
    return draw.choice(
        ("fp16", "bf16", "float<8,23>", "e4m3fn", "e5m2", "e2m1fn", "e4m3fnuz", "posit8", "lns8")
    )


def block(draw: Random, rank: int) -> str:
    """A block format of an array with so many axes."""
    axes = draw.sample(range(-rank, 0), draw.randint(1, rank)) if draw.random() < 0.9 else None
    parts = [element(draw), "axis=none"]
    if axes is not None:
        one = len(axes) == 1
        parts[1] = f"axis={axes[0]}" if one else f"axis=({','.join(map(str, axes))})"
        if draw.random() < 0.7:
            parts.append(f"size={draw.choice((1, 2, 3, 5, 8, 16, 17, 32, 64))}")
    parts.append(f"scale={draw.choice(SCALES)}")
    rule = draw.choice(RULES)
    if rule == "minmax":
        parts[0] = f"fixed<{draw.randint(2, 8)},0,unsigned>"
    if rule in ("transformer_engine", "torchao", "four_over_six"):
        parts[0], parts[-1] = "e2m1fn", "scale=e4m3fn,second=float<8,23>"
    elif rule is None and draw.random() < 0.25:
        parts.append("second=float<8,23>")
    if rule is not None:
        parts.append(f"rule={rule}")
    if draw.random() < 0.15:
        parts.append(f"top={draw.choice((0.5, 1, 3, 100))}")
    if draw.random() < 0.2:
        parts.append(f"nonfinite={draw.choice(('element', 'block'))}")
    return f"block<{','.join(parts)}>"


def array(draw: Random, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Ordinary numbers, powers, random bits, the least and the greatest ones, and special ones."""
    rng = np.random.default_rng(draw.randrange(1 << 32))
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    width = 8 * np.dtype(kind).itemsize
    word = np.dtype(f"u{width // 8}")
    with np.errstate(over="ignore", under="ignore"):
        scale = 2.0 ** draw.choice((0, 0, 0, 3, -6, 12, -20, 60, -100, 127, -126))
        few = rng.choice([0.25, 1, 2, -3, 0.75, 1.5, -0.0], shape)
        ordinary = rng.standard_normal(shape)
        spread = ordinary * 2.0 ** rng.integers(-30, 30, shape)
        x = (draw.choice((few, ordinary, ordinary, spread)) * scale).astype(kind)
    sign = np.array(1 << (width - 1), word)
    any_bits = (rng.integers(0, 2**64, shape, np.uint64) >> np.uint64(64 - width)).astype(word)
    infinity = int(np.array(np.inf, kind).view(word))
    least = rng.integers(0, 40, shape).astype(word)
    greatest = (infinity - 1 - rng.integers(0, 40, shape)).astype(word)
    special = rng.choice(
        np.array([0, infinity, infinity + 1, infinity - 1, 1, infinity * 3 // 4], word), shape
    )
    for more in (any_bits, least, greatest, special):
        share = draw.choice((0, 0, 0, 0.02, 0.2, 1 if more is not any_bits else 0.5))
        signed = more | (any_bits & sign)
        x = np.where(rng.random(shape) < share, signed.view(kind), x)
    return x


def arranged(draw: Random, x: np.ndarray) -> np.ndarray:
    """In another order of memory, or a part of a greater array."""
    order = draw.sample(range(x.ndim), x.ndim)
    x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    if draw.random() < 0.2:
        apart = np.zeros((2 * x.shape[0], *x.shape[1:]), x.dtype)
        apart[::2] = x
        x = apart[::2]
    return x


def case(seed: int) -> Case:
    """The case of a seed."""
    draw = Random(seed)
    dtype, shape = draw.choice(DTYPES), draw.choice(SHAPES)
    x = arranged(draw, array(draw, dtype, shape))
    unscaled = draw.choice((element(draw), *formats()))
    format = block(draw, len(shape)) if draw.random() < 0.7 else unscaled
    rounding = draw.choice(ROUNDINGS)
    options: dict[str, Any] = {}
    if "stochastic" in rounding:
        word = draw.choice((None, None, 0, 1, 2**31 - 1, 2**31, 2**32 - 1))
        options["random"] = (
            q.RandomBits(draw.randrange(2**40), 2, draw.randrange(9), draw.randrange(9))
            if word is None
            else np.full(shape, word, np.uint32)
        )
    if draw.random() < 0.4:
        options["overflow"] = draw.choice(POLICIES)
    return Case(x, format, rounding, options, draw.choice(INSTRUCTIONS))


def outcome(case: Case) -> np.ndarray | str:
    """What `quantize` gives, or the words of its error."""
    try:
        return q.quantize(case.x, case.format, case.rounding, **case.options)
    except (TypeError, ValueError) as error:
        return str(error)


def differs(case: Case) -> bool | None:
    """Whether kernels and array program differ on a case; None where it is refused, or where this
    machine lacks its instruction set.
    """
    with kernels.disabled():
        expected = outcome(case)
    if isinstance(expected, str):
        return None
    try:
        with cpu.instructions(case.instructions):
            got = outcome(case)
    except ValueError:
        return None
    return isinstance(got, str) or not bool((bits(got) == bits(expected)).all())


def main(arguments: list[str] | None = None) -> int:
    """Prints each case that differs; 1 if there is any."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels.differential", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    chosen = parser.parse_args(arguments)
    end, seed, tried, different = time.monotonic() + chosen.seconds, chosen.first, 0, 0
    while True:
        result = differs(case(seed))
        tried += result is not None
        if result:
            different += 1
            print(seed, case(seed), flush=True)
        seed += 1
        if time.monotonic() >= end:
            break
    print(f"{tried} cases, {different} differences; next seed {seed}")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
