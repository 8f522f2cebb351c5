"""What rounding does in a training run, site by site, as a table and for TensorBoard."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp import RandomBits
from qemu_swalp._util.tables import table
from qemu_swalp.arrays import Array
from qemu_swalp.interop.torch import local_part, tensor_of, untraced
from qemu_swalp.ops.analysis import Analysis, UpdateAnalysis, analyze
from qemu_swalp.training import Quantizer

from .optim.grad_scaler import step_is_skipped
from .optim.param_plan import labels
from .tensors.model_names import known_names, remember
from .tensors.observers import OBSERVERS, Label

WEIGHTS = ("weight", "accumulator")
"""Roles whose roundings can lose updates."""


class Gradients:
    """First and second moment of the gradients of one parameter over some steps."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.total: Tensor | float = 0.0

    def add(self, gradient: Tensor) -> None:
        """Count a gradient."""
        g = gradient.double()
        self.count += 1
        self.squares += float(g.square().sum())
        self.total = self.total + g

    @property
    def to_noise(self) -> float:
        """‖ḡ‖²/tr Σ: infinity where they are all alike, NaN for fewer than two."""
        if self.count < 2:
            return math.nan
        mean_square = float((torch.as_tensor(self.total) / self.count).square().sum())
        noise = (self.squares - self.count * mean_square) / (self.count - 1)
        return mean_square / noise if noise > 0 else math.inf


class Monitor:
    """Watches every rounding of model and optimizer while it is entered; figures add up until
    `reset`.

    Of every place and role: the share of elements that saturate, that underflow to 0 and that are
    infinite or NaN, and the signal to quantization noise ratio in dB. Of weights (or their
    accumulators): the share of updates that are lost, since the weight rounds back to what it was.
    Of parameters: the gradient-to-noise ratio ‖ḡ‖²/tr Σ, ḡ mean and Σ covariance of the gradients
    of the steps seen, which is the inverse of the gradient noise scale of McCandlish et al. 2018
    (arXiv 1812.06162) at that batch size. It sees what is rounded in this process, by whatever
    model: activations, errors, operands of products, elementwise operations, the optimizer's
    tensors and the average. The partial sums of `Recipe(sums=)` and of sums among the elementwise
    operations it does not see.

    Parameters bear the names that they have in `model` or in another model that a call of this
    package was given; without, those of the optimizer's (name, parameter) pairs or their places in
    `param_groups`.

    Watching takes about the time of two more roundings, and for each parameter the memory of two
    more. Watch some steps in a hundred, not all. Each rank sees its own shards of a DTensor.

    Parameters
    ----------
    optimizer : whose gradients, as its steps see them, the ratio is of; None leaves it out.
    model : by whose names the parameters are called.

    Raises
    ------
    TypeError: if `optimizer` is no Optimizer, or `model` no module.

    >>> import torch
    >>> from qemu_swalp.training import Recipe
    >>> from qemu_swalp_torch import quantize_optimizer
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> recipe = Recipe(weight="fixed<8,4>/nearest_even")
    >>> opt = quantize_optimizer(torch.optim.SGD([("w", w)], lr=0.01), recipe)
    >>> with Monitor(opt) as monitor:
    ...     for _ in range(3):
    ...         w.grad = torch.tensor([1.0, 9.0])
    ...         opt.step()
    >>> (row,) = monitor.rows()
    >>> row["role"], row["saturated"], row["lost_updates"], row["gradient_to_noise"]
    ('weight', 0.0, 0.5, inf)
    """

    def __init__(self, optimizer: Optimizer | None = None, model: nn.Module | None = None) -> None:
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be a torch.optim.Optimizer or None, got"
                f" {type(optimizer).__qualname__}"
            )
        if model is not None:
            if not isinstance(model, nn.Module):
                raise TypeError(
                    "model must be a torch.nn.Module or None, got"
                    f" {type(model).__module__}.{type(model).__qualname__}"
                )
            remember(model)
        self.optimizer = optimizer
        self.handle: RemovableHandle | None = None
        self.last: dict[Label, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the figures."""
        self.quantizers: dict[Label, str] = {}
        self.analyses: dict[Label, Analysis] = defaultdict(Analysis)
        self.updates: dict[Label, UpdateAnalysis] = defaultdict(UpdateAnalysis)
        self.gradients: dict[str, Gradients] = defaultdict(Gradients)

    def __enter__(self) -> Monitor:
        if self._observe in OBSERVERS:
            raise RuntimeError("this monitor is watching already")
        self.last.clear()
        OBSERVERS.append(self._observe)
        if self.optimizer is not None:
            self.handle = self.optimizer.register_step_post_hook(self._after_step)
        return self

    def __exit__(self, *exception: object) -> None:
        OBSERVERS.remove(self._observe)
        if self.handle is not None:
            self.handle.remove()

    @torch.no_grad()
    def _observe(
        self, label: Label, x: Array, quantizer: Quantizer, random: RandomBits | None
    ) -> None:
        self.quantizers[label] = str(quantizer)
        self.analyses[label] += analyze(x, quantizer.format, quantizer.rounding, random=random)
        if label.role not in WEIGHTS:
            return
        moved, before = tensor_of(x), self.last.get(label)
        after = tensor_of(Quantizer(quantizer.format, quantizer.rounding)(x, random))
        if before is not None:
            changed = moved != before
            lost = changed & (after == before)
            self.updates[label] += UpdateAnalysis(int(changed.sum()), int(lost.sum()))
        self.last[label] = after.clone()

    @untraced
    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if step_is_skipped(optimizer):
            return
        known = known_names()
        for g, group in enumerate(optimizer.param_groups):
            for label, p in labels(g, group, known):
                if p.grad is not None:
                    self.gradients[label].add(local_part(p.grad))

    def rows(self) -> list[dict[str, Any]]:
        """One for each place and role, as plain values: place, role, quantizer (None: not rounded),
        saturated, flushed, nonfinite, sqnr_db, lost_updates, gradient_to_noise; None where a figure
        does not apply, NaN where there was too little to see for it.
        """
        rows = []
        for label, analysis in self.analyses.items():
            weight = label.role in WEIGHTS
            rows.append(
                {
                    "place": label.name,
                    "role": label.role,
                    "quantizer": self.quantizers[label],
                    "saturated": analysis.share_saturated,
                    "flushed": analysis.share_flushed,
                    "nonfinite": analysis.share_nonfinite,
                    "sqnr_db": analysis.sqnr_db,
                    "lost_updates": self.updates[label].zero_update_rate if weight else None,
                    "gradient_to_noise": (
                        self.gradients[label.name].to_noise
                        if label.name in self.gradients and label.role == "weight"
                        else None
                    ),
                }
            )
        shown = {label.name for label in self.analyses if label.role == "weight"}
        rows += [
            {
                "place": place,
                "role": "weight",
                "quantizer": None,
                "saturated": None,
                "flushed": None,
                "nonfinite": None,
                "sqnr_db": None,
                "lost_updates": None,
                "gradient_to_noise": gradients.to_noise,
            }
            for place, gradients in self.gradients.items()
            if place not in shown
        ]
        return rows

    def write(self, writer: Any, step: int | None = None) -> None:
        """Every figure as a scalar named PLACE/ROLE/FIGURE, to a
        `torch.utils.tensorboard.SummaryWriter`.
        """
        for row in self.rows():
            for figure, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(f"{row['place']}/{row['role']}/{figure}", value, step)

    def __str__(self) -> str:
        """The rows as a table; nothing where nothing was seen."""
        header = (
            "place",
            "role",
            "quantizer",
            "saturated",
            "flushed",
            "non-finite",
            "SQNR, dB",
            "lost updates",
            "gradient/noise",
        )
        formats = ("", "", "", ".2%", ".2%", ".2%", ".1f", ".2%", ".3g")
        return table(
            header,
            (
                [
                    ("" if value is None or value != value else format(value, how))
                    for value, how in zip(row.values(), formats, strict=True)
                ]
                for row in self.rows()
            ),
            left=range(3),
        )
