"""Importing the adapter imports the backend that Keras runs on, and no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.adapters.keras.conftest import BACKEND

FRAMEWORKS = {"tensorflow", "jax", "torch"}


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_no_other_backend_is_imported() -> None:
    """Beyond what Keras itself imports."""
    code = (
        "import sys, keras; before = set(sys.modules); import qemu_swalp_keras; "
        f"print(sorted({FRAMEWORKS} & (set(sys.modules) - before)), '{BACKEND}' in sys.modules)"
    )
    assert run(code, KERAS_BACKEND=BACKEND).stdout.split("\n")[-2] == "[] True"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="does not depend on the backend")
def test_numpy_backend_is_refused() -> None:
    found = run("import qemu_swalp_keras", KERAS_BACKEND="numpy")
    assert (
        "qemu_swalp_keras runs on the Keras backends tensorflow, jax, torch; Keras runs on 'numpy'"
        in found.stderr
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="does not depend on the backend")
def test_without_keras_the_error_names_what_to_install() -> None:
    found = run("import sys; sys.modules['keras'] = None; import qemu_swalp_keras")
    assert "ImportError: qemu_swalp_keras needs Keras 3 and its backend (" in found.stderr
    assert "pip install 'qemu-swalp[keras]'" in found.stderr


def test_the_pytorch_adapter_is_not_imported() -> None:
    """Neither by importing this one nor by training: rounded weights, activations and errors."""
    code = """
import sys, keras, numpy as np, qemu_swalp_keras as k
model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
model = k.quantize_activations(model, "swalp8")
model.compile(k.QuantizedOptimizer("sgd", "swalp8", swa_start=0), loss="mse")
model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
print([name for name in sys.modules if name.startswith("qemu_swalp_torch")])
"""
    result = run(code, KERAS_BACKEND=BACKEND)
    assert result.stdout.split("\n")[-2] == "[]", result.stderr
