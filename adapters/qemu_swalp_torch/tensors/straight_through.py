"""Rounding in the forward pass, and of the gradient in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qemu_swalp import Format, RandomBits, Rounding
from qemu_swalp.interop.torch import check_plain
from qemu_swalp.training import Quantizer

from .._compat import without_interception
from .custom_ops import (
    Rule,
    apply_given,
    apply_rule,
    is_stochastic,
    pair_string,
    quantizer_string,
    rule_of,
)
from .transforms import Transformable, applied, needs_function, transformable


def quantize(
    x: Tensor,
    format: Format | str | None,
    rounding: Rounding | str = "nearest_even",
    *,
    random: RandomBits | None = None,
    backward: Quantizer | str | None = None,
    backward_random: RandomBits | None = None,
    scales: Any = None,
    zero_points: Any = None,
) -> Tensor:
    """x rounded, with a gradient: straight-through, and rounded itself where `backward` is given.

    Under `torch.vmap` each sample is a tensor of its own and has random bits of its own.

    a = Q_A(x) forward and e = Q_E(∂L/∂a) backward: steps 1 and 2 of algorithm 2 of Yang et al.
    2019.

    Parameters
    ----------
    x : tensor of any shape; float16, bfloat16, float32 or float64.
    format, rounding, random : as in `qemu_swalp.quantize`; format None passes x on.
    backward : Quantizer or `FORMAT/ROUNDING` string for the gradient; None passes it on.
    backward_random : random bits of the backward rounding, where it is stochastic: another stream
        than `random`.
    scales, zero_points : as in `qemu_swalp.quantize`; they get no gradient. In a compiled or
        exported program they may be tensors that it does not know.

    Returns
    -------
    tensor of x's shape and dtype.

    Raises
    ------
    TypeError: if x is not a floating tensor, or its dtype cannot represent the format.
    ValueError: if the rounding is stochastic and there are no random bits, or if scales or zero
        points are none of the format.

    >>> import torch
    >>> x = torch.tensor([0.3, 0.7], requires_grad=True)
    >>> y = quantize(x, "fixed<8,1>", backward="fixed<8,2>/toward_zero")
    >>> (y * torch.tensor([0.3, 0.6])).sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([0.5, 0.5], [0.25, 0.5])
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x must be a torch.Tensor, got {type(x).__module__}.{type(x).__qualname__}"
        )
    if torch.compiler.is_dynamo_compiling() or not torch.compiler.is_compiling():
        check_plain(x, "x")  # torch.export without Dynamo calls with fake tensors
    forward = None if format is None else _rule("random", pair_string(format, rounding), random)
    gradient = None
    if backward is not None:
        gradient = _rule("backward_random", quantizer_string(backward), backward_random)
    if scales is None and zero_points is None:
        return straight_through(x, forward, gradient)
    if forward is None:
        raise ValueError("format None passes x on, and has no scales=; give a block format")
    with without_interception():
        result: Tensor = applied(_UnderScales, x, forward, gradient, scales, zero_points)
    return result


def straight_through(x: Tensor, forward: Rule | None, backward: Rule | None) -> Tensor:
    """`quantize` without checks."""
    with without_interception():
        result: Tensor = applied(_StraightThrough, x, forward, backward)
    return result


@transformable
class _StraightThrough(Transformable):
    @staticmethod
    def forward(x: Tensor, forward: Rule | None, backward: Rule | None) -> Tensor:
        return x.clone() if forward is None else apply_rule(x, forward)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.rule = inputs[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _passed(gradients[0], ctx.rule), None, None


@transformable
class _UnderScales(Transformable):
    @staticmethod
    def forward(
        x: Tensor, forward: Rule, backward: Rule | None, scales: Any, zero_points: Any
    ) -> Tensor:
        return apply_given(x, forward, scales, zero_points)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.rule = inputs[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _passed(gradients[0], ctx.rule), None, None, None, None


def _passed(gradient: Tensor, rule: Rule | None) -> Tensor:
    """The gradient of x, of that of its rounding."""
    if rule is None:
        return gradient
    if needs_function(gradient):  # create_graph=True: straight-through once more
        return straight_through(gradient, rule, None)
    return apply_rule(gradient, rule)


def _rule(name: str, quantizer: str, random: RandomBits | None) -> Rule:
    if is_stochastic(quantizer) and random is None:
        raise ValueError(
            f"{quantizer} needs {name}=RandomBits(seed, stream, step), with another stream for"
            " every tensor and direction and another step for every call"
        )
    return rule_of(quantizer, random)
