"""One training run on PyTorch: a model, its optimizer, its averages. An interrupted run goes on to
the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from qemu_swalp_torch import SGD, disabled, quantize_activations, update_bn
from torch import Tensor, nn

from ...training import AverageState, Policy
from ..common.report import Progress, Row
from .datasets import batches_in
from .models import build
from .settings import Settings
from .types import Source

Weights = Mapping[str, Tensor]


class Session:
    """A run of numbers with `word` bits, None: float32.

    The seed gives the initial weights, the order and distortion of the images, dropout and the
    rounding.
    """

    def __init__(self, settings: Settings, source: Source, word: int | None, seed: int) -> None:
        self.settings, self.source, self.word, self.seed = settings, source, word, seed
        torch.manual_seed(seed)
        self.model = build(settings.model, source.classes, settings.width, settings.depth).to(
            settings.device
        )
        recipe = settings.recipe(word)
        self.optimizer = SGD(
            self.model.named_parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            recipe=recipe,
            seed=seed,
        )
        self.handle = None
        if word is not None:
            self.handle = quantize_activations(self.model, recipe, seed=seed, **self.model.rounded)  # type: ignore[arg-type]
        self.policies: dict[str, Policy] = {}
        self.states: dict[str, AverageState] = {}
        self.step = self.epoch = 0

    def follow(self, policies: Mapping[str, Policy]) -> None:
        """Average the weights by these policies, by name, from now on."""
        self.policies = dict(policies)
        self.states = {name: policy.init() for name, policy in policies.items()}
        self._note()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters by name, as they are now: live, without gradient."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def train_epoch(
        self, rate: Callable[[int], float], batch: int, bar: Progress, label: str
    ) -> Row:
        """One pass over the training images at rate(step), averaging after each step; its mean loss
        and error.
        """
        torch.manual_seed(self.seed * 1_000_003 + self.epoch)  # dropout depends on (seed, epoch)
        self.model.train()
        sums = torch.zeros(
            2, dtype=torch.float64, device=self.settings.device
        )  # read once: a GPU need not wait
        images, steps = len(self.source), batches_in(len(self.source), batch)
        batches = self.source.train(self.seed, self.epoch, batch)
        for _, (x, y) in zip(bar.steps(steps, label), batches, strict=True):
            x, y = x.to(self.settings.device), y.to(self.settings.device)
            logits = self.model(x)
            loss = nn.functional.cross_entropy(logits, y)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step)
            self.optimizer.step()
            self.step += 1
            sums += torch.stack(
                (loss.detach().double() * len(y), (logits.argmax(1) != y).sum().double())
            )
            self._note()
        self.epoch += 1
        loss_sum, wrong = sums.tolist()
        return {"train_loss": loss_sum / images, "train_error": 100 * wrong / images}

    def _note(self) -> None:
        for name, policy in self.policies.items():
            self.states[name] = policy.update(self.weights, self.states[name], self.step)

    @torch.no_grad()
    def evaluate(self, part: str, weights: Weights | None = None) -> Row:
        """Error in percent and mean loss on "validation" or "test" images, batch-norm statistics
        set anew.

        Of the weights given, in float, as an average is evaluated; else of the model as it trains,
        its activations rounded. The model is afterwards as it was.
        """
        device, in_float = self.settings.device, self.handle and weights is not None
        with self.holding(weights or {}), disabled(self.model) if in_float else nullcontext():
            update_bn(
                self.source.train(self.seed, self.epoch, self.settings.batch),
                self.model,
                device=device,
            )
            self.model.eval()
            loss = wrong = count = 0.0
            for x, y in self.source.held_out(part, 500):
                logits, y = self.model(x.to(device)), y.to(device)
                loss += nn.functional.cross_entropy(logits, y, reduction="sum").item()
                wrong += (logits.argmax(1) != y).sum().item()
                count += len(y)
        return {"error": 100 * wrong / count, "loss": loss / count}

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

    def forget_momentum(self) -> None:
        """Momentum of weights that the model no longer has."""
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()

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
            "epoch": self.epoch,
            "calls": self.handle.state_dict() if self.handle else {},
            "averages": {name: tuple(state) for name, state in self.states.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch = state["step"], state["epoch"]
        if self.handle:
            self.handle.load_state_dict(state["calls"])
        self.states = {name: AverageState(*kept) for name, kept in state["averages"].items()}
