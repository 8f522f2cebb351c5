"""semantics.md as exact rational arithmetic: scalar, slow and plain, the judge of every faster implementation.

A number enters and leaves as a Python float, which holds every source value exactly and carries NaN, the infinities
and -0; in between it is a `Fraction`. No binade is computed to round: a grid is a monotone function of an integer, its
*place*, and the neighbours of x are found by bisection. The standard library is the only import.
"""

from __future__ import annotations

import bisect
import math
import re
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

NAN = math.nan
DETERMINISTIC = ("nearest_even", "nearest_away", "toward_zero", "toward_positive", "toward_negative", "to_odd")
STOCHASTIC = ("stochastic_a", "stochastic_b", "stochastic_c")
POLICIES = ("saturate", "infinity", "nan")
REACH = 1100  # 2^-REACH is less than every positive float64, 2^REACH greater than every finite one


@cache
def power(exponent: int) -> Fraction:
    """2^exponent."""
    return Fraction(2) ** exponent


def carrier(value: Fraction) -> float:
    """The float that equals `value`."""
    number = float(value)
    if Fraction(number) != value:
        raise ValueError(f"{value} is not a float64")
    return number


def binade(magnitude: Fraction) -> int:
    """The integer e with 2^e <= magnitude < 2^(e+1)."""
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent if power(exponent) <= magnitude else exponent - 1


def is_negative(number: float) -> bool:
    """The sign of a float, of -0 too."""
    return math.copysign(1.0, number) < 0


# ------------------------------------------------------------------------------------------------ element formats (FMT)


class Candidates(NamedTuple):
    """RND-2, RND-3: the neighbours of x, equal to x where it is exact; `odd` is the parity of the one toward zero."""

    toward: Fraction
    away: Fraction
    odd: bool


class Element:
    """FMT-1: a finite set of numbers, and what stands beside them."""

    signed: bool = True
    overflow: str | None = None

    @property
    def has_zero(self) -> bool:
        """FMT-4: whether zero is a value."""
        return True

    @property
    def has_negative_zero(self) -> bool:
        """FMT-6."""
        return False

    @property
    def has_infinity(self) -> bool:
        """FMT-6."""
        return False

    @property
    def nan_codes(self) -> Sequence[int]:
        """FMT-6: every code of a NaN."""
        return ()

    @property
    def bits(self) -> int:
        """The width of a code (COD-2)."""
        raise NotImplementedError

    @property
    def low(self) -> Fraction:
        """FMT-2: min."""
        raise NotImplementedError

    @property
    def high(self) -> Fraction:
        """FMT-2: max."""
        raise NotImplementedError

    def candidates(self, x: Fraction) -> Candidates:
        """RND-2, RND-3."""
        raise NotImplementedError

    def code(self, value: Fraction) -> int:
        """The code of a value, or ValueError (COD-1)."""
        raise NotImplementedError

    def decode(self, code: int) -> float:
        """What a code stands for, or ValueError where it stands for nothing."""
        raise NotImplementedError

    @property
    def policies(self) -> tuple[str, ...]:
        """FMT-8: the overflow policies the format allows."""
        legal = {"saturate": True, "infinity": self.has_infinity, "nan": bool(self.nan_codes)}
        return tuple(policy for policy in POLICIES if legal[policy])

    @property
    def policy(self) -> str:
        """FMT-8: the policy of a caller who names none."""
        return self.overflow or ("infinity" if self.has_infinity else "saturate")

    def codes(self) -> Iterator[tuple[int, float]]:
        """Every code that stands for something, with what it stands for."""
        for code in range(1 << self.bits):
            try:
                yield code, self.decode(code)
            except ValueError:
                continue

    def values(self) -> list[Fraction]:
        """FMT-1: the values, ascending."""
        return sorted({Fraction(value) for _, value in self.codes() if math.isfinite(value)})

    def encode(self, number: float) -> int:
        """COD-1, COD-2."""
        if math.isnan(number) and self.nan_codes:
            return self.canonical_nan
        if math.isfinite(number):
            return self.code(Fraction(number))
        raise ValueError(f"{number} is not in {self}")

    @property
    def canonical_nan(self) -> int:
        """COD-2: the code that NaN encodes to."""
        raise NotImplementedError


class Grid(Element):
    """FMT-2: sign and magnitude over an ascending sequence of points.

    The points do not end at `high`, since the range check comes after the rounding (RND-1).
    """

    @property
    def least(self) -> Fraction:
        """The least positive value."""
        raise NotImplementedError

    def point(self, place: int) -> Fraction:
        """The magnitude at a place."""
        raise NotImplementedError

    def place(self, magnitude: Fraction) -> int:
        """The last place whose point is not above `magnitude`."""
        raise NotImplementedError

    def odd(self, place: int) -> bool:
        """RND-5: the parity of the integer n whose multiple of the quantum stands at a place."""
        raise NotImplementedError

    def candidates(self, x: Fraction) -> Candidates:
        """RND-2."""
        place = self.place(abs(x))
        toward, away = self.point(place), self.point(place + 1)
        if toward == abs(x):
            return Candidates(x, x, False)
        return Candidates(-toward, -away, self.odd(place)) if x < 0 else Candidates(toward, away, self.odd(place))


@dataclass(frozen=True)
class Fixed(Grid):
    """FMT-3: `fixed<W,F>`. A point is its place times 2^-F."""

    word: int
    fraction: int
    signed: bool = True
    symmetric: bool = False
    overflow: str | None = None

    @property
    def low(self) -> Fraction:
        if not self.signed:
            return Fraction(0)
        return -self.high if self.symmetric else -power(self.word - 1 - self.fraction)

    @property
    def high(self) -> Fraction:
        return (power(self.word - self.signed) - 1) * self.least

    @property
    def least(self) -> Fraction:
        return power(-self.fraction)

    @property
    def bits(self) -> int:
        return self.word

    def point(self, place: int) -> Fraction:
        return place * self.least

    def place(self, magnitude: Fraction) -> int:
        return math.floor(magnitude / self.least)

    def odd(self, place: int) -> bool:
        return place % 2 == 1

    def code(self, value: Fraction) -> int:
        """FMT-3: value * 2^F in two's complement."""
        integer = value / self.least
        if integer.denominator != 1 or not self.low <= value <= self.high:
            raise ValueError(f"{value} is not in {self}")
        return integer.numerator % (1 << self.word)

    def decode(self, code: int) -> float:
        integer = code - (1 << self.word) if self.signed and code >> (self.word - 1) else code
        value = integer * self.least
        if value < self.low:
            raise ValueError(f"code {code} stands for nothing in {self}")
        return carrier(value)


@dataclass(frozen=True)
class Float(Grid):
    """FMT-4, FMT-5, FMT-6: `float<E,M>`.

    A place is a code's exponent and mantissa fields read as one integer, the exponent field without end upward (and,
    without zero, downward); `subnormals=false` leaves out what lies between zero and the least normal.
    """

    exponent: int
    mantissa: int
    bias: int | None = None
    signed: bool = True
    subnormals: bool = True
    zero: bool = True
    specials: str = "ieee"
    overflow: str | None = None

    @property
    def offset(self) -> int:
        """FMT-4: B."""
        return (1 << self.exponent - 1) - 1 if self.bias is None else self.bias

    @property
    def steps(self) -> int:
        """The values of one binade."""
        return 1 << self.mantissa

    @property
    def sign(self) -> int:
        """The sign bit, or where it would stand."""
        return 1 << self.exponent + self.mantissa

    @property
    def bits(self) -> int:
        return self.signed + self.exponent + self.mantissa

    @property
    def has_zero(self) -> bool:
        return self.zero

    @property
    def has_negative_zero(self) -> bool:
        """FMT-6, its last sentence."""
        return self.signed and self.zero and self.specials != "fnuz"

    @property
    def has_infinity(self) -> bool:
        return self.specials == "ieee"

    @property
    def top(self) -> int:
        """FMT-6: the fields of the greatest code that is not special."""
        return self.sign - {"ieee": self.steps, "fn": 1, "fnuz": 0, "finite": 0}[self.specials] - 1

    @property
    def nan_codes(self) -> Sequence[int]:
        """FMT-6: every code of a NaN, the positive ones first."""
        if self.specials == "fnuz":
            return (self.sign,)
        if self.specials == "finite":
            return ()
        positive = range(self.top + (2 if self.has_infinity else 1), self.sign)
        return [*positive, *(code + self.sign for code in positive)] if self.signed else positive

    @property
    def canonical_nan(self) -> int:
        """COD-2."""
        quiet = self.steps // 2
        return self.top + 1 + quiet if self.has_infinity else self.nan_codes[0]

    def magnitude(self, body: int) -> Fraction:
        """FMT-4: what exponent and mantissa fields, read as one integer, stand for."""
        exponent, mantissa = divmod(body, self.steps)
        share = Fraction(mantissa, self.steps)
        if exponent == 0 and self.zero:
            return share * power(1 - self.offset)
        return (1 + share) * power(exponent - self.offset)

    def body(self, place: int) -> int:
        """FMT-5: the exponent and mantissa fields at a place of the grid."""
        return place if self.subnormals or place == 0 else place + self.steps - 1

    @cache  # noqa: B019 - formats are few and live as long as the module
    def point(self, place: int) -> Fraction:
        return self.magnitude(self.body(place))

    @lru_cache(maxsize=64)  # noqa: B019 - the same
    def place(self, magnitude: Fraction) -> int:
        first = 0 if self.zero else -REACH * self.steps
        places = range(first, (REACH + self.offset) * self.steps)
        return places[bisect.bisect_right(places, magnitude, key=self.point) - 1]

    def odd(self, place: int) -> bool:
        """RND-5: n is the mantissa, with the leading one where there is one."""
        exponent, mantissa = divmod(self.body(place), self.steps)
        leading = 0 if exponent == 0 and self.zero else self.steps
        return (leading + mantissa) % 2 == 1

    @property
    def high(self) -> Fraction:
        return self.magnitude(self.top)

    @property
    def low(self) -> Fraction:
        """FMT-6."""
        if self.signed:
            return -self.high
        return Fraction(0) if self.zero else self.least

    @property
    def least(self) -> Fraction:
        return self.point(1 if self.zero else 0)

    def code(self, value: Fraction) -> int:
        place = self.place(abs(value)) if value or self.zero else -1
        if self.low <= value <= self.high and place >= 0 and self.point(place) == abs(value):
            return self.body(place) + (self.sign if value < 0 else 0)
        raise ValueError(f"{value} is not in {self}")

    def encode(self, number: float) -> int:
        """COD-1, with the infinities and -0 that only floats have."""
        if math.isinf(number) and self.has_infinity and (number > 0 or self.signed):
            return self.top + 1 + (self.sign if number < 0 else 0)
        if number == 0 and is_negative(number) and self.has_negative_zero:
            return self.sign
        return super().encode(number)

    def decode(self, code: int) -> float:
        """FMT-4, FMT-5, FMT-6."""
        negative, body = divmod(code, self.sign)
        if self.specials == "fnuz" and code == self.sign:
            return NAN
        if body > self.top:
            size = math.inf if self.has_infinity and body == self.top + 1 else NAN
        elif not self.subnormals and self.zero and 0 < body < self.steps:
            raise ValueError(f"code {code} stands for nothing in {self}")
        else:
            size = carrier(self.magnitude(body))
        return -size if negative else size


@dataclass(frozen=True)
class Codebook(Element):
    """FMT-7: `codebook<v0,v1,...>`."""

    values_: tuple[float, ...]
    dtype: str = "float32"

    @cached_property
    def listed(self) -> tuple[Fraction, ...]:
        """FMT-7: the values as held."""
        return tuple(Fraction(v if self.dtype == "float64" else quantize(v, BINARY32)) for v in self.values_)

    @property
    def bits(self) -> int:
        return (len(self.values_) - 1).bit_length()

    @property
    def low(self) -> Fraction:
        return min(self.listed)

    @property
    def high(self) -> Fraction:
        return max(self.listed)

    @property
    def has_zero(self) -> bool:
        return 0 in self.listed

    def candidates(self, x: Fraction) -> Candidates:
        """RND-3: a zero counts as positive; what is out of range stays for the range check."""
        values = sorted(self.listed)
        place = bisect.bisect_left(values, x)
        if place == len(values) or place == 0 or values[place] == x:
            return Candidates(x, x, False)
        toward, away = (place, place - 1) if x < 0 else (place - 1, place)
        return Candidates(values[toward], values[away], toward % 2 == 1)

    def code(self, value: Fraction) -> int:
        if value not in self.listed:
            raise ValueError(f"{value} is not in {self}")
        return self.listed.index(value)

    def decode(self, code: int) -> float:
        if code >= len(self.listed):
            raise ValueError(f"code {code} stands for nothing in {self}")
        return carrier(self.listed[code])


BINARY32 = Float(8, 23)


# ------------------------------------------------------------------------------------------------------- rounding (RND)


class Rule(NamedTuple):
    """STR-2: a rounding mode and its number of random bits."""

    name: str
    bits: int


@cache
def parse_rule(text: str) -> Rule:
    """RND-4, STR-2: the rounding that a string names."""
    if text in DETERMINISTIC:
        return Rule(text, 0)
    match = re.fullmatch(r"(stochastic(?:_[abc])?)(?:<(\d+)>)?", text)
    if match is None or not 1 <= int(match[2] or 32) <= 32:
        raise ValueError(f"{text!r} is not a rounding")
    return Rule("stochastic_a" if match[1] == "stochastic" else match[1], int(match[2] or 32))


def takes_away(rule: Rule, nu: Fraction, odd: bool, positive: bool, word: int) -> bool:
    """RND-4, for 0 < nu < 1."""
    half = Fraction(1, 2)
    scale, random = 1 << rule.bits, word >> (32 - rule.bits)
    match rule.name:
        case "nearest_even":
            return nu > half or (nu == half and odd)
        case "nearest_away":
            return nu >= half
        case "toward_zero":
            return False
        case "toward_positive":
            return positive
        case "toward_negative":
            return not positive
        case "to_odd":
            return not odd
        case "stochastic_a":
            return math.floor(nu * scale) + random >= scale
        case "stochastic_b":
            return math.floor(nu * 2 * scale) + 2 * random + 1 >= 2 * scale
        case "stochastic_c":
            return round(nu * scale) + random >= scale  # `round` of a Fraction goes to even on ties
    raise ValueError(f"{rule} is not a rounding")


def round_to_grid(x: Fraction, fmt: Element, rule: Rule, word: int = 0) -> Fraction:
    """RND-1: the rounding alone, before the range check."""
    toward, away, odd = fmt.candidates(x)
    if toward == away:
        return x
    if rule.name == "toward_zero" and toward * away < 0:  # RND-6
        return away
    nu = (x - toward) / (away - toward)
    return away if takes_away(rule, nu, odd, x >= 0, word) else toward


def out_of_range(fmt: Element, rule: Rule, policy: str, below: bool, finite: bool) -> float:
    """RND-7, RND-8: what stands for a result below min or above max."""
    end = carrier(fmt.low if below else fmt.high)
    inward = ("toward_zero", "toward_positive" if below else "toward_negative")
    if policy == "saturate":
        return end
    if below and not fmt.signed:
        return NAN
    if finite and rule.name in inward:
        return end
    return NAN if policy == "nan" else -math.inf if below else math.inf


def range_check(r: Fraction, fmt: Element, rule: Rule, policy: str) -> float:
    """RND-7, with `r` not zero in a format without zero."""
    if isinstance(fmt, Grid) and not fmt.has_zero and abs(r) < fmt.least and (r > 0 or fmt.signed):
        return carrier(fmt.least if r > 0 else -fmt.least)
    if fmt.low <= r <= fmt.high:
        return carrier(r)
    return out_of_range(fmt, rule, policy, r < fmt.low, finite=True)


def quantize(
    x: float | Fraction, fmt: Element, mode: str = "nearest_even", word: int = 0, policy: str | None = None
) -> float:
    """RND: the number that stands for x in `fmt`."""
    rule, policy = parse_rule(mode), policy or fmt.policy
    if isinstance(x, float) and math.isnan(x):  # RND-9
        return NAN
    if isinstance(x, float) and math.isinf(x):  # RND-8
        return out_of_range(fmt, rule, policy, x < 0, finite=False)
    if x == 0 and isinstance(fmt, Grid) and not fmt.has_zero:  # FMT-9
        return carrier(fmt.least) if policy == "saturate" else NAN
    result = range_check(round_to_grid(Fraction(x), fmt, rule, word), fmt, rule, policy)
    negative = x < 0 or (isinstance(x, float) and is_negative(x))
    return -0.0 if result == 0 and negative and fmt.has_negative_zero else result  # RND-10


# --------------------------------------------------------------------------------------------------------- blocks (BLK)


@dataclass(frozen=True)
class Bfp:
    """BLK-1, BLK-5: `bfp<W>`; without `axis` the geometry is `tensor`."""

    word: int
    axis: int | tuple[int, ...] | None = None
    size: int | None = None
    range: str = "symmetric"

    @property
    def element(self) -> Fixed:
        """BLK-5."""
        return Fixed(self.word, self.word - 2, symmetric=self.range == "symmetric")

    def axes(self, rank: int) -> set[int]:
        """The named axes of an array, counted from its start."""
        named = () if self.axis is None else (self.axis,) if isinstance(self.axis, int) else self.axis
        return {axis % rank for axis in named}

    def block(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """BLK-2, COD-4: where the exponent of the element at `index` stands."""
        rank, axes = len(index), self.axes(len(index))
        if self.size is not None:
            return tuple(i // self.size if axis in axes else i for axis, i in enumerate(index))
        if len(axes) == rank:
            return (0,) * rank
        return tuple(i if axis in axes else 0 for axis, i in enumerate(index))

    def scale(self, elements: Sequence[float]) -> int:
        """BLK-3: S."""
        least, greatest = -(2**7), 2**7 - 1
        amax = max((abs(Fraction(x)) for x in elements if math.isfinite(x)), default=Fraction(0))
        if amax == 0:
            return least
        return min(max(binade(amax) - binade(self.element.high), least), greatest)


class Blocks(NamedTuple):
    """BLK-4, COD-4: an array quantized; a code is None where RND-9 leaves a NaN that has none."""

    values: list[float]
    codes: list[int | None]
    exponents: list[int]
    exponent_shape: tuple[int, ...]


def quantize_blocks(
    array: Sequence[float],
    shape: tuple[int, ...],
    fmt: Bfp,
    mode: str = "nearest_even",
    words: Sequence[int] | None = None,
) -> Blocks:
    """BLK-4, for an array in C order."""
    homes = [fmt.block(index) for index in product(*map(range, shape))]
    members: dict[tuple[int, ...], list[float]] = {}
    for home, x in zip(homes, array, strict=True):
        members.setdefault(home, []).append(x)
    scales = {home: fmt.scale(elements) for home, elements in members.items()}
    rounded = [
        quantize(Fraction(x) / power(scales[home]) if math.isfinite(x) else x, fmt.element, mode, word)
        for home, x, word in zip(homes, array, words or [0] * len(array), strict=True)
    ]
    values = [
        r if math.isnan(r) else carrier(Fraction(r) * power(scales[home]))
        for home, r in zip(homes, rounded, strict=True)
    ]
    return Blocks(
        values,
        [None if math.isnan(r) else fmt.element.encode(r) for r in rounded],
        [scales[home] for home in sorted(scales)],
        tuple(1 + max(home[axis] for home in scales) for axis in range(len(shape))),
    )


# ---------------------------------------------------------------------------------------------------- random bits (RNG)

WORD = 2**32


def philox(counter: Sequence[int], key: Sequence[int], rounds: int = 10) -> tuple[int, int, int, int]:
    """RNG-1: Philox4x32, Salmon et al., SC 2011, figure 4 and section 4.3."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c0, WORD)
        high1, low1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c0, c1, c2, c3


def stream_key(seed: int, stream: int) -> tuple[int, int]:
    """RNG-2: (k0, k1)."""
    words = philox((stream % WORD, stream // WORD, 0, 0), (seed % WORD, seed // WORD))
    return words[0], words[1]


def element_word(seed: int, stream: int, step: int, index: int) -> int:
    """RNG-3: the word of element `index`."""
    key = stream_key(seed, stream)
    return philox((index // 4, step, *key), key)[index % 4]


def stream_id(role: str, tensor: int) -> int:
    """RNG-4."""
    return zlib.crc32(role.encode()) * WORD + tensor


# -------------------------------------------------------------------------------------------------------- strings (STR)

FAMILIES: dict[str, type[Float | Fixed | Codebook | Bfp]] = {
    "float": Float,
    "fixed": Fixed,
    "codebook": Codebook,
    "bfp": Bfp,
}
POSITIONAL = ("exponent", "mantissa", "word", "fraction")
Format = Float | Fixed | Codebook | Bfp


def spell(fmt: Format) -> str:
    """STR-1: the string of a format."""
    family = next(name for name, kind in FAMILIES.items() if type(fmt) is kind)
    return f"{family}<{','.join(_arguments(fmt))}>"


def _arguments(fmt: Format) -> Iterator[str]:
    """STR-1: positional fields, then what differs from its default."""
    for field in fields(fmt):
        value = getattr(fmt, field.name)
        if field.name == "values_":
            yield from (f"{number:g}" for number in value)
        elif field.name in POSITIONAL:
            yield str(value)
        elif value is True and not field.default:
            yield field.name
        elif value != field.default:
            yield f"{field.name}={str(value).replace(' ', '').replace('False', 'false')}"


def tables() -> dict[str, Any]:
    """formats.toml as it stands."""
    return tomllib.loads(Path(__file__).with_name("formats.toml").read_text())


def formats() -> dict[str, Format]:
    """The formats of formats.toml by name."""
    return {name: _build(dict(table)) for name, table in tables()["formats"].items()}


def _build(table: dict[str, Any]) -> Format:
    """One table of formats.toml as a format."""
    kind = FAMILIES[table.pop("family")]
    arguments = {key: value for key, value in table.items() if key not in ("description", "source")}
    if "values" in arguments:
        arguments["values_"] = tuple(arguments.pop("values"))
    if isinstance(arguments.get("axis"), list):
        arguments["axis"] = tuple(arguments["axis"])
    return kind(**arguments)
