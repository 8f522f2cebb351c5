"""Vectors of element formats: deterministic and stochastic rounding, codes, strings."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import oracle
from oracle import (
    DETERMINISTIC,
    P3109,
    STOCHASTIC,
    Codebook,
    Element,
    Fixed,
    Float,
    Logarithmic,
    Posit,
    Takum,
)

from .inputs import beyond, dense_inputs, edge_inputs, sparse_inputs
from .writing import pair, table, text

BITS = (1, 2, 3, 8, 23, 24, 31, 32)
LARGE = ("fp16", "bf16", "tf32")
# Named formats without vectors: small ones of their families, below, stand for them.
REPRESENTED = (
    "p3109_k8p3se",
    "p3109_k8p3sf",
    "p3109_k8p4se",
    "p3109_k8p4sf",
    "posit16",
    "takum8",
    "takum16",
    "takum_linear8",
    "takum_linear16",
    "lns8",
)
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
    P3109(3, 2),
    P3109(4, 1),
    P3109(3, 1, signed=False, domain="finite"),
    P3109(4, 2, signed=False),
    P3109(5, 3, domain="finite"),
    Posit(4, 0),
    Posit(5, 1),
    Takum(4),
    Takum(4, linear=True),
    Logarithmic(4, 1),
    Logarithmic(3, 0, midpoint="arithmetic"),
    Logarithmic(3, 2, bias=6, dtype="float64", overflow="nan"),
)

ROUND_COLUMNS = (
    "input first second choices; first is what toward_zero gives, second the other result or -; "
    f"choices has a digit for each of {' '.join(DETERMINISTIC)}: 0 first, 1 second"
)


def round_row(fmt: Element, x: float, policy: str | None = None) -> str:
    """One input under every deterministic mode."""
    first = oracle.quantize(x, fmt, "toward_zero", 0, policy)
    return (
        f"{text(x)}"
        f" {pair(first, [oracle.quantize(x, fmt, mode, 0, policy) for mode in DETERMINISTIC])}"
    )


def round_clauses(fmt: Element) -> str:
    """The clauses that a format's rows prove."""
    own = {
        Fixed: "FMT-2 FMT-3 FMT-8 RND-2",
        Float: f"FMT-2 FMT-4 FMT-6 FMT-8 {'' if fmt.has_zero else 'FMT-9 '}RND-2 RND-5",
        Codebook: "FMT-7 FMT-8 RND-3 RND-6",
        P3109: "FMT-2 FMT-8 FMT-11 RND-2 RND-5",
        Posit: "FMT-8 FMT-10 FMT-12 RND-3 RND-12",
        Takum: "FMT-8 FMT-10 FMT-13 RND-3 RND-12",
        Logarithmic: "FMT-8 FMT-10 FMT-14 RND-3 RND-12",
    }
    return f"FMT-1 {own[type(fmt)]} RND-1 RND-4 RND-7 RND-8 RND-9 RND-10 RND-11"


def round_files() -> Iterator[tuple[str, str]]:
    """round_NAME.txt for every named element format."""
    for name, fmt in elements().items():
        inputs = (
            sparse_inputs(fmt) if name in LARGE and isinstance(fmt, Float) else dense_inputs(fmt)
        )
        yield (
            f"round_{name}.txt",
            table(round_clauses(fmt), ROUND_COLUMNS, (round_row(fmt, x) for x in inputs)),
        )


def elements() -> dict[str, Element]:
    """The named element formats that have vectors."""
    named = oracle.formats().items()
    return {
        name: fmt for name, fmt in named if isinstance(fmt, Element) and name not in REPRESENTED
    }


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
        for x in (
            dense_inputs(fmt, light=True) if policy == fmt.policy else edge_inputs(fmt, policy)
        )
    )
    clauses = (
        "FMT-3 FMT-4 FMT-5 FMT-6 FMT-7 FMT-8 FMT-9 FMT-10 FMT-11 FMT-12 FMT-13 FMT-14 RND-3 RND-5"
        " RND-6 RND-7 RND-8 RND-12 STR-1"
    )
    return table(clauses, f"format policy {ROUND_COLUMNS}", rows)


def policies_file() -> str:
    """The ends of the named formats under the policies that are not their own."""
    rows = (
        f"{name} {policy} {round_row(fmt, x, policy)}"
        for name, fmt in elements().items()
        for policy in fmt.policies
        if policy != fmt.policy
        for x in edge_inputs(fmt, policy)
    )
    return table("FMT-8 FMT-9 RND-7 RND-8", f"format policy {ROUND_COLUMNS}", rows)


# ------------------------------------------------------------------------------------------
# stochastic

WORDS = (0, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF)


def steps(fmt: Element) -> tuple[tuple[Fraction, Fraction], ...]:
    """Two pairs of adjacent values, one of each sign where the format has both."""
    if not isinstance(fmt, oracle.Grid):
        values = fmt.values()
        return (values[-2], values[-1]), (values[1], values[0])
    top, sign = fmt.place(fmt.high), -1 if fmt.signed else 1
    high, low = top * 2 // 3, top // 4
    return (fmt.point(high), fmt.point(high + 1)), (
        sign * fmt.point(low),
        sign * fmt.point(low + 1),
    )


def stochastic_inputs(fmt: Element) -> list[float]:
    """A value; fractions of a step that cut at, above and below every number of random bits; the
    bottom and the top.
    """
    shares = (0.5, 0.25 + 2.0**-19, 3 * 2.0**-10, 1 - 2.0**-18, 2.0**-33 + 2.0**-40, 1 - 2.0**-9)
    pairs = steps(fmt)
    inner = [
        start + Fraction(share) * (end - start)
        for (start, end), share in zip(pairs * 3, shares, strict=True)
    ]
    least = fmt.least if isinstance(fmt, oracle.Grid) else Fraction(1, 4)
    end = fmt.high + (beyond(fmt, fmt.high) - fmt.high) * 3 / 8
    return [float(x) for x in (pairs[0][0], *inner, least * 5 / 16, -least * 11 / 16, end, -end)]


def threshold_words(fmt: Element, mode: str, x: float) -> tuple[int, ...]:
    """The last word that goes toward zero and the first that goes away, where there are both."""
    rule, (toward, away, odd) = oracle.parse_rule(mode), fmt.candidates(Fraction(x))
    if toward == away:
        return ()
    nu = (Fraction(x) - toward) / (away - toward)
    first = bisect.bisect_left(
        range(2**32), True, key=lambda word: oracle.takes_away(rule, nu, odd, x >= 0, word)
    )
    return tuple(word for word in (first - 1, first) if 0 <= word < 2**32)


def stochastic_row(name: str, fmt: Element, mode: str, x: float) -> str:
    """One input under words at both sides of every edge."""
    words = sorted({*WORDS, *threshold_words(fmt, mode, x)})
    first = oracle.quantize(x, fmt, mode, 0)
    results = pair(first, [oracle.quantize(x, fmt, mode, word) for word in words])
    return f"{name} {mode} {text(x)} {','.join(f'{word:08x}' for word in words)} {results}"


def stochastic_file() -> str:
    """The three variants and their numbers of bits."""
    kinds = (Codebook, Posit)
    formats = {
        **elements(),
        **{name: fmt for name, fmt in variants().items() if isinstance(fmt, kinds)},
    }
    rows = (
        stochastic_row(name, fmt, mode if bits == 32 else f"{mode}<{bits}>", x)
        for name, fmt in formats.items()
        for x in stochastic_inputs(fmt)
        for mode, bits in product(STOCHASTIC, BITS)
    )
    columns = (
        "format rounding input words first second choices; words hexadecimal, choices a digit for"
        " each of them"
    )
    return table("RND-2 RND-3 RND-4 RND-7 STR-2", columns, rows)


# ------------------------------------------------------------------------------------------
# codes and strings


def codes_file() -> str:
    """Every code of every small format."""
    rows = (
        f"{name} {code:02x} {text(value)} {fmt.encode(value):02x}"
        for name, fmt in {**small(), **variants()}.items()
        for code, value in fmt.codes()
    )
    columns = (
        "format code value canonical; canonical is the code the value encodes to; codes of nothing"
        " are left out"
    )
    return table(
        "FMT-3 FMT-4 FMT-5 FMT-6 FMT-7 FMT-10 FMT-11 FMT-12 FMT-13 FMT-14 COD-1 COD-2",
        columns,
        rows,
    )


def strings_file() -> str:
    """The named formats written out."""
    rows = (f"{name} {oracle.spell(fmt)}" for name, fmt in oracle.formats().items())
    return table("STR-1", "name string", rows)
