"""What is rounded has the dtype that it has without rounding."""

import operator

import keras
import numpy as np
import pytest
from keras import ops
from qemu_swalp_keras import quantize_elementwise

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, Calls, normal, numpy

PAIRS = [
    ("float16", np.float32(0.5)),
    ("float32", np.float64(0.5)),
    ("float32", np.float16(0.5)),
    ("bfloat16", np.float16(0.5)),
    ("float16", np.int64(2)),
    ("int32", np.float32(0.5)),
    ("int32", np.float64(0.5)),
    ("float16", 0.5),
    ("int32", 0.5),
    ("float16", "a float32 tensor without axes"),
    ("int32", "a float32 tensor without axes"),
    ("float16", "a float32 tensor"),
]
"""(dtype of a tensor, what meets it)."""

OF_NUMBERS = [p for p in PAIRS if p[0] != "int32" and not isinstance(p[1], str)]
"""TensorFlow's operators take no others."""


def other(given):
    if not isinstance(given, str):
        return given
    return ops.full(() if "without" in given else (3,), 0.5, "float32")


def rounded_and_plain(function, dtype):
    x = ops.cast(normal((2, 3)), dtype)
    rounded = quantize_elementwise(Calls(function), Recipe(elementwise="fixed<8,4>"))(x)
    return rounded, Calls(function)(x)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["add", "power"])
def test_functions_of_tensors_and_numbers(name, pair):
    function = getattr(ops, name)
    y, plain = rounded_and_plain(lambda x: function(ops.abs(x), other(pair[1])), pair[0])
    assert keras.backend.standardize_dtype(y.dtype) == keras.backend.standardize_dtype(plain.dtype)
    y = numpy(ops.cast(y, "float32"))
    assert np.array_equal(y, np.round(y * 16) / 16), "not rounded"


@pytest.mark.parametrize("pair", OF_NUMBERS, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_operators_of_tensors_and_numbers_of_numpy(pair, swapped):
    dtype, number = pair
    function = (lambda x: number * x) if swapped else (lambda x: x * number)
    y, plain = rounded_and_plain(function, dtype)
    assert y.dtype == plain.dtype


DTYPES = {"jax": ("float16", "int32")}.get(
    BACKEND, ("float16", "bfloat16", "float32", "float64", "int32")
)

ARRAYS = {
    "float64": np.array([0.5, 1.5, 2.5]),
    "float32": np.float32([0.5, 1.5, 2.5]),
    "float64, no axes": np.array(0.5),
    "float32, no axes": np.float32([0.5])[0, ...],
    "int64": np.array([1, 2, 3]),
    "bool": np.array([True, True, False]),
    "True": True,
    "list": [0.5, 1.5, 2.5],
    "float64 tensor": "float64",
    "float16 tensor": "float16",
}
"""What meets a tensor."""

PAIRED = ("add", "sub", "mul", "truediv", "pow")


def kind_of(function, x):
    """The dtype of a result, or the kind of its error."""
    try:
        return keras.backend.standardize_dtype(function(x).dtype)
    except Exception as error:
        return type(error).__name__


def assert_same_kinds(function, x):
    layer = Calls(function)
    plain = kind_of(layer, x)
    assert kind_of(quantize_elementwise(layer, Recipe(elementwise="fixed<8,4>")), x) == plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("array", ARRAYS)
def test_operators_and_functions_of_tensors_and_arrays(array, dtype):
    x = ops.cast(np.float32([[1, 2, 3], [3, 2, 1]]), dtype)
    b = ARRAYS[array]
    b = ops.cast(np.float32([0.5, 1.5, 2.5]), b) if isinstance(b, str) else b
    functions = [getattr(operator, name) for name in PAIRED]
    functions += [ops.add, ops.subtract, ops.multiply, ops.divide, ops.power]
    for function in functions:
        for meet in (lambda x, f=function: f(x, b), lambda x, f=function: f(b, x)):
            assert_same_kinds(meet, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_and_functions_of_tensors_without_axes(dtype):
    x = ops.cast(2.0, dtype)
    for b in (0.5, 2, np.float64(0.5), np.array(0.5), np.float32([0.5])):
        for function in (operator.mul, operator.truediv, operator.pow, ops.multiply, ops.power):
            for meet in (lambda x, f=function, b=b: f(x, b), lambda x, f=function, b=b: f(b, x)):
                assert_same_kinds(meet, x)


OF_ONE = {
    **{name: getattr(ops, name) for name in ("exp", "sqrt", "square", "reciprocal", "rsqrt")},
    **{name: getattr(ops, name) for name in ("mean", "sum", "std", "logsumexp", "norm", "erf")},
    **{name: getattr(ops, name) for name in ("sigmoid", "gelu", "softplus", "softmax", "elu")},
    "divide_no_nan": lambda x: ops.divide_no_nan(x, x),
    "average": lambda x: ops.average(x, 0, np.array([0.5, 0.5])),
    "moments": lambda x: ops.moments(x, (0,))[1],
}


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("name", OF_ONE)
def test_functions_of_one_tensor(name, dtype):
    assert_same_kinds(OF_ONE[name], ops.cast(np.float32([[1, 2, 3], [3, 2, 1]]), dtype))


@pytest.mark.skipif(BACKEND == "jax", reason="has no float64")
def test_numbers_of_float64_are_rounded():
    x = ops.cast(np.array([0.1, 0.7, 1.3]), "float64")
    function = lambda x: x * np.array([0.3, 0.9, 1.1]) + ops.exp(x)  # noqa: E731
    y = quantize_elementwise(Calls(function), Recipe(elementwise="fixed<16,4>"))(x)
    y, plain = numpy(y), numpy(function(x))
    assert y.dtype == plain.dtype == np.float64
    assert np.array_equal(y, np.round(y * 16) / 16), "not rounded"
    assert np.allclose(y, plain, atol=0.1)


OF_INTEGERS = {
    "divide": lambda x: x / 3,
    "true_divide": lambda x: ops.true_divide(x, ops.flip(x, 0)),
    "mean": lambda x: ops.mean(x, axis=1),
    "exp": lambda x: ops.exp(-x),
    "sqrt": ops.sqrt,
    "var": lambda x: ops.var(x, axis=1),
    "add": lambda x: ops.cast(x + x, "float32") / 3,
}


@pytest.mark.parametrize("name", OF_INTEGERS)
def test_floats_that_functions_make_of_integers_are_rounded(name):
    x = ops.convert_to_tensor(np.int32([[1, 2, 3], [5, 7, 11]]))
    layer = Calls(OF_INTEGERS[name])
    plain = layer(x)
    y = quantize_elementwise(layer, Recipe(elementwise="fixed<16,4>"))(x)
    assert keras.backend.standardize_dtype(y.dtype) == keras.backend.standardize_dtype(plain.dtype)
    assert keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
    y, plain = numpy(y), numpy(plain)
    assert np.array_equal(y, np.round(y * 16) / 16), "not rounded"
    assert np.allclose(y, plain, atol=0.2)
