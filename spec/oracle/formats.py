"""Strings and the table of formats (clause STR-1)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from .blocks import Bfp
from .families import P3109, Fixed, Float
from .scaled import Block, Exponent, Int
from .tables import Codebook, Table
from .tapered import Logarithmic, Posit, Takum

Format = (
    Float | Fixed | Codebook | Bfp | Int | Block | Exponent | P3109 | Posit | Takum | Logarithmic
)
FAMILIES: dict[str, type[Format]] = {
    "float": Float,
    "fixed": Fixed,
    "codebook": Codebook,
    "bfp": Bfp,
    "int": Int,
    "block": Block,
    "exponent": Exponent,
    "p3109": P3109,
    "posit": Posit,
    "takum": Takum,
    "logarithmic": Logarithmic,
}
POSITIONAL = (
    "exponent",
    "mantissa",
    "word",
    "fraction",
    "element",
    "exponent_bits",
    "es",
    "k",
    "p",
)


def spell(fmt: Format) -> str:
    """STR-1: the string of a format."""
    family = next(name for name, kind in FAMILIES.items() if type(fmt) is kind)
    return f"{family}<{','.join(_arguments(fmt))}>"


def _arguments(fmt: Format) -> Iterator[str]:
    """STR-1: positional fields, then what differs from its default."""
    for field in fields(fmt):
        value = getattr(fmt, field.name)
        if field.name == "values_":
            yield from (repr(number) if number % 1 else f"{number:g}" for number in value)
        elif field.name in POSITIONAL:
            yield _literal(value)
        elif value is True and not field.default:
            yield field.name
        elif value != field.default:
            yield f"{field.name}={_literal(value)}"


def _literal(value: object) -> str:
    """STR-1: a parameter; a format that has a name by its name."""
    if isinstance(value, Fixed | Exponent):
        return spell(value)
    if isinstance(value, Float | Table):
        return next((name for name, fmt in formats().items() if fmt == value), spell(value))
    return str(value).replace(" ", "").replace("False", "false")


def tables() -> dict[str, Any]:
    """formats.toml as it stands."""
    return tomllib.loads((Path(__file__).parents[1] / "formats.toml").read_text())


@cache
def formats() -> dict[str, Format]:
    """The formats of formats.toml by name. A format within another is named, or a table of its
    own.
    """
    found: dict[str, Format] = {}
    for name, table in tables()["formats"].items():
        found[name] = _build(dict(table), found)
    return found


def _build(table: dict[str, Any], known: dict[str, Format]) -> Format:
    """One table of formats.toml as a format."""
    kind = FAMILIES[table.pop("family")]
    arguments = {key: value for key, value in table.items() if key not in ("description", "source")}
    if "values" in arguments:
        arguments["values_"] = tuple(arguments.pop("values"))
    for key in ("axis", "size"):
        if isinstance(arguments.get(key), list):
            arguments[key] = tuple(arguments[key])
    for key in ("element", "scale", "second"):
        if key in arguments:
            inner = arguments[key]
            arguments[key] = known[inner] if isinstance(inner, str) else _build(dict(inner), known)
    return kind(**arguments)
