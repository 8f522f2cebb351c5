"""Which variables of an optimizer are rounded, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from qemu_swalp.training import FULL_PRECISION, Phases, Quantizer, Recipe, TensorRandomBits
from qemu_swalp.training.layouts import resolved_for
from qemu_swalp.training.param_plan import check_parameter, rounded_states, stores_rounded

from ..backend import dtype_of
from .layouts import layouts_of

MOMENTA = ("momentum", "m")
"""Names under which Keras's optimizers have the momentum."""

KERAS_NAMES = {
    "exp_avg": "momentum",
    "exp_avg_sq": "velocity",
    "max_exp_avg_sq": "velocity_hat",
    "momentum_buffer": "momentum",
    "square_avg": "velocity",
}
"""Names of optimizer state in PyTorch, as presets have them, and in Keras."""

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
    phases: Phases
    slots: dict[str, Any] = field(default_factory=dict)
    """Optimizer variables like this one, by the name that the optimizer gave them."""
    updated: Any = None
    """What the update writes: the variable, or one in float32 that stands in for it."""

    def __post_init__(self) -> None:
        self.updated = self.variable
        self.recipe = self.phases.at(0)
        """Of the present phase."""

    def draw(self, seed: int, step: Any) -> TensorRandomBits:
        """Random bits of a step."""
        return TensorRandomBits(seed, self.tensor, step)

    @property
    def needs_float32(self) -> bool:
        """Whether an update in the variable's 16 bits would round before the recipe does."""
        return is_16bit(self.variable) and any(
            stores_rounded(recipe, rounded_states(recipe, MOMENTA))
            for _, recipe in self.phases.recipes
        )

    @property
    def accumulates(self) -> bool:
        """Whether an accumulator of the weight is kept, in any phase."""
        return any(recipe.accumulator is not None for _, recipe in self.phases.recipes)

    @property
    def stands_in(self) -> bool:
        """Whether a float32 variable stands in for the variable."""
        return self.updated is not self.variable

    def rounded_slots(self) -> Iterator[tuple[str, Any, Quantizer]]:
        """(role that selects the random stream, variable, quantizer) of the state."""
        for key, role, quantizer in rounded_states(self.recipe, MOMENTA):
            if key in self.slots:
                yield role, self.slots[key], quantizer


def is_16bit(variable: Any) -> bool:
    """Whether a variable is stored in float16 or bfloat16."""
    return dtype_of(variable) in ("float16", "bfloat16")


def is_overwritten(variable: Any) -> bool:
    """Whether Keras overwrites a variable with its gradient: a scale, which nothing averages."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def entries(variables: Sequence[Any], phases: Phases, left_out: Sequence[int] = ()) -> list[Entry]:
    """One entry for each variable.

    Integer variables, those that Keras overwrites with their gradients (float8 scales), and those
    with the indices `left_out` are not rounded.

    Raises
    ------
    TypeError, ValueError: if a variable's dtype or shape does not fit the formats.
    ValueError: if the recipe names axes by words, and the layout of a variable is not known.
    """
    plan = []
    layouts = layouts_of(variables if any(r.axis_words for _, r in phases.recipes) else ())
    for tensor, variable in enumerate(variables):
        name = getattr(variable, "path", variable.name)
        dtype = dtype_of(variable)
        plain = keras.backend.is_float_dtype(dtype) and not is_overwritten(variable)
        plain = plain and tensor not in left_out
        own = {}
        for step, recipe in phases.recipes:
            one = _in_keras_names(recipe.of(name)) if plain else FULL_PRECISION
            if one.axis_words:
                one = resolved_for(one, f"Variable {name}", tuple(variable.shape), *layouts[tensor])
            check_parameter(f"Variable {name}", dtype, len(variable.shape), one)
            own[step] = one
        plan.append(Entry(variable, name, tensor, Phases(own)))
    return plan


def _in_keras_names(recipe: Recipe) -> Recipe:
    """The recipe with PyTorch's names of state translated; names that Keras has go before them."""
    translated = {KERAS_NAMES.get(name, name): quantizer for name, quantizer in recipe.state}
    return replace(recipe, state=tuple({**translated, **dict(recipe.state)}.items()))


def check_state_names(plan: Sequence[Entry], phases: Phases) -> None:
    """Check that the optimizer has the state that the recipe names.

    PyTorch's names are not checked: they stand in presets for whichever optimizer has such state.

    Raises
    ------
    ValueError: if it lacks some.
    """
    recipes = [recipe for _, recipe in phases.recipes]
    recipes += [r for recipe in recipes for _, r in recipe.overrides if r is not None]
    named = {name for r in recipes for name, quantizer in r.state if quantizer is not None}
    named -= KERAS_NAMES.keys()
    known = {name for entry in plan for name in entry.slots}
    if named - known:
        raise ValueError(
            f"The recipe rounds the optimizer state {', '.join(sorted(named - known))}, which this"
            f" optimizer does not keep. It keeps: {', '.join(sorted(known)) or 'none'}"
        )
