"""What differs between the backends that Keras runs on: graphs, replicas, and tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import index
from threading import local
from typing import Any, TypeVar

import keras
import numpy as np

from qemu_swalp.training import Quantizer, TensorRandomBits, apply

from ._compat import on_each_replica, traced_by_jax

Function = TypeVar("Function", bound=Callable[..., object])

BACKENDS = ("tensorflow", "jax", "torch")


ROUNDING_STATE = "rounding_state"
"""Attribute of a layer whose products are rounded: how often it was called, and `enabled`."""

LOSS_STATE = "loss_rounding_state"
"""The same of a model's loss."""


def backend() -> str:
    """Name of the backend that Keras runs on.

    Raises
    ------
    ImportError: if it is not one of `BACKENDS`, on which Keras can train.
    """
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


def count_of(variable: Any) -> Any:
    """The native tensor of a variable in which a layer counts its calls.

    Keras on PyTorch infers shapes on the device "meta", and where an operation does not run there a
    second time on another. What the first try has assigned would then be memory that nobody wrote,
    so the variable's own value counts.
    """
    value = variable.value
    if backend() == "torch" and value.is_meta:
        with keras.StatelessScope():
            value = variable.value
    return keras.ops.convert_to_tensor(value)


def differentiable_tensor(x: Any, dtype: str) -> Any:
    """The native dense tensor of a variable or tensor in a dtype, with its gradient."""
    if backend() != "tensorflow":
        return keras.ops.convert_to_tensor(x, dtype, sparse=False)
    import tensorflow as tf

    if isinstance(x, tf.SparseTensor):  # in any order, and indices that occur twice are added
        dense = tf.scatter_nd(x.indices, x.values, x.dense_shape)
        x = tf.ensure_shape(dense, x.shape)  # which knows lengths in a graph
    x = keras.ops.convert_to_tensor(x, dtype, sparse=False)
    return tf.convert_to_tensor(x)  # which of a variable Keras leaves as it is


def distinct(x: Any) -> Any:
    """The native tensor for another variable: JAX's training loop donates buffers, so no two
    variables may hold one.
    """
    return keras.ops.copy(tensor(x)) if backend() == "jax" else tensor(x)


def counter(x: Any) -> Any:
    """The value of a counter: an int, or the native tensor within a graph and on another device."""
    refuse_export()
    count = tensor(x)
    return int(count) if _at_hand(count) else count


def as_step(count: Any) -> Any:
    """What a counter holds, as a step of random bits: in a graph of TensorFlow the 32-bit word that
    all who draw by it share.
    """
    if backend() != "tensorflow":
        return count
    import tensorflow as tf

    return count if tf.executing_eagerly() else tf.cast(count, tf.uint32)


IN_FULL_PRECISION = (
    "Export it in full precision, as emulation.remove(), unquantize_gemms(model),"
    " unquantize_elementwise(model) and unquantize_activations(model) give it back; or save it as"
    " .keras and export it under KERAS_BACKEND=tensorflow"
)
"""What to do about an export that is refused."""


def refuse_export() -> None:
    """Raise ValueError while PyTorch exports or traces a model: what is rounded there depends on
    counters, whose values the program would keep.
    """
    if is_exported_plain():
        raise ValueError(f"a model that rounds is not exported by PyTorch. {IN_FULL_PRECISION}")


class _Exporting(local):
    plain = False


_here = _Exporting()


@contextmanager
def exporting_plain() -> Iterator[None]:
    """Within it this thread exports a program that does not round."""
    before, _here.plain = _here.plain, True
    try:
        yield
    finally:
        _here.plain = before


def is_exported_plain() -> bool:
    """Whether a program that does not round is made now: in `exporting_plain`, and by PyTorch.

    What rounds backward alone is left out of it.
    """
    if _here.plain or backend() != "torch":
        return _here.plain
    import torch

    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return bool(traced or torch.compiler.is_exporting())


def _at_hand(x: Any) -> bool:
    if backend() == "torch":
        return bool(x.is_cpu)
    if backend() == "jax":
        return not traced_by_jax(x)
    import tensorflow as tf

    return bool(tf.executing_eagerly())


def has_value(x: Any) -> bool:
    """Whether a tensor or array has a value, and does not stand for one in a traced function."""
    if backend() == "jax":
        return not traced_by_jax(x)
    return backend() != "tensorflow" or not keras.ops.is_tensor(x) or hasattr(x, "numpy")


def unjitted() -> AbstractContextManager[Any]:
    """Within it JAX runs branches of programs as Python does."""
    if backend() != "jax":
        return nullcontext()
    import jax

    return jax.disable_jit()


def is_number(x: Any) -> bool:
    """Whether x is of Python or NumPy, without axes."""
    return isinstance(x, int | float | np.number)


def operand_of(x: Any) -> Any:
    """What Keras takes for a tensor: arrays, tuples and lists are the tensors that Keras makes of
    them; numbers stay what they are.
    """
    is_array = isinstance(x, np.ndarray) or not hasattr(x, "dtype")
    return keras.ops.convert_to_tensor(x) if is_array and not is_number(x) else x


def shared_dtype(operands: Sequence[Any]) -> str | None:
    """The dtype of tensors that have one of `USUAL`, where nothing but numbers of Python meets
    them, or of NumPy with that dtype: functions and operators give it. None for others, whose
    results the backends promote each by rules of its own, and operators otherwise than functions.
    """
    typed = [x for x in operands if type(x) not in (int, float)]
    if not all(isinstance(x, keras.Variable | np.number) or keras.ops.is_tensor(x) for x in typed):
        return None
    kinds = {dtype_of(x) for x in typed}
    alone = backend() == "torch" and not any(len(x.shape) for x in typed)
    if alone and len(typed) < len(operands):  # functions make tensors of numbers
        return None
    return kinds.pop() if len(kinds) == 1 and kinds <= USUAL else None


USUAL = {"float32", "bfloat16", "float16"}
"""What Keras computes in."""


def dtype_of_result(result: Any) -> str | None:
    """That of the floating numbers which a function gave; None if it gave none."""
    made = [x for x in keras.tree.flatten(result) if hasattr(x, "dtype")]
    dtype = dtype_of(made[0]) if made else None
    return dtype if dtype and keras.backend.is_float_dtype(dtype) else None


def axes_of(axis: Any) -> Any:
    """An argument that names axes, as an int, a tuple of ints or None: those of NumPy are ints."""
    if axis is None or isinstance(axis, int):
        return axis
    return tuple(map(index, axis)) if np.ndim(axis) else index(axis)


def dtype_of(x: Any) -> str:
    """Name of the dtype of a variable or tensor, as in "float32"."""
    return str(keras.backend.standardize_dtype(x.dtype))


def rounded(x: Any, quantizer: Quantizer | None, draw: TensorRandomBits, role: str) -> Any:
    """The native tensor of x, rounded for its role."""
    value = tensor(x)
    if quantizer is None or backend() != "torch":
        return apply(quantizer, value, draw, role)
    from qemu_swalp.interop.torch import rounded as rounded_tensor

    return rounded_tensor(value, quantizer, draw(role) if quantizer.rounding.stochastic else None)


def untraced(function: Function) -> Function:
    """`torch.compile`, with which Keras compiles on PyTorch, runs the function as it is, between
    graphs.
    """
    if backend() != "torch":
        return function
    from qemu_swalp.interop.torch import untraced as without_dynamo

    return without_dynamo(function)


def of_this_graph(x: Any) -> Any:
    """TensorFlow: a tensor within the graph that is being traced. Gradients of branches within
    branches cannot be made of tensors from farther out (TensorFlow 2.21).
    """
    import tensorflow as tf

    return x if tf.executing_eagerly() or not tf.is_tensor(x) else tf.identity(x)


def eagerly() -> AbstractContextManager[Any]:
    """Within it variables are written at once, also while TensorFlow traces a function."""
    if backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def wide() -> AbstractContextManager[Any]:
    """Within it JAX computes in 64 bits where it is told to."""
    if backend() != "jax":
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def initialized(variables: Iterable[Any]) -> bool:
    """Whether variables have values; those that a function made which TensorFlow traces for the
    first time have them only when it traces the function again.
    """
    if backend() != "tensorflow":
        return True
    with eagerly():
        return all(bool(_native_variable(v).is_initialized()) for v in variables)


def update_each(
    function: Callable[..., None], variables: Sequence[Any], *arguments: Sequence[Any]
) -> None:
    """function(i, variable, *one of each arguments) for the i-th of all variables.

    Under a `tf.distribute` strategy once per replica, with what the replica holds, as variables are
    written there.
    """
    rows = list(zip(variables, *arguments, strict=True))
    if backend() == "tensorflow":
        on_each_replica(function, [tuple(_native_variable(x) for x in row) for row in rows])
        return
    for i, row in enumerate(rows):
        function(i, *row)


def _native_variable(x: Any) -> Any:
    return x.value if isinstance(x, keras.Variable) else x


def of_replica() -> str:
    """What follows the name of a role, by which random bits are drawn, in a replica of
    `tf.distribute`: replicas see different samples, and all but the first have streams of their own
    (clause RNG-5).

    Raises
    ------
    ValueError: if it is not known which replica is traced.
    """
    if backend() != "tensorflow":
        return ""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return ""
    number = tf.get_static_value(context.replica_id_in_sync_group)
    if number is None:
        raise ValueError(
            "the strategy of tf.distribute traces one program for all replicas, which would draw"
            " the same random bits for different samples; take MirroredStrategy or"
            " keras.distribution on JAX, or round to nearest"
        )
    return f"@{int(number)}" if number else ""


def strategy_scope(model: Any) -> AbstractContextManager[Any]:
    """Within it variables are made as those of a model: under its `tf.distribute` strategy."""
    strategy = getattr(model, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def synchronize(model: Any) -> None:
    """Let a model's variables hold their values: on JAX, in a callback of `fit`, they do not by
    themselves.
    """
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
