"""The language model: its text, its fork, runs that are killed and go on to the same bits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qemu_swalp.cli import main
from qemu_swalp.experiments import load_experiment
from qemu_swalp.experiments.common.journal import Checkpoint
from qemu_swalp.experiments.common.report import progress
from qemu_swalp.experiments.common.settings import choose
from qemu_swalp.experiments.language_model import corpus
from qemu_swalp.experiments.language_model.session import Job, Run, Session, steps_of
from qemu_swalp.experiments.language_model.settings import Settings
from qemu_swalp.training import recipe

ROOT = Path(__file__).parents[2]


def quick(**more: Any) -> Settings:
    settings: Settings = choose(Settings, more, quick=True)
    return settings


# The text


def test_no_file_is_in_both_parts(tmp_path: Path) -> None:
    for name in corpus.MODULES:
        folder = tmp_path / name if name == "pdb" else tmp_path
        folder.mkdir(exist_ok=True)
        file = folder / ("__init__.py" if name == "pdb" else f"{name}.py")
        file.write_bytes(f"<{name}>\r\n".encode())
    (tmp_path / "wave.py").unlink()
    text = corpus.load(str(tmp_path))
    train, held_out = (part.tobytes().decode().split() for part in (text.train, text.held_out))
    assert held_out == [f"<{name}>" for name in corpus.HELD_OUT]
    assert sorted(train + held_out) == sorted(f"<{n}>" for n in corpus.MODULES if n != "wave")
    assert text.missing == ("wave",)
    assert text.facts()["training_bytes"] == sum(len(name) + 1 for name in train)


def test_windows_lie_within_the_text_and_depend_on_seed_and_step_alone() -> None:
    text = corpus.load()
    assert len(text.train) > 1_000_000 < 10 * len(text.held_out)
    batch = text.batch(3, 7, 4, 33)
    assert np.array_equal(batch, text.batch(3, 7, 4, 33))
    assert not np.array_equal(batch, text.batch(3, 8, 4, 33))
    assert not np.array_equal(batch, text.batch(4, 7, 4, 33))
    whole = text.train.tobytes()
    assert all(row.astype(np.uint8).tobytes() in whole for row in batch)
    assert text.windows(5, 33)[-1].astype(np.uint8).tobytes() == text.held_out[-33:].tobytes()


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no source of the standard library, such as argp"):
        corpus.load(str(tmp_path))


# Recipes


def test_recipes_are_those_published() -> None:
    settings = Settings()
    assert settings.recipe("float32") is None
    assert settings.recipe("nvfp4") == recipe("nvfp4")
    assert str(settings.recipe("mxfp4").quantizer("forward.input")) == "bf16/nearest_even"  # type: ignore[union-attr]
    bf16 = settings.recipe("bf16")
    assert bf16 is not None
    assert bf16.weight is None  # master weights in float32
    assert {str(bf16.quantizer(role)) for role in ("forward.weight", "dgrad.error")} == {
        "bf16/nearest_even"
    }


@pytest.mark.parametrize("name", Settings().recipes[1:])
def test_the_last_layer_stays_in_float_and_the_blocks_do_not(name: str) -> None:
    session = Session(quick(), corpus.load(), Job(name, 0))
    session.follow({})
    assert math.isfinite(session.train_step(decayed=False))
    lines = str(session.handle).splitlines()
    assert any(line.startswith("blocks.0.expand") for line in lines)
    assert not any(line.startswith("head") and "excluded" not in line for line in lines)


# Runs


class Interrupted(Exception):
    pass


def make(settings: Settings, job: Job, checkpoint: Checkpoint, steps: int = -1) -> Any:
    """A run that ends, as Ctrl-C does, after so many steps."""
    with progress(steps_of(settings), silent=True) as bar:
        run = Run(job, settings, corpus.load(), checkpoint, bar)
        step = run.session.train_step

        def counted(decayed: bool) -> float:
            nonlocal steps
            if not steps:
                raise Interrupted
            steps -= 1
            return step(decayed)

        run.session.train_step = counted  # type: ignore[method-assign]
        return run.make()


@pytest.mark.parametrize("name", ["float32", "swalp8", "nvfp4"])
def test_an_interrupted_run_goes_on_to_the_same_numbers(name: str, tmp_path: Path) -> None:
    settings, job = quick(), Job(name, 3)
    whole = make(settings, job, Checkpoint(tmp_path / "whole.pt", resume=False))
    for steps in (4, 2, 5):  # before and behind the fork, and within what decays
        with pytest.raises(Interrupted):
            make(settings, job, Checkpoint(tmp_path / "parts.pt", resume=True), steps)
    assert make(settings, job, Checkpoint(tmp_path / "parts.pt", resume=True)) == whole
    assert [row["method"] for row in whole["rows"]] == ["last", "swa", "ema", "lawa", "decayed"]


def test_the_decayed_run_parts_at_the_fork(tmp_path: Path) -> None:
    # Where the rate does not decay, it makes the same steps once more.
    same = make(quick(floor=1.0), Job("swalp8", 0), Checkpoint(tmp_path / "same.pt", resume=False))
    scores = {row["method"]: (row["rounded"], row["in_float"]) for row in same["rows"]}
    assert scores["decayed"] == scores["last"] != scores["swa"]
    assert scores["last"][0] != scores["last"][1]


def test_averages_are_of_the_iterates_behind_the_fork() -> None:
    settings = quick(cycle=2)
    session = Session(settings, corpus.load(), Job("float32", 0))
    session.follow(session.averaging())
    seen = []
    for _ in range(settings.steps):
        session.train_step(decayed=False)
        seen.append(session.weights["head.bias"].clone())
    behind, averages = seen[settings.fork :], session.averages()
    mean = torch.stack(behind).mean(0)
    assert torch.allclose(averages["swa"]["head.bias"], mean, atol=1e-7)
    assert torch.allclose(averages["lawa"]["head.bias"], (behind[1] + behind[3]) / 2, atol=1e-7)


def test_runs_that_are_killed_at_any_moment_reach_the_same_bits(
    tmp_path: Path, data_folder: Path
) -> None:
    options = {
        "language-model": "--recipes swalp8 --seeds 2",
        "mnist-lenet": "--method sgd swa --precision low --epochs 4 --start 2 --subset 64"
        f" --validation 0 --seeds 2 --test-subset 20 --data-dir {data_folder}",
    }
    given = {name: ["reproduce", name, "--quick", *more.split()] for name, more in options.items()}
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    arguments = [[*g, "--resume", "--out", str(parts / name)] for name, g in given.items()]
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), json.dumps(arguments)]
    killed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert killed.returncode == 0, killed.stderr[-2000:]
    for name, words in given.items():
        assert main([*words, "--out", str(whole / name)]) == 0
        results = [json.loads((out / name / "results.json").read_text()) for out in (parts, whole)]
        assert results[0]["rows"] == results[1]["rows"]
        assert results[0]["curves"] == results[1]["curves"]
        assert not [*(parts / name / "checkpoints").glob("*.pt")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"fork": 600},
            "--fork must be less than --steps, or nothing is averaged; got 600 and 600",
        ),
        ({"width": 30}, "--width must be a multiple of --heads, got 30 and 4"),
        ({"recipes": ("fp8",)}, "--recipes must be of float32, bf16, swalp8, .*, got 'fp8'"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_experiment("language-model").Settings(**given)
