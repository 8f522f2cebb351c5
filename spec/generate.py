"""Writes vectors/ from the oracle: `python spec/generate.py`.

With `--check` it writes nothing and names, for each file that differs, the first line that does.
"""

from __future__ import annotations

import argparse
import bisect
import math
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import oracle
from oracle import DETERMINISTIC, STOCHASTIC, Bfp, Codebook, Element, Fixed, Float

VECTORS = Path(__file__).with_name("vectors")
BITS = (1, 2, 3, 8, 23, 24, 31, 32)
LARGE = ("fp16", "bf16", "tf32")
FLOAT16, BFLOAT16, BINARY32 = Float(5, 10), Float(8, 7), oracle.BINARY32
FLOAT32_MAX, FLOAT64_MAX = float.fromhex("0x1.fffffep127"), sys.float_info.max
TINY = (2.0**-1074, 2.0**-149, 2.0**-126)
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan)
# Formats of no name, for the parameters that no named format uses.
VARIANTS: tuple[Element, ...] = (
    Fixed(4, 2, symmetric=True),
    Fixed(4, 2, signed=False),
    Fixed(1, 0, signed=False),
    Fixed(3, -2),
    Fixed(3, 5),
    Float(2, 3, subnormals=False),
    Float(2, 2, zero=False),
    Float(2, 2, signed=False),
    Float(2, 1, bias=-3, specials="fn"),
    Float(2, 1, zero=False, specials="finite"),
    Float(3, 0, specials="finite"),
    Float(3, 0),
    Float(2, 2, signed=False, subnormals=False, specials="fn"),
    Float(1, 2, specials="finite"),
    Float(2, 2, overflow="nan"),
    Codebook((2.0, -1.5, 0.5, -0.25)),
    Codebook((1.0, 2.0, 4.0)),
    Codebook((-0.1, 0.3, 0.7)),
    Codebook((-0.1, 0.3, 0.7), dtype="float64"),
)


# -------------------------------------------------------------------------------------------------------------- writing


def text(number: float) -> str:
    """A float as compact hexadecimal that `float.fromhex` reads."""
    if number == 0 or not math.isfinite(number):
        return str(number).removesuffix(".0")
    digits, exponent = number.hex().split("p")
    return f"{digits.rstrip('0').removesuffix('.') if '.' in digits else digits}p{int(exponent)}"


def listed(items: Iterable[object]) -> str:
    """A list in one column: commas, `-` for what is not there."""
    return ",".join(cell(item) for item in items) or "-"


def cell(item: object) -> str:
    """One item of a list."""
    return "-" if item is None else text(item) if isinstance(item, float) else str(item)


def table(clauses: str, columns: str, rows: Iterable[str]) -> str:
    """A vector file: what it proves, what its columns are, its rows."""
    return "\n".join([f"# clauses: {clauses}", f"# columns: {columns}", *rows, ""])


# --------------------------------------------------------------------------------------------------------------- inputs


def float32_bits(number: float) -> int:
    """The binary32 code of a number within its range, cut toward zero in magnitude."""
    bits: int = struct.unpack("<I", struct.pack("<f", abs(number)))[0]
    return bits - 1 if float32(bits) > abs(number) else bits


def float32(bits: int) -> float:
    """The binary32 number of a code without sign."""
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


def beside(number: float) -> Iterator[float]:
    """A number, then its neighbours in float32 and float64."""
    yield number
    yield math.nextafter(number, -math.inf)
    yield math.nextafter(number, math.inf)
    if abs(number) < FLOAT32_MAX and number != 0:
        bits, sign = float32_bits(number), math.copysign(1.0, number)
        exact = float32(bits) == abs(number)
        yield from (sign * float32(near) for near in ((bits - 1, bits + 1) if exact else (bits, bits + 1)))


def coarse(number: float) -> Iterator[float]:
    """The neighbours of a number in float16 and bfloat16, for the sources that no float32 neighbour is exact in."""
    magnitude = Fraction(number)
    for source in (FLOAT16, BFLOAT16):
        place = source.place(abs(magnitude))
        exact = source.point(place) == abs(magnitude)
        for near in (place - 1, place + 1) if exact else (place, place + 1):
            if 0 < near <= source.top:
                yield math.copysign(oracle.carrier(source.point(near)), number)


def ends(fmt: Element) -> list[float]:
    """max and min, the next step beyond, half way there, and further."""
    numbers = []
    for end, sign in ((fmt.high, 1), (fmt.low, -1)):
        step = sign * abs(beyond(fmt, end) - end)
        numbers += [end, end + step / 2, end + step, end + 2 * step, end * 3, end * 16]
    far = [s * x for s in (1, -1) for x in (256.0, 65504.0, 2.0**100, FLOAT32_MAX, FLOAT64_MAX)]
    return [float(x) for x in numbers if abs(x) <= Fraction(FLOAT64_MAX)] + far


def beyond(fmt: Element, end: Fraction) -> Fraction:
    """The magnitude one step beyond an end of the range."""
    if isinstance(fmt, oracle.Grid):
        return fmt.point(fmt.place(abs(end)) + 1) * (-1 if end < 0 else 1)
    return end + 1


def without_repeats(numbers: Iterable[float]) -> list[float]:
    """Distinct numbers, ascending, then the special ones."""
    finite = {x for x in numbers if math.isfinite(x) and x != 0}
    return [*sorted(finite), *SPECIAL]


def dense_inputs(fmt: Element, light: bool = False) -> list[float]:
    """Every value, every midpoint and both ends, each with its neighbours; numbers far below the least.

    `light` leaves the float16 and bfloat16 neighbours out.
    """
    values = [oracle.carrier(v) for v in fmt.values()]
    middles = [float((Fraction(a) + Fraction(b)) / 2) for a, b in pairwise(values)]
    least = min(abs(v) for v in values if v)
    below = [s * x for s in (1.0, -1.0) for x in (*TINY, least / 4, least / 2, least * 0.75, least)]
    anchors = [near for x in (*values, *middles, *ends(fmt), *below) for near in beside(x)]
    return without_repeats(anchors if light else [*anchors, *(near for x in middles for near in coarse(x))])


def edge_inputs(fmt: Element) -> list[float]:
    """max and min and all that lies beyond, with their neighbours; what a format without zero or sign cannot hold."""
    least = oracle.carrier(fmt.least) if isinstance(fmt, oracle.Grid) else 1.0
    small = [s * x for s in (1.0, -1.0) for x in (least / 4, least / 2, least * 0.75, least)]
    return without_repeats(near for x in (*ends(fmt), *small) for near in beside(x))


def between(fmt: Float, place: int, share: float) -> Fraction:
    """The magnitude that lies a share of the way from one place to the next."""
    return fmt.point(place) + Fraction(share) * (fmt.point(place + 1) - fmt.point(place))


def sparse_inputs(fmt: Float) -> list[float]:
    """Edge exponents times edge significands times edge fractions of the quantum."""
    least, steps = fmt.place(fmt.least), 2**fmt.mantissa
    bottom, middle, end = steps, (fmt.offset - 1) * steps, fmt.top + 1 - steps
    places = [least - 1, least, least + 1, least + 2, bottom // 2 - 1, bottom // 2, bottom - 2, bottom - 1]
    for start in (bottom, bottom + steps, middle, middle + steps, end - steps, end, end + steps):
        places += [start + offset for offset in (0, 1, steps // 3, steps // 2, steps - 2, steps - 1)]
    fine = 2.0 ** (fmt.mantissa - 23), 2.0 ** (fmt.mantissa - 52)
    shares = [0, 0.25, 0.5, 0.75, *(s for f in fine for s in (f, 0.5 - f, 0.5 + f, 1 - f))]
    exact = [float(m) for m in (between(fmt, *pair) for pair in product(places, shares)) if Fraction(float(m)) == m]
    return without_repeats([s * x for x in (*exact, *TINY, 2.0**-150, FLOAT32_MAX, FLOAT64_MAX) for s in (1, -1)])


# ------------------------------------------------------------------------------------------------------ element formats

ROUND_COLUMNS = (
    f"input first second choices; first is what toward_zero gives, second the other result or -; "
    f"choices has a digit for each of {' '.join(DETERMINISTIC)}: 0 first, 1 second"
)


def same(a: float, b: float) -> bool:
    """Equal as results are: NaN is NaN, and -0 is not 0."""
    return text(a) == text(b)


def pair(first: float, results: list[float]) -> str:
    """Columns first, second and choices."""
    others = [r for r in results if not same(r, first)]
    if any(not same(r, others[0]) for r in others):
        raise AssertionError(f"more than two results: {first} {results}")
    choices = "".join("0" if same(r, first) else "1" for r in results)
    return f"{text(first)} {text(others[0]) if others else '-'} {choices}"


def round_row(fmt: Element, x: float, policy: str | None = None) -> str:
    """One input under every deterministic mode."""
    first = oracle.quantize(x, fmt, "toward_zero", 0, policy)
    return f"{text(x)} {pair(first, [oracle.quantize(x, fmt, mode, 0, policy) for mode in DETERMINISTIC])}"


def round_clauses(fmt: Element) -> str:
    """The clauses that a format's rows prove."""
    own = {
        Fixed: "FMT-2 FMT-3 FMT-8 RND-2",
        Float: f"FMT-2 FMT-4 FMT-6 FMT-8 {'' if fmt.has_zero else 'FMT-9 '}RND-2 RND-5",
        Codebook: "FMT-7 FMT-8 RND-3 RND-6",
    }
    return f"FMT-1 {own[type(fmt)]} RND-1 RND-4 RND-7 RND-8 RND-9 RND-10 RND-11"


def round_files() -> Iterator[tuple[str, str]]:
    """round_NAME.txt for every named element format."""
    for name, fmt in elements().items():
        inputs = sparse_inputs(fmt) if name in LARGE and isinstance(fmt, Float) else dense_inputs(fmt)
        yield f"round_{name}.txt", table(round_clauses(fmt), ROUND_COLUMNS, (round_row(fmt, x) for x in inputs))


def elements() -> dict[str, Element]:
    """The named element formats."""
    return {name: fmt for name, fmt in oracle.formats().items() if isinstance(fmt, Element)}


def small() -> dict[str, Element]:
    """Those of at most eight bits."""
    return {name: fmt for name, fmt in elements().items() if fmt.bits <= 8}


def variants() -> dict[str, Element]:
    """The formats of no name, by their strings."""
    return {oracle.spell(fmt): fmt for fmt in VARIANTS}  # type: ignore[arg-type]


def variants_file() -> str:
    """Deterministic rounding to the formats of no name, under every policy they allow."""
    rows = (
        f"{name} {policy} {round_row(fmt, x, policy)}"
        for name, fmt in variants().items()
        for policy in fmt.policies
        for x in (dense_inputs(fmt, light=True) if policy == fmt.policy else edge_inputs(fmt))
    )
    clauses = "FMT-3 FMT-4 FMT-5 FMT-6 FMT-7 FMT-8 FMT-9 RND-3 RND-6 RND-7 RND-8 STR-1"
    return table(clauses, f"format policy {ROUND_COLUMNS}", rows)


def policies_file() -> str:
    """The ends of the named formats under the policies that are not their own."""
    rows = (
        f"{name} {policy} {round_row(fmt, x, policy)}"
        for name, fmt in elements().items()
        for policy in fmt.policies
        if policy != fmt.policy
        for x in edge_inputs(fmt)
    )
    return table("FMT-8 FMT-9 RND-7 RND-8", f"format policy {ROUND_COLUMNS}", rows)


# ----------------------------------------------------------------------------------------------------------- stochastic

WORDS = (0, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF)


def steps(fmt: Element) -> tuple[tuple[Fraction, Fraction], ...]:
    """Two pairs of adjacent values, one of each sign where the format has both."""
    if not isinstance(fmt, oracle.Grid):
        values = fmt.values()
        return (values[-2], values[-1]), (values[1], values[0])
    top, sign = fmt.place(fmt.high), -1 if fmt.signed else 1
    high, low = top * 2 // 3, top // 4
    return (fmt.point(high), fmt.point(high + 1)), (sign * fmt.point(low), sign * fmt.point(low + 1))


def stochastic_inputs(fmt: Element) -> list[float]:
    """A value; fractions of a step that cut at, above and below every number of random bits; the bottom and the top."""
    shares = (0.5, 0.25 + 2.0**-19, 3 * 2.0**-10, 1 - 2.0**-18, 2.0**-33 + 2.0**-40, 1 - 2.0**-9)
    pairs = steps(fmt)
    inner = [start + Fraction(share) * (end - start) for (start, end), share in zip(pairs * 3, shares, strict=True)]
    least = fmt.least if isinstance(fmt, oracle.Grid) else Fraction(1, 4)
    end = fmt.high + (beyond(fmt, fmt.high) - fmt.high) * 3 / 8
    return [float(x) for x in (pairs[0][0], *inner, least * 5 / 16, -least * 11 / 16, end, -end)]


def threshold_words(fmt: Element, mode: str, x: float) -> tuple[int, ...]:
    """The last word that goes toward zero and the first that goes away, where there are both."""
    rule, (toward, away, odd) = oracle.parse_rule(mode), fmt.candidates(Fraction(x))
    if toward == away:
        return ()
    nu = (Fraction(x) - toward) / (away - toward)
    first = bisect.bisect_left(range(2**32), True, key=lambda word: oracle.takes_away(rule, nu, odd, x >= 0, word))
    return tuple(word for word in (first - 1, first) if 0 <= word < 2**32)


def stochastic_row(name: str, fmt: Element, mode: str, x: float) -> str:
    """One input under words at both sides of every edge."""
    words = sorted({*WORDS, *threshold_words(fmt, mode, x)})
    first = oracle.quantize(x, fmt, mode, 0)
    results = pair(first, [oracle.quantize(x, fmt, mode, word) for word in words])
    return f"{name} {mode} {text(x)} {','.join(f'{word:08x}' for word in words)} {results}"


def stochastic_file() -> str:
    """The three variants and their numbers of bits."""
    formats = {**elements(), **{name: fmt for name, fmt in variants().items() if isinstance(fmt, Codebook)}}
    rows = (
        stochastic_row(name, fmt, mode if bits == 32 else f"{mode}<{bits}>", x)
        for name, fmt in formats.items()
        for x in stochastic_inputs(fmt)
        for mode, bits in product(STOCHASTIC, BITS)
    )
    columns = "format rounding input words first second choices; words hexadecimal, choices a digit for each of them"
    return table("RND-2 RND-3 RND-4 RND-7 STR-2", columns, rows)


# --------------------------------------------------------------------------------------------------------------- blocks

MANTISSAS = (1.0, -1.984375, 0.515625, -0.0078125, 0.75, 1.4921875, -0.9921875, 0.33203125, 1.25, -0.125, 3 / 256, -1.0)


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
    yield (7,), [2.0**-149, 2.0**-148 * 3, -(2.0**-140), 2.0**-127, 2.0**-130 * 1.25, 0.0, -(2.0**-126)]
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


def block_row(fmt: Bfp, mode: str, shape: tuple[int, ...], array: list[float], words: list[int] | None) -> str:
    """One array under one format and rounding."""
    blocks = oracle.quantize_blocks(array, shape, fmt, mode, words)
    spelled = [f"{word:08x}" for word in words or ()]
    columns = (shape, array, spelled, blocks.values, blocks.codes, blocks.exponent_shape, blocks.exponents)
    return " ".join([oracle.spell(fmt), mode, *map(listed, columns)])


def blocks_file() -> str:
    """Block floating point; the roundings take turns, so that each meets each format, range and geometry."""
    modes = [*DETERMINISTIC, "stochastic_a", "stochastic_b<8>", "stochastic_c<3>"]
    rows: list[str] = []
    for (place, (shape, array)), word, bounds in product(enumerate(block_arrays()), (4, 6, 8), ("symmetric", "twos")):
        for turn, (axis, size) in enumerate(geometries(shape)):
            fmt = Bfp(word, axis, size, bounds)
            first = (place + turn + word // 2) % len(modes)
            for mode in {"nearest_even": 0, modes[first]: 0, modes[(first + 4) % len(modes)]: 0}:
                words = block_words(len(array), len(rows)) if "stochastic" in mode else None
                rows.append(block_row(fmt, mode, shape, array, words))
    columns = "format rounding shape input words output codes exponent_shape exponents; lists in C order"
    return table("BLK-1 BLK-2 BLK-3 BLK-4 BLK-5 COD-4 RND-8 RND-9 SRC-1 SRC-2 STR-1", columns, rows)


# ---------------------------------------------------------------------------------------------------- codes and strings


def codes_file() -> str:
    """Every code of every small format."""
    rows = (
        f"{name} {code:02x} {text(value)} {fmt.encode(value):02x}"
        for name, fmt in {**small(), **variants()}.items()
        for code, value in fmt.codes()
    )
    columns = "format code value canonical; canonical is the code the value encodes to; codes of nothing are left out"
    return table("FMT-3 FMT-4 FMT-5 FMT-6 FMT-7 COD-1 COD-2", columns, rows)


def strings_file() -> str:
    """The named formats written out."""
    rows = (f"{name} {oracle.spell(fmt)}" for name, fmt in oracle.formats().items())
    return table("STR-1", "name string", rows)


# ---------------------------------------------------------------------------------------------------------- random bits

# Random123, tests/kat_vectors, its three lines "philox4x32 10": what the oracle must give, never what it gave.
KNOWN_ANSWERS = (
    "00000000,00000000,00000000,00000000 00000000,00000000 6627e8d5,e169c58d,bc57ac4c,9b00dbd8",
    "ffffffff,ffffffff,ffffffff,ffffffff ffffffff,ffffffff 408f276d,41c83b0e,a20bc7c6,6d5451fd",
    "243f6a88,85a308d3,13198a2e,03707344 a4093822,299f31d0 d16cfe09,94fdcceb,5001e420,24126ea1",
)
SEEDS = (0, 1, 0xFFFFFFFF, 2**32, 0x0123456789ABCDEF, 2**64 - 1)
ROLES = ("weight", "activation", "error", "gradient", "momentum", "accumulator", "average", "", "exp_avg_sq", "Größe")


def streams_file() -> str:
    """Keys of streams."""
    rows = (
        f"{seed} {stream} {','.join(f'{word:08x}' for word in oracle.stream_key(seed, stream))}"
        for seed, stream in product(SEEDS, SEEDS)
    )
    return table("RNG-2", "seed stream key; key is hexadecimal", rows)


def roles_file() -> str:
    """Ids of streams; the role comes last, since it may be empty."""
    rows = (f"{tensor} {oracle.stream_id(role, tensor)} {role}" for role in ROLES for tensor in (0, 1, 2**32 - 1))
    return table("RNG-4", "tensor stream role; role is the rest of the line", rows)


def words_file() -> str:
    """Words of elements: the first of several streams, and the last of all."""
    places = list(zip(SEEDS, reversed(SEEDS), (0, 1, 2, 7, 2**31, 2**32 - 1), strict=True))
    indices = (*range(18), 2**16 + 3, 2**31 - 1, 2**31, 2**32, 2**33 + 5, 2**34 - 1)
    rows = (
        f"{seed} {stream} {step} {index} {oracle.element_word(seed, stream, step, index):08x}"
        for seed, stream, step in places
        for index in indices
    )
    return table("RNG-2 RNG-3", "seed stream step element word; word is hexadecimal", rows)


# ------------------------------------------------------------------------------------------------------------ the files

FILES: dict[str, Callable[[], str]] = {
    "round_variants.txt": variants_file,
    "policies.txt": policies_file,
    "stochastic.txt": stochastic_file,
    "blocks.txt": blocks_file,
    "codes.txt": codes_file,
    "strings.txt": strings_file,
    "philox.txt": lambda: table("RNG-1", "counter key words; all hexadecimal", KNOWN_ANSWERS),
    "streams.txt": streams_file,
    "roles.txt": roles_file,
    "words.txt": words_file,
}


def vectors() -> dict[str, bytes]:
    """Every file of vectors/, by name."""
    named = {name: write() for name, write in FILES.items()}
    return {name: content.encode() for name, content in {**dict(round_files()), **named}.items()}


def difference(name: str, expected: bytes) -> str | None:
    """What is wrong with a file as it stands, or None."""
    path = VECTORS / name
    if not path.exists():
        return f"{name}: missing"
    if path.read_bytes() == expected:
        return None
    found, wanted = path.read_bytes().split(b"\n"), expected.split(b"\n")
    pairs = enumerate(zip(found, wanted, strict=False))
    line = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
    there, here = (lines[line].decode() if line < len(lines) else "nothing" for lines in (found, wanted))
    return f"{name}: line {line + 1} is {there!r}, the oracle says {here!r}"


def check(expected: dict[str, bytes]) -> list[str]:
    """Every disagreement between vectors/ and the oracle."""
    strays = sorted({path.name for path in VECTORS.glob("*")} - set(expected))
    unknown = [f"{name}: not a file of the generator" for name in strays]
    return unknown + [problem for name, content in expected.items() if (problem := difference(name, content))]


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare vectors/ with the oracle and write nothing")
    checking = parser.parse_args().check
    expected = vectors()
    if checking:
        problems = check(expected)
        print("\n".join(problems) or "vectors/ is what the oracle says", file=sys.stderr if problems else sys.stdout)
        return 1 if problems else 0
    VECTORS.mkdir(exist_ok=True)
    for name, content in expected.items():
        (VECTORS / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
