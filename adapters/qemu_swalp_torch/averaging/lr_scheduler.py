"""The learning-rate schedule of SWALP's released recipe."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from qemu_swalp.training import SWALPSchedule


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
    ValueError: if a number is out of range, or if there are not as many swa_lr as groups.

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
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__qualname__}"
            )
        groups = len(optimizer.param_groups)
        self.swa_lrs = list(swa_lr) if isinstance(swa_lr, list | tuple) else [swa_lr] * groups
        if len(self.swa_lrs) != groups:
            raise ValueError(
                f"swa_lr must be one number, or one for each of the {groups} param_groups, got"
                f" {swa_lr!r}"
            )
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
        """The rates at `last_epoch`, group by group."""
        return [
            SWALPSchedule(float(base), swa_learning_rate=swa_lr, **self.shape)(self.last_epoch)
            for base, swa_lr in zip(self.base_lrs, self.swa_lrs, strict=True)
        ]
