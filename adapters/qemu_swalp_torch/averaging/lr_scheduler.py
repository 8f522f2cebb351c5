"""Learning-rate schedules: SWALP's and SWA's."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from qemu_swalp.training import SWALPSchedule, SWASchedule


class SWALPLR(LRScheduler):
    """SWALP's schedule (`qemu_swalp.training.SWALPSchedule`) of each group's learning rate.

    Constant to `decay_start`·swa_start, down to `floor` times itself at `decay_end`·swa_start, then
    held; from swa_start on the constant swa_lr. `step()` moves on by one unit of swa_start: an
    epoch, or a step.

    Parameters
    ----------
    optimizer : any; the rates of its groups, positive, are those of the beginning.
    swa_start : when averaging begins. swa_lr : rate from there on, or a list of one for each group;
        None keeps `floor` times the group's rate. decay_start, decay_end, floor : as in
        `qemu_swalp.training.SWALPSchedule`.
    last_epoch : as in every scheduler of PyTorch.

    Raises
    ------
    TypeError: if `optimizer` is not an Optimizer.
    ValueError: if a number is out of range, or if there are not as many swa_lr as groups; at a
        step, if groups were added to the optimizer since.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    >>> scheduler, rates = SWALPLR(opt, swa_start=10, swa_lr=0.01), []
    >>> for _ in range(12):
    ...     rates.append(round(scheduler.get_last_lr()[0], 6))
    ...     opt.step(); scheduler.step()
    >>> rates
    [0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.037625, 0.02525, 0.012875, 0.0005, 0.01, 0.01]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        swa_start: float,
        swa_lr: float | list[float] | None = None,
        decay_start: float = 0.5,
        decay_end: float = 0.9,
        floor: float = 0.01,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.swa_lrs = one_for_each(optimizer, "swa_lr", swa_lr)
        self.shape = {
            "start": swa_start,
            "decay_start": decay_start,
            "decay_end": decay_end,
            "floor": floor,
        }
        for group, rate in zip(optimizer.param_groups, self.swa_lrs, strict=True):
            SWALPSchedule(
                float(group["lr"]), swa_learning_rate=rate, **self.shape
            )  # raises before anything changes
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The rates at `last_epoch`, group by group.

        ValueError where groups were added to the optimizer since.
        """
        check_groups(self, self.base_lrs)
        return [
            SWALPSchedule(float(base), swa_learning_rate=swa_lr, **self.shape)(self.last_epoch)
            for base, swa_lr in zip(self.base_lrs, self.swa_lrs, strict=True)
        ]


class CyclicSWALR(LRScheduler):
    """SWA's cyclic schedule (`qemu_swalp.training.SWASchedule`) of each group's learning rate.

    Each group's own rate before swa_start; from there on, in each cycle, linearly from `high` down
    to `low`. `step()` moves on by one optimizer step. An average of the weights at the ends of the
    cycles is `Averager(model, start=swa_start, cycle=cycle)`.

    Parameters
    ----------
    optimizer : any; the rates of its groups, positive, are those of the beginning.
    swa_start, cycle : steps before the first cycle, and of a cycle.
    high, low : rates, or lists of one for each group; low ≤ high.
    last_epoch : as in every scheduler of PyTorch.

    Raises
    ------
    TypeError: if `optimizer` is not an Optimizer.
    ValueError: if a number is out of range, or if there are not as many rates as groups; at a step,
        if groups were added to the optimizer since.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler, rates = CyclicSWALR(opt, swa_start=2, cycle=4, high=0.04, low=0.01), []
    >>> for _ in range(8):
    ...     rates.append(round(scheduler.get_last_lr()[0], 4))
    ...     opt.step(); scheduler.step()
    >>> rates
    [0.1, 0.1, 0.0325, 0.025, 0.0175, 0.01, 0.0325, 0.025]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        swa_start: int,
        cycle: int,
        high: float | list[float],
        low: float | list[float],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.highs, self.lows = (
            one_for_each(optimizer, name, rates) for name, rates in (("high", high), ("low", low))
        )
        self.swa_start, self.cycle = swa_start, cycle
        self._rates([float(group["lr"]) for group in optimizer.param_groups], 0)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The rates at `last_epoch`, group by group.

        ValueError where groups were added to the optimizer since.
        """
        check_groups(self, self.base_lrs)
        return self._rates([float(base) for base in self.base_lrs], self.last_epoch)

    def _rates(self, bases: list[float], step: int) -> list[float]:
        return [
            SWASchedule(base, self.swa_start, self.cycle, high, low)(step)
            for base, high, low in zip(bases, self.highs, self.lows, strict=True)
        ]


def check_optimizer(optimizer: Any) -> None:
    """TypeError if it is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__qualname__}"
        )


def one_for_each(optimizer: Optimizer, name: str, rates: Any) -> list[Any]:
    """Rates of the groups. ValueError if there are not as many."""
    groups = len(optimizer.param_groups)
    found = list(rates) if isinstance(rates, list | tuple) else [rates] * groups
    if len(found) != groups:
        raise ValueError(
            f"{name} must be one number, or one for each of the {groups} param_groups, got"
            f" {rates!r}"
        )
    return found


def check_groups(scheduler: LRScheduler, rates: list[Any]) -> None:
    """ValueError if the optimizer has not as many groups as when the scheduler was made."""
    groups = len(scheduler.optimizer.param_groups)
    if groups != len(rates):
        raise ValueError(
            f"the optimizer has {groups} param_groups now, and had {len(rates)} when this"
            f" {type(scheduler).__name__} was made, which has no rates for the others; make the"
            " scheduler after add_param_group, with last_epoch= to go on where it was"
        )
