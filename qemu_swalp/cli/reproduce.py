"""`qemu-swalp reproduce EXPERIMENT`."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._util import extras
from ..experiments import EXPERIMENTS, load_experiment
from ..experiments.common import report
from ..experiments.common.settings import Settings, choose, flag
from .output import add_json, asks_for_json


def add_commands(commands: Any) -> None:
    """Add `reproduce` and its experiments to the subparsers."""
    command = commands.add_parser(
        "reproduce",
        help="run an experiment: a table, results.json and a picture",
        description="Run an experiment: prints a table, writes results.json and a picture.",
    )
    experiments = command.add_subparsers(metavar="EXPERIMENT", title="experiments", required=True)
    for name, what in EXPERIMENTS.items():
        one = experiments.add_parser(
            name,
            help=what,
            description=what[0].upper() + what[1:] + ".",
            usage=f"qemu-swalp reproduce {name} [option ...]",
        )
        kind = load_experiment(name).Settings
        add_options(one, kind, {"out": _out(name)})
        one.add_argument("--quick", action="store_true", help="tiny, only to see that it works")
        add_json(one)
        one.set_defaults(run=lambda chosen, name=name, kind=kind: _reproduce(chosen, name, kind))


def add_options(
    parser: argparse.ArgumentParser, kind: type[Settings], defaults: Mapping[str, str]
) -> None:
    """An option for each field of the settings, absent from the namespace unless given.

    `defaults` : what the help says instead of the field's own.
    """
    for item in dataclasses.fields(kind):
        default = item.default
        shown = defaults.get(item.name) or _written(default)
        choices = item.metadata["choices"]
        listed = f". One of {', '.join(choices)}" if choices else ""
        text = f"{item.metadata['help']}{listed} (default: {shown})".replace("%", "%%")
        if isinstance(default, bool):
            parser.add_argument(
                flag(item),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=text,
            )
            continue
        several = isinstance(default, tuple)
        number: Any = type(default[0] if isinstance(default, tuple) else default)
        parser.add_argument(
            flag(item),
            type=number,
            nargs="+" if several else None,
            default=argparse.SUPPRESS,
            choices=choices or None,
            metavar=(
                "NAME" if choices else {int: "N", float: "X", str: item.metadata["metavar"]}[number]
            ),
            help=text,
        )


def _out(name: str) -> str:
    return str(Path("results") / name)


def _written(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default) or "none"


def _reproduce(chosen: argparse.Namespace, name: str, kind: type[Settings]) -> int:
    given = {
        item.name: getattr(chosen, item.name)
        for item in dataclasses.fields(kind)
        if hasattr(chosen, item.name)
    }
    settings = choose(
        kind,
        {"out": _out(name)}
        | {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()},
        chosen.quick,
    )
    extras.require("matplotlib", extras.EXPERIMENTS)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with report.one_thread():
        outcome = load_experiment(name).run(settings)
    seconds = time.perf_counter() - start
    asked = {"command": settings.command(name), "settings": settings.record()}
    written = report.publish(name, asked, outcome, seconds, out)
    if asks_for_json(chosen):
        print(written[0].read_text(encoding="utf-8"), end="")
        return 0
    print(f"{outcome.text}\n\n{seconds:.0f} s; written: {', '.join(map(str, written))}")
    return 0
