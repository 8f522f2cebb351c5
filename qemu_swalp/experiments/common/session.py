"""A training run on PyTorch that is resumed to the same bits: a model, its optimizer, what rounds
in it, its averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...training import AverageState, Policy

Weights = Mapping[str, Tensor]


class Handle(Protocol):
    """Of what rounds within a model."""

    @property
    def state_dict(self) -> Callable[[], dict[str, Any]]: ...

    @property
    def load_state_dict(self) -> Callable[[Any], object]: ...


class Session:
    """What every run has; `handle` is None in float32."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, handle: Handle | None
    ) -> None:
        self.model, self.optimizer, self.handle = model, optimizer, handle
        self.policies: dict[str, Policy] = {}
        self.states: dict[str, AverageState] = {}
        self.step = 0

    def follow(self, policies: Mapping[str, Policy]) -> None:
        """Average the weights by these policies, by name, from now on."""
        self.policies = dict(policies)
        self.states = {name: policy.init() for name, policy in policies.items()}
        self.note()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters by name, as they are now: live, without gradient."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step of the optimizer; the averages see it."""
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.note()

    def note(self) -> None:
        """Show the weights to the averages."""
        for name, policy in self.policies.items():
            self.states[name] = policy.update(self.weights, self.states[name], self.step)

    @contextmanager
    def holding(self, weights: Weights) -> Iterator[None]:
        """Within it the model has these weights; at its end everything is as it was, random steps
        included.
        """
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        calls, training = self.handle.state_dict() if self.handle else {}, self.model.training
        try:
            self.put(weights)
            yield
        finally:
            self.model.load_state_dict(before)
            self.model.train(training)
            if self.handle:
                self.handle.load_state_dict(calls)

    @torch.no_grad()
    def put(self, weights: Weights) -> None:
        """Copy weights into the model's parameters."""
        for name, parameter in self.model.named_parameters():
            if name in weights:
                parameter.copy_(torch.as_tensor(weights[name]))

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """The averages that have begun, by policy."""
        return {
            name: policy.average(self.states[name])
            for name, policy in self.policies.items()
            if self.states[name].n_averaged
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on, as `torch.load(weights_only=True)`
        reads it.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "calls": self.handle.state_dict() if self.handle else {},
            "averages": {name: tuple(state) for name, state in self.states.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self.handle:
            self.handle.load_state_dict(state["calls"])
        self.states = {name: AverageState(*kept) for name, kept in state["averages"].items()}
