"""What is rounded has the dtype that it has without rounding."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import normal, numpy

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


class Calls(layers.Layer):
    def __init__(self, function):
        super().__init__(dtype="float32", autocast=False)
        self.function = function

    def call(self, x):
        return self.function(x)


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
