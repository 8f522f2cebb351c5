"""The elementwise operations of `qemu_swalp.training.functional` on tensors, each rounded: in
autograd, in graphs, by the rules of one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import qemu_swalp
from qemu_swalp import Accumulation, RandomBits
from qemu_swalp.interop.torch import array_of, tensor_of
from qemu_swalp.interop.torch_arithmetic import operated, summed
from qemu_swalp.training.derivatives import gradient, of_slope
from qemu_swalp.training.functional import ELEMENTWISE

from ..tensors.call_counters import stream
from ..tensors.custom_ops import (
    Rule,
    as_loss_scaling_needs,
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
from .function_table import EVALUATED

PLAIN: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "sqrt": torch.sqrt,
    "sum": lambda x: x.sum(-1, keepdim=True),
    **EVALUATED,
}
"""The operations unrounded."""

KINDS = {"subtract": "add", **dict.fromkeys(EVALUATED, "function")}
"""Of those that are no kind of their own."""


def kind_of(name: str) -> str:
    """Which of the kinds of `ELEMENTWISE` an operation is."""
    return "function" if name not in PLAIN else KINDS.get(name, name)


def plain(name: str) -> Callable[..., Tensor]:
    """The operation of that name unrounded; slopes of slopes by autograd."""
    indices: list[int] = []
    while name not in PLAIN:
        name, index = of_slope(name)
        indices.insert(0, index)
    return partial(_derivative, PLAIN[name], indices) if indices else PLAIN[name]


def _derivative(
    function: Callable[..., Tensor], indices: Sequence[int], *operands: Tensor
) -> Tensor:
    with torch.enable_grad():
        given = [x.detach().requires_grad_() for x in torch.broadcast_tensors(*operands)]  # type: ignore[no-untyped-call]
        y = function(*given)
        for index in indices:
            (y,) = torch.autograd.grad(y.sum(), given[index], create_graph=True)
    return y.detach()


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
        if not is_stochastic(quantizer):
            return Rule(quantizer, self.seed, 0, self.step, site=self.site, role=name)
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
        at = self.direction, self.count
        self.count += 1
        if needs_function(a, *rest) and not torch.compiler.is_dynamo_compiling():
            derived: Tensor = applied(_Derived, operation, self.rules, at, a, *rest)
            return derived
        return _computed(operation, self.rules, *at, (a, *rest))

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
        empty = x.shape[-1] == 0
        return x.new_zeros((*x.shape[:-1], 1)) if empty else x.amax(-1, keepdim=True)


def _computed(
    name: str, rules: ElementwiseRules, direction: str, number: int, operands: Sequence[Tensor]
) -> Tensor:
    rule = rules.of(f"{direction}.{kind_of(name)}", number)
    return plain(name)(*operands) if rule is None else operate(name, [*operands], rule)


def operate(operation: str, operands: list[Tensor], rule: Rule) -> Tensor:
    """The operation rounded; without gradient."""
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
    result = _operated(operation, operands, rule)
    return as_loss_scaling_needs(
        result, rule.role, lambda: plain(operation)(*(x.detach() for x in operands))
    )


def _operated(operation: str, operands: list[Tensor], rule: Rule) -> Tensor:
    kind = kind_of(operation)
    if kind != "function" and not watched():
        quick = (
            summed(operands[0], rule.quantizer)
            if kind == "sum"
            else operated(operation, operands, rule.quantizer)
        )
        if quick is not None:
            return quick
    random = (
        RandomBits(rule.seed, rule.stream, rule.step) if is_stochastic(rule.quantizer) else None
    )
    arrays: list[Any] = [array_of(x) for x in operands]
    if any(isinstance(x, Tensor) for x in arrays):
        arrays = [x.detach() for x in operands]
    if kind == "sum":
        return tensor_of(
            qemu_swalp.sum(
                arrays[0], Accumulation.parse(rule.quantizer), keepdims=True, random=random
            )
        )
    quantizer = parsed(rule.quantizer)
    if watched():
        exact = plain(operation)(*(x.detach().double() for x in operands))
        observe(Label(rule.site, rule.role), exact, quantizer, random)
    if kind == "function":
        value = plain(operation)(*(x.detach().double() for x in operands))
        return tensor_of(quantizer(array_of(value), random)).to(operands[0].dtype)
    return tensor_of(getattr(qemu_swalp, operation)(*arrays, quantizer, random=random))


@transformable
class _Derived(Transformable):
    """An operation of a backward, whose gradients are operations of a further one, with random bits
    of their own.
    """

    @staticmethod
    def forward(
        name: str, rules: ElementwiseRules, at: tuple[str, int], *operands: Tensor
    ) -> Tensor:
        return _computed(name, rules, *at, operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.name, ctx.rules, (direction, number), *operands = inputs
        ctx.part = f"{direction}{number}"
        ctx.save_for_backward(output, *operands)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        y, *operands = ctx.saved_tensors
        ops = RoundedArithmetic(ctx.rules.within(ctx.part), "backward")
        found: list[Tensor | None] = [None] * (3 + len(operands))
        for index, x in enumerate(operands):
            if ctx.needs_input_grad[3 + index]:
                whole = gradient(ops, ctx.name, index, gradients[0], y, operands)
                found[3 + index] = (
                    whole.expand(x.shape) if ctx.name == "sum" else reduced(ops, whole, x.shape)
                )
        return tuple(found)


def reduced(ops: RoundedArithmetic, g: Tensor, shape: torch.Size) -> Tensor:
    """A gradient summed over the axes that were broadcast."""
    if g.shape == shape:
        return g
    ahead = g.ndim - len(shape)
    summed = [d for d in range(g.ndim) if d < ahead or (shape[d - ahead] == 1 and g.shape[d] != 1)]
    if not summed:
        return g.reshape(shape)
    kept = [d for d in range(g.ndim) if d not in summed]
    rows = g.permute(*kept, *summed).flatten(len(kept))
    return ops.sum(rows)[..., 0].reshape(shape)


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
