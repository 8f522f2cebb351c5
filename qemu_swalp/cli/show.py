"""`qemu-swalp show FORMAT`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import (
    Block,
    ElementFormat,
    Format,
    encode,
    kernel_paths,
    names,
    parse,
)
from .._util.tables import TERMINAL, table
from ..experiments.common.figure import save_picture
from ..formats.scale import SEARCH_RULES, candidates_of
from ..formats.scale_rules import OWN_RULES
from .formats import (
    add_load,
    add_plot,
    element_and_unit,
    load,
    number,
    picture_path,
    read_format,
    special_values,
)
from .output import add_json, asks_for_json, json_number, print_json
from .pictures import draw_format

FEW = 256
"""`show` lists the values of formats that have at most so many."""


def add_commands(commands: Any) -> None:
    """Add `show` to the subparsers."""
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
    show.set_defaults(run=_show)
    add_load(show)
    add_json(show)


def _show(chosen: argparse.Namespace) -> int:
    text, plot = chosen.format, chosen.plot
    load(chosen.load)
    format = read_format(text)
    element, unit = element_and_unit(format)
    path = None if plot is None else picture_path(plot, [text])
    if path is not None:
        title = (
            f"{text}: {element.value_count} values of {format.bits} bits,"
            f" {number(element.min)}{unit} to {number(element.max)}{unit}"
        )
        save_picture(lambda figure: draw_format(figure, title, element, unit), path)
    if asks_for_json(chosen):
        properties = {
            label: value if isinstance(value, bool | int | float | str) else str(value)
            for label, value in _properties(format)
        }
        content: dict[str, Any] = {"format": text, "properties": properties}
        if element.value_count <= FEW:
            content["codes"] = [
                {"code": code, "value": json_number(value)} for code, value in _coded(element)
            ]
        print_json(content | ({} if path is None else {"written": str(path)}))
        return 0
    rows, string = list(_properties(format)), format.canonical_string()
    fits = len(string) + max(len(label) for label, _ in rows) + 2 <= TERMINAL
    shown = [row for row in rows if fits or row[0] != "written"]
    print(table(("", text), shown, left=(0, 1), width=TERMINAL))
    if not fits:  # as one word, to be copied
        print(f"\nwritten as: {string}")
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
        more = format.zero_point_bits
        kind = "minimum" if format.in_integers else "zero point"
        zero_point = f", and {more} of a {kind}" if more else ""
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
    yield "special values", special_values(element)
    yield "overflow", element.overflow
    yield "idempotent", "yes" if format.idempotent else "no"
    yield from _paths(format)


def _paths(format: Format) -> Iterator[tuple[str, str]]:
    """The libraries whose arrays have compiled kernels, and those without, each with why."""
    for dtype in ("float32", "float64"):
        with contextlib.suppress(TypeError):
            paths = kernel_paths(format, dtype=dtype)
            for path in dict.fromkeys(paths.values()):
                libraries = ", ".join(name for name in paths if paths[name] == path)
                _, colon, reason = path.partition(": ")
                label = "reference only" if colon else "compiled kernels"
                yield label, f"{libraries}{colon}{reason}"
            return


_LABELS = {
    "min_normal": "least normal",
    "min_subnormal": "least subnormal",
    "min_positive": "least positive",
    "epsilon": "epsilon",
}


def _fields(format: Format) -> Iterator[tuple[str, object]]:
    """The parameters, other than those that have lines of their own and a codebook's values."""
    shown_elsewhere = {
        *("overflow", "axis", "size", "scale", "rule", "second", "top"),
        format.variadic,
    }
    for field in dataclasses.fields(format):  # type: ignore[arg-type]
        if field.name not in shown_elsewhere:
            value = getattr(format, field.name)
            yield (
                field.name,
                {True: "yes", False: "no"}[value] if isinstance(value, bool) else value,
            )


def _scale(format: Block) -> Iterator[str]:
    """How a block's scale follows from its elements."""
    top = format.top
    if format.rule in SEARCH_RULES:
        tops, _ = candidates_of(format.rule, top, bool(format.powers))
        listed = ", ".join(map(number, tops))
        yield f"max|x|/t, t of {listed} by the least squared error, in {format.scale}"
        return
    if format.rule in OWN_RULES:
        yield f"by the registered rule {format.rule}, in {format.scale}"
        return
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
        "ggml": f"max|x|/{number(top)}, in {format.scale} after the division by it",
        "ggml_signed": f"−x/{number(-format.element.min)} of the first x of that magnitude,"
        f" in {format.scale} after the division by it",
        "ggml_minimum": f"(max x − min x)/{number(top)}, in {format.scale} after the division by"
        " it, and min x likewise",
        "minmax": f"(max x − min x)/{number(top)}, in {format.scale}, and a zero point",
    }.get(format.rule, f"as {format.rule} makes NVFP4, in {format.scale}")
    if format.second is not None:
        yield f", times a global scale in {format.second}"


def _geometry(format: Block) -> str:
    if format.axis is None:
        return "the whole array"
    axes = ", ".join(map(str, format.axis))
    if format.axis_words:
        axes += " (by the layout of each layer)"
    if format.size is None:
        return f"each index of axis {axes}"
    if len(format.axis) == 1:
        return f"{format.size} elements in a row along axis {axes}"
    sizes = format.size if isinstance(format.size, tuple) else (format.size,) * len(format.axis)
    return f"tiles of {' × '.join(map(str, sizes))} along axes {axes}"


def _coded(element: ElementFormat) -> list[tuple[int, float]]:
    """(code, value) in the order of the codes, infinity and NaN included."""
    specials = {
        -0.0: element.has_negative_zero,
        math.inf: element.has_infinity,
        -math.inf: element.has_infinity and element.min < 0,
        math.nan: element.has_nan,
    }
    values = [*element.values(), *(x for x, there in specials.items() if there)]
    codes = encode(np.array(values, np.float64), element)
    return sorted(zip(map(int, codes), values, strict=True))


def _values(element: ElementFormat) -> list[tuple[int, str]]:
    """The same as text."""
    special = {"-0.0": "−0", "inf": "∞", "-inf": "−∞", "nan": "NaN"}
    return [(code, special.get(str(value)) or number(value)) for code, value in _coded(element)]


def _columns(values: list[tuple[int, str]]) -> Iterator[str]:
    """Eight to a line, or fewer where that many do not fit."""
    digits = len(f"{values[-1][0]:x}")
    width = max(len(value) for _, value in values)
    count = next(n for n in (8, 4, 2, 1) if n * (digits + width + 4) - 2 <= TERMINAL or n == 1)
    for i in range(0, len(values), count):
        yield "  ".join(
            f"{code:0{digits}x}: {value:<{width}}" for code, value in values[i : i + count]
        ).rstrip()
