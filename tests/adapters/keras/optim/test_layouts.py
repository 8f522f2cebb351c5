"""Axes by words: each layer's output channels, wherever they stand, have a scale of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import SGD, QuantizedOptimizer
from qemu_swalp_keras.optim.layouts import layouts_of

import qemu_swalp
from qemu_swalp.formats.axis_words import VECTOR
from qemu_swalp.training import SGD as CoreSGD, Recipe, register_layout, swalp

WORDS = Recipe("bfp<4,axis=out>", gradient="bfp<4,axis=out>", momentum="bfp<4,axis=out>")


def wide(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers of very different magnitudes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-8, 8, shape))
    return np.asarray(x, np.float32)


def rounded(variable: Any, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """A variable of wide-ranged numbers before and after an optimizer rounds it."""
    before = wide(tuple(variable.shape))
    variable.assign(before)
    QuantizedOptimizer("sgd", recipe).build([variable])
    return before, keras.ops.convert_to_numpy(variable)


def channels(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """x with one row for each index of some axes."""
    x = np.moveaxis(x, axes, range(len(axes)))
    return x.reshape(int(np.prod(x.shape[: len(axes)])), -1)


def each_row(rows: np.ndarray) -> np.ndarray:
    return np.stack([qemu_swalp.quantize(row, "bfp4") for row in rows])


IMAGE = (None, 8, 8, 4)
ATTENTION = [(None, 5, 4), (None, 5, 4)]

KINDS: dict[str, tuple[Callable[[], Any], Any, str, tuple[int, ...], tuple[int, ...]]] = {
    "Dense": (lambda: layers.Dense(3), (None, 4), "kernel", (1,), (0,)),
    "Conv1D": (lambda: layers.Conv1D(3, 2), (None, 8, 4), "kernel", (2,), (1,)),
    "Conv2D": (lambda: layers.Conv2D(3, 2), IMAGE, "kernel", (3,), (2,)),
    "Conv3D": (lambda: layers.Conv3D(3, 2), (None, 8, 8, 8, 4), "kernel", (4,), (3,)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 2), (None, 8, 4), "kernel", (1,), (2,)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), IMAGE, "kernel", (2,), (3,)),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=3),
        IMAGE,
        "kernel",
        (2, 3),
        (2,),
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(3, 2, depth_multiplier=2),
        IMAGE,
        "depthwise_kernel",
        (2, 3),
        (2,),
    ),
    "its product": (lambda: layers.SeparableConv2D(3, 2), IMAGE, "pointwise_kernel", (3,), (2,)),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        (None, 7, 4),
        "kernel",
        (1, 2),
        (0,),
    ),
    "its bias": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        (None, 7, 4),
        "bias",
        (),
        (),
    ),
    "EinsumDense by group": (
        lambda: layers.EinsumDense("...gi,gio->...go", (2, 3)),
        (None, 2, 5),
        "kernel",
        (0, 2),
        (0, 1),
    ),
    "MultiHeadAttention": (
        lambda: layers.MultiHeadAttention(2, 3),
        ATTENTION,
        "query/kernel",
        (1, 2),
        (0,),
    ),
    "its output": (
        lambda: layers.MultiHeadAttention(2, 3),
        ATTENTION,
        "attention_output/kernel",
        (2,),
        (0, 1),
    ),
    "Embedding": (lambda: layers.Embedding(7, 3), (None,), "embeddings", (0,), (1,)),
    "ReversibleEmbedding": (
        lambda: layers.ReversibleEmbedding(7, 3, tie_weights=False),
        (None,),
        "reverse_embeddings",
        (1,),
        (0,),
    ),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), (None, 5, 4), "/kernel", (1,), (0,)),
    "LSTM": (lambda: layers.LSTM(3), (None, 5, 4), "recurrent_kernel", (1,), (0,)),
    "GRU": (lambda: layers.GRU(3), (None, 5, 4), "/kernel", (1,), (0,)),
    "its biases": (lambda: layers.GRU(3), (None, 5, 4), "bias", (0,), (0,)),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3)),
        (None, 5, 4),
        "backward_lstm/lstm_cell/kernel",
        (1,),
        (0,),
    ),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(2, 3),
        (None, 5, 8, 8, 4),
        "recurrent_kernel",
        (3,),
        (2,),
    ),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        (None, 4),
        "kernel",
        (1,),
        (0,),
    ),
    "LayerNormalization": (
        lambda: layers.LayerNormalization(axis=(1, 2)),
        (None, 3, 4),
        "gamma",
        (),
        (),
    ),
    "PReLU": (lambda: layers.PReLU(), (None, 3, 4), "alpha", (), ()),
    "a vector": (lambda: layers.Dense(3), (None, 4), "bias", (), ()),
    "subclass": (lambda: type("Ours", (layers.Dense,), {})(3), (None, 4), "kernel", (1,), (0,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_channel_has_its_scale(kind: str) -> None:
    make, shape, path, out, in_ = KINDS[kind]
    layer = make()
    layer.build(*shape) if isinstance(shape, list) else layer.build(shape)
    variable = next(v for v in layer.trainable_variables if v.path.endswith(path))
    before, after = rounded(variable, Recipe("bfp<4,axis=out>"))
    assert np.array_equal(channels(after, out), each_row(channels(before, out)))
    layout = VECTOR if before.ndim == 1 else layouts_of([variable])[0][0]
    after = qemu_swalp.quantize(before, qemu_swalp.bfp(4, axis="in").resolve(layout))
    assert np.array_equal(channels(after, in_), each_row(channels(before, in_)))


def test_low_rank_updates_have_their_layouts() -> None:
    layer = layers.Dense(3)
    layer.build((None, 4))
    layer.enable_lora(2)
    for variable in layer.trainable_variables:
        before, after = rounded(variable, WORDS)
        axes = (1,) if len(variable.shape) == 2 else ()
        assert np.array_equal(channels(after, axes), each_row(channels(before, axes)))


def test_groups_have_their_own_inputs() -> None:
    layer = layers.Conv2D(8, 2, groups=2)
    layer.build(IMAGE)
    before, after = rounded(layer.kernel, Recipe("bfp<4,axis=in>"))
    by_channel = [
        x.reshape(2, 2, 2, 2, 4).transpose(3, 2, 0, 1, 4).reshape(4, -1) for x in (before, after)
    ]
    assert np.array_equal(by_channel[1], each_row(by_channel[0]))


def test_every_channel_of_a_wide_ranged_kernel_keeps_its_precision() -> None:
    """SWALP's small blocks of a 16×32 kernel whose output channels span 2^12: 40 dB each."""
    layer = layers.Dense(32)
    layer.build((None, 16))
    w = np.random.default_rng(0).standard_normal((16, 32)) * np.exp2(np.linspace(-6, 6, 32))
    layer.kernel.assign(np.float32(w))
    optimizer = SGD(0.0, recipe=swalp(8))
    optimizer.apply([np.zeros_like(w, np.float32)], [layer.kernel])
    noise = ((keras.ops.convert_to_numpy(layer.kernel) - w) ** 2).sum(0)
    assert (10 * np.log10((w**2).sum(0) / noise) > 35).all()


@pytest.mark.parametrize("kind", ["wrapper", "native"])
def test_layouts_train_to_the_same_numbers(kind: str) -> None:
    """A Dense kernel, (in, out), against the core on its transpose, stochastic biases included."""
    layer = layers.Dense(5)
    layer.build((None, 6))
    weight = wide((5, 6), 1)
    layer.kernel.assign(weight.T)
    if kind == "native":
        optimizer = SGD(0.125, 0.5, recipe=WORDS)
        core = CoreSGD(0.125, 0.5, recipe=WORDS.resolve(out=0))
    else:
        optimizer = QuantizedOptimizer(keras.optimizers.SGD(0.125), WORDS)
        core = CoreSGD(0.125, recipe=WORDS.resolve(out=0))
        weight = qemu_swalp.quantize(weight, "bfp<4,axis=0>")
    params = {"w": weight}
    state = core.init(params)
    for step in range(3):
        g = wide((5, 6), 2 + step)
        optimizer.apply([keras.ops.convert_to_tensor(np.ascontiguousarray(g.T))], [layer.kernel])
        params, state = core.update(params, {"w": g}, state)
        assert np.array_equal(keras.ops.convert_to_numpy(layer.kernel).T, params["w"])


def test_a_saved_model_goes_on(tmp_path: Any) -> None:
    model = keras.Sequential([layers.Input((4,)), layers.Dense(6), layers.Dense(3)])
    model.compile(QuantizedOptimizer(keras.optimizers.SGD(0.1), WORDS), loss="mse")
    x, y = wide((8, 4)) / 256, wide((8, 3), 1) / 256
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, verbose=0, shuffle=False)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
    kernel = keras.ops.convert_to_numpy(loaded.layers[0].kernel)
    assert np.array_equal(kernel.T, each_row(kernel.T))


def test_an_unknown_layout_is_refused_until_it_is_registered() -> None:
    class Ours(layers.Layer):
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(2, shape[-1], 3), name="w")

        def call(self, x: Any) -> Any:
            return keras.ops.einsum("bi,gio->bgo", x, self.w)

    layer = Ours()
    layer.build((None, 4))
    words = (
        r"w, of shape \(2, 4, 3\): .*no layout is known of Ours\.w; tell it by .*register_layout"
    )
    with pytest.raises(ValueError, match=words):
        QuantizedOptimizer("sgd", WORDS).build([layer.w])
    overrides = {"*/w": WORDS.resolve(out=0)}
    QuantizedOptimizer("sgd", Recipe(**WORDS.to_dict(), overrides=overrides)).build([layer.w])
    register_layout(Ours, {"w": {"out": (0, 2), "in": (0, 1)}})
    before, after = rounded(layer.w, WORDS)
    assert np.array_equal(channels(after, (0, 2)), each_row(channels(before, (0, 2))))


def test_a_variable_without_a_layer_is_refused() -> None:
    variable = keras.Variable(np.ones((2, 3), np.float32))
    for optimizer in (SGD(0.1, recipe=swalp(8)), QuantizedOptimizer("sgd", swalp(8))):
        with pytest.raises(
            ValueError, match=r"no layer holds it; give .* recipe\.resolve\(out=0\)"
        ):
            optimizer.build([variable])
    SGD(0.1, recipe=swalp(8).resolve(out=-1)).build([variable])
    SGD(0.1, recipe=swalp(8)).build([keras.Variable(np.ones(3, np.float32))])


@pytest.mark.parametrize("start", [True, False])
def test_averages_know_the_layouts(start: bool) -> None:
    layer = layers.Dense(5)
    layer.build((None, 6))
    recipe = Recipe(average="bfp<4,axis=out>")
    optimizer = SGD(0.0, recipe=recipe, swa_start=0, swa_include_start=start)
    layer.kernel.assign(wide((6, 5)))
    zeros = [np.zeros(v.shape, np.float32) for v in layer.trainable_variables]
    optimizer.apply(zeros, layer.trainable_variables)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    expected = qemu_swalp.quantize(kernel, "bfp<4,axis=1>")
    assert np.array_equal(optimizer.average()[layer.kernel.path], expected)
