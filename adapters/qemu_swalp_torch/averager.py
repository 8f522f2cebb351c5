"""SWALP's average of a model's weights, kept beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp.checks import check_int
from qemu_swalp.training import AverageState, Averaging, Quantizer

from .graph import untraced
from .hooks import step_is_skipped
from .tensors import array_of, check_plain, is_dtensor, tensor_of

Weights = nn.Module | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]


class Averager:
    """The equal-weight mean of a model's iterates: algorithms 1 and 2 of Yang et al. 2019.

    The rule is that of `qemu_swalp.training.Averaging`.

    Parameters
    ----------
    model : a module, or (name, tensor) pairs, or {name: tensor}. Floating tensors are averaged, others ignored; the
        model is not copied.
    start : number of updates before averaging begins (S). cycle : average every so many updates (c).
    include_start : whether the weights at `start` count (algorithm 1) or not (algorithm 2).
    quantizer : Quantizer or `FORMAT/ROUNDING` string of the average itself, as `recipe.average`; None keeps a sum.
    dtype : of that sum, and of the average; None: float32, for float64 weights float64. A sum of low-precision weights
        is exact as long as it fits the significand; torch.float64 makes it exact for good.
    seed : of the quantizer's random bits.

    Raises
    ------
    TypeError, ValueError : for arguments out of range, and for a model without floating parameters.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1)
    >>> averager = Averager(model, start=10)
    >>> for step in range(1, 13):
    ...     _ = torch.nn.init.constant_(model.weight, step)
    ...     averager.update()
    >>> averager.n_averaged, averager.average()["weight"].item()
    (2, 11.5)
    >>> with averager.swap():
    ...     model.weight.item()
    11.5
    >>> model.weight.item()
    12.0
    """

    def __init__(self, model: Weights, *, start: int = 0, cycle: int = 1, quantizer: Quantizer | str | None = None,
                 include_start: bool = False, dtype: torch.dtype | None = None, seed: int = 0) -> None:
        check_int("seed", seed, 0, 2**64 - 1)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
        named = _named(model)
        self.parameters = {name: p for name, p in named.items() if p.is_floating_point()}
        if not self.parameters:
            raise ValueError(f"model must have floating-point parameters to average, got {sorted(named) or 'none'}")
        self.model = model if isinstance(model, nn.Module) else None
        parsed = None if quantizer is None else Quantizer.parse(quantizer)
        self.rule = Averaging(start, cycle, include_start, parsed, seed=seed)
        for name, p in self.parameters.items():
            check_plain(p, name)
            if parsed is not None and is_dtensor(p):
                raise TypeError(f"{name} is a DTensor, whose average has no quantizer; leave out quantizer=")
        self.dtype = dtype
        self.step = -1
        self.state: AverageState = self.rule.init()
        self.swapped = False

    @property
    def n_averaged(self) -> int:
        """Number of iterates in the average."""
        return self.state.n_averaged

    @torch.no_grad()
    def update(self, step: int | None = None) -> None:
        """Take note of the weights after `step` updates, by default one more than last time; average where that is due.

        ValueError where `step` is not above the last one. RuntimeError within `swap`.
        """
        if step is None:
            step = max(self.step, 0) + 1
        check_int("step", step, 0, 2**62)
        if step <= self.step:
            raise ValueError(f"step must be above the last one, {self.step}, got {step}: each iterate counts once")
        if self.swapped:
            raise RuntimeError("update within swap(): the model holds the average now; leave the swap first")
        self.state = self.rule.update(_Weights(self), self.state, step)
        self.step = step

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Update after every step of the optimizer, of its rounded weights. The handle's `remove()` ends it.

        Steps that a GradScaler skips do not count. With `include_start` and `start=0` the present weights count.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__qualname__}")
        if self.step < 0:
            self.update(0)
        return optimizer.register_step_post_hook(self._after_step)

    @untraced
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not step_is_skipped(optimizer):
            self.update()

    def average(self) -> dict[str, Tensor]:
        """The averages by name, new tensors in the averaging dtype. ValueError before the first."""
        averages = {name: tensor_of(value) for name, value in self.rule.average(self.state).items()}
        return averages if self.rule.quantizer is None else {name: value.clone() for name, value in averages.items()}

    @contextmanager
    def swap(self) -> Iterator[Averager]:
        """Within it the model's parameters hold the average, in their own dtype; at its end, also after an exception,
        they are bit for bit what they were. So are the model's buffers, which `update_bn` may have changed.

        ValueError before the first average. RuntimeError in a nested swap.
        """
        if self.swapped:
            raise RuntimeError("swap() within swap(): the model holds the average already")
        average = self.average()
        tensors = {**({} if self.model is None else dict(self.model.named_buffers())), **self.parameters}
        kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.swapped = True
        try:
            _copy(average, self.parameters)
            yield self
        finally:
            _copy(kept, tensors)
            self.swapped = False

    def apply_to(self, model: Weights) -> None:
        """Copy the average into another model's parameters, or for good into this one's.

        ValueError, and no change, before the first average and where names or shapes differ.
        """
        average, targets = self.average(), _named(model)
        missing = sorted(set(average) - set(targets))
        if missing:
            raise ValueError(f"model lacks the averaged parameters {', '.join(missing)}; "
                             f"it has {', '.join(sorted(targets))}")
        for name, value in average.items():
            if value.shape != targets[name].shape:
                raise ValueError(f"{name} has shape {tuple(targets[name].shape)} in model, "
                                 f"{tuple(value.shape)} in the average")
        _copy(average, targets)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors, as `torch.load(weights_only=True)` reads them."""
        values = {name: tensor_of(value).clone() for name, value in (self.state.value or {}).items()}
        return {**self._rule_dict(), "step": self.step, "n_averaged": self.n_averaged, "values": values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where it is damaged or of another model or rule."""
        expected = self.state_dict()
        if set(state) != set(expected):
            raise ValueError(f"the averager's state must have the keys {', '.join(expected)}, "
                             f"got {', '.join(map(str, state))}")
        for key, ours in self._rule_dict().items():
            if state[key] != ours:
                raise ValueError(f"the checkpoint's average has {key}={state[key]!r}, this averager {key}={ours!r}; "
                                 "make it with the checkpoint's arguments")
        check_int("step", state["step"], -1, 2**62)
        check_int("n_averaged", state["n_averaged"], 0, 2**62)
        values = state["values"]
        names = set(self.parameters) if state["n_averaged"] else set()
        if set(values) != names:
            raise ValueError("the checkpoint averages other parameters: "
                             f"{', '.join(sorted(set(values) ^ names))} in one only")
        for name, value in values.items():
            if value.shape != self.parameters[name].shape:
                raise ValueError(f"{name} has shape {tuple(self.parameters[name].shape)}, "
                                 f"in the checkpoint {tuple(value.shape)}")
        held = {name: array_of(value.to(self.parameters[name].device, self.dtype_of(name), copy=True))
                for name, value in values.items()}
        self.state, self.step = AverageState(state["n_averaged"], held or None), state["step"]

    def _rule_dict(self) -> dict[str, Any]:
        rule = self.rule
        return {"start": rule.start, "cycle": rule.cycle, "include_start": rule.include_start,
                "quantizer": None if rule.quantizer is None else str(rule.quantizer), "seed": rule.seed}

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a parameter is averaged in."""
        return self.dtype or torch.promote_types(self.parameters[name].dtype, torch.float32)


class _Weights(Mapping[str, Any]):
    """The parameters as arrays in their averaging dtype, converted only where an average is due."""

    def __init__(self, averager: Averager) -> None:
        self.averager = averager

    def __getitem__(self, name: str) -> Any:
        return array_of(self.averager.parameters[name].detach().to(self.averager.dtype_of(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.averager.parameters)

    def __len__(self) -> int:
        return len(self.averager.parameters)


def _named(model: Weights) -> dict[str, Tensor]:
    if isinstance(model, nn.Module):
        return dict(model.named_parameters())
    named = dict(model)
    for name, p in named.items():
        if not isinstance(name, str) or not isinstance(p, Tensor):
            raise TypeError("model must be a torch.nn.Module, (name, tensor) pairs or a dict of these, got the pair "
                            f"({name!r}, {type(p).__qualname__})")
    return named


@torch.no_grad()
def _copy(sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    for name, source in sources.items():
        targets[name].copy_(source)
