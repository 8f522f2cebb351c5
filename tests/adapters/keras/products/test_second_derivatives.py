"""Gradients of gradients, as of a gradient penalty: right, or refused by words."""

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import UncoveredError, quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import BACKEND, normal, numpy

FINE = "fixed<24,18>"
X = normal((3, 4))
TRANSFORMS = {"forward": "hadamard<4,signs=fixed>", "dgrad": "hadamard<2,signs=random>"}
TURNED = {"transforms": TRANSFORMS, "backward": "rounded"}


def build(kind):
    hidden = [layers.Dense(5, "tanh", name="hidden")]
    if kind == "conv":
        conv = layers.Conv2D(3, 2, activation="tanh", name="hidden")
        hidden = [layers.Reshape((2, 2, 1)), conv, layers.Flatten()]
    return keras.Sequential([layers.Input((4,)), *hidden, layers.Dense(1)])


def penalty(model):
    """Gradients of mean((‖∂D/∂x‖ - 1)²) by the kernels."""
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(X)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=True)
            norms = tf.norm(tape.gradient(y, x), axis=1)
            loss = tf.reduce_mean((norms - 1) ** 2)
        found = outer.gradient(loss, [v.value for v in kernels])
    elif BACKEND == "jax":
        import jax
        import jax.numpy as jnp

        def loss(values):
            def outputs(x):
                with keras.StatelessScope(list(zip(kernels, values, strict=True))):
                    return model(x, training=True).sum()

            norms = jnp.linalg.norm(jax.grad(outputs)(jnp.asarray(X)), axis=1)
            return jnp.mean((norms - 1) ** 2)

        found = jax.grad(loss)([v.value for v in kernels])
    else:
        import torch

        x = torch.tensor(X, requires_grad=True)
        (slope,) = torch.autograd.grad(model(x, training=True).sum(), x, create_graph=True)
        loss = ((slope.norm(dim=1) - 1) ** 2).mean()
        found = torch.autograd.grad(loss, [v.value for v in kernels])
    return [numpy(g) for g in found]


@pytest.mark.parametrize("more", [{}, TURNED], ids=["plain", "transformed"])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_through_rounded_operands_they_are_right(kind, more):
    model = build(kind)
    expected = penalty(model)
    operands = dict.fromkeys(("input", "weight", "error"), FINE)
    found = penalty(quantize_gemms(model, Recipe(operands=operands, **more)))
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, e, atol=1e-4 * np.abs(e).max())


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("section", ["sums", "elementwise"])
def test_through_what_the_core_computes_they_are_refused(section, kind):
    quantize = {"sums": quantize_gemms, "elementwise": quantize_elementwise}[section]
    recipe = Recipe(**{section: FINE})
    with pytest.raises(UncoveredError, match="second derivatives are not computed"):
        penalty(quantize(build(kind), recipe))
    penalty(quantize(build(kind), recipe, exclude=("hidden", "dense*")[: 1 + (section == "sums")]))
