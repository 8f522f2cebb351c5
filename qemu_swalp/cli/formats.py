"""`qemu-swalp formats` and `qemu-swalp show FORMAT`, and what other commands do with formats."""

from __future__ import annotations

import dataclasses
import math
import re
import runpy
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .. import (
    BinadeFormat,
    Block,
    ElementFormat,
    Format,
    TableFormat,
    encode,
    load_formats,
    names,
    parse,
)
from .._util.extras import EXPERIMENTS, require
from .._util.tables import table
from ..experiments.common.figure import save_picture
from ..formats.aliases import ALIASES
from .pictures import draw_format

WIDEST = 80
"""Characters of a format's string that a line of `formats` has room for; `show` gives all."""

FEW = 256
"""`show` lists the values of formats that have at most so many."""


def add_commands(commands: Any) -> None:
    """Add both to the subparsers."""
    listing = commands.add_parser(
        "formats",
        help="list the number formats that have a name",
        description=(
            "List the number formats that have a name. The values of block formats "
            "(·2^S, ·s) are those of the elements, times the scale of a block. Then the names that"
            " NumPy, ml_dtypes, PyTorch, ONNX, OCP and others have for formats."
        ),
    )
    listing.set_defaults(run=lambda chosen: _formats(chosen.load))
    show = commands.add_parser(
        "show",
        help="show one format: parameters, properties, and values if few",
        description="Show one format: parameters, properties, and values if they are few.",
    )
    show.add_argument(
        "format",
        metavar="FORMAT",
        help="a name (e4m3fn) or parameters: fixed<8,6> or bfp<8,axis=0>",
    )
    add_plot(show, "the values and the relative error of rounding")
    show.set_defaults(run=lambda chosen: _show(chosen.format, chosen.load, chosen.plot))
    for command in (listing, show):
        add_load(command)


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
    except TypeError as error:
        raise ValueError(str(error)) from error
    element_and_unit(format)
    return format


def _formats(files: list[str]) -> int:
    load(files)
    header = (
        "name",
        "format",
        "bits",
        "max",
        "least > 0",
        "epsilon",
        "values",
        "specials",
        "overflow",
    )
    print(table(header, [_line(name, parse(name)) for name in names()], left=(0, 1, 7, 8)))
    also = [(format, ", ".join(aliases)) for format, aliases in ALIASES.items()]
    print("\nAliases, in which case, _ and - do not count:\n")
    print(table(("format", "also called"), also, left=(0, 1)))
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


def _line(name: str, format: Format) -> tuple[object, ...]:
    element, suffix = element_and_unit(format)
    limits = [
        number(v) + suffix if v is not None else "–"
        for v in (element.max, _least(element), _epsilon(element))
    ]
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
        _specials(element),
        element.overflow,
    )


def element_and_unit(format: Format) -> tuple[ElementFormat, str]:
    """The format of the elements, and what their values are multiplied by."""
    if isinstance(format, Block):
        return format.element, "·2^S" if format.powers else "·s"
    if not isinstance(format, ElementFormat):
        raise ValueError(f"{format} is neither an element format nor a block format")
    return format, ""


def _least(element: ElementFormat) -> float | None:
    return element.min_positive if isinstance(element, BinadeFormat | TableFormat) else None


def _epsilon(element: ElementFormat) -> float | None:
    return element.epsilon if isinstance(element, BinadeFormat | TableFormat) else None


def _specials(element: ElementFormat) -> str:
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


def _show(text: str, files: list[str], plot: str | None) -> int:
    load(files)
    format = read_format(text)
    element, unit = element_and_unit(format)
    path = None if plot is None else picture_path(plot, [text])
    if path is not None:
        title = (
            f"{text}: {element.value_count} values of {format.bits} bits,"
            f" {number(element.min)}{unit} to {number(element.max)}{unit}"
        )
        save_picture(lambda figure: draw_format(figure, title, element, unit), path)
    print(table(("", text), list(_properties(format)), left=(0, 1)))
    if element.value_count <= FEW:
        print(f"\ncode: value{unit}\n" + "\n".join(_columns(_values(element))))
    if path is not None:
        print(f"\nwritten: {path}")
    return 0


def _properties(format: Format) -> Iterator[tuple[str, object]]:
    element, suffix = element_and_unit(format)
    named = [name for name in names() if parse(name) == format]
    if named:
        yield "names", ", ".join(named)
    yield "written", format.canonical_string()
    yield "family", format.family
    yield from _fields(format)
    if isinstance(format, Block):
        zero_point = f", and {format.bits} of a zero point" if format.rule == "minmax" else ""
        yield "bits", f"{format.bits} per element, {format.scale.bits} per block{zero_point}"
        yield "scale", "".join(_scale(format))
        yield "block", _geometry(format)
    else:
        yield "bits", format.bits
    yield "range", f"{number(element.min)}{suffix} to {number(element.max)}{suffix}"
    for name in ("min_normal", "min_subnormal", "min_positive", "epsilon"):
        value = getattr(element, name, None)
        if value is not None:
            yield _LABELS[name], number(value) + suffix
    yield "number of values", element.value_count
    yield "special values", _specials(element)
    yield "overflow", element.overflow
    yield "idempotent", "yes" if format.idempotent else "no"


_LABELS = {
    "min_normal": "least normal",
    "min_subnormal": "least subnormal",
    "min_positive": "least positive",
    "epsilon": "epsilon",
}


def _fields(format: Format) -> Iterator[tuple[str, object]]:
    """The parameters, other than those that have lines of their own and a codebook's values."""
    shown_elsewhere = {"overflow", "axis", "size", "scale", "rule", "second", format.variadic}
    for field in dataclasses.fields(format):  # type: ignore[arg-type]
        if field.name not in shown_elsewhere:
            value = getattr(format, field.name)
            yield (
                field.name,
                {True: "yes", False: "no"}[value] if isinstance(value, bool) else value,
            )


def _scale(format: Block) -> Iterator[str]:
    """How a block's scale follows from its elements."""
    top = format.element.max
    if format.powers:
        shift = math.frexp(top)[1] - 1
        emax = f" − {shift}" if shift > 0 else f" + {-shift}" if shift else ""
        yield {
            "floor": f"2^S, S = ⌊log2 max|x|⌋{emax}",
            "ceil": f"2^S, S = ⌈log2 max|x|⌉{emax}",
            "rceil": f"2^S, S = ⌈log2(max|x|/{number(top)})⌉",
            "even": f"2^S, S = ⌊log2 r⌋{emax}, r = max|x| in the element's precision",
        }[format.rule]
        yield f", from {format.powers[0]} to {format.powers[1]}"
        return
    yield {
        "nearest": f"max|x|/{number(top)}, in {format.scale}",
        "minmax": f"(max x − min x)/{number(top)}, in {format.scale}, and a zero point",
    }.get(format.rule, f"as {format.rule} makes NVFP4, in {format.scale}")
    if format.second is not None:
        yield f", times a global scale of the whole array in {format.second}"


def _geometry(format: Block) -> str:
    if format.axis is None:
        return "the whole array"
    axes = ", ".join(map(str, format.axis))
    if format.size is None:
        return f"each index of axis {axes}"
    if len(format.axis) == 1:
        return f"{format.size} elements in a row along axis {axes}"
    sizes = format.size if isinstance(format.size, tuple) else (format.size,) * len(format.axis)
    return f"tiles of {' × '.join(map(str, sizes))} along axes {axes}"


def _values(element: ElementFormat) -> list[tuple[int, str]]:
    """(code, value) in the order of the codes, infinity and NaN included."""
    values = element.values()
    codes = encode(np.array(values, np.float64), element)
    listed = [(int(code), number(value)) for code, value in zip(codes, values, strict=True)]
    specials = {
        "−0": (element.has_negative_zero, -0.0),
        "∞": (element.has_infinity, math.inf),
        "−∞": (element.has_infinity and element.min < 0, -math.inf),
        "NaN": (element.has_nan, math.nan),
    }
    listed += [
        (int(encode(np.array(x, np.float64), element)), name)
        for name, (there, x) in specials.items()
        if there
    ]
    return sorted(listed)


def _columns(values: list[tuple[int, str]]) -> Iterator[str]:
    """Eight to a line."""
    digits = len(f"{values[-1][0]:x}")
    width = max(len(value) for _, value in values)
    for i in range(0, len(values), 8):
        yield "  ".join(
            f"{code:0{digits}x}: {value:<{width}}" for code, value in values[i : i + 8]
        ).rstrip()
