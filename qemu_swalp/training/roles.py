"""Names of what a recipe can round, and the quantizers that a user writes for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from .._util.checks import check_choice
from ..formats import Block
from ..formats.axis_words import Layout
from ..ops.accumulation import Accumulation, check_element
from ..ops.hadamard import Hadamard
from ..ops.quantizer import Quantizer
from .delayed import Delayed
from .functional import ELEMENTWISE

ROLES = ("weight", "activation", "error", "gradient", "momentum", "accumulator", "average")

OPERANDS = (
    "forward.input",
    "forward.weight",
    "dgrad.error",
    "dgrad.weight",
    "wgrad.error",
    "wgrad.input",
)
"""The matrices that a layer's three products multiply: its output is input · weight, the gradient
of its input (dgrad) error · weight, the gradient of its weight (wgrad) error · input.
"""

OPERAND_AXES = {
    "forward.input": ("in", "batch"),
    "forward.weight": ("in", "out"),
    "dgrad.error": ("out", "batch"),
    "dgrad.weight": ("out", "in"),
    "wgrad.error": ("batch", "out"),
    "wgrad.input": ("batch", "in"),
}
"""Operand → what its last axis, which is summed over, and the axis before it stand for."""

ACTIVATION_LAYOUT = {"batch": 0}
"""The layout of activations and errors."""

PRODUCTS = ("forward", "dgrad", "wgrad")

SUMS = ("forward.sum", "dgrad.sum", "wgrad.sum")
"""How the three products are accumulated."""

SECTIONS = {
    "optimizer": ("weight", "gradient", "momentum", "accumulator", "state"),
    "activations": ("activation", "error"),
    "products": ("operands", "sums", "transforms", "factors", "scaling", "backward"),
    "elementwise": ("elementwise",),
    "average": ("average",),
}
"""Section of a recipe → its fields. One call of an adapter applies one section."""


def backward_operands(
    backward: Any, rounded: tuple[tuple[str, Quantizer], ...], delayed: Mapping[str, Delayed]
) -> str | None:
    """What the backward products take: None, or "rounded", of recipes that round forward, by scales
    of present numbers.
    """
    if backward is None:
        return None
    check_choice("backward, where it is not None,", backward, ("rounded",))
    if not any(name.startswith("forward.") for name, _ in rounded):
        raise ValueError(
            "backward='rounded' hands on what the forward product rounded, and this recipe rounds"
            " neither of its operands; give operands={'forward.input': …, 'forward.weight': …}"
        )
    if {"input", "weight"} & delayed.keys():
        raise ValueError(
            "backward='rounded' and delayed scaling of what it hands on do not go together: which"
            " numbers were clipped is told by scales of present numbers; leave one of them out"
        )
    return str(backward)


def operand_quantizers(chosen: Any) -> tuple[tuple[str, Quantizer], ...]:
    """Of {name: quantizer}, by the names of `OPERANDS`."""
    named = _named("an operand", dict(pairs(chosen)), OPERANDS)
    return tuple((name, _of_operand(name, quantizer)) for name, quantizer in named)


def _of_operand(name: str, quantizer: Any) -> Quantizer:
    summed, other = OPERAND_AXES[name]
    return _resolved(name, Quantizer.parse(quantizer), {"sum": -1, summed: -1, other: -2})


def of_role(role: str, quantizer: Any) -> Quantizer | None:
    """The quantizer of a role or of further optimizer state; None for None."""
    if quantizer is None:
        return None
    parsed = Quantizer.parse(quantizer)
    if role in ("activation", "error"):
        return _resolved(role, parsed, ACTIVATION_LAYOUT)
    if "batch" in parsed.format.axis_words:
        raise ValueError(
            f"{role}: {parsed.format} names its axis by the word 'batch', and what is shaped like a"
            f" weight has no batch; use 'out', 'in' or 'sum', or a number"
        )
    return parsed


def _resolved(role: str, quantizer: Quantizer, layout: Layout) -> Quantizer:
    """A quantizer with numbers for words. ValueError for words that the layout lacks."""
    for word in quantizer.format.axis_words:
        if word not in layout:
            raise ValueError(
                f"{role}: {quantizer.format} names its axis by the word {word!r}; this role has the"
                f" words {', '.join(map(repr, layout))}; use one of these, or a number"
            )
    return quantizer if not quantizer.format.axis_words else quantizer.resolve(layout)


def product_accumulations(chosen: Any) -> tuple[tuple[str, Accumulation], ...]:
    """Of {name: accumulation}, or of one for all of `SUMS`."""
    if isinstance(chosen, Accumulation | Quantizer | str):
        chosen = dict.fromkeys(SUMS, chosen)
    named = dict(pairs(chosen))
    for name in named:
        check_choice("the name of a sum", name, SUMS)
    return tuple(
        (name, Accumulation.parse(named[name])) for name in SUMS if named.get(name) is not None
    )


def product_transforms(
    chosen: Any, operands: tuple[tuple[str, Quantizer], ...]
) -> tuple[tuple[str, Hadamard], ...]:
    """Of {product: transform}, or of one for all products with an operand that is rounded."""
    rounded = {name.partition(".")[0] for name, _ in operands}
    if isinstance(chosen, Hadamard | str):
        chosen = {name: chosen for name in PRODUCTS if name in rounded}
    named = dict(pairs(chosen))
    for name in named:
        check_choice("the name of a product", name, PRODUCTS)
        if named[name] is not None and name not in rounded:
            raise ValueError(
                f"transforms[{name!r}]: the recipe rounds no operand of this product; give it"
                f" operands, or remove the transform"
            )
    return tuple(
        (name, Hadamard.parse(named[name])) for name in PRODUCTS if named.get(name) is not None
    )


def operand_factors(
    chosen: Any, operands: tuple[tuple[str, Quantizer], ...]
) -> tuple[tuple[str, float], ...]:
    """Of {name: factor}, by the names of `OPERANDS`; those that are not rounded have none."""
    rounded = dict(operands)
    given = {name: value for name, value in pairs(chosen) if value is not None}
    named = dict(_named("an operand", given, OPERANDS))
    for name in given:
        if not any(of in rounded for of in named if of == name or of.endswith(f".{name}")):
            raise ValueError(
                f"factors[{name!r}]: the recipe does not round this operand; give it a quantizer,"
                " or remove the factor"
            )
    return tuple((name, _factor(name, value)) for name, value in named.items() if name in rounded)


KINDS = ("input", "weight", "error")
"""The operands of matrix products, each for both products that it is in."""


def delayed_scaling(
    chosen: Any, operands: tuple[tuple[str, Quantizer], ...]
) -> tuple[tuple[str, Delayed], ...]:
    """Of {kind of operand: how its scale follows a history}, or of one for all that are rounded."""
    by_kind = {kind: [q for name, q in operands if name.endswith(f".{kind}")] for kind in KINDS}
    if isinstance(chosen, Delayed | str):
        chosen = {kind: chosen for kind in KINDS if by_kind[kind]}
    named = {kind: value for kind, value in pairs(chosen) if value is not None}
    for kind in named:
        check_choice("the name of scaling", kind, KINDS)
        if not by_kind[kind] or len(set(by_kind[kind])) > 1:
            raise ValueError(
                f"scaling[{kind!r}]: both products have the {kind} under one scale, and must round"
                f" it by one quantizer; the recipe has"
                f" {', '.join(map(str, by_kind[kind])) or 'none'}"
            )
        form = by_kind[kind][0].format
        fits = isinstance(form, Block) and form.axis is None and form.second is None
        if not fits or (isinstance(form, Block) and form.rule in ("minmax",)):
            raise ValueError(
                f"scaling[{kind!r}] needs a format with one scale for the whole array, such as"
                f" block<e4m3fn,scale=float<8,23>>, got {form}"
            )
    return tuple((kind, Delayed.parse(named[kind])) for kind in KINDS if kind in named)


def _factor(name: str, value: Any) -> float:
    try:
        factor = float(Fraction(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, ZeroDivisionError):
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError(
            f"factors[{name!r}] must be a positive number, or its string, as in 0.75 or '3/4', got"
            f" {value!r}"
        )
    return factor


def elementwise_rules(chosen: Any) -> tuple[tuple[str, Quantizer | Accumulation], ...]:
    """Of {name: quantizer}, or of one for all of `ELEMENTWISE`; sums become accumulations."""
    if isinstance(chosen, Quantizer | str):
        chosen = dict.fromkeys(ELEMENTWISE, chosen)
    named = _named("an elementwise operation", dict(pairs(chosen)), ELEMENTWISE)
    return tuple((name, _elementwise_rule(name, rule)) for name, rule in named)


def _elementwise_rule(name: str, rule: Any) -> Quantizer | Accumulation:
    if name.endswith(".sum"):
        return Accumulation.parse(rule)
    quantizer = Quantizer.parse(rule)
    check_element(f"the elementwise operation {name!r}", quantizer)
    return quantizer


def _named(what: str, chosen: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(name, value) in the order of the names; "dgrad.error" has precedence over "error", which
    stands for all names that end in it. ValueError for other names.
    """
    endings = tuple(dict.fromkeys(name.partition(".")[2] for name in names))
    for name in chosen:
        check_choice(f"the name of {what}", name, (*names, *endings))
    for name in names:
        value = chosen.get(name, chosen.get(name.partition(".")[2]))
        if value is not None:
            yield name, value


def pairs(items: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of a mapping, or of an iterable of pairs.

    Raises
    ------
    TypeError: if it is neither.
    """
    if isinstance(items, Mapping):
        return iter(items.items())
    named = isinstance(items, Iterable) and not isinstance(items, str | bytes)
    listed = list(items) if named else [items]
    if not all(map(_is_pair, listed)):
        raise TypeError(
            "a part of a recipe that has names must be a mapping {name: value}, or pairs of these,"
            f" as in {{'input': 'e4m3fn', 'error': 'e5m2'}}, got {items!r}"
        )
    return iter(listed)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2
