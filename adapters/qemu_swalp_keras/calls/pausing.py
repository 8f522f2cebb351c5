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
