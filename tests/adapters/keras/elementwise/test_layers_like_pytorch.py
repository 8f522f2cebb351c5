"""Layers have the bits of PyTorch's modules, as the PyTorch adapter rounds them."""

import copy

import keras
import numpy as np
import pytest
import torch
from keras import layers
from qemu_swalp_keras import quantize_elementwise
from qemu_swalp_torch import quantize_elementwise as quantize_modules
from torch import nn

from tests.adapters.keras.elementwise.test_like_pytorch import RECIPE
from tests.helpers.keras_native import BACKEND, normal, numpy, same
from tests.helpers.keras_training import gradients

EPS = 1e-3
PAIRS = {
    "layer": (layers.LayerNormalization(epsilon=EPS), nn.LayerNorm(6, EPS), (3, 6)),
    "layer of two axes": (
        layers.LayerNormalization(axis=(1, 2), epsilon=EPS),
        nn.LayerNorm((4, 6), EPS),
        (3, 4, 6),
    ),
    "rms": (layers.RMSNormalization(epsilon=EPS), nn.RMSNorm(6, EPS), (3, 6)),
    "group": (layers.GroupNormalization(3, epsilon=EPS), nn.GroupNorm(3, 6, EPS), (2, 4, 5, 6)),
    "batch": (layers.BatchNormalization(epsilon=EPS), nn.BatchNorm2d(6, EPS), (2, 3, 4, 6)),
    "batch of rows": (layers.BatchNormalization(epsilon=EPS), nn.BatchNorm1d(6, EPS), (5, 6)),
    "average pooling": (layers.AveragePooling2D(2), nn.AvgPool2d(2), (2, 4, 4, 3)),
    "overlapping windows": (
        layers.AveragePooling2D((3, 2), strides=(2, 1)),
        nn.AvgPool2d((3, 2), (2, 1)),
        (2, 5, 4, 3),
    ),
    "adaptive pooling": (
        layers.AdaptiveAveragePooling2D((3, 2)),
        nn.AdaptiveAvgPool2d((3, 2)),
        (2, 5, 4, 3),
    ),
    "softmax": (layers.Softmax(), nn.Softmax(-1), (3, 5)),
    "leaky relu": (layers.LeakyReLU(0.2), nn.LeakyReLU(0.2), (3, 5)),
    "elu": (layers.ELU(), nn.ELU(), (3, 5)),
    "activation": (layers.Activation("gelu"), nn.GELU(), (3, 5)),
}


def first(x, images):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if images else x


def last(x, images):
    return np.moveaxis(x, 1, -1) if images else x


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", PAIRS)
def test_layers(name, training):
    kind, module, shape = PAIRS[name]
    if not training and "batch" not in name:
        pytest.skip("is the same")
    layer = type(kind).from_config(kind.get_config())
    model = keras.Sequential([layers.Input(shape[1:]), layer])
    weights = [normal(w.shape, 7 + i) for i, w in enumerate(layer.weights)]
    if "batch" in name:
        weights[3] = np.abs(weights[3])
    layer.set_weights(weights)
    module = copy.deepcopy(module)
    modules = nn.Sequential(module).train(training)
    held = [*module.parameters(), *(b for b in module.buffers() if b.ndim)]
    with torch.no_grad():
        for parameter, weight in zip(held, weights, strict=True):
            parameter.copy_(torch.tensor(weight).reshape(parameter.shape))
    quantize_elementwise(model, RECIPE, seed=3)
    handle = quantize_modules(modules, RECIPE, seed=3)
    images = len(shape) == 4
    x = normal(shape, 1)
    x_ = torch.tensor(first(x, images), requires_grad=True)
    y_ = modules(x_)
    e = normal(last(y_.detach().numpy(), images).shape, 2)
    parameters = list(module.parameters())
    e_ = torch.tensor(first(e, images))
    dx_, *dw_ = torch.autograd.grad(y_, [x_, *parameters], e_)
    handle.remove()
    run = lambda x: model(x, training=training)  # noqa: E731
    y, (dx,), dw = gradients(run, layer.trainable_weights, e, x)
    same(y, last(y_.detach().numpy(), images))
    same(dx, last(dx_.numpy(), images))
    for ours, theirs in zip(dw, dw_, strict=True):
        same(ours.reshape(-1), theirs.numpy().reshape(-1))
    if "batch" in name and training and BACKEND != "jax":  # whose updates were stateless
        mean = numpy(layer.moving_mean)
        assert not np.array_equal(mean, weights[2])
        fresh, theirs = (mean - 0.99 * weights[2]) / 0.01, module.running_mean.numpy()
        np.testing.assert_allclose(fresh, (theirs - 0.9 * weights[2]) / 0.1, atol=1e-3)
