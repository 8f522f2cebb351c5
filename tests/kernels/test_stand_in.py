"""The tests of the GPU on what stands in for one (`tests/stand_in`), in a process of its own: no
GPU runs here.

A selection; all of it by `python -m pytest -m exhaustive tests/kernels/test_stand_in.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand_in import NAME

ROOT = Path(__file__).parents[2]
GPU, CAPTURE = "tests/kernels/test_gpu.py", "tests/adapters/torch/optim/test_capture.py"
OWN = [
    f"tests/stand_in/{name}.py" for name in ("checks", "devices", "lifetimes", "orders", "steps")
]
CORE = [
    *OWN,
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
ALL = [*OWN, GPU, CAPTURE]


@pytest.mark.parametrize(
    "tests", [CORE, pytest.param(ALL, marks=pytest.mark.exhaustive)], ids=["core", "all"]
)
def test_on_the_stand_in(tests: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.stand_in.plugin", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert f"These tests ran on the {NAME}." in done.stdout
    assert "skipped" not in done.stdout


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.gpu`."""
    program = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_the_command_for_a_gpu_runs_and_says_what_it_ran_on(tmp_path: Path) -> None:
    found = tmp_path / "gpu.json"
    done = command("--stand-in", "--only", "memory", "captures", "host", "--json", str(found))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("STAND-IN, NO GPU: no GPU is tested")
    written = json.loads(found.read_text())
    assert (written["stand_in"], written["device"]) == (True, NAME)
    assert {s["status"] for s in written["sections"]} == {"ok"}


def test_a_failure_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.gpu import report

    def fails(settings: report.Settings) -> Iterator[report.Row]:
        yield {"row": 1, "ok": True}
        raise RuntimeError("cudaErrorIllegalAddress")

    settings = report.Settings(True, (), time.monotonic() + 60)
    outcome = report.run("failing", fails, settings)
    assert (outcome.status, len(outcome.rows)) == ("failed", 1)
    assert "cudaErrorIllegalAddress" in outcome.error
    assert "cudaErrorIllegalAddress" in capsys.readouterr().out
    late = report.Settings(True, (), time.monotonic() - 1)
    assert report.run("late", fails, late).status == "left out"


def test_without_a_gpu_it_says_why() -> None:
    from tests.gpu import __main__ as program

    reason = program.missing()
    if not reason:
        pytest.skip("a GPU is there")
    done = command()
    assert done.returncode == 2
    assert f"no GPU to test: {reason}" in done.stdout
