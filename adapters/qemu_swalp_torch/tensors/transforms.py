"""Autograd Functions within the transforms of `torch.func`: `grad`, `vmap`, `jacrev`.

Under `vmap` each sample is a tensor of its own: blocks and scales lie within it, and sample i draws
its random bits from stream (s·FACTOR + i) mod 2^64, where a call without `vmap` has stream s; of
nested ones each has its turn, so that samples (0, 1) and (1, 0) differ.
"""

from __future__ import annotations

from types import new_class
from typing import Any

import torch
from torch import Tensor

from .._compat import is_transformed, transforms_are_active
from .custom_ops import Rule

STREAMS = 1 << 64
FACTOR = 6364136223846793005
"""Of Knuth's generator MMIX (The Art of Computer Programming 2, 3.3.4): odd, thus a permutation."""


class Transformable(torch.autograd.Function):
    """A Function with `setup_context`, which PyTorch asks for in transforms."""

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *inputs: Any) -> Any:
        """The results of the samples, one after the other."""
        results = [
            cls.apply(  # type: ignore[no-untyped-call]
                *(
                    x.select(axis, i) if isinstance(axis, int) else for_sample(x, i)
                    for x, axis in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        outputs = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return outputs, (0,) * len(outputs)


def transformable(kind: type[Transformable]) -> Any:
    """The same without `setup_context`, whose every call PyTorch makes slower; `applied` takes the
    one or the other.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kind.forward(*inputs)
        kind.setup_context(ctx, inputs, output)
        return output

    members = {
        "__module__": kind.__module__,
        "transformed": kind,
        "forward": staticmethod(forward),
        "setup_context": staticmethod(torch.autograd.Function.setup_context),
    }
    return new_class(kind.__name__, (kind,), {}, lambda body: body.update(members))


def applied(function: Any, *inputs: Any) -> Any:
    """What an autograd Function gives, within transforms or not.

    NotImplementedError in forward-mode differentiation: a rounding has one rule for gradients, in
    the backward.
    """
    if torch.compiler.is_dynamo_compiling():
        return function.apply(*inputs)
    try:
        return (function.transformed if transforms_are_active() else function).apply(*inputs)
    except NotImplementedError as error:
        if "jvp" not in str(error):
            raise
        raise NotImplementedError(
            "a rounded model has no forward-mode derivative (torch.func.jvp, jacfwd, hessian,"
            " linearize); use torch.func.vjp, jacrev or grad, which round the gradients, or"
            " compute it within disabled(model)"
        ) from error


def for_sample(x: Any, i: int) -> Any:
    """Rules, or a tuple of them, with the random streams of sample i."""
    if isinstance(x, Rule):
        return x._replace(stream=(x.stream * FACTOR + i) % STREAMS)
    if hasattr(x, "for_sample"):
        return x.for_sample(i)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(for_sample(item, i) for item in x))
    return x


def needs_function(*tensors: Tensor) -> bool:
    """Whether a backward or a transform follows what is computed from the tensors now."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return True
    return not torch.compiler.is_dynamo_compiling() and any(is_transformed(x) for x in tensors)
