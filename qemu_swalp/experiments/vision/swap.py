"""SWAP: one run with large batches, then workers that each refine a copy of it, in turn or as
processes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from ...training import SWAP, AverageState
from ..common.journal import Checkpoint
from ..common.report import Progress, progress
from .datasets import batches_in
from .jobs import Job
from .runs import Result
from .session import Session
from .settings import Settings
from .types import Source


def swap(
    job: Job, settings: Settings, source: Source, checkpoint: Checkpoint, bar: Progress
) -> Result:
    """The three phases of `qemu_swalp.training.SWAP`; the curve is that of phase 1."""
    session = Session(settings, source, job.word, job.seed)
    label = f"swap, {job.numbers}, seed {job.seed}"
    state: dict[str, Any] = {
        "session": session.state_dict(),
        "workers": [],
        "curve": [],
        "large": True,
    }
    if saved := checkpoint.load():
        state = saved
        session.load_state_dict(state["session"])
        bar.skip(session.step + len(state["workers"]) * _refinement(settings, source))
    while state["large"]:
        point = session.train_epoch(
            lambda step: settings.swap_rate, settings.swap_batch, bar, f"{label}, phase 1"
        )
        reached = 100 - point["train_error"] >= settings.swap_accuracy
        left = settings.swap_phases[0] - session.epoch
        if reached:
            bar.skip(left * batches_in(len(source), settings.swap_batch))
        state = {
            "session": session.state_dict(),
            "workers": [],
            "large": bool(left) and not reached,
            "curve": [*state["curve"], {"epoch": session.epoch} | point],
        }
        checkpoint.save(state)
    weights = session.model.state_dict()
    if settings.swap_processes:
        merged = in_processes(job, settings, source, weights)
        bar.skip(settings.swap_workers * _refinement(settings, source))
    else:
        for rank in range(len(state["workers"]), settings.swap_workers):
            state["workers"].append(tuple(refine(job, settings, source, weights, rank, bar)))
            checkpoint.save(state)
        merged = SWAP().merge([AverageState(*worker) for worker in state["workers"]])
    scores = session.evaluate("test", SWAP().average(merged))
    return {
        "rows": [{"method": "swap", "epoch": settings.epochs} | scores],
        "curve": state["curve"],
    }


def _refinement(settings: Settings, source: Source) -> int:
    """Steps of a worker in phase 2."""
    return settings.swap_phases[1] * batches_in(len(source), settings.batch)


def refine(
    job: Job,
    settings: Settings,
    source: Source,
    weights: dict[str, torch.Tensor],
    rank: int,
    bar: Progress,
) -> AverageState:
    """Phase 2 of one worker: small batches in an order, and with roundings, of its own; its last
    weights.
    """
    session = Session(settings, source, job.word, job.seed + (rank + 1) * 2**32)
    session.model.load_state_dict(weights)
    session.follow({"swap": SWAP(_refinement(settings, source) - 1)})
    epoch, schedule = batches_in(len(source), settings.batch), settings.swap_schedule
    for _ in range(settings.swap_phases[1]):
        session.train_epoch(
            lambda step: schedule(step // epoch),
            settings.batch,
            bar,
            f"swap, {job.numbers}, seed {job.seed}, worker {rank}",
        )
    return session.states["swap"]


def in_processes(
    job: Job, settings: Settings, source: Source, weights: dict[str, torch.Tensor]
) -> AverageState:
    """Phase 2 by a process for each worker, and an all-reduce of their states.

    The same bits as the workers in turn where the sums of their weights are exact, as those of few
    bits are.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, Path(folder) / "weights.pt")
        arguments = (job, type(settings).experiment, dataclasses.asdict(settings), source, folder)
        spawn(_worker, arguments, settings.swap_workers)  # type: ignore[no-untyped-call]
        return AverageState(*torch.load(Path(folder) / "merged.pt", weights_only=True))


def _worker(
    rank: int, job: Job, experiment: str, values: dict[str, Any], source: Source, folder: str
) -> None:
    """A process of its own. It gets the settings as values: their class is made anew here."""
    from .presets import settings_of

    settings = settings_of(experiment)(**values)
    torch.set_num_threads(settings.threads)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=settings.swap_workers,
    )
    weights = torch.load(Path(folder) / "weights.pt", weights_only=True)
    with progress(_refinement(settings, source), silent=True) as bar:
        state = refine(job, settings, source, weights, rank, bar)
    count, sums = (
        torch.tensor(state.n_averaged),
        {name: array.cpu() for name, array in (state.value or {}).items()},
    )
    for total in (count, *sums.values()):
        distributed.all_reduce(total)
    if rank == 0:
        torch.save((int(count), sums), Path(folder) / "merged.pt")
    distributed.destroy_process_group()
