"""An average of a model's weights, kept beside the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp._util.checks import check_int
from qemu_swalp.interop.torch import array_of, check_plain, is_dtensor, tensor_of, untraced
from qemu_swalp.training import LAWA, AverageState, Averaging, Policy, Quantizer

from ..optim.grad_scaler import step_is_skipped
from ..tensors.arrays import TensorQuantizer
from ..tensors.custom_ops import refuse_capture
from .state import check_state
from .tensors import Weights, copy_into, named_tensors, restored


class Averager:
    """An average of a model's iterates by any policy: SWALP's mean (Yang et al. 2019) unless
    another is given.

    Parameters
    ----------
    model : a module, or (name, tensor) pairs, or {name: tensor}. Floating tensors are averaged,
        others ignored; the model is not copied. DTensors are averaged shard by shard, to the bits
        of the whole.
    policy : any `qemu_swalp.training.Policy`, as in EMA(decay=0.999) or LAWA(cycle=100, size=5).
        None: `Averaging`, made of start, cycle, include_start, quantizer and seed;
        Averaging(exact="fixed<8,6>") keeps integers, on CPUs.
    start : number of updates before averaging begins (S). cycle : average every so many updates
        (c).
    include_start : whether the weights at `start` count (algorithm 1) or not (algorithm 2).
    quantizer : Quantizer or `FORMAT/ROUNDING` string of the average itself, as `recipe.average`;
        None keeps a sum.
    dtype : of that sum, and of the average; None: float32, for float64 weights float64. A sum of
        low-precision weights is exact as long as it fits the significand; torch.float64 makes it
        exact for good.
    seed : of the quantizer's random bits.

    Raises
    ------
    TypeError, ValueError: if an argument is out of range; if a policy is given beside arguments
        that make one; if the model has no floating parameters; if an exact average is asked of
        tensors that are not plain ones on the CPU.

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

    def __init__(
        self,
        model: Weights,
        policy: Policy | None = None,
        *,
        start: int = 0,
        cycle: int = 1,
        quantizer: Quantizer | str | None = None,
        include_start: bool = False,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        parsed = None if quantizer is None else Quantizer.parse(quantizer)
        default = Averaging(start, cycle, include_start, parsed, seed)
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(
                "policy must be a qemu_swalp.training.Policy, such as EMA(decay=0.999), or None, "
                f"got {policy!r}"
            )
        if policy is not None and default != Averaging():
            raise TypeError(
                "policy and the arguments that make one exclude each other: give start, cycle, "
                f"include_start, quantizer and seed to {type(policy).__name__}"
            )
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
        named = named_tensors(model)
        self.parameters = {name: p for name, p in named.items() if p.is_floating_point()}
        if not self.parameters:
            raise ValueError(
                "model must have floating-point parameters to average, got"
                f" {sorted(named) or 'none'}"
            )
        self.model = model if isinstance(model, nn.Module) else None
        rule = policy or default
        if rule.quantizer is not None:
            rule = replace(rule, quantizer=TensorQuantizer.of(rule.quantizer, "all", "average"))
        self.rule: Policy = rule
        self.exact = getattr(rule, "exact", None) is not None
        for name, p in self.parameters.items():
            check_plain(p, name)
            if self.exact and (is_dtensor(p) or not p.is_cpu):
                where = "a DTensor" if is_dtensor(p) else f"on {p.device}"
                raise TypeError(
                    f"{name} is {where}, and NumPy keeps exact averages; pass dtype=torch.float64"
                    " instead of exact=, whose sums are as exact up to 2^53 quanta"
                )
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
        """Take note of the weights after `step` updates, by default one more than last time;
        average where that is due.

        ValueError where `step` is not above the last one. RuntimeError within `swap`.
        """
        if step is None:
            step = max(self.step, 0) + 1
        check_int("step", step, 0, 2**62)
        if step <= self.step:
            raise ValueError(
                f"step must be above the last one, {self.step}, got {step}: each iterate counts"
                " once"
            )
        if self.swapped:
            raise RuntimeError(
                "update within swap(): the model holds the average now; leave the swap first"
            )
        self.state = self.rule.update(_Weights(self), self.state, step)
        self.step = step

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Update after every step of the optimizer, of its rounded weights. The handle's `remove()`
        ends it.

        Steps that a GradScaler skips do not count. With `include_start` and `start=0` the present
        weights count.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__qualname__}"
            )
        if self.step < 0:
            self.update(0)
        return optimizer.register_step_post_hook(self._after_step)

    @untraced
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        refuse_capture("an average", "call update() after each replay")
        if not step_is_skipped(optimizer):
            self.update()

    def average(self) -> dict[str, Tensor]:
        """The averages by name, new tensors in the averaging dtype. ValueError before the first."""
        dtype = torch.float32
        for name in self.parameters:
            dtype = torch.promote_types(dtype, self.dtype_of(name))
        averages = self.rule.average(self.state, str(dtype).removeprefix("torch."))
        return {name: tensor_of(value).clone() for name, value in averages.items()}

    @contextmanager
    def swap(self) -> Iterator[Averager]:
        """Within it the model's parameters hold the average, in their own dtype; at its end, also
        after an exception, they are bit for bit what they were. So are the model's buffers, which
        `update_bn` may have changed.

        ValueError before the first average. RuntimeError in a nested swap.
        """
        if self.swapped:
            raise RuntimeError("swap() within swap(): the model holds the average already")
        average = self.average()
        tensors = {
            **({} if self.model is None else dict(self.model.named_buffers())),
            **self.parameters,
        }
        self.swapped = True
        try:
            with restored(tensors):
                copy_into(average, self.parameters)
                yield self
        finally:
            self.swapped = False

    def apply_to(self, model: Weights) -> None:
        """Copy the average into another model's parameters, or for good into this one's.

        ValueError, and no change, before the first average and where names or shapes differ.
        """
        average, targets = self.average(), named_tensors(model)
        missing = sorted(set(average) - set(targets))
        if missing:
            raise ValueError(
                f"model lacks the averaged parameters {', '.join(missing)}; "
                f"it has {', '.join(sorted(targets))}"
            )
        for name, value in average.items():
            if value.shape != targets[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(targets[name].shape)} in model, "
                    f"{tuple(value.shape)} in the average"
                )
        copy_into(average, targets)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors, as `torch.load(weights_only=True)` reads them.

        Zeros stand where nothing is kept yet, so that a distributed checkpoint finds the tensors
        that it loads.
        """
        kept = self.state.value or {}
        values = {
            key: tensor_of(kept[key]).clone() if key in kept else self._zeros(name)
            for name in self.parameters
            for key in self._keys(name)
        }
        return {
            "rule": self.rule.record(),
            "step": self.step,
            "n_averaged": self.n_averaged,
            "score": self.state.score,
            "values": values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where it is damaged or of another
        model or rule.
        """
        expected = self.state_dict()
        check_state(state, expected)
        value: dict[str, Any] = {}
        for key, ours in expected["values"].items():
            copied = state["values"][key].to(ours.device, ours.dtype, copy=True)
            value[key] = copied.numpy() if self.exact else array_of(copied)
        self.state = AverageState(
            state["n_averaged"], value if state["n_averaged"] else None, state["score"]
        )
        self.step = state["step"]

    def _keys(self, name: str) -> list[str]:
        """Under which names the policy keeps what it has of a parameter."""
        return (
            [f"{name}@{slot}" for slot in range(self.rule.size)]
            if isinstance(self.rule, LAWA)
            else [name]
        )

    def _zeros(self, name: str) -> Tensor:
        dtype = torch.int64 if self.exact else self.dtype_of(name)
        return torch.zeros_like(self.parameters[name], dtype=dtype, requires_grad=False)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a parameter is averaged in."""
        return self.dtype or torch.promote_types(self.parameters[name].dtype, torch.float32)


class _Weights(Mapping[str, Any]):
    """The parameters as arrays in their averaging dtype, converted only where an average is due."""

    def __init__(self, averager: Averager) -> None:
        self.averager = averager

    def __getitem__(self, name: str) -> Any:
        weight = self.averager.parameters[name].detach().to(self.averager.dtype_of(name))
        return weight.numpy() if self.averager.exact else array_of(weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self.averager.parameters)

    def __len__(self) -> int:
        return len(self.averager.parameters)
