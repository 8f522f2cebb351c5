"""What PyTorch makes of a model by going around the forward that we put in: refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .._compat import (
    check_before_replicating,
    check_before_tracing,
    choose_branches,
    compile_flex_attention_in,
    without_modes,
)
from ..tensors.scripting import REMEDY
from .coverage import Report, tell
from .frames import FRAMES
from .handle import sites_of
from .interception import policy_of


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


def follow_flex_attention() -> None:
    """From now on `flex_attention` outside of graphs is told where a recipe asks for what it
    computes, and else computes it in float.
    """
    compile_flex_attention_in(_flex_attention)


@contextmanager
def _flex_attention() -> Iterator[None]:
    if not FRAMES.stack:
        yield
        return
    frame, report = FRAMES.stack[-1], Report()
    if frame.products is not None and frame.products.site.attention:
        report.uncovered[frame.name, FLEX] += 0
    if frame.functions is not None:
        report.operations[frame.name, FLEX] += 1
    tell(report, policy_of(FRAMES.stack[0].module))
    with without_modes():
        yield


FLEX = "flex_attention, which compiles itself"


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
