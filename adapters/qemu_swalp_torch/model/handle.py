"""What the user holds of a model that is quantized, and a context in which it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qemu_swalp._util.checks import check_int

from .._compat import forward_hooks, forward_pre_hooks
from ..tensors.call_counters import BITS, MODES, Beginning, Replay, Site, clock_of, leave
from .interception import sites_of_scope
from .removable import Removable


class SiteHandle:
    """What `quantize_activations`, `quantize_gemms` and `quantize_elementwise` return; a context
    manager too, which ends the rounding.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], handles: Sequence[Removable]
    ) -> None:
        self.model, self._sites, self.handles = model, sites, [*handles]
        self._trace_anew()

    @property
    def sites(self) -> list[Site]:
        """Where something is rounded: as is known beforehand, or was found in a forward."""
        return [s for s in self._sites if getattr(s, "expected", True) or getattr(s, "runs", 0)]

    @property
    def names(self) -> list[str]:
        """Names of the sites: "fc1" for the output, or the products, of module
        `fc1`.
        """
        return [site.name for site in self.sites]

    def remove(self) -> None:
        """Leave the model as it was. Does nothing the second time."""
        for handle in self.handles:
            handle.remove()
        leave(self._sites)
        self._trace_anew()

    def _trace_anew(self) -> None:
        """Have torch.compile forget what it compiled before hooks came or went."""
        by_hooks = any(getattr(site, "by_hooks", False) for site in self._sites)
        if by_hooks and "torch._dynamo" in sys.modules:
            torch.compiler.reset()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """For each site its seed, and how often it was called in each mode: plain integers, for an
        exact resume of stochastic rounding; and of delayed scaling scales and histories.

        Call n (n = 0, 1, …) of mode m draws its random bits at step m·2^30 + n. The modes are 0
        training, 1 evaluation (`model.eval()`), 2 training without gradient, 3 evaluation without
        gradient (`torch.no_grad()`). What counts is the model that was given, and its forward as a
        whole: parts of it that are in evaluation mode or without gradient count with it.
        """
        return {site.name: site.record() for site in self.sites}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where the modules are others or the
        state is damaged.
        """
        by_name = {site.name: site for site in self._sites}
        expected = {site.name for site in self.sites if getattr(site, "expected", True)}
        others = (set(state) - set(by_name)) | (expected - set(state))
        if others:
            raise ValueError(
                f"the state is of other modules: {sorted(others)} are in one of the two only;"
                " quantize the model as it was for the checkpoint"
            )
        for name, record in state.items():
            _check_record(f"state[{name!r}]", record)
        for name, record in state.items():
            by_name[name].restore(record)

    def count_on(self, device: torch.device | str) -> None:
        """Count calls on that device from now on, and read nothing from it.

        A CUDA graph of forward and backward that is captured after that, or made by
        `torch.compile`, draws fresh random bits at each replay. One kernel more for each site and
        forward.
        """
        for site in self._sites:
            site.steps = [step.to(device, copy=True) for step in site.steps]
            site.unread = True

    def checkpoint_contexts(self) -> tuple[Beginning, Replay]:
        """For `torch.utils.checkpoint.checkpoint(..., use_reentrant=False,
        context_fn=handle.checkpoint_contexts)`.

        Needed only where one backward belongs to several forwards, or a module is called several
        times in a forward; else a recomputation finds its random bits by itself. The contexts of
        one handle serve all handles of the same model.
        """
        beginning = Beginning(clock_of(self.model))
        return beginning, Replay(beginning)

    def __enter__(self) -> SiteHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _check_record(name: str, record: Any) -> None:
    keys = ("seed", *MODES)
    if not isinstance(record, Mapping) or set(record) - {"scales"} != set(keys):
        raise ValueError(f"{name} must have the keys {', '.join(keys)}, got {record!r}")
    for key in keys:
        bits = 64 if key == "seed" else BITS
        check_int(f"{name}[{key!r}]", record[key], 0, 2**bits - 1)


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within it the model computes without rounding of activations, errors, operands, sums and
    elementwise operations, as SWALP's average is evaluated.

    >>> import torch
    >>> from qemu_swalp.training import Recipe
    >>> from qemu_swalp_torch import quantize_activations
    >>> model = nn.Sequential(nn.ReLU())
    >>> handle = quantize_activations(model, Recipe(activation="fixed<8,1>/nearest_even"))
    >>> model(torch.tensor([0.3])).item()
    0.5
    >>> with disabled(model):
    ...     round(model(torch.tensor([0.3])).item(), 6)
    0.3
    """
    sites = list(sites_of(model))
    before = [site.enabled for site in sites]
    try:
        for site in sites:
            site.enabled = False
        yield model
    finally:
        for site, enabled in zip(sites, before, strict=True):
            site.enabled = enabled


def sites_of(model: nn.Module) -> Iterator[Site]:
    """All sites of a model."""
    for module in model.modules():
        hooks = (
            *forward_pre_hooks(module).values(),
            *forward_hooks(module).values(),
            *sites_of_scope(module),
        )
        yield from (part for part in hooks if isinstance(part, Site))
