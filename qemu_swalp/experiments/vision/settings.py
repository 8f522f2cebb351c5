"""Options of the experiments on networks. The defaults of each experiment are in `presets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...formats import bfp
from ...training import FULL_PRECISION, Quantizer, Recipe, SQWASchedule, SWALPSchedule
from ..common.settings import RunSettings, option

METHODS = ("sgd", "decayed", "swa", "ema", "lawa", "aswa", "sqwa", "swap")
ROLES = ("weight", "activation", "error", "gradient", "momentum")
"""Those of algorithm 2."""
KIND_OF_PREFIX = {"ema": "plain", "lawa": "plain", "sqwa": "sqwa", "swap": "swap"}
"""First word of an option → the one kind of run that it concerns."""


@dataclass(frozen=True)
class Settings(RunSettings):
    """What can be chosen; `experiment`, `dataset` and `model` are fixed by the preset."""

    chosen: ClassVar[tuple[str, ...]] = ("seed", "seeds", "method", "precision", "words")
    experiment: ClassVar[str] = ""
    dataset: ClassVar[str] = ""
    model: ClassVar[str] = ""

    seeds: int = option(3, "number of runs, with seeds SEED, SEED + 1, …", quick=2, above=0)
    method: tuple[str, ...] = option(
        ("sgd", "swa"),
        "what to report; swa is SWALP where numbers are low-precision",
        choices=METHODS,
    )
    precision: tuple[str, ...] = option(
        ("float", "low"), "which numbers to train with", choices=("float", "low")
    )
    words: tuple[int, ...] = option(
        (8,), "bits of each low-precision number; several one after another", above=1, most=24
    )
    weight_word: int = option(0, "bits of weights, 0: as --words", above=-1, most=24)
    activation_word: int = option(0, "bits of activations, 0: as --words", above=-1, most=24)
    error_word: int = option(0, "bits of errors, 0: as --words", above=-1, most=24)
    gradient_word: int = option(0, "bits of gradients, 0: as --words", above=-1, most=24)
    momentum_word: int = option(0, "bits of momenta, 0: as --words", above=-1, most=24)
    block: str = option(
        "small",
        "one exponent for each output channel or sample, or for each tensor",
        choices=("small", "big"),
    )
    rounding: str = option("stochastic", "of all numbers", choices=("stochastic", "nearest_even"))

    epochs: int = option(300, "passes over the training images", quick=3, above=0)
    start: int = option(200, "epochs before averaging", quick=1, above=-1)
    learning_rate: float = option(0.05, "at first", above=0)
    swa_learning_rate: float = option(0.01, "constant, from START on", above=0)
    decay_start: float = option(0.5, "part of START before the rate falls, linearly", above=-1)
    decay_end: float = option(0.9, "part of START when it has fallen", above=0)
    floor: float = option(0.01, "how far it falls, as a part of it", above=0, most=1)
    batch: int = option(128, "images in a mini-batch", quick=32, above=0)
    momentum: float = option(0.9, "of SGD", above=-1)
    weight_decay: float = option(5e-4, "of SGD, added after the gradient is rounded", above=-1)

    cycle: tuple[int, ...] = option(
        (0,), "steps between averages, 0: an epoch; several at once compare frequencies", above=-1
    )
    average_words: tuple[int, ...] = option(
        (0,),
        "bits of the average in block floating point, 0: float; several at once compare precisions",
        above=-1,
        most=24,
    )
    include_start: bool = option(
        True, "average the weights at START too, as the authors' code does; not so in algorithm 2"
    )

    ema_decay: float = option(
        0.9, "ema: part of the average that a cycle keeps", above=-1, most=0.999999
    )
    lawa_size: int = option(5, "lawa: number of latest iterates", above=0)
    validation: int = option(
        0, "training images held out for aswa's choices, from all methods", above=-1
    )
    sqwa_start: int = option(0, "sqwa: epochs before the cyclic rate, 0: START", above=-1)
    sqwa_period: int = option(1, "sqwa: epochs of a cycle", above=0)
    sqwa_captures: int = option(7, "sqwa: models to capture and average", quick=1, above=0)
    sqwa_high: float = option(0.05, "sqwa: highest rate of a cycle", above=0)
    sqwa_low: float = option(
        0.005, "sqwa: lowest rate of a cycle, at which models are captured", above=0
    )
    sqwa_fine_tuning: float = option(
        0.0005, "sqwa: rate after the average is quantized again", above=0
    )
    sqwa_shape: str = option(
        "linear", "sqwa: of a cycle", choices=("linear", "cosine", "triangular")
    )
    swap_workers: int = option(4, "swap: independent workers of phase 2", quick=2, above=0)
    swap_batch: int = option(1024, "swap: images in a mini-batch of phase 1", quick=128, above=0)
    swap_rate: float = option(0.1, "swap: constant rate of phase 1", above=0)
    swap_accuracy: float = option(98.0, "swap: training accuracy, %, that ends phase 1", above=0)
    swap_epochs: int = option(0, "swap: epochs that phase 1 may take, 0: START", quick=1, above=-1)
    swap_refine: int = option(0, "swap: epochs of phase 2, 0: EPOCHS - START", quick=1, above=-1)
    swap_refine_rate: float = option(
        0.01, "swap: rate of phase 2, which falls to FLOOR of it", above=0
    )
    swap_processes: bool = option(
        False,
        "swap: a process for each worker, joined by torch.distributed (gloo); the "
        "same bits as one after another",
        recorded=False,
    )

    width: int = option(
        0, "channels of the first stage, 0: the published network's", quick=4, above=-1
    )
    depth: int = option(
        0, "layers, where the network comes in several depths, 0: the published network's", above=-1
    )
    subset: int = option(0, "use only so many training images, 0: all", quick=256, above=-1)
    test_subset: int = option(0, "use only so many test images, 0: all", quick=100, above=-1)
    evaluate_every: int = option(
        0, "epochs between points of the curves, 0: at START and at the end only", above=-1
    )
    data_dir: str = option("", "folder that holds the data set", recorded=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start >= self.epochs:
            raise ValueError(
                "--start must be less than --epochs, or nothing is averaged; "
                f"got {self.start} and {self.epochs}"
            )
        if "aswa" in self.method and not self.validation:
            raise ValueError(
                "--method aswa needs --validation, the number of training images held out for it"
            )
        if "sqwa" in self.method and self.sqwa_end >= self.epochs:
            raise ValueError(
                "--epochs must exceed the end of sqwa's cycles, sqwa-start + sqwa-captures ·"
                f" sqwa-period = {self.sqwa_end}, got {self.epochs}"
            )
        _ = self.schedule, self.recipe(self.words[0])

    def recipe(self, word: int | None) -> Recipe:
        """Of numbers with so many bits; None: float32."""
        if word is None:
            return FULL_PRECISION
        quantizers: Any = {
            role: self.quantizer(role, getattr(self, f"{role}_word") or word) for role in ROLES
        }
        return Recipe(**quantizers)

    def quantizer(self, role: str, word: int) -> Quantizer:
        """Block floating point, as `block` and `rounding` say."""
        axis = "batch" if role in ("activation", "error") else "out"
        return Quantizer(bfp(word, axis=axis if self.block == "small" else None), self.rounding)

    def average_quantizer(self, word: int | None) -> Quantizer | None:
        """Of averaged weights with so many bits: layers of PyTorch, whose output channels are axis
        0 in all models here.
        """
        return self.quantizer("average", word).resolve(out=0) if word else None

    @property
    def schedule(self) -> SWALPSchedule:
        """The rate by epoch."""
        return SWALPSchedule(
            self.learning_rate,
            self.start,
            self.swa_learning_rate,
            self.decay_start,
            self.decay_end,
            self.floor,
        )

    @property
    def decayed(self) -> SWALPSchedule:
        """The rate by epoch that falls over all epochs, for SGD with the same budget."""
        return SWALPSchedule(
            self.learning_rate, self.epochs, None, self.decay_start, self.decay_end, self.floor
        )

    def sqwa_schedule(self, epoch: int) -> SQWASchedule:
        """SQWA's rate by step; an epoch has so many."""
        return SQWASchedule(
            self.learning_rate,
            epoch * (self.sqwa_start or self.start),
            epoch * self.sqwa_period,
            self.sqwa_captures,
            self.sqwa_high,
            self.sqwa_low,
            self.sqwa_fine_tuning,
            self.sqwa_shape,
        )

    @property
    def sqwa_end(self) -> int:
        """The epoch at which SQWA's fine-tuning begins."""
        return (self.sqwa_start or self.start) + self.sqwa_captures * self.sqwa_period

    @property
    def swap_phases(self) -> tuple[int, int]:
        """Epochs that SWAP's phases take, the first at most."""
        return self.swap_epochs or self.start or 1, self.swap_refine or self.epochs - self.start

    @property
    def swap_schedule(self) -> SWALPSchedule:
        """The rate of SWAP's phase 2 by epoch."""
        return SWALPSchedule(
            self.swap_refine_rate,
            self.swap_phases[1],
            None,
            self.decay_start,
            self.decay_end,
            self.floor,
        )

    def identity(self, kind: str) -> dict[str, Any]:
        """What the numbers of a run of that kind depend on, beside its seed and bits."""
        return {"dataset": self.dataset, "model": self.model} | {
            key: value
            for key, value in self.record().items()
            if key not in self.chosen and KIND_OF_PREFIX.get(key.partition("_")[0], kind) == kind
        }
