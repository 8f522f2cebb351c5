"""The tests of the GPU on what stands in for one (`tests/stand_in`), in a process of its own: no
GPU runs here.

A selection; all of it by `python -m pytest -m exhaustive tests/kernels/test_stand_in.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_in import NAME

ROOT = Path(__file__).parents[2]
GPU, CAPTURE = "tests/kernels/test_gpu.py", "tests/adapters/torch/optim/test_capture.py"
CORE = [
    "tests/stand_in/checks.py",
    *(
        f"{GPU}::test_every_rounding[{library}-{format}]"
        for library in ("cupy", "torch-cuda")
        for format in ("bfp<8,axis=0>", "nf4")
    ),
    *(f"{GPU}::{test}" for test in ("test_steps_of_sgd", "test_streams_and_graphs")),
    f"{GPU}::test_kernels_off",
    *(
        f"{CAPTURE}::test_replays_of_a_cuda_graph_have_the_bits_of_eager_steps[{kind}]"
        for kind in ("fused", "ours")
    ),
]
ALL = ["tests/stand_in/checks.py", GPU, CAPTURE]


@pytest.mark.parametrize(
    "tests", [CORE, pytest.param(ALL, marks=pytest.mark.exhaustive)], ids=["core", "all"]
)
def test_on_the_stand_in(tests: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.stand_in.plugin", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert f"These tests ran on the {NAME}." in done.stdout
    assert "skipped" not in done.stdout
