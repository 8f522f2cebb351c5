"""TensorFlow, JAX and PyTorch beneath Keras: replicas, and the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any


def on_each_replica(function: Callable[..., None], rows: Sequence[tuple[Any, ...]]) -> None:
    """TensorFlow: function(i, variable, *rest) of each row (variable, *rest), once for each replica
    of the running strategy, with what the replica holds.
    """
    import tensorflow as tf

    def update(strategy: Any, rows: list[tuple[Any, ...]]) -> None:
        for i, (first, *rest) in enumerate(rows):
            strategy.extended.update(first, partial(function, i), args=tuple(rest), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), list(rows)
    )


def variables_outside() -> AbstractContextManager[Any]:
    """TensorFlow: within it a function that is traced makes its variables outside of it.

    Those that it makes itself have values after its trace only: `tf.function` traces it a second
    time then, to run that. So it is with those whose first values it computes, of a batch say,
    which are not to be had outside.
    """
    import tensorflow as tf

    def made(create: Callable[..., Any], **options: Any) -> Any:
        if tf.distribute.has_strategy() or not callable(options["initial_value"]):
            return create(**options)
        try:
            with tf.init_scope():
                return create(**{**options, "experimental_enable_variable_lifting": False})
        except TypeError:  # the first value is of what is traced
            return create(**options)

    scope: AbstractContextManager[Any] = tf.variable_creator_scope(made)
    return scope


def gradients_are_recorded() -> bool:
    """TensorFlow: whether a tape may record what is computed now, or a graph be differentiated."""
    import tensorflow as tf
    from tensorflow.python.eager import record

    return not tf.executing_eagerly() or bool(record.could_possibly_record())


def traced_by_jax(x: Any) -> bool:
    """Whether x stands for a value in a function that JAX is tracing."""
    import jax

    return isinstance(x, jax.core.Tracer)


def called_on_host_by_jax(
    function: Callable[..., Any], operands: Sequence[Any], shape: Sequence[Any], dtype: str
) -> Any:
    """function(*operands) in a program of JAX, called on the host with NumPy's arrays.

    `jax.pure_callback` hands it arrays of JAX: reading them waits for the thread that runs the
    program, on a machine of one core for ever.
    """
    primitive = host_primitive()
    return primitive.bind(*operands, function=function, shape=tuple(shape), dtype=dtype)


@cache
def host_primitive() -> Any:
    """The primitive that `called_on_host_by_jax` binds."""
    import jax
    import numpy as np
    from jax.extend.core import Primitive
    from jax.interpreters import mlir

    primitive = Primitive("qemu_swalp_on_host")

    def called(function: Callable[..., Any], *arrays: Any) -> tuple[Any]:
        return (np.asarray(function(*map(np.asarray, arrays))),)

    def lowering(ctx: Any, *operands: Any, function: Callable[..., Any], **_: Any) -> Any:
        if ctx.module_context.lowering_parameters.for_export:
            raise ValueError(
                "sums in low precision, and the sums of elementwise operations, are called on the"
                " host by programs of JAX, which cannot be exported; leave them out of the recipe,"
                " or save the model as .keras and export it under KERAS_BACKEND=tensorflow"
            )
        results, _, _ = mlir.emit_python_callback(
            ctx,
            partial(called, function),
            None,
            list(operands),
            ctx.avals_in,
            ctx.avals_out,
            has_side_effect=False,
            returns_token=False,
        )
        return results

    primitive.def_impl(lambda *xs, function, **_: jax.numpy.asarray(called(function, *xs)[0]))
    primitive.def_abstract_eval(
        lambda *_, shape, dtype, **__: jax.core.ShapedArray(shape, np.dtype(dtype))
    )
    mlir.register_lowering(primitive, lowering)
    return primitive
