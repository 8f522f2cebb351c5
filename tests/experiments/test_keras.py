"""The experiments on Keras, in a process for each of its backends, against PyTorch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qemu_swalp import Fixed
from qemu_swalp.cli import main
from qemu_swalp.experiments import load_on_framework
from qemu_swalp.experiments.common import data, report
from qemu_swalp.experiments.digits.run import Settings
from qemu_swalp.experiments.softmax.core import Softmax, Training

FORMATS = (None, Fixed(8, 4))
WORDS = (None, 4)
TINY = {
    "digits": ("--epochs", "2", "--start", "1", "--fractions", "4"),
    "logistic-regression": ("--fractions", "4", "--batch", "200"),
}


def few_steps(framework: str) -> dict[str, np.ndarray]:
    """Three steps of softmax regression, and two of the network, on a framework: weights of the
    one, logits of both.
    """
    problem, training = Softmax(data.digits(), 1e-3), Training(0.5, 399, 1, 0, 1e-3, (7, 8))
    found = {}
    with report.progress(1) as bar:
        for format in FORMATS:
            stacks = load_on_framework(framework, "softmax").train(
                problem, training, format, bar, ""
            )
            found |= {f"softmax {format} {i}": stack for i, stack in enumerate(stacks)}
        settings = Settings(
            seed=7, seeds=1, network_epochs=1, network_start=0, network_batch=500, hidden=8
        )
        for word in WORDS:
            logits = load_on_framework(framework, "digits").train(
                settings, problem.data, word, False, bar, ""
            )
            found |= {f"network {word} {i}": part for i, part in enumerate(logits)}
    return found


@pytest.fixture(scope="module", params=("tensorflow", "jax", "torch"))
def on_keras(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mnist_folder: Path
) -> tuple[str, Path, str]:
    """(backend, folder of what this file, run as a program, wrote, what it printed)."""
    out = tmp_path_factory.mktemp(request.param)
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.test_keras", str(out), str(mnist_folder)],
        env={**os.environ, "KERAS_BACKEND": request.param, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, out, done.stdout


@pytest.fixture(scope="module")
def on_torch() -> dict[str, np.ndarray]:
    return few_steps("torch")


def test_the_first_steps_are_those_of_pytorch(
    on_keras: tuple[str, Path, str], on_torch: dict[str, np.ndarray]
) -> None:
    found = dict(np.load(on_keras[1] / "few_steps.npz"))
    assert found.keys() == on_torch.keys()
    for name, expected in on_torch.items():
        assert np.abs(expected).max() > 0.01
        if name.startswith(
            f"softmax {FORMATS[1]}"
        ):  # on the grid: last bits of a matrix product are rounded away
            assert np.array_equal(found[name], expected.astype(found[name].dtype)), name
        else:
            assert np.allclose(found[name], expected, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("name", TINY)
def test_reproduce_gives_the_table_of_pytorch_on_the_backend(
    on_keras: tuple[str, Path, str], name: str
) -> None:
    backend, out, text = on_keras
    results: dict[str, Any] = json.loads(
        (out / name / "results.json").read_text(), parse_constant=pytest.fail
    )
    assert (out / name / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert results["environment"]["versions"].keys() >= {
        "keras",
        {"tensorflow": "tensorflow-cpu"}.get(backend, backend),
    }
    assert f"on Keras ({backend})" in text
    if name == "digits":
        rows = [row for row in results["rows"] if row["part"] == 2]
        assert [row["method"] for row in rows] == [
            m
            for group in (("SGD", "SGD decayed", "SWA"), ("SGD-LP", "SGD-LP decayed", "SWALP"))
            for m in group
            for _ in range(2)
        ]
        assert all(0 < row["test_error"] < 80 for row in rows)
        return
    own, other = (
        [row for row in results["rows"] if row["framework"] == framework]
        for framework in (f"Keras ({backend})", "PyTorch")
    )
    assert f"Keras ({backend}) and PyTorch: the means lie 0.0" in text
    for a, b in zip(own, other, strict=True):
        assert [a[key] for key in ("bits", "method", "seed")] == [
            b[key] for key in ("bits", "method", "seed")
        ]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.01)


@pytest.mark.parametrize("name", TINY)
def test_without_keras_the_error_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [
        name for name in sys.modules if name.partition(".")[0] in ("keras", "qemu_swalp_keras")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "keras", None)
    assert main(["reproduce", name, "--framework", "keras", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    for words in (
        "needs Keras 3 and its backend",
        "pip install 'qemu-swalp[keras]' tensorflow",
        "KERAS_BACKEND",
    ):
        assert words in error


@pytest.mark.parametrize(
    ("unfit", "words"),
    [
        ("numpy", "runs on the Keras backends tensorflow, jax, torch; Keras runs on 'numpy'"),
        ("mxnet", "(Unable to import backend : mxnet)"),
    ],
)
def test_a_backend_that_does_not_train_is_refused(unfit: str, words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qemu_swalp", "reproduce", "digits", "--framework", "keras"]
    done = subprocess.run(
        command,
        env={**os.environ, "KERAS_BACKEND": unfit},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def run(out: Path, mnist: str) -> None:
    """What the tests of one backend look at, in one process."""
    np.savez(out / "few_steps.npz", **few_steps("keras"))
    more = {"digits": ["keras"], "logistic-regression": ["keras", "torch", "--data-dir", mnist]}
    for name, options in TINY.items():
        assert (
            main(
                [
                    "reproduce",
                    name,
                    "--quick",
                    "--out",
                    str(out / name),
                    *options,
                    "--framework",
                    *more[name],
                ]
            )
            == 0
        )


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
