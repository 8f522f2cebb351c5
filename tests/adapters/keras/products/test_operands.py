"""Operands of products: the core's bits, in every way that a backend runs, and exact products of
what they rounded.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import disabled, quantize_gemms, unquantize_gemms

from qemu_swalp import RandomBits, matmul, quantize, stream_id
from qemu_swalp.training import OPERANDS, Recipe
from tests.helpers.keras_native import BACKEND, normal, numpy, same
from tests.helpers.keras_training import gradients

FORMATS = [
    "bfp<4,axis=-1,size=4>",
    "bfp<5,axis=-1,size=3>",
    "e4m3fn",
    "bfp<6,axis=-1,size=2>",
    "bfp<3,axis=(-2,-1),size=2>",
    "bfp<4,axis=-2>",
]
NEAREST, STOCHASTIC = (
    Recipe(operands={o: f"{f}/{mode}" for o, f in zip(OPERANDS, FORMATS, strict=True)})
    for mode in ("nearest_even", "stochastic")
)
ELEMENTS = Recipe(
    operands={o: f"fixed<8,{n}>" for o, n in zip(OPERANDS, (2, 4, 1, 3, 5, 6), strict=True)}
)


INFERENCE = 2**30
"""Step of its first call (RNG-5)."""


def rounder(recipe, seed, place, call, part=""):
    """The core's rounding of an operand, with the bits of a call in training."""

    def rounded(operand, x, as_operand=None):
        quantizer = recipe.quantizer(as_operand or operand)
        bits = RandomBits(seed, stream_id(operand + part, place), call)
        return quantizer(np.ascontiguousarray(x), bits)

    return rounded


def exact(equation, *arrays):
    """Sums of few short numbers: exact in float32, whatever their order."""
    return np.einsum(equation, *(x.astype("f8") for x in arrays)).astype("f4")


def dense(recipe, seed=9):
    model = keras.Sequential([layers.Input((3, 7)), layers.Dense(5, name="fc")])
    return quantize_gemms(model, recipe, seed=seed)


def by_hand(q, x, w, b, e):
    """A dense layer: output, and the gradients of input, weight and bias."""
    rows, errors = x.reshape(-1, x.shape[-1]), e.reshape(-1, e.shape[-1])
    y = exact("mk,nk->mn", q("forward.input", rows), q("forward.weight", w.T))
    dx = exact("mn,kn->mk", q("dgrad.error", errors), q("dgrad.weight", w))
    dw = exact("km,nm->kn", q("wgrad.input", rows.T), q("wgrad.error", errors.T))
    return y.reshape(e.shape) + b, dx.reshape(x.shape), dw, errors.sum(0)


@pytest.mark.parametrize("recipe", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])
def test_a_dense_layer_by_hand(recipe):
    model = dense(recipe)
    w, b = model.get_weights()
    x, e = normal((2, 3, 7), 1), normal((2, 3, 5), 2)
    y, (dx,), (dw, db) = gradients(model, model.trainable_variables, e, x)
    expected = by_hand(rounder(recipe, 9, 1, INFERENCE), x, w, b, e)
    for found, hand in zip((y, dx, dw), expected[:3], strict=True):
        same(found, hand)
    np.testing.assert_allclose(db, expected[3], rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", *(("auto",) if BACKEND != "torch" else ())])
def test_fit_has_the_cores_bits_and_counts_calls(mode):
    """Steps of rate 1 on a loss whose gradient is y: the weights tell the gradients."""

    class Product(keras.losses.Loss):
        def call(self, y, y_pred):
            return ops.sum(y * y_pred, axis=(-1, -2))

    model = dense(STOCHASTIC)
    w, b = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), Product(reduction="sum"), run_eagerly=mode == "eager")
    x, e = normal((4, 3, 7), 1), np.round(normal((4, 3, 5), 2) * 8) / 8
    for call in range(2):
        model.fit(x, e, batch_size=4, shuffle=False, verbose=0)
        dw = by_hand(rounder(STOCHASTIC, 9, 1, call), x, w, b, e)[2]
        w = w - dw
        same(model.get_weights()[0], w)
    b = model.get_weights()[1]
    same(model.predict(x, verbose=0), by_hand(rounder(STOCHASTIC, 9, 1, INFERENCE), x, w, b, e)[0])


@keras.saving.register_keras_serializable(package="tests")
class Calling(layers.Layer):
    """A user's layer: function(x, w) of `keras.ops`."""

    def __init__(self, function, shape):
        super().__init__(name="calling")
        self.function, self.w = function, self.add_weight(shape=shape, name="w")

    def call(self, x):
        return self.function(x, self.w)


CALLS = {
    "matmul": (lambda x, w: ops.matmul(x, w), (4, 3), "bk,kn->bn"),
    "operator": (lambda x, w: w @ ops.transpose(x), (3, 4), "bk,nk->nb"),
    "weight first": (lambda x, w: ops.matmul(w, ops.transpose(x)), (3, 4), "bk,nk->nb"),
    "cast and transposed": (
        lambda x, w: ops.matmul(x, ops.transpose(ops.cast(w, "float32"))),
        (3, 4),
        "bk,nk->bn",
    ),
    "sliced": (lambda x, w: ops.matmul(x, w[:, :3]), (4, 5), None),
    "einsum": (lambda x, w: ops.einsum("bk,khn->bhn", x, w), (4, 2, 3), "bk,khn->bhn"),
    "einsum with weight first": (
        lambda x, w: ops.einsum("khn,...k->...hn", w, x),
        (4, 2, 3),
        "bk,khn->bhn",
    ),
    "tensordot": (lambda x, w: ops.tensordot(x, w, axes=[[1], [1]]), (3, 4), "bk,nk->bn"),
    "dot": (lambda x, w: ops.dot(x, w), (4, 3), "bk,kn->bn"),
    "inner": (lambda x, w: ops.inner(x, w), (3, 4), "bk,nk->bn"),
    "vector": (lambda x, w: ops.matmul(x, w), (4,), "bk,k->b"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_keras_ops_in_a_users_layer(name):
    function, shape, equation = CALLS[name]
    model = keras.Sequential([layers.Input((4,)), Calling(function, shape)])
    quantize_gemms(model, ELEMENTS)
    (w,), x = model.get_weights(), normal((5, 4), 3)
    q = rounder(ELEMENTS, 0, 1, 0)
    if equation is None:
        w, equation = w[:, :3], "bk,kn->bn"
    left, out = equation.split("->")
    of_x, of_w = left.split(",")
    e = normal(exact(equation, x, w).shape, 4)
    y, (dx,), (dw,) = gradients(model, model.trainable_variables, e, x)
    same(y, exact(equation, q("forward.input", x), q("forward.weight", w)))
    hand = exact(f"{out},{of_w}->{of_x}", q("dgrad.error", e), q("dgrad.weight", w))
    same(dx + 0, hand)  # NumPy's sums of -0 are +0
    hand = exact(f"{of_x},{out}->{of_w}", q("wgrad.input", x), q("wgrad.error", e))
    same(dw[tuple(slice(n) for n in hand.shape)] + 0, hand)


def test_products_of_two_activations_are_rounded_as_inputs_where_asked():
    def build():
        a, b = layers.Input((2, 3)), layers.Input((2, 3))
        return keras.Model([a, b], layers.Dot(axes=(2, 2), name="dot")([a, b]))

    x, y, e = normal((4, 2, 3), 1), normal((4, 2, 3), 2), normal((4, 2, 2), 3)
    q = rounder(ELEMENTS, 0, 1, 0)
    product, (dx, dy), _ = gradients(
        lambda a, b: model([a, b]),
        (model := quantize_gemms(build(), ELEMENTS, attention=True)).trainable_variables,
        e,
        x,
        y,
    )
    same(
        product,
        exact("bmk,bnk->bmn", q("forward.input", x), q("forward.weight", y, "forward.input")),
    )
    same(dx, exact("bmn,bnk->bmk", q("dgrad.error", e), q("dgrad.weight", y, "wgrad.input")))
    same(dy, exact("bmn,bmk->bnk", q("wgrad.error", e), q("wgrad.input", x)))
    plain = quantize_gemms(build(), ELEMENTS)
    np.testing.assert_allclose(
        numpy(plain([x, y])), np.einsum("bmk,bnk->bmn", x, y), rtol=1e-5, atol=1e-6
    )


def along(x, axis, size=3):
    """x in blocks of so many elements along an axis, rounded block by block."""
    moved = np.moveaxis(x.copy(), axis, -1)
    for index in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], size):
            moved[index][start : start + size] = quantize(
                moved[index][start : start + size], "bfp4"
            )
    return np.ascontiguousarray(np.moveaxis(moved, -1, axis))


CONVOLUTIONS = [
    (layers.Conv1D(4, 3), (9, 7), -2),
    (layers.Conv2D(7, 3, strides=2, padding="same", use_bias=False), (6, 5, 4), -2),
    (layers.Conv2D(5, (1, 2), dilation_rate=2), (3, 6, 4), -2),
    (layers.Conv3D(2, 2), (3, 3, 2, 4), -2),
    (layers.Conv1DTranspose(7, 3, strides=2), (5, 4), -1),
    (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (3, 4, 5), -1),
]
RUNS = Recipe(operands=dict.fromkeys(("input", "weight", "error"), "bfp<4,axis=-1,size=3>"))


@pytest.mark.parametrize(("layer", "shape", "summed"), CONVOLUTIONS, ids=lambda v: str(v)[:40])
def test_blocks_lie_along_the_sums_of_convolutions(layer, shape, summed):
    layer = type(layer).from_config(layer.get_config())
    model = keras.Sequential([layers.Input(shape), layer])
    kernel, x = layer.get_weights()[0], normal((2, *shape), 1)
    e = normal(tuple(model(x).shape), 2)

    def plain(x, w):
        layer.kernel.assign(w)
        y, (dx,), grads = gradients(model, model.trainable_variables, e_, x)
        return y, dx, grads[0]

    e_ = e
    forward = plain(along(x, -1), along(kernel, summed))[0]
    e_ = along(e, -1)
    dx = plain(x, along(kernel, -3 - summed))[1]
    flat = [along(t.reshape(-1, t.shape[-1]), 0).reshape(t.shape) for t in (x, e)]
    e_ = flat[1]
    dw = plain(flat[0], kernel)[2]
    layer.kernel.assign(kernel)
    quantize_gemms(model, RUNS)
    y, (found,), grads = gradients(model, model.trainable_variables, e, x)
    for a, b in ((y, forward), (found, dx), (grads[0], dw)):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


def test_undoing_excluding_and_refusing():
    model = dense(ELEMENTS)
    x = normal((2, 3, 7))
    with pytest.raises(ValueError, match="products of 'fc' are rounded already"):
        quantize_gemms(model, ELEMENTS)
    assert not np.array_equal(numpy(model(x)), numpy(unquantize_gemms(model)(x)))
    with pytest.raises(ValueError, match="'haed' matches none of"):
        quantize_gemms(model, ELEMENTS, exclude="haed")
    plain = numpy(model(x))
    same(numpy(quantize_gemms(model, ELEMENTS, exclude=layers.Dense)(x)), plain)
    with pytest.raises(TypeError, match="model must be a Keras model"):
        quantize_gemms(3, ELEMENTS)
    with pytest.raises(ValueError, match="QuantizedOptimizer or SGD"):
        quantize_gemms(unquantize_gemms(model), Recipe(weight="bfp8"))


def test_disabled_rounds_nothing_and_counts_nothing():
    model, x = dense(STOCHASTIC), normal((2, 3, 7))
    model.compile(run_eagerly=True)
    rounded = model.predict(x, verbose=0)
    with disabled(model):
        plain = model.predict(x, verbose=0)
    same(plain, numpy(unquantize_gemms(model)(x)))
    assert not np.array_equal(plain, rounded)
    state = numpy(model.get_layer("fc").rounding_state.state)
    assert state.tolist() == [0, 1, 1]


def test_what_cannot_be_rounded_is_refused():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(2)])
    model.quantize("int8")
    with pytest.raises(ValueError, match="was quantized by Keras"):
        quantize_gemms(model, ELEMENTS)


def test_sums_have_the_cores_bits():
    model = dense(Recipe(sums="fixed<8,4>"))
    x, (w, b) = normal((2, 3, 7)), model.get_weights()
    same(numpy(model(x)), matmul(x.reshape(6, 7), w, "fixed<8,4>").reshape(2, 3, 5) + b)


def test_a_saved_model_goes_on_to_the_bit(tmp_path):
    model, x = dense(STOCHASTIC), normal((2, 3, 7))
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, normal((2, 3, 5), 1), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for run in (model, loaded):
        run.fit(x, normal((2, 3, 5), 2), shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        same(a, b)
    clone = keras.models.clone_model(model)
    assert (
        clone.get_layer("fc").dtype_policy.get_config()
        == model.get_layer("fc").dtype_policy.get_config()
    )


def test_a_config_of_another_version_is_refused():
    """This one is what the first version wrote."""
    recipe = {"operands": {"forward.input": "fixed<8,4>/nearest_even"}}
    older = {"recipe": recipe, "exclude": [], "attention": False, "seed": 4}
    config = layers.Dense(2, name="fc").get_config()
    config["dtype"] = {
        "module": "qemu_swalp_keras.products.policy",
        "class_name": "RoundingPolicy",
        "config": {"name": "float32", "layer": "fc", "path": "fc", "place": 1, **older},
        "registered_name": "qemu_swalp>RoundingPolicy",
    }
    with pytest.raises(ValueError, match="'fc' was written by another version of qemu_swalp, with"):
        layers.Dense.from_config(config)


class WithoutTraining(keras.Model):
    """Its `call` does not take `training`."""

    def __init__(self):
        super().__init__()
        self.fc = layers.Dense(2)

    def call(self, x):
        return self.fc(x)


@pytest.mark.parametrize("eagerly", [True, False])
def test_training_is_counted_of_models_that_are_not_told(eagerly):
    model = WithoutTraining()
    x = normal((4, 3))
    model(x)
    quantize_gemms(model, STOCHASTIC)
    model.compile("sgd", "mse", run_eagerly=eagerly)
    model.fit(x, normal((4, 2)), verbose=0)
    model.predict(x, verbose=0)
    assert numpy(model.rounding_state.state).tolist() == [1, 1, 1]
