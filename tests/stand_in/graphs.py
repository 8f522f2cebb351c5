"""CUDA graphs: what is launched while one is captured, with arguments as they are then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Work = Callable[[], object]


class Graph:
    """What a capture has recorded, in its order."""

    def __init__(self) -> None:
        self.recorded: list[Work] = []

    def replay(self) -> None:
        for work in self.recorded:
            work()

    launch = replay
    """As CuPy calls it."""


_captured: list[Graph] = []


def capturing() -> bool:
    """Whether a graph is being captured."""
    return bool(_captured)


def begin(graph: Graph) -> None:
    _captured.append(graph)


def end() -> Graph:
    return _captured.pop()


_waiting: list[tuple[int, Work]] | None = None
"""(stream, work) that was launched and is not done; None where all is done at once."""


@contextmanager
def late() -> Iterator[None]:
    """A context in which kernels run once somebody waits for their stream, or at its end."""
    global _waiting
    _waiting = []
    try:
        yield
        finish()
    finally:
        _waiting = None


def finish(stream: int | None = None) -> None:
    """Do what is waiting on a stream; None: on all of them."""
    todo = [each for each in _waiting or () if stream in (None, each[0])]
    for each in todo:
        _waiting.remove(each)
        each[1]()


def launched(work: Work, stream: int) -> None:
    """Run what is launched, or record it: a kernel that is captured does not run."""
    if _captured:
        _captured[-1].recorded.append(work)
    elif _waiting is not None:
        _waiting.append((stream, work))
    else:
        work()


def refuse_in_capture(what: str) -> None:
    """RuntimeError while a graph is captured, as the driver's."""
    if _captured:
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when stream is capturing"
        )
