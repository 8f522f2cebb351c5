"""Every candidate beside a copy of the same array, for each library, size, case and rounding; and the tables of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from qemu_swalp.text import table

from .cases import matrix
from .libraries import Numpy
from .ours import COMPILED, candidates, compiled
from .peers import PEERS
from .timing import Call, Figure, alternate


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
        figure = {} if self.figure is None else {**self.figure._asdict(), "ratio": self.figure.ratio}
        return {"library": self.library, "elements": 1 << self.exponent, "case": self.case, "rounding": self.rounding,
                "candidate": self.candidate, **figure}


class Plan(NamedTuple):
    """What to measure. columns : of those that can be. seconds : of a measurement. patience : seconds of a call."""

    libraries: Sequence[Numpy]
    exponents: Sequence[int]
    cases: Sequence[str]
    roundings: Sequence[str]
    columns: Sequence[str]
    seconds: float
    patience: float

    def __len__(self) -> int:
        """How many (library, size, case, rounding) there are."""
        return len(self.libraries) * len(self.exponents) * len(self.cases) * len(self.roundings)


def measure(plan: Plan) -> Iterator[list[Measured]]:
    """The cells of each (library, size, case, rounding), by ascending size."""
    pace: dict[tuple[str, ...], float] = {}  # seconds per element at the size before
    for exponent in sorted(plan.exponents):
        host = matrix(exponent)
        for library in plan.libraries:
            x = library.array(host)
            copy = library.copy(x)
            for case in plan.cases:
                for rounding in plan.roundings:
                    row = []
                    for name, call in _calls(plan, library, case, rounding, x):
                        key = library.name, case, rounding, name
                        figure = None
                        if pace.get(key, 0) * host.size <= plan.patience:
                            figure = alternate(library.clock, copy, call, plan.seconds)
                            pace[key] = figure.least / host.size
                        row.append(Measured(library.name, exponent, case, rounding, name, figure))
                    yield row


def _calls(plan: Plan, library: Numpy, case: str, rounding: str, x: Any) -> Iterator[tuple[str, Call]]:
    """What is measured beside the copy, by name."""
    for name, call in candidates(library, case, rounding, x).items():
        if name in plan.columns:
            yield name, call
    others = {COMPILED: ("torch", compiled)} | {name: (peer.library, peer.calls) for name, peer in PEERS.items()}
    for name, (wants, calls) in others.items():
        found = calls(case, rounding, x) if name in plan.columns and wants == library.library else None
        if found is not None:
            yield name, found


def tables(measured: Iterable[Measured], copy_names: dict[str, str]) -> str:
    """One table for each library and size: least over least copy, in brackets the median of the ratios in turn."""
    texts = []
    groups: dict[tuple[str, int], list[Measured]] = {}
    for cell in measured:
        groups.setdefault((cell.library, cell.exponent), []).append(cell)
    for (library, exponent), cells in groups.items():
        names = list(dict.fromkeys(cell.candidate for cell in cells))
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for cell in cells:
            lines.setdefault((cell.case, cell.rounding), {})[cell.candidate] = _text(cell.figure)
        copies = [cell.figure.copy_least for cell in cells if cell.figure is not None]
        speed = f" ({_speed(exponent, min(copies))})" if copies else ""
        texts.append(f"{library}, 2^{exponent} float32, × {copy_names[library]}{speed}\n\n"
                     + table(("format", "rounding", *names),
                             [(*key, *(line.get(name, "") for name in names)) for key, line in lines.items()],
                             left=(0, 1)))
    return "\n\n".join(texts)


def _text(figure: Figure | None) -> str:
    if figure is None:
        return "slow"
    digits = 2 if figure.ratio < 10 else 0
    return f"{figure.ratio:.{digits}f} ({figure.median_ratio:.{digits}f})"


def _speed(exponent: int, seconds: float) -> str:
    duration = f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
    return f"{duration}, {8 * (1 << exponent) / seconds / 1e9:.1f} GB/s read and written"
