"""An average of a model's weights, kept beside the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp._util.checks import check_int
from qemu_swalp.interop.torch import array_of, is_dtensor, tensor_of
from qemu_swalp.training import SWAG, AverageState, Averaging, Policy, Quantizer
from qemu_swalp.training.seeds import seed_for

from ..optim.wrappers import hooked_by
from ..tensors.arrays import TensorQuantizer
from .attachment import Attachment, Attachments
from .source import Source
from .state import check_state
from .swap import Swap, Swaps
from .tensors import (
    Iterate,
    Weights,
    array_like,
    as_array,
    check_fit,
    copy_into,
    named_tensors,
    placed_like,
    real_view,
)


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
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(
                "policy must be a qemu_swalp.training.Policy, such as EMA(decay=0.999), or None, "
                f"got {policy!r}"
            )
        if policy is not None and default != Averaging():
            raise TypeError(
                "policy and the arguments that make one exclude each other: give start, cycle, "
                f"include_start, nonfinite, quantizer and seed to {type(policy).__name__}"
            )
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
        rule = policy or default
        if rule.quantizer is not None or isinstance(rule, SWAG):
            with seed_for("average", rule.seed) as drawn:
                rule = replace(rule, seed=drawn)
        if rule.quantizer is not None:
            rule = replace(rule, quantizer=TensorQuantizer.of(rule.quantizer, "all", "average"))
        self.exact = getattr(rule, "exact", None) is not None
        self.dtype = dtype
        self.source = Source(model, buffers, trainable_only)
        self.source.check(self.exact)
        self.rule: Policy = self.source.with_layouts(rule)
        self.swaps = Swaps(self.source)
        self.step = -1
        self.state: AverageState = self.rule.init()
        self.attachments = Attachments(self.source, self.swaps)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What is averaged, by name, as the model has it now."""
        return self.source.tensors()

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
        self.swaps.settle("update")
        if self.rule.due(step):
            self._include(step)
        self.step = step

    def _include(self, step: int) -> None:
        """Average the weights, which are due after `step` updates, unless they are not finite."""
        parameters = self.source.check(self.exact)
        arrays = {name: array_of(real_view(p)) for name, p in parameters.items()}
        self.rule.check_parameters(arrays, self.state)
        if self.rule.admits(arrays, step):
            dtypes = {name: self._real_dtype_of(p) for name, p in parameters.items()}
            state = self._beside(parameters)
            self.state = self.rule.add(Iterate(parameters, dtypes, self.exact), state)

    def _beside(self, parameters: Mapping[str, Tensor]) -> AverageState:
        """The state where the parameters are now: on their device, and in their shards."""
        kept = self.state.value
        if kept is None:
            return self.state
        value = {
            key: array_like(kept[key], p, self.exact)
            for name, p in parameters.items()
            for key in self.rule.keys(name)
            if key in kept
        }
        return self.state._replace(value=value)

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
        dtype = torch.float32
        for p in self.parameters.values():
            dtype = torch.promote_types(dtype, self._real_dtype_of(p))
        averages = self.rule.average(self.state, str(dtype).removeprefix("torch."))
        return self._as_tensors(averages)

    def sample(self, index: int = 0, scale: float = 0.5) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian of `SWAG`, by name; see `SWAG.sample`. `swap(weights)`
        shows them in the model.

        TypeError if the policy is another one, or the model is sharded. ValueError as in `average`.
        """
        if not isinstance(self.rule, SWAG):
            raise TypeError(
                "sample() needs the policy qemu_swalp.training.SWAG, and this averager has"
                f" {type(self.rule).__name__}"
            )
        sharded = [name for name, p in self.parameters.items() if is_dtensor(p)]
        if sharded:
            raise TypeError(
                f"{sharded[0]} is a DTensor, and samples are drawn for whole tensors; load the"
                " averager's state into one of an unsharded model"
            )
        return self._as_tensors(self.rule.sample(self.state, index, scale))

    def _as_tensors(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        parameters = self.parameters
        gone = sorted(set(arrays) - set(parameters))
        if gone:
            raise ValueError(
                f"the model has no parameter {', '.join(gone)} any more, which was averaged; make a"
                " new averager for a model that was changed"
            )
        tensors = {name: tensor_of(value).clone() for name, value in arrays.items()}
        return {
            name: torch.view_as_complex(x) if parameters[name].is_complex() else x
            for name, x in tensors.items()
        }

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
        kept = self.state.value or {}
        values = {
            key: tensor_of(kept[key]).clone() if key in kept else self._zeros(p)
            for name, p in self.parameters.items()
            for key in self.rule.keys(name)
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
        self.swaps.settle("load_state_dict()")
        expected = self.state_dict()
        check_state(state, expected)
        value: dict[str, Any] = {}
        for key, ours in expected["values"].items():
            loaded = placed_like(state["values"][key], ours).to(ours.dtype, copy=True)
            value[key] = as_array(loaded, self.exact)
        self.rule = replace(self.rule, seed=state["rule"]["seed"])
        self.state = AverageState(
            state["n_averaged"], value if state["n_averaged"] else None, state["score"]
        )
        self.step = state["step"]

    def _zeros(self, p: Tensor) -> Tensor:
        dtype = torch.int64 if self.exact else self._real_dtype_of(p)
        return torch.zeros_like(real_view(p), dtype=dtype, requires_grad=False)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a parameter is averaged in."""
        dtype, p = self._real_dtype_of(self.parameters[name]), self.parameters[name]
        return dtype.to_complex() if p.is_complex() else dtype

    def _real_dtype_of(self, p: Tensor) -> torch.dtype:
        """The dtype that a parameter's numbers, or their parts, are averaged in."""
        return self.dtype or torch.promote_types(p.dtype.to_real(), torch.float32)
