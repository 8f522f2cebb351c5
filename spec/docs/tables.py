"""Tables of the site that are generated: from the package, and from files of measurements."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path

import evidence as runs

import qemu_swalp as q
from qemu_swalp.cli.formats import element_and_unit, number, special_values
from qemu_swalp.formats.aliases import ALIASES
from qemu_swalp.training import presets, recipe, recipe_names

ROOT = Path(__file__).parents[2]
DATA = ROOT / "spec" / "docs" / "data"


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; bars within cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def formats() -> str:
    """Every named format, with its range."""
    rows = []
    for name in q.formats.names():
        format = q.parse(name)
        element, unit = element_and_unit(format)
        limits = (element.max, getattr(element, "min_positive", None))
        rows.append(
            (
                f"`{name}`",
                f"`{format.canonical_string()}`",
                format.bits,
                *(f"{number(v)}{unit}" if v is not None else "–" for v in limits),
                element.value_count,
                special_values(element),
                element.overflow,
            )
        )
    header = ("name", "format", "bits", "max", "least > 0", "values", "specials", "overflow")
    return markdown_table(header, rows)


def aliases() -> str:
    """What other libraries call the formats."""
    rows = [(f"`{name}`", ", ".join(f"`{a}`" for a in names)) for name, names in ALIASES.items()]
    return markdown_table(("format", "also called"), rows)


def recipes() -> str:
    """A section for each preset: its docstring and what it holds."""
    return "\n\n".join(_preset(name) for name in recipe_names())


def _preset(name: str) -> str:
    text = inspect.getdoc(getattr(presets, name))
    lines = str(recipe(name)).splitlines()[2:]
    rows = [(role, f"`{format}`", rounding) for role, format, rounding in map(_cells, lines)]
    return f"### `{name}`\n\n{text}\n\n{markdown_table(('role', 'format', 'rounding'), rows)}"


def _cells(line: str) -> list[str]:
    """Role, format and rounding, which is empty for what has none."""
    return [*re.split(r" {2,}", line.strip()), ""][:3]


def api(module: str) -> str:
    """A reference entry for each public name of a module."""
    names = sorted(public_names(module), key=str.lower)
    return "\n\n".join(f"::: {module}.{name}" for name in names)


def public_names(module: str) -> list[str]:
    """What a module's `__all__` lists. Adapters are read, not imported: a site needs no framework.

    >>> "emulate" in public_names("qemu_swalp_keras"), "quantize" in public_names("qemu_swalp")
    (True, True)
    """
    file = ROOT / "adapters" / module / "__init__.py"
    if not file.exists():
        return list(import_module(module).__all__)
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{file} has no __all__")


def measurement(name: str) -> str:
    """The table of `data/NAME.json`: what was measured, by which command, on which machine."""
    content = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    table = markdown_table(content["columns"], content["rows"])
    return f"{_unbroken(table)}\n\n`{content['command']}`; {content['machine']}."


def _unbroken(table: str) -> str:
    """Numbers with their deviation and unit stay on a line."""
    return re.sub(r" (?=[±%])|(?<=±) ", "\N{NO-BREAK SPACE}", table)


def evidence(experiment: str, value: str, part: str = "") -> str:
    """A table of one value of the runs in `data/evidence.jsonl`."""
    return _unbroken(markdown_table(*runs.table_of(experiment, value, part)))


def evidence_limits(experiment: str) -> str:
    """What weights in a format can reach."""
    return markdown_table(*runs.limits(experiment))


def evidence_networks(experiment: str) -> str:
    """Test errors of the networks in `data/evidence.jsonl`."""
    return _unbroken(markdown_table(*runs.networks(experiment)))


def evidence_averages(experiment: str) -> str:
    """Test errors of the averages of their runs."""
    return _unbroken(markdown_table(*runs.averages(experiment)))


def published() -> str:
    """Each published error, and what became of it here."""
    return _unbroken(markdown_table(*runs.published()))


GENERATED: dict[str, Callable[..., str]] = {
    "formats": formats,
    "aliases": aliases,
    "recipes": recipes,
    "api": api,
    "measurement": measurement,
    "evidence": evidence,
    "evidence_limits": evidence_limits,
    "evidence_networks": evidence_networks,
    "evidence_averages": evidence_averages,
    "evidence_plots": runs.plots,
    "evidence_made_by": runs.made_by,
    "published": published,
}
"""Names that pages use."""
