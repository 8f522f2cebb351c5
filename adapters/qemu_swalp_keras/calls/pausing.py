"""Within our own arithmetic nothing is intercepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import local
from typing import Any

from .._compat import OURS
from ..backend import backend


class _Depth(local):
    depth = 0
    inferring = False


_here = _Depth()


@contextmanager
def paused() -> Iterator[None]:
    """Within it, in this thread, functions of the backend are what they are."""
    _here.depth += 1
    try:
        with named():
            yield
    finally:
        _here.depth -= 1


def named() -> AbstractContextManager[Any]:
    """Within it what JAX traces is told to be ours."""
    if backend() != "jax":
        return nullcontext()
    import jax

    return jax.named_scope(OURS)


def is_paused() -> bool:
    """Whether this thread is within `paused`."""
    return _here.depth > 0


@contextmanager
def inferring() -> Iterator[None]:
    """Within it Keras infers shapes, and nothing is intercepted."""
    before, _here.inferring = _here.inferring, True
    try:
        with paused():
            yield
    finally:
        _here.inferring = before


def is_inferring() -> bool:
    """Whether this thread is within `inferring`."""
    return _here.inferring


@contextmanager
def resumed() -> Iterator[None]:
    """Within it functions of the backend are intercepted again."""
    before, _here.depth = _here.depth, 0
    try:
        yield
    finally:
        _here.depth = before
