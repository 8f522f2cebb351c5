"""How the elementwise operations of one call of a layer are rounded."""

from __future__ import annotations

from typing import Any, NamedTuple

from qemu_swalp import Accumulation, stream_id
from qemu_swalp.training import ELEMENTWISE, Quantizer

from ..layers.straight_through import Rule


class ElementwiseRules(NamedTuple):
    """How the elementwise operations of one call of a function are rounded: a quantizer, an
    accumulation or None for each of `ELEMENTWISE`, and random bits.
    """

    quantizers: tuple[Quantizer | Accumulation | None, ...]
    seed: int = 0
    place: int = 0
    part: str = ""
    """Of the layer's call: sets its random streams apart from those of others."""
    replica: str = ""
    """What follows the names of roles in this replica."""
    scaled: bool = False
    """Whether the model's loss is scaled for layers in float16."""

    def of(self, name: str, number: int) -> Rule | None:
        """For one of `ELEMENTWISE`, the operation of that number in its direction."""
        quantizer: Any = self.quantizers[ELEMENTWISE.index(name)]
        if quantizer is None:
            return None
        more: dict[str, Any] = {"of_error": name.startswith("backward."), "scaled": self.scaled}
        if not is_stochastic(quantizer):
            return Rule(quantizer, **more)
        stream = stream_id(f"{name}{self.part}.{number}{self.replica}", self.place)
        return Rule(quantizer, self.seed, stream, **more)

    def within(self, part: str) -> ElementwiseRules:
        """For a part of the call that numbers its operations anew."""
        return self._replace(part=f"{self.part}.{part}")


def is_stochastic(rule: Quantizer | Accumulation) -> bool:
    """Whether a quantizer or an accumulation needs random bits."""
    return bool(rule.stochastic if isinstance(rule, Accumulation) else rule.rounding.stochastic)
