"""TensorFlow, JAX and PyTorch beneath Keras: replicas, the host, products that are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import keras


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


OURS = "qemu_swalp"
"""Name scope in JAX's programs of what this adapter computes."""


PRODUCTS = {
    "tensorflow": (
        *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv", "Conv2D"),
        *("Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
        *("XlaDot", "XlaDotV2", "XlaConv", "XlaConvV2", "SparseMatMul", "FusedConv2D"),
    ),
    "jax": ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"),
    "torch": (
        *("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "addr"),
        *("linear", "convolution", "_convolution", "_trilinear", "_cdist_forward"),
        *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention"),
        *("_thnn_fused_lstm_cell", "lstm", "mkldnn_rnn_layer", "_cudnn_rnn", "_sparse_mm"),
    ),
}
"""Operations by which the backends multiply matrices."""


@contextmanager
def dispatched_products(note: Callable[[str], None]) -> Iterator[None]:
    """Within it note(operation) is called for each floating product that TensorFlow or PyTorch is
    told to compute in this thread, also while a graph is traced.
    """
    names = PRODUCTS[keras.backend.backend()]
    if keras.backend.backend() == "torch":
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                name = function.overloadpacket.__name__
                floats = any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in args)
                if name in names and floats:
                    note(name)
                return function(*args, **(kwargs or {}))

        with Watch():  # type: ignore[no-untyped-call]
            yield
        return
    from tensorflow.python.framework import op_callbacks

    def callback(kind: Any, inputs: Any, *_: Any, **__: Any) -> None:
        name = kind.decode() if isinstance(kind, bytes) else kind
        if name in names and any(x.dtype.is_floating for x in inputs):
            note(name)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def products_in_program(function: Callable[..., Any], tensors: Sequence[Any]) -> list[str]:
    """The floating products that JAX traces in function(*tensors), but for those within the name
    scope `OURS`.
    """
    import jax
    import numpy as np

    def is_program(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")

    def found(program: Any) -> Iterator[str]:
        for equation in program.eqns:
            if OURS in str(equation.source_info.name_stack):
                continue
            name = equation.primitive.name
            if name in PRODUCTS["jax"] and np.issubdtype(
                equation.outvars[0].aval.dtype, np.inexact
            ):
                yield name
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
                if is_program(value):
                    yield from found(getattr(value, "jaxpr", value))

    return list(found(jax.make_jaxpr(function)(*tensors).jaxpr))
