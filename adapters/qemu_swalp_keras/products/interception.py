"""Functions of Keras's backend, as they are while a layer is called whose products are rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, NamedTuple

import keras

from .._compat import around_items_of_variables, replace_backend_function
from ..backend import differentiable_tensor, dtype_of, dtype_of_result, operand_of, shared_dtype
from ..calls.pausing import paused
from ..calls.scope import Scope, current
from .axes import AXES
from .composed import COMPOSED
from .convolution import Convolution, convolve
from .einsum import arranged, contracted, diagonal, expanded, is_product, summed, times

PASSING = (
    "cast",
    "convert_to_tensor",
    "core.cast",
    "core.convert_to_tensor",
    "core.slice",
    "core.stop_gradient",
    "numpy.expand_dims",
    "numpy.flip",
    "numpy.moveaxis",
    "numpy.ravel",
    "numpy.reshape",
    "numpy.split",
    "numpy.squeeze",
    "numpy.swapaxes",
    "numpy.transpose",
)
"""Of a weight they make a tensor that counts as that weight."""


@cache
def install() -> None:
    """Put our functions in place of the backend's, once in a process; outside of calls of layers
    that round they do what those do.
    """
    around_items_of_variables(_passing)
    for name in PASSING:
        replace_backend_function(name, _passing)
    for name in AXES:
        replace_backend_function(name, partial(_product, name))
    replace_backend_function("numpy.einsum", _einsum)
    for name, products in COMPOSED.items():
        replace_backend_function(name, partial(_composed, products))
    for name in ("nn.conv", "nn.depthwise_conv", "nn.conv_transpose"):
        replace_backend_function(name, partial(_convolution, name))
    for name in ("lstm", "gru"):
        replace_backend_function(name, _unfused)


def _passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def passing(x: Any, *args: Any, **kwargs: Any) -> Any:
        y = function(x, *args, **kwargs)
        scope = current()
        if scope is not None and scope.is_weight(x):
            for part in y if isinstance(y, list | tuple) else (y,):
                scope.mark(part)
        return y

    return passing


def _operands(plain: Callable[[], Any], *tensors: Any) -> list[Any] | None:
    """As tensors of the dtype that their product has; None if there is none of floating point:
    integers are multiplied as they are, for which some backends take floating numbers.
    """
    with paused():
        dtype = shared_dtype(tensors)
        tensors = tuple(map(operand_of, tensors))
        if dtype is None:
            kinds = [dtype_of(x) if hasattr(x, "dtype") else type(x) for x in tensors]
            if not keras.backend.is_float_dtype(keras.backend.result_type(*kinds)):
                return None
            dtype = dtype_of_result(plain())
        return None if dtype is None else [differentiable_tensor(x, dtype) for x in tensors]


def _product(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def product(
        x1: Any, x2: Any, *, operator: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        """operator : in whose place the function is; it gives the result its dtype."""
        scope, plain = current(), operator or function
        if scope is None:
            return plain(x1, x2, **options)
        if operator is None:
            x1, x2 = operand_of(x1), operand_of(x2)
        pair = _operands(lambda: plain(x1, x2, **options), x1, x2)
        axes = None
        if pair is not None:
            axes = AXES[name](len(pair[0].shape), len(pair[1].shape), **options)
        if pair is None or axes is None:
            with paused():
                return plain(x1, x2, **options)
        weights = [scope.is_weight(x) for x in (x1, x2)]
        y = _multiplied(scope, name, weights, pair, axes)
        if y is None:
            with paused():
                y = plain(x1, x2, **options)
        scope.result = y
        return y

    return product


def _multiplied(
    scope: Scope, name: str, weights: list[bool], pair: Any, axes: tuple[str, str, str]
) -> Any | None:
    """The product rounded; None where it is left in full precision."""
    lengths = dict(zip(axes[0] + axes[1], (*pair[0].shape, *pair[1].shape), strict=True))
    product = scope.product(name, not any(weights), lengths.values())
    if product.operands is None or not scope.rounds:
        return None
    (a, b), (of_a, of_b, out) = pair, axes
    if weights == [True, False]:
        a, b, of_a, of_b = b, a, of_b, of_a
    return contracted(a, b, (of_a, of_b, out), product.operands, scope.state_of(product))


def _einsum(function: Callable[..., Any]) -> Callable[..., Any]:
    def plain(subscripts: str, *tensors: Any) -> Any:
        with paused():
            return function(subscripts, *tensors)

    @wraps(function)
    def einsum(subscripts: str, *tensors: Any, **options: Any) -> Any:
        scope = current()
        if scope is None:
            return function(subscripts, *tensors, **options)
        tensors = tuple(map(operand_of, tensors))
        converted = _operands(lambda: function(subscripts, *tensors), *tensors)
        if converted is None or (len(tensors) < 2 and scope.functions is None):
            with paused():
                return function(subscripts, *tensors, **options)
        axes, out = expanded(subscripts, [len(x.shape) for x in converted])
        weights = [scope.is_weight(x) for x in tensors]
        operands = [
            _Operand(*diagonal(x, own, plain), weight)
            for x, own, weight in zip(converted, axes, weights, strict=True)
        ]
        while len(operands) > 1:  # by pairs, from the left
            first, second, *others = operands
            rest = "".join(other.axes for other in others) + out
            kept = "".join(dict.fromkeys(c for c in first.axes + second.axes if c in rest))
            target = kept if others else out
            y = _pair(scope, first, second, target, plain)
            operands = [_Operand(y, target, first.weight and second.weight), *others]
        y = operands[0].tensor
        if len(tensors) == 1:
            return arranged(*summed(y, operands[0].axes, out), out)
        scope.result = y
        return y

    return einsum


class _Operand(NamedTuple):
    """Of an einsum."""

    tensor: Any
    axes: str
    weight: bool


def _pair(scope: Scope, a: _Operand, b: _Operand, out: str, plain: Callable[..., Any]) -> Any:
    """The einsum of two operands; multiplications and sums of one operand are elementwise."""
    x, of_x, w, of_w = a.tensor, a.axes, b.tensor, b.axes
    elementwise = scope.functions is not None
    if elementwise:
        x, of_x = summed(x, of_x, of_w + out)
        w, of_w = summed(w, of_w, of_x + out)
    if is_product(of_x, of_w, out):
        axes, weights = (of_x, of_w, out), [a.weight, b.weight]
        y = _multiplied(scope, "numpy.einsum", weights, [x, w], axes)
        return plain(f"{of_x},{of_w}->{out}", x, w) if y is None else y
    if elementwise:
        return times(x, of_x, w, of_w, out)
    return plain(f"{of_x},{of_w}->{out}", x, w)


def _convolution(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def convolved(inputs: Any, kernel: Any, *args: Any, **options: Any) -> Any:
        scope = current()
        if scope is None:
            return function(inputs, kernel, *args, **options)
        inputs, kernel = operand_of(inputs), operand_of(kernel)
        pair = _operands(lambda: function(inputs, kernel, *args, **options), inputs, kernel)
        if pair is None:
            with paused():
                return function(inputs, kernel, *args, **options)
        options |= dict(zip(_PARAMETERS[name], args, strict=False))
        options["data_format"] = options.get("data_format") or keras.config.image_data_format()
        lengths = (*pair[0].shape, *pair[1].shape[:-2], pair[1].shape[-1])
        product = scope.product(name, not scope.is_weight(kernel), lengths)
        if product.operands is None or not scope.rounds:
            with paused():
                scope.result = function(inputs, kernel, **options)
            return scope.result
        x, w = pair
        first = options["data_format"] == "channels_first"
        channels = x.shape[1 if first else -1]
        groups = {"nn.conv": channels // w.shape[-2], "nn.depthwise_conv": channels}.get(name, 1)
        frozen = tuple(sorted((key, _hashable(value)) for key, value in options.items()))
        convolution = Convolution(name, frozen, groups, product.operands)
        scope.result = convolve(convolution, scope.state_of(product), x, w)
        return scope.result

    return convolved


_PARAMETERS = {
    "nn.conv": ("strides", "padding", "data_format", "dilation_rate"),
    "nn.depthwise_conv": ("strides", "padding", "data_format", "dilation_rate"),
    "nn.conv_transpose": ("strides", "padding", "output_padding", "data_format", "dilation_rate"),
}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _composed(products: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the backend, as calls of `keras.ops` that are rounded."""

    @wraps(function)
    def composed(*args: Any, **options: Any) -> Any:
        return (function if current() is None else products)(*args, **options)

    return composed


def _unfused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel for a whole recurrent layer: without it Keras calls the cell step by step."""

    @wraps(function)
    def unfused(*args: Any, **options: Any) -> Any:
        scope = current()
        if scope is None:
            return function(*args, **options)
        if scope.rounds or scope.finds_scales:
            raise NotImplementedError("a fused kernel rounds no operands")
        with paused():  # which sums in another order than the cell: `disabled` has its bits
            return function(*args, **options)

    return unfused
