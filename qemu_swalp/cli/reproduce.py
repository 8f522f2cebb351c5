"""`qemu-swalp reproduce EXPERIMENT`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from ..experiments import EXPERIMENTS, EXTRA, load, report
from ..experiments.settings import Settings, choose, flag
from ..extras import require


def add_commands(commands: Any) -> None:
    """Add `reproduce` and its experiments to the subparsers."""
    command = commands.add_parser("reproduce", help="run an experiment: a table, results.json and a picture",
                                  description="Run an experiment: prints a table, writes results.json and a picture.")
    experiments = command.add_subparsers(metavar="EXPERIMENT", required=True)
    for name, what in EXPERIMENTS.items():
        one = experiments.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        kind = load(name).Settings
        add_options(one, kind)
        one.add_argument("--out", metavar="DIR", type=Path, default=Path("results") / name,
                         help="where to write (default: %(default)s)")
        one.add_argument("--quick", action="store_true", help="tiny, only to see that it works")
        one.set_defaults(run=lambda chosen, name=name, kind=kind: _reproduce(chosen, name, kind))


def add_options(parser: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """An option for each field of the settings, absent from the namespace unless given."""
    for item in dataclasses.fields(kind):
        default = item.default
        several = isinstance(default, tuple)
        number: Any = type(default[0] if isinstance(default, tuple) else default)
        parser.add_argument(
            flag(item), type=number, nargs="+" if several else None, default=argparse.SUPPRESS,
            choices=item.metadata["choices"] or None,
            metavar=None if item.metadata["choices"] else {int: "N", float: "X", str: "DIR"}[number],
            help=f"{item.metadata['help']} (default: {_written(default)})",
        )


def _written(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default) or "none"


def _reproduce(chosen: argparse.Namespace, name: str, kind: type[Settings]) -> int:
    given = {item.name: getattr(chosen, item.name) for item in dataclasses.fields(kind) if hasattr(chosen, item.name)}
    settings = choose(kind, {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()},
                      chosen.quick)
    require("matplotlib", EXTRA)
    chosen.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with report.one_thread():
        outcome = load(name).run(settings)
    seconds = time.perf_counter() - start
    written = report.publish(name, settings.record(), outcome, seconds, chosen.out)
    print(f"{outcome.text}\n\n{seconds:.0f} s; written: {', '.join(map(str, written))}")
    return 0
