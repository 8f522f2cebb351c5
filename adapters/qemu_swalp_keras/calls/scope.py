"""What is known while a layer that rounds is being called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import local
from typing import Any, NamedTuple

import keras
from keras import ops

from .._compat import layer_scope, sublayers
from ..backend import counter, differentiable_tensor, of_replica
from .delayed import made_once
from .operands import Operands, State
from .pausing import is_paused, paused
from .policy import RoundingPolicy
from .rounding_state import rounding_state
from .rules import ElementwiseRules
from .scales import states_of_operands

CALLS_OF_A_MODE = 2**30
"""Steps of random bits that either mode has (clause RNG-5)."""


class Product(NamedTuple):
    """A product that a layer is making."""

    name: str
    """Of the layer in the model."""
    operation: str
    operands: Operands | None
    """None: it is not rounded."""
    activations: bool
    """Whether neither operand is a weight."""
    scales: tuple[Any, ...]
    """Of operands under delayed scaling, the variables of their states."""
    flops: int
    """Twice its multiplications, lengths that a trace leaves open counted as 1."""


class Scope:
    """The call of a layer, with those of the layers within it."""

    def __init__(
        self, layer: Any, policy: RoundingPolicy, training: bool, finds_scales: bool = False
    ) -> None:
        self.layer, self.policy, self.mode = layer, policy, 0 if training else 1
        self.finds_scales = finds_scales
        """Whether it is called to find which scales its products need, and rounds nothing."""
        value = ops.convert_to_tensor(rounding_state(layer, policy.state).state)
        self.calls, self.enabled = counter(value[self.mode]), counter(value[2])
        self.step = self.calls + self.mode * CALLS_OF_A_MODE
        self.replica = of_replica() if policy.stochastic else ""
        self.names = dict(_names(layer, "" if policy.is_of_loss else policy.path))
        self.stack: list[tuple[str, str]] = [(policy.path or layer.name, "")]
        self.counts: dict[tuple[str, str], int] = {}
        self.weights: dict[int, Any] = {}
        self.turns = False
        """Whether a loop over time is running."""
        self.branches = False
        """Whether one of several branches is."""
        self.loop: Any = None
        """The innermost loop that is running, where random bits are drawn: its `Turns`."""
        self.unit: Any = 1
        """By how many steps of random bits what is run in a turn moves on; None: not known."""
        self.moved = 0
        """How many times the present turn did so."""
        self.branch = ""
        """Of the present branch in a turn, what the names of its random streams begin with."""
        self.result: Any = None
        """Of the last product."""
        policy.seen.clear()

    @property
    def rounds(self) -> bool:
        return not (self.finds_scales or (isinstance(self.enabled, int) and not self.enabled))

    @property
    def state(self) -> State:
        return State(self.step, self.enabled)

    def state_of(self, product: Product) -> State:
        """With the scales of its operands.

        Raises
        ------
        ValueError: if the last step made the product several times, and their scales added up.
        """
        with paused():
            scales = [differentiable_tensor(v, "float32") for v in product.scales]
            if not all(map(made_once, scales)):
                raise ValueError(
                    _SEVERAL.format(name=product.name, several="made it several times")
                )
            if self.mode:  # what a backward of inference gives goes nowhere
                scales = [ops.stop_gradient(x) for x in scales]
        return State(self.step, self.enabled, tuple(scales))

    @contextmanager
    def within(self, layer: Any) -> Iterator[None]:
        """A layer within this one is being called."""
        around, _ = self.stack[-1]
        name = self.names.get(id(layer), f"{around}/{layer.name}")
        self.stack.append((name, name.removeprefix(self.policy.path).strip("/")))
        try:
            with layer_scope(name):
                yield
        finally:
            self.stack.pop()

    def product(self, operation: str, activations: bool, lengths: Iterable[Any]) -> Product:
        """The next product of the layer that is being called.

        lengths : of the axes that it multiplies over.
        """
        name, relative = self.stack[-1]
        number = self._next("products")
        part = f".{relative}.{number}" if relative or number else ""
        part = f"{self.branch}{part}{self.replica}"
        operands = self.policy.operands(name, part, activations)
        self._draws(operands)
        flops = 2 * math.prod(n for n in lengths if isinstance(n, int))
        scales: tuple[Any, ...] = ()
        if operands is not None and operands.delayed:
            self._check_is_once()
            scales = states_of_operands(self.layer, self.policy, operands, part, not self.mode)
        product = Product(name, operation, operands, activations, scales, flops)
        self.policy.seen.append(product)
        return product

    def _check_is_once(self) -> None:
        """What each call's backward gives for a scale is added up, where a variable is used twice.

        Raises
        ------
        ValueError: if a step of training makes the same product twice, or may leave it out.
        """
        if self.policy.is_of_loss:
            raise ValueError(
                "delayed scaling keeps no scales for products that the loss makes; pass"
                " exclude='loss', or take scales of present numbers, as 'fp8_hybrid' has"
            )
        if self.mode or self.finds_scales:
            return
        if self.branches:
            raise ValueError(_SEVERAL.format(name=self.layer_name, several="makes it in a branch"))
        if self.turns or running.calls.setdefault(id(self.policy), self) is not self:
            raise ValueError(
                _SEVERAL.format(name=self.layer_name, several="makes it several times")
            )

    @property
    def layer_name(self) -> str:
        """Of the layer that is being called."""
        return self.stack[-1][0]

    @property
    def functions(self) -> ElementwiseRules | None:
        """How the layer that is being called rounds elementwise operations; None: not at all."""
        return self.policy.functions(self.stack[-1][0]) if self.rounds else None

    def numbered(self, rules: ElementwiseRules) -> ElementwiseRules:
        """Those of the layer, with random streams of its own for its next function."""
        relative, number = self.stack[-1][1], self._next("elementwise")
        self._draws(rules)
        rules = rules._replace(part=f"{self.branch}{rules.part}") if self.branch else rules
        rules = rules.within(relative) if relative else rules
        rules = rules.within(str(number)) if number else rules
        return rules._replace(replica=self.replica)

    def name_of_branch(self) -> str:
        """What the names of random streams begin with in the layer's next branch."""
        relative, number = self.stack[-1][1], self._next("branches")
        return (
            f"{self.branch}.{relative}.branch{number}"
            if relative
            else (f"{self.branch}.branch{number}")
        )

    def _draws(self, rules: Any) -> None:
        """Tell the loop that is running that a turn rounds by rules; None: it does not."""
        if self.loop is not None and rules is not None:
            self.loop.drawn = True

    def _next(self, section: str) -> int:
        key = (self.stack[-1][0], section)
        number = self.counts.get(key, 0)
        self.counts[key] = number + 1
        return number

    def mark(self, x: Any) -> None:
        """A tensor is what a weight holds."""
        self.weights[id(x)] = x

    def is_weight(self, x: Any) -> bool:
        """Whether a tensor or variable is a weight, or such a tensor."""
        if isinstance(x, keras.Variable) or id(x) in self.weights:
            return True
        with paused():  # under mixed precision a variable casts its value
            return any(x is v.value for v in self.layer.variables)

    def moment(self) -> dict[str, Any]:
        """How far the call has come."""
        return {
            **{name: getattr(self, name) for name in _PLACE},
            "stack": list(self.stack),
            "counts": dict(self.counts),
        }

    @contextmanager
    def at(self, moment: dict[str, Any]) -> Iterator[None]:
        """Within it the call is as far as it was."""
        before, seen = self.moment(), len(self.policy.seen)
        vars(self).update(moment, stack=list(moment["stack"]), counts=dict(moment["counts"]))
        try:
            yield
        finally:
            vars(self).update(before)
            del self.policy.seen[seen:]

    def finish(self) -> None:
        """Count the call."""
        if not self.policy.stochastic:
            return
        state = rounding_state(self.layer, self.policy.state).state
        value = ops.convert_to_tensor(state)
        made = self.step - self.mode * CALLS_OF_A_MODE - self.calls + self.enabled
        counted = ops.stack([made * (self.mode == mode) for mode in (0, 1)] + [made * 0])
        state.assign(value + ops.cast(counted, state.dtype))


_PLACE = ("step", "turns", "branches", "loop", "unit", "moved", "branch")
"""Attributes of a scope that tell where in loops and branches its call is."""

_SEVERAL = (
    "delayed scaling has one scale for one product in a step, and layer {name!r} {several}; exclude"
    " the layer, or take scales of present numbers, as 'fp8_hybrid' has"
)


def _names(layer: Any, path: str) -> Iterator[tuple[int, str]]:
    """The id and name of each layer within a layer."""
    for part in sublayers(layer):
        name = f"{path}/{part.name}" if path else part.name
        yield id(part), name
        yield from _names(part, name)


class Running(local):
    """What this thread is calling."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.depth = 0
        self.calls: dict[int, Scope] = {}
        """Those of the outermost call of a layer that is running, by the policy."""
        self.steps: list[Any] | None = None
        """First random steps of the calls within a function that may be called again."""
        self.repeats: Iterator[Any] | None = None
        """Those, while it is called again."""


running = Running()


def current() -> Scope | None:
    """The scope of this thread, unless our own arithmetic is running."""
    return None if is_paused() else running.scope


@contextmanager
def called() -> Iterator[None]:
    """Around each call of a layer."""
    if not running.depth:
        running.calls = {}
    running.depth += 1
    try:
        yield
    finally:
        running.depth -= 1


@contextmanager
def apart() -> Iterator[None]:
    """Within it layers are called without effect, beside the call that is running."""
    before = running.calls, running.steps, running.repeats
    running.calls, running.steps, running.repeats = {}, None, None
    try:
        yield
    finally:
        running.calls, running.steps, running.repeats = before


@contextmanager
def opened(
    layer: Any, policy: RoundingPolicy, training: bool, finds_scales: bool = False
) -> Iterator[Scope]:
    """Within it the layer is being called."""
    scope = Scope(layer, policy, training, finds_scales)
    repeats = running.repeats
    if repeats is not None:
        step = next(repeats, None)
        if step is None:
            raise RuntimeError(
                f"what keras.remat computes again calls more layers than at first, {layer.name!r}"
                " the first of them; recompute functions that call the same layers each time"
            )
        scope.step = step
    if running.steps is not None:
        running.steps.append(scope.step)
    before, running.scope = running.scope, scope
    try:
        yield scope
        if not finds_scales and repeats is None:
            scope.finish()
    finally:
        running.scope = before
