"""Products whose operands are transformed and multiplied by factors before they are rounded."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import QuantizedOptimizer, disabled, emulate, quantize_gemms

import qemu_swalp as q
from qemu_swalp import RandomBits, stream_id
from qemu_swalp.training import Recipe
from tests.adapters.keras.products.test_operands import INFERENCE, exact, gradients
from tests.helpers.keras_native import normal, same

KINDS = ("input", "weight", "error")
EXACT = dict.fromkeys(KINDS, "float<8,23>")
TURNS = {
    "forward": "hadamard<4,signs=fixed>",
    "dgrad": "hadamard<4,signs=random>",
    "wgrad": "hadamard<2>",
}
FACTORS = {"input": 0.5, "weight": 4, "error": 1024}
MODELS = {
    "dense": (lambda: layers.Dense(5), (3, 7), TURNS),
    "conv": (lambda: layers.Conv2D(4, (3, 2), dilation_rate=2, groups=2), (8, 7, 6), TURNS),
    "depthwise": (lambda: layers.DepthwiseConv1D(3, padding="same"), (6, 5), TURNS),
    "transposed": (lambda: layers.Conv2DTranspose(3, 2, strides=2), (4, 3, 5), TURNS),
    "lstm": (lambda: layers.LSTM(4), (5, 3), TURNS),
}


def built(name, recipe):
    make, shape, _ = MODELS[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input(shape), make()])
    return quantize_gemms(model, recipe, seed=7) if recipe is not None else model


@pytest.mark.parametrize("name", MODELS)
def test_without_rounding_nothing_changes(name):
    _, shape, turns = MODELS[name]
    recipe = Recipe(operands=EXACT, transforms=turns, factors=FACTORS)
    plain, model = built(name, None), built(name, recipe)
    x = normal((2, *shape), 1)
    e = normal(tuple(plain(x).shape), 2)
    expected = gradients(plain, plain.trainable_variables, e, x)
    found = gradients(model, model.trainable_variables, e, x)
    pairs = zip(
        (found[0], *found[1], *found[2]), (expected[0], *expected[1], *expected[2]), strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
    with disabled(model):
        found = gradients(model, model.trainable_variables, e, x)[0]
    same(found, expected[0])


def test_operands_have_the_cores_bits():
    operands = {"input": "bfp<4,axis=sum>", "weight": "bfp<4>", "error": "bfp<4>/stochastic"}
    recipe = Recipe(operands=operands, transforms=TURNS, factors=FACTORS)
    model = built("dense", recipe)
    w, b = model.get_weights()
    x, e = normal((2, 3, 7), 1), normal((2, 3, 5), 2)

    def operand(name, tensor):
        product, _, kind = name.partition(".")
        turn = RandomBits(7, stream_id(f"{product}.transform", 1), INFERENCE)
        y = q.hadamard_transform(
            np.ascontiguousarray(tensor) * np.float32(FACTORS[kind]), TURNS[product], random=turn
        )
        bits = RandomBits(7, stream_id(name, 1), INFERENCE)
        return recipe.quantizer(name)(y, bits) / np.float32(FACTORS[kind])

    rows, errors = x.reshape(-1, 7), e.reshape(-1, 5)
    y, (dx,), (dw, _) = gradients(model, model.trainable_variables, e, x)
    forward = exact("mk,nk->mn", operand("forward.input", rows), operand("forward.weight", w.T))
    same(y, forward.reshape(e.shape) + b)
    dgrad = exact("mn,kn->mk", operand("dgrad.error", errors), operand("dgrad.weight", w))
    same(dx, dgrad.reshape(x.shape))
    same(dw, exact("km,nm->kn", operand("wgrad.input", rows.T), operand("wgrad.error", errors.T)))


def test_layers_by_position():
    model = keras.Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(5, 4, name="embed"),
            layers.Dense(4, name="a"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(4, name="b"),
            layers.Dense(2, name="head"),
        ]
    )
    recipe = Recipe(
        weight="bfp8",
        operands={"input": "mxfp4"},
        overrides={"@layers[-1]": None, "@layers[0]": Recipe(operands={"input": "e4m3fn"})},
    )
    emulation = emulate(model, "sgd", recipe)
    model, optimizer = emulation
    model.compile(optimizer, "mse")
    model.train_on_batch(np.zeros((2, 3), "int32"), np.zeros((2, 3, 2), "float32"))
    shown = [line.split() for line in str(emulation).splitlines()]
    by_name = {words[0]: words for words in shown if words}
    assert "e4m3fn" in by_name["a"]
    assert "mxfp4" in by_name["b"]
    assert "excluded:" in by_name["head"]
    for layer in model.layers:
        for variable in layer.weights:
            value = ops.convert_to_numpy(variable)
            if value.ndim > 1:
                rounded = np.array_equal(value, q.quantize(value, "bfp8"))
                assert rounded == (layer.name in ("embed", "b")), layer.name


def test_positions_need_a_model_that_is_built():
    with pytest.raises(ValueError, match="is not built"):
        quantize_gemms(keras.Sequential([layers.Dense(3)]), "nvfp4")
    optimizer = QuantizedOptimizer(
        keras.optimizers.SGD(), Recipe(weight="bfp8", overrides={"@layers[0]": None})
    )
    with pytest.raises(ValueError, match="is a position"):
        optimizer.build([keras.Variable(np.ones((2, 2), "float32"))])
    QuantizedOptimizer(keras.optimizers.SGD(), "fp8_ibm")


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4", "fp4_all_the_way"])
def test_presets_train(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [layers.Input((32,)), *(layers.Dense(32, "relu") for _ in range(3)), layers.Dense(1)]
    )
    model, optimizer = emulate(model, keras.optimizers.SGD(0.05), name, seed=0)
    model.compile(optimizer or "sgd", "mse")
    x = normal((72, 32), 0)  # the last batch has 8 samples
    history = model.fit(x, x[:, :1] * 2, epochs=14, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
