"""The elementwise operations of `qemu_swalp.training.functional` on tensors, each rounded: in
autograd, in graphs, by the rules of one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import qemu_swalp
from qemu_swalp import Accumulation, RandomBits
from qemu_swalp.interop.torch import array_of, tensor_of
from qemu_swalp.training.derivatives import slope
from qemu_swalp.training.functional import ELEMENTWISE

from ..tensors.call_counters import stream
from ..tensors.custom_ops import (
    Rule,
    is_stochastic,
    is_traced,
    known_step,
    parsed,
    signed,
    step_tensor,
    unsigned,
)
from ..tensors.observers import Label, observe, watched
from ..tensors.transforms import (
    Transformable,
    applied,
    for_sample,
    needs_function,
    transformable,
)
from .function_table import FUNCTIONS

PLAIN: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.ops.aten.tanh,
    "erf": torch.erf,
    "sum": lambda x: x.sum(-1, keepdim=True),
    **{name: function for name, (function, _) in FUNCTIONS.items()},
    **{slope(name): derivative for name, (_, derivative) in FUNCTIONS.items()},
}
"""The operations unrounded."""

KINDS = {
    "subtract": "add",
    **dict.fromkeys(
        ("exp", "log", "tanh", "erf", *FUNCTIONS, *(slope(name) for name in FUNCTIONS)), "function"
    ),
}
"""Of those that are no kind of their own."""


class ElementwiseRules(NamedTuple):
    """How the operations of one call of a function are rounded: for each of `ELEMENTWISE` a string
    or None, and random bits.
    """

    quantizers: tuple[str | None, ...]
    seed: int
    module_index: int
    step: int | Tensor
    part: str = ""
    """Of the call among several; set apart from those of others by random streams of its own."""
    site: str = ""
    """Name of the module, for monitors."""
    samples: tuple[int, ...] = ()
    """Within nested `torch.vmap`s the number of the sample in each."""

    def of(self, name: str, number: int) -> Rule | None:
        """For one of `ELEMENTWISE`, the operation of that number in its direction."""
        quantizer = self.quantizers[ELEMENTWISE.index(name)]
        if quantizer is None:
            return None
        rule = Rule(
            quantizer,
            self.seed,
            stream(f"{name}{self.part}.{number}", self.module_index),
            self.step,
            site=self.site,
            role=name,
        )
        for i in self.samples:
            rule = for_sample(rule, i)
        return rule

    def for_sample(self, i: int) -> ElementwiseRules:
        """For a sample of `torch.vmap`."""
        return self._replace(samples=(*self.samples, i))

    def within(self, part: str) -> ElementwiseRules:
        """For a part of the call that numbers its operations anew."""
        return self._replace(part=f"{self.part}.{part}")


class RoundedArithmetic:
    """An `Arithmetic` by the rules of one call, forward or backward."""

    def __init__(self, rules: ElementwiseRules, direction: str) -> None:
        self.rules, self.direction, self.count = rules, direction, 0

    def _rounded(self, operation: str, *operands: Any) -> Tensor:
        like = next(x for x in operands if isinstance(x, Tensor))
        a, *rest = (x if isinstance(x, Tensor) else like.new_full((), x) for x in operands)
        rule = self.rules.of(f"{self.direction}.{KINDS.get(operation, operation)}", self.count)
        self.count += 1
        return PLAIN[operation](a, *rest) if rule is None else operate(operation, [a, *rest], rule)

    def add(self, a: Any, b: Any) -> Tensor:
        return self._rounded("add", a, b)

    def subtract(self, a: Any, b: Any) -> Tensor:
        return self._rounded("subtract", a, b)

    def multiply(self, a: Any, b: Any) -> Tensor:
        return self._rounded("multiply", a, b)

    def divide(self, a: Any, b: Any) -> Tensor:
        return self._rounded("divide", a, b)

    def sqrt(self, x: Tensor) -> Tensor:
        return self._rounded("sqrt", x)

    def exp(self, x: Tensor) -> Tensor:
        return self._rounded("exp", x)

    def log(self, x: Tensor) -> Tensor:
        return self._rounded("log", x)

    def tanh(self, x: Tensor) -> Tensor:
        return self._rounded("tanh", x)

    def erf(self, x: Tensor) -> Tensor:
        return self._rounded("erf", x)

    def sum(self, x: Tensor) -> Tensor:
        return self._rounded("sum", x)

    def function(self, name: str, x: Tensor, *constants: float) -> Tensor:
        """One of `FUNCTIONS`, or the `slope` of one."""
        return self._rounded(name, x, *constants)

    def greatest(self, x: Tensor) -> Tensor:
        return x.amax(-1, keepdim=True)


def operate(operation: str, operands: list[Tensor], rule: Rule) -> Tensor:
    """The operation rounded; its gradient is that of the exact one."""
    if needs_function(*operands):  # create_graph=True
        result: Tensor = applied(_Valued, PLAIN[operation](*operands), operation, rule, *operands)
        return result
    if is_traced():
        traced: Tensor = _elementwise(
            operation,
            operands,
            rule.quantizer,
            signed(rule.seed),
            signed(rule.stream),
            step_tensor(rule),
            rule.site,
            rule.role,
        )
        return traced
    random = (
        RandomBits(rule.seed, rule.stream, rule.step) if is_stochastic(rule.quantizer) else None
    )
    arrays: list[Any] = [array_of(x) for x in operands]
    if any(isinstance(x, Tensor) for x in arrays):
        arrays = [x.detach() for x in operands]
    if operation == "sum":
        return tensor_of(
            qemu_swalp.sum(
                arrays[0], Accumulation.parse(rule.quantizer), keepdims=True, random=random
            )
        )
    quantizer = parsed(rule.quantizer)
    if watched():
        exact = PLAIN[operation](*(x.detach().double() for x in operands))
        observe(Label(rule.site, rule.role), exact, quantizer, random)
    if KINDS.get(operation) == "function":
        value = PLAIN[operation](*(x.detach().double() for x in operands))
        return tensor_of(quantizer(array_of(value), random)).to(operands[0].dtype)
    return tensor_of(getattr(qemu_swalp, operation)(*arrays, quantizer, random=random))


@transformable
class _Valued(Transformable):
    """An operation rounded, with the gradient of the exact result that is passed beside it."""

    @staticmethod
    def forward(exact: Tensor, operation: str, rule: Rule, *operands: Tensor) -> Tensor:
        return operate(operation, [x.detach() for x in operands], rule).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.count = len(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], *(None,) * (ctx.count - 1)


@torch.library.custom_op("qemu_swalp::elementwise", mutates_args=())
def _elementwise(
    operation: str,
    operands: list[Tensor],
    quantizer: str,
    seed: int,
    stream: int,
    step: Tensor,
    site: str,
    role: str,
) -> Tensor:
    rule = Rule(quantizer, unsigned(seed), unsigned(stream), known_step(step), site=site, role=role)
    return operate(operation, operands, rule).clone(memory_format=torch.contiguous_format)


@_elementwise.register_fake
def _(
    operation: str,
    operands: list[Tensor],
    quantizer: str,
    seed: int,
    stream: int,
    step: Tensor,
    site: str,
    role: str,
) -> Tensor:
    return torch.empty_like(PLAIN[operation](*operands), memory_format=torch.contiguous_format)
