"""Backward products of what the forward product rounded, as in Quartet: the PyTorch adapter's bits.

Sums of mxfp4 numbers and of small blocks are exact, so their order does not count.
"""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from qemu_swalp_keras import disabled, emulate, quantize_gemms
from qemu_swalp_torch import quantize_gemms as quantize_modules
from torch import nn

from qemu_swalp.training import Phases, Recipe, recipe
from tests.helpers.keras_native import BACKEND, normal, same
from tests.helpers.keras_training import gradients

NEAR = "block<e2m1fn,axis=sum,size=32,scale=e8m0fnu,rule=quest>/nearest_even"
RECIPES = {
    "quartet": recipe("quartet"),
    "signs and factors": Recipe(
        operands={"forward.input": NEAR, "forward.weight": "fixed<4,2>", "error": "bfp<3>"},
        transforms={"forward": "hadamard<32,signs=random>", "dgrad": "hadamard<16,signs=fixed>"},
        factors={"forward.input": 0.5, "wgrad.error": 4},
        backward="rounded",
    ),
    "one operand": Recipe(operands={"forward.weight": "fixed<3,1>"}, backward="rounded"),
}
LAYERS = {
    "dense": (lambda: layers.Dense(32, use_bias=False), (64,), lambda: nn.Linear(64, 32, False)),
    "convolution": (
        lambda: layers.Conv2D(64, 3, padding="same", use_bias=False),
        (4, 4, 32),
        lambda: nn.Conv2d(32, 64, 3, padding=1, bias=False),
    ),
    "groups": (
        lambda: layers.Conv1D(64, 3, groups=2, use_bias=False),
        (6, 64),
        lambda: nn.Conv1d(64, 64, 3, groups=2, bias=False),
    ),
    "transposed": (
        lambda: layers.Conv1DTranspose(64, 3, use_bias=False),
        (5, 32),
        lambda: nn.ConvTranspose1d(32, 64, 3, bias=False),
    ),
}
BATCH = 4


def short(shape, seed):
    """Numbers of few bits, and some that are clipped."""
    x = np.round(normal(shape, seed) * 8) / 8
    x.reshape(-1)[::37] *= 16
    return x.astype("float32")


def first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def built(name, how, seed=3):
    make, shape, _ = LAYERS[name]
    model = keras.Sequential([layers.Input(shape), make()])
    model.set_weights([short(model.weights[0].shape, 5)])
    return quantize_gemms(model, how, seed=seed) if how is not None else model


def by_pytorch(name, how, w, x, e):
    """(output, gradient of the input, gradient of the weight)."""
    module = LAYERS[name][2]()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.ascontiguousarray(np.moveaxis(w, (-1, -2), (0, 1)))))
    modules = nn.Sequential(module)
    quantize_modules(modules, how, seed=3)
    x_ = torch.tensor(first(x), requires_grad=True)
    y = modules(x_)
    y.backward(torch.tensor(first(e)))
    images = (np.moveaxis(part.detach().numpy(), 1, -1) for part in (y, x_.grad))
    return *images, np.moveaxis(module.weight.grad.numpy(), (0, 1), (-1, -2))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("dense", "quartet"),
        ("dense", "signs and factors"),
        ("convolution", "quartet"),
        ("groups", "one operand"),
        ("transposed", "one operand"),
    ],
)
def test_it_has_pytorchs_bits(name, how):
    model = built(name, RECIPES[how])
    (w,), x = model.get_weights(), short((BATCH, *LAYERS[name][1]), 1)
    e = short(tuple(model(x).shape), 2)
    call = lambda x: model(x, training=True)  # noqa: E731
    y, (dx,), (dw,) = gradients(call, model.trainable_variables, e, x)
    for ours, theirs in zip((y, dx, dw), by_pytorch(name, RECIPES[how], w, x, e), strict=True):
        same(ours, np.ascontiguousarray(theirs))


def test_fit_has_the_bits_of_its_eager_steps():
    """In graphs and under XLA, in two steps."""
    held = []
    modes = [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]
    for mode in modes[: {"torch": 1, "jax": 3, "tensorflow": 3}[BACKEND]]:
        model = built("dense", "quartet")
        model.compile(keras.optimizers.SGD(2.0**-6), keras.losses.MeanSquaredError("sum"), **mode)
        x = short((8, 64), 1)
        model.fit(x, short((8, 32), 2), batch_size=4, shuffle=False, verbose=0)
        held.append(model.get_weights()[0])
    for weights in held[1:]:
        same(weights, held[0])


def test_switched_off_it_is_the_layer_in_float():
    plain, model = built("dense", None), built("dense", "quartet")
    x, e = short((4, 64), 1), short((4, 32), 2)
    with disabled(model):
        for ours, theirs in zip(
            gradients(model, model.trainable_variables, e, x),
            gradients(plain, plain.trainable_variables, e, x),
            strict=True,
        ):
            same(np.asarray(ours), np.asarray(theirs))


def test_the_preset_trains():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((32,)), layers.Dense(32, "relu"), layers.Dense(1)])
    model, _ = emulate(model, None, "quartet", seed=0)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x = normal((64, 32), 0)
    history = model.fit(x, x[:, :1] * 2, epochs=14, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_a_phase_may_hold_it():
    model = keras.Sequential([layers.Input((32,)), layers.Dense(1)])
    emulation = emulate(model, "sgd", Phases({0: "mxfp4", 9: "quartet"}))
    assert emulation.phases.at(9).backward == "rounded"
