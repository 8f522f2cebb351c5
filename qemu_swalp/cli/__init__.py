"""The command `qemu-swalp`. What the user can mend is one line on stderr and exit code 2, never a
traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator, Sequence
from typing import Any, NoReturn

from .. import __version__
from . import compare, formats, info, quantize, report, reproduce, show, vectors

EPILOG = (
    "`qemu-swalp COMMAND --help` tells more about a command."
    " Begin with `qemu-swalp show e4m3fn`, or `qemu-swalp reproduce digits`."
)


class Help(argparse.HelpFormatter):
    """Names of commands beside what they do, without a heading that repeats COMMAND."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        return text.partition("\n")[2] if action.nargs == argparse.PARSER else text

    def _iter_indented_subactions(
        self, action: argparse.Action
    ) -> Generator[argparse.Action, None, None]:
        yield from getattr(action, "_get_subactions", tuple)()


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": Help, **options})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def parser() -> Parser:
    """The parser of the whole command line."""
    top = Parser(
        "qemu-swalp",
        epilog=EPILOG,
        allow_abbrev=False,
        description=(
            "Number formats for low-precision training: see them, compare them, round tensors to"
            " them, run experiments in them."
        ),
    )
    top.add_argument("--version", action="version", version=f"qemu-swalp {__version__}")
    top.set_defaults(run=lambda chosen: _help(top))
    commands = top.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for module in (formats, show, compare, quantize, vectors, info, reproduce, report):
        module.add_commands(commands)
    return top


def _help(top: Parser) -> int:
    """What a call without a command shows."""
    top.print_help()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without ± shows "?" instead of failing
    try:
        chosen = parser().parse_args(arguments)
        code: int = chosen.run(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("qemu-swalp: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"qemu-swalp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
