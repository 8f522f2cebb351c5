"""One training run, read in three ways: its last iterate, averages of its iterates, and where it
parts at FORK, the last iterate of a rate that decays.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from qemu_swalp_torch import disabled, emulate
from torch import Tensor
from torch.nn import functional

from ...training import EMA, LAWA, Averaging, Policy
from ..common import session as common
from ..common.journal import Checkpoint
from ..common.report import Progress, Row
from ..common.session import Weights
from .corpus import Corpus
from .model import ByteModel
from .settings import Settings

Result = dict[str, Any]


class Job(NamedTuple):
    """One training run, by the name of its recipe."""

    recipe: str
    seed: int


def steps_of(settings: Settings) -> int:
    """Steps of a run: those before the fork are made once."""
    return 2 * settings.steps - settings.fork


class Session(common.Session):
    """A run by one recipe. The seed gives the initial weights, the mini-batches, the rounding."""

    def __init__(self, settings: Settings, corpus: Corpus, job: Job) -> None:
        self.settings, self.corpus, self.seed = settings, corpus, job.seed
        torch.manual_seed(job.seed)
        model = ByteModel(settings.context, settings.width, settings.depth, settings.heads)
        model.to(settings.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), settings.learning_rate, (0.9, 0.95), 1e-8, settings.weight_decay
        )
        recipe, handle = settings.recipe(job.recipe), None
        if recipe is not None:
            handle = emulate(
                model, optimizer, recipe, exclude="head", attention=False, seed=job.seed
            )
        super().__init__(model, optimizer, handle)

    def averaging(self) -> dict[str, Policy]:
        """The averages by name, from FORK on."""
        settings, fork = self.settings, self.settings.fork
        return {
            "swa": Averaging(fork, 1, seed=self.seed),
            "ema": EMA(fork, 1, decay=settings.ema_decay),
            "lawa": LAWA(fork, settings.cycle, size=settings.lawa_size),
        }

    def train_step(self, decayed: bool) -> float:
        """One mini-batch; its loss in bits a byte."""
        settings = self.settings
        windows = self.corpus.batch(self.seed, self.step, settings.batch, settings.context + 1)
        loss = self.loss(torch.from_numpy(windows))
        self.descend(loss, settings.rate(self.step, decayed))
        return loss.item() / math.log(2)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross entropy of each byte of the windows but the first, given those before."""
        windows = windows.to(self.settings.device)
        logits = self.model(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    @torch.no_grad()
    def evaluate(self, weights: Weights | None = None) -> Row:
        """Bits a byte on held-out files, of these weights or of the model's own: numbers rounded as
        in training, and in float.
        """
        settings = self.settings
        scores: Row = {}
        windows = torch.from_numpy(self.corpus.windows(settings.held_out, settings.context + 1))
        for name, inside in (("rounded", nullcontext()), ("in_float", disabled(self.model))):
            if name == "in_float" and self.handle is None:
                scores[name] = scores["rounded"]
                continue
            with self.holding(weights or {}), inside:
                parts = torch.split(windows, settings.batch)
                losses = [self.loss(part).item() * len(part) for part in parts]
                scores[name] = sum(losses) / len(windows) / math.log(2)
        return scores


class Run:
    """A session that is resumed, trained, evaluated and saved."""

    def __init__(
        self, job: Job, settings: Settings, corpus: Corpus, checkpoint: Checkpoint, bar: Progress
    ) -> None:
        self.job, self.settings, self.checkpoint, self.bar = job, settings, checkpoint, bar
        self.session = Session(settings, corpus, job)
        self.decayed = False
        self.fork: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.curve: list[Row] = []

    def make(self) -> Result:
        """The constant rate, then the decayed one from the fork on."""
        self.session.follow(self.session.averaging())
        self._resume()
        if not self.decayed:
            self._advance()
            self._read("last", None)
            for name, average in self.session.averages().items():
                self._read(name, average)
            self.decayed = True
            self.session.follow({})
            self.session.load_state_dict(self.fork)
            self._save()
        self._advance()
        self._read("decayed", None)
        return {"rows": self.rows, "curve": self.curve}

    def _advance(self) -> None:
        """Train to the end, and save every so often, and at the fork."""
        session, settings = self.session, self.settings
        label = f"{self.job.recipe}, seed {self.job.seed}" + (", decayed" if self.decayed else "")
        losses: list[float] = []
        for _ in self.bar.steps(settings.steps - session.step, label):
            losses.append(session.train_step(self.decayed))
            self.bar.show(f"{losses[-1]:.2f} bits a byte")
            at_fork = session.step == settings.fork and not self.decayed
            if at_fork:
                self.fork = copy.deepcopy(session.state_dict()) | {"averages": {}}
            if at_fork or session.step % settings.save_every == 0 or session.step == settings.steps:
                mean = sum(losses) / len(losses)
                self.curve.append(
                    {"step": session.step, "decayed": self.decayed, "train_bits": mean}
                )
                losses = []
                self._save()

    def _read(self, method: str, weights: Weights | None) -> None:
        self.rows.append({"method": method} | self.session.evaluate(weights))

    def _save(self) -> None:
        self.checkpoint.save(
            {
                "session": self.session.state_dict(),
                "fork": self.fork,
                "decayed": self.decayed,
                "rows": self.rows,
                "curve": self.curve,
            }
        )

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.fork, self.decayed = state["fork"], state["decayed"]
        self.rows, self.curve = state["rows"], state["curve"]
        if self.decayed:
            self.session.follow({})
        self.session.load_state_dict(state["session"])
        before = self.settings.steps - self.settings.fork if self.decayed else 0
        self.bar.skip(self.session.step + before)
