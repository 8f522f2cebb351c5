"""Hooks of one module, which round its outputs or its inputs, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qemu_swalp.training import Recipe

from ..tensors.call_counters import Position
from ..tensors.custom_ops import is_stochastic
from ..tensors.straight_through import straight_through
from .removable import Removable, RoundingSite


class ActivationSite(RoundingSite):
    """Rounds tensors, at any depth of tuples, lists and dicts, each with a stream of its own."""

    by_hooks = True
    end = suffix = ""
    """Whether inputs or outputs are rounded; what is put after the names of sites and roles for
    it.
    """

    def __init__(self, position: Position, recipe: Recipe) -> None:
        super().__init__(position._replace(name=position.name + self.suffix))
        self.module_name = position.name
        self.activation = None if recipe.activation is None else str(recipe.activation)
        self.error = None if recipe.error is None else str(recipe.error)
        self.runs = 0
        """Calls so far, outside of compiled graphs."""
        self.stochastic = any(
            is_stochastic(q) for q in (self.activation, self.error) if q is not None
        )

    def rounded(self, value: Any) -> Any:
        """The value with its floating tensors rounded, or the value itself where the site is
        disabled.
        """
        if not self.enabled:
            return value
        if not torch.compiler.is_compiling():
            self.runs += 1
        return self._rounded_in(value, self.turn(), self.suffix)

    def _rounded_in(self, value: Any, step: int | Tensor, suffix: str) -> Any:
        if isinstance(value, Tensor):
            return self._rounded(value, step, suffix)
        if isinstance(value, dict):
            return type(value)(
                (key, self._rounded_in(v, step, f"{suffix}.{key}")) for key, v in value.items()
            )
        if isinstance(value, tuple | list):
            parts = [self._rounded_in(v, step, f"{suffix}.{i}") for i, v in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    def _rounded(self, x: Tensor, step: int | Tensor, suffix: str) -> Tensor:
        if not x.is_floating_point():
            return x
        return straight_through(
            x,
            self.rule("activation" + suffix, self.activation, step),
            self.rule("error" + suffix, self.error, step),
        )


class OutputSite(ActivationSite):
    """Forward hook: rounds what the module returns."""

    end = "output"

    def register(self, module: nn.Module) -> Sequence[Removable]:
        return (module.register_forward_hook(self),)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return self.rounded(output)


class InputSite(ActivationSite):
    """Forward pre-hook: rounds the positional inputs of the module."""

    end, suffix = "input", ".input"

    def register(self, module: nn.Module) -> Sequence[Removable]:
        return (module.register_forward_pre_hook(self),)

    def __call__(self, module: nn.Module, inputs: Any) -> Any:
        return self.rounded(inputs)
