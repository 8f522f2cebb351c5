"""Where whatever is rounded can be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from qemu_swalp import RandomBits
from qemu_swalp.arrays import Array
from qemu_swalp.training import Quantizer


class Label(NamedTuple):
    """Whose number is rounded: the name of the module or parameter, and the role."""

    name: str
    role: str


Observer: TypeAlias = Callable[[Label, Array, Quantizer, RandomBits | None, Any], None]
"""Called with what is about to be rounded, how, and under which scales where they are given."""

OBSERVERS: list[Observer] = []
"""Those who watch at present."""


def watched() -> bool:
    """Whether anybody watches."""
    return bool(OBSERVERS)


def observe(
    label: Label, x: Array, quantizer: Quantizer, random: RandomBits | None, scales: Any = None
) -> None:
    """Tell those who watch of a rounding."""
    for observer in OBSERVERS:
        observer(label, x, quantizer, random, scales)
