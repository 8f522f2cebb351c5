"""Every candidate beside a copy of the same array, for each library, size, case and rounding; and
the tables of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.cases import matrix
from tests.benchmarks.libraries import Numpy
from tests.benchmarks.ours import COMPILED, candidates, compiled
from tests.benchmarks.peers import PEERS
from tests.benchmarks.timing import Figure, alternate

LONG = 1.0
"""Seconds of a call above which it is made once."""

FEW = 14
"""Exponent of the size at which a candidate is called first: there it plans, and tells how long
greater sizes take.
"""

WIDTH = len("12.34 (12.34)")


class Measured(NamedTuple):
    """A cell of the tables. `figure`: None where a call would take longer than the patience."""

    library: str
    exponent: int
    case: str
    rounding: str
    candidate: str
    figure: Figure | None

    def plain(self) -> dict[str, Any]:
        """For JSON: sizes in elements, times in seconds."""
        figure = (
            {} if self.figure is None else {**self.figure._asdict(), "ratio": self.figure.ratio}
        )
        return {
            "library": self.library,
            "elements": 1 << self.exponent,
            "case": self.case,
            "rounding": self.rounding,
            "candidate": self.candidate,
            **figure,
        }


class Plan(NamedTuple):
    """What to measure. columns : of those that can be. seconds : of a measurement. patience :
    seconds of a call.
    """

    libraries: Sequence[Numpy]
    exponents: Sequence[int]
    cases: Sequence[str]
    roundings: Sequence[str]
    columns: Sequence[str]
    seconds: float
    patience: float

    def cells(self, library: Numpy) -> dict[tuple[str, str], list[str]]:
        """By case and rounding, the names of what is measured beside the copy."""
        few = library.array(matrix(FEW))
        return {
            (case, rounding): [
                name for name in self.columns if _is_there(name, library, case, rounding, few)
            ]
            for case in self.cases
            for rounding in self.roundings
        }


def measure(plan: Plan, start: Callable[[str], Any]) -> Iterator[list[Measured]]:
    """The cells of each (library, size, case, rounding), by ascending size. start : told which cell
    begins.
    """
    pace: dict[tuple[str, ...], float] = {}  # seconds per element at the size before, or of few
    for exponent in sorted(plan.exponents):
        host = matrix(exponent)
        for library in plan.libraries:
            x, few = library.array(host), library.array(matrix(FEW))
            copy = library.copy(x)
            for (case, rounding), names in plan.cells(library).items():
                row = []
                for name in names:
                    start(f"{library.name} 2^{exponent} {case} {rounding} {name}")
                    key = library.name, case, rounding, name
                    if exponent > FEW and key not in pace and name != COMPILED:
                        pace[key] = _pace(library, _call(name, library, case, rounding, few))
                    slow = pace.get(key, 0) * host.size > plan.patience
                    call = None if slow else _call(name, library, case, rounding, x)
                    figure = None
                    if call is not None:
                        long = (
                            LONG if exponent > FEW and not library.gpu() else math.inf
                        )  # else it may be planning
                        figure = alternate(library.clock, copy, call, plan.seconds, long)
                        pace[key] = figure.least / host.size
                    if slow or figure is not None:
                        row.append(Measured(library.name, exponent, case, rounding, name, figure))
                if row:
                    yield row


def _pace(library: Numpy, call: Any) -> float:
    """Seconds per element, of the second call on few."""
    library.clock(call, 1)
    return library.clock(call, 1) / (1 << FEW)


def _is_there(name: str, library: Numpy, case: str, rounding: str, x: Any) -> bool:
    if name in PEERS:
        return (
            PEERS[name].library == library.library
            and PEERS[name].calls(case, rounding, x) is not None
        )
    return name != COMPILED or library.library == "torch"


def _call(name: str, library: Numpy, case: str, rounding: str, x: Any) -> Any:
    """What is measured; None where torch.compile cannot trace the case."""
    if name in PEERS:
        return PEERS[name].calls(case, rounding, x)
    return (
        compiled(case, rounding, x)
        if name == COMPILED
        else candidates(library, case, rounding, x)[name]
    )


class Table:
    """The lines of a library's tables, as they are ready: least over least copy, in brackets the
    median of the ratios in turn. The title of each size tells what the first copies took.
    """

    def __init__(self, plan: Plan, library: Numpy) -> None:
        cells = plan.cells(library)
        self.count = sum(map(len, cells.values()))
        self.copy_name = library.copy_name
        self.names = [
            name for name in plan.columns if any(name in names for names in cells.values())
        ]
        lengths = [
            max(map(len, texts)) for texts in zip(("format", "rounding"), *cells, strict=True)
        ]
        self.widths = [*lengths, *(max(len(name), WIDTH) for name in self.names)]
        self.exponent = 0

    def lines(self, row: Sequence[Measured]) -> Iterator[str]:
        """Those of one case and rounding; before the first one of a size its title."""
        first = row[0]
        if first.exponent != self.exponent:
            self.exponent = first.exponent
            copies = [cell.figure.copy_least for cell in row if cell.figure is not None]
            speed = f" ({_speed(first.exponent, min(copies))})" if copies else ""
            yield f"\n{first.library}, 2^{first.exponent} float32, × {self.copy_name}{speed}\n"
            yield self._line("format", "rounding", *self.names)
            yield "  ".join("─" * width for width in self.widths)
        texts = {cell.candidate: _text(cell.figure) for cell in row}
        yield self._line(first.case, first.rounding, *(texts.get(name, "") for name in self.names))

    def _line(self, *texts: str) -> str:
        aligned = (
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(texts, self.widths, strict=True))
        )
        return "  ".join(aligned).rstrip()


def _text(figure: Figure | None) -> str:
    if figure is None:
        return "slow"
    digits = 2 if figure.ratio < 10 else 0
    return f"{figure.ratio:.{digits}f} ({figure.median_ratio:.{digits}f})"


def _speed(exponent: int, seconds: float) -> str:
    duration = f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
    return f"{duration}, {8 * (1 << exponent) / seconds / 1e9:.1f} GB/s read and written"
