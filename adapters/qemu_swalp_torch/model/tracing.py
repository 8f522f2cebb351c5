"""What PyTorch makes of a model by going around the forward that we put in: refused."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._compat import check_before_replicating, check_before_tracing, choose_branches
from ..tensors.scripting import REMEDY
from .frames import FRAMES
from .handle import sites_of


def refuse_tracing() -> None:
    """From now on torch.fx refuses rounded models; `torch.export` and `torch.compile` do not trace
    a module by it. And `nn.DataParallel` refuses to replicate them.
    """
    check_before_tracing(_check)
    check_before_replicating(_check_replicated)


def follow_branches() -> None:
    """From now on the branch that `torch.cond` takes within a rounded model is called as its other
    code is, outside of graphs.
    """
    choose_branches(lambda: bool(FRAMES.stack))


def _check_replicated(module: nn.Module) -> None:
    site = next(sites_of(module), None)
    if site is not None:
        raise TypeError(
            "nn.DataParallel cannot replicate the roundings within"
            f" {site.name or 'the model'!r}, whose counters its threads would share; use"
            " nn.parallel.DistributedDataParallel, with a process for each device"
        )


def _check(root: Any) -> None:
    site = next(sites_of(root), None) if isinstance(root, nn.Module) else None
    if site is not None:
        raise TypeError(
            "torch.fx.symbolic_trace cannot record the roundings within"
            f" {site.name or 'the model'!r}; {REMEDY}"
        )
