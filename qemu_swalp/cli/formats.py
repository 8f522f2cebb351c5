"""`qemu-swalp formats`, and what other commands do with formats."""

from __future__ import annotations

import argparse
import math
import os
import re
import runpy
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import (
    BinadeFormat,
    Block,
    ElementFormat,
    Format,
    Squeezed,
    TableFormat,
    load_formats,
    names,
    parse,
)
from .._util.extras import EXPERIMENTS, require
from .._util.tables import TERMINAL, table
from ..formats.aliases import ALIASES
from .output import add_json, asks_for_json, print_json

WIDEST = 80
"""Characters of a format's string that a line of `formats` has room for; `show` gives all."""


def add_commands(commands: Any) -> None:
    """Add `formats` to the subparsers."""
    listing = commands.add_parser(
        "formats",
        help="list the number formats that have a name",
        description=(
            "List the number formats that have a name. The values of block formats "
            "(·2^S, ·s) are those of the elements, times the scale of a block. Then the names that"
            " NumPy, ml_dtypes, PyTorch, ONNX, OCP and others have for formats."
        ),
    )
    listing.set_defaults(run=_formats)
    add_load(listing)
    add_json(listing)


def add_load(command: Any) -> None:
    """The option `--load`."""
    command.add_argument(
        "--load",
        metavar="FILE",
        action="append",
        default=[],
        help=(
            "first read formats from a TOML file, or run a Python file (.py) that defines some; may"
            " be repeated"
        ),
    )


def add_plot(command: Any, what: str) -> None:
    """The option `--plot`: None, "" where no file is given, or the file."""
    command.add_argument(
        "--plot",
        metavar="FILE",
        nargs="?",
        const="",
        help=f"draw {what} (PNG; default: named after the formats, in this folder)",
    )


def picture_path(path: str, formats: Sequence[str]) -> Path:
    """Where a picture of formats goes; without a path, a file named after the formats.

    Raises ValueError if it is not a PNG file, ImportError without matplotlib.
    """
    picture = Path(
        path
        or "-".join(re.sub(r"[^\w.-]+", "_", text).strip("_") for text in formats)[:100] + ".png"
    )
    if picture.suffix.lower() != ".png":
        raise ValueError(f"--plot writes a PNG file, got {path!r}; let its name end in .png")
    require("matplotlib", EXPERIMENTS)
    return picture


def read_format(text: str) -> Format:
    """The format of an argument. Raises ValueError if arrays cannot be rounded to it."""
    try:
        format = parse(text)
    except (TypeError, ValueError) as error:
        if os.path.exists(text):
            raise ValueError(
                f"{text!r} is a file or folder where a format is expected, such as 'e4m3fn'"
            ) from error
        raise ValueError(str(error)) from error
    element_and_unit(format)
    return format


def _formats(chosen: argparse.Namespace) -> int:
    load(chosen.load)
    if asks_for_json(chosen):
        records = [_record(name, parse(name)) for name in names()]
        print_json({"formats": records, "aliases": ALIASES})
        return 0
    header = (
        "name",
        "format",
        "bits",
        "max",
        "least > 0",
        "values",
        "specials",
    )
    lines = [_line(name, parse(name)) for name in names()]
    print(table(header, lines, left=(0, 1, 6), width=TERMINAL))
    also = [(format, ", ".join(aliases)) for format, aliases in ALIASES.items()]
    print("\nAliases, in which case, _ and - do not count:\n")
    print(table(("format", "also called"), also, left=(0, 1), width=TERMINAL))
    return 0


def load(files: list[str]) -> None:
    """Register the formats of TOML files; run Python files. Raises ValueError if one fails."""
    for file in files:
        if not file.endswith(".py"):
            load_formats(file)
            continue
        try:
            runpy.run_path(file, run_name=Path(file).stem)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{file}: {type(error).__name__}: {error}") from error


def _record(name: str, format: Format) -> dict[str, Any]:
    element, unit = element_and_unit(format)
    return {
        "name": name,
        "format": format.canonical_string(),
        "bits": format.bits,
        "unit": unit,
        "min": element.min,
        "max": element.max,
        "min_positive": _least(element),
        "values": element.value_count,
        "negative_zero": element.has_negative_zero,
        "infinity": element.has_infinity,
        "nan": element.has_nan,
        "overflow": element.overflow,
    }


def _line(name: str, format: Format) -> tuple[object, ...]:
    element, suffix = element_and_unit(format)
    limits = [number(v) + suffix if v is not None else "–" for v in (element.max, _least(element))]
    canonical_string = format.canonical_string()
    short = (
        canonical_string
        if len(canonical_string) <= WIDEST
        else f"{canonical_string[: WIDEST - 1]}…"
    )
    return (
        name,
        short,
        format.bits,
        *limits,
        element.value_count,
        special_values(element),
    )


def element_and_unit(format: Format) -> tuple[ElementFormat, str]:
    """The format of the elements, and what their values are multiplied by."""
    if isinstance(format, Block):
        return format.element, "·2^S" if format.powers else "·s"
    if isinstance(format, Squeezed):
        return format.element, "·2^−β, to the power 1/α"
    if not isinstance(format, ElementFormat):
        raise ValueError(f"{format} is neither an element format nor a block format")
    return format, ""


def _least(element: ElementFormat) -> float | None:
    return element.min_positive if isinstance(element, BinadeFormat | TableFormat) else None


def special_values(element: ElementFormat) -> str:
    """Which of −0, infinities and NaN a format has, in one cell of a table."""
    has = {"−0": element.has_negative_zero, "∞": element.has_infinity, "NaN": element.has_nan}
    return " ".join(name for name, there in has.items() if there) or "–"


def number(x: float) -> str:
    """Seven digits; n·2^k, where that is shorter, for a small x or a large power of two.

    >>> number(1.984375), number(2.0**-9), number(-3 * 2.0**-16)
    ('1.984375', '2^-9', '-3·2^-16')
    >>> number(3.3895313892515355e38), number(1.2345678e-30)
    ('3.389531e+38', '1.234568e-30')
    """
    mantissa, exponent = math.frexp(x)
    if (
        not math.isfinite(x)
        or 0.01 < abs(x) < 1e6
        or x == 0
        or (abs(x) >= 1e6 and abs(mantissa) != 0.5)
    ):
        return f"{x:.7g}"
    n = Fraction(mantissa).numerator
    power = f"2^{exponent - abs(Fraction(mantissa).denominator).bit_length() + 1}"
    if abs(n) >= 1000:
        return f"{x:.7g}"
    return f"{n}·{power}" if abs(n) > 1 else f"{'-' * (n < 0)}{power}"
