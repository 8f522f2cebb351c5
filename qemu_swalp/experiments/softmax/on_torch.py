"""Softmax regression on PyTorch, with the adapter's quantized SGD and averager: the twin of
`core.train_on_core`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from qemu_swalp_torch import SGD, Averager

from ... import Fixed
from ..common.report import Progress
from ..common.sgd_runs import Reals, shuffles
from .core import Rate, Softmax, Stacks, Training, weights_in

FRAMEWORK = "PyTorch"


@contextmanager
def threads(count: int = 1) -> Iterator[None]:
    """PyTorch on so many threads: sums depend on no machine's number of cores, and small matrices
    need only one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    problem: Softmax, training: Training, format: Fixed | None, bar: Progress, label: str
) -> Stacks:
    """As `core.train_on_core`, gradients by autograd."""
    with threads():
        last, average = _descend(problem, training, training.rate, format, bar, label)
        decayed, _ = _descend(
            problem, training, training.decayed(len(problem.train)), format, bar, label
        )
    return last, decayed, average


def _descend(
    problem: Softmax,
    training: Training,
    rate: Rate,
    format: Fixed | None,
    bar: Progress,
    label: str,
) -> tuple[Reals, Reals]:
    x, y = torch.from_numpy(problem.train), torch.from_numpy(problem.data.train_labels)
    samples, runs = len(x), len(training.seeds)
    weight = torch.nn.Parameter(torch.from_numpy(problem.start(runs)))
    optimizer = SGD(
        [("weight", weight)],
        lr=training.rate,
        weight_decay=training.decay,
        recipe=weights_in(format),
        seed=training.seeds[0],
    )
    averager = Averager(
        {"weight": weight}, start=training.averaging_start(samples), dtype=torch.float64
    )
    averager.attach(optimizer)
    batches = shuffles(samples, training.batch, training.seeds)
    for step in bar.steps(training.steps(samples), label):
        batch = torch.from_numpy(next(batches))
        logits = torch.bmm(x[batch], weight)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), y[batch].flatten(), reduction="sum"
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss / batch.shape[1])
        optimizer.param_groups[0]["lr"] = rate(step - 1) if callable(rate) else rate
        optimizer.step()
    return _array(weight), _array(averager.average()["weight"])


def _array(tensor: torch.Tensor) -> Reals:
    return np.asarray(tensor.detach().numpy()).copy()
