"""The core's functions on the tensors of any backend, eagerly and in its programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from .._compat import OURS, called_on_host_by_jax, traced_by_jax
from ..backend import backend, counter, wide
from ..layers.straight_through import Rule

Function = Callable[..., Any]
"""function(*arrays, step), by the core, of arrays of any library."""


def by_core(
    function: Function,
    tensors: Sequence[Any],
    step: Any,
    shape: Sequence[int | None],
    loops: bool = False,
) -> Any:
    """function(*tensors, step), of the tensors' dtype; without gradient.

    Tensors that lie in the host's memory go as NumPy views, whose bits are the same and whose
    operations start sooner; so do those of TensorFlow's graphs, when they run. What XLA compiles
    is computed there, in 64 bits on JAX too.

    Parameters
    ----------
    shape : of the result; None for lengths that a trace leaves open.
    loops : whether the function goes through the terms of a sum one by one, too many operations
        for a program of JAX: then it is called on the host.

    Raises
    ------
    ValueError: for such a function that TensorFlow compiles or exports with lengths left open.
    """
    step = _known(step)
    views = [view_of(x) for x in tensors]
    if isinstance(step, int) and all(x is not None for x in views):
        return ops.convert_to_tensor(np.asarray(function(*views, step)))
    if backend() == "tensorflow" and not _compiled_by_tensorflow():
        return _from_graph(function, tensors, step, shape)
    if backend() == "jax" and loops:
        return _from_program(function, tensors, step, shape)
    if backend() == "tensorflow" and loops and any(None in x.shape for x in tensors):
        raise ValueError(
            "TensorFlow compiles by XLA, or exports, a sum that is rounded, of shapes"
            f" {', '.join(str(tuple(x.shape)) for x in tensors)}, whose lengths must be known then;"
            " compile the model with jit_compile=False; or give batches of one size, as"
            " dataset.batch(n, drop_remainder=True) makes them, in export by an input_signature"
            " with static shapes"
        )
    with wide():
        return function(*tensors, step)


def view_of(x: Any) -> Any | None:
    """The NumPy view of a tensor that lies in the host's memory; None of others."""
    if backend() == "torch":
        from qemu_swalp.interop.torch import array_of

        view = array_of(x)
        return view if isinstance(view, np.ndarray | np.generic) else None
    if backend() == "tensorflow":
        here = hasattr(x, "numpy") and x.device.endswith("CPU:0")
        return x.numpy() if here else None
    if traced_by_jax(x) or any(device.platform != "cpu" for device in x.devices()):
        return None
    return np.asarray(x)


def _known(step: Any) -> Any:
    """A step as an int, unless it is traced or on another device."""
    return int(step) if isinstance(step, int | np.integer) else counter(step)


def is_zero(enabled: Any) -> Any:
    """Whether a switch is off: a bool, or a tensor in a trace."""
    known = _known(enabled)
    return known == 0 if isinstance(known, int) else ops.equal(known, 0)


def random_of(rule: Rule, step: Any) -> Any:
    """The random bits of a rule; None where it needs none."""
    from qemu_swalp import RandomBits

    from .rules import is_stochastic

    if not is_stochastic(rule.quantizer):
        return None
    return RandomBits(rule.seed, rule.stream, step, rule.offset)


def _compiled_by_tensorflow() -> bool:
    """Whether the graph that is being traced is compiled by XLA, or saved: neither calls Python."""
    import tensorflow as tf

    from qemu_swalp.arrays._tensorflow import under_xla
    from qemu_swalp.kernels.backends.tensorflow_op import in_save_context

    return not tf.executing_eagerly() and (under_xla() or bool(in_save_context()))


def _from_graph(
    function: Function, tensors: Sequence[Any], step: Any, shape: Sequence[int | None]
) -> Any:
    import tensorflow as tf

    def call(*arrays: Any) -> Any:
        return np.asarray(function(*arrays[:-1], int(arrays[-1])))

    result = tf.numpy_function(
        call, [*tensors, tf.cast(step, tf.int64)], tensors[0].dtype, stateful=False, name=OURS
    )
    result.set_shape(tuple(shape))
    return result


def _from_program(
    function: Function, tensors: Sequence[Any], step: Any, shape: Sequence[int | None]
) -> Any:
    def call(*arrays: Any) -> Any:
        return function(*arrays[:-1], int(arrays[-1]))

    number = ops.convert_to_tensor(step, "uint32")
    return called_on_host_by_jax(call, [*tensors, number], shape, str(tensors[0].dtype))
