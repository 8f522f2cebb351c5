"""The table that a recipe prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._util.tables import table
from ..ops.accumulation import Accumulation
from ..ops.quantizer import Quantizer
from .roles import ROLES

Line = tuple[str, str, str]


def recipe_table(recipe: Any) -> str:
    """All that a recipe rounds: role, format, rounding."""
    return table(("role", "format", "rounding"), _lines(recipe, ""), left=range(3))


def _lines(recipe: Any, prefix: str) -> Iterator[Line]:
    lines = [(f"{prefix}{name}", format, mode) for name, format, mode in _rounded(recipe)]
    yield from lines or [(prefix.removesuffix(": ") or "all", "full precision", "")]
    for pattern, override in recipe.overrides:
        if override is None:
            yield f"{prefix}{pattern}", "full precision", ""
        else:
            yield from _lines(override, f"{prefix}{pattern}: ")


def _rounded(recipe: Any) -> Iterator[Line]:
    factors = dict(recipe.factors)
    roles = ((role, getattr(recipe, role)) for role in ROLES)
    rules = [
        *roles,
        *recipe.state,
        *(
            (f"{name} (factor={factors[name]:.6g})" if name in factors else name, quantizer)
            for name, quantizer in recipe.operands
        ),
        *recipe.elementwise,
    ]
    for name, rule in rules:
        if isinstance(rule, Quantizer):
            yield name, str(rule.format), str(rule.rounding)
    for name, delayed in recipe.scaling:
        yield f"{name}.scale", str(delayed), ""
    for name, transform in recipe.transforms:
        yield f"{name}.transform", str(transform), ""
    if recipe.backward:
        yield "backward products", f"operands as {recipe.backward} forward", ""
    for name, accumulation in (*recipe.sums, *recipe.elementwise):
        if isinstance(accumulation, Accumulation):
            for part, quantizer in accumulation.parts():
                yield f"{name}{part}", str(quantizer.format), str(quantizer.rounding)
