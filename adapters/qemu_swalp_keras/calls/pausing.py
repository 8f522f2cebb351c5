"""Within our own arithmetic nothing is intercepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local


class _Depth(local):
    depth = 0


_here = _Depth()


@contextmanager
def paused() -> Iterator[None]:
    """Within it, in this thread, functions of the backend are what they are."""
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1


def is_paused() -> bool:
    """Whether this thread is within `paused`."""
    return _here.depth > 0
