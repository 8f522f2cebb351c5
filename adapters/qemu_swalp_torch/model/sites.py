"""Sites of the products and of the elementwise operations that modules compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from qemu_swalp.training import ELEMENTWISE, OPERANDS, SUMS, Recipe
from qemu_swalp.training.delayed import Delayed

from ..ops.operands import Turn, coin
from ..ops.scaling import Scales, Scaling
from ..tensors.call_counters import Position, stream
from ..tensors.custom_ops import is_stochastic
from .interception import put
from .removable import Removable, RoundingSite


class ProductSite(RoundingSite):
    """The products that a module computes, with the rules of their operands and sums."""

    def __init__(
        self,
        position: Position,
        recipe: Recipe,
        *,
        attention: bool,
        expected: bool,
        possible: bool,
        policy: str,
    ) -> None:
        super().__init__(position)
        self.attention, self.policy = attention, policy
        self.runs = self.flops = self.left = 0
        """Forward products so far, outside of compiled graphs; their floating-point operations;
        those of products of two activations that are left in float.
        """
        rules = {name: recipe.quantizer(name) for name in OPERANDS}
        sums = {name: recipe.accumulation(name) for name in SUMS}
        self.quantizers = {
            name: None if rule is None else str(rule) for name, rule in {**rules, **sums}.items()
        }
        self.transforms, self.factors = dict(recipe.transforms), dict(recipe.factors)
        self.stochastic = any(
            is_stochastic(q) for q in self.quantizers.values() if q is not None
        ) or any(transform.draws for transform in self.transforms.values())
        self.scaling, self.from_rounded = dict(recipe.scaling), recipe.backward == "rounded"
        self.scales = Scales()
        if self.scaling:
            self.stochastic = True  # its calls are counted
        asked = any(self.quantizers.values())
        self.expected, self.possible = expected and asked, possible and asked
        self.made: dict[Any, Any] = {}
        """The rules of its products by what they depend on, where no random bits are drawn."""

    def turn_of(self, product: str, part: str, step: int | Tensor) -> Turn | None:
        """How the operands of a product are transformed at one call."""
        transform = self.transforms.get(product)
        if transform is None:
            return None
        signs = None
        if transform.draws:
            signs = coin(self.seed, stream(f"{product}.transform{part}", self.index), step)
        return Turn(str(transform), signs, self.seed)

    def scaling_of(self, name: str, role: str, part: str, step: int | Tensor) -> Scaling | None:
        """Which scale an operand has at one call; `role`: whose rules it goes by."""
        delayed = self.scaling.get(role.partition(".")[2])
        if delayed is None:
            return None
        return Scaling(str(delayed), self.scales.number, name.partition(".")[2] + part, step)

    def record(self) -> dict[str, Any]:
        """With the scales that follow a history."""
        scales = {"scales": self.scales.record()} if self.scaling else {}
        return {**super().record(), **scales}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Inverse of `record`."""
        super().restore(record)
        self.made = {}
        if self.scaling:
            self.scales.restore(record.get("scales", {}), self.rules_by_place)

    @property
    def rules_by_place(self) -> dict[str, Delayed]:
        """Where an operand stands → how its scale follows the history: a second activation, in the
        place of a weight, has the rule of inputs.
        """
        return {"weight": self.scaling.get("input", Delayed()), **self.scaling}

    def register(self, module: nn.Module) -> Sequence[Removable]:
        site = self if any(self.quantizers.values()) else False
        return (put(module, self.name, "products", site, self.policy),)


class ElementwiseSite(RoundingSite):
    """The elementwise operations that a module computes."""

    def __init__(
        self, position: Position, recipe: Recipe, *, expected: bool, possible: bool, policy: str
    ) -> None:
        super().__init__(position)
        self.policy, self.runs = policy, 0
        self.quantizers = tuple(
            None if (rule := recipe.elementwise_rule(name)) is None else str(rule)
            for name in ELEMENTWISE
        )
        self.stochastic = any(is_stochastic(q) for q in self.quantizers if q is not None)
        asked = any(self.quantizers)
        self.expected, self.possible = expected and asked, possible and asked

    def register(self, module: nn.Module) -> Sequence[Removable]:
        site = self if any(self.quantizers) else False
        return (put(module, self.name, "elementwise", site, self.policy),)
