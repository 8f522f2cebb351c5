"""The file of first steps on Keras grows result by result."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.keras_first_steps import write


def test_results_of_modes_stand_beside_each_other(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    write(file, "MobileNetV2, plain", "JAX", "2.0 s")
    write(file, "MobileNetV2, swalp8", "JAX", "1.5")
    write(file, "MobileNetV2, plain", "TensorFlow, graph", "3.0 s")
    found = json.loads(file.read_text())
    assert found["columns"] == ["first step", "TensorFlow, graph", "TensorFlow, XLA", "JAX"]
    expected = [["MobileNetV2, plain", "3.0 s", "–", "2.0 s"]]
    assert found["rows"] == [*expected, ["MobileNetV2, swalp8", "–", "–", "1.5"]]
