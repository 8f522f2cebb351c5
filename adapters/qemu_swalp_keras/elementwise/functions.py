"""Functions of Keras's backends by rounded operations; names and arguments are theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from qemu_swalp.training import nonlinearities

from ..backend import is_number
from .operations import Axes, Operations

Handler = Callable[..., Any]
"""handler(operations, *tensors, **options); NotImplemented where it rounds nothing."""


def _softmax(o: Operations, x: Any, axis: int | None = -1, name: str = "softmax") -> Any:
    if axis is None:
        return ops.reshape(o.formula(name, ops.reshape(x, (-1,))), ops.shape(x))
    moved = ops.moveaxis(x, axis, -1)
    return ops.moveaxis(o.formula(name, moved), -1, axis)


def _log_softmax(o: Operations, x: Any, axis: int | None = -1) -> Any:
    return _softmax(o, x, axis, "log_softmax")


def _gelu(o: Operations, x: Any, approximate: bool = True) -> Any:
    return o.formula("tanh_gelu" if approximate else "gelu", x)


def _sparse_sigmoid(o: Operations, x: Any) -> Any:
    return o.multiply(o.add(o.clip(x, -1.0, 1.0), 1.0), 0.5)


def _sparse_plus(o: Operations, x: Any) -> Any:
    bow = o.divide(o.square(o.add(o.clip(x, -1.0, 1.0), 1.0)), 4.0)
    return o.where(x > 1, x, bow)


def _soft_shrink(o: Operations, x: Any, threshold: float = 0.5) -> Any:
    above, below = o.subtract(x, threshold), o.add(x, threshold)
    zero = ops.zeros_like(x)
    return o.where(x > threshold, above, o.where(x < -threshold, below, zero))


def _squareplus(o: Operations, x: Any, b: float = 4) -> Any:
    return o.multiply(o.add(x, o.sqrt(o.add(o.square(x), b))), 0.5)


def _leaky_relu(o: Operations, x: Any, negative_slope: float = 0.2) -> Any:
    return nonlinearities.leaky_relu(o, x, negative_slope)


def _glu(o: Operations, x: Any, axis: int = -1) -> Any:
    a, b = ops.split(x, 2, axis=axis)
    return o.multiply(a, o.formula("sigmoid", b))


def _divide_no_nan(o: Operations, x1: Any, x2: Any) -> Any:
    none = ops.equal(x2, 0)
    quotient = o.divide(x1, o.where(none, ops.ones_like(x2), x2))
    return o.where(none, ops.zeros_like(quotient), quotient)


def _average(o: Operations, x: Any, axis: Axes = None, weights: Any = None) -> Any:
    if weights is None:
        return o.mean(x, axis)
    of_weights, of_x = (0 if is_number(each) else len(each.shape) for each in (weights, x))
    if of_weights != of_x and (of_weights != 1 or not isinstance(axis, int)):
        raise ValueError(
            f"weights of an average with {of_weights} axes, axis={axis} and a tensor of {of_x} axes"
            " do not fit; give weights of the tensor's shape, or one for each index of one axis"
        )
    if of_weights != of_x:
        shape = [1] * len(x.shape)
        shape[axis] = -1  # type: ignore[index]
        weights = ops.reshape(weights, shape)
    spread = ops.broadcast_to(weights, ops.shape(x))
    return o.divide(o.sum(o.multiply(x, weights), axis), ops.sum(spread, axis))


def _variance(o: Operations, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
    return o.moments(x, axis, keepdims)[1]


def _deviation(o: Operations, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
    return o.where_positive(o.sqrt, _variance(o, x, axis, keepdims))


def _moments(
    o: Operations, x: Any, axes: Axes, keepdims: bool = False, synchronized: bool = False
) -> Any:
    if synchronized:
        raise ValueError(
            "moments over replicas are not rounded (synchronized=True); exclude the layer, or leave"
            " them to each replica"
        )
    return o.moments(x, axes, keepdims)


def _batch_normalization(
    o: Operations,
    x: Any,
    mean: Any,
    variance: Any,
    axis: int,
    offset: Any = None,
    scale: Any = None,
    epsilon: float = 1e-3,
) -> Any:
    shape = [1] * len(x.shape)
    shape[axis] = -1
    mean, variance = ops.reshape(mean, shape), ops.reshape(variance, shape)
    r = o.reciprocal_root(o.add(variance, epsilon))
    z = o.multiply(o.subtract(x, mean), r)
    z = z if scale is None else o.multiply(z, ops.reshape(scale, shape))
    return z if offset is None else o.add(z, ops.reshape(offset, shape))


def _logsumexp(o: Operations, x: Any, axis: Axes = None, keepdims: bool = False) -> Any:
    greatest = ops.stop_gradient(ops.max(x, axis, keepdims=True))
    total = o.sum(o.exp(o.subtract(x, greatest)), axis, True)
    y = o.add(o.log(total), greatest)
    return y if keepdims else ops.squeeze(y, axis)


def _norm(o: Operations, x: Any, ord: Any = None, axis: Axes = None, keepdims: bool = False) -> Any:
    axes = range(len(x.shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    p = 2 if ord in (None, "fro") else ord
    if (len(axes) > 1 and ord not in (None, "fro")) or isinstance(p, str) or p <= 0:
        return NotImplemented
    return o.norm(x, p, axis, keepdims)


def _of(formula: Callable[..., Any]) -> Handler:
    return lambda o, x, *constants, **options: formula(o, x, *constants, **options)


def _formula(name: str) -> Handler:
    return lambda o, x: o.formula(name, x)


def _function(name: str) -> Handler:
    return lambda o, x: o.function(name, x)


def _pair(name: str) -> Handler:
    return lambda o, x1, x2: o.function(name, x1, x2)


OF_NUMPY = {
    **{name: name for name in ("exp2", "expm1", "log2", "log10", "log1p", "sin", "cos", "tan")},
    **{name: name for name in ("sinh", "cosh", "exp", "log", "sqrt", "tanh")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
}

FUNCTIONS: dict[str, Handler] = {
    **{f"numpy.{name}": _pair(name) for name in ("add", "subtract", "multiply", "divide")},
    "numpy.true_divide": _pair("divide"),
    "numpy.divide_no_nan": _divide_no_nan,
    "numpy.power": lambda o, x1, x2: o.power(x1, x2),
    "numpy.square": lambda o, x: o.square(x),
    "numpy.reciprocal": lambda o, x: o.divide(1.0, x),
    **{f"numpy.{name}": _function(own) for name, own in OF_NUMPY.items()},
    "numpy.sum": lambda o, x, axis=None, keepdims=False: o.sum(x, axis, keepdims),
    "numpy.mean": lambda o, x, axis=None, keepdims=False: o.mean(x, axis, keepdims),
    "numpy.var": _variance,
    "numpy.std": _deviation,
    "numpy.average": _average,
    "math.rsqrt": lambda o, x: o.reciprocal_root(x),
    "math.erf": _function("erf"),
    "math.erfc": _function("erfc"),
    "math.logsumexp": _logsumexp,
    "linalg.norm": _norm,
    **{f"nn.{name}": _formula(name) for name in ("sigmoid", "silu")},
    "nn.tanh": _function("tanh"),
    "nn.softplus": lambda o, x: o.softplus(x),
    "nn.log_sigmoid": _function("logsigmoid"),
    **{
        f"nn.{name}": _of(getattr(nonlinearities, name))
        for name in ("elu", "celu", "selu", "softsign", "tanh_shrink", "hard_sigmoid", "hard_silu")
    },
    "nn.leaky_relu": _leaky_relu,
    "nn.gelu": _gelu,
    "nn.glu": _glu,
    "nn.sparse_sigmoid": _sparse_sigmoid,
    "nn.sparse_plus": _sparse_plus,
    "nn.soft_shrink": _soft_shrink,
    "nn.squareplus": _squareplus,
    "nn.softmax": _softmax,
    "nn.log_softmax": _log_softmax,
    "nn.moments": _moments,
    "nn.batch_normalization": _batch_normalization,
}
"""By the name of a function of the backend."""
