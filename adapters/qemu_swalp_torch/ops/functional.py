"""Softmax, normalization and nonlinearities with each elementwise operation rounded, in autograd.

`qemu_swalp.training.functional` has the operations of each, forward and backward. Double backward
differentiates the exact operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from qemu_swalp.training.functional import FORMULAS

from ..tensors.transforms import Transformable, applied, transformable
from .elementwise import ElementwiseRules, RoundedArithmetic
from .margin_losses import MarginLosses
from .normalize import affine, standardize, standardize_by
from .pooling import Pooling


class ElementwiseFunctions(MarginLosses, Pooling):
    """The functions of `torch.nn.functional`, each elementwise operation rounded, at one call of a
    module; arguments and shapes are theirs.
    """

    def _formula(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = applied(_Formula, x, name, self._next())
        return result

    def softmax(
        self,
        x: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return self._over(x, dim, dtype, "softmax")

    def log_softmax(
        self,
        x: Tensor,
        dim: int | None = None,
        _stacklevel: int = 3,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return self._over(x, dim, dtype, "log_softmax")

    def _over(self, x: Tensor, dim: int | None, dtype: torch.dtype | None, name: str) -> Tensor:
        if dim is None:  # as PyTorch chooses one
            dim = 0 if x.ndim in (0, 1, 3) else 1
        x = _autocast(x) if dtype is None else x.to(dtype)
        return (
            self._formula(name, x.movedim(dim, -1)).movedim(-1, dim)
            if x.ndim
            else self._formula(name, x[None])[0]
        )

    @wraps(softmax, assigned=())  # with its parameters
    def softmin(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return self.softmax(-x, *arguments, **options)

    def gumbel_softmax(
        self,
        logits: Tensor,
        tau: float = 1,
        hard: bool = False,
        eps: float = 1e-10,
        dim: int = -1,
    ) -> Tensor:
        """softmax((x + noise)/τ); if `hard` the greatest as 1, with that gradient."""
        noise = -torch.empty_like(logits).exponential_().log()
        y = self.softmax(self.div(self.add(logits, noise), tau), dim)
        if not hard:
            return y
        chosen = torch.zeros_like(y).scatter(dim, y.argmax(dim, keepdim=True), 1.0)
        return chosen - y.detach() + y

    def safe_softmax(self, scores: Tensor) -> Tensor:
        """Over the last axis; rows of -infinity alone give zeros."""
        hidden = (scores == -torch.inf).all(-1, keepdim=True)
        return self._formula("softmax", scores.masked_fill(hidden, 0.0)).masked_fill(hidden, 0.0)

    def sigmoid(self, x: Tensor) -> Tensor:
        return self._formula("sigmoid", x)

    def tanh(self, x: Tensor) -> Tensor:
        return self._formula("tanh", x)

    def silu(self, x: Tensor, inplace: bool = False) -> Tensor:
        return self._formula("silu", x)

    def glu(self, x: Tensor, dim: int = -1) -> Tensor:
        if x.ndim == 0 or x.shape[dim] % 2:
            return torch.nn.functional.glu(x, dim)  # PyTorch's error
        values, gates = x.chunk(2, dim)
        return self.mul(values, self.sigmoid(gates))

    def gelu(self, x: Tensor, approximate: str = "none") -> Tensor:
        return self._formula("tanh_gelu" if approximate == "tanh" else "gelu", x)

    def layer_norm(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        return self._normalized(x, len(normalized_shape), weight, bias, eps, centered=True)

    def rms_norm(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        x = _autocast(x)
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        return self._normalized(x, len(normalized_shape), weight, None, eps, centered=False)

    def _normalized(
        self,
        x: Tensor,
        axes: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        centered: bool,
    ) -> Tensor:
        x, rules = _autocast(x), self._next()
        z = standardize(
            x.flatten(-axes).flatten(0, -2) if x.ndim > axes else x.reshape(1, -1),
            eps,
            centered,
            rules,
        )[0]
        return affine(z[..., None], weight, bias, rules)[..., 0].reshape(x.shape)

    def group_norm(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        x, rules = _autocast(x), self._next()
        z = standardize(torch.unflatten(x, 1, (num_groups, -1)).flatten(2), eps, True, rules)[0]
        rows = z.reshape(*x.shape[:2], x.shape[2:].numel())
        return affine(rows, weight, bias, rules).reshape(x.shape)

    def instance_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Batch normalization of each sample; running statistics take in the samples' mean."""
        x, rules = _autocast(x), self._next()
        batch, channels = x.shape[:2]
        rows = x.reshape(batch * channels, x.shape[2:].numel())
        if not use_input_stats:
            if running_mean is None or running_var is None:
                raise ValueError("use_input_stats=False needs running_mean and running_var")
            mean, variance = (s.repeat(batch)[:, None] for s in (running_mean, running_var))
            z = standardize_by(rows, mean, variance, eps, rules)
        else:
            z, mean, variance = standardize(rows, eps, True, rules)
            count = rows.shape[1]
            for running, found in (
                (running_mean, mean),
                (running_var, variance * (count / max(count - 1, 1))),
            ):
                if running is not None:
                    with torch.no_grad():
                        of_batch = found.reshape(batch, channels).mean(0).to(running.dtype)
                        running.lerp_(of_batch, momentum)
        return affine(z.reshape(batch, channels, rows.shape[1]), weight, bias, rules).reshape(
            x.shape
        )

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Running statistics are in full precision; they take in the rounded ones of the batch."""
        if x.ndim < 2:  # PyTorch takes empty ones alone
            return torch.nn.functional.batch_norm(x, running_mean, running_var, training=training)
        rules = self._next()
        rows = x.transpose(0, 1).flatten(1)
        if training and rows.shape[1] == 1:
            raise ValueError(
                f"training needs more than 1 value per channel, got input of shape {tuple(x.shape)}"
            )
        if training:
            z, mean, variance = standardize(rows, eps, True, rules)
            count = rows.shape[1]
            with torch.no_grad():
                if running_mean is not None:
                    running_mean.lerp_(mean[:, 0].to(running_mean.dtype), momentum)
                if running_var is not None:
                    running_var.lerp_(
                        variance[:, 0].to(running_var.dtype) * (count / (count - 1)), momentum
                    )
        elif running_mean is None or running_var is None:
            raise ValueError("batch normalization in evaluation needs running_mean and running_var")
        else:
            z = standardize_by(rows, running_mean[:, None], running_var[:, None], eps, rules)
        y = affine(z[None], weight, bias, rules)[0]
        return y.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


def _autocast(x: Tensor) -> Tensor:
    """In float32 under autocast, as PyTorch has these functions."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x


@transformable
class _Formula(Transformable):
    @staticmethod
    def forward(x: Tensor, name: str, rules: ElementwiseRules) -> Tensor:
        y: Tensor = FORMULAS[name][0](RoundedArithmetic(rules, "forward"), x)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.name, ctx.rules = inputs
        ctx.save_for_backward(output if FORMULAS[ctx.name][2] else x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (saved,), (g,) = ctx.saved_tensors, gradients
        return FORMULAS[ctx.name][1](RoundedArithmetic(ctx.rules, "backward"), saved, g), None, None
