"""What quantizing costs beside copying the same array, ours and other libraries': `python -m
tests.benchmarks`.

A figure is the least time of a candidate over the least time of a copy, both measured in turn in
one process, and in brackets the median of the ratios of each turn; what takes more than a second is
called once. "out=" writes to an array that is there, as the copy does; "new array" allocates its
result, as the peers do; "slow" is what would take longer than the patience in one call. Lines are
printed as they are measured, beside a progress bar.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, ours, small
from tests.benchmarks.cases import CASES, ROUNDINGS
from tests.benchmarks.libraries import DEVICES, Numpy
from tests.benchmarks.ours import COMPILED
from tests.benchmarks.peers import PEERS
from tests.benchmarks.ratios import Measured, Plan, Table, measure

TABLES = ("ratios", "calls", "imports")
COLUMNS = (*ours.COLUMNS, COMPILED, *PEERS)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[12, 18, 24],
        metavar="N",
        choices=range(5, 31),
        help="2^N elements, N from 5 to 30 (default: 12 18 24)",
    )
    made.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="formats (default: all)"
    )
    made.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=list(ROUNDINGS))
    made.add_argument(
        "--columns",
        nargs="+",
        choices=COLUMNS,
        metavar="COLUMN",
        help=(
            f"of {', '.join(COLUMNS)} (default: all; {COMPILED} on cuda alone, a minute for each"
            " case)"
        ),
    )
    made.add_argument(
        "--tables", nargs="+", choices=TABLES, default=list(TABLES), help="(default: all)"
    )
    made.add_argument("--device", choices=DEVICES, default="cpu")
    made.add_argument(
        "--threads",
        type=int,
        help="of our kernels and PyTorch (default: qemu_swalp.get_num_threads())",
    )
    made.add_argument(
        "--seconds", type=float, default=0.15, help="of a measurement (default: %(default)s)"
    )
    made.add_argument(
        "--patience", type=float, default=10.0, help="seconds of one call (default: %(default)s)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")
    return made


def available(device: str) -> tuple[list[Numpy], list[str]]:
    """(libraries that have arrays on the device, why others are skipped)."""
    found, skipped = [], []
    for kind in DEVICES[device]:
        reason = kind.missing()
        if reason:
            skipped.append(f"{kind.name}: skipped: {reason}")
        else:
            found.append(kind())
    return found, skipped


def main(arguments: list[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    libraries, notes = available(chosen.device)
    columns = chosen.columns or [
        name for name in COLUMNS if name != COMPILED or chosen.device == "cuda"
    ]
    absent = {
        name: reason for name in columns if name in PEERS and (reason := PEERS[name].missing())
    }
    notes += [f"{name}: {reason}" for name, reason in absent.items()]
    columns = [name for name in columns if name not in absent]
    for note in notes:
        print(note, flush=True)
    if not libraries:
        return 0
    if chosen.threads is not None:
        machine.set_threads(chosen.threads, libraries)
    about = machine.description(libraries, [name for name in columns if name in PEERS])
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    plan = Plan(
        libraries,
        chosen.sizes,
        chosen.cases,
        chosen.roundings,
        columns,
        chosen.seconds,
        chosen.patience,
    )
    found: dict[str, Any] = {"about": about, "notes": notes}
    if "ratios" in chosen.tables:
        found["ratios"] = [cell.plain() for cell in _shown(plan)]
    if "calls" in chosen.tables:
        calls = found["calls"] = small.calls(
            libraries, chosen.cases, chosen.roundings, min(chosen.seconds, 0.02)
        )
        print(
            f"\nmicroseconds of a call on {small.ELEMENTS} elements\n\n" + small.calls_table(calls),
            flush=True,
        )
    if "imports" in chosen.tables:
        imports = found["import_seconds"] = small.imports(7)
        print("\n" + small.imports_text(imports))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _shown(plan: Plan) -> list[Measured]:
    """All cells; their tables are printed line by line."""
    measured: list[Measured] = []
    tqdm = import_module("tqdm").tqdm
    tables = {library.name: Table(plan, library) for library in plan.libraries}
    total = len(plan.exponents) * sum(table.count for table in tables.values())
    with tqdm(total=total, unit="cell", mininterval=0.3 if sys.stderr.isatty() else 15) as bar:
        for row in measure(plan, partial(bar.set_description, refresh=sys.stderr.isatty())):
            bar.update(len(row))
            for text in tables[row[0].library].lines(row):
                bar.write(text, file=sys.stdout)
                sys.stdout.flush()
            measured += row
    return measured


if __name__ == "__main__":
    sys.exit(main())
