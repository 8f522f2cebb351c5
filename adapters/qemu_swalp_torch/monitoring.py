"""What rounding does in a training run, site by site, as a table and for TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp import RandomBits
from qemu_swalp.arrays import Array
from qemu_swalp.interop.torch import local_part, untraced
from qemu_swalp.training import Quantizer
from qemu_swalp.training.figures import RoundingFigures

from .optim.grad_scaler import step_is_skipped
from .optim.param_plan import labels
from .tensors.model_names import known_names, remember
from .tensors.observers import OBSERVERS, Label


class Monitor(RoundingFigures):
    """Watches every rounding of model and optimizer while it is entered; figures add up until
    `reset`.

    Of every place and role: the share of elements that saturate, that underflow to 0 and that are
    infinite or NaN, and the signal to quantization noise ratio in dB. Of weights (or their
    accumulators): the share of updates that are lost, since the weight rounds back to what it was.
    Of parameters: the gradient-to-noise ratio ‖ḡ‖²/tr Σ, ḡ mean and Σ covariance of the gradients
    of the steps seen. It is the inverse of the gradient noise scale of McCandlish et al. 2018
    (arXiv 1812.06162) at that batch size. It sees what is rounded in this process, by whatever
    model: activations, errors, operands of products, elementwise operations, the optimizer's
    tensors and the average. The partial sums of `Recipe(sums=)` and of sums among the elementwise
    operations it does not see.

    Parameters bear the names that they have in `model` or in another model that a call of this
    package was given. Without, they bear those of the optimizer's (name, parameter) pairs or their
    places in `param_groups`.

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
        super().__init__()

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
        self, label: Label, x: Array, quantizer: Quantizer, random: RandomBits | None, scales: Any
    ) -> None:
        self.see(label, x, quantizer, random, scales)

    @untraced
    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if step_is_skipped(optimizer):
            return
        known = known_names()
        for g, group in enumerate(optimizer.param_groups):
            for label, p in labels(g, group, known):
                if p.grad is not None:
                    self.gradients[label].add(local_part(p.grad).double())
