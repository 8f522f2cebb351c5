"""The elementwise operations of PyTorch, and what computes each in its place, rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.function_table import FUNCTIONS
from ..ops.functional import ElementwiseFunctions
from .frames import Frame
from .names import OPERATORS, all_dense, arguments_for, callables, keywords_of, worded

Handler = Callable[..., Any]

WITH_CONSTANTS = ("power", "softplus", "log_above")
OF_ONE_NUMBER = tuple(name for name in FUNCTIONS if name not in WITH_CONSTANTS)

METHODS: dict[str, str] = {
    **{
        name: name
        for name in (
            *("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "normalize"),
            *("gelu", "glu", "silu", "softmax", "log_softmax", "sigmoid", "tanh", "softplus"),
            *("mish", "elu", "celu", "selu", "leaky_relu", "prelu", "hardsigmoid", "hardswish"),
            *("softsign", "tanhshrink", "dropout", "dropout1d", "dropout2d", "dropout3d"),
            *("add", "sub", "mul", "div", "reciprocal", "square", "sqrt", "rsqrt", "pow"),
            *("exp", "log", "erf", "addcmul", "addcdiv", "lerp"),
            *("sum", "mean", "var", "std", "var_mean", "std_mean", "norm", "dist", "logsumexp"),
            *("logaddexp", "outer", "softmin", "gumbel_softmax"),
            *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "nll_loss"),
            *("cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
            *("soft_margin_loss", "multilabel_soft_margin_loss", "multi_margin_loss"),
            *("margin_ranking_loss", "hinge_embedding_loss", "cosine_embedding_loss"),
            *("triplet_margin_loss", "gaussian_nll_loss", "poisson_nll_loss"),
            *("cosine_similarity", "pairwise_distance"),
            *("kl_div", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *(f"adaptive_avg_pool{n}d" for n in (1, 2, 3)),
        )
    },
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "__truediv__": "div",
    "__add__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__pow__": "pow",
    "__radd__": "add",
    "__rmul__": "mul",
    "__rsub__": "rsub",
    "rsub": "rsub",
    "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv",
    "__rpow__": "rpow",
    "__div__": "div",
    "linalg_vector_norm": "vector_norm",
    "linalg_norm": "linalg_norm",
    "special_erf": "erf",
    "special_expit": "sigmoid",
    "ger": "outer",
    "special_logsumexp": "logsumexp",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    **{f"special_{name}": name for name in OF_ONE_NUMBER},
    "_weight_norm": "weight_norm",
    "log_sigmoid": "logsigmoid",
    **{name: name for name in OF_ONE_NUMBER},
}
"""Names of PyTorch's operations → methods of `ElementwiseFunctions`, or names of `FUNCTIONS`."""

IN_PLACE = {
    **{
        f"{name}_": name
        for name in (
            *("add", "sub", "mul", "div", "pow", "sqrt", "rsqrt", "reciprocal", "square", "exp"),
            *("log", "sigmoid", "tanh", "addcmul", "addcdiv", "lerp", "erf", "elu", "leaky_relu"),
            *("subtract", "multiply", "divide", "true_divide", "selu", "celu"),
            *OF_ONE_NUMBER,
        )
    },
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__ipow__": "pow",
}


STATISTICS = ("running_mean", "running_var")
NATIVE = {
    "layer_norm": ("normalized_shape", "weight", "bias", "eps"),
    "group_norm": ("num_groups", "weight", "bias", "eps"),
    "batch_norm": ("weight", "bias", *STATISTICS, "training", "momentum", "eps"),
    "instance_norm": ("weight", "bias", *STATISTICS, "use_input_stats", "momentum", "eps"),
}
"""What `torch.batch_norm` and its kin take after the input, in another order than those of
`torch.nn.functional`; whether to use cuDNN follows.
"""

CUDNN = ("cudnn_enable", "cudnn_enabled")


def _handler(operation: str, name: str) -> Handler:
    method: Handler = getattr(ElementwiseFunctions, name, None) or _evaluated(name)
    known = keywords_of(method) | {"input", "self", "other", "out"}

    def handle(frame: Frame, function: Handler, *inputs: Any, **options: Any) -> Any:
        if not _is_floating(inputs, options):
            return function(*inputs, **options)
        if operation in NATIVE and function is not getattr(F, operation):
            options.update(zip((*NATIVE[operation], CUDNN[0]), inputs[1:], strict=False))
            inputs = inputs[:1]
            options = {key: value for key, value in options.items() if key not in CUDNN}
        if options:
            placed = arguments_for(known, operation, inputs, options)
            if placed is None:
                return function(*inputs, **options)
            inputs, options = placed
        out = options.pop("out", None)
        for first in ("input", "self"):
            if first in options:
                inputs = (options.pop(first), *inputs)
        if "other" in options:
            inputs = (*inputs, options.pop("other"))
        result = method(frame.functions, *inputs, **options)
        return result if out is None else out.resize_(result.shape).copy_(result)

    return handle


def _evaluated(name: str) -> Handler:
    """One of `FUNCTIONS` as a method."""
    return lambda functions, x: functions.function(name, x)


def _is_floating(inputs: Any, options: Any) -> bool:
    """Whether the operation gives floating numbers in dense tensors."""
    values = (*inputs, *options.values())
    floating = any(isinstance(x, Tensor) and x.is_floating_point() for x in values)
    return floating and all_dense(values)


def _in_place(handler: Handler) -> Handler:
    def handle(frame: Frame, function: Handler, x: Tensor, *rest: Any, **options: Any) -> Any:
        if not x.is_floating_point():
            return function(x, *rest, **options)
        old = x.clone() if torch.is_grad_enabled() else x  # the operation may save it
        return x.copy_(handler(frame, function, old, *rest, **options))

    return handle


def _handlers() -> Iterator[tuple[str, Handler]]:
    for name, method in METHODS.items():
        yield name, _handler(name, method)
    for name, plain in IN_PLACE.items():
        yield name, _in_place(_handler(plain, METHODS[plain]))


BY_NAME = {name: worded(handler) if name in OPERATORS else handler for name, handler in _handlers()}
"""What computes each operation: called as (frame, function, *inputs, **options)."""

ARITHMETIC = {
    function: handler for name, handler in BY_NAME.items() for function in callables(name)
}
"""The same by function, method and Python operator."""
