"""Our operation in TensorFlow's registry, and how it is called: all that the kernels touch of
TensorFlow's private API.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import call_module
from tensorflow.python.eager import context, execute
from tensorflow.python.framework import op_def_library
from tensorflow.python.saved_model.save_context import in_save_context

from .. import cpu
from ..stored_call import TARGET

__all__ = ["OP", "apply", "apply_under_xla", "in_save_context", "register", "register_with_xla"]

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
    return (reason or b"").decode()


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


def apply(x: Any, random: Sequence[Any], call: bytes) -> Any:
    """The operation, eager or as a node of the graph that is being traced."""
    if not tf.executing_eagerly():
        return op_def_library.apply_op(OP, x=x, random=list(random), call=call)
    attributes = ("T", x.dtype.as_datatype_enum, "N", len(random), "call", call)
    (y,) = execute.execute(OP.encode(), 1, [x, *random], attributes, context.context())
    return y


def apply_under_xla(x: Any, random: Sequence[Any], call: bytes) -> Any:
    """The custom call in a graph that XLA compiles; shapes are known."""

    def call_of_xla(*operands: Any) -> Any:
        (y,) = call_module(operands, module=_module(operands, call), Tout=[x.dtype], Sout=[x.shape])
        return y, lambda *gradients: [None] * len(operands)

    return tf.custom_gradient(call_of_xla)(x, *random)


def _module(operands: Sequence[Any], call: bytes) -> str:
    """A program in StableHLO that makes one custom call, on arrays in C order."""
    types = [_type(operand) for operand in operands]
    names = [f"%arg{i}" for i in range(len(operands))]
    parameters = ", ".join(f"{name}: {kind}" for name, kind in zip(names, types, strict=True))
    orders = [_order(operand.shape.rank) for operand in operands]
    escaped = "\\" + call.hex("\\")
    return f"""module @{TARGET} {{
  func.func public @main({parameters}) -> {types[0]} {{
    %0 = stablehlo.custom_call @{TARGET}({", ".join(names)}) {{
      api_version = 4 : i32, backend_config = {{call = "{escaped}"}},
      operand_layouts = [{", ".join(orders)}], result_layouts = [{orders[0]}]
    }} : ({", ".join(types)}) -> {types[0]}
    return %0 : {types[0]}
  }}
}}"""


def _type(operand: Any) -> str:
    lengths = "".join(f"{length}x" for length in operand.shape.as_list())
    return f"tensor<{lengths}{ELEMENTS[operand.dtype.name]}>"


def _order(rank: int) -> str:
    """The axes of an array in C order, the one that changes fastest first."""
    return f"dense<{list(reversed(range(rank)))}> : tensor<{rank}xindex>"
