"""CUDA graphs: what is launched while one is captured, with arguments as they are then."""

from __future__ import annotations

from collections.abc import Callable

Work = Callable[[], object]


class Graph:
    """What a capture has recorded, in its order."""

    def __init__(self) -> None:
        self.recorded: list[Work] = []

    def replay(self) -> None:
        for work in self.recorded:
            work()


_captured: list[Graph] = []


def capturing() -> bool:
    """Whether a graph is being captured."""
    return bool(_captured)


def begin(graph: Graph) -> None:
    _captured.append(graph)


def end() -> None:
    _captured.pop()


def launched(work: Work) -> None:
    """Run what is launched, or record it: a kernel that is captured does not run."""
    if _captured:
        _captured[-1].recorded.append(work)
    else:
        work()


def refuse_in_capture(what: str) -> None:
    """RuntimeError while a graph is captured, as the driver's."""
    if _captured:
        raise RuntimeError(
            f"cudaErrorStreamCaptureUnsupported: {what} is not permitted when stream is capturing"
        )
