"""Models rebuilt by `quantize_activations`: which outputs are rounded, and what stays as it was."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import (
    COMPUTING_LAYERS,
    Quantize,
    disabled,
    emulate,
    quantize_activations,
    quantize_gemms,
    unquantize_activations,
)

from qemu_swalp.training import Quantizer, Recipe
from tests.adapters.keras.layers.test_activations import NEAREST, SEED, STOCHASTIC, Offset, bits
from tests.helpers.keras_native import normal, numpy, pull_back, same


def nested(inner_kind="functional"):
    """A block that is called twice, within a model with two inputs and two outputs."""
    if inner_kind == "functional":
        i = keras.Input((4,))
        block = keras.Model(
            i, layers.ReLU(name="relu")(layers.Dense(4, name="inner")(i)), name="block"
        )
    else:
        block = keras.Sequential(
            [layers.Input((4,)), layers.Dense(4, name="inner"), layers.ReLU(name="relu")],
            name="block",
        )
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    joined = layers.Add(name="add")([block(a), block(b)])
    head = layers.Dense(1, name="head")(layers.Dropout(0.5, name="dropout")(joined))
    return keras.Model({"a": a, "b": b}, {"head": head, "joined": ops.relu(joined)}, name="outer")


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_models_within_models(kind, tmp_path):
    model = nested(kind)
    quantized = quantize_activations(model, STOCHASTIC, layers=layers.ReLU, seed=SEED)
    block = quantized.get_layer("block")
    assert [layer.name for layer in block.layers if not isinstance(layer, layers.InputLayer)] == [
        "inner",
        "relu",
        "relu_quantize",
    ]
    assert quantized.get_layer("head") is model.get_layer("head")
    x = {"a": normal((3, 4), 1), "b": normal((3, 4), 2)}
    out = quantized(x, training=True)
    plain = [numpy(model.get_layer("block")(x[key])) for key in "ab"]
    place = block.get_layer("relu_quantize").place
    total = sum(
        STOCHASTIC.activation(p, bits("activation", place, call)) for call, p in enumerate(plain)
    )
    same(out["joined"], total)
    assert int(block.get_layer("relu_quantize").calls) == 2
    same(unquantize_activations(quantized)(x)["joined"], plain[0] + plain[1])
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    same(loaded(x)["joined"], quantized(x)["joined"])
    with disabled(quantized):
        same(quantized(x)["joined"], plain[0] + plain[1])
    whole = quantize_activations(model, NEAREST, layers="block")
    same(whole(x)["joined"], sum(NEAREST.activation(p) for p in plain))
    both = quantize_activations(model, NEAREST, layers=["block", "block/relu"])
    same(both(x)["joined"], sum(NEAREST.activation(p) for p in plain))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["block/inner", "block/relu", "head"]),
        ({"exclude": "head"}, ["block/inner", "block/relu"]),
        ({"exclude": ("head", layers.ReLU)}, ["block/inner"]),
        ({"layers": layers.ReLU}, ["block/relu"]),
        ({"layers": (layers.ReLU, "he*")}, ["block/relu", "head"]),
        (
            {"layers": "block/*", "exclude": lambda name, layer: layer.name == "inner"},
            ["block/relu"],
        ),
        ({"layers": lambda name, layer: isinstance(layer, layers.Add)}, ["add"]),
    ],
)
def test_layers_are_chosen_by_type_name_and_predicate(options, names):
    quantized = quantize_activations(nested(), NEAREST, **options)
    found = {
        layer.name.removesuffix("_quantize")
        for layer in quantized._flatten_layers()
        if isinstance(layer, Quantize)
    }
    assert found == {name.rpartition("/")[2] for name in names}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": "haed"}, "exclude: 'haed' matches none of .* nearest are 'head'"),
        ({"exclude": (layers.ReLU, "blok/*")}, "exclude: 'blok/.' matches none"),
        ({"exclude": "block"}, "exclude: 'block' matches none .*'block/relu'"),  # its layers are
        ({"layers": ("head", "inner")}, "layers: 'inner' matches none .*'block/inner'"),
    ],
)
def test_patterns_that_match_no_layer(options, words):
    with pytest.raises(ValueError, match=words):
        quantize_activations(nested(), NEAREST, **options)
    whole = quantize_activations(nested(), NEAREST, layers=("block", "head"), exclude="block")
    assert [layer.name for layer in whole.layers if isinstance(layer, Quantize)] == [
        "head_quantize"
    ]


def test_overrides_that_match_no_name():
    wrong = Recipe(
        activation="bf16",
        operands={"input": "bf16"},
        weight="bf16",
        overrides={"haed/output": None},
    )
    for call in (
        lambda: quantize_activations(nested(), wrong),
        lambda: quantize_gemms(nested(), wrong),
        lambda: emulate(nested(), "sgd", wrong),
    ):
        with pytest.raises(ValueError, match=r"'haed/output' of overrides .* head/output"):
            call()
    model = nested()
    path = model.get_layer("head").kernel.path
    for pattern in (path, "head/output", "head/operands", "block/output", "*bias", "block/*"):
        emulate(nested(), "sgd", replace(wrong, overrides={pattern: None}))
    later = keras.Sequential([layers.Dense(2, name="later")])  # its variables have no names yet
    fine = replace(wrong, overrides={"*/later/kernel": None})
    quantize_gemms(later, fine)
    with pytest.raises(ValueError, match="'latter/operands' of overrides matches none"):
        quantize_gemms(
            keras.Sequential([layers.Dense(2)]),
            replace(wrong, overrides={"latter/operands": None}),
        )


def test_overrides_go_by_the_name_of_the_output():
    inner = Recipe(error="e5m2/nearest_even")
    recipe = Recipe(
        activation="bf16/stochastic", overrides={"*head/*": None, "block/inner/output": inner}
    )
    model = nested()
    quantized = quantize_activations(model, recipe)
    found = {
        layer.name: layer for layer in quantized._flatten_layers() if isinstance(layer, Quantize)
    }
    assert set(found) == {"inner_quantize", "relu_quantize"}
    assert found["inner_quantize"].activation is None
    assert found["inner_quantize"].error == Quantizer("e5m2/nearest_even")


def test_places_do_not_change_by_rounding_in_two_goes():
    model = nested()
    at_once = quantize_activations(model, STOCHASTIC, seed=0)
    in_two = quantize_activations(
        quantize_activations(model, STOCHASTIC, layers=layers.ReLU, seed=0),
        STOCHASTIC,
        exclude=layers.ReLU,
        seed=0,
    )
    places = [
        {layer.name: layer.place for layer in m._flatten_layers() if isinstance(layer, Quantize)}
        for m in (at_once, in_two)
    ]
    assert places[0] == places[1] == {"inner_quantize": 2, "relu_quantize": 3, "head_quantize": 6}


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_recurrent_layers_with_states_and_masks(kind):
    ids = keras.Input((6,), dtype="int32")
    embedded = layers.Embedding(9, 4, mask_zero=True, name="embedding")(ids)
    sequence, *states = kind(3, return_sequences=True, return_state=True, name="rnn")(embedded)
    pooled = layers.GlobalAveragePooling1D(name="pool")(sequence)
    model = keras.Model(ids, [sequence, *states, pooled])
    recipe = Recipe(activation="fixed<8,4>/stochastic", error="fixed<12,8>/stochastic")
    quantized = quantize_activations(model, recipe, layers=["rnn", "embedding"], seed=SEED)
    x = np.int32([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0]])
    rounded = {name: quantized.get_layer(f"{name}_quantize") for name in ("rnn", "embedding")}
    e = recipe.activation(
        numpy(model.get_layer("embedding")(x)), bits("activation", rounded["embedding"].place, 0)
    )
    outputs = model.get_layer("rnn")(ops.convert_to_tensor(e), mask=ops.convert_to_tensor(x != 0))
    place = rounded["rnn"].place
    expected = [
        recipe.activation(numpy(part), bits(f"activation.{i}", place, 0))
        for i, part in enumerate(outputs)
    ]
    got = quantized(x, training=True)
    for a, b in zip(got, expected, strict=False):
        same(a, b)
    pool, mask = layers.GlobalAveragePooling1D(), ops.convert_to_tensor(x != 0)
    mean = numpy(pool(ops.convert_to_tensor(expected[0]), mask=mask))
    np.testing.assert_allclose(numpy(got[-1]), mean, rtol=1e-6)
    quantized.compile("sgd", loss=["mse"] * len(got))
    quantized.fit(x, [numpy(g) for g in got], batch_size=1, verbose=0)
    assert int(rounded["rnn"].calls) == 3


def test_attention_and_its_scores():
    i = keras.Input((3, 4))
    out, scores = layers.MultiHeadAttention(2, 2, name="mha")(i, i, return_attention_scores=True)
    model = keras.Model(i, [layers.Dense(2)(out), scores])
    with pytest.warns(
        UserWarning, match=r"of layers inside mha \(MultiHeadAttention\) are not rounded; choose"
    ):
        quantize_activations(model, NEAREST)
    quantized = quantize_activations(model, NEAREST, layers=[*COMPUTING_LAYERS, "mha"])
    x = normal((2, 3, 4))
    out, scores = model.get_layer("mha")(x, x, return_attention_scores=True)
    same(quantized(x)[1], NEAREST.activation(numpy(scores)))
    same(
        quantized(x)[0],
        NEAREST.activation(
            numpy(model.layers[-1](ops.convert_to_tensor(NEAREST.activation(numpy(out)))))
        ),
    )


def test_structures_integers_and_none():
    layer = Quantize("fixed<8,1>/stochastic", place=1)
    x = np.full((64,), 0.3, np.float32)
    out = layer({"a": x, "rest": (x, [x, np.int32([1])])}, training=True)
    parts = [numpy(out["a"]), numpy(out["rest"][0]), numpy(out["rest"][1][0])]
    for part, suffix in zip(parts, (".a", ".rest.0", ".rest.1.0"), strict=True):
        same(part, Quantizer("fixed<8,1>/stochastic")(x, bits("activation" + suffix, 1, 0, 0)))
    same(out["rest"][1][1], np.int32([1]))
    assert isinstance(out["rest"], tuple)


def test_rematerialization_counts_once():
    x, upstream = normal((3, 4), 1), normal((3, 4), 2)
    with keras.RematScope(mode="full"):
        layer = Quantize("bf16/stochastic", "bf16/stochastic", place=1)
    y, gradient = pull_back(
        lambda x: layer(x, training=True), ops.convert_to_tensor(x), ops.convert_to_tensor(upstream)
    )
    same(y, Quantizer("bf16/stochastic")(x, bits("activation", 1, 0, 0)))
    same(gradient, Quantizer("bf16/stochastic")(upstream, bits("error", 1, 0, 0)))
    assert int(layer.calls) == 1


def test_a_layer_without_known_shape_and_a_model_not_yet_built():
    model = keras.Sequential([Offset(name="offset"), layers.ReLU(name="relu")])
    quantized = quantize_activations(model, STOCHASTIC, layers=layers.ReLU, seed=SEED)
    x = normal((4, 5))
    out = quantized(x, training=True)
    same(out, STOCHASTIC.activation(np.maximum(x, 0), bits("activation", 2, 0)))
    same(unquantize_activations(quantized)(x), np.maximum(x, 0))
    i = keras.Input((None, 3))
    model = keras.Model(i, layers.ReLU(name="relu")(i))
    quantized = quantize_activations(
        model, Recipe(activation="bfp<4,axis=-1,size=2>/stochastic"), seed=SEED
    )
    for length in (2, 5):
        x = normal((3, length, 3))
        quantized.get_layer("relu_quantize").evaluations.assign(0)
        same(
            quantized.predict(x, verbose=0),
            Quantizer("bfp<4,axis=-1,size=2>/stochastic")(
                np.maximum(x, 0), bits("activation", 1, 2**30)
            ),
        )


class Stepping(keras.Model):
    """A functional model with a step of its own, as users write them."""

    def train_step(self, *arguments):
        raise ArithmeticError("my own step")


def test_the_class_flags_and_inputs_of_the_model_are_kept():
    i = keras.Input((4,), name="i", dtype="float16", batch_size=2)
    model = Stepping(i, layers.ReLU()(i), name="mine")
    model.trainable = False
    quantized = quantize_activations(model, NEAREST)
    assert type(quantized) is Stepping
    assert (quantized.name, quantized.trainable) == ("mine", False)
    assert (quantized.inputs[0].shape, quantized.inputs[0].dtype) == ((2, 4), "float16")
    assert not quantized.compiled
    model.compile("sgd", "mse")
    assert not unquantize_activations(model).compiled

    class Own(keras.Model):
        def __init__(self, width):
            i = keras.Input((2,))
            super().__init__(i, layers.Dense(width)(i))

    assert quantize_activations(Own(3), NEAREST).output_shape == (None, 3)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.site = layers.Dense(3), Quantize("fixed<8,4>/nearest_even", place=1)

    def call(self, x):
        return self.site(self.dense(x))


def test_subclassed_models():
    model, x = Subclassed(), normal((2, 3))
    rounded = model.predict(x, verbose=0)
    same(rounded, NEAREST.activation(numpy(model.dense(x))))
    with disabled(model):
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model.dense(x)), rtol=1e-6)
    with pytest.raises(
        TypeError,
        match=r"model must be functional or sequential, .*Subclassed; in a subclassed model "
        r"make Quantize\(activation, error, place=",
    ):
        quantize_activations(model, NEAREST)


def test_errors():
    model = nested()
    for call, kind, words in (
        (
            lambda: quantize_activations(3, NEAREST),
            TypeError,
            "model must be functional or sequential.*builtins.int",
        ),
        (
            lambda: unquantize_activations(layers.Dense(3)),
            TypeError,
            "model must be functional or sequential",
        ),
        (
            lambda: quantize_activations(model, "bfp8"),
            ValueError,
            "recipe must be a qemu_swalp.training.Recipe",
        ),
        (
            lambda: quantize_activations(model, Recipe(weight="bfp8/stochastic")),
            ValueError,
            "nothing to round: quantize_activations applies the section 'activations'",
        ),
        (
            lambda: quantize_activations(model, NEAREST, layers=layers.GRU),
            ValueError,
            "nothing to round.*layers=.*GRU",
        ),
        (
            lambda: quantize_activations(model, NEAREST, layers=3),
            TypeError,
            "take layer types, patterns of .*got 3",
        ),
        (
            lambda: quantize_activations(model, NEAREST, exclude=int),
            TypeError,
            "take layer types, patterns of",
        ),
        (lambda: quantize_activations(model, NEAREST, seed=-1), ValueError, "seed must be from 0"),
        (
            lambda: quantize_activations(model, Recipe(activation="bfp<8,axis=2>/stochastic")),
            ValueError,
            "axis",
        ),
        (
            lambda: Quantize("bfp8/stochastic"),
            ValueError,
            r"stochastic rounding \(bfp8/stochastic_a\) needs place=",
        ),
        (lambda: Quantize("bf16", place=-1), ValueError, "place must be from 0"),
        (lambda: Quantize("bf16", place=1, seed=0.5), TypeError, "seed must be an integer"),
        (lambda: Quantize(3), TypeError, "a quantizer must be a Quantizer, a Format or a string"),
        (lambda: Quantize("bf17"), ValueError, "unknown format 'bf17'"),
        (
            lambda: Quantize("bf16/nearest_even")(keras.Input((2,), dtype="float16")),
            TypeError,
            "float16 cannot represent",
        ),
        (
            lambda: Quantize("bf16/nearest_even")(ops.ones((2,), "float16")),
            TypeError,
            "float16 cannot represent",
        ),
        (
            lambda: disabled(3).__enter__(),
            TypeError,
            "model must be a Keras model or layer, got builtins.int",
        ),
    ):
        with pytest.raises(kind, match=words):
            call()
    for kind in ("functional", "sequential"):
        quantized = quantize_activations(nested(kind), NEAREST, layers=layers.ReLU)
        with pytest.raises(
            ValueError, match="the output of 'relu' is rounded already; exclude it, or"
        ):
            quantize_activations(quantized, NEAREST)
        quantize_activations(quantized, NEAREST, exclude=layers.ReLU)


def test_the_default_knows_every_layer_of_keras():
    """A layer that a new Keras brings must be put on one side or the other."""
    choosing = {
        "Add",
        "Average",
        "Concatenate",
        "Cropping",
        "Dot",
        "Dropout",
        "Flatten",
        "Identity",
        "Input",
        "Lambda",
        "Masking",
        "Max",
        "Maximum",
        "Min",
        "Multiply",
        "Noise",
        "Permute",
        "Random",
        "Repeat",
        "Reshape",
        "Subtract",
        "UpSampling",
        "ZeroPadding",
        "ActivityRegularization",
    }
    composed = {
        "Attention",
        "Bidirectional",
        "ConvLSTM",
        "GRU",
        "LSTM",
        "RNN",
        "RNNCell",
        "TimeDistributed",
        "Wrapper",
        "SpectralNormalization",
    }
    names = [
        name
        for name in dir(layers)
        if isinstance(getattr(layers, name), type)
        and "preprocessing" not in getattr(layers, name).__module__
        and name not in ("Layer", "InputSpec")
    ]
    left = [
        name
        for name in names
        if not issubclass(getattr(layers, name), COMPUTING_LAYERS)
        and not any(word in name for word in choosing | composed)
    ]
    assert left == ["FlaxLayer", "JaxLayer", "TFSMLayer"]
