"""One rounding, then the range check (clauses RND)."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from .elements import Element, Grid
from .exact import DETERMINISTIC, NAN, TIES, carrier, is_negative


class Rule(NamedTuple):
    """STR-2: a rounding mode and its number of random bits."""

    name: str
    bits: int


@cache
def parse_rule(text: str) -> Rule:
    """RND-4, STR-2: the rounding that a string names."""
    if text in DETERMINISTIC + TIES:
        return Rule(text, 0)
    match = re.fullmatch(r"(stochastic(?:_[abc])?)(?:<(\d+)>)?", text)
    if match is None or not 1 <= int(match[2] or 32) <= 32:
        raise ValueError(f"{text!r} is not a rounding")
    return Rule("stochastic_a" if match[1] == "stochastic" else match[1], int(match[2] or 32))


def takes_away(
    rule: Rule, nu: Fraction, odd: bool, positive: bool, word: int, side: int = 0
) -> bool:
    """RND-4. The stochastic modes ask for nu, 0 < nu < 1, the nearest ones for the side on which x
    lies (RND-12).
    """
    scale, random = 1 << rule.bits, word >> (32 - rule.bits)
    match rule.name:
        case "nearest_even":
            return side > 0 or (side == 0 and odd)
        case "nearest_away":
            return side >= 0
        case "nearest_zero":
            return side > 0
        case "nearest_up":
            return side > 0 or (side == 0 and positive)
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
    nu = (x - toward) / (away - toward) if rule.bits else Fraction(0)
    side = fmt.side(x, toward, away) if rule.name.startswith("nearest") else 0
    return away if takes_away(rule, nu, odd, x >= 0, word, side) else toward


def out_of_range(fmt: Element, rule: Rule, policy: str, below: bool, finite: bool) -> float:
    """RND-7, RND-8: what stands for a result below min or above max."""
    end = carrier(fmt.low if below else fmt.high)
    one_sided = below and not fmt.signed
    if policy == "saturate" or (policy == "propagate" and finite):
        return end
    if policy == "propagate":
        return (
            NAN if not fmt.has_infinity else end if one_sided else -math.inf if below else math.inf
        )
    if finite and fmt.stays(rule.name, policy, below) and (fmt.has_zero or not one_sided):  # FMT-9
        return end
    return NAN if policy == "nan" or one_sided else -math.inf if below else math.inf


def range_check(r: Fraction, fmt: Element, rule: Rule, policy: str) -> float:
    """RND-7, with `r` not zero in a format without zero."""
    if isinstance(fmt, Grid) and not fmt.has_zero and abs(r) < fmt.least and (r > 0 or fmt.signed):
        return carrier(fmt.least if r > 0 else -fmt.least)
    if fmt.low <= r <= fmt.high:
        return carrier(r)
    return out_of_range(fmt, rule, policy, r < fmt.low, finite=True)


def quantize(
    x: float | Fraction,
    fmt: Element,
    mode: str = "nearest_even",
    word: int = 0,
    policy: str | None = None,
) -> float:
    """RND: the number that stands for x in `fmt`."""
    rule, policy = parse_rule(mode), policy or fmt.policy
    if isinstance(x, float) and math.isnan(x):  # RND-9
        return NAN
    if isinstance(x, float) and math.isinf(x):  # RND-8
        return out_of_range(fmt, rule, policy, x < 0, finite=False)
    if x == 0 and isinstance(fmt, Grid) and not fmt.has_zero:  # FMT-9
        return carrier(fmt.least) if policy in ("saturate", "propagate") else NAN
    result = range_check(round_to_grid(Fraction(x), fmt, rule, word), fmt, rule, policy)
    negative = x < 0 or (isinstance(x, float) and is_negative(x))
    return -0.0 if result == 0 and negative and fmt.has_negative_zero else result  # RND-10
