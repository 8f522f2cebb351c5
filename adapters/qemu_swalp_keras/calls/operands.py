"""What is done to the operands of a product before they are multiplied, as in
`qemu_swalp_torch.ops.operands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from keras import ops

from qemu_swalp import Hadamard, RandomBits, hadamard_transform
from qemu_swalp.training.delayed import Delayed
from qemu_swalp.training.roles import KINDS, OPERANDS, PRODUCTS

from ..layers.straight_through import Rule, straight_through
from .delayed import scaled

Prepare = Callable[[Any], Any]
"""An operand, whose last axis is summed over, → as it is multiplied."""


class Turn(NamedTuple):
    """A transform along the sum, with the random bits of its signs but for their step."""

    transform: Hadamard
    seed: int = 0
    stream: int = 0


class Scaling(NamedTuple):
    """How the scale of an operand follows a history, and which of `State.scales` it is."""

    delayed: Delayed
    place: int


class Operand(NamedTuple):
    """What is done to an operand, in this order."""

    factor: float = 1.0
    turn: Turn | None = None
    rule: Rule | None = None
    scaling: Scaling | None = None

    @property
    def unrounded(self) -> Operand:
        """All of it but the rounding."""
        return Operand(self.factor, self.turn)


class ProductRules(NamedTuple):
    """How a product is made: its operands, in the order of `qemu_swalp.training.OPERANDS`, and its
    sum, which None leaves to the backend.
    """

    first: Operand = Operand()
    second: Operand = Operand()
    sum: Rule | None = None

    @property
    def factor(self) -> float:
        """What the product is divided by."""
        return self.first.factor * self.second.factor


class Operands(NamedTuple):
    """The three products of a layer. Hashable."""

    forward: ProductRules = ProductRules()
    dgrad: ProductRules = ProductRules()
    wgrad: ProductRules = ProductRules()
    from_rounded: bool = False
    """Whether the backward products take what the forward product multiplied."""

    @property
    def products(self) -> tuple[ProductRules, ...]:
        """In the order of `qemu_swalp.training.roles.PRODUCTS`."""
        return self.forward, self.dgrad, self.wgrad

    @property
    def sums_backward(self) -> bool:
        """Whether products of the backward are accumulated by rules."""
        return any(rules.sum is not None for rules in (self.dgrad, self.wgrad))

    @property
    def delayed(self) -> tuple[tuple[str, Delayed], ...]:
        """(where it stands, how its scale follows a history) of operands, by `Scaling.place`."""
        found = {}
        given = [operand for rules in self.products for operand in rules[:2]]
        for name, operand in zip(OPERANDS, given, strict=True):
            if operand.scaling is not None:
                found[name.partition(".")[2]] = operand.scaling.delayed
        return tuple((kind, found[kind]) for kind in KINDS if kind in found)


class State(NamedTuple):
    """What changes from call to call: the random step, and whether anything is rounded; ints or
    0-d integer tensors; and of operands under delayed scaling the scale and its history, one vector
    each.
    """

    step: Any = 0
    enabled: Any = 1
    scales: tuple[Any, ...] = ()


def described(operands: Operands) -> Iterator[tuple[str, str, str]]:
    """(role, format, rounding) of all that is done."""
    for product, rules in zip(PRODUCTS, operands.products, strict=True):
        names = [name for name in OPERANDS if name.startswith(f"{product}.")]
        for name, operand in zip(names, rules[:2], strict=True):
            factor = "" if operand.factor == 1 else f" (factor={operand.factor:.6g})"
            if operand.rule is not None:
                form, _, rounding = str(operand.rule.quantizer).partition("/")
                yield f"{name}{factor}", form, rounding
        if rules.first.turn is not None:
            yield f"{product}.transform", str(rules.first.turn.transform), ""
        if rules.sum is not None:
            form, _, rounding = str(rules.sum.quantizer).partition("/")
            yield f"{product}.sum", form, rounding
    for kind, delayed in operands.delayed:
        yield f"scale of {kind}", str(delayed), ""


def preparing(operand: Operand, state: Any) -> Prepare | None:
    """`prepared` for an operand; None where that is left as it is."""
    return None if operand == Operand() else partial(prepared, operand=operand, state=state)


def prepared(x: Any, operand: Operand, state: Any) -> Any:
    """An operand, whose last axis is summed over, as it is multiplied, where that is enabled; the
    gradient of the rounding passes straight through.
    """
    step, enabled, scales = state
    y = x
    if operand.factor != 1:
        y = y * operand.factor
    if operand.turn is not None:
        y = turned(y, operand.turn, step)
    if y is not x and not isinstance(enabled, int):
        y = ops.where(ops.not_equal(enabled, 0), y, x)
    if operand.rule is None:
        return y
    if operand.scaling is not None:
        return scaled(y, operand.rule, scales[operand.scaling.place], step, enabled)
    return straight_through(y, operand.rule, None, (step, 0), enabled)


def turned(x: Any, turn: Turn, step: Any, inverse: bool = False) -> Any:
    """x transformed along its last axis, or back."""
    random = RandomBits(turn.seed, turn.stream, step)
    return hadamard_transform(x, turn.transform, random=random, inverse=inverse)


def unscaled(y: Any, rules: ProductRules, state: Any) -> Any:
    """A product without the factors of its operands."""
    _, enabled, *_ = state
    if rules.factor == 1:
        return y
    z = y * (1 / rules.factor)
    return z if isinstance(enabled, int) else ops.where(ops.not_equal(enabled, 0), z, y)
