"""Runs as lines: what they show is what the calls that made them showed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qemu_swalp.cli import main
from qemu_swalp.experiments import load_lines
from qemu_swalp.experiments.common.evidence import collect, republish, shown, write
from qemu_swalp.experiments.common.report import read_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """Results of calls; of the language model two, one recipe each."""
    out = tmp_path_factory.mktemp("evidence")
    lenet = "--method sgd swa --precision low --epochs 2 --subset 64 --validation 0"
    data = f"--data-dir {data_folder}"
    calls = {
        "theory": "--quick --steps 20 --random-bits 2 32 --fractions 2 4",
        "digits": "--quick",
        "linear-regression": "--quick --steps 20",
        "logistic-regression": f"--quick {data}",
        "mnist-lenet": f"--quick {lenet} --test-subset 20 {data}",
    }
    for name, more in calls.items():
        assert main(["reproduce", name, *more.split(), "--out", str(out / name)]) == 0
    for recipe, seeds in (("float32", "2"), ("mxfp8", "1")):
        given = ["--quick", "--steps", "4", "--fork", "2", "--recipes", recipe, "--seeds", seeds]
        assert main(["reproduce", "language-model", *given, "--out", str(out / recipe)]) == 0
    return out


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict[str, Any]]:
    return collect([folder], load_lines)


def content(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return result


@pytest.mark.parametrize(
    "name", ["theory", "mnist-lenet", "digits", "linear-regression", "logistic-regression"]
)
def test_lines_show_what_the_call_showed(
    name: str, folder: Path, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    write([line for line in lines if line["experiment"] == name], tmp_path / "x.jsonl")
    (out,) = republish(read_lines(tmp_path / "x.jsonl"), tmp_path, load_lines)
    before, after = content(folder / name), content(out)
    assert "--out" not in after["command"]
    assert str(folder) in before["command"]
    assert (out / f"{name}-1.svg").stat().st_size > 1000
    for key in ("experiment", "settings", "text"):
        assert after[key] == before[key], key
    for key in ("rows", "summary"):
        rows = [sorted(map(str, result[key])) for result in (before, after)]
        assert rows[0] == rows[1], key


def test_calls_that_differ_in_which_runs_they_ask_for_are_one_table(
    lines: list[dict[str, Any]],
) -> None:
    of_model = [line for line in lines if line["experiment"] == "language-model"]
    ((_, settings, outcome, seconds),) = shown(of_model, load_lines)
    assert (settings.seeds, sorted(settings.record()["recipes"])) == (2, ["float32", "mxfp8"])
    assert seconds == pytest.approx(sum(line["seconds"] for line in of_model))
    counts = {row["recipe"]: row["rounded"]["count"] for row in outcome.summary}
    assert counts == {"float32": 2, "mxfp8": 1}
    table = [line for line in outcome.text.splitlines() if line.startswith(("float32", "mxfp8"))]
    assert ["±" in line for line in table] == [True, False, True, False]
    changed = [*of_model, of_model[0] | {"settings": of_model[0]["settings"] | {"width": 64}}]
    assert len(shown(changed, load_lines)) == 2


def test_a_run_counts_once_and_unfinished_calls_count(
    folder: Path, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(folder / "float32" / "runs.jsonl", unfinished)
    assert collect([folder, unfinished], load_lines) == lines
    assert len(collect([unfinished], load_lines)) == 2


def test_report_writes_lines_and_shows_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pages = tmp_path / "x.jsonl", [tmp_path / "1.html", tmp_path / "2.html"]
    given = ["report", str(folder / "mxfp8"), "--lines", str(file), "--out", str(pages[0])]
    assert main(given) == 0
    assert f"1 runs; written: {file}" in capsys.readouterr().out
    assert main(["report", str(file), "--out", str(pages[1])]) == 0
    texts = [page.read_text() for page in pages]
    assert texts[0] == texts[1]
    assert "data:image/svg" in texts[0]


def test_lines_that_are_told_are_kept_beside_those_of_folders(
    folder: Path, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    write([line for line in lines if line["experiment"] != "digits"], file)
    assert collect([file, folder / "digits"], load_lines) == lines


def test_a_problem_of_another_first_seed_is_another_table(folder: Path, tmp_path: Path) -> None:
    call = "reproduce linear-regression --quick --steps 20 --seed 1 --seeds 2 --out"
    assert main([*call.split(), str(tmp_path / "linear-regression")]) == 0
    first, second = shown(collect([folder / "linear-regression", tmp_path], load_lines), load_lines)
    assert [settings.seed for _, settings, *_ in (first, second)] == [0, 1]
    assert first[2].curves["mu"] != second[2].curves["mu"]


def test_where_no_run_is_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no runs\.jsonl"):
        collect([tmp_path], load_lines)
