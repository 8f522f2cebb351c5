"""Exported models round as the model did, where they are loaded without the package; what cannot be
exported is refused.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import emulate

from qemu_swalp.training import Recipe, recipe
from tests.adapters.keras.conftest import BACKEND, same
from tests.helpers.keras_native import normal, numpy

X = normal((4, 6, 6, 2), 1)
OPERANDS = {"input": "e4m3fn", "weight": "e4m3fn", "error": "e5m2"}
SUMS = Recipe(operands=OPERANDS, sums="fp16/nearest_even")
RECIPES = {
    "stochastic": Recipe(
        activation="e4m3fn/stochastic",
        operands={"input": "mxfp8/stochastic", "weight": "mxfp8/stochastic"},
    ),
    "sums": SUMS,
    "elementwise": Recipe(elementwise="bf16/stochastic"),
    "delayed": recipe("fp8_delayed"),
}
LOADED = """
import sys, numpy as np, tensorflow as tf
program = tf.saved_model.load(sys.argv[1])
run = getattr(program, "serve", None) or (
    lambda x: list(program.signatures["serving_default"](tf.constant(x)).values())[0])
x = np.load(sys.argv[2])
np.save(sys.argv[3], np.stack([run(x).numpy() for _ in range(2)]))
assert not [name for name in sys.modules if name.startswith("qemu")]
"""


def model(chosen: Recipe) -> Any:
    net = keras.Sequential(
        [
            layers.Input(X.shape[1:]),
            layers.Conv2D(3, 3, activation="tanh"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    return emulate(net, None, chosen, seed=3).model


def loaded(program: Path, tmp_path: Path) -> np.ndarray:
    """What it gives in a process without the package, called twice."""
    np.save(tmp_path / "x.npy", X)
    files = [str(program), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run([sys.executable, "-c", LOADED, *files], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "y.npy")


PROGRAMS = {
    "tensorflow": [
        ("stochastic", "export"),
        ("stochastic", "save"),
        ("sums", "export"),
        ("elementwise", "export"),
        ("delayed", "save"),
    ],
    "jax": [("stochastic", "open"), ("elementwise", "export")],
    "torch": [],
}


@pytest.mark.parametrize(("name", "way"), PROGRAMS[BACKEND])
def test_saved_programs_round_without_the_package(name: str, way: str, tmp_path: Path) -> None:
    net = model(RECIPES[name])
    if way == "save":
        import tensorflow as tf

        tf.saved_model.save(net, tmp_path / "net")
    else:
        batch = None if way == "open" else len(X)
        signature = [keras.InputSpec(shape=(batch, *X.shape[1:]), dtype="float32")]
        net.export(str(tmp_path / "net"), verbose=False, input_signature=signature)
    expected = [numpy(net(X)) for _ in range(2)]
    assert same(list(loaded(tmp_path / "net", tmp_path)), expected)
    assert same(expected[:1], expected[1:]) == (name in ("sums", "delayed"))


@pytest.mark.parametrize("format", ["onnx", "openvino", "litert", "torch"])
@pytest.mark.parametrize("given", [RECIPES["stochastic"], Recipe(activation="e4m3fn"), SUMS])
def test_formats_that_do_not_round_are_refused(format: str, given: Recipe, tmp_path: Path) -> None:
    net = model(given)
    inputs = layers.Input(X.shape[1:])
    for whole in (net, Holding(net), keras.Model(inputs, net(inputs))):
        with pytest.raises(ValueError, match=rf"not exported as '{format}' .*remove\(\)"):
            whole.export(str(tmp_path / "net"), format=format)
    assert not list(tmp_path.iterdir())


BACKWARD = {
    "errors": Recipe(error="e5m2/stochastic"),
    "operands": Recipe(operands={"error": "e5m2/stochastic"}),
    "elementwise": Recipe(elementwise={"backward.add": "bf16/stochastic"}),
    "sums": Recipe(sums={"dgrad.sum": "fp16/nearest_even"}),
    "delayed": Recipe(
        operands={"error": "block<e5m2,scale=float<8,23>>"}, scaling={"error": "delayed<2>"}
    ),
}


@pytest.mark.skipif(BACKEND == "jax", reason="Keras exports from JAX by TensorFlow alone")
@pytest.mark.parametrize("name", BACKWARD)
def test_what_rounds_backward_alone_is_exported_plainly(name: str, tmp_path: Path) -> None:
    net = model(BACKWARD[name])
    expected, before = numpy(net(X)), [numpy(v) for v in net.variables]
    signature = [keras.InputSpec(shape=X.shape, dtype="float32")]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        path = str(tmp_path / "net.tflite")
        net.export(path, format="litert", verbose=False, input_signature=signature)
        program = tf.lite.Interpreter(model_path=path)
        program.allocate_tensors()
        program.set_tensor(program.get_input_details()[0]["index"], X)
        program.invoke()
        found = [program.get_tensor(program.get_output_details()[0]["index"])]
    else:
        import torch

        given = (torch.from_numpy(X),)
        path = str(tmp_path / "net.pt2")
        net.export(path, format="torch", verbose=False, input_signature=signature)
        programs = [
            torch.export.load(path).module(),
            torch.export.export(net, given).module(),
            torch.jit.trace(net, given, check_trace=False),  # which calls the model
        ]
        found = [numpy(program(*given)) for program in programs]
    for y in found:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # sums in another order
    assert same([numpy(v) for v in net.variables], before)


class Holding(keras.Model):
    """A subclassed model with one that rounds."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def call(self, x: Any) -> Any:
        return self.net(x)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's files")
def test_lengths_that_are_open_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exports, a sum .* input_signature with static shapes"):
        model(SUMS).export(str(tmp_path / "net"), verbose=False)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_programs_of_jax() -> None:
    import jax

    def exported(chosen: Recipe) -> Any:
        net = model(chosen)
        held = [
            [v.value for v in vs] for vs in (net.trainable_variables, net.non_trainable_variables)
        ]
        program = jax.jit(lambda x: net.stateless_call(*held, x, training=False)[0])
        shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
        return program, bytes(jax.export.export(program)(shape).serialize())

    for name in ("stochastic", "elementwise"):
        program, data = exported(RECIPES[name])
        assert same([jax.export.deserialize(data).call(X)], [program(X)])
    with pytest.raises(ValueError, match=r"called on the host .* cannot be exported"):
        exported(SUMS)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_what_jax_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"called on the host .* cannot be exported"):
        model(SUMS).export(str(tmp_path / "net"), verbose=False)
    with pytest.raises(ValueError, match="is_static=True would keep one number"):
        model(RECIPES["stochastic"]).export(str(tmp_path / "net"), is_static=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's programs")
@pytest.mark.parametrize(
    "chosen",
    [Recipe(activation="e4m3fn"), SUMS, RECIPES["elementwise"]],
    ids=lambda r: r.sections[0],
)
def test_pytorch_exports_no_model_that_rounds(chosen: Recipe, tmp_path: Path) -> None:
    import torch

    net = model(chosen)
    for format in ("tf_saved_model", "torch"):
        with pytest.raises(ValueError, match=r"not exported as .*KERAS_BACKEND=tensorflow"):
            net.export(str(tmp_path / "net.pt2"), format=format, verbose=False)
    given = (torch.from_numpy(X),)
    for export in (torch.export.export, torch.jit.trace):
        with pytest.raises(Exception, match="a model that rounds is not exported by PyTorch"):
            export(net, given)
