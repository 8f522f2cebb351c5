"""The table of `quantize`: what becomes of each tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import Analysis, QuantizedTensor
from .._util.tables import TERMINAL, table
from ..storage.layouts import Stored
from .output import figures_of

HEADER = (
    "tensor",
    "shape",
    "dtype",
    "SQNR, dB",
    "max error",
    "saturated",
    "to zero",
    "unchanged",
    "not finite",
    "bytes",
    "packed",
)


@dataclass
class Report:
    """What has been read and rounded so far."""

    lines: list[tuple[object, ...]] = field(default_factory=list)
    total: Analysis = field(default_factory=Analysis)
    source_bytes: int = 0
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    """Reason → tensors."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The lines, as numbers."""

    def add(self, name: str, stored: Stored, analysis: Analysis) -> None:
        """Add the line of a tensor; codes are called by their format."""
        kind = str(stored.format if isinstance(stored, QuantizedTensor) else stored.dtype)
        shape = "×".join(map(str, stored.shape))
        self.lines.append(_line(name, shape, kind, analysis, stored.nbytes))
        self.records.append(
            {"tensor": name, "shape": list(stored.shape), "dtype": kind, **figures_of(analysis)}
            | {"bytes": stored.nbytes}
        )
        self.total += analysis
        self.source_bytes += stored.nbytes

    def record(self) -> dict[str, Any]:
        """The table, as numbers."""
        total = figures_of(self.total) | {"bytes": self.source_bytes}
        return {"tensors": self.records, "total": total, "passed_over": self.passed_over}

    def text(self) -> str:
        total = (
            [] if len(self.lines) == 1 else [_line("total", "", "", self.total, self.source_bytes)]
        )
        parts = [_table([*self.lines, *total])] if self.lines else []
        parts += [
            f"passed over, {reason}: {', '.join(names)}"
            for reason, names in self.passed_over.items()
        ]
        return "\n\n".join(parts)


def _table(lines: list[tuple[object, ...]]) -> str:
    """Without columns that say nothing: where all have one dtype, or all is finite."""
    columns = list(zip(HEADER, *lines, strict=True))
    same = {"dtype": len({line[2] for line in lines} - {""}) == 1}
    same["not finite"] = not any(line[8] for line in lines)
    header, *rest = zip(*(c for c in columns if not same.get(str(c[0]))), strict=True)
    return table(header, rest, left=range(2 if same["dtype"] else 3), width=TERMINAL)


def _line(
    name: str, shape: str, dtype: str, analysis: Analysis, source_bytes: int
) -> tuple[object, ...]:
    not_finite = analysis.count - analysis.compared
    return (
        name,
        shape,
        dtype,
        *figures(analysis),
        not_finite,
        f"{source_bytes:,}",
        f"{analysis.stored_bytes:,}",
    )


def figures(analysis: Analysis) -> tuple[str, ...]:
    """SQNR, greatest error, and the shares saturated, flushed and unchanged; – where there is
    nothing to divide by.
    """
    percent = [
        100 * share
        for share in (analysis.share_saturated, analysis.share_flushed, analysis.share_unchanged)
    ]
    texts = (
        f"{analysis.sqnr_db:.2f}",
        f"{analysis.max_abs_error:.3g}",
        *(f"{share:.2f} %" for share in percent),
    )
    return tuple("–" if text.startswith("nan") else text for text in texts)
