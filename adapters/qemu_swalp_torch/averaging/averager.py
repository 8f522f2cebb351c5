"""An average of a model's weights, kept beside the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp._util.checks import check_int
from qemu_swalp.training import Averaging, Policy, Quantizer

from ..optim.wrappers import hooked_by
from .attachment import Attachment, Attachments
from .running import Running, rule_of
from .source import Source
from .swap import Swap, Swaps
from .tensors import Weights, check_fit, copy_into, named_tensors


class Averager:
    """An average of a model's iterates by any policy: SWALP's mean (Yang et al. 2019) unless
    another is given.

    Parameters
    ----------
    model : a module, which is averaged as it is at each time, whatever was replaced in it; or
        (name, tensor) pairs, or {name: tensor}. Floating and complex tensors are averaged, others
        ignored; the model is not copied. DTensors are averaged shard by shard, to the bits of the
        whole. Names are those without DDP, torch.compile and other wrappers.
    policy : any `qemu_swalp.training.Policy`, as in EMA(decay=0.999, warmup=True) or
        LAWA(cycle=100, size=5). None: `Averaging`, made of start, cycle, include_start, quantizer,
        seed and nonfinite; Averaging(exact="fixed<8,6>") keeps integers, on CPUs. For several
        averages make several averagers.
    start : number of updates before averaging begins (S). cycle : average every so many updates
        (c).
    include_start : whether the weights at `start` count (algorithm 1) or not (algorithm 2).
    quantizer : Quantizer or `FORMAT/ROUNDING` string of the average itself, as `recipe.average`;
        None keeps a sum.
    dtype : of that sum, and of the average; None: float32, for float64 weights float64. A sum of
        low-precision weights is exact as long as it fits the significand; torch.float64 makes it
        exact for good.
    seed : of the quantizer's random bits. None: another one for each average of this process, the
        same at each run of the program; checkpoints keep it. So is that of a policy without one.
    nonfinite : what becomes of an iterate with infinities or NaN, as in
        `qemu_swalp.training.Policy`: "raise", "skip" or "include".
    buffers : whether floating buffers, such as batch-normalization statistics, are averaged too.
    trainable_only : whether only tensors that require a gradient are averaged, and those buffers.

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
        seed: int | None = None,
        nonfinite: str = "raise",
        buffers: bool = False,
        trainable_only: bool = False,
    ) -> None:
        parsed = None if quantizer is None else Quantizer.parse(quantizer)
        default = Averaging(start, cycle, include_start, parsed, seed, nonfinite=nonfinite)
        self.source = Source(model, buffers, trainable_only)
        self.running = Running(self.source, rule_of(policy, default), dtype)
        self.swaps = Swaps(self.source)
        self.step = -1
        self.attachments = Attachments(self.source, self.swaps)

    @property
    def rule(self) -> Policy:
        """The policy, with its seed and what its quantizer knows of the layers."""
        return self.running.rule

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is averaged, by name, as the model has it now."""
        return self.source.tensors()

    @property
    def n_averaged(self) -> int:
        """Number of iterates in the average."""
        return self.running.state.n_averaged

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
        self.swaps.settle("update")
        if self.rule.due(step):
            self.running.include(step)
        self.step = step

    def attach(self, optimizer: Optimizer) -> Attachment:
        """Update after every step of the optimizer, of its rounded weights. The handle's `remove()`
        ends it.

        Steps that a GradScaler skips do not count, nor do those without gradients, nor those with
        zero gradients at a rate of 0 by which `torch.distributed.checkpoint` initializes an
        optimizer. With `include_start` and `start=0` the present weights count. What Accelerate,
        Lightning or Fabric made of an optimizer counts by the one within it.

        Raises
        ------
        TypeError: if `optimizer` is not an Optimizer, or a wrapper that runs no hooks.
        ValueError: if the averager is attached to it already; if it has none of the averaged
            parameters.
        """
        optimizer = hooked_by(optimizer)
        self.attachments.check(optimizer)
        if self.step < 0:
            self.update(0)
        return self.attachments.add(optimizer, self._after_step)

    @property
    def attached(self) -> bool:
        """Whether the averager counts the steps of an optimizer."""
        return bool(self.attachments.standing())

    def _after_step(self, attachment: Attachment) -> None:
        if self.rule.due(max(self.step, 0) + 1):
            attachment.check_trained(self.parameters)
        self.update()

    def average(self) -> dict[str, Tensor]:
        """The averages by name, new tensors in the averaging dtype.

        ValueError before the first, and where the model lacks a parameter that was averaged.
        """
        return self.running.average()

    def sample(self, index: int = 0, scale: float = 0.5) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian of `SWAG`, by name; see `SWAG.sample`. `swap(weights)`
        shows them in the model.

        TypeError if the policy is another one, or the model is sharded. ValueError as in `average`.
        """
        return self.running.sample(index, scale)

    def swap(self, weights: Mapping[str, Tensor] | None = None) -> Swap[Averager]:
        """A context in which the model's parameters hold the average, in their own dtype; at its
        end, also after an exception, they are bit for bit what they were. So are the model's
        buffers, which `update_bn` may have changed.

        A swap that was begun and never left, as by a context that was dropped, is undone at the
        next use of the model or the averager, or by `restore()`.

        Parameters
        ----------
        weights : to be shown instead of the average, by name, as from `sample()`.

        Raises
        ------
        ValueError: before the first average; where names or shapes are not the model's.
        RuntimeError: where another swap of the same parameters stands.
        """
        return Swap(
            self,
            lambda owner: self.swaps.begin(owner, self.average() if weights is None else weights),
        )

    @property
    def swapped(self) -> bool:
        """Whether the model holds the average now, by `swap`."""
        return self.swaps.stands

    def restore(self) -> None:
        """Put back what the model held before a swap that was not left; without one do nothing."""
        self.swaps.restore()

    def forget_swap(self) -> None:
        """Go on with the weights in the model after a swap that was not left."""
        self.swaps.forget()

    def iterate(self) -> dict[str, Tensor]:
        """Copies of what is averaged as training has it, by name; within `swap`, also that of
        another averager, of the model's buffers, too.
        """
        return self.swaps.iterate()

    def set_iterate(self, iterate: Mapping[str, Tensor]) -> None:
        """Inverse of `iterate`. ValueError, and no change, where names or shapes are others, or
        one of what is averaged is missing.

        RuntimeError within `swap`.
        """
        self.swaps.settle("set_iterate()")
        targets = self.source.all_buffers() | self.parameters
        check_fit(iterate, targets)
        missing = sorted(set(self.parameters) - set(iterate))
        if missing:
            raise ValueError(
                f"the iterate lacks {', '.join(missing)}, which this averager averages; pass all"
                " that iterate() gave"
            )
        copy_into(iterate, targets)

    def apply_to(self, model: Weights) -> None:
        """Copy the average into another model's parameters, or for good into this one's.

        ValueError, and no change, before the first average and where names or shapes differ.
        """
        average, targets = self.average(), named_tensors(model, self.source.buffers)
        check_fit(average, targets)
        copy_into(average, targets)

    def __getstate__(self) -> dict[str, Any]:
        if self.swapped:
            raise RuntimeError(
                "the averager cannot be copied within swap(), where the model holds the average;"
                " leave the swap first, or call restore() if it was abandoned"
            )
        swaps = Swaps(self.source)
        attachments = Attachments(self.source, swaps)
        fresh = {"swaps": swaps, "attachments": attachments, "was_attached": self.attached}
        return self.__dict__ | fresh

    def __setstate__(self, state: dict[str, Any]) -> None:
        was_attached = state.pop("was_attached", False)
        self.__dict__.update(state)
        if was_attached:
            warnings.warn(
                "this copy of an Averager is attached to no optimizer, and averages nothing until"
                " attach(optimizer) or update() is called on it",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors, as `torch.load(weights_only=True)` reads them.

        Zeros stand where nothing is kept yet, so that a distributed checkpoint finds the tensors
        that it loads.
        """
        return self.running.state_dict(self.step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. ValueError, and no change, where it is damaged or of another
        model or rule.
        """
        self.swaps.settle("load_state_dict()")
        self.running.load_state_dict(state)
        self.step = state["step"]

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a parameter is averaged in."""
        return self.running.dtype_of(name)
