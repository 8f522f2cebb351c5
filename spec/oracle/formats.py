"""Strings and the table of formats (clause STR-1)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from .blocks import Bfp
from .families import Codebook, Fixed, Float

FAMILIES: dict[str, type[Float | Fixed | Codebook | Bfp]] = {
    "float": Float,
    "fixed": Fixed,
    "codebook": Codebook,
    "bfp": Bfp,
}
POSITIONAL = ("exponent", "mantissa", "word", "fraction")
Format = Float | Fixed | Codebook | Bfp


def spell(fmt: Format) -> str:
    """STR-1: the string of a format."""
    family = next(name for name, kind in FAMILIES.items() if type(fmt) is kind)
    return f"{family}<{','.join(_arguments(fmt))}>"


def _arguments(fmt: Format) -> Iterator[str]:
    """STR-1: positional fields, then what differs from its default."""
    for field in fields(fmt):
        value = getattr(fmt, field.name)
        if field.name == "values_":
            yield from (f"{number:g}" for number in value)
        elif field.name in POSITIONAL:
            yield str(value)
        elif value is True and not field.default:
            yield field.name
        elif value != field.default:
            yield f"{field.name}={str(value).replace(' ', '').replace('False', 'false')}"


def tables() -> dict[str, Any]:
    """formats.toml as it stands."""
    return tomllib.loads((Path(__file__).parents[1] / "formats.toml").read_text())


def formats() -> dict[str, Format]:
    """The formats of formats.toml by name."""
    return {name: _build(dict(table)) for name, table in tables()["formats"].items()}


def _build(table: dict[str, Any]) -> Format:
    """One table of formats.toml as a format."""
    kind = FAMILIES[table.pop("family")]
    arguments = {key: value for key, value in table.items() if key not in ("description", "source")}
    if "values" in arguments:
        arguments["values_"] = tuple(arguments.pop("values"))
    if isinstance(arguments.get("axis"), list):
        arguments["axis"] = tuple(arguments["axis"])
    return kind(**arguments)
