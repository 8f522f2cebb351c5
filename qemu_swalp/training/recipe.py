"""Which numbers of a training run are rounded, and how: roles → (format, rounding)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from .._util.checks import check_bool, near_matches
from ..formats.axis_words import Axis, Layout
from ..ops.accumulation import Accumulation
from ..ops.hadamard import Hadamard
from ..ops.quantizer import Quantizer
from .delayed import Delayed
from .positions import is_position, layers_at, literal, unplaced
from .recipe_table import recipe_table
from .roles import (
    ROLES,
    SECTIONS,
    backward_operands,
    delayed_scaling,
    elementwise_rules,
    of_role,
    operand_factors,
    operand_quantizers,
    pairs,
    product_accumulations,
    product_transforms,
)

RENAMED = {"steps": "elementwise"}
"""Keys of recipes that the first drafts saved, and their names today."""


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
        the product. So blocks with axis=-1 lie along the sum, in each of the three products, as
        hardware has them.
    sums : how these products are accumulated: an `Accumulation` or its string, for all of them, or
        {name: accumulation} by the names of `SUMS`. Products that are not named are accumulated in
        the arrays' own dtype.
    transforms : {product: `Hadamard` or its string} by "forward", "dgrad" and "wgrad", or one for
        all products with an operand that is rounded. Both operands are transformed along the sum
        before they are rounded, with the same signs; without rounding that leaves the product as it
        is. Signs that are drawn differ from call to call, those that are fixed depend on the seed.
    factors : {name: factor} by the names of operands: each operand is multiplied by its factor
        before it is transformed and rounded, and the product is divided by both. On the error that
        is what scaling the loss does, product by product.
    scaling : {"input", "weight" or "error": `Delayed` or its string}, or one for all: their scales
        follow the history of the steps before, in place of the present numbers. Their formats have
        one scale for the whole array, and are the same in both products.
    backward : "rounded" for backward products of what the forward product multiplied, transformed
        and rounded, in place of the operands as they were. Their gradients are zero where the
        rounding clipped, and transformed back.
    elementwise : how the elementwise operations within softmax, normalization and nonlinearities
        are rounded. A quantizer of an element format for all of them, or {name: quantizer}. The
        names are those of `ELEMENTWISE`, or "add", "multiply", "divide", "sqrt", "function" (exp,
        log, tanh, erf) and "sum" (which may be an `Accumulation`) for forward and backward.
        Operations that are not named are computed in the arrays' own dtype.
    overrides : {pattern: Recipe or None}; for a parameter whose name matches a pattern (shell
        style, the first that matches) that recipe holds instead, None meaning full precision. A
        pattern may be a position among the layers that have a weight of two or more dimensions,
        embeddings left out, in the order of the model. So "@layers[0]", or "@layers[-15%:]", a
        share being rounded to nearest.
    allow_empty : whether an entry point of an adapter that finds nothing to round leaves the model
        as it is; by default it raises ValueError. Recipes that differ in this alone are equal, and
        `to_dict` leaves it out: it changes no number.

    Axes of blocks may be words (`Format.resolve`). Those of activation and error, whose samples are
    axis 0, and those of operands become numbers here. "out", "in" and "sum" of what is shaped like
    a weight are resolved for each parameter by an adapter, or by `resolve`. A parameter of one
    dimension is one block.

    >>> recipe = Recipe(weight="bfp8", overrides={"*.bias": None})
    >>> recipe.of("fc.weight").weight, recipe.of("fc.bias").weight
    (Quantizer(format=..., rounding=...), None)
    >>> operands = {"input": "mxfp4/nearest_even"}
    >>> sums = {"wgrad.sum": "fp16/to_odd; group=4"}
    >>> print(Recipe("bfp8/stochastic", operands=operands, sums=sums, overrides={"*.bias": None}))
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
    transforms: tuple[tuple[str, Hadamard], ...] = ()
    factors: tuple[tuple[str, float], ...] = ()
    scaling: tuple[tuple[str, Delayed], ...] = ()
    backward: str | None = None
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
        transforms: Hadamard | str | Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        factors: Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        scaling: Delayed | str | Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        elementwise: Quantizer | str | Mapping[str, Any] | tuple[tuple[str, Any], ...] = (),
        overrides: Mapping[str, Recipe | None] | tuple[tuple[str, Recipe | None], ...] = (),
        allow_empty: bool = False,
        backward: str | None = None,
    ) -> None:
        by_role = (weight, activation, error, gradient, momentum, accumulator, average)
        rounded = operand_quantizers(operands)
        parts: dict[str, Any] = {
            **{role: of_role(role, value) for role, value in zip(ROLES, by_role, strict=True)},
            "state": tuple((name, of_role(name, value)) for name, value in pairs(state)),
            "operands": rounded,
            "sums": product_accumulations(sums),
            "transforms": product_transforms(transforms, rounded),
            "factors": operand_factors(factors, rounded),
            "scaling": (delayed := delayed_scaling(scaling, rounded)),
            "backward": backward_operands(backward, rounded, dict(delayed)),
            "elementwise": elementwise_rules(elementwise),
            "overrides": tuple(pairs(overrides)),
            "allow_empty": allow_empty,
        }
        check_bool("allow_empty", allow_empty)
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        for pattern, recipe in self.overrides:
            is_position(pattern)
            if recipe is not None and (not isinstance(recipe, Recipe) or recipe.overrides):
                raise TypeError(
                    f"overrides[{pattern!r}] must be None or a Recipe without overrides, got"
                    f" {recipe!r}"
                )

    def of(self, name: str) -> Recipe:
        """The recipe that holds for the parameter of that name; without overrides."""
        for pattern, recipe in self.overrides:
            if is_position(pattern):
                raise unplaced(pattern)
            if fnmatchcase(name, pattern):
                return recipe or FULL_PRECISION
        return replace(self, overrides=()) if self.overrides else self

    @property
    def has_positions(self) -> bool:
        """Whether a pattern of its overrides is a position."""
        return any(is_position(pattern) for pattern, _ in self.overrides)

    def at_layers(self, layers: Sequence[str] | Mapping[str, Iterable[str]]) -> Recipe:
        """The recipe with names for the positions among its overrides.

        Parameters
        ----------
        layers : names of the layers that have a weight of two or more dimensions, in order, or
            {name: patterns of all that belongs to the layer}. Default patterns: "name.*".

        Raises
        ------
        ValueError: if there is no layer at a position.

        >>> recipe = Recipe(operands={"input": "mxfp8"}, overrides={"@layers[-1]": None})
        >>> recipe.at_layers(["fc1", "fc2"]).overrides
        (('fc2.*', None),)
        """
        if not self.has_positions:
            return self
        if not isinstance(layers, Mapping):
            layers = {name: (f"{literal(name)}.*",) for name in layers}
        placed: list[tuple[str, Recipe | None]] = []
        for pattern, recipe in self.overrides:
            if is_position(pattern):
                for name in layers_at(pattern, tuple(layers)):
                    placed += [(own, recipe) for own in layers[name]]
            else:
                placed.append((pattern, recipe))
        return replace(self, overrides=tuple(placed))

    def in_section(self, section: str) -> Recipe:
        """The recipe without the positions at its end that change nothing in a section.

        Thus a call that sees no model takes a recipe whose positions are of products alone.
        """
        overrides = self.overrides
        while overrides and is_position(overrides[-1][0]):
            other = overrides[-1][1] or FULL_PRECISION
            if any(getattr(other, name) != getattr(self, name) for name in SECTIONS[section]):
                break
            overrides = overrides[:-1]
        return replace(self, overrides=overrides)

    @property
    def axis_words(self) -> tuple[str, ...]:
        """The words among the axes of its formats, which `resolve` replaces by numbers."""
        recipes = (self, *(recipe for _, recipe in self.overrides if recipe is not None))
        words = (
            word
            for recipe in recipes
            for quantizer in (
                *(getattr(recipe, role) for role in ROLES),
                *dict(recipe.state).values(),
            )
            if quantizer is not None
            for word in quantizer.format.axis_words
        )
        return tuple(dict.fromkeys(words))

    def resolve(self, layout: Layout | None = None, /, **axes: Axis) -> Recipe:
        """The recipe with numbers for the words among its axes, overrides included.

        For arrays of one layout: adapters resolve each parameter by its layer. Parameters, result
        and errors are those of `Format.resolve`.

        >>> str(Recipe("bfp<8,axis=out>").resolve(out=-1).weight)
        'bfp<8,axis=-1>/nearest_even'
        """

        def resolved(quantizer: Quantizer | None) -> Quantizer | None:
            return None if quantizer is None else quantizer.resolve(layout, **axes)

        roles: dict[str, Any] = {role: resolved(getattr(self, role)) for role in ROLES}
        return replace(
            self,
            **roles,
            state=tuple((name, resolved(quantizer)) for name, quantizer in self.state),
            overrides=tuple(
                (pattern, None if recipe is None else recipe.resolve(layout, **axes))
                for pattern, recipe in self.overrides
            ),
        )

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

    def check_patterns(
        self, names: Iterable[str], remedy: str = "correct or remove the pattern"
    ) -> None:
        """Refuse patterns of `overrides` that match nothing.

        Parameters
        ----------
        names : all names that the recipe may be asked about, those of other entry points included:
            "*.bias" matches parameters and no output, "*.output" outputs and no parameter.
        remedy : the last words of the error.

        Raises
        ------
        ValueError: if a pattern matches none of the names; it gives the nearest of them.
        """
        names = tuple(dict.fromkeys(names))
        for pattern in self.unmatched(names):
            if is_position(pattern):
                raise unplaced(pattern)
            nearest = ", ".join(near_matches(pattern, names))
            raise ValueError(
                f"the pattern {pattern!r} of overrides matches none of {len(names)} names"
                + (f"; the nearest are {nearest}" if nearest else "")
                + f"; {remedy}"
            )

    def quantizer(self, role: str) -> Quantizer | None:
        """The quantizer of a role, of an operand, or of a further optimizer state by name."""
        return (
            getattr(self, role) if role in ROLES else dict((*self.state, *self.operands)).get(role)
        )

    def accumulation(self, name: str) -> Accumulation | None:
        """How one of the products of `SUMS` is accumulated; None: in the arrays' own dtype."""
        return dict(self.sums).get(name)

    def transform(self, product: str) -> Hadamard | None:
        """How both operands of "forward", "dgrad" or "wgrad" are transformed; None: not at all."""
        return dict(self.transforms).get(product)

    def factor(self, operand: str) -> float:
        """By what an operand of `OPERANDS` is multiplied before it is rounded."""
        return dict(self.factors).get(operand, 1.0)

    def elementwise_rule(self, name: str) -> Quantizer | Accumulation | None:
        """How one of the `ELEMENTWISE` is rounded; None: not at all."""
        return dict(self.elementwise).get(name)

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the `SECTIONS` in which something is rounded, in this recipe or an override.

        >>> both = Recipe(weight="bfp8", activation="bfp8")
        >>> both.sections, Recipe(operands={"input": "mxfp4"}).sections
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
        if self.transforms:
            plain["transforms"] = {name: str(transform) for name, transform in self.transforms}
        if self.factors:
            plain["factors"] = dict(self.factors)
        if self.scaling:
            plain["scaling"] = {name: str(rule) for name, rule in self.scaling}
        if self.backward:
            plain["backward"] = self.backward
        if self.elementwise:
            plain["elementwise"] = {name: str(rule) for name, rule in self.elementwise}
        if self.overrides:
            plain["overrides"] = {
                pattern: None if r is None else r.to_dict() for pattern, r in self.overrides
            }
        return plain

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`; it reads what the first drafts wrote, too.

        ValueError if a key is not the name of a role or part of a recipe.
        """
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
        return recipe_table(self)


FULL_PRECISION = Recipe()
"""Rounds nothing."""
