"""Models of every kind: all that a backend multiplies is rounded, as an independent watcher below
Keras sees it.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_gemms

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal
from tests.helpers.keras_products import watched

GRID = "fixed<8,4>"
RECIPE = Recipe(operands=dict.fromkeys(("input", "weight", "error"), GRID))


def tokens(length=4, vocabulary=11):
    return np.random.default_rng(0).integers(0, vocabulary, (2, length)).astype("int32")


def block(x, width, causal):
    attention = layers.MultiHeadAttention(2, width // 2)(x, x, use_causal_mask=causal)
    x = layers.LayerNormalization()(layers.Add()([x, attention]))
    hidden = layers.Dense(2 * width, "gelu")(x)
    return layers.LayerNormalization()(layers.Add()([x, layers.Dense(width)(hidden)]))


def bert():
    inputs = layers.Input((4,), dtype="int32")
    x = block(layers.Embedding(11, 8)(inputs), 8, causal=False)
    return keras.Model(inputs, layers.Dense(3, "softmax")(x[:, 0])), tokens()


def gpt():
    inputs = layers.Input((4,), dtype="int32")
    embedding = layers.ReversibleEmbedding(11, 8)
    x = embedding(inputs)
    x = layers.Add()([x, layers.GroupQueryAttention(4, 2, 1, dropout=0.1)(x, x)])
    return keras.Model(inputs, embedding(block(x, 8, causal=True), reverse=True)), tokens()


def tagger():
    inputs = layers.Input((4,), dtype="int32")
    x = layers.Embedding(11, 6)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.GRU(3, return_sequences=True, reset_after=False)(x)
    x = layers.SimpleRNN(3, return_sequences=True)(x)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(2))(x)), tokens()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [layers.Dense(5, "relu"), layers.EinsumDense("bd,dhe->bhe", (2, 3))]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return ops.tensordot(x, self.parts[1].kernel, axes=[[1, 2], [1, 2]])


class Custom(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        gram = ops.einsum("bi,ci->bc", x, x)
        return ops.dot(gram, ops.matmul(x, self.w)) + ops.sum(self.w @ ops.ones((3, 1)))


def custom():
    return keras.Sequential([layers.Input((4,)), Custom(), layers.Dense(2)]), normal((3, 4))


def attention():
    a = layers.Input((4, 6))
    x = layers.Attention()([layers.Dense(6)(a), a])
    x = layers.AdditiveAttention()([x, a])
    return keras.Model(a, layers.Dot(axes=(2, 2))([x, a])), normal((2, 4, 6))


def convolutions():
    x = inputs = layers.Input((8, 8, 4))
    x = layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2)(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.Conv2D(6, 3, groups=2 if BACKEND != "tensorflow" else 1)(x)
    x = layers.Conv2DTranspose(3, 2, strides=2)(x)
    x = layers.ConvLSTM2D(2, 2)(layers.Reshape((2, 2, 4, 3))(x))
    return keras.Model(inputs, x), normal((1, 8, 8, 4))


def application(kind, **options):
    def build():
        model = kind(weights=None, input_shape=(32, 32, 3), classes=2, **options)
        return model, normal((1, 32, 32, 3))

    return build


ZOO = {
    "bert": bert,
    "gpt": gpt,
    "tagger": tagger,
    "subclassed": lambda: (Subclassed(), normal((3, 4))),
    "custom": custom,
    "attention": attention,
    "convolutions": convolutions,
}
if BACKEND == "torch":  # eager TensorFlow takes 80 s for both
    ZOO["MobileNetV2"] = application(keras.applications.MobileNetV2, alpha=0.35)
    ZOO["ResNet50V2"] = application(keras.applications.ResNet50V2)


def unrounded(seen):
    """(operation, index of the operand) of what is on no grid."""
    return [
        (name, i)
        for name, operands in seen
        for i, x in enumerate(operands)
        if not np.array_equal(x, quantize(x, GRID))
    ]


def trained(model, x):
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True, jit_compile=False)
    target = np.zeros(model(x).shape, "float32")
    model.train_on_batch(x, target)  # where shapes are inferred
    with watched() as seen:
        model.train_on_batch(x, target)
    return seen


@pytest.mark.parametrize("name", ZOO)
def test_every_product_is_rounded_forward_and_backward(name):
    model, x = ZOO[name]()
    model(x)
    seen = trained(quantize_gemms(model, RECIPE, attention=True), x)
    assert len(seen) >= 6
    assert unrounded(seen) == []


def test_the_watcher_sees_products_that_are_not_rounded():
    model, x = custom()
    assert unrounded(trained(model, x))
