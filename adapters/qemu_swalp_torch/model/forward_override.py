"""Sites that stand in for the forward of a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..tensors.call_counters import Position
from .removable import Removable, RoundingSite


class ForwardSite(RoundingSite):
    """What a module has in place of its `forward`.

    Of two on one module, that of elementwise operations calls that of products.
    """

    level = 0
    """Of two sites of a module the higher is the outer one."""
    inner: Any = None
    """The other site, whose `run` takes the softmax of its attention before the inputs."""

    def __init__(self, position: Position, module: nn.Module) -> None:
        super().__init__(position)
        self.module = module

    def register(self, module: nn.Module) -> Sequence[Removable]:
        """Stand in for the module's forward."""
        above = forward_of(self.module)
        if above is not None and above.level > self.level:
            above.inner = self
        else:
            self.inner = above
            self.module.__dict__["forward"] = self
        # A hook, since nn.TransformerEncoderLayer calls its parts in inference only if they have
        # one.
        return module.register_forward_pre_hook(_called), self

    def remove(self) -> None:
        """Give the module back the forward that it had before."""
        above = forward_of(self.module)
        if above is self and self.inner is not None:
            self.module.__dict__["forward"] = self.inner
        elif above is self:
            del self.module.__dict__["forward"]
        elif above is not None and above.inner is self:
            above.inner = None


def forward_of(module: nn.Module) -> ForwardSite | None:
    """The site that stands in for the module's forward, the outer of two."""
    forward = module.__dict__.get("forward")
    return forward if isinstance(forward, ForwardSite) else None


def forwards_of(module: nn.Module) -> list[ForwardSite]:
    """Both sites."""
    outer = forward_of(module)
    return [site for site in (outer, outer and outer.inner) if site is not None]


def has_own_forward(module: nn.Module) -> bool:
    """Whether somebody else has replaced the forward of this very module."""
    return "forward" in module.__dict__ and forward_of(module) is None


def _called(module: nn.Module, inputs: Any) -> None:
    pass
