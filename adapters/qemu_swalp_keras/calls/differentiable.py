"""Functions with gradients of our own, on the backend that Keras runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial, wraps
from typing import Any

from keras import ops

from .._compat import gradients_are_recorded, traced_by_jax
from ..backend import backend, of_this_graph, untraced
from .uncovered import UncoveredError

Forward = Callable[..., Any]
"""forward(static, state, *tensors) -> tensor."""

Backward = Callable[[Any, Any, Sequence[Any], Any, Sequence[bool]], Sequence[Any]]
"""backward(static, state, tensors, upstream, needed) -> gradients of the tensors."""


@cache
def differentiable(forward: Forward, backward: Backward) -> Callable[..., Any]:
    """function(static, state, *tensors) with the value of `forward` and the gradients of
    `backward`.

    static : hashable, since it is a constant of JAX's traces. state : a tuple of numbers and
    integer tensors, without gradient.
    """
    kinds = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    return kinds[backend()](forward, backward)


def attached(value: Any, backward: Backward, static: Any, state: Any, *tensors: Any) -> Any:
    """The value, computed without gradient, with the gradients of `backward` by the tensors; that
    gets the value as the first of its tensors.
    """
    return differentiable(_passed, backward)(static, state, value, *tensors)


def _passed(static: Any, state: Any, value: Any, *tensors: Any) -> Any:
    return value


def once(backward: Backward) -> Backward:
    """The same gradients, computed without a gradient of their own: who asks for that is refused.

    What the core computes has none, and would count as a constant.
    """

    @wraps(backward)
    def computed_once(
        static: Any, state: Any, tensors: Sequence[Any], upstream: Any, needed: Sequence[bool]
    ) -> Sequence[Any]:
        given = (*tensors, upstream)
        if not _may_be_differentiated(given):
            return backward(static, state, tensors, upstream, needed)
        *fixed, error = (ops.stop_gradient(x) for x in given)
        gradients = backward(static, state, fixed, error, needed)
        return [g if g is None else attached(g, _refused, None, (), *given) for g in gradients]

    return computed_once


def _refused(*call: Any) -> Sequence[Any]:
    raise UncoveredError(
        "second derivatives are not computed through rounded elementwise operations and sums in"
        " low precision; exclude the layers that they go through (exclude=), or round but operands"
    )


def _may_be_differentiated(tensors: Sequence[Any]) -> bool:
    """Whether somebody may ask for the gradient of what is computed from tensors."""
    if backend() == "torch":
        import torch

        return torch.is_grad_enabled()
    if backend() == "jax":
        return any(traced_by_jax(x) for x in tensors)
    return gradients_are_recorded()


def pull_back(function: Callable[[Any], Any], x: Any, upstream: Any) -> Any:
    """The gradient of ⟨function(x), upstream⟩ with respect to x."""
    if backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x, upstream)
    if backend() == "jax":
        import jax

        return jax.vjp(function, x)[1](upstream)[0]
    import torch

    twice = torch.is_grad_enabled()  # create_graph=True
    with torch.enable_grad():
        leaf = x if twice and x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf), leaf, upstream, create_graph=twice)[0]


def _on_tensorflow(forward: Forward, backward: Backward) -> Callable[..., Any]:
    import tensorflow as tf

    def function(static: Any, state: Any, *tensors: Any) -> Any:
        state = tuple(map(of_this_graph, state))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def call(*tensors: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(upstream: Any) -> Any:
                dense = tf.convert_to_tensor(upstream)
                return backward(static, state, tensors, dense, [True] * len(tensors))

            return forward(static, state, *tensors), gradient

        return call(*tensors)

    return function


def _on_jax(forward: Forward, backward: Backward) -> Callable[..., Any]:
    import jax
    import numpy as np

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def function(static: Any, state: Any, *tensors: Any) -> Any:
        return forward(static, state, *tensors)

    def with_residual(static: Any, state: Any, *tensors: Any) -> tuple[Any, Any]:
        return function(static, state, *tensors), (state, tensors)

    def gradient(static: Any, residual: Any, upstream: Any) -> Any:
        state, tensors = residual
        return None, *backward(static, state, tensors, upstream, [True] * len(tensors))

    function.defvjp(with_residual, gradient)

    def call(static: Any, state: Any, *tensors: Any) -> Any:
        # JAX takes ints for int32, and steps reach 2^32 - 1.
        wide = tuple(np.uint32(n) if isinstance(n, int) else n for n in state)
        return function(static, wide, *tensors)

    return call


def _on_torch(forward: Forward, backward: Backward) -> Callable[..., Any]:
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, static: Any, state: Any, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors)
            ctx.static, ctx.state = static, state
            y = forward(static, state, *(x.detach() for x in tensors))
            return y.clone()  # a view must not be returned: Keras adds biases in place

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            tensors = ctx.saved_tensors
            needed = ctx.needs_input_grad[2:]
            return None, None, *backward(ctx.static, ctx.state, tensors, upstream[0], needed)

    @untraced
    def function(static: Any, state: Any, *tensors: Any) -> Any:
        return Function.apply(static, state, *tensors)  # type: ignore[no-untyped-call]

    return function
