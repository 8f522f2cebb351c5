"""CUDA graphs: what is launched while one is captured, with arguments as they are then. Threads
capture each for themselves (mode "thread_local").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident

Work = Callable[[], object]


class Graph:
    """What a capture has recorded, in its order."""

    def __init__(self) -> None:
        self.recorded: list[Work] = []
        self.thread = get_ident()
        self.spoiled = ""
        """By what."""

    def replay(self) -> None:
        for work in self.recorded:
            work()

    launch = replay
    """As CuPy calls it."""


_captured: list[Graph] = []


def _own() -> list[Graph]:
    return [graph for graph in _captured if graph.thread == get_ident()]


def capturing() -> bool:
    """Whether this thread captures a graph."""
    return bool(_own())


def begin(graph: Graph) -> None:
    graph.thread = get_ident()
    _captured.append(graph)


def end() -> Graph:
    """RuntimeError if something has spoiled the capture, as the driver's."""
    graph = _own()[-1]
    _captured.remove(graph)
    if graph.spoiled:
        raise RuntimeError(f"cudaErrorStreamCaptureInvalidated: by {graph.spoiled}")
    return graph


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
    if own := _own():
        own[-1].recorded.append(work)
    elif _waiting is not None:
        _waiting.append((stream, work))
    else:
        work()


def refuse_in_capture(what: str, of_any_thread: bool = False) -> None:
    """RuntimeError while a graph is captured, as the driver's, and no graph then. of_any_thread :
    also while another thread captures, as what waits for a whole device.
    """
    captured = _captured if of_any_thread else _own()
    for graph in captured:
        graph.spoiled = what
    if captured:
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when stream is capturing"
        )
