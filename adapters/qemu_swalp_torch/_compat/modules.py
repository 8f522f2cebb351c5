"""Modules: base classes, hooks, and what stands in for their calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _LPPoolNd

ConvNd: TypeAlias = _ConvNd
"""Base class of `nn.Conv1d` to `nn.Conv3d`, lazy and transposed ones included."""

ConvTransposeNd: TypeAlias = _ConvTransposeNd
"""Base class of `nn.ConvTranspose1d` to `nn.ConvTranspose3d`."""

BatchNorm: TypeAlias = _BatchNorm
"""Base class of `nn.BatchNorm1d` to `nn.BatchNorm3d`, `nn.SyncBatchNorm` included."""

NormBase: TypeAlias = _NormBase
"""Base class of these and of `nn.InstanceNorm1d` to `nn.InstanceNorm3d`."""

AVERAGE_POOLS = (_AvgPoolNd, _AdaptiveAvgPoolNd, _LPPoolNd)
"""Base classes of the pooling layers that compute means."""

WRAPPED = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
)
"""What `torch.compile`, FSDP and activation checkpointing call the module that they wrap."""


def forward_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """The forward hooks of a module, by the ids of their handles."""
    return module._forward_hooks


def forward_pre_hooks(module: nn.Module) -> MutableMapping[int, Callable[..., Any]]:
    """The forward pre-hooks of a module, by the ids of their handles."""
    return module._forward_pre_hooks


def call_impl_of(module: nn.Module) -> Callable[..., Any]:
    """The method of a module's class that runs its hooks and its forward."""
    return type(module)._call_impl


def stand_in(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Call that in place of `call_impl_of(module)`; None: that again. Copies of the module do so
    too.
    """
    if call is None:
        module.__dict__.pop("_call_impl", None)
    else:
        module.__dict__["_call_impl"] = call


def check_before_replicating(check: Callable[[nn.Module], None]) -> None:
    """From now on `check(module)` is called before `nn.DataParallel` makes a replica of it."""
    replicate = nn.Module._replicate_for_data_parallel

    @functools.wraps(replicate)
    def checked(module: nn.Module) -> nn.Module:
        check(module)
        replica: nn.Module = replicate(module)  # type: ignore[no-untyped-call]
        return replica

    module_type: Any = nn.Module
    module_type._replicate_for_data_parallel = checked


def parameters_of(module: nn.Module) -> Iterable[Tensor | None]:
    """The parameters that a module itself holds, or what `torch.func.functional_call` has put in
    their place.
    """
    return module._parameters.values()
