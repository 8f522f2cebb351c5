"""What a layer computes past Keras is found in its first call."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import (
    UncoveredError,
    emulate,
    quantize_elementwise,
    quantize_gemms,
    unquantize_elementwise,
    unquantize_gemms,
)

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal, numpy

RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>"))


def native(name):
    """A product by the backend itself."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {"matmul": tf.matmul, "einsum": lambda a, b: tf.einsum("ij,jk->ik", a, b)}[name]
    if BACKEND == "jax":
        import jax.numpy as jnp

        return {"matmul": jnp.matmul, "einsum": lambda a, b: jnp.einsum("ij,jk->ik", a, b)}[name]
    import torch

    return {"matmul": torch.mm, "einsum": lambda a, b: torch.einsum("ij,jk->ik", a, b)}[name]


def elementwise(name):
    """An elementwise operation by the backend itself."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {
            "exp": tf.exp,
            "softmax": tf.nn.softmax,
            "mean": tf.reduce_mean,
            "fmod": lambda x: x % 0.5,
        }[name]
    if BACKEND == "jax":
        import jax
        import jax.numpy as jnp

        return {
            "exp": jnp.exp,
            "softmax": jax.nn.softmax,
            "mean": jnp.mean,
            "fmod": lambda x: x % 0.5,
        }[name]
    import torch

    return {
        "exp": lambda x: torch.clone(x).exp_(),
        "softmax": lambda x: torch.nn.functional.softmax(x, -1),
        "mean": torch.mean,
        "fmod": lambda x: x % 0.5,
    }[name]


class Own(layers.Layer):
    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")

    def call(self, x):
        return self.function(x, ops.convert_to_tensor(self.w))


class Around(layers.Layer):
    def __init__(self, function):
        super().__init__(name="around")
        self.own = Own(function, name="own")

    def call(self, x):
        return self.own(x)


def model_of(function, kind=Own):
    return keras.Sequential([layers.Input((4,)), layers.Dense(4), kind(function)])


@pytest.mark.parametrize("way", ["call", "fit", "compiled fit"])
@pytest.mark.parametrize("name", ["matmul", "einsum"])
@pytest.mark.parametrize("kind", [Own, Around])
def test_they_are_found_in_the_first_call(name, kind, way):
    native(name)(ops.ones((2, 4)), ops.ones((4, 3)))  # JAX has compiled it then
    model = quantize_gemms(model_of(native(name), kind), RECIPE)
    model.compile("sgd", "mse", run_eagerly=way == "fit")
    x, y = normal((2, 4)), normal((2, 3))
    run = (lambda: model(x)) if way == "call" else lambda: model.fit(x, y, verbose=0)
    with pytest.raises(UncoveredError, match=r"layer '.*(own|around).*' computes: multiply by"):
        run()


def by_python(x, w):
    """A product and a quotient that the backend does not see."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        y = tf.py_function(lambda x, w: x @ w / 3, [x, w], tf.float32)
        return tf.ensure_shape(y, (*x.shape[:-1], w.shape[-1]))
    if BACKEND == "jax":
        import jax

        like = jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[-1]), "float32")
        return jax.pure_callback(lambda x, w: np.asarray(x) @ np.asarray(w) / 3, like, x, w)
    import torch

    if not hasattr(torch.ops.qemu_keras_tests, "third"):
        third = torch.library.custom_op(
            "qemu_keras_tests::third",
            lambda x, w: x @ w / 3,
            mutates_args=(),
            schema="(Tensor x, Tensor w) -> Tensor",
        )
        third.register_fake(lambda x, w: x @ w)
    return torch.ops.qemu_keras_tests.third(x, w)


MATRIX = normal((4, 3), 1)


def traced_before():
    """A function that TensorFlow and JAX trace in its first call, and never again."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        product = tf.function(lambda x: ops.matmul(x, MATRIX) / 3)
    else:
        import jax

        product = jax.checkpoint(lambda x: ops.matmul(x, MATRIX) / 3)
    return lambda x, w: product(x)


@pytest.mark.parametrize("way", ["call", "compiled fit"])
@pytest.mark.parametrize("call", [quantize_gemms, quantize_elementwise])
@pytest.mark.parametrize("name", ["by Python", "traced before"])
def test_what_nobody_sees_is_told(name, call, way):
    if name == "traced before" and BACKEND == "torch":
        pytest.skip("PyTorch traces nothing")
    function = by_python if name == "by Python" else traced_before()
    model = model_of(function)
    x = ops.convert_to_tensor(normal((2, 4)))
    model.predict(x, verbose=0)
    model(x)
    call(model, RECIPE if call is quantize_gemms else Recipe(elementwise="bf16"))
    run = (lambda: model(x)) if way == "call" else lambda: model.predict(x, verbose=0)
    with pytest.raises(UncoveredError, match="could not be applied to"):
        run()


@pytest.mark.parametrize("way", ["call", "compiled fit"])
@pytest.mark.parametrize("name", ["exp", "softmax", "mean", "fmod"])
def test_elementwise_operations_too(name, way):
    function = elementwise(name)
    function(ops.ones((2, 4)))  # JAX has compiled it then
    model = model_of(lambda x, w: x * function(ops.relu(x)), Around)
    quantize_elementwise(model, Recipe(elementwise="fixed<12,4>"))
    model.compile("sgd", "mse")
    x = normal((2, 4))
    run = (lambda: model(x)) if way == "call" else lambda: model.fit(x, x, verbose=0)
    with pytest.raises(UncoveredError, match=r"layer '.*own.*' computes: write it by keras.ops"):
        run()
    quantize_elementwise(unquantize_elementwise(model), ELEMENTWISE, exclude="*own")
    assert tuple(run().shape if way == "call" else (2, 4)) == (2, 4)


ELEMENTWISE = Recipe(elementwise="fixed<12,4>")


def test_elementwise_operations_by_keras_and_operators_are_rounded():
    """None is told of, though a user's code calls them."""

    def function(x, w):
        x = 1 / (1 + ops.exp(-x)) + 0.5 * (x - ops.mean(x, -1, keepdims=True)) ** 2
        x += ops.softmax(x) * ops.sqrt(ops.abs(x))
        return ops.where(x > 0, x, -x) @ w

    model = quantize_elementwise(model_of(function), ELEMENTWISE)
    y = numpy(model(normal((2, 4))))
    assert y.shape == (2, 3)


def test_warning_ignoring_and_excluding():
    x, function = normal((2, 4)), native("matmul")
    excluded = model_of(function, Around)
    quantize_gemms(excluded, RECIPE, exclude="*own")(x)
    with pytest.warns(UserWarning, match="could not be applied to"):
        quantize_gemms(model_of(function), RECIPE, uncovered="warn")(x)
    quantize_gemms(model_of(function), RECIPE, uncovered="ignore")(x)
    with pytest.raises(UncoveredError):
        emulate(model_of(function), None, RECIPE).model(x)


class ReadsValues(layers.Layer):
    def call(self, x):
        self.last = float(numpy(x).max())
        return x @ ops.ones((x.shape[-1], 2))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 2)


@pytest.mark.skipif(BACKEND != "jax", reason="the others watch calls that are not traced")
def test_what_cannot_be_traced_is_told_each_time():
    x = normal((2, 4))
    model = keras.Sequential([layers.Input((4,)), ReadsValues(name="reads")])
    quantize_gemms(model, RECIPE)
    for _ in range(2):
        with pytest.raises(UncoveredError, match="'reads' computes past Keras cannot be watched"):
            model(x)
    unquantize_gemms(model)
    quantize_gemms(model, RECIPE, attention=True, uncovered="ignore")
    expected = quantize(x, "fixed<8,4>") @ np.ones((4, 2), "float32")
    assert np.array_equal(numpy(model(x)), expected)


def test_products_within_functions_of_keras_are_told():
    """Of those that the adapter does not know."""
    model = quantize_gemms(model_of(lambda x, w: ops.correlate(x[0], w[0])), RECIPE)
    with pytest.raises(UncoveredError, match="section 'products' could not be applied"):
        model(normal((2, 4)))


def test_operators_of_tensors_are_rounded():
    model = quantize_gemms(keras.Sequential([Own(lambda x, w: x @ w)]), RECIPE)
    x = normal((2, 4))
    y = numpy(model(x))
    (w,) = model.get_weights()
    np.testing.assert_array_equal(y, quantize(x, "fixed<8,4>") @ quantize(w, "fixed<8,4>"))


def test_what_keras_multiplies_is_not_told():
    inputs = layers.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.LSTM(3, return_sequences=True)(x)
    x = layers.SeparableConv1D(3, 2)(x)
    model = keras.Model(inputs, ops.einsum("bij,bkj->bik", x, x))
    quantize_gemms(model, RECIPE, exclude=layers.LSTM)(normal((2, 4, 6)))


OF_INTEGERS = {
    "matmul": lambda i: ops.matmul(i, [[1], [2], [3], [4]]),
    "operator": lambda i: i @ ops.convert_to_tensor([[1], [2], [3], [4]]),
    "tensordot": lambda i: ops.tensordot(i, [[1], [2], [3], [4]], axes=1),
    "inner": lambda i: ops.inner(i, [1, 2, 3, 4]),
    "einsum": lambda i: ops.einsum("ij,kj->ik", i, i),
    "kron": lambda i: ops.kron(i, [[1], [2]]),
    "conv": lambda i: ops.conv(i[None], ops.ones((2, 4, 2), "int32")),
}
"""Products of integers."""


@pytest.mark.parametrize("name", OF_INTEGERS)
def test_integers_are_multiplied_as_they_are(name):
    """Though TensorFlow and PyTorch compute some of their products in floating point."""
    layer = Own(lambda x, w: OF_INTEGERS[name](ops.cast(x, "int32")))
    x = 3 * normal((2, 4))
    plain = layer(x)
    y = quantize_gemms(layer, RECIPE)(x)
    assert y.dtype == plain.dtype
    assert np.array_equal(numpy(y), numpy(plain))


def test_an_einsum_of_one_operand_is_no_product():
    model = quantize_gemms(model_of(lambda x, w: ops.einsum("ij->ji", x)), RECIPE)
    assert model(normal((2, 4))).shape == (4, 2)
