"""The data sets: what is read, what is refused, and what is said where there is no network."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qemu_swalp.cli import main
from qemu_swalp.experiments.common import data

GOOD = {
    "x_train": np.zeros((3, 28, 28), np.uint8),
    "y_train": np.arange(3),
    "x_test": np.zeros((2, 28, 28), np.uint8),
    "y_test": np.arange(2),
}


def test_digits_are_split_the_same_way_every_time() -> None:
    first, second = data.digits(), data.digits()
    assert (first.train.shape, first.test.shape) == ((1197, 64), (600, 64))
    assert (first.train.dtype, first.train.min(), first.train.max()) == (np.float32, 0, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_mnist_is_read_from_a_folder(mnist_folder: Path) -> None:
    found = data.mnist(str(mnist_folder))
    with np.load(mnist_folder / "mnist.npz") as file:
        assert np.array_equal(found.train_labels, file["y_train"])
        assert np.array_equal(found.test[5] * 255, file["x_test"][5].ravel())
    assert found.train.shape == (600, 784)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"x_test": None},
            "is not MNIST's mnist.npz with the arrays x_train, y_train, x_test, y_test",
        ),
        ({"x_train": np.zeros((3, 28, 28))}, r"x_train must be uint8 of shape \(n, 28, 28\)"),
        ({"x_train": np.zeros((3, 784), np.uint8)}, r"got uint8 \(3, 784\) and int64 \(3,\)"),
        ({"y_train": np.arange(2)}, "y_train n integers"),
        ({"y_test": np.array([0, 10])}, "y_test must hold labels from 0 to 9"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {key: value for key, value in (GOOD | changes).items() if value is not None}
    np.savez(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        data.mnist(str(tmp_path))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match="is not MNIST's"):
        data.mnist(str(tmp_path))


def test_a_folder_without_the_file_is_an_error_that_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no mnist.npz; put the file from https://\S+ there"
    ):
        data.mnist(str(tmp_path))


def test_without_a_network_the_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["reproduce", "logistic-regression", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qemu-swalp: cannot download MNIST from https://")
    assert "no route to host" in line
    assert "pass the folder that holds it as --data-dir FOLDER" in line
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_download_is_kept_whole_or_not_at_all(
    mnist_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(data, "MNIST_URL", (mnist_folder / "mnist.npz").as_uri())
    with pytest.raises(ValueError, match=r"holds 600 \+ 200 images instead of 60000 \+ 10000"):
        data.mnist()
    assert list(data.cache().iterdir()) == []
    monkeypatch.setattr(data, "MNIST_COUNTS", (600, 200))
    assert len(data.mnist().train) == 600
    assert [p.name for p in data.cache().iterdir()] == ["mnist.npz"]
    monkeypatch.setattr(data, "MNIST_URL", "https://invalid.invalid/never-asked-for")
    assert len(data.mnist().test) == 200


@pytest.mark.skipif(
    "QEMU_SWALP_DATA" not in os.environ,
    reason="QEMU_SWALP_DATA names no folder that holds mnist.npz",
)
def test_the_real_mnist_is_read() -> None:
    found = data.mnist(os.environ["QEMU_SWALP_DATA"])
    assert (found.train.shape, found.test.shape) == ((60_000, 784), (10_000, 784))
    assert np.bincount(found.train_labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert np.bincount(found.test_labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert found.train.mean() == pytest.approx(0.1307, abs=1e-4)
