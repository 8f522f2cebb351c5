"""What is kept of a model's iterates by a policy, where the model's tensors are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.interop.torch import array_of, is_dtensor, tensor_of
from qemu_swalp.training import SWAG, AverageState, Averaging, Policy
from qemu_swalp.training.averaging.saved import check_state
from qemu_swalp.training.seeds import seed_for

from ..tensors.arrays import TensorQuantizer
from .source import Source
from .tensors import Iterate, array_like, as_array, placed_like, real_view


def rule_of(policy: Policy | None, default: Averaging) -> Policy:
    """The policy of an `Averager`: the one given, else that of its other arguments; with a seed.

    TypeError if it is no policy, or if both are given.
    """
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
    rule = policy or default
    if rule.quantizer is not None or isinstance(rule, SWAG):
        with seed_for("average", rule.seed) as drawn:
            rule = replace(rule, seed=drawn)
    if rule.quantizer is not None:
        rule = replace(rule, quantizer=TensorQuantizer.of(rule.quantizer, "all", "average"))
    return rule


class Running:
    """The state of a policy over the tensors of a source.

    Parameters
    ----------
    source : what is averaged. rule : the policy. dtype : of the average, as in `Averager`.
    """

    def __init__(self, source: Source, rule: Policy, dtype: torch.dtype | None) -> None:
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype or None, got {dtype!r}")
        self.source, self.dtype = source, dtype
        self.exact = getattr(rule, "exact", None) is not None
        source.check(self.exact)
        self.rule: Policy = source.with_layouts(rule)
        self.state: AverageState = self.rule.init()

    def include(self, step: int) -> None:
        """Average the tensors, which are due after `step` updates, unless they are not finite."""
        tensors = self.source.check(self.exact)
        arrays = {name: array_of(real_view(p)) for name, p in tensors.items()}
        self.rule.check_parameters(arrays, self.state)
        if self.rule.admits(arrays, step):
            dtypes = {name: self._real_dtype_of(p) for name, p in tensors.items()}
            state = self._beside(tensors)
            self.state = self.rule.add(Iterate(tensors, dtypes, self.exact), state)

    def _beside(self, tensors: Mapping[str, Tensor]) -> AverageState:
        """The state where the tensors are now: on their device, and in their shards."""
        kept = self.state.value
        if kept is None:
            return self.state
        value = {
            key: array_like(kept[key], p, self.exact)
            for name, p in tensors.items()
            for key in self.rule.keys(name)
            if key in kept
        }
        return self.state._replace(value=value)

    def average(self) -> dict[str, Tensor]:
        """As `Averager.average`."""
        dtype = torch.float32
        for p in self.source.tensors().values():
            dtype = torch.promote_types(dtype, self._real_dtype_of(p))
        averages = self.rule.average(self.state, str(dtype).removeprefix("torch."))
        return self._as_tensors(averages)

    def sample(self, index: int, scale: float) -> dict[str, Tensor]:
        """As `Averager.sample`."""
        if not isinstance(self.rule, SWAG):
            raise TypeError(
                "sample() needs the policy qemu_swalp.training.SWAG, and this averager has"
                f" {type(self.rule).__name__}"
            )
        sharded = [name for name, p in self.source.tensors().items() if is_dtensor(p)]
        if sharded:
            raise TypeError(
                f"{sharded[0]} is a DTensor, and samples are drawn for whole tensors; load the"
                " averager's state into one of an unsharded model"
            )
        return self._as_tensors(self.rule.sample(self.state, index, scale))

    def _as_tensors(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        present = self.source.tensors()
        gone = sorted(set(arrays) - set(present))
        if gone:
            raise ValueError(
                f"the model has no parameter {', '.join(gone)} any more, which was averaged; make a"
                " new averager for a model that was changed"
            )
        tensors = {name: tensor_of(value).clone() for name, value in arrays.items()}
        return {
            name: torch.view_as_complex(x) if present[name].is_complex() else x
            for name, x in tensors.items()
        }

    def state_dict(self, step: int) -> dict[str, Any]:
        """As `Averager.state_dict`, after `step` updates."""
        kept = self.state.value or {}
        values = {
            key: tensor_of(kept[key]).clone() if key in kept else self._zeros(p)
            for name, p in self.source.tensors().items()
            for key in self.rule.keys(name)
        }
        return {
            "rule": self.rule.record(),
            "step": step,
            "n_averaged": self.state.n_averaged,
            "score": self.state.score,
            "values": values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, but for the step."""
        expected = self.state_dict(0)
        check_state(state, expected, Tensor)
        value: dict[str, Any] = {}
        for key, ours in expected["values"].items():
            loaded = placed_like(state["values"][key], ours).to(ours.dtype, copy=True)
            value[key] = as_array(loaded, self.exact)
        self.rule = replace(self.rule, seed=state["rule"]["seed"])
        self.state = AverageState(
            state["n_averaged"], value if state["n_averaged"] else None, state["score"]
        )

    def _zeros(self, p: Tensor) -> Tensor:
        dtype = torch.int64 if self.exact else self._real_dtype_of(p)
        return torch.zeros_like(real_view(p), dtype=dtype, requires_grad=False)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a tensor is averaged in."""
        p = self.source.tensors()[name]
        dtype = self._real_dtype_of(p)
        return dtype.to_complex() if p.is_complex() else dtype

    def _real_dtype_of(self, p: Tensor) -> torch.dtype:
        """The dtype that a tensor's numbers, or their parts, are averaged in."""
        return self.dtype or torch.promote_types(p.dtype.to_real(), torch.float32)
