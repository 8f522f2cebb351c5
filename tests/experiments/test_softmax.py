"""Softmax regression and the digits: the direction of the claims, and the core against the PyTorch
adapter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from qemu_swalp_torch import SGD as TorchSGD, Averager

from qemu_swalp import Fixed, quantize
from qemu_swalp.experiments.common import data, report
from qemu_swalp.experiments.common.sgd_runs import descend, shuffles
from qemu_swalp.experiments.digits.mlp import initial, recipe_of
from qemu_swalp.experiments.digits.on_torch import network
from qemu_swalp.experiments.logistic_regression import Settings, run
from qemu_swalp.experiments.softmax.core import (
    METRICS,
    Softmax,
    Training,
    rows_of,
    train_on_core,
    weights_in,
)
from qemu_swalp.training import SGD, Averaging, Recipe


def test_swalp_beats_low_precision_sgd_on_the_digits_by_more_than_the_spread() -> None:
    training = Training(rate=0.5, batch=32, epochs=60, start=20, decay=1e-3, seeds=(0, 1, 2))
    problem, format = Softmax(data.digits(), training.decay), Fixed(8, 4)
    with report.progress(1) as bar:
        rows = rows_of(problem, training, format, train_on_core(problem, training, format, bar, ""))
    found = {row["method"]: row for row in report.summarize(rows, ("method",), METRICS)}
    swalp = found["SWALP"]
    for method in ("SGD-LP", "SGD-LP decayed"):
        for metric in ("gradient_norm", "train_loss"):
            margin = found[method][metric]["mean"] - swalp[metric]["mean"]
            assert margin > found[method][metric]["std"] + swalp[metric]["std"], (method, metric)
    assert swalp["gradient_norm"]["mean"] < found["SGD-LP"]["gradient_norm"]["mean"] / 3
    assert swalp["test_error"]["mean"] < found["SGD-LP"]["test_error"]["mean"]


def test_gradient_and_metrics_agree_with_finite_differences(mnist_folder: Path) -> None:
    problem = Softmax(data.mnist(str(mnist_folder)), decay=0.1)
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.1, (785, 10))
    everything = np.arange(600)[None]
    direction = random.normal(0, 1, weight.shape)
    loss = [problem.metrics(weight + h * direction)["train_loss"] for h in (1e-5, -1e-5)]
    gradient = problem.gradient(weight[None], everything)[0] + 0.1 * weight
    assert np.sum(gradient * direction) == pytest.approx((loss[0] - loss[1]) / 2e-5, rel=1e-5)
    assert problem.metrics(weight)["gradient_norm"] == pytest.approx(
        np.linalg.norm(gradient), rel=1e-6
    )


@pytest.mark.parametrize(
    ("recipe", "momentum"),
    [
        (weights_in(Fixed(8, 4)), 0.0),
        (weights_in(None), 0.9),
        (recipe_of(4), 0.9),
        (
            Recipe(
                weight="e4m3fn/stochastic", momentum="bf16/nearest_even", gradient="e5m2/stochastic"
            ),
            0.9,
        ),
    ],
    ids=["fixed", "float32", "bfp4", "fp8"],
)
def test_fed_the_same_gradients_core_and_torch_give_the_same_bits_at_every_step(
    recipe: Recipe, momentum: float
) -> None:
    problem, steps, seeds = Softmax(data.digits(), 0.0), 300, (0, 1)
    weight = torch.nn.Parameter(torch.from_numpy(problem.start(len(seeds))))
    optimizer = TorchSGD(
        [("weight", weight)], lr=0.1, momentum=momentum, weight_decay=1e-3, recipe=recipe, seed=3
    )
    averager = Averager({"weight": weight}, start=50)
    averager.attach(optimizer)
    seen = []

    def gradient(w: np.ndarray, batch: np.ndarray) -> np.ndarray:
        g = problem.gradient(w, batch)
        seen.append(g)
        return g

    core = SGD(0.1, momentum, weight_decay=1e-3, recipe=recipe, seed=3)
    for snapshot in descend(
        problem.start(len(seeds)),
        gradient,
        shuffles(1197, 32, seeds),
        core,
        Averaging(50),
        range(1, steps + 1),
        range(steps + 1),
    ):
        weight.grad = torch.from_numpy(seen[-1].copy())
        optimizer.step()
        assert snapshot.weight.tobytes() == weight.detach().numpy().tobytes(), snapshot.step
        if snapshot.step > 50:
            assert snapshot.average.tobytes() == averager.average()["weight"].numpy().tobytes(), (
                snapshot.step
            )
    assert len(seen) == steps


def test_end_to_end_the_tables_of_core_and_torch_agree_within_the_spread(
    mnist_folder: Path,
) -> None:
    outcome = run(
        Settings(
            framework=("core", "torch"),
            fractions=(4,),
            seeds=4,
            epochs=5,
            start=2,
            batch=32,
            learning_rate=0.05,
            data_dir=str(mnist_folder),
        )
    )
    half = len(outcome.summary) // 2
    for core, other in zip(outcome.summary[:half], outcome.summary[half:], strict=True):
        assert (core["framework"], other["framework"]) == ("core", "PyTorch")
        assert (core["bits"], core["method"]) == (other["bits"], other["method"])
        for metric in METRICS:
            a, b = core[metric], other[metric]
            # Means of four runs each differ by √(2/4) of a standard deviation; 2.5 of them is 3.5
            # of that.
            allowed = 2.5 * max(a["std"], b["std"]) + 1e-4 * abs(a["mean"])
            assert abs(a["mean"] - b["mean"]) <= allowed, (core["method"], metric, a, b)
    assert "core and PyTorch: the means lie" in outcome.text


def test_runs_of_the_stacked_network_are_independent() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 5, 64)
    pair, second = network(*initial((3, 4), 64, 8)), network(*initial((4,), 64, 8))
    assert torch.allclose(pair(x)[1:], second(x[1:]), atol=1e-6)
    assert not torch.equal(pair[0].weight[0], pair[0].weight[1])
    q = recipe_of(4).weight
    assert q is not None
    scaled = torch.cat([x[:1], x[1:] * 1000])
    words = torch.zeros(x.shape, dtype=torch.int32)
    first, alone = (quantize(t, q.format, "stochastic", random=words)[0] for t in (scaled, x))
    assert torch.equal(first, alone)


def test_training_needs_something_to_average() -> None:
    with pytest.raises(
        ValueError, match="--start must be less than --epochs, or nothing is averaged; got 5 and 5"
    ):
        Training(rate=0.1, batch=8, epochs=5, start=5, decay=0.0, seeds=(0,))
