"""`python -m tests.benchmarks` at tiny sizes: what it prints and writes. The peers do the work of
the cases.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qemu_swalp as q
from tests.benchmarks import elementwise, products, programs, sgd_step
from tests.benchmarks.__main__ import main
from tests.benchmarks.cases import CASES, ROUNDINGS, bits_of, matrix
from tests.benchmarks.libraries import DEVICES, PAGE, Numpy, Torch
from tests.benchmarks.ours import COLUMNS as OURS, compiled
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.timing import alternate

EXACT = {
    "ml_dtypes": {"e4m3fn", "bf16"},
    "gfloat": {"e4m3fn", "bf16", "fixed"},
    "torch's own": {"e4m3fn", "bf16", "fixed"},
    "torchao": {"mxfp8_e4m3", "mxfp4"},
    "pychop": {"e4m3fn", "bf16", "fixed"},
    "qtorch": {"e4m3fn", "bf16", "fixed", "bfp8 per row", "bfp8 per column", "bfp8 per tensor"},
}
"""Peers that round these cases to the numbers that we round to, on the arrays that are measured."""


def test_it_prints_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    cases, peers = ["e4m3fn", "bfp8 per row"], ["ml_dtypes", "gfloat", "torch's own"]
    options = ["--sizes", "8", "6", "--seconds", "0.001", "--json", str(file)]
    assert main([*options, "--cases", *cases, "--columns", *OURS, *peers]) == 0
    found = json.loads(file.read_text())
    assert found["about"]["numpy"] == np.__version__
    assert found["about"]["threads"] == q.get_num_threads()
    assert re.fullmatch(r"\S+ \S+, .+, \d+ CPUs", found["about"]["machine"])
    asked = {
        (library, 1 << size, case, rounding, name)
        for library in ("numpy", "torch")
        for size in (6, 8)
        for case in cases
        for rounding in ROUNDINGS
        for name in OURS
    }
    asked |= {
        ("numpy", 1 << size, "e4m3fn", rounding, "gfloat")
        for size in (6, 8)
        for rounding in ROUNDINGS
    }
    asked |= {
        (library, 1 << size, "e4m3fn", "nearest", name)
        for size in (6, 8)
        for library, name in (("numpy", "ml_dtypes"), ("torch", "torch's own"))
    }
    keys = [
        tuple(cell[key] for key in ("library", "elements", "case", "rounding", "candidate"))
        for cell in found["ratios"]
    ]
    assert sorted(keys) == sorted(asked)
    for cell in found["ratios"]:
        assert cell["ratio"] == cell["least"] / cell["copy_least"]
        assert 0 < cell["least"] <= cell["median"]
        assert cell["repeats"] >= 1
    assert len(found["calls"]) == 2 * len(cases) * len(ROUNDINGS) * len(OURS)
    assert set(found["import_seconds"]) == {"numpy", "qemu_swalp"}

    printed, bar = capsys.readouterr()
    assert bar.rstrip().endswith("cell/s]")
    assert f"| {len(asked)}/{len(asked)} [" in bar
    assert printed.startswith(f"machine {found['about']['machine']}; threads ")
    for line in (
        r"numpy, 2\^6 float32, × numpy\.copyto \([\d.]+ µs, [\d.]+ GB/s read and written\)",
        r"torch, 2\^8 float32, × numpy\.copyto",
        r"format +rounding +out= +new array +reference +ml_dtypes +gfloat",
        r"bfp8 per row +stochastic( +[\d.]+ \([\d.]+\)){3}",
        "microseconds of a call on 16 elements",
        r"import numpy [\d.]+ ms, import qemu_swalp [\d.]+ ms, NumPy included: [\d.]+ × NumPy",
    ):
        assert re.search(f"^{line}", printed, re.MULTILINE), line


def test_what_takes_too_long_is_left_out_at_greater_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    options = [
        "--sizes",
        "6",
        "9",
        "--tables",
        "ratios",
        "--patience",
        "0",
        "--seconds",
        "0.001",
        "--json",
        str(file),
    ]
    assert (
        main(
            [*options, "--cases", "bf16", "--columns", *OURS, "ml_dtypes", "--roundings", "nearest"]
        )
        == 0
    )
    measured = {
        cell["elements"]: "ratio" in cell for cell in json.loads(file.read_text())["ratios"]
    }
    assert measured == {64: True, 512: False}
    assert re.search(r"bf16 +nearest( +slow){4}$", capsys.readouterr().out, re.MULTILINE)


def test_what_takes_too_long_is_told_by_few_elements(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--sizes",
        "15",
        "--tables",
        "ratios",
        "--patience",
        "0",
        "--cases",
        "bf16",
        "--columns",
        "ml_dtypes",
    ]
    assert main([*options, "--roundings", "nearest"]) == 0
    assert re.search(r"bf16 +nearest +slow$", capsys.readouterr().out, re.MULTILINE)


def test_absent_peers_are_named_with_the_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "gfloat", PEERS["gfloat"]._replace(modules=("no_such_module",)))
    assert main(["--tables", "imports", "--columns", "gfloat"]) == 0
    assert capsys.readouterr().out.startswith("gfloat: not measured: pip install gfloat\nmachine ")


@pytest.mark.skipif(not all(kind.missing() for kind in DEVICES["cuda"]), reason="a GPU is here")
def test_without_a_gpu_its_libraries_are_skipped_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--device", "cuda", "--columns", *OURS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["cupy", "skipped"],
        ["torch-cuda", "skipped"],
    ]
    assert all("needs a CUDA GPU" in line for line in lines)


def test_copy_and_candidate_take_turns() -> None:
    turns: list[str] = []
    clock = {"copy": 0.001, "candidate": 0.004}
    figure = alternate(
        lambda call, count: clock[call()],
        lambda: turns.append("copy") or "copy",
        lambda: turns.append("candidate") or "candidate",
        0,
    )
    assert turns == ["copy"] * 2 + ["candidate"] * 2 + ["copy", "candidate"] * (len(turns) // 2 - 2)
    assert (figure.ratio, figure.median_ratio, figure.least) == (4, 4, 0.004)


def test_a_long_call_is_made_once_between_copies() -> None:
    calls: list[str] = []
    clock = {"copy": 0.001, "candidate": 4.0}
    figure = alternate(
        lambda call, count: clock[call()],
        lambda: calls.append("copy") or "copy",
        lambda: calls.append("candidate") or "candidate",
        0.1,
        long=1,
    )
    assert calls == ["copy"] * 2 + ["candidate"] + ["copy"] * 3
    assert (figure.ratio, figure.median_ratio, figure.repeats) == (4000, 4000, 1)


def test_the_array_program_is_one_graph_with_our_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # traced, and not compiled
    x = matrix(11)
    for rounding, mode in ROUNDINGS.items():
        call = compiled("bfp8 per row", rounding, torch.from_numpy(x))
        assert call is not None
        ours = q.quantize(x, CASES["bfp8 per row"], mode, random=bits_of(rounding))
        np.testing.assert_array_equal(call().numpy(), ours)


def test_steps_of_sgd(capsys: pytest.CaptureFixture[str]) -> None:
    threads = q.get_num_threads()
    assert sum(map(math.prod, sgd_step.shapes(64))) == 25557032  # a ResNet-50
    sgd_step.main(
        ["--models", "ResNet-50, 1/8 of the channels", "--threads", str(threads), "--rounds", "1"]
    )
    printed = capsys.readouterr().out
    for line in (
        rf"{threads} threads, cpu",
        r"torch.optim.SGD, fused, ms +[\d.]+",
        r"PyTorch, bfp8, stochastic +[\d.]+",
        r"NumPy, float32 +[\d.]+",
    ):
        assert re.search(f"^{line}$", printed, re.MULTILINE), line


@pytest.mark.parametrize("library", [Numpy, Torch], ids=lambda kind: kind.name)
def test_the_copy_copies(library: Any) -> None:
    lib, source = library(), matrix(10)
    x = lib.array(source.copy())
    copy = lib.copy(x)
    x[...] = 0
    copy()
    target = np.asarray(copy.args[0])
    assert not target.any()
    assert (target.ctypes.data - np.asarray(x).ctypes.data) % PAGE == PAGE // 2


@pytest.mark.parametrize("name", PEERS)
def test_peers_do_the_work_of_the_cases(name: str) -> None:
    peer: Peer = PEERS[name]
    if reason := peer.missing():
        pytest.skip(f"{name}: {reason}")
    host = matrix(12)
    x = (Torch() if peer.library == "torch" else Numpy()).array(host)
    for case, format in CASES.items():
        for rounding, mode in ROUNDINGS.items():
            call = peer.calls(case, rounding, x)
            if call is None:
                continue
            theirs, ours = (
                np.asarray(call()),
                q.quantize(host, format, mode, random=bits_of(rounding)),
            )
            assert theirs.shape == host.shape
            if rounding == "nearest" and case in EXACT.get(name, ()):
                np.testing.assert_array_equal(theirs, ours, f"{name}, {case}")
            elif rounding == "stochastic" and case in EXACT.get(name, ()):
                neighbours = [
                    q.quantize(host, format, way) for way in ("toward_negative", "toward_positive")
                ]
                assert ((theirs == neighbours[0]) | (theirs == neighbours[1])).all(), (name, case)


def test_products(capsys: pytest.CaptureFixture[str]) -> None:
    threads = q.get_num_threads()
    products.main(["--size", "16", "--rounds", "1", "--threads", str(threads)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[-len(products.ACCUMULATIONS) :]] == list(
        products.ACCUMULATIONS
    )
    assert all(float(column) > 0 for line in lines[-3:] for column in line.split()[-3:])


def test_every_library_is_a_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--size", "8", "--seconds", "0.001", "--formats", "e4m3fn", "mxfp4"]
    monkeypatch.setattr("sys.argv", ["programs", *options])
    assert programs.main() == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    for name in ("NumPy", "PyTorch", "TF eager", "TF graph", "TF XLA", "JAX eager", "JAX jit"):
        assert name in head
    assert [line.split()[0] for line in lines] == ["e4m3fn", "mxfp4"]
    assert all(len(re.findall(r"[\d.]+ / [\d.]+", line)) == 7 for line in lines)


def test_operations_and_a_training_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(call: Any, calls: int) -> float:
        call()
        return 0.5

    monkeypatch.setattr(elementwise, "least", once)
    threads = q.get_num_threads(), torch.get_num_threads()
    try:
        assert elementwise.main(["--calls", "1"]) == 0
    finally:
        q.set_num_threads(threads[0])
        torch.set_num_threads(threads[1])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        "add",
        "multiply",
        "divide",
        "training step",
    ]
    assert lines[-1].split()[-2:] == ["1.0", "1.0"]
