"""One training run on PyTorch: a model, its optimizer, its averages. An interrupted run goes on to
the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from qemu_swalp_torch import SGD, disabled, quantize_activations, update_bn
from torch import nn

from ..common import session as common
from ..common.report import Progress, Row
from ..common.session import Weights
from .datasets import batches_in
from .models import build
from .settings import Settings
from .types import Source


class Session(common.Session):
    """A run of numbers with `word` bits, None: float32.

    The seed gives the initial weights, the order and distortion of the images, dropout and the
    rounding.
    """

    def __init__(self, settings: Settings, source: Source, word: int | None, seed: int) -> None:
        self.settings, self.source, self.word, self.seed = settings, source, word, seed
        self.epoch = 0
        torch.manual_seed(seed)
        model = build(settings.model, source.classes, settings.width, settings.depth)
        model.to(settings.device)
        recipe = settings.recipe(word)
        optimizer = SGD(
            model.named_parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            recipe=recipe,
            seed=seed,
        )
        handle = None
        if word is not None:
            handle = quantize_activations(model, recipe, seed=seed, **model.rounded)  # type: ignore[arg-type]
        super().__init__(model, optimizer, handle)

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
            self.descend(loss, rate(self.step))
            sums += torch.stack(
                (loss.detach().double() * len(y), (logits.argmax(1) != y).sum().double())
            )
        self.epoch += 1
        loss_sum, wrong = sums.tolist()
        bar.show(f"epoch {self.epoch}: training error {100 * wrong / images:.1f} %")
        return {"train_loss": loss_sum / images, "train_error": 100 * wrong / images}

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

    def forget_momentum(self) -> None:
        """Momentum of weights that the model no longer has."""
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch = state["epoch"]
