"""Our operation in TensorFlow's registry, and how it is called: all that the kernels touch of
TensorFlow's private API.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import call_module
from tensorflow.python.eager import context, execute
from tensorflow.python.framework import op_def_library
from tensorflow.python.ops.parallel_for import pfor
from tensorflow.python.saved_model.save_context import in_save_context

from .. import cpu
from ..stored_call import TARGET

__all__ = [
    "OP",
    "apply",
    "apply_in_graph",
    "apply_under_xla",
    "in_save_context",
    "register",
    "register_with_xla",
]

OP = "QemuSwalpQuantize"
"""Name of the operation in graphs and saved programs."""
ELEMENTS = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "uint32": "ui32",
}
"""Names of dtypes in StableHLO."""


def register() -> str:
    """Register the operation. Why that failed, as a clause; "" if it did not."""
    framework = ctypes.CDLL(_library("framework"))
    reason: bytes | None = cpu.library().qs_register_tensorflow(framework._handle)
    if reason is None:
        tf.no_gradient(OP)
        pfor.RegisterPFor("DeviceIndex")(_same_in_every_iteration)
    return (reason or b"").decode()


def _same_in_every_iteration(_: Any) -> Any:
    """`DeviceIndex` under `tf.vectorized_map`, which would compute every branch otherwise."""
    return pfor.wrap(_device_index(), False)


def _device_index() -> Any:
    """A new one for each branching: TensorFlow 2.21 crashes where several of a graph share one."""
    return tf.raw_ops.DeviceIndex(device_names=["CPU"])


def register_with_xla() -> str:
    """Register the custom call with TensorFlow's XLA. Why that failed; "" if it did not."""
    get_api = ctypes.CDLL(_library("cc"))._ZN3xla3ffi12GetXlaFfiApiEv
    address = ctypes.cast(get_api, ctypes.c_void_p)
    reason: bytes | None = cpu.library().qs_register_xla(address, TARGET.encode())
    return (reason or b"").decode()


def _library(part: str) -> str:
    """Path of the library that the process has loaded."""
    folder = Path(tf.sysconfig.get_lib())
    return str(next(path for path in folder.glob(f"libtensorflow_{part}.*") if path.is_file()))


def apply(x: Any, others: Sequence[Any], call: bytes) -> Any:
    """The operation, eager."""
    attributes = ("T", x.dtype.as_datatype_enum, "N", len(others), "call", call)
    (y,) = execute.execute(OP.encode(), 1, [x, *others], attributes, context.context())
    return y


def apply_in_graph(x: Any, others: Sequence[Any], call: bytes) -> Any:
    """The operation in the graph that is being traced, or the custom call if XLA compiles that.

    A function traced without XLA may be called in one that XLA compiles, which has no kernel for
    the operation. `DeviceIndex` is 0 on a CPU and 1 under XLA, which drops the other branch.
    """
    operands = [x, *others]
    if not tf.compat.v1.executing_eagerly_outside_functions():  # graphs of TensorFlow 1
        return _node(*operands, call=call)
    kinds = tuple((operand.dtype, operand.shape.rank) for operand in operands)
    (y,) = tf.raw_ops.StatelessCase(
        branch_index=_device_index(),
        input=operands,
        Tout=[x.dtype],
        branches=_branches(kinds, call, context.context()),
        output_shapes=[x.shape],
    )
    return tf.stop_gradient(y)


def _node(x: Any, *others: Any, call: bytes) -> Any:
    return op_def_library.apply_op(OP, x=x, others=list(others), call=call)


@lru_cache(maxsize=4096)
def _branches(kinds: tuple[tuple[Any, int], ...], call: bytes, within: Any) -> list[Any]:
    """Functions of arrays of any lengths: the operation, and XLA's custom call.

    They live in TensorFlow's eager context, `within`; its own tests begin others.
    """
    signature = [tf.TensorSpec([None] * rank, dtype) for dtype, rank in kinds]
    with tf.init_scope():
        return [
            tf.function(partial(body, call=call), autograph=False).get_concrete_function(*signature)
            for body in (_node, apply_under_xla)
        ]


def apply_under_xla(x: Any, *others: Any, call: bytes) -> Any:
    """The custom call in a graph that XLA compiles."""

    operands = [x, *others]
    (y,) = call_module(operands, module=_module(operands, call), Tout=[x.dtype], Sout=[x.shape])
    return tf.stop_gradient(y)


def _module(operands: Sequence[Any], call: bytes) -> str:
    """A program in StableHLO that makes one custom call, on arrays in C order.

    Lengths may be open: XLA fills them in when it compiles, that of the result by its operand of
    lengths.
    """
    x, rank = operands[0], operands[0].shape.rank
    types = [_type(operand) for operand in operands]
    names = [f"%arg{i}" for i in range(len(operands))]
    orders = [_order(operand.shape.rank) for operand in operands]
    parameters = ", ".join(f"{name}: {kind}" for name, kind in zip(names, types, strict=True))
    lengths, indices = "", []
    if not x.shape.is_fully_defined():
        lengths = _lengths(rank, types[0])
        indices = [len(operands)]
        names.append("%lengths")
        orders.append(_order(1))
    arguments = ", ".join([*types, *[f"tensor<{rank}xi32>" for _ in indices]])
    escaped = "\\" + call.hex("\\")
    return f"""module @{TARGET} attributes {{jax.uses_shape_polymorphism = true}} {{
  func.func public @main({parameters}) -> {types[0]} {{{lengths}
    %0 = stablehlo.custom_call @{TARGET}({", ".join(names)}) {{
      api_version = 4 : i32, backend_config = {{call = "{escaped}"}},
      indices_of_shape_operands = dense<{indices}> : tensor<{len(indices)}xi64>,
      operand_layouts = [{", ".join(orders)}], result_layouts = [{orders[0]}]
    }} : ({arguments}) -> {types[0]}
    return %0 : {types[0]}
  }}
}}"""


def _lengths(rank: int, kind: str) -> str:
    """Statements that make `%lengths`, the shape of the first operand."""
    statements = [
        f"""
    %d{axis} = stablehlo.get_dimension_size %arg0, dim = {axis} : ({kind}) -> tensor<i32>
    %n{axis} = stablehlo.reshape %d{axis} : (tensor<i32>) -> tensor<1xi32>"""
        for axis in range(rank)
    ]
    parts = ", ".join(f"%n{axis}" for axis in range(rank))
    types = ", ".join(["tensor<1xi32>"] * rank)
    joined = f"stablehlo.concatenate {parts}, dim = 0 : ({types}) -> tensor<{rank}xi32>"
    return "".join(statements) + f"\n    %lengths = {joined}"


def _type(operand: Any) -> str:
    lengths = "".join(f"{'?' if n is None else n}x" for n in operand.shape)
    return f"tensor<{lengths}{ELEMENTS[operand.dtype.name]}>"


def _order(rank: int) -> str:
    """The axes of an array in C order, the one that changes fastest first."""
    return f"dense<{list(reversed(range(rank)))}> : tensor<{rank}xindex>"
