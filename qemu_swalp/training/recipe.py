"""Which numbers of a training run are rounded, and how: roles → (format, rounding)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from .._util.checks import check_bool, check_choice, near_matches
from .._util.tables import table
from ..arrays import Array
from ..formats import bfp
from ..ops.accumulation import Accumulation, check_element
from ..ops.quantizer import Quantizer
from ..random_bits import RandomBits, stream_id
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

SUMS = ("forward.sum", "dgrad.sum", "wgrad.sum")
"""How the three products are summed up."""


SECTIONS = {
    "optimizer": ("weight", "gradient", "momentum", "accumulator", "state"),
    "activations": ("activation", "error"),
    "products": ("operands", "sums"),
    "elementwise": ("elementwise",),
    "average": ("average",),
}
"""Section of a recipe → its fields. One call of an adapter applies one section."""

RENAMED = {"steps": "elementwise"}
"""Keys of recipes that version 0.1 saved, and their names today."""


@dataclass(frozen=True)
class Recipe:
    """The quantizer of each role; None leaves the role in full precision.

    Parameters
    ----------
    weight, activation, error, gradient, momentum, accumulator, average : Quantizer,
        `FORMAT/ROUNDING` string, or None. `error` is the gradient with respect to an activation;
        `accumulator` a copy of the weight that collects the updates in a format of its own.
    state : further optimizer state by name, as in {"exp_avg_sq": "bf16/nearest_even"}.
    operands : {name: quantizer} of what matrix products multiply, each by itself: the names of
        `OPERANDS`, or "input", "weight", "error" for both products that one is in. A quantizer sees
        the last axis as the one that is summed over, the axis before it as the rows or columns of
        the product: blocks with axis=-1 lie along the sum, in each of the three products, as
        hardware has them.
    sums : how these products are summed up: an `Accumulation` or its string, for all of them, or
        {name: accumulation} by the names of `SUMS`. Products that are not named are summed up in
        the arrays' own dtype.
    elementwise : how the elementary operations within softmax, normalization and nonlinearities are
        rounded: a quantizer of an element format for all of them, or {name: quantizer} by the names
        of `ELEMENTWISE`, or "add", "multiply", "divide", "sqrt", "function" (exp, log, tanh, erf)
        and "sum" (which may be an `Accumulation`) for forward and backward. Operations that are not
        named are computed in the arrays' own dtype.
    overrides : {pattern: Recipe or None}; for a parameter whose name matches a pattern (shell
        style, the first that matches) that recipe holds instead, None meaning full precision.
    allow_empty : whether an entry point of an adapter that finds nothing to round leaves the model
        as it is; by default it raises ValueError. Recipes that differ in this alone are equal, and
        `to_dict` leaves it out: it changes no number.

    >>> recipe = Recipe(weight="bfp8", overrides={"*.bias": None})
    >>> recipe.of("fc.weight").weight, recipe.of("fc.bias").weight
    (Quantizer(format=..., rounding=...), None)
    >>> operands = {"input": "mxfp4/nearest_even"}
    >>> sums = {"wgrad.sum": "fp16/to_odd; group=4"}
    >>> print(Recipe("bfp8", operands=operands, sums=sums, overrides={"*.bias": None}))
    role                 format          rounding
    ───────────────────  ──────────────  ────────────
    weight               bfp8            stochastic_a
    forward.input        mxfp4           nearest_even
    wgrad.input          mxfp4           nearest_even
    wgrad.sum (group=4)  fp16            to_odd
    *.bias               full precision
    """

    weight: Quantizer | None = None
    activation: Quantizer | None = None
    error: Quantizer | None = None
    gradient: Quantizer | None = None
    momentum: Quantizer | None = None
    accumulator: Quantizer | None = None
    average: Quantizer | None = None
    state: tuple[tuple[str, Quantizer | None], ...] = ()
    operands: tuple[tuple[str, Quantizer], ...] = ()
    sums: tuple[tuple[str, Accumulation], ...] = ()
    elementwise: tuple[tuple[str, Quantizer | Accumulation], ...] = ()
    overrides: tuple[tuple[str, Recipe | None], ...] = ()
    allow_empty: bool = field(default=False, compare=False)

    def __init__(
        self,
        weight: Any = None,
        activation: Any = None,
        error: Any = None,
        gradient: Any = None,
        momentum: Any = None,
        accumulator: Any = None,
        average: Any = None,
        state: Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        operands: Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        sums: Accumulation | Quantizer | str | Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        elementwise: Quantizer | str | Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        overrides: Mapping[str, Recipe | None] | tuple[tuple[str, Recipe | None], ...] = (),
        allow_empty: bool = False,
    ) -> None:
        given = (weight, activation, error, gradient, momentum, accumulator, average)
        for role, value in zip(ROLES, given, strict=True):
            object.__setattr__(self, role, _optional(value))
        object.__setattr__(
            self, "state", tuple((name, _optional(value)) for name, value in _pairs(state))
        )
        object.__setattr__(self, "operands", tuple(_operands(dict(_pairs(operands)))))
        together = isinstance(sums, Accumulation | Quantizer | str)
        object.__setattr__(
            self,
            "sums",
            tuple(_sums(dict.fromkeys(SUMS, sums) if together else dict(_pairs(sums)))),
        )
        alike = isinstance(elementwise, Quantizer | str)
        object.__setattr__(
            self,
            "elementwise",
            tuple(
                _elementwise(
                    dict.fromkeys(ELEMENTWISE, elementwise) if alike else dict(_pairs(elementwise))
                )
            ),
        )
        for pattern, recipe in _pairs(overrides):
            if recipe is not None and (not isinstance(recipe, Recipe) or recipe.overrides):
                raise TypeError(
                    f"overrides[{pattern!r}] must be None or a Recipe without overrides, got"
                    f" {recipe!r}"
                )
        object.__setattr__(self, "overrides", tuple(_pairs(overrides)))
        check_bool("allow_empty", allow_empty)
        object.__setattr__(self, "allow_empty", allow_empty)

    def of(self, name: str) -> Recipe:
        """The recipe that holds for the parameter of that name; without overrides."""
        for pattern, recipe in self.overrides:
            if fnmatchcase(name, pattern):
                return recipe or FULL_PRECISION
        return replace(self, overrides=()) if self.overrides else self

    def unmatched(self, names: Iterable[str]) -> tuple[str, ...]:
        """The patterns of `overrides` that match none of the names.

        >>> Recipe(overrides={"*.bias": None, "haed.*": None}).unmatched(["head.bias"])
        ('haed.*',)
        """
        names = tuple(names)
        return tuple(
            pattern
            for pattern, _ in self.overrides
            if not any(fnmatchcase(name, pattern) for name in names)
        )

    def check_patterns(self, names: Iterable[str]) -> None:
        """Refuse patterns of `overrides` that match nothing.

        Parameters
        ----------
        names : all names that the recipe may be asked about, those of other entry points included:
            "*.bias" matches parameters and no output, "*.output" outputs and no parameter.

        Raises
        ------
        ValueError: if a pattern matches none of the names; it gives the nearest of them.
        """
        names = tuple(dict.fromkeys(names))
        for pattern in self.unmatched(names):
            nearest = ", ".join(near_matches(pattern, names))
            raise ValueError(
                f"the pattern {pattern!r} of overrides matches none of {len(names)} names"
                + (f"; the nearest are {nearest}" if nearest else "")
                + "; correct or remove the pattern"
            )

    def quantizer(self, role: str) -> Quantizer | None:
        """The quantizer of a role, of an operand, or of a further optimizer state by name."""
        return (
            getattr(self, role) if role in ROLES else dict((*self.state, *self.operands)).get(role)
        )

    def accumulation(self, name: str) -> Accumulation | None:
        """How one of the products of `SUMS` is summed up; None: in the arrays' own dtype."""
        return dict(self.sums).get(name)

    def elementwise_rule(self, name: str) -> Quantizer | Accumulation | None:
        """How one of the `ELEMENTWISE` is rounded; None: not at all."""
        return dict(self.elementwise).get(name)

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the `SECTIONS` in which something is rounded, in this recipe or an override.

        >>> swalp(8).sections, Recipe(operands={"input": "mxfp4"}).sections
        (('optimizer', 'activations'), ('products',))
        """
        recipes = (self, *(recipe for _, recipe in self.overrides if recipe is not None))
        return tuple(
            section
            for section, names in SECTIONS.items()
            if any(getattr(recipe, name) not in (None, ()) for recipe in recipes for name in names)
        )

    def check_section(self, section: str, call: str, calls: Mapping[str, str]) -> None:
        """Refuse a recipe that says nothing of what a call is to apply.

        Parameters
        ----------
        section : the section of `SECTIONS` that the call applies.
        call : name of the call, for the error.
        calls : section → name of the call that applies it, for the remedy.

        Raises
        ------
        ValueError: if the section is empty and the recipe does not `allow_empty`. A silent no-op
            would pass for quantized training.
        """
        if self.allow_empty or section in self.sections:
            return
        others = [f"{calls[other]} ({other})" for other in self.sections if other in calls]
        remedy = (
            f"this recipe is applied by {', '.join(others)}" if others else "this recipe is empty"
        )
        raise ValueError(
            f"nothing to round: {call} applies the section {section!r} of a recipe"
            f" ({', '.join(SECTIONS[section])}), where this one has nothing; {remedy}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, as for JSON or a checkpoint; `from_dict` reads them."""
        plain: dict[str, Any] = {
            role: str(q) for role in ROLES if (q := getattr(self, role)) is not None
        }
        if self.state:
            plain["state"] = {name: None if q is None else str(q) for name, q in self.state}
        if self.operands:
            plain["operands"] = {name: str(q) for name, q in self.operands}
        if self.sums:
            plain["sums"] = {name: str(accumulation) for name, accumulation in self.sums}
        if self.elementwise:
            plain["elementwise"] = {name: str(rule) for name, rule in self.elementwise}
        if self.overrides:
            plain["overrides"] = {
                pattern: None if r is None else r.to_dict() for pattern, r in self.overrides
            }
        return plain

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`. ValueError for a key that is no role."""
        plain = {RENAMED.get(key, key): value for key, value in plain.items()}
        known = {item.name for item in fields(Recipe)} - {"allow_empty"}
        unknown = set(plain) - known
        if unknown:
            raise ValueError(
                f"a recipe has the keys {', '.join(sorted(known))}; got"
                f" {', '.join(sorted(unknown))}"
            )
        parts = dict(plain)
        if "overrides" in parts:
            parts["overrides"] = {
                pattern: None if r is None else Recipe.from_dict(r)
                for pattern, r in parts["overrides"].items()
            }
        return Recipe(**parts)

    def __str__(self) -> str:
        """A table of all that is rounded."""
        return table(("role", "format", "rounding"), self._lines(), left=range(3))

    def _lines(self, prefix: str = "") -> Iterator[tuple[str, str, str]]:
        rounded = [*((role, getattr(self, role)) for role in ROLES), *self.state, *self.operands]
        lines = [
            (f"{prefix}{name}", str(q.format), str(q.rounding))
            for name, q in rounded
            if q is not None
        ]
        lines += [
            (f"{prefix}{name}", str(q.format), str(q.rounding))
            for name, q in self.elementwise
            if isinstance(q, Quantizer)
        ]
        sums = (
            *self.sums,
            *((name, rule) for name, rule in self.elementwise if isinstance(rule, Accumulation)),
        )
        for name, accumulation in sums:
            lines += [
                (f"{prefix}{name}{part}", str(q.format), str(q.rounding))
                for part, q in accumulation.parts()
            ]
        yield from lines or [(prefix.removesuffix(": ") or "all", "full precision", "")]
        for pattern, recipe in self.overrides:
            yield from (recipe or FULL_PRECISION)._lines(f"{pattern}: ")


def swalp(word: int = 8, block: Literal["small", "big"] = "small", average: Any = None) -> Recipe:
    """SWALP's recipe (Yang et al. 2019, algorithm 2): every number in `word`-bit block floating
    point, stochastic.

    `block="small"`: one exponent for each index of axis 0 (each output channel of a weight, each
    sample of an activation; a vector as a whole); "big": one for each tensor. `average` is the
    quantizer of the averaged weights, None (the paper's choice) for full precision.

    >>> swalp(8).to_dict()["momentum"]
    'bfp<8,axis=0>/stochastic_a'
    """
    if block not in ("small", "big"):
        raise ValueError(f"block must be 'small' or 'big', got {block!r}")
    q = Quantizer(bfp(word, axis=0 if block == "small" else None))
    return Recipe(weight=q, activation=q, error=q, gradient=q, momentum=q, average=average)


def fixed_point(word: int, fraction: int) -> Recipe:
    """Weights alone in `fixed<word,fraction>`, stochastic: the setting of SWALP's algorithm 1 and
    its theory.
    """
    return Recipe(weight=f"fixed<{word},{fraction}>/stochastic")


@dataclass(frozen=True)
class Draw:
    """Random bits of one tensor in one step, by role: `draw("weight")`."""

    seed: int
    tensor: int
    step: int | Array

    def __call__(self, role: str) -> RandomBits:
        return RandomBits(self.seed, stream_id(role, self.tensor), self.step)


def apply(quantizer: Quantizer | None, x: Array, draw: Draw, role: str) -> Any:
    """x rounded for its role, or x itself where the role stays in full precision."""
    return (
        x
        if quantizer is None
        else quantizer(x, draw(role) if quantizer.rounding.stochastic else None)
    )


def _optional(value: Any) -> Quantizer | None:
    return None if value is None else Quantizer.parse(value)


def _operands(given: dict[str, Any]) -> Iterator[tuple[str, Quantizer]]:
    for name, quantizer in _named("an operand", given, OPERANDS):
        yield name, Quantizer.parse(quantizer)


def _elementwise(given: dict[str, Any]) -> Iterator[tuple[str, Quantizer | Accumulation]]:
    for name, rule in _named("an elementwise operation", given, ELEMENTWISE):
        if name.endswith(".sum"):
            yield name, Accumulation.parse(rule)
        else:
            quantizer = Quantizer.parse(rule)
            check_element(f"the elementwise operation {name!r}", quantizer)
            yield name, quantizer


def _named(what: str, given: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Those of the names that are given; "dgrad.error" goes before "error". ValueError for other
    names.
    """
    general = tuple(dict.fromkeys(name.partition(".")[2] for name in names))
    for name in given:
        check_choice(f"the name of {what}", name, (*names, *general))
    for name in names:
        found = given.get(name, given.get(name.partition(".")[2]))
        if found is not None:
            yield name, found


def _sums(given: dict[str, Any]) -> Iterator[tuple[str, Accumulation]]:
    """Those that are not None. ValueError for other names."""
    for name in given:
        check_choice("the name of a sum", name, SUMS)
    for name in SUMS:
        if given.get(name) is not None:
            yield name, Accumulation.parse(given[name])


def _pairs(items: Any) -> Iterator[tuple[str, Any]]:
    return iter(items.items()) if isinstance(items, Mapping) else iter(items)


FULL_PRECISION = Recipe()
"""Rounds nothing."""


__all__ = [
    "OPERANDS",
    "SECTIONS",
    "ROLES",
    "ELEMENTWISE",
    "SUMS",
    "Draw",
    "Quantizer",
    "Recipe",
    "apply",
    "fixed_point",
    "swalp",
]
