"""The loss of a model is rounded where the model computes it, in `compute_loss`."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers, ops
from qemu_swalp_keras import (
    UncoveredError,
    emulate,
    quantize_elementwise,
    quantize_gemms,
    unquantize_elementwise,
)

import qemu_swalp
from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import on_grid, same
from tests.helpers.keras_native import BACKEND, normal, numpy
from tests.helpers.keras_products import watched

GRID = "fixed<16,8>"
ELEMENTWISE = Recipe(elementwise=GRID)
X = normal((6, 4))
Y = np.random.default_rng(1).dirichlet([1] * 3, 6).astype("f4")


def build(activation="sigmoid"):
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, activation, name="fc")], name="net"
    )


def is_rounded(loss):
    return np.float32(loss) == qemu_swalp.quantize(np.float32(loss), GRID)


def compiled(model, loss="mse", **options):
    model.compile("sgd", loss, **options)
    return model


LOSSES = [
    *("MeanSquaredError", "MeanAbsoluteError", "MeanSquaredLogarithmicError", "LogCosh", "Huber"),
    *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalFocalCrossentropy"),
    *("CategoricalCrossentropy", "CosineSimilarity", "KLDivergence", "Poisson", "Hinge"),
    *("SquaredHinge", "CategoricalHinge", "Dice", "Tversky"),
]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_keras_are_rounded(name):
    loss = getattr(keras.losses, name)(name="own")
    p = np.random.default_rng(2).dirichlet([3] * 3, 6).astype("f4")
    model = compiled(quantize_elementwise(build(), ELEMENTWISE), loss)
    rounded = numpy(model.compute_loss(None, Y, p))
    assert is_rounded(rounded)
    assert abs(rounded - numpy(loss(Y, p))) < 0.05
    assert not is_rounded(numpy(compiled(build(), loss).compute_loss(None, Y, p)))


NUMBERS = st.floats(-4, 4, width=16)


@settings(max_examples=25, deadline=None)
@given(
    arrays("f4", (3, 2), elements=NUMBERS),
    arrays("f4", (3, 2), elements=NUMBERS),
    arrays("f4", (3,), elements=st.floats(0, 2, width=16)),
)
def test_a_weighted_loss_by_hand(y, p, weights):
    """The same bits on each backend: those of the core."""
    model = compiled(quantize_elementwise(build(), Recipe(elementwise="e4m3fn")))
    form = "e4m3fn"
    d = qemu_swalp.subtract(y, p, form)
    square = qemu_swalp.multiply(d, d, form)
    each = qemu_swalp.divide(qemu_swalp.sum(square, form), np.float32(2), form)
    weighted = qemu_swalp.multiply(each, weights, form)
    expected = qemu_swalp.divide(qemu_swalp.sum(weighted, form), np.float32(3), form)
    found = numpy(model.compute_loss(None, y, p, weights))
    assert found.tobytes() == np.float32(expected).tobytes()


class Adds(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)) / 3)
        return x


def _outputs(**options):
    x = layers.Input((4,))
    heads = {name: layers.Dense(3, name=name)(x) for name in ("a", "b")}
    return keras.Model(x, heads, **options)


def _regularized():
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l2")]
    )


WAYS = {
    "a function": (build, lambda y, p: ops.mean(abs(y - p) ** 1.5 / 3, -1), {}),
    "add_loss": (
        lambda: keras.Sequential([layers.Input((4,)), layers.Dense(3), Adds()]),
        "mse",
        {},
    ),
    "regularizers": (_regularized, "mse", {}),
    "weights": (build, "mse", {"sample_weight": np.linspace(0, 1, 6, dtype="f4")}),
    "several": (_outputs, {"a": "mse", "b": "mae"}, {}),
}


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_makes_the_loss(way, eager):
    make, loss, options = WAYS[way]
    weights = {"loss_weights": {"a": 0.3, "b": 0.7}} if way == "several" else {}
    model = compiled(quantize_elementwise(make(), ELEMENTWISE), loss, run_eagerly=eager, **weights)
    y = {"a": Y, "b": Y} if way == "several" else Y
    history = model.fit(X, y, verbose=0, **options)
    assert is_rounded(history.history["loss"][0])


def test_metrics_measure_what_is():
    model = quantize_elementwise(_outputs(), Recipe(elementwise="fixed<8,3>"))
    compiled(model, {"a": "mse", "b": "mse"}, metrics={"a": "mae"})
    logs = model.evaluate(X, {"a": Y, "b": Y}, batch_size=6, verbose=0, return_dict=True)
    mean = keras.metrics.Mean()
    mean.update_state([0.1, 0.2])
    assert abs(float(mean.result()) - 0.15) < 1e-6
    error = np.abs(numpy(model(X)["a"]) - Y).mean()
    assert abs(logs["a_mae"] - error) < 1e-6


def test_a_loss_of_ones_own_and_a_step_of_ones_own():
    """`compute_loss` of a subclass, called by hand."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = layers.Dense(3)

        def call(self, x):
            return self.fc(x)

        def compute_loss(self, x, y, y_pred, sample_weight=None):
            return ops.mean((y - y_pred) ** 2) / 3 + super().compute_loss(x, y, y_pred) / 7

    model = compiled(quantize_elementwise(Own(), ELEMENTWISE))
    y = ops.convert_to_tensor(Y)
    assert is_rounded(numpy(model.compute_loss(X, y, model(X))))
    assert is_rounded(model.fit(X, Y, verbose=0).history["loss"][0])
    plain = compiled(unquantize_elementwise(model))
    assert not is_rounded(numpy(plain.compute_loss(X, y, model(X))))


def native(y, p):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.reduce_mean(tf.square(y - p), -1)
    if BACKEND == "jax":
        import jax.numpy as jnp

        return jnp.mean(jnp.square(y - p), -1)
    return (y - p).square().mean(-1)


@pytest.mark.parametrize("way", ["train", "eager", "evaluate"])
def test_what_a_loss_computes_past_keras_is_told(way):
    def run(model):
        compiled(model, native, run_eagerly=way == "eager")
        return model.evaluate(X, Y, verbose=0) if way == "evaluate" else model.fit(X, Y, verbose=0)

    words = r"which the loss computes: write it .*; exclude the loss by name \(exclude='loss'\)"
    with pytest.raises(UncoveredError, match=words):
        run(quantize_elementwise(build(), ELEMENTWISE))
    run(quantize_elementwise(build(), ELEMENTWISE, exclude="loss"))
    run(quantize_elementwise(build(), Recipe(elementwise=GRID, overrides={"loss/*": None})))
    with pytest.warns(UserWarning, match="which the loss computes"):
        run(quantize_elementwise(build(), ELEMENTWISE, uncovered="warn"))


def test_the_report_and_what_is_excluded():
    emulation = emulate(build(), None, ELEMENTWISE)
    assert any(line.startswith("loss ") for line in str(emulation).splitlines())
    excluded = emulate(build(), None, ELEMENTWISE, exclude="loss")
    assert not any(line.startswith("loss ") for line in str(excluded).splitlines())
    assert not is_rounded(numpy(compiled(excluded.model).compute_loss(None, Y, Y + 0.123)))
    with pytest.raises(ValueError, match="'lost' matches none"):
        emulate(build(), None, ELEMENTWISE, exclude="lost")


@pytest.mark.parametrize("make", [build, _outputs], ids=["sequential", "functional"])
def test_the_loss_is_saved_cloned_and_resumes_to_the_bit(make, tmp_path):
    loss = "mse" if make is build else {"a": "mse", "b": "mse"}
    y = Y if make is build else {"a": Y, "b": Y}
    recipe = Recipe(elementwise=f"{GRID}/stochastic")
    model = compiled(quantize_elementwise(make(), recipe, seed=3), loss, run_eagerly=True)
    model.fit(X, y, verbose=0)
    model.save(tmp_path / "model.keras")
    clone = compiled(keras.models.clone_model(model), loss, run_eagerly=True)
    assert is_rounded(clone.evaluate(X, y, verbose=0, return_dict=True)["loss"])
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.evaluate(X, y, verbose=0)
        each.fit(X, y, epochs=2, shuffle=False, verbose=0)
    assert same(model.get_weights(), loaded.get_weights())


def test_validation_draws_random_bits_of_its_own():
    def trained(validation):
        keras.utils.set_random_seed(2)
        recipe = Recipe(elementwise="e4m3fn/stochastic")
        model = compiled(quantize_elementwise(build(), recipe, seed=1), run_eagerly=True)
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0, validation_data=validation)
        return model.get_weights()

    assert same(trained(None), trained((X, Y)))


def test_products_of_the_loss():
    def contrast(y, p):
        return ops.einsum("ij,kj->ik", p, p)[:, 0]

    grid = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "fixed<8,4>"))
    model = compiled(quantize_gemms(build(None), grid, attention=True), contrast)
    with watched() as seen:
        model.compute_loss(None, Y, ops.convert_to_tensor(Y))
    (operands,) = [arrays for _, arrays in seen]
    quantizer = grid.quantizer("forward.input")
    assert all(on_grid(x, quantizer) for x in operands)
    delayed = compiled(quantize_gemms(build(None), "fp8_delayed", attention=True), contrast)
    with pytest.raises(ValueError, match="keeps no scales for products that the loss makes"):
        delayed.compute_loss(None, Y, ops.convert_to_tensor(Y))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others know lengths when they compile")
def test_sums_of_open_lengths_are_refused_under_xla():
    """A last batch that is smaller leaves them open."""
    model = quantize_elementwise(build(), ELEMENTWISE)
    compiled(model, jit_compile=True)
    with pytest.raises(ValueError, match=r"shapes \(None, .*compile .* with jit_compile=False"):
        model.fit(X, Y, batch_size=4, verbose=0)
    model = quantize_elementwise(build(), ELEMENTWISE)
    compiled(model, jit_compile=True)
    assert is_rounded(model.fit(X, Y, batch_size=3, shuffle=False, verbose=0).history["loss"][0])
