"""Which role of a recipe it is that low precision breaks training by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .._util.tables import table
from .recipe import FULL_PRECISION, OPERANDS, ROLES, Recipe


@dataclass(frozen=True)
class RoleStudy:
    """Losses of a training under a recipe, without any rounding, and with one role at a time in
    full precision.
    """

    quantized: float
    full: float
    without: dict[str, float]
    """By role, or operand, or sum, or step, or name of optimizer state."""

    def recovered(self, role: str) -> float:
        """Share of the loss that rounding costs which goes where this role stays in full precision.

        About 1 for the one role that breaks training, about 0 for the others. Losses that are not
        finite count as infinite; the share of an infinite loss is 1 or 0. NaN where rounding costs
        nothing.
        """
        cost = _loss(self.quantized) - _loss(self.full)
        if not cost > 0:
            return math.nan
        if math.isinf(cost):
            return float(math.isfinite(self.without[role]))
        return (self.quantized - _loss(self.without[role])) / cost

    @property
    def breaking(self) -> str | None:
        """The role that recovers most, if it recovers half or more; None: rounding costs nothing,
        or several roles break training together.
        """
        ranked = sorted(self.without, key=lambda role: _loss(self.without[role]))
        return ranked[0] if ranked and self.recovered(ranked[0]) >= 0.5 else None

    def __str__(self) -> str:
        """A table, the most breaking role first."""
        roles = sorted(self.without, key=lambda role: _loss(self.without[role]))
        lines = [
            ("nothing", f"{self.quantized:.6g}", ""),
            *((role, f"{self.without[role]:.6g}", f"{self.recovered(role):.0%}") for role in roles),
            ("everything", f"{self.full:.6g}", ""),
        ]
        return table(("in full precision", "loss", "recovered"), lines)


def find_breaking_role(train: Callable[[Recipe], float], recipe: Recipe) -> RoleStudy:
    """Train once under the recipe, once without rounding, and once with each of its roles in full
    precision.

    Parameters
    ----------
    train : trains from the start under the recipe that it is given and returns a loss, less is
        better; the same data and seeds each time. Diverged runs may return NaN or infinity.
    recipe : the recipe in question; a role goes from its overrides, too.

    Returns
    -------
    study that prints as a table, and whose `breaking` is the role at fault.

    Raises
    ------
    ValueError : the recipe rounds nothing.

    # a training that cannot stand a coarse momentum
    >>> def train(recipe):
    ...     return 2.0 if recipe.momentum else 1.0 if recipe.weight else 0.9
    >>> print(find_breaking_role(train, Recipe(weight="bfp8", momentum="bfp4")))
    in full precision  loss  recovered
    ─────────────────  ────  ─────────
    nothing               2
    momentum              1        91%
    weight                2         0%
    everything          0.9
    """
    roles = tuple(dict.fromkeys(_roles(recipe)))
    if not roles:
        raise ValueError(f"the recipe must round something, got {recipe.to_dict()}")
    return RoleStudy(
        train(recipe), train(FULL_PRECISION), {role: train(without(recipe, role)) for role in roles}
    )


def without(recipe: Recipe, role: str) -> Recipe:
    """The recipe with a role, operand, sum, step or optimizer state in full precision, in its
    overrides as well.

    >>> without(Recipe(weight="bfp8", operands={"error": "e5m2"}), "dgrad.error").to_dict()
    {'weight': 'bfp8/stochastic_a', 'operands': {'wgrad.error': 'e5m2/stochastic_a'}}
    """
    lessened = tuple((pattern, own and without(own, role)) for pattern, own in recipe.overrides)
    kept = replace(
        recipe,
        overrides=lessened,
        state=tuple(pair for pair in recipe.state if pair[0] != role),
        operands=tuple(pair for pair in recipe.operands if pair[0] != role),
        sums=tuple(pair for pair in recipe.sums if pair[0] != role),
        elementwise=tuple(pair for pair in recipe.elementwise if pair[0] != role),
    )
    return replace(kept, **{role: None}) if role in ROLES else kept  # type: ignore[arg-type]


def _roles(recipe: Recipe) -> Iterator[str]:
    named = (*ROLES, *OPERANDS, *(name for name, _ in recipe.state))
    yield from (role for role in named if recipe.quantizer(role) is not None)
    yield from (name for name, _ in (*recipe.sums, *recipe.elementwise))
    for _, own in recipe.overrides:
        yield from _roles(own or FULL_PRECISION)


def _loss(value: float) -> float:
    return value if math.isfinite(value) else math.inf
