"""`qemu-swalp reproduce`: files, determinism, settings, tables."""

from __future__ import annotations

import json
import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qemu_swalp.cli import main
from qemu_swalp.experiments import EXPERIMENTS, load_experiment
from qemu_swalp.experiments.common import report
from qemu_swalp.experiments.common.figure import save_panels
from qemu_swalp.experiments.common.settings import choose
from qemu_swalp.experiments.vision import PRESETS

MOVING = ("seconds", "environment", "command")
"""What may differ between equal runs."""


def reproduce(name: str, out: Path, *more: str) -> dict[str, Any]:
    assert main(["reproduce", name, "--quick", "--out", str(out), *more]) == 0
    results = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert isinstance(results, dict)
    return results


def fixed_part(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key not in MOVING}


@pytest.mark.parametrize(
    "name", ["mnist-lenet", *(name for name in EXPERIMENTS if name not in PRESETS)]
)
def test_reproduce_writes_results_and_a_picture_and_the_same_again(
    name: str, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        ["--data-dir", str(data_folder)]
        if hasattr(load_experiment(name).Settings(), "data_dir")
        else []
    )
    more += {"logistic-regression": ["--framework", "core", "torch"]}.get(name, [])
    if name in PRESETS:
        more += ["--method", "sgd", "swa", "--epochs", "2", "--subset", "96", "--test-subset", "24"]
    results = reproduce(name, tmp_path / "a", *more)
    captured = capsys.readouterr()
    assert "step" in captured.err
    assert "±" in captured.out
    assert f"{name}.png" in captured.out
    assert (tmp_path / "a" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert results["experiment"] == name
    assert results["environment"]["versions"]["numpy"] == np.__version__
    assert results["settings"]["seeds"] == 2
    assert "data_dir" not in results["settings"]
    assert {row["seed"] for row in results["rows"]} == {0, 1}
    methods = {"language-model": {"last", "decayed", "swa", "ema", "lawa"}}.get(
        name, {"SGD", "SWA", "SGD-LP", "SWALP"}
    )
    assert methods <= {row["method"] for row in results["summary"]}

    assert fixed_part(reproduce(name, tmp_path / "b", *more)) == fixed_part(results)
    assert (
        fixed_part(reproduce(name, tmp_path / "c", *more, "--seed", "5"))["rows"] != results["rows"]
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "mnist-lenet"])
def test_every_network_trains_in_low_precision(
    name: str, tmp_path: Path, data_folder: Path
) -> None:
    results = reproduce(
        name,
        tmp_path,
        "--data-dir",
        str(data_folder),
        "--seeds",
        "1",
        "--precision",
        "low",
        "--epochs",
        "2",
        "--subset",
        "32",
        "--test-subset",
        "12",
        "--cycle",
        "0",
        "1",
        "--average-words",
        "0",
        "9",
    )
    assert {row["method"] for row in results["rows"]} == {
        "SGD-LP",
        "SWALP",
        "SWALP 9 bits",
        "SWALP every 1",
        "SWALP every 1, 9 bits",
    }
    assert all(
        0 <= row["test_error"] <= 100 and math.isfinite(row["test_loss"]) for row in results["rows"]
    )


def test_without_pytorch_digits_leaves_out_part_two_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_module(
        "sklearn.datasets"
    )  # SciPy, while it is imported, takes any sys.modules["torch"] for PyTorch
    for module in [name for name in sys.modules if name.partition(".")[0] == "qemu_swalp_torch"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    results = reproduce("digits", tmp_path)
    assert {row["part"] for row in results["rows"]} == {1}
    text = capsys.readouterr().out
    assert (
        "needs PyTorch; install it with: pip install 'qemu-swalp[torch]'; or choose --framework"
        " keras" in text
    )


def test_options_override_quick_values() -> None:
    kind = load_experiment("digits").Settings
    assert choose(kind, {}, quick=False) == kind()
    quick = choose(kind, {"epochs": 9}, quick=True)
    assert (quick.epochs, quick.seeds, quick.learning_rate) == (9, 2, kind().learning_rate)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": -1}, "--seed must be above -1, got -1"),
        ({"seed": 2**32}, "--seed must be at most 4294967295"),
        ({"fractions": ()}, "--fractions needs at least one value"),
        ({"fractions": (4, 0)}, "--fractions must be above 0, got 0"),
        ({"learning_rate": -0.1}, "--learning-rate must be above 0, got -0.1"),
        (
            {"framework": ("torch", "mxnet")},
            "--framework must be of core, torch, keras, got 'mxnet'",
        ),
        ({"framework": ()}, "--framework needs at least one value"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose(load_experiment("logistic-regression").Settings, given, quick=False)


def test_summaries_are_means_and_sample_deviations_in_order_of_appearance() -> None:
    rows = [
        {"bits": b, "seed": s, "error": e} for b, s, e in ((8, 0, 1.0), (4, 0, 5.0), (8, 1, 3.0))
    ]
    assert report.summarize(rows, ("bits",), ("error",)) == [
        {"bits": 8, "error": {"mean": 2.0, "std": math.sqrt(2), "count": 2}},
        {"bits": 4, "error": {"mean": 5.0, "std": 0.0, "count": 1}},
    ]


@pytest.mark.parametrize(
    ("mean", "std", "digits", "text"),
    [
        (3.414, 0.118, 2, "3.41 ± 0.12"),
        (0.0, 0.0, 2, "0.00 ± 0.00"),
        (1.234e-3, 5.6e-5, 2, "(1.23 ± 0.06)·10⁻³"),
        (0.0208, 0.0042, 4, "0.0208 ± 0.0042"),
        (math.nan, math.nan, 2, "nan ± nan"),
        (9.999e-4, 1e-5, 2, "(1.00 ± 0.01)·10⁻³"),
        (-1.5e-4, 2e-3, 1, "(-0.1 ± 2.0)·10⁻³"),
    ],
)
def test_spread_is_readable_at_every_size(mean: float, std: float, digits: int, text: str) -> None:
    assert report.spread({"mean": mean, "std": std}, digits) == text


@pytest.mark.parametrize(
    ("mean", "digits", "text"), [(3.414, 2, "3.41"), (1.234e-3, 2, "1.23·10⁻³"), (0.0, 2, "0.00")]
)
def test_one_seed_has_no_deviation(mean: float, digits: int, text: str) -> None:
    assert report.spread({"mean": mean, "std": 0.0}, digits, seeds=1) == text


def test_each_panel_is_a_file_of_its_own(tmp_path: Path) -> None:
    def draw(figure: Any, columns: int) -> None:
        figure.set_size_inches(9, 3)
        panels = figure.subplots(1, columns, sharey=True)
        for i, axes in enumerate(panels):
            axes.plot([0, 1], [0, i + 1], label="line")
            axes.set_title(f"panel {i}")
        figure.legend(*panels[0].get_legend_handles_labels())

    for columns in (3, 2):
        written = save_panels(lambda figure, n=columns: draw(figure, n), tmp_path / "x.png")
        assert written == sorted(tmp_path.glob("x-*.svg"))
        assert len(written) == columns
        for i, file in enumerate(written):
            text = file.read_text(encoding="utf-8")
            assert (f"panel {i}" in text, "line" in text, "2.0" in text) == (True, True, True)


def test_a_diverged_run_gives_null(tmp_path: Path) -> None:
    summary = [{"loss": {"mean": math.inf, "std": math.nan}}]
    outcome = report.Outcome([{"loss": math.nan}], summary, "", lambda figure: None)
    report.publish("x", {}, outcome, 1.0, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["rows"] == [{"loss": None}]
    assert results["summary"] == [{"loss": {"mean": None, "std": None}}]
