"""`qemu-swalp compare FORMAT FORMAT …`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from .. import Analysis, Format, RandomBits, Rounding, analyze
from .._util.tables import TERMINAL, table
from ..experiments.common.figure import save_picture
from ..storage.checkpoints import open_checkpoint
from ..storage.layouts import values_of
from .error_table import figures
from .formats import add_load, add_plot, element_and_unit, load, number, picture_path, read_format
from .output import add_json, asks_for_json, figures_of, print_json
from .pictures import SCALES, draw_comparison, magnitude_range, values_by_binade
from .tensors import READ, in_a_dtype_for, is_floating

SHAPE = (256, 256)
RANGES = ("format", "bits", "greatest", "least > 0", "binades", "values", "in [1, 2)")
ERRORS = (
    "format",
    "bits/element",
    "SQNR, dB",
    "max error",
    "saturated",
    "to zero",
    "unchanged",
    "bias",
)
Tensor = tuple[str, np.ndarray]


def add_commands(commands: Any) -> None:
    """Add `compare` to the subparsers."""
    command = commands.add_parser(
        "compare",
        help="compare formats: range, density, error on tensors",
        description=(
            "Compare formats: range and density, and errors on tensors. These are a normal one"
            " (N(0, 1)) and a heavy-tailed one (Student's t with 3 degrees of freedom), both of"
            f" {SHAPE[0]}×{SHAPE[1]} elements, and those of a file. What is out of range saturates."
        ),
    )
    command.add_argument(
        "formats", metavar="FORMAT", nargs="+", help="names (e4m3fn) or parameters (bfp<8,axis=0>)"
    )
    command.add_argument("--file", metavar="FILE", type=Path, help=f"further tensors: {READ}")
    command.add_argument(
        "--rounding", metavar="R", default="nearest_even", help="mode (default: %(default)s)"
    )
    command.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the tensors, and of stochastic rounding (default: %(default)s)",
    )
    add_plot(command, "density, and SQNR over the scale of the tensors")
    add_load(command)
    add_json(command)
    command.set_defaults(run=_compare)


def _compare(chosen: argparse.Namespace) -> int:
    load(chosen.load)
    formats = {text: read_format(text) for text in chosen.formats}
    rounding, random = Rounding.parse(chosen.rounding), RandomBits(chosen.seed)
    path = None if chosen.plot is None else picture_path(chosen.plot, chosen.formats)
    tensors = _random_tensors(chosen.seed)
    analyses = {
        title: {name: [_analysis(x, format, rounding, random)] for name, format in formats.items()}
        for title, x in tensors.items()
    }
    if chosen.file is not None:
        analyses[chosen.file.name] = _of_file(chosen.file, formats, rounding, random)
    if asks_for_json(chosen) and path is None:
        print_json(_record(formats, analyses))
        return 0
    parts = [table(RANGES, [_range(*item) for item in formats.items()], width=TERMINAL)]
    parts += [
        f"{title}\n" + table(ERRORS, [_error(*item) for item in by_format.items()], width=TERMINAL)
        for title, by_format in analyses.items()
    ]
    if path is not None:
        over = {
            title: {
                name: [
                    _analysis(x * np.float32(2.0**k), format, rounding, random).sqnr_db
                    for k in SCALES
                ]
                for name, format in formats.items()
            }
            for title, x in tensors.items()
        }
        elements = {name: element_and_unit(format)[0] for name, format in formats.items()}
        per_tensor = analyses[chosen.file.name] if chosen.file is not None else {}
        save_picture(lambda figure: draw_comparison(figure, elements, over, per_tensor), path)
        parts.append(f"written: {path}")
        if asks_for_json(chosen):
            print_json(_record(formats, analyses) | {"written": str(path)})
            return 0
    print("\n\n".join(parts))
    return 0


def _record(
    formats: dict[str, Format], analyses: dict[str, dict[str, list[Analysis]]]
) -> dict[str, Any]:
    """The tables, as numbers."""
    ranges = []
    for name, format in formats.items():
        element, unit = element_and_unit(format)
        least, greatest = magnitude_range(element)
        ranges.append(
            {
                "format": name,
                "bits": format.bits,
                "unit": unit,
                "greatest": greatest,
                "least": least,
                "values": element.value_count,
            }
        )
    errors = {
        title: [
            {"format": name, **figures_of(sum(parts, Analysis()))}
            for name, parts in by_format.items()
        ]
        for title, by_format in analyses.items()
    }
    return {"ranges": ranges, "errors": errors}


def _random_tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "normal": rng.standard_normal(SHAPE).astype(np.float32),
        "heavy-tailed": rng.standard_t(3, SHAPE).astype(np.float32),
    }


def _of_file(
    path: Path, formats: dict[str, Format], rounding: Rounding, random: RandomBits
) -> dict[str, list[Analysis]]:
    """The analyses of every floating tensor. Raises ValueError if there is none."""
    by_format: dict[str, list[Analysis]] = {name: [] for name in formats}
    with open_checkpoint(path) as tensors:
        for x in (values_of(tensors.read(name)) for name in tensors.names):
            for name, format in formats.items() if is_floating(x) else ():
                by_format[name].append(_analysis(x, format, rounding, random))
    if not any(by_format.values()):
        raise ValueError(f"{path}: none of its tensors is floating")
    return by_format


def _analysis(x: np.ndarray, format: Format, rounding: Rounding, random: RandomBits) -> Analysis:
    return analyze(in_a_dtype_for(x, format), format, rounding, random=random, overflow="saturate")


def _range(name: str, format: Format) -> tuple[object, ...]:
    element, unit = element_and_unit(format)
    least, greatest = magnitude_range(element)
    binades, counts = values_by_binade(element)
    near_one = dict(zip(binades.tolist(), counts.tolist(), strict=True)).get(0, 0)
    return (
        name,
        format.bits,
        number(greatest) + unit,
        number(least) + unit,
        f"{math.log2(greatest / least):.1f}",
        element.value_count,
        near_one,
    )


def _error(name: str, parts: list[Analysis]) -> tuple[object, ...]:
    total = sum(parts, Analysis())
    return name, f"{total.bits_per_element:.2f}", *figures(total), f"{total.mean_error:.2g}"
