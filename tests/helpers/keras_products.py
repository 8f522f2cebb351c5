"""An independent watcher of the products that a backend makes, in eager execution: below Keras, so
that it sees those too which nobody intercepts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.helpers.keras_native import BACKEND

Seen = list[tuple[str, list[np.ndarray]]]
"""(operation of the backend, its floating operands) of each product."""


@contextmanager
def watched() -> Iterator[Seen]:
    """Within it products are recorded, of the forward and of the backward pass."""
    seen: Seen = []
    with {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](seen):
        yield seen


def _record(seen: Seen, name: str, operands: Any) -> None:
    arrays = [np.asarray(x, dtype=np.float32) for x in operands]
    seen.append((name, arrays))


@contextmanager
def _tensorflow(seen: Seen) -> Iterator[None]:
    from tensorflow.python.framework import op_callbacks

    products = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D")
    products += ("DepthwiseConv2dNative",)

    def callback(op_type: Any, inputs: Any, attrs: Any, outputs: Any, *rest: Any, **more: Any):
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        if kind.startswith(products):
            # Backward convolutions have the shape of the result as an integer operand.
            _record(seen, kind, [x.numpy() for x in inputs if x.dtype.is_floating])

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


@contextmanager
def _jax(seen: Seen) -> Iterator[None]:
    import jax
    from jax._src.lax import convolution, lax

    primitives = (lax.dot_general_p, convolution.conv_general_dilated_p)
    before = [p.impl for p in primitives]

    def recorded(primitive: Any, impl: Any) -> Any:
        def call(*operands: Any, **options: Any) -> Any:
            _record(seen, primitive.name, operands)
            return impl(*operands, **options)

        return call

    for primitive, impl in zip(primitives, before, strict=True):
        primitive.impl = recorded(primitive, impl)
    try:
        with jax.disable_jit():
            yield
    finally:
        for primitive, impl in zip(primitives, before, strict=True):
            primitive.impl = impl


@contextmanager
def _torch(seen: Seen) -> Iterator[None]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            name = function.overloadpacket.__name__
            result = function(*args, **(kwargs or {}))
            operands: list[Any] = []
            if name in ("mm", "bmm", "mv", "dot"):
                operands = list(args[:2])
            elif name in ("addmm", "baddbmm"):
                operands = list(args[1:3])
            elif name == "convolution":
                operands = list(args[:2])
            elif name == "convolution_backward":
                error, x, weight, mask = *args[:3], args[-1]
                operands = [error, *([weight] if mask[0] else []), *([x] if mask[1] else [])]
            elif "attention" in name:
                operands = list(args[:3])
            if operands:
                _record(seen, name, [x.detach().float().cpu() for x in operands])
            return result

    with Watch():
        yield
