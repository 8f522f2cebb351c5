"""What a layer's products are rounded by, as a part of its dtype policy.

A dtype policy is a layer's own statement of its arithmetic: Keras saves it with the layer, clones
and loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras

from qemu_swalp import Accumulation, stream_id
from qemu_swalp.training import OPERANDS, Recipe
from qemu_swalp.training.roles import PRODUCTS

from ..layers.straight_through import Rule
from .operands import Operand, Operands, ProductRules, Turn

AS_INPUT = {"forward.weight": "forward.input", "dgrad.weight": "wgrad.input"}
"""By which quantizer the second of two activations is rounded, in place of a weight's."""


@keras.saving.register_keras_serializable(package="qemu_swalp")
class RoundingPolicy(keras.dtype_policies.DTypePolicy):
    """The dtypes of a layer, and how its products are rounded.

    Parameters
    ----------
    name : of the dtype policy, as in "float32" or "mixed_float16".
    layer : name of the layer that it was given to. Keras hands policies on to layers within, which
        belong to that one's call.
    path : name of the layer in the model; "" for the model itself.
    place : number of the layer in the model, from which its random bits derive.
    recipe : `Recipe.to_dict()`.
    exclude : names and patterns of layers that are left out.
    attention : whether products of two activations are rounded.
    seed : of the random bits.
    """

    def __init__(
        self,
        name: str,
        layer: str = "",
        path: str = "",
        place: int = 0,
        recipe: Mapping[str, Any] | None = None,
        exclude: tuple[str, ...] = (),
        attention: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(name)
        self.layer, self.path, self.place = layer, path, place
        self.recipe = Recipe.from_dict(recipe or {})
        self.exclude, self.attention, self.seed = tuple(exclude), attention, seed
        self.stochastic = any(
            _is_stochastic(rule)
            for part in (self.recipe, *(r for _, r in self.recipe.overrides if r is not None))
            for rules in (part.operands, part.sums)
            for _, rule in rules
        ) or any(
            transform.draws
            for part in (self.recipe, *(r for _, r in self.recipe.overrides if r is not None))
            for _, transform in part.transforms
        )
        self.products: list[Any] = []
        """What the layer was seen to multiply in its last call, each a `Product`."""
        self._cache: dict[tuple[str, str, bool], Operands | None] = {}

    def operands(self, name: str, part: str, activations: bool) -> Operands | None:
        """For a product of the layer of that name; None where it is not rounded.

        part : of the layer's call, which has random streams of its own. activations : whether both
        operands are.
        """
        key = (name, part, activations)
        if key not in self._cache:
            self._cache[key] = self._operands(*key)
        return self._cache[key]

    def excludes(self, name: str) -> bool:
        """Whether the layer of that name was left out."""
        return any(fnmatchcase(name, pattern) for pattern in self.exclude)

    def _operands(self, name: str, part: str, activations: bool) -> Operands | None:
        recipe = self.recipe.of(f"{name}/operands")
        if self.excludes(name) or not (recipe.operands or recipe.sums):
            return None
        if activations and not self.attention:
            return None
        made = []
        for product in PRODUCTS:
            turn = self._turn(recipe, product, part)
            names = [name for name in OPERANDS if name.startswith(f"{product}.")]
            first, second = (
                Operand(recipe.factor(role), turn, self._rule(recipe.quantizer(role), name + part))
                for name in names
                for role in (AS_INPUT.get(name, name) if activations else name,)
            )
            total = f"{product}.sum"
            made.append(
                ProductRules(first, second, self._rule(recipe.accumulation(total), total + part))
            )
        return Operands(*made)

    def _turn(self, recipe: Recipe, product: str, part: str) -> Turn | None:
        transform = recipe.transform(product)
        if transform is None:
            return None
        return Turn(transform, self.seed, stream_id(f"{product}.transform{part}", self.place))

    def _rule(self, quantizer: Any, role: str) -> Rule | None:
        if quantizer is None:
            return None
        if not _is_stochastic(quantizer):
            return Rule(quantizer)
        return Rule(quantizer, self.seed, stream_id(role, self.place))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layer": self.layer,
            "path": self.path,
            "place": self.place,
            "recipe": self.recipe.to_dict(),
            "exclude": list(self.exclude),
            "attention": self.attention,
            "seed": self.seed,
        }


def _is_stochastic(rule: Any) -> bool:
    return bool(rule.stochastic if isinstance(rule, Accumulation) else rule.rounding.stochastic)
