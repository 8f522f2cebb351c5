"""Sums of convolutions have the bits of the PyTorch adapter, given the same operands."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from keras import layers
from qemu_swalp_keras import quantize_gemms
from qemu_swalp_torch import quantize_gemms as quantize_modules
from torch import nn

from qemu_swalp.training import SUMS, Recipe
from tests.helpers.keras_native import BACKEND, normal, same
from tests.helpers.keras_training import gradients

RECIPE = Recipe(
    operands={"input": "fixed<8,4>"},
    sums={name: f"float<5,{n}>/stochastic; chunk=4" for n, name in enumerate(SUMS, start=4)},
)
PAIRS = {
    "strides": (layers.Conv2D(4, 3, strides=2), nn.Conv2d(3, 4, 3, 2), (2, 7, 6, 3)),
    "same": (
        layers.Conv2D(4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1),
        (2, 4, 5, 3),
    ),
    "dilated": (
        layers.Conv2D(2, (3, 2), dilation_rate=2),
        nn.Conv2d(3, 2, (3, 2), dilation=2),
        (2, 6, 5, 3),
    ),
    "depthwise": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        nn.Conv2d(3, 6, 3, groups=3),
        (2, 4, 5, 3),
    ),
    "groups": (layers.Conv2D(4, 2, groups=2), nn.Conv2d(6, 4, 2, groups=2), (2, 3, 4, 6)),
    "transposed in 1 axis": (
        layers.Conv1DTranspose(2, 4, 2, padding="same"),
        nn.ConvTranspose1d(3, 2, 4, 2, padding=1),
        (2, 4, 3),
    ),
    "transposed in 2 axes": (
        layers.Conv2DTranspose(4, (3, 1), 2, output_padding=1),
        nn.ConvTranspose2d(3, 4, (3, 1), 2, output_padding=1),
        (2, 3, 4, 3),
    ),
    "transposed in 3 axes": (
        layers.Conv3DTranspose(2, 2, dilation_rate=2),
        nn.ConvTranspose3d(3, 2, 2, dilation=2),
        (1, 2, 3, 2, 3),
    ),
}
TURNED = replace(RECIPE, transforms={"wgrad": "hadamard<2,signs=random>"})
OF_JAX = ("same", "depthwise", "transposed in 2 axes")


@pytest.mark.parametrize("name", OF_JAX if BACKEND == "jax" else PAIRS)
def test_forward_and_both_gradients(name):
    kind, module, shape = PAIRS[name]
    recipe = TURNED if name.startswith("transposed") else RECIPE
    layer = type(kind).from_config({**kind.get_config(), "use_bias": False})
    model = keras.Sequential([layers.Input(shape[1:]), layer])
    (kernel,) = layer.get_weights()
    module.bias = None
    module.weight = nn.Parameter(torch.tensor(as_in_pytorch(name, kernel)))
    modules = nn.Sequential(module).train()
    handle = quantize_modules(modules, recipe, seed=3)
    x = normal(shape, 1)
    x_ = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)), requires_grad=True)
    y_ = modules(x_)
    e = normal(tuple(y_.shape), 2)
    dx_, dw_ = torch.autograd.grad(y_, [x_, module.weight], torch.tensor(e))
    handle.remove()
    quantize_gemms(model, recipe, seed=3)
    run = lambda x: model(x, training=True)  # noqa: E731
    y, (dx,), (dw,) = gradients(
        run, layer.trainable_weights, np.ascontiguousarray(np.moveaxis(e, 1, -1)), x
    )
    same(np.moveaxis(y, -1, 1), y_.detach().numpy())
    same(np.moveaxis(dx, -1, 1), dx_.numpy())
    same(as_in_pytorch(name, dw), dw_.numpy())


def as_in_pytorch(name, kernel):
    spatial = range(kernel.ndim - 2)
    if name == "depthwise":
        return np.transpose(kernel, (-2, -1, *spatial)).reshape(-1, 1, *kernel.shape[:-2])
    return np.ascontiguousarray(np.transpose(kernel, (-1, -2, *spatial)))


GEOMETRIES = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "padding": st.sampled_from(["valid", "same"]),
        "data_format": st.sampled_from(["channels_last", "channels_first"]),
    }
)


@pytest.mark.skipif(BACKEND != "torch", reason="the others spend minutes compiling each geometry")
@settings(max_examples=20, deadline=None)
@given(GEOMETRIES, st.integers(1, 3), st.integers(1, 2), st.integers(-1, 2))
def test_a_transposed_convolution_of_integers_is_exact(geometry, stride, dilation, more):
    """Whatever its geometry: sums in float32 are then those of the backend."""
    layer = layers.Conv2DTranspose(
        2,
        **geometry,
        strides=stride,
        dilation_rate=dilation if stride == 1 else 1,  # Keras has not both
        output_padding=more if 0 <= more < stride else None,
        use_bias=False,
    )
    shape = (2, 3, 4) if geometry["data_format"] == "channels_first" else (3, 4, 2)
    model = keras.Sequential([layers.Input(shape), layer])
    rng = np.random.default_rng(0)
    integers = lambda shape: rng.integers(-4, 5, shape).astype("float32")  # noqa: E731
    layer.set_weights([integers(layer.kernel.shape)])
    x = integers((2, *shape))
    e = integers(tuple(model(x).shape))
    y, (dx,), (dw,) = gradients(model, layer.trainable_weights, e, x)
    recipe = Recipe(
        operands={"input": "float<8,23>"},
        sums="float<8,23>",
        transforms={"wgrad": "hadamard<2>"},
    )
    quantize_gemms(model, recipe)
    y_, (dx_,), (dw_,) = gradients(model, layer.trainable_weights, e, x)
    same(y_, y)
    same(dx_, dx)
    np.testing.assert_allclose(dw_, dw, rtol=1e-5, atol=1e-4)
