"""What `generate.py` writes about blocks under scales of every format and rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import oracle
from oracle import BINARY32, DETERMINISTIC, TIES, Block, Fixed, Float, Int

from .blocks import MANTISSAS, block_policies, block_words
from .inputs import BFLOAT16, FLOAT16, FLOAT32_MAX, float32, float32_bits
from .writing import listed, policy_column, table

SOURCES = {"float32": BINARY32, "float16": FLOAT16, "bfloat16": BFLOAT16, "float64": Float(11, 52)}


def scaled_formats() -> Iterator[tuple[str, Block]]:
    """The MX elements under every rule, in runs of five; the other named formats; every other kind
    of scale.
    """
    named = oracle.formats()
    for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8"):
        for rule in ("", "ceil", "rceil", "even"):
            fmt = replace(named[name], size=5, rule=rule)  # type: ignore[type-var]
            yield oracle.spell(fmt), fmt
    nvfp4, fp8 = named["nvfp4"], named["fp8_128x128"]
    blocks = [nvfp4, named["nvfp4_torchao"], named["mxfp4"], fp8, named["bm8_e2m5"]]
    blocks += [replace(fmt, size=4) for fmt in blocks[:2]]
    blocks += [
        replace(nvfp4, size=4, rule=""),
        Block(nvfp4.element, -1, 4, nvfp4.scale),
        Block(fp8.element, (0, -1), (1, 3), BINARY32),
        Block(Fixed(6, 4, symmetric=True), 0, None, oracle.Exponent(4), "even"),
    ]
    yield from ((oracle.spell(fmt), fmt) for fmt in blocks)
    integers = (Int(8), Int(4), Int(8, axis=0), Int(4, size=3, axis=-1, scale=FLOAT16))
    points = (Int(8, True), Int(4, True, -1, 3), Int(8, True, 0, scale=BFLOAT16))
    yield from ((oracle.spell(fmt), fmt.block_format) for fmt in (*integers, *points))


def scaled_arrays() -> Iterator[tuple[str, tuple[int, ...], list[float]]]:
    """Source dtype, shape and contents: zeros, NaN, infinities, subnormals, one element, ragged
    tails, both ends.
    """
    tops = [448.0, 464.0, 480.0, 496.0, 6.0, 7.0, 7.5, 5.0, 2.0**-3 * 31, 1.9921875, 28.0, 30.0]
    signs = [x if i % 3 else -x for i, x in enumerate(tops)]
    yield "float32", (2, 6), [m * 2.0 ** (k % 5) for k, m in enumerate(MANTISSAS)]
    yield "float32", (12,), [float32(float32_bits(x) - i % 2) for i, x in enumerate(tops)]
    yield (
        "float32",
        (3, 7),
        [
            0.0,
            -0.0,
            0.0,
            0.0,
            0.0,
            1.0,
            -3.6875,
            math.nan,
            2.5,
            -0.296875,
            0.703125,
            1.1015625,
            math.inf,
            0.0625,
            -math.inf,
            0.0,
            0.0,
            0.0,
            -1.0,
            0.375,
            math.nan,
        ],
    )
    yield "float32", (6,), [2.0**-149, 2.0**-148 * 3, -(2.0**-140), 2.0**-127, 0.0, -(2.0**-126)]
    yield "float32", (2, 3), [FLOAT32_MAX, -FLOAT32_MAX, 2.0**127, 2.0**121 * 1.5, -1.0, 2.0**-149]
    yield "float32", (5,), [2.0**-149, 0.0, -(2.0**-149), 2.0**-147, 2.0**-149 * 3]
    yield "float32", (1,), [-1.9990234375]
    yield "float32", (), [0.7001953125]
    yield "bfloat16", (2, 6), signs
    yield "float16", (2, 3), [65504.0, -1000.5, 2.0**-24, 3 * 2.0**-24, 0.0999755859375, -512.5]
    yield "float64", (4,), [1 / 3, -(2.0**-200), 2.0**-30 + 2.0**-70, 1e100]


def scaled_row(
    name: str,
    fmt: Block,
    source: str,
    mode: str,
    policy: str | None,
    shape: tuple[int, ...],
    array: list[float],
    words: list[int] | None,
    given: tuple[list[float], list[int]] | None = None,
) -> str:
    """One array under one format, rounding and policy; the scales and zero points that are given,
    if any, in two more columns.
    """
    dtype, numbers = SOURCES[source], given or ([], [])
    found = oracle.quantize_scaled(array, shape, fmt, mode, words, dtype, policy, *numbers)
    second = None if found.second is None else [found.second]
    spelled = [f"{word:08x}" for word in words or ()]
    scales = (found.scale_shape, found.scales, second or (), found.zero_points or ())
    columns = (shape, array, spelled, found.values, found.codes, *scales, *(given or ()))
    return " ".join([name, source, mode, policy_column(policy), *map(listed, columns)])


def fits(fmt: Block, source: str, shape: tuple[int, ...]) -> bool:
    """BLK-2, SRC-1: whether the format takes arrays of that dtype and shape."""
    axes = [] if fmt.axis is None else [fmt.axis] if isinstance(fmt.axis, int) else fmt.axis
    rank = max(len(shape), 1)
    if any(not -rank <= axis < rank for axis in axes):
        return False
    if len({axis % rank for axis in axes}) < len(axes):
        return False
    if source == "float64":
        return fmt.second is None and "ggml" not in fmt.rule
    if isinstance(fmt.element, oracle.Table):
        return in_float32(fmt)
    return source != "float16" or fmt.element.bits <= 8


def nonfinite_formats() -> Iterator[tuple[str, Block]]:
    """BLK-13: every format above, and each choice where it is not the default."""
    yield from scaled_formats()
    named = oracle.formats()
    e4m3fn = Float(4, 3, specials="fn")
    blocks = (
        replace(named["mxfp4"], size=5, nonfinite="element"),  # type: ignore[type-var]
        replace(named["nvfp4"], size=4, nonfinite="element"),  # type: ignore[type-var]
        Block(e4m3fn, -1, 3, BINARY32, nonfinite="block"),
        Block(Fixed(8, 0, signed=False), -1, 3, BFLOAT16, "minmax", nonfinite="block"),
        Block(Float(5, 2), -1, 3),
        Block(Fixed(5, 2, signed=False), -1, 3),
        Block(replace(e4m3fn, overflow="nan"), 0, None, BINARY32),
    )
    yield from ((oracle.spell(fmt), fmt) for fmt in blocks)
    integers = Int(8, size=3, axis=-1, scale=e4m3fn)
    yield oracle.spell(integers), integers.block_format


def nonfinite_rows() -> Iterator[str]:
    """BLK-13: infinities and NaN in every source dtype, under the policies a caller may name."""
    numbers = [math.inf, 1.0, 0.75, -math.inf, math.nan, 0.5, 3.0, -1.5, 448.0]
    pairs = [math.inf, math.inf, -math.inf, -math.inf, 0.375, -5.0, 0.0, math.inf, 2.0]
    for (name, fmt), source in product(nonfinite_formats(), SOURCES):
        for array in (numbers, pairs) if source == "float32" else (numbers,):
            if fits(fmt, source, (3, 3)):
                for policy in (None, *block_policies(fmt.element, array)):
                    yield scaled_row(name, fmt, source, "nearest_even", policy, (3, 3), array, None)


def table_formats() -> Iterator[tuple[str, Block]]:
    """BLK-15: tables of every family under scales of every kind; other tops."""
    named = oracle.formats()
    nf4, e4m3fn, e8m0fnu = named["nf4"], named["e4m3fn"], named["e8m0fnu"]
    no_zero = oracle.Codebook((-3.0, -1.1, 0.7, 2.0))
    blocks = [
        Block(nf4, -1, 4, BINARY32),
        Block(nf4, 0, None, BFLOAT16),
        Block(nf4, -1, 5, e8m0fnu),
        Block(nf4, -1, 4, e4m3fn, second=BINARY32),
        Block(nf4, -1, 4, BINARY32, top=0.75),
        Block(named["posit8"], -1, 4, e8m0fnu, top=1.0),
        Block(oracle.Posit(6, 1), None, None, FLOAT16, top=4.0),
        Block(named["takum_linear8"], -1, 3, BINARY32, top=1.0),
        Block(oracle.Takum(4, linear=True), -1, 5, top=2.0),
        Block(named["pot4"], -1, 4, e8m0fnu, "rceil"),
        Block(named["lns8"], -1, 4, BINARY32),
        Block(named["binary"], (0, -1), (1, 3), BINARY32),
        Block(named["ternary"], -1, 3, oracle.Exponent(5), "ceil"),
        Block(no_zero, -1, 4, BINARY32),
        Block(oracle.Codebook((-1e-3, -2e-5, 0.0, 7.0)), -1, 3, e4m3fn),
        Block(named["e2m1fn"], -1, 4, e4m3fn, top=4.0),
        Block(named["e4m3fn"], -1, 4, BINARY32, top=240.0),
        Block(named["e2m1fn"], -1, 4, e8m0fnu, "rceil", top=4.0),
    ]
    yield from ((oracle.spell(fmt), fmt) for fmt in blocks)


def in_float32(fmt: Block) -> bool:
    """BLK-15: whether the elements are those of 32-bit sources."""
    if not isinstance(fmt.element, oracle.Table):
        return True
    values = [abs(v) for v in fmt.element.ordered if v]
    return min(values) >= oracle.power(-86) and max(values) < oracle.power(128)


def tables_file() -> str:
    """Tables under scales, and scales of another top; infinities and NaN under every policy."""
    formats = list(table_formats())
    rows = list(array_rows(formats))
    numbers = [math.inf, 1.0, 0.75, -math.inf, math.nan, 0.5, 3.0, -1.5, 448.0]
    for (name, fmt), source in product(formats, ("float32", "float16")):
        if fits(fmt, source, (3, 3)):
            for policy in (None, *block_policies(fmt.element, numbers)):
                rows.append(
                    scaled_row(name, fmt, source, "nearest_even", policy, (3, 3), numbers, None)
                )
    return table("BLK-15 BLK-4 BLK-8 BLK-13 SRC-3 COD-4 COD-7 STR-1", COLUMNS, rows)


def searching_formats() -> Iterator[tuple[str, Block]]:
    """BLK-17: every kind of scale and element."""
    named = oracle.formats()
    e2m1fn, e4m3fn, e8m0fnu = named["e2m1fn"], named["e4m3fn"], named["e8m0fnu"]
    int4 = Fixed(4, 0, symmetric=True)
    blocks = [
        Block(e2m1fn, -1, 4, e8m0fnu, "mse"),
        Block(e4m3fn, -1, 5, e8m0fnu, "mse"),
        Block(Fixed(4, 2, symmetric=True), 0, None, oracle.Exponent(8), "mse"),
        Block(int4, -1, 4, BINARY32, "mse"),
        Block(int4, (0, -1), (1, 3), BFLOAT16, "mse"),
        Block(e2m1fn, -1, 4, e4m3fn, "mse", BINARY32),
        Block(named["nf4"], -1, 4, BINARY32, "mse"),
        Block(named["binary"], -1, 3, BINARY32, "mse"),
        Block(named["posit8"], -1, 4, e8m0fnu, "mse", top=4.0),
        Block(e2m1fn, -1, 4, e4m3fn, "four_over_six"),
        Block(e2m1fn, -1, 5, e4m3fn, "four_over_six", BINARY32),
        Block(e2m1fn, 0, None, BINARY32, "four_over_six"),
    ]
    yield from ((oracle.spell(fmt), fmt) for fmt in blocks)


def searches_file() -> str:
    """Scales that are chosen by error."""
    rows = list(array_rows(searching_formats()))
    rng = [oracle.element_word(1, 0, 0, i) for i in range(480)]
    normal = [
        float32(float32_bits(sum(rng[12 * i + j] for j in range(12)) / 2.0**32 - 6.0))
        for i in range(40)
    ]
    for name, fmt in searching_formats():
        rows.append(scaled_row(name, fmt, "float32", "nearest_even", None, (2, 20), normal, None))
    return table("BLK-17 BLK-9 COD-4 COD-7 STR-1", COLUMNS, rows)


def ggml_formats() -> Iterator[tuple[str, Block]]:
    """BLK-18, BLK-19: ggml's formats, and others of their rules."""
    named = oracle.formats()
    for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
        fmt = replace(named[name], size=5)  # type: ignore[type-var]
        yield oracle.spell(fmt), fmt
    blocks = [
        Block(Fixed(3, 0), 0, 2, BFLOAT16, "ggml_signed"),
        Block(Fixed(2, 0, signed=False), 0, 3, named["e5m2"], "ggml_minimum"),
        Block(named["e2m1fn"], -1, 4, named["e4m3fn"], "ggml", nonfinite="element"),
    ]
    yield from ((oracle.spell(fmt), fmt) for fmt in blocks)


def halves() -> list[float]:
    """Blocks of five whose quotients lie on ties, or beside them."""
    numbers = [-8.0, 0.5, 1.5, -2.5, 3.5, 8.0, -0.5, -1.5, 2.5, 7.5, 0.0, 15.0, 0.5, 1.5, 14.5]
    numbers += [16.0, -16.0, 0.49999997, -0.49999997, 6.5, -3.0, -3.0, -3.0, -3.0, -3.0]
    return [*numbers, 1.0, 31.0, 1.5, 16.5, 30.5]


def ggml_file() -> str:
    """ggml's blocks by its own roundings and all others; infinities and NaN under every policy."""
    formats = list(ggml_formats())
    rows = list(array_rows(formats, TIES))
    numbers = [math.inf, 1.0, 0.75, -math.inf, math.nan, 0.5, 3.0, -1.5, 448.0]
    for name, fmt in formats:
        for mode in ("nearest_even", "nearest_away", *TIES):
            rows.append(scaled_row(name, fmt, "float32", mode, None, (6, 5), halves(), None))
        for policy in (None, *block_policies(fmt.element, numbers)):
            near = ("nearest_even", policy, (3, 3), numbers, None)
            rows.append(scaled_row(name, fmt, "float32", *near))
    return table("BLK-18 BLK-19 RND-4 COD-4 COD-7 STR-1", COLUMNS, rows)


def given_rows() -> Iterator[str]:
    """BLK-16: scales that are given, exact and not, beyond the range and below it, to formats of
    every kind; one for all blocks, and one for each.
    """
    named = oracle.formats()
    e4m3fn, e8m0fnu = named["e4m3fn"], named["e8m0fnu"]
    points = Int(4, True, -1, 3, FLOAT16).block_format
    formats = [
        Block(named["e2m1fn"], -1, 3, e8m0fnu),
        Block(Fixed(8, 6, symmetric=True), 0, None),
        Block(e4m3fn, -1, 3, BINARY32),
        Block(named["e2m1fn"], -1, 3, e4m3fn),
        Block(named["nf4"], -1, 3, BFLOAT16),
        points,
    ]
    numbers = [0.1, 1.0, -0.75, 0.3, math.inf, 0.5, 3.0, -1.5, 448.0, 0.0, math.nan, -7.0]
    for fmt, shape in product(formats, ((2, 6), (12,))):
        blocks = {fmt.block(index) for index in product(*map(range, shape))}
        powers = [2.0**-3, 2.0, 2.0**-127, 2.0**100][: len(blocks)]
        free = [0.1, 1.0 / 3.0, 1e-9, 1e6][: len(blocks)]
        zero = [0, 15, 7, 8][: len(blocks)] if fmt == points else []
        scales = powers if fmt.powers else [float32(float32_bits(x)) for x in free]
        for choice, place in ((scales, zero), (scales[:1], zero[:1])):
            for mode in ("nearest_even", "toward_negative"):
                form = (oracle.spell(fmt), fmt, "float32", mode, None, shape, numbers, None)
                yield scaled_row(*form, (choice, place))


def given_file() -> str:
    """Scales that are given."""
    columns = f"{COLUMNS}; then given given_zero_points"
    return table("BLK-16 BLK-13 COD-4", columns, given_rows())


def array_rows(
    formats: Iterable[tuple[str, Block]], further: tuple[str, ...] = ()
) -> Iterator[str]:
    """Every array under every format; the roundings take turns beside nearest-even."""
    modes = [*DETERMINISTIC[1:], "stochastic_a", "stochastic_b<8>", "stochastic_c<3>", *further]
    count = 0
    for (place, (name, fmt)), (turn, (source, shape, array)) in product(
        enumerate(formats), enumerate(scaled_arrays())
    ):
        if not fits(fmt, source, shape):
            continue
        for mode in ("nearest_even", modes[(place + turn) % len(modes)]):
            words = block_words(len(array), count) if "stochastic" in mode else None
            yield scaled_row(name, fmt, source, mode, None, shape or (1,), array, words)
            count += 1


COLUMNS = (
    "format dtype rounding policy shape input words output codes scale_shape scales second"
    " zero_points; lists in C order, policy the caller's, scales, second and zero_points"
    " decimal codes"
)


def scaled_file() -> str:
    """Blocks under every scale and rule."""
    clauses = (
        "BLK-1 BLK-2 BLK-3 BLK-4 BLK-7 BLK-8 BLK-9 BLK-10 BLK-11 BLK-12 BLK-13 SRC-1 SRC-2 SRC-3"
        " COD-4 COD-7 STR-1"
    )
    return table(clauses, COLUMNS, [*array_rows(scaled_formats()), *nonfinite_rows()])
