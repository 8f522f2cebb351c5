"""How a layer rounds what it computes, as a part of its dtype policy.

A dtype policy is a layer's own statement of its arithmetic: Keras saves it with the layer, clones
and loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import keras

from qemu_swalp import Hadamard, stream_id
from qemu_swalp.training import ELEMENTWISE, FULL_PRECISION, OPERANDS, Phases, Recipe
from qemu_swalp.training.roles import KINDS, PRODUCTS

from ..backend import LOSS_STATE, ROUNDING_STATE
from ..layers.names import LOSS
from ..layers.straight_through import Rule
from .operands import Operand, Operands, ProductRules, Scaling, Turn
from .rules import ElementwiseRules, is_stochastic

AS_INPUT = {"forward.weight": "forward.input", "dgrad.weight": "wgrad.input"}
"""By which quantizer the second of two activations is rounded, in place of a weight's."""

AS_KIND = {"weight": "input"}
"""The same by kinds of operands."""

SECTIONS = ("products", "elementwise")
"""Of a recipe, those that a policy holds."""


@dataclass(frozen=True)
class Section:
    """How a section of a recipe holds for a layer."""

    recipe: Recipe = FULL_PRECISION
    """Of the present phase, where there are several."""
    exclude: tuple[str, ...] = ()
    """Names and patterns of layers that are left out."""
    seed: int = 0
    """Of the random bits."""
    attention: bool = False
    """Whether products of two activations are rounded."""
    uncovered: str = "raise"
    """What to do about operations that cannot be rounded: "raise", "warn" or "ignore"."""
    phases: Phases | None = None

    def at(self, step: int) -> Section:
        """As it is at a step of the optimizer."""
        return self if self.phases is None else replace(self, recipe=self.phases.at(step))

    def of(self, name: str, suffix: str) -> Recipe:
        """What holds for the layer of that name; nothing where it was left out."""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return FULL_PRECISION
        return self.recipe.of(f"{name}/{suffix}")

    @property
    def parts(self) -> list[Recipe]:
        """The recipe and those of its overrides."""
        return [self.recipe, *(part for _, part in self.recipe.overrides if part is not None)]

    def to_dict(self) -> dict[str, Any]:
        """Plain, for a config."""
        plain = {**self.__dict__, "recipe": self.recipe.to_dict(), "exclude": list(self.exclude)}
        phases = plain.pop("phases")
        return plain if phases is None else {**plain, "phases": phases.to_dict()}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Section:
        """Inverse of `to_dict`."""
        made = {"recipe": Recipe.from_dict(plain["recipe"]), "exclude": tuple(plain["exclude"])}
        if "phases" in plain:
            made["phases"] = Phases.from_dict(plain["phases"])
        return Section(**{**plain, **made})


@keras.saving.register_keras_serializable(package="qemu_swalp")
class RoundingPolicy(keras.dtype_policies.DTypePolicy):
    """The dtypes of a layer, and how its products and its elementwise operations are rounded.

    Parameters
    ----------
    name : of the dtype policy, as in "float32" or "mixed_float16".
    layer : name of the layer that it was given to. Keras hands policies on to layers within, which
        belong to that one's call.
    path : name of the layer in the model; "" for the model itself.
    place : number of the layer in the model, from which its random bits derive; 0 for the loss.
    products, elementwise : `Section.to_dict()`, or None.
    scaled : whether the model's loss is scaled for layers in float16.
    scales : of the operands under delayed scaling, {name: how its scale follows a history}.
    """

    def __init__(
        self,
        name: str,
        layer: str = "",
        path: str = "",
        place: int = 0,
        products: Mapping[str, Any] | None = None,
        elementwise: Mapping[str, Any] | None = None,
        scales: Mapping[str, str] | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__(name)
        self.scales, self.scaled = dict(scales or {}), scaled
        self.layer, self.path, self.place = layer, path, place
        self.products, self.elementwise = (
            None if plain is None else Section.from_dict(plain) for plain in (products, elementwise)
        )
        self.stochastic = any(_is_stochastic(section) for section in self._sections())
        self.delayed = any(part.scaling for section in self._sections() for part in section.parts)
        """Whether scales of operands follow a history."""
        self.seen: list[Any] = []
        """What the layer was seen to multiply in its last call, each a `Product`."""
        self.checked = False
        """Whether a call was watched for what is not rounded."""
        self._of_loss: RoundingPolicy | None = None
        self._operands: dict[tuple[str, str, bool], Operands | None] = {}
        self._functions: dict[str, ElementwiseRules | None] = {}

    @property
    def of_loss(self) -> RoundingPolicy:
        """Of a model's policy: how its loss is rounded."""
        if self._of_loss is None:
            self._of_loss = RoundingPolicy(
                self.name,
                self.layer,
                LOSS,
                0,
                **_plain((self.products, self.elementwise)),
                scaled=self.scaled,
            )
        return self._of_loss

    @property
    def rounds_forward(self) -> bool:
        """Whether anything in the forward pass is another number than in full precision."""
        return any(_changes_forward(part) for section in self._sections() for part in section.parts)

    @property
    def is_of_loss(self) -> bool:
        """Whether it is the policy of a loss."""
        return self.place == 0

    @property
    def state(self) -> str:
        """Attribute of the layer that holds its `RoundingState`."""
        return LOSS_STATE if self.is_of_loss else ROUNDING_STATE

    def operands(self, name: str, part: str, activations: bool) -> Operands | None:
        """For a product of the layer of that name; None where it is not rounded.

        part : of the layer's call, which has random streams of its own. activations : whether both
        operands are.
        """
        key = (name, part, activations)
        if key not in self._operands:
            self._operands[key] = self._product(*key)
        return self._operands[key]

    def functions(self, name: str) -> ElementwiseRules | None:
        """For the elementwise operations of the layer of that name; None where none is rounded."""
        if name not in self._functions:
            self._functions[name] = self._elementwise(name)
        return self._functions[name]

    def asks(self, name: str, section: str) -> bool:
        """Whether anything of a section is rounded in the layer of that name."""
        if section == "products":
            return self.operands(name, "", False) is not None
        return self.functions(name) is not None

    def _sections(self) -> list[Section]:
        return [x for x in (self.products, self.elementwise) if x is not None]

    def _product(self, name: str, part: str, activations: bool) -> Operands | None:
        section = self.products
        if section is None or (activations and not section.attention):
            return None
        recipe = section.of(name, "operands")
        if not (recipe.operands or recipe.sums):
            return None
        made, scaling = [], dict(recipe.scaling)
        places = [
            kind for kind in KINDS if (AS_KIND if activations else {}).get(kind, kind) in scaling
        ]
        for product in PRODUCTS:
            turn = self._turn(section, recipe.transform(product), f"{product}.transform{part}")
            names = [name for name in OPERANDS if name.startswith(f"{product}.")]
            operands = []
            for name in names:
                role, place = AS_INPUT.get(name, name) if activations else name, name.split(".")[1]
                rule = self._rule(section, recipe.quantizer(role), name + part)
                delayed = scaling.get(role.split(".")[1]) if rule is not None else None
                follows = None if delayed is None else Scaling(delayed, places.index(place))
                operands.append(Operand(recipe.factor(role), turn, rule, follows))
            total = f"{product}.sum"
            rule = self._rule(section, recipe.accumulation(total), total + part)
            made.append(ProductRules(operands[0], operands[1], rule))
        forward, dgrad, wgrad = made
        return Operands(forward, dgrad, wgrad, recipe.backward == "rounded")

    def _elementwise(self, name: str) -> ElementwiseRules | None:
        section = self.elementwise
        recipe = FULL_PRECISION if section is None else section.of(name, "elementwise")
        if section is None or not recipe.elementwise:
            return None
        rules = tuple(recipe.elementwise_rule(kind) for kind in ELEMENTWISE)
        return ElementwiseRules(rules, section.seed, self.place, scaled=self.scaled)

    def _turn(self, section: Section, transform: Hadamard | None, role: str) -> Turn | None:
        if transform is None:
            return None
        return Turn(transform, section.seed, stream_id(role, self.place))

    def _rule(self, section: Section, quantizer: Any, role: str) -> Rule | None:
        if quantizer is None:
            return None
        of_error = ".error" in role or (".sum" in role and not role.startswith("forward"))
        label = (self.path, role)
        more: dict[str, Any] = {"of_error": of_error, "label": label, "scaled": self.scaled}
        if not is_stochastic(quantizer):
            return Rule(quantizer, **more)
        return Rule(quantizer, section.seed, stream_id(role, self.place), **more)

    def at(self, step: int) -> RoundingPolicy:
        """The policy at a step of the optimizer: this one, where that has the same recipes."""
        sections = (self.products, self.elementwise)
        then = tuple(section and section.at(step) for section in sections)
        return self if then == sections else type(self)(**self._config(then))

    def get_config(self) -> dict[str, Any]:
        return self._config((self.products, self.elementwise))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RoundingPolicy:
        """Inverse of `get_config`.

        Raises
        ------
        ValueError: if another version of this package wrote it, which says other things.
        """
        if unknown := sorted(set(config) - set(cls("float32").get_config())):
            raise ValueError(
                f"the file's rounding of layer {config.get('layer')!r} was written by another"
                f" version of qemu_swalp, with {', '.join(unknown)}; make the model anew, round it"
                " by emulate with the same arguments, and load its weights by model.load_weights"
            )
        return cls(**config)

    def _config(self, parts: tuple[Section | None, ...]) -> dict[str, Any]:
        own = {"layer": self.layer, "path": self.path, "place": self.place}
        own |= {"scales": dict(self.scales), "scaled": self.scaled}
        return {**super().get_config(), **own, **_plain(parts)}


def _plain(parts: tuple[Section | None, ...]) -> dict[str, Any]:
    """The sections of a policy for a config."""
    plain = [None if section is None else section.to_dict() for section in parts]
    return dict(zip(SECTIONS, plain, strict=True))


def _changes_forward(recipe: Recipe) -> bool:
    """Whether it names what the forward pass rounds, multiplies by factors or transforms."""
    given = (recipe.operands, recipe.sums, recipe.elementwise, recipe.factors, recipe.transforms)
    return any(name.split(".")[0] == "forward" for rules in given for name, _ in rules)


def _is_stochastic(section: Section) -> bool:
    recipes = section.parts
    return any(
        is_stochastic(rule)
        for recipe in recipes
        for rules in (recipe.operands, recipe.sums, recipe.elementwise)
        for _, rule in rules
    ) or any(transform.draws for recipe in recipes for _, transform in recipe.transforms)
