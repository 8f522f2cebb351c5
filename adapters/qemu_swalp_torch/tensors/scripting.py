"""Refusal of what would lose the roundings of a model without a word."""

from __future__ import annotations

from typing import Any

REMEDY = (
    "keep the roundings with torch.export.export(model, ...) or torch.compile(model), or leave"
    " them out: call remove() on the handle of the call that rounds the model"
)


class NotScriptableError(RuntimeError, AttributeError):
    """`torch.jit.script` met what rounds a model; an AttributeError, too, so that who only asks
    whether there is the attribute is told that there is not.
    """


class NotScriptable:
    """What stands in a module where `torch.jit.script` expects a function, whose name and globals
    it reads first.
    """

    @property
    def __name__(self) -> str:
        raise self._refusal()

    @property
    def __globals__(self) -> dict[str, Any]:
        raise self._refusal()

    def _refusal(self) -> NotScriptableError:
        return NotScriptableError(
            f"torch.jit.script cannot compile a rounded model, in which a {type(self).__name__}"
            f" intercepts the forward; {REMEDY}"
        )
