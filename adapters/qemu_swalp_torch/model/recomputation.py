"""Recomputation of a function that a module's own code checkpoints, by the rules of that call.

`torch.utils.checkpoint` calls the function again in the backward, when the module's call, and the
interception with it, are over.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch

from .._compat import backward_id, replace_checkpointed
from .frames import FRAMES, Frame, Products
from .function_mode import Interception

Function = Callable[..., Any]


class Recomputed:
    """A function that within a backward is called in the frames in which this object was made."""

    def __init__(self, function: Function) -> None:
        self.function, self.task = function, backward_id()
        self.frames = [_Beginning(frame) for frame in FRAMES.stack]

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if backward_id() == self.task:  # reentrant checkpointing calls it forward too
            return self.function(*inputs, **options)
        copies: dict[int, Any] = {}
        stack = FRAMES.stack
        FRAMES.stack = [beginning.frame(copies) for beginning in self.frames]
        try:
            with Interception():
                return self.function(*inputs, **options)
        finally:
            FRAMES.stack = stack


class _Beginning:
    """What a frame was when a recomputation's forward began."""

    def __init__(self, frame: Frame) -> None:
        self.original, self.derived = frame, [*frame.derived]
        self.products = 0 if frame.products is None else frame.products.count
        self.functions = 0 if frame.functions is None else frame.functions.calls

    def frame(self, copies: dict[int, Any]) -> Frame:
        """The same again; `copies` are those of objects that several frames share, by their ids."""
        module, name = self.original.module, self.original.name
        products, functions = (
            None if x is None else copies.setdefault(id(x), copy(x))
            for x in (self.original.products, self.original.functions)
        )
        if isinstance(products, Products):  # the step may have been drawn later than it began
            products.count = self.products
        if functions is not None:
            functions.calls = self.functions
        frame = Frame(module, name, products, functions)
        frame.derived = [*self.derived]
        return frame


def follow_checkpoints() -> None:
    """From now on a recomputation is made in the frames of the forward that it repeats."""
    replace_checkpointed(_recomputed)


def _recomputed(function: Function) -> Function:
    compiling = torch.compiler.is_compiling()
    return Recomputed(function) if FRAMES.stack and not compiling else function
