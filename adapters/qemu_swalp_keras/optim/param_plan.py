"""Which variables of an optimizer are rounded, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from qemu_swalp.arrays.dtypes import source_dtype
from qemu_swalp.formats import Block
from qemu_swalp.ops.arguments import check_representable
from qemu_swalp.training import FULL_PRECISION, Quantizer, Recipe, TensorRandomBits

MOMENTA = ("momentum", "m")
"""Names under which Keras's optimizers keep what the role `momentum` stands for."""

ACCUMULATOR = "qemu_accumulator"
"""Name of the optimizer variable that holds a weight in the accumulator's format."""


@dataclass
class Entry:
    """One trainable variable, and what is rounded for it."""

    variable: Any
    name: str
    """Its path, as in "sequential/dense/kernel": what the recipe's overrides match."""
    tensor: int
    """Its index among the optimizer's variables: it numbers the random streams."""
    recipe: Recipe
    slots: dict[str, Any] = field(default_factory=dict)
    """Optimizer variables like this one, by the name that the optimizer gave them."""

    def draw(self, seed: int, step: Any) -> TensorRandomBits:
        """Random bits of a step."""
        return TensorRandomBits(seed, self.tensor, step)

    @property
    def rounded_slots(self) -> list[tuple[str, Any, Quantizer]]:
        """(role that numbers the random stream, variable, quantizer)."""
        named: dict[str, Quantizer | None] = {
            **dict.fromkeys(MOMENTA, self.recipe.momentum),
            **dict(self.recipe.state),
        }
        return [
            ("momentum" if name in MOMENTA else name, slot, quantizer)
            for name, slot in self.slots.items()
            if (quantizer := named.get(name)) is not None
        ]


def entries(variables: Sequence[Any], recipe: Recipe) -> list[Entry]:
    """One for each variable. TypeError or ValueError, naming it, where shape or dtype do not go
    with the formats.

    Variables that Keras overwrites with their gradients (float8 scales), and those of integers, are
    not rounded.
    """
    made = []
    for tensor, variable in enumerate(variables):
        name = getattr(variable, "path", variable.name)
        plain = keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(variable.dtype)
        ) and not getattr(variable, "overwrite_with_gradient", False)
        made.append(Entry(variable, name, tensor, recipe.of(name) if plain else FULL_PRECISION))
        _check(made[-1])
    return made


def check_state_names(made: Sequence[Entry], recipe: Recipe) -> None:
    """ValueError where the recipe rounds optimizer state that the optimizer does not keep."""
    named = [recipe, *(r for _, r in recipe.overrides if r is not None)]
    wanted = {name for r in named for name, quantizer in r.state if quantizer is not None}
    kept = {name for entry in made for name in entry.slots}
    if wanted - kept:
        raise ValueError(
            f"The recipe rounds the optimizer state {', '.join(sorted(wanted - kept))}, which this "
            f"optimizer does not keep. It keeps: {', '.join(sorted(kept)) or 'none'}"
        )


def _check(entry: Entry) -> None:
    variable = entry.variable
    for role in ("weight", "gradient", "momentum", "accumulator"):
        quantizer = entry.recipe.quantizer(role)
        if quantizer is None:
            continue
        try:
            check_representable(
                quantizer.format, source_dtype(keras.backend.standardize_dtype(variable.dtype))
            )
            if isinstance(quantizer.format, Block):
                quantizer.format.extents(len(variable.shape))
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"Variable {entry.name}, role {role}: {error}; or give it another recipe by an"
                " override"
            ) from error
