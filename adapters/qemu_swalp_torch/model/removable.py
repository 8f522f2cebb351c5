"""Sites that can be put on a module, and taken off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import nn

from ..tensors.call_counters import Site


class Removable(Protocol):
    """A hook's handle, or what else can be taken off a module."""

    def remove(self) -> None: ...


class RoundingSite(Site, ABC):
    """A site that can be put on its module."""

    expected = True
    """Whether something will be rounded there, as far as can be known before a forward."""

    possible = True
    """Whether something may be."""

    by_hooks = False
    """Whether it stands in hooks of its module, for which torch.compile does not look again."""

    @abstractmethod
    def register(self, module: nn.Module) -> Sequence[Removable]:
        """Begin to round there. Returns what ends it."""
