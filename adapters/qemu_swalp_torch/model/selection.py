"""Choosing modules of a model by type, name or predicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from qemu_swalp.training import selection

from .._compat import AVERAGE_POOLS, ConvNd, NormBase

Selection: TypeAlias = (
    "type[nn.Module] | str | Callable[[str, nn.Module], bool] | Sequence[Selection]"
)
"""A module type, a pattern of names, a predicate (name, module) -> bool, or several of these."""

NONLINEARITIES: tuple[type[nn.Module], ...] = tuple(
    kind
    for name in nn.modules.activation.__all__
    if (kind := getattr(nn.modules.activation, name)) is not nn.MultiheadAttention
)

COMPUTING_MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    ConvNd,
    NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    *AVERAGE_POOLS,
    nn.MultiheadAttention,
    *NONLINEARITIES,
)
"""Leaf modules whose outputs are new numbers: not those that choose, move or drop some (max
pooling, padding, dropout).
"""


class Matmul(nn.Module):
    """`torch.matmul(a, b)` as a module, so that a product of activations can be chosen by name and
    rounded.

    >>> import torch
    >>> Matmul()(torch.ones(2, 3), torch.ones(3, 1)).tolist()
    [[3.0], [3.0]]
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a of shape (…, M, K), b (…, K, N)."""
        return a @ b


GEMM_MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    ConvNd,
    nn.MultiheadAttention,
    Matmul,
)
"""Modules that multiply matrices."""


def is_inner(module: nn.Module) -> bool:
    """Whether a module is never called, since its owner reads its parameters:
    `nn.MultiheadAttention.out_proj`.
    """
    return isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)


def chosen(name: str, module: nn.Module, choice: Selection) -> bool:
    """Whether a module is among those selected. TypeError for a selection that is none."""
    return selection.chosen(name, module, choice, nn.Module, "module")


def is_excluded(name: str, module: nn.Module, choice: Selection) -> bool:
    """Whether a module is among those selected, or lies in one that a pattern of names selects."""
    parts = name.split(".")
    outer = (".".join(parts[:n]) for n in range(1, len(parts)))
    patterns = patterns_in(choice)
    return chosen(name, module, choice) or any(
        fnmatchcase(part, pattern) for part in outer for pattern in patterns
    )


def patterns_in(choice: Selection) -> list[str]:
    """The patterns of names in a selection."""
    if isinstance(choice, str):
        return [choice]
    return [p for one in choice for p in patterns_in(one)] if isinstance(choice, Sequence) else []
