"""What is rounded for one parameter of an optimizer, and whether its dtype and shape fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..arrays.dtypes import source_dtype
from ..formats import Block
from ..ops.arguments import check_representable
from ..ops.quantizer import Quantizer
from .recipe import Recipe

SHAPED_LIKE_WEIGHT = ("weight", "gradient", "momentum", "accumulator")
"""Roles whose arrays have the shape of the weight."""


class RoundedState(NamedTuple):
    """One entry of an optimizer's state that a recipe rounds."""

    key: str
    """Its name in the optimizer."""
    role: str
    """Selects its random stream."""
    quantizer: Quantizer


def rounded_states(recipe: Recipe, momentum_keys: Sequence[str]) -> tuple[RoundedState, ...]:
    """The state that a recipe rounds.

    Parameters
    ----------
    recipe : without overrides. The names in its `state` go before the role momentum.
    momentum_keys : names under which a framework's optimizers have the momentum.

    >>> [item[:2] for item in rounded_states(Recipe(momentum="bf16", state={"v": "bf16"}), ["m"])]
    [('m', 'momentum'), ('v', 'v')]
    """
    by_key: dict[str, Quantizer | None] = {
        **dict.fromkeys(momentum_keys, recipe.momentum),
        **dict(recipe.state),
    }
    return tuple(
        RoundedState(key, "momentum" if key in momentum_keys else key, quantizer)
        for key, quantizer in by_key.items()
        if quantizer is not None
    )


def check_parameter(
    label: str, dtype: str, dimensions: int, recipe: Recipe, states: Sequence[RoundedState] = ()
) -> None:
    """Check that a parameter's dtype and shape fit the formats of its recipe.

    Parameters
    ----------
    label : the parameter's name, for the error.
    dtype : of the parameter and its state, as in "float32".
    dimensions : number of the parameter's dimensions.
    recipe : without overrides.
    states : further state; of any shape, so that their blocks are not checked.

    Raises
    ------
    TypeError: if the dtype cannot represent the values of a format.
    ValueError: if a block format names an axis that the parameter lacks.
    """
    quantizers = [(role, recipe.quantizer(role)) for role in SHAPED_LIKE_WEIGHT]
    for role, quantizer in (*quantizers, *((state.key, state.quantizer) for state in states)):
        if quantizer is None:
            continue
        try:
            check_representable(quantizer.format, source_dtype(dtype))
            if role in SHAPED_LIKE_WEIGHT and isinstance(quantizer.format, Block):
                quantizer.format.extents(max(dimensions, 1))  # clause BLK-2: 0-d as (1)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{label}, role {role}: {error}; or give it another recipe by an override"
            ) from error


def stores_rounded(recipe: Recipe, states: Sequence[RoundedState]) -> bool:
    """Whether something that is stored is rounded: the weight, its accumulator or its state.

    An optimizer that computes in 16 bits would round it before the recipe does.
    """
    return bool(states or recipe.weight or recipe.accumulator)
