"""Where whatever is rounded can be watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qemu_swalp import RandomBits
from qemu_swalp.training import Quantizer, Recipe
from qemu_swalp.training.figures import Label

Observer: TypeAlias = Callable[[Label, Any, Quantizer, RandomBits | None, Any], None]
"""Called with what is about to be rounded, how, and under which scales where they are given."""

OBSERVERS: list[Observer] = []
"""Those who watch at present."""


def observe(
    label: Label | None,
    x: Any,
    quantizer: Quantizer,
    random: RandomBits | None,
    scales: Any = None,
) -> None:
    """Tell those who watch of a rounding."""
    if label is not None:
        for observer in OBSERVERS:
            observer(label, x, quantizer, random, scales)


@dataclass(frozen=True, init=False)
class WatchedQuantizer(Quantizer):
    """A quantizer that tells those who watch of each call."""

    label: Label = ("", "")

    def __init__(self, quantizer: Quantizer, label: Label) -> None:
        super().__init__(quantizer.format, quantizer.rounding)
        object.__setattr__(self, "label", label)

    def __call__(self, x: Any, random: RandomBits | None = None, out: Any = None) -> Any:
        observe(self.label, x, self, random)
        return super().__call__(x, random, out)

    @property
    def plain(self) -> bool:
        return False


def watched(recipe: Recipe, place: str) -> Recipe:
    """The recipe of one variable, whose roundings in an optimizer are told of."""

    def of(role: str, quantizer: Quantizer | None) -> Quantizer | None:
        return None if quantizer is None else WatchedQuantizer(quantizer, (place, role))

    return replace(
        recipe,
        weight=of("weight", recipe.weight),
        gradient=of("gradient", recipe.gradient),
        momentum=of("momentum", recipe.momentum),
        accumulator=of("accumulator", recipe.accumulator),
        state=tuple((name, of(name, quantizer)) for name, quantizer in recipe.state),
    )
