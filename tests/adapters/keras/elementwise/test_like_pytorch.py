"""Elementwise operations have the bits of the PyTorch adapter, forward and backward, eagerly."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise
from qemu_swalp_torch import quantize_elementwise as quantize_modules
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal, same
from tests.helpers.keras_training import gradients

KINDS = ("add", "multiply", "divide", "sqrt", "function", "sum")
RECIPE = Recipe(
    elementwise={
        f"{direction}.{kind}": f"float<5,{n}>/stochastic" + "; chunk=2" * (kind == "sum")
        for direction, first in (("forward", 4), ("backward", 7))
        for n, kind in enumerate(KINDS, start=first)
    }
)


class Calling(layers.Layer):
    """function(*inputs) of `keras.ops`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(*inputs)


class Module(nn.Module):
    """function(*inputs) of PyTorch."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


A, B, POSITIVE = normal((3, 4), 1), normal((3, 4), 2), np.abs(normal((3, 4), 3)) + 0.5
ROW = normal((4,), 4)
FUNCTIONS = {
    "relu": (ops.relu, F.relu, A),
    "gelu": (lambda x: ops.gelu(x, approximate=False), F.gelu, A),
    "tanh gelu": (ops.gelu, lambda x: F.gelu(x, approximate="tanh"), A),
    "silu": (ops.silu, F.silu, A),
    "glu": (ops.glu, F.glu, A),
    "tanh": (ops.tanh, torch.tanh, A),
    "sigmoid": (ops.sigmoid, torch.sigmoid, A),
    "softplus": (ops.softplus, F.softplus, A),
    "elu": (lambda x: ops.elu(x, 0.7), lambda x: F.elu(x, 0.7), A),
    "celu": (lambda x: ops.celu(x, 0.7), lambda x: F.celu(x, 0.7), A),
    "selu": (ops.selu, F.selu, A),
    "mish": (keras.activations.mish, F.mish, A),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, 0.1), A),
    "hard_sigmoid": (ops.hard_sigmoid, F.hardsigmoid, 3 * A),
    "hard_silu": (ops.hard_silu, F.hardswish, 3 * A),
    "softsign": (ops.softsign, F.softsign, A),
    "tanh_shrink": (ops.tanh_shrink, F.tanhshrink, A),
    "log_sigmoid": (ops.log_sigmoid, F.logsigmoid, A),
    "softmax": (ops.softmax, lambda x: F.softmax(x, -1), A),
    "softmax of columns": (lambda x: ops.softmax(x, 0), lambda x: F.softmax(x, 0), A),
    "log_softmax": (ops.log_softmax, lambda x: F.log_softmax(x, -1), A),
    "add": (ops.add, torch.add, A, B),
    "operators": (
        lambda a, b: (a - b) * a / b + 2.0,
        lambda a, b: (a - b) * a / b + 2.0,
        A,
        POSITIVE,
    ),
    "swapped operators": (lambda a: 2.0 - 3.0 / a, lambda a: 2.0 - 3.0 / a, POSITIVE),
    "broadcast": (ops.multiply, torch.mul, A, ROW),
    "square": (ops.square, torch.square, A),
    "cube": (lambda x: x**3, lambda x: x**3, A),
    "power": (lambda x: ops.power(x, 1.7), lambda x: torch.pow(x, 1.7), POSITIVE),
    "power of a tensor": (ops.power, torch.pow, POSITIVE, A),
    "sqrt": (ops.sqrt, torch.sqrt, POSITIVE),
    "rsqrt": (ops.rsqrt, torch.rsqrt, POSITIVE),
    "exp": (ops.exp, torch.exp, A),
    "log": (ops.log, torch.log, POSITIVE),
    "erf": (ops.erf, torch.erf, A),
    "expm1": (ops.expm1, torch.expm1, A),
    "log1p": (ops.log1p, torch.log1p, POSITIVE),
    "sin": (ops.sin, torch.sin, A),
    "arctan": (ops.arctan, torch.atan, A),
    "sinh": (ops.sinh, torch.sinh, A),
    "sum": (lambda x: ops.sum(x, 0), lambda x: x.sum(0), A),
    "mean": (lambda x: ops.mean(x, -1, keepdims=True), lambda x: x.mean(-1, True), A),
    "variance": (lambda x: ops.var(x, 1), lambda x: x.var(1, unbiased=False), A),
    "logsumexp": (lambda x: ops.logsumexp(x, 1), lambda x: torch.logsumexp(x, 1), A),
    "norm": (lambda x: ops.norm(x, axis=1), lambda x: torch.linalg.vector_norm(x, dim=1), A),
    "normalize": (ops.normalize, lambda x: F.normalize(x, dim=-1, eps=1e-7), A),
    "binary losses": (
        lambda a, t: ops.binary_crossentropy(t, a, from_logits=True),
        lambda a, t: F.binary_cross_entropy_with_logits(a, t, reduction="none"),
        A,
        POSITIVE / 3,
    ),
    "categorical losses": (
        lambda a, t: ops.categorical_crossentropy(t, a, from_logits=True),
        lambda a, t: F.cross_entropy(a, t, reduction="none"),
        A,
        POSITIVE / 3,
    ),
}


ROWS = np.float32([[0, 0, 0, 0], [2, 2, 2, 2], [1, 2, -3, 0.5]])
"""Low precision has rows of zeros, and of equal numbers, where full precision has none."""

KINKS = np.float32([-800, -20, -6, -3, -2, -1, -0.5, -0.0, 0, 0.5, 1, 2, 3, 6, 20, 800])
"""Where pieces of nonlinearities meet, and where exponentials are infinite."""

EXPONENTS = np.float32([0, 1, 2, 3])

EDGES = {
    "norms": (
        lambda x: ops.norm(x, axis=1) + ops.norm(x, 3, axis=1),
        lambda x: x.norm(dim=1) + x.norm(3, 1),
        ROWS,
    ),
    "normalize": (
        lambda x: ops.normalize(x, epsilon=0.01),
        lambda x: F.normalize(x, dim=-1, eps=0.01),
        ROWS,
    ),
    "deviation": (lambda x: ops.std(x, 1), lambda x: x.std(1, unbiased=False), ROWS),
    "powers": (
        lambda x: x ** ops.convert_to_tensor(EXPONENTS) + 3.0**x + x**0,
        lambda x: x ** torch.tensor(EXPONENTS) + 3.0**x + x**0,
        ROWS,
    ),
    "elu": (ops.elu, F.elu, KINKS),
    "selu": (ops.selu, F.selu, KINKS),
    "hard_silu": (ops.hard_silu, F.hardswish, KINKS),
    "binary losses": (
        lambda a, t: ops.binary_crossentropy(t, a, from_logits=True),
        lambda a, t: F.binary_cross_entropy_with_logits(a, t, reduction="none"),
        KINKS,
        np.float32(KINKS > 0),
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_at_zero_and_where_pieces_meet(name):
    results = _gradients_of_both(*EDGES[name])
    assert all(np.isfinite(x).all() for x in results)


NAMES = list(FUNCTIONS)[:: 3 if BACKEND == "jax" else 1]  # eager JAX compiles each operation


@pytest.mark.parametrize("name", NAMES)
def test_functions(name):
    _gradients_of_both(*FUNCTIONS[name])


def _gradients_of_both(ours, theirs, *arrays):
    """Result and gradients, which are the same in both adapters."""
    model = keras.Sequential([Calling(ours)])
    quantize_elementwise(model, RECIPE, seed=5)
    module = nn.Sequential(Module(theirs))
    quantize_modules(module, RECIPE, seed=5, uncovered="ignore")
    held = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = module[0](*held)
    e = normal(tuple(expected.shape), 9)
    by_torch = torch.autograd.grad(expected, held, torch.tensor(e), allow_unused=True)
    y, found, _ = gradients(lambda *x: model.layers[0](x, training=True), [], e, *arrays)
    same(y, expected.detach().numpy())
    for ours_, theirs_ in zip(found, by_torch, strict=True):
        if theirs_ is not None:
            same(ours_, theirs_.numpy())
    return [expected.detach().numpy(), *(x.numpy() for x in by_torch if x is not None)]
