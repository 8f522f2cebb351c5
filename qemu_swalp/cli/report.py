"""`qemu-swalp report RESULTS…`: results of `reproduce` as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..experiments.common.html import page, read


def add_commands(commands: Any) -> None:
    """Add `report` to the subparsers."""
    command = commands.add_parser(
        "report",
        help="one HTML page of the results of `reproduce`",
        description="Write one self-contained HTML page: tables, curves, and the command and "
        "environment of each run.",
    )
    command.add_argument(
        "results",
        metavar="RESULTS",
        type=Path,
        nargs="+",
        help="results.json, or a folder that has it, or several below it",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("report.html"),
        help="where to write (default: %(default)s)",
    )
    command.add_argument(
        "--title",
        metavar="TEXT",
        default="qemu-swalp: results",
        help="of the page (default: %(default)s)",
    )
    command.set_defaults(run=_report)


def _report(chosen: argparse.Namespace) -> int:
    results = read(chosen.results)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(page(results, chosen.title), encoding="utf-8")
    print(f"{len(results)} results; written: {chosen.out}")
    return 0
