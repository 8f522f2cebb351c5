"""Products that are rounded have the dtype that they have without rounding."""

import keras
import numpy as np
import pytest
from keras import ops
from qemu_swalp_keras import quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, Calls, numpy

SQUARE = np.array([[0.5, 1.5], [2.5, 0.25]])
OTHERS = {
    "float64 array": SQUARE,
    "float32 array": np.float32(SQUARE),
    "int64 array": np.array([[1, 2], [3, 4]]),
    "list": [[0.5, 1.5], [2.5, 0.25]],
    "float64": ops.cast(SQUARE, "float64"),
    "float16": ops.cast(SQUARE, "float16"),
}
PRODUCTS = {
    "a @ b": lambda a, b: a @ b,
    "matmul": ops.matmul,
    "dot": ops.dot,
    "tensordot": lambda a, b: ops.tensordot(a, b, 1),
}
RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,2>"))


def kind_of(function, x):
    """The dtype of a result, or the kind of its error."""
    try:
        return keras.backend.standardize_dtype(function(x).dtype)
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("other", OTHERS)
def test_tensors_and_arrays(other, name):
    product, b = PRODUCTS[name], OTHERS[other]
    for function in (lambda x: product(x, b), lambda x: product(b, x)):
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            x, layer = ops.cast(SQUARE, dtype), Calls(function)
            assert kind_of(quantize_gemms(layer, RECIPE, attention=True), x) == kind_of(
                Calls(function), x
            )


@pytest.mark.skipif(BACKEND == "jax", reason="has no float64")
def test_products_of_float64_are_rounded():
    x = ops.cast(np.array([[0.3, 0.8], [1.1, 0.6]]), "float64")
    y = numpy(quantize_gemms(Calls(lambda x: x @ x), RECIPE, attention=True)(x))
    rounded = np.round(numpy(x) * 4) / 4
    assert y.dtype == np.float64
    assert np.array_equal(y, rounded @ rounded)
