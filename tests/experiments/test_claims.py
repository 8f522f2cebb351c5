"""What the page of results says of averages, on networks that train in seconds. Those of the theory
and of the digits are tested beside their experiments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qemu_swalp.experiments.common.journal import Checkpoint
from qemu_swalp.experiments.language_model.session import Job as TextJob
from qemu_swalp.experiments.vision.jobs import Job
from qemu_swalp.experiments.vision.presets import settings_of
from qemu_swalp.experiments.vision.run import KINDS
from tests.experiments.test_language_model import make as trained, quick as smallest
from tests.experiments.test_vision import Interrupted, source_of


@pytest.mark.parametrize("words", [None, 8])
def test_the_average_beats_the_last_iterate(
    words: int | None, mnist_folder: Path, tmp_path: Path
) -> None:
    """LeNet at a constant rate, float and in 8 bits: the loss on other images, over four seeds."""
    settings = settings_of("mnist-lenet")(
        method=("sgd", "swa"),
        subset=0,
        validation=0,
        epochs=14,
        start=8,
        batch=16,
        learning_rate=0.02,
        swa_learning_rate=0.02,
        evaluate_every=7,
    )
    source, losses = source_of(settings, mnist_folder), dict[str, list[float]](sgd=[], swa=[])
    for seed in range(4):
        checkpoint = Checkpoint(tmp_path / f"{seed}.pt", False)
        result = KINDS["plain"](
            Job("plain", words, seed), settings, source, checkpoint, Interrupted(-1)
        )
        for row in result["rows"]:
            if row["epoch"] == settings.epochs:
                losses[row["method"]].append(row["loss"])
    assert sum(losses["swa"]) < 0.75 * sum(losses["sgd"])


@pytest.mark.parametrize("name", ["float32", "nvfp4"])
def test_an_average_over_a_short_past_beats_the_last_iterate(name: str, tmp_path: Path) -> None:
    """And a uniform one over half of a run that has not settled does not: over two seeds."""
    settings = smallest(
        steps=300, fork=150, batch=4, learning_rate=8e-3, cycle=10, lawa_size=5, held_out=64
    )
    bits: dict[str, list[float]] = {}
    for seed in range(2):
        checkpoint = Checkpoint(tmp_path / f"{seed}.pt", resume=False)
        for row in trained(settings, TextJob(name, seed), checkpoint)["rows"]:
            bits.setdefault(row["method"], []).append(row["rounded"])
    mean = {method: float(np.mean(each)) for method, each in bits.items()}
    assert mean["lawa"] < mean["last"] - 0.015
    assert mean["lawa"] < mean["swa"] - 0.015
