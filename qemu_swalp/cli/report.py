"""`qemu-swalp report RESULTS…`: results of `reproduce` as one HTML page."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from ..experiments import load_lines
from ..experiments.common.evidence import SUFFIX, collect, republish, write
from ..experiments.common.html import page, read
from ..experiments.common.report import read_lines


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
        help="results.json, or a folder that has it, or several below it; or a file of lines",
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
    command.add_argument(
        "--lines",
        metavar="FILE",
        type=Path,
        help="also write every run as a JSON line, which `report` shows again",
    )
    command.set_defaults(run=_report)


def _report(chosen: argparse.Namespace) -> int:
    if chosen.lines:
        found = collect(chosen.results, load_lines)
        write(found, chosen.lines)
        print(f"{len(found)} runs; written: {chosen.lines}")
        chosen.results = [chosen.lines]
    with tempfile.TemporaryDirectory() as folder:
        files = [place for place in chosen.results if place.suffix == SUFFIX]
        lines = [line for file in files for line in read_lines(file)]
        places = [place for place in chosen.results if place not in files]
        results = read([*republish(lines, Path(folder), load_lines), *places])
        text = page(results, chosen.title)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    print(f"{len(results)} results; written: {chosen.out}")
    return 0
