"""The file of the cost table of Keras grows result by result."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.keras_recipes import FLOAT, write


def test_results_of_backends_stand_beside_each_other(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    write(file, "jax", {FLOAT: "2.0", "`mxfp8`": "1.5"})
    write(file, "jax", {FLOAT: "10.0", "`nvfp4`": "2.5"})
    write(file, "torch", {FLOAT: "3.0", "`mxfp8`": "2.1"})
    found = json.loads(file.read_text())
    assert found["columns"] == ["recipe", "jax", "torch"]
    expected = [[FLOAT, "2.0", "3.0"], ["`mxfp8`", "1.5", "2.1"], ["`nvfp4`", "2.5", "–"]]
    assert found["rows"] == expected
