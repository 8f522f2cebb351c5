"""What the experiments share in reporting: progress, means over seeds, tables, results.json, the
picture.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..._util.extras import EXPERIMENTS, require
from ..._util.tables import table
from .figure import save_panels, save_picture

Row = dict[str, Any]
"""Plain values by column."""


@dataclass(frozen=True)
class Outcome:
    """What a run of an experiment gives.

    rows : one for each seed, method and setting. summary : the rows' means and deviations. text :
        what to print.
    curves : whatever else the picture shows, as plain values. draw : draws on an empty matplotlib
        figure.
    """

    rows: list[Row]
    summary: list[Row]
    text: str
    draw: Callable[[Any], None]
    curves: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products of NumPy on one thread: these are small, and crawl where other programs keep
    the cores busy.
    """
    with require("threadpoolctl", EXPERIMENTS).threadpool_limits(limits=1):
        yield


class Progress:
    """One bar over all steps of an experiment, on stderr."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def steps(self, count: int, label: str) -> Iterator[int]:
        """1, …, count, each counted when the next is asked for."""
        self._bar.set_description(label, refresh=False)
        for step in range(1, count + 1):
            yield step
            self._bar.update()

    def show(self, figure: str) -> None:
        """How the run stands, beside the time left."""
        self._bar.set_postfix_str(figure, refresh=False)

    def skip(self, count: int) -> None:
        """So many steps need not be made here."""
        self._bar.update(count)


@contextmanager
def progress(total: int, silent: bool = False) -> Iterator[Progress]:
    """A bar of so many steps."""
    interval = 0.3 if sys.stderr.isatty() else 15.0  # seconds; a log file wants few lines
    with require("tqdm", EXPERIMENTS).tqdm(
        total=total, unit="step", mininterval=interval, dynamic_ncols=True, disable=silent
    ) as bar:
        yield Progress(bar)


def summarize(rows: Sequence[Row], by: Sequence[str], values: Sequence[str]) -> list[Row]:
    """For each combination of the columns `by`, in order of appearance: {value: {"mean", "std",
    "count"}} over its rows.

    std is the sample standard deviation, 0 for a single row.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in by), []).append(row)
    return [
        dict(zip(by, key, strict=True))
        | {value: _moments([row[value] for row in group]) for value in values}
        for key, group in groups.items()
    ]


def _moments(sample: Sequence[float]) -> Row:
    return {
        "mean": float(np.mean(sample)),
        "std": float(np.std(sample, ddof=1)) if len(sample) > 1 else 0.0,
        "count": len(sample),
    }


def over(seeds: int) -> str:
    """What the numbers of a table are.

    >>> over(3), over(1)
    ('mean ± standard deviation over 3 seeds', 'of one seed')
    """
    return f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "of one seed"


def spread(moments: Mapping[str, float], digits: int, seeds: int = 2) -> str:
    """Mean ± standard deviation with so many decimals; where those would be few digits, in units of
    a power of ten. Of one seed there is no deviation.
    """
    mean, std = moments["mean"], moments["std"]
    single = seeds == 1 or moments.get("count") == 1
    greatest = abs(mean) if single else max(abs(mean), std)
    if not 0 < greatest < 10.0 ** (1 - digits):
        return f"{mean:.{digits}f}" + ("" if single else f" ± {std:.{digits}f}")
    exponent = int(f"{greatest:.{digits}e}".partition("e")[2])
    power = f"·10{str(exponent).translate(SUPERSCRIPTS)}"
    mean, std = mean / 10.0**exponent, std / 10.0**exponent
    figure = f"{mean:.{digits}f}"
    return figure + power if single else f"({figure} ± {std:.{digits}f}){power}"


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
COLUMNS = {
    "SGD": "SGD(-LP)",
    "SGD-LP": "SGD(-LP)",
    "SGD decayed": "SGD(-LP) decayed",
    "SGD-LP decayed": "SGD(-LP) decayed",
    "SWA": "SWA(LP)",
    "SWALP": "SWA(LP)",
}
"""Method → column of a table: the lines say whether they are float32."""


def pivot(
    summary: Sequence[Row], line: str, value: str, digits: int, header: str = "", seeds: int = 2
) -> str:
    """A table of mean ± deviation of one value: a line for each content of `line`, the methods in
    columns.
    """
    cells = {
        (row[line], COLUMNS[row["method"]]): spread(row[value], digits, seeds) for row in summary
    }
    columns = list(dict.fromkeys(column for _, column in cells))
    lines = list(dict.fromkeys(name for name, _ in cells))
    return table(
        [header or line, *columns],
        [[name, *(cells[name, column] for column in columns)] for name in lines],
    )


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    known = {"python": platform.python_version()}
    for package in (
        "qemu-swalp",
        "numpy",
        "scikit-learn",
        "torch",
        "keras",
        "tensorflow",
        "tensorflow-cpu",
        "jax",
    ):
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return known


def environment() -> dict[str, Any]:
    """Where a run was made: processor, operating system, and the versions of everything that can
    change a figure.
    """
    return {
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "versions": versions(),
    }


def _processor() -> str:
    """Its name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def publish(
    name: str, asked: Mapping[str, Any], outcome: Outcome, seconds: float, out: Path
) -> list[Path]:
    """Write results.json, NAME.png and its panels to the folder `out`; returns the paths of the
    first two. `asked` : command and settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    results, picture = out / "results.json", out / f"{name}.png"
    content = {
        "experiment": name,
        **asked,
        "environment": environment(),
        "seconds": round(seconds, 1),
        "text": outcome.text,
        "summary": outcome.summary,
        "rows": outcome.rows,
        "curves": outcome.curves,
    }
    text = json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    results.write_text(text + "\n", encoding="utf-8")
    save_picture(outcome.draw, picture)
    save_panels(outcome.draw, picture)
    return [results, picture]


RUNS = "runs.jsonl"
"""Beside results.json: a line for each run, where an experiment's runs are long."""


def read_lines(file: Path) -> list[Row]:
    """The JSON lines of a file, but a last one that was cut off; none if there is no file."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def plain(value: Any) -> Any:
    """Without NaN and infinity, of which JSON knows nothing: a run that diverged gives null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
