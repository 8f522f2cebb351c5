"""Functions of Keras's backend and operators of its tensors, as they are while a layer is called
whose elementwise operations are rounded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

from keras import layers, ops

from .._compat import replace_backend_function, replace_method, replace_private_function
from ..backend import axes_of, dtype_of, dtype_of_result, is_number, operand_of, shared_dtype
from ..calls.pausing import paused
from ..calls.scope import Scope, current
from ..calls.unknown import sometimes_telling
from . import normalization
from .functions import FUNCTIONS, Handler
from .losses import LOSSES
from .operations import Operations, operand
from .pooling import POOLING

Function = Callable[..., Any]

TENSORS = {"x", "x1", "x2", "inputs", "mean", "variance", "offset", "scale", "weights"}
TENSORS |= {"target", "output"}
"""Names of what is a tensor among a handler's parameters."""


@cache
def install() -> None:
    """Put our functions in place of the backend's, once in a process."""
    for name, handler in (FUNCTIONS | LOSSES | POOLING).items():
        replace_backend_function(name, partial(_rounded, name, handler))
    replace_backend_function("random.dropout", _dropout)
    for name in ("layer_normalization", "rms_normalization", "normalize"):
        handler = getattr(normalization, name)
        replace_private_function(f"ops.nn._{name}", partial(_normalized, handler))
    replace_method(layers.BatchNormalization, "call", _batch_normalization)
    replace_method(
        layers.GroupNormalization,
        "_apply_normalization",
        partial(_normalized, normalization.group_normalization),
    )


def operations() -> Operations | None:
    """Those of the layer that is being called; None where it rounds none."""
    scope = current()
    rules = None if scope is None else scope.functions
    return None if scope is None or rules is None else Operations(scope, rules)


def _rounded(name: str, handler: Handler, function: Function) -> Function:
    signature, unrounded = inspect.signature(handler), sometimes_telling(name, function)

    @wraps(function)
    def rounded(*args: Any, operator: Function | None = None, **options: Any) -> Any:
        """operator : in whose place the function is; it gives the result its dtype."""
        o = operations()
        if o is None:
            return unrounded(*args, **options)
        with paused():
            bound = signature.bind(o, *args, **options)
            tensors = {
                key: x for key, x in bound.arguments.items() if key in TENSORS and x is not None
            }
            if operator is None:
                tensors = {key: operand_of(x) for key, x in tensors.items()}
            is_bias = name == "numpy.add" and _is_bias(o.scope, *tensors.values())
            dtype = shared_dtype([x for key, x in tensors.items() if key != "target"])
            if dtype is None or is_bias:
                result = (operator or function)(*args, **options)
                dtype = dtype_of_result(result)
                if dtype is None or is_bias or all(map(is_number, tensors.values())):
                    return result
            for key in {"axis", "axes"} & set(bound.arguments):
                bound.arguments[key] = axes_of(bound.arguments[key])
            for key, x in tensors.items():
                integer = key == "target" and "int" in str(getattr(x, "dtype", ""))
                bound.arguments[key] = ops.convert_to_tensor(x) if integer else operand(x, dtype)
            result = handler(*bound.args, **bound.kwargs)
        return unrounded(*args, **options) if result is NotImplemented else result

    return rounded


def _is_bias(scope: Scope, a: Any, b: Any) -> bool:
    """Whether a weight is added to what a product gave: that is a part of its sum."""
    return any(x is scope.result and scope.is_weight(y) for x, y in ((a, b), (b, a)))


def _dropout(function: Function) -> Function:
    @wraps(function)
    def dropout(inputs: Any, rate: float, *args: Any, **options: Any) -> Any:
        """Kept numbers are multiplied by 1/(1 - rate), which is not rounded itself."""
        o = operations()
        if o is None or rate in (0.0, 1.0):
            return function(inputs, rate, *args, **options)
        with paused():
            kept = function(ops.ones_like(inputs), rate, *args, **options)
            return o.multiply(operand(inputs, dtype_of(kept)), kept)

    return dropout


def _normalized(handler: Handler, function: Function) -> Function:
    @wraps(function)
    def normalized(*args: Any, **options: Any) -> Any:
        o = operations()
        if o is None:
            return function(*args, **options)
        with paused():
            return handler(o, function, *args, **options)

    return normalized


def _batch_normalization(function: Function) -> Function:
    @wraps(function)
    def call(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        o = operations()
        if o is None or normalization.is_composed(layer, mask):
            return function(layer, inputs, training=training, mask=mask)
        with paused():
            return normalization.batch_normalization(o, function, layer, inputs, training, mask)

    return call
