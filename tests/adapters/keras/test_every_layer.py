"""Every layer of Keras within a model that is trained with rounded products and operations: on all
backends, with what layers draw at random.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import emulate, quantize_elementwise

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from tests.adapters.keras.conftest import BACKEND

OPERANDS = dict.fromkeys(("input", "weight", "error"), "e4m3fn")
RECIPE = Recipe(operands=OPERANDS, elementwise=() if BACKEND == "jax" else "bf16/nearest_even")
"""JAX compiles the second for a minute."""
VECTORS = [
    lambda: layers.Dense(8),
    layers.UnitNormalization,  # of zeros it has no gradient
    lambda: layers.Dropout(0.2),
    lambda: layers.GaussianNoise(0.1),
    lambda: layers.GaussianDropout(0.1),
    lambda: layers.AlphaDropout(0.1),
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    lambda: layers.SpectralNormalization(layers.Dense(8)),
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
    lambda: layers.Activation("gelu"),
    layers.Softmax,
    lambda: layers.Rescaling(2.0, 1.0),
    lambda: layers.Normalization(mean=0.5, variance=2.0),
    lambda: layers.ActivityRegularization(0.01, 0.01),
    layers.Identity,
    lambda: layers.EinsumDense("ab,bc->ac", 8, bias_axes="c"),
    lambda: layers.Reshape((2, 4)),
    lambda: layers.Permute((2, 1)),
    layers.Flatten,
    lambda: layers.RepeatVector(2),
]
SEQUENCES = [
    lambda: layers.Conv1D(6, 2, padding="causal"),
    lambda: layers.SpatialDropout1D(0.2),
    lambda: layers.SeparableConv1D(6, 2, padding="same"),
    lambda: layers.DepthwiseConv1D(2, padding="same"),
    lambda: layers.Conv1DTranspose(6, 2),
    lambda: layers.ZeroPadding1D(1),
    lambda: layers.Cropping1D(1),
    lambda: layers.UpSampling1D(2),
    lambda: layers.AveragePooling1D(2),
    lambda: layers.Bidirectional(layers.GRU(3, dropout=0.2, return_sequences=True)),
    lambda: layers.TimeDistributed(layers.Dense(6)),
    lambda: layers.LSTM(6, recurrent_dropout=0.2, return_sequences=True),
    lambda: layers.MaxPooling1D(2),
    lambda: layers.SimpleRNN(4, return_sequences=True),
    layers.GlobalAveragePooling1D,
]
IMAGES = [
    lambda: layers.RandomFlip(seed=1),
    lambda: layers.Conv2D(4, 3, padding="same"),
    lambda: layers.SpatialDropout2D(0.2),
    lambda: layers.GroupNormalization(2),
    lambda: layers.SeparableConv2D(4, 3, padding="same"),
    lambda: layers.DepthwiseConv2D(3, padding="same"),
    lambda: layers.Conv2DTranspose(4, 2),
    lambda: layers.ZeroPadding2D(1),
    lambda: layers.Cropping2D(1),
    lambda: layers.UpSampling2D(2),
    lambda: layers.AveragePooling2D(2),
    lambda: layers.MaxPooling2D(2),
    lambda: layers.Reshape((1, 3, 3, 4)),
    lambda: layers.ConvLSTM2D(3, 2),
    layers.GlobalMaxPooling2D,
]


def transformer() -> keras.Model:
    tokens = layers.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, mask_zero=True)(tokens)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.2)(x, x)])
    x = layers.Average()([x, layers.GroupQueryAttention(2, 4, 1, dropout=0.2)(x, x)])
    x = layers.Multiply()([x, layers.Attention(dropout=0.2)([x, x])])
    x = layers.Subtract()([x, layers.AdditiveAttention()([x, x])])
    x = layers.Maximum()([x, layers.Concatenate()([x[..., :4], x[..., 4:]])])
    return keras.Model(tokens, layers.Dense(1)(layers.GlobalMaxPooling1D()(x)))


def chain(shape: tuple[int, ...], kinds: list) -> keras.Model:  # type: ignore[type-arg]
    parts = [kind() for kind in kinds]
    return keras.Sequential([keras.Input(shape), *parts, layers.Flatten(), layers.Dense(1)])


MODELS = {
    "vectors": (lambda: chain((4,), VECTORS), (4,)),
    "sequences": (lambda: chain((6, 3), SEQUENCES), (6, 3)),
    "images": (lambda: chain((6, 6, 2), IMAGES), (6, 6, 2)),
    "transformer": (transformer, (6,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_trained(name: str) -> None:
    build, shape = MODELS[name]
    random = np.random.default_rng(0)
    x = random.standard_normal((8, *shape)).astype("float32")
    if name == "transformer":
        x = random.integers(0, 11, (8, *shape)).astype("int32")
    keras.utils.set_random_seed(0)
    model, optimizer = emulate(build(), keras.optimizers.SGD(0.01), RECIPE)
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    y = random.standard_normal((8, 1)).astype("float32")
    losses = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


def test_random_numbers_are_those_of_plain_keras() -> None:
    """JAX draws them by operators, in programs that it keeps for all: rounded there, they were so
    outside of the model as well, infinite at times, or raised UnexpectedTracerError.
    """
    x = np.zeros((4, 5), "float32")
    model = keras.Sequential([keras.Input((5,)), layers.GaussianNoise(0.5), layers.Dense(1)])
    model = quantize_elementwise(model, Recipe(elementwise="fixed<8,2>/stochastic"), seed=0)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    noise = keras.ops.convert_to_numpy(layers.GaussianNoise(0.5)(x, training=True))
    assert np.isfinite(noise).all()
    assert (noise != quantize(noise, "fixed<16,8>")).any()
    rounded = keras.ops.convert_to_numpy(model.layers[0](x, training=True))
    assert (rounded == quantize(rounded, "fixed<8,2>")).all()
