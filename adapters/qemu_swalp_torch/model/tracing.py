"""Refusal of `torch.fx.symbolic_trace`, which records neither hooks nor what we intercept."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._compat import check_before_tracing
from ..tensors.scripting import REMEDY
from .handle import sites_of


def refuse_tracing() -> None:
    """From now on torch.fx refuses rounded models; `torch.export` and `torch.compile` do not trace
    a module by it.
    """
    check_before_tracing(_check)


def _check(root: Any) -> None:
    site = next(sites_of(root), None) if isinstance(root, nn.Module) else None
    if site is not None:
        raise TypeError(
            "torch.fx.symbolic_trace cannot record the roundings within"
            f" {site.name or 'the model'!r}; {REMEDY}"
        )
