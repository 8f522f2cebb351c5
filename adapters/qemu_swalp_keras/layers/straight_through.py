"""Rounding in the forward pass, and of the gradient in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from keras import ops

from qemu_swalp import Format, RandomBits, Rounding
from qemu_swalp.training import Quantizer
from qemu_swalp.training.figures import Label

from ..backend import backend, dtype_of, of_this_graph, refuse_export
from ..watching import observe

FLOAT16_MAX = 65504.0


class Rule(NamedTuple):
    """A quantizer, and its random bits but for their step. Hashable: for JAX it is a constant."""

    quantizer: Quantizer
    seed: int = 0
    stream: int = 0
    offset: int = 0
    of_error: bool = False
    """Whether it rounds what flows backward: see `as_loss_scaling_needs`."""
    scaled: bool = False
    """Whether that may be scaled for layers in float16, whatever its own dtype."""
    label: Label | None = None
    """What those who watch call it."""


def quantize(
    x: Any,
    format: Format | str | None,
    rounding: Rounding | str = "nearest_even",
    *,
    random: RandomBits | None = None,
    backward: Quantizer | str | None = None,
    backward_random: RandomBits | None = None,
) -> Any:
    """x rounded, with a gradient: straight-through, and rounded itself where `backward` is given.

    a = Q_A(x) forward and e = Q_E(∂L/∂a) backward: steps 1 and 2 of algorithm 2 of Yang et al.
    2019. For custom layers and training loops; the layer `Quantize` counts random steps by itself.

    Parameters
    ----------
    x : tensor of the backend that Keras runs on, eager or traced, of any shape; float16, bfloat16,
        float32 or float64.
    format, rounding, random : as in `qemu_swalp.quantize`; format None passes x on. `random.step`
        may be a 0-d integer tensor.
    backward : Quantizer or `FORMAT/ROUNDING` string for the gradient; None passes it on. In float16
        its infinities and NaN stay, whatever the format: loss scaling looks for them.
    backward_random : random bits of the backward rounding, where it is stochastic: another stream
        than `random`.

    Returns
    -------
    tensor of x's shape and dtype.

    Raises
    ------
    TypeError: if x is not a floating tensor of the backend, or its dtype cannot represent the
        values of the format.
    ValueError: if a rounding is stochastic and its random bits are missing.

    >>> import keras
    >>> x = keras.ops.convert_to_tensor([0.3, 0.7])
    >>> y = quantize(x, "fixed<8,1>", backward="fixed<8,2>/toward_zero")
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.5, 0.5]
    """
    if not ops.is_tensor(x):
        raise TypeError(
            f"x must be a {backend()} tensor, got {type(x).__module__}.{type(x).__qualname__};"
            " convert it by keras.ops.convert_to_tensor, or in a functional model use the layer"
            " Quantize"
        )
    forward = None if format is None else _rule("random", Quantizer(format, rounding), random)
    gradient = (
        None
        if backward is None
        else _rule("backward_random", Quantizer.parse(backward), backward_random)
    )
    steps = [0 if bits is None else bits.step for bits in (random, backward_random)]
    return straight_through(x, forward, gradient, (steps[0], steps[1]))


def straight_through(
    x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any = 1
) -> Any:
    """`quantize` without checks.

    steps : random step of either direction, ints or 0-d integer tensors. enabled : the same; at 0 x
        and its gradient pass on.
    """
    if backward is not None:
        backward = backward._replace(of_error=True)
    return _functions()(x, forward, backward, steps, enabled)


def _rule(name: str, quantizer: Quantizer, random: RandomBits | None) -> Rule:
    if quantizer.rounding.stochastic and random is None:
        raise ValueError(
            f"{quantizer} needs {name}=RandomBits(seed, stream, step), with another stream for"
            " every tensor and direction and another step for every call"
        )
    return (
        Rule(quantizer)
        if random is None
        else Rule(quantizer, random.seed, random.stream, random.offset)
    )


def _rounded(x: Any, rule: Rule | None, step: Any, enabled: Any) -> Any:
    """x rounded where enabled; without gradient."""
    if rule is None:
        return x
    random = _random_bits(rule, step)
    observe(rule.label, x, rule.quantizer, random)
    result = as_loss_scaling_needs(rule.quantizer(x, random), x, rule)
    return result if isinstance(enabled, int) else ops.where(ops.not_equal(enabled, 0), result, x)


def keeps_overflow(rule: Rule, x: Any) -> bool:
    """Whether it rounds errors for which a loss may be scaled."""
    return rule.of_error and (rule.scaled or dtype_of(x) == "float16")


def as_loss_scaling_needs(result: Any, x: Any, rule: Rule) -> Any:
    """The rounded x; of errors x itself, where float16 cannot hold it.

    A scale that is too great shows by infinities and NaN in the gradients, and a format that
    saturates would hide them from `keras.optimizers.LossScaleOptimizer`. In layers and losses in
    float32 a scaled error may be finite that overflows in a layer in float16 before them.
    """
    if not keeps_overflow(rule, x):
        return result
    return ops.where(ops.abs(x) <= FLOAT16_MAX, result, x)


def _random_bits(rule: Rule, step: Any) -> RandomBits | None:
    if not rule.quantizer.rounding.stochastic:
        return None
    return RandomBits(rule.seed, rule.stream, step, rule.offset)


@cache
def _functions() -> Callable[..., Any]:
    """The running backend's way to define a function's gradient. Keras's own way hides exceptions
    on torch.
    """
    return {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}[backend()]()


def _on_tensorflow() -> Callable[..., Any]:
    import tensorflow as tf

    def function(
        x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any
    ) -> Any:
        (first, step), enabled = map(of_this_graph, steps), of_this_graph(enabled)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def rounded(x: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(upstream: Any) -> Any:
                dense = tf.convert_to_tensor(upstream)
                return straight_through(dense, backward, None, (step, 0), enabled)

            return _rounded(tf.identity(x), forward, first, enabled), gradient

        return rounded(x)

    return function


def _on_jax() -> Callable[..., Any]:
    import jax
    import numpy as np

    @partial(jax.custom_vjp, nondiff_argnums=(1, 2))
    def function(
        x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any
    ) -> Any:
        return _rounded(x, forward, steps[0], enabled)

    def with_residual(
        x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any
    ) -> tuple[Any, Any]:
        return function(x, forward, backward, steps, enabled), (steps[1], enabled)

    def gradient(
        forward: Rule | None, backward: Rule | None, residual: tuple[Any, Any], upstream: Any
    ) -> Any:
        step, enabled = residual
        return straight_through(upstream, backward, None, (step, 0), enabled), None, None

    function.defvjp(with_residual, gradient)

    def call(
        x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any
    ) -> Any:
        wide = tuple(
            np.uint32(step) if isinstance(step, int) else step for step in steps
        )  # JAX takes ints for int32
        return function(x, forward, backward, wide, enabled)

    return call


def _on_torch() -> Callable[..., Any]:
    import torch

    from qemu_swalp.interop.torch import check_plain, rounded, untraced

    def once(x: Any, rule: Rule, step: Any) -> Any:
        random = _random_bits(rule, step if isinstance(step, int) else int(step))
        observe(rule.label, x, rule.quantizer, random)
        return as_loss_scaling_needs(rounded(x, rule.quantizer, random), x, rule)

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any]
        ) -> Any:
            ctx.rule, ctx.step = backward, steps[1]
            return x.clone() if forward is None else once(x.detach(), forward, steps[0])

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            (gradient,) = gradients
            if ctx.rule is not None:
                # In grad mode, as for gradients of gradients, `rounded` is straight-through itself.
                gradient = once(gradient, ctx.rule, ctx.step)
            return gradient, None, None, None

    @untraced
    def function(
        x: Any, forward: Rule | None, backward: Rule | None, steps: tuple[Any, Any], enabled: Any
    ) -> Any:
        refuse_export()
        if x.is_meta or not int(enabled):  # Keras infers shapes by tensors without values
            return x
        check_plain(x, "x")
        return StraightThrough.apply(x, forward, backward, steps)  # type: ignore[no-untyped-call]

    return function
