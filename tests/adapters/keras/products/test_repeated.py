"""What `keras.remat` computes again in the backward pass is rounded as at first."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_gemms
from qemu_swalp_keras.calls.repeated import Repeatable

from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import on_grid, same
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, pull_back, traced
from tests.helpers.keras_products import watched
from tests.helpers.keras_training import gradients

RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>"))
X, ERROR = normal((2, 4)), np.ones((2, 3), "f4")


class Within(layers.Layer):
    """Calls a layer within a function that is called again."""

    def __init__(self):
        super().__init__()
        self.fc = layers.Dense(3)

    def build(self, shape):
        self.fc.build(shape)

    def call(self, x):
        return keras.remat(lambda x: self.fc(x))(x)


def under_a_scope():
    with keras.RematScope(mode="full"):
        return keras.Sequential([layers.Input((4,)), layers.Dense(3)])


@pytest.mark.parametrize("make", [Within, under_a_scope])
def test_products_are_on_the_grid(make):
    model = quantize_gemms(make(), RECIPE)
    model(X)
    with watched() as seen:
        gradients(lambda x: model(x, training=True), model.trainable_variables, ERROR, X)
    assert len(seen) >= 3
    quantizer = RECIPE.quantizer("forward.input")
    assert all(on_grid(x, quantizer) for _, operands in seen for x in operands)


def test_a_repeated_call_draws_the_same_bits_and_is_not_counted():
    recipe = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>/stochastic"))

    def twice(wrap):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.Input((4,)), layers.Dense(4, "tanh"), layers.Dense(3)])
        quantize_gemms(model, recipe, seed=3)
        call = wrap(lambda x: model(x, training=True))
        found = [gradients(call, model.trainable_variables, ERROR, X) for _ in range(2)]
        return [array for y, inputs, weights in found for array in (y, *inputs, *weights)]

    assert same(twice(keras.remat), twice(lambda call: call))


def test_other_calls_than_at_first_are_told():
    inner = quantize_gemms(layers.Dense(2, name="inner"), RECIPE)
    inner.build((None, 2))
    repeatable = Repeatable(lambda n: [inner(np.ones((1, 2), "float32")) for _ in range(n)])
    repeatable(1)
    with pytest.raises(RuntimeError, match="calls more layers than at first, 'inner'"):
        repeatable(2)


class Repeating(layers.Layer):
    """A branch or a loop that is called again, and a product after it."""

    def __init__(self, kind, wrap):
        super().__init__()
        self.kind, self.wrap = kind, wrap
        self.w = self.add_weight(shape=(4, 4))
        self.w.assign(np.eye(4))

    def call(self, x):
        product = lambda x: ops.matmul(x, self.w)  # noqa: E731
        function = {
            "cond": lambda x: ops.cond(ops.sum(x * x) > -1, lambda: product(x), lambda: x * 1.0),
            "map": lambda x: ops.map(lambda row: product(row[None])[0], x),
            "while_loop": lambda x: ops.while_loop(
                lambda i, y: i < 2, lambda i, y: (i + 1, product(y)), (0, x)
            )[1],
        }[self.kind]
        return ops.stack([self.wrap(function)(x), product(x), self.wrap(function)(x)])


@pytest.mark.parametrize("kind", ["cond", "map", "while_loop"])
def test_repeated_branches_and_loops_draw_the_bits_of_others(kind):
    """Compiled or not, with the gradient where the backend gives one: JAX has none of while."""
    recipe = Recipe(operands={"input": "fixed<8,2>/stochastic"})
    x = ops.convert_to_tensor(np.tile(normal((1, 4)), (3, 1)))
    found = []
    for mode in MODES:
        for wrap in (keras.remat, lambda function: function):
            layer = quantize_gemms(Repeating(kind, wrap), recipe, seed=3)
            if kind == "while_loop":
                run = lambda x, layer=layer: (layer(x, training=True),)  # noqa: E731
            else:
                run = lambda x, layer=layer: pull_back(  # noqa: E731
                    lambda x: layer(x, training=True), x, ops.ones((3, 3, 4))
                )
            call = traced(run, mode)
            runs = range(2 if mode == "eager" or BACKEND != "jax" else 1)
            found.append([numpy(part) for _ in runs for part in call(x)])
            assert len({y.tobytes() for y in found[-1][0]}) == 3
    for others in found[1:]:
        assert same(others, found[0][: len(others)])
