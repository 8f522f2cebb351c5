"""What differs between the backends that Keras runs on: graphs, replicas, and tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import keras

from qemu_swalp.training import Quantizer, TensorRandomBits, apply

Function = TypeVar("Function", bound=Callable[..., object])

BACKENDS = ("tensorflow", "jax", "torch")


def backend() -> str:
    """The backend Keras runs on. ImportError for one that training does not work on."""
    name = str(keras.backend.backend())
    if name not in BACKENDS:
        raise ImportError(
            f"qemu_swalp_keras runs on the Keras backends {', '.join(BACKENDS)}; Keras runs on"
            f" {name!r}. Set the environment variable KERAS_BACKEND before Keras is imported"
        )
    return name


def tensor(x: Any) -> Any:
    """The native dense tensor of a variable or tensor, without gradient."""
    x = x.value if isinstance(x, keras.Variable) else x
    if backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(x)
    if backend() == "torch":
        return keras.ops.convert_to_tensor(x).detach()
    import jax

    return x if isinstance(x, jax.Array) else keras.ops.convert_to_tensor(x, sparse=False)


def distinct(x: Any) -> Any:
    """The native tensor for another variable: JAX's training loop donates buffers, so no two
    variables may hold one.
    """
    return keras.ops.copy(tensor(x)) if backend() == "jax" else tensor(x)


def counter(x: Any) -> Any:
    """A counter's value: an int where it is at hand, else (in a graph, on another device) the
    native tensor.
    """
    count = tensor(x)
    return int(count) if _at_hand(count) else count


def _at_hand(x: Any) -> bool:
    if backend() == "torch":
        return bool(x.is_cpu)
    if backend() == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    import tensorflow as tf

    return bool(tf.executing_eagerly())


def rounded(x: Any, quantizer: Quantizer | None, draw: TensorRandomBits, role: str) -> Any:
    """The native tensor of x, rounded for its role."""
    value = tensor(x)
    if quantizer is None or backend() != "torch":
        return apply(quantizer, value, draw, role)
    from qemu_swalp_torch.tensors.arrays import rounded as rounded_tensor

    return rounded_tensor(value, quantizer, draw(role) if quantizer.rounding.stochastic else None)


def untraced(function: Function) -> Function:
    """`torch.compile`, with which Keras compiles on PyTorch, runs the function as it is, between
    graphs.
    """
    if backend() != "torch":
        return function
    from qemu_swalp_torch._compat import untraced as without_dynamo

    return without_dynamo(function)


def eagerly() -> AbstractContextManager[Any]:
    """Within it variables are written at once, also while TensorFlow traces a function."""
    if backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def update_each(
    function: Callable[..., None], variables: Sequence[Any], *arguments: Sequence[Any]
) -> None:
    """function(i, variable, *one of each arguments) for the i-th of all variables.

    Under a `tf.distribute` strategy once per replica, with what the replica holds, as variables are
    written there.
    """
    rows = list(zip(variables, *arguments, strict=True))
    if backend() != "tensorflow":
        for i, row in enumerate(rows):
            function(i, *row)
        return
    import tensorflow as tf

    def natively(strategy: Any, rows: list[tuple[Any, ...]]) -> None:
        for i, (first, *rest) in enumerate(rows):
            strategy.extended.update(first, partial(function, i), args=tuple(rest), group=False)

    rows = [tuple(_native_variable(item) for item in row) for row in rows]
    tf.__internal__.distribute.interim.maybe_merge_call(
        natively, tf.distribute.get_strategy(), rows
    )


def _native_variable(x: Any) -> Any:
    return x.value if isinstance(x, keras.Variable) else x
