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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's files")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("stochastic", "export"),
        ("stochastic", "save"),
        ("sums", "export"),
        ("elementwise", "export"),
        ("delayed", "save"),
    ],
)
def test_saved_programs_round_without_the_package(name: str, way: str, tmp_path: Path) -> None:
    net = model(RECIPES[name])
    if way == "export":
        signature = [keras.InputSpec(shape=X.shape, dtype="float32")]
        net.export(str(tmp_path / "net"), verbose=False, input_signature=signature)
    else:
        import tensorflow as tf

        tf.saved_model.save(net, tmp_path / "net")
    expected = [numpy(net(X)) for _ in range(2)]
    assert same(list(loaded(tmp_path / "net", tmp_path)), expected)
    assert same(expected[:1], expected[1:]) == (name in ("sums", "delayed"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's files")
def test_lengths_that_are_open_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input_signature with static shapes"):
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

    program, data = exported(RECIPES["stochastic"])
    assert same([jax.export.deserialize(data).call(X)], [program(X)])
    with pytest.raises(ValueError, match=r"called on the host .* cannot be exported"):
        exported(SUMS)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's programs")
@pytest.mark.parametrize(
    "chosen",
    [Recipe(activation="e4m3fn"), SUMS, RECIPES["elementwise"]],
    ids=lambda r: r.sections[0],
)
def test_pytorch_exports_no_model_that_rounds(chosen: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a model that rounds is not exported by PyTorch"):
        model(chosen).export(str(tmp_path / "net.pt2"), format="torch", verbose=False)
