"""Names for formats: the user's own, and those of a TOML file (clause STR-1)."""

from __future__ import annotations

import re
from os import PathLike
from typing import Any

from .base import FAMILIES, Format, forget_strings
from .builtin_names import string_of
from .parser import FORMAT_PARAMETERS, REGISTERED, is_known, parse


def register(name: str, format: Format | str) -> Format:
    """Give a format a name that `parse`, and so every function with a format argument, understands.

    The string of the format remains the canonical one, so that what was saved under it can be read
    where the name is not registered.

    Parameters
    ----------
    name : letters, digits, "_", "." and "-", beginning with a letter or "_".
    format : a format, or anything that `parse` accepts.

    Returns
    -------
    The format.

    Raises
    ------
    ValueError: if the name stands for a different format already. (It may be given anew once the
        class of that format has been declared anew.)

    >>> register("my_fp6", "float<3,2,bias=4>").bits, unregister("my_fp6")
    (6, None)
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", name):
        raise ValueError(
            "a format name starts with a letter and goes on with letters, digits and _ . -, got"
            f" {name!r}"
        )
    parsed = parse(format)
    _check_free(name, parsed)
    _enter(name, parsed)
    return parsed


def unregister(name: str) -> None:
    """Forget a registered name. Raises KeyError if it is not registered."""
    del REGISTERED[name]
    forget_strings()


def _check_free(name: str, format: Format, where: str = "") -> None:
    """Raise ValueError if the name stands for another format."""
    if name in REGISTERED:
        holder = REGISTERED[name] if REGISTERED[name].is_current else format
    else:
        holder = parse(name) if is_known(name) else format
    if holder != format:
        remedy = f", or unregister({name!r}) first" if name in REGISTERED else ""
        raise ValueError(
            f"{where}the name {name!r} already stands for {holder.canonical_string()}; choose"
            f" another{remedy}"
        )


def _enter(name: str, format: Format) -> None:
    if string_of(name) is None:
        REGISTERED[name] = format
        forget_strings()


def load_formats(path: str | PathLike[str]) -> dict[str, Format]:
    """Register every `[formats.NAME]` table of a TOML file.

    A table holds `family` and that family's parameters, and may hold `description` and `source`.
    Where a parameter is a format, it is a string or a table.

    Returns
    -------
    The formats by name.

    Raises
    ------
    ValueError: if the file is not such a file, if a table does not describe a format, or if a name
        stands for a different format already. Then nothing is registered.
    OSError: if the file cannot be read.
    """
    import tomllib

    with open(path, "rb") as file:
        try:
            tables = tomllib.load(file).get("formats")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a TOML file: {error}") from error
    if not isinstance(tables, dict) or not all(
        isinstance(table, dict) for table in tables.values()
    ):
        raise ValueError(f"{path}: expected tables named [formats.NAME]")
    formats = {
        name: _from_table(f"{path}: [formats.{name}]", table) for name, table in tables.items()
    }
    for name, format in formats.items():
        _check_free(name, format, f"{path}: ")
    for name, format in formats.items():
        _enter(name, format)
    return formats


def _from_table(where: str, table: dict[str, Any]) -> Format:
    parameters = {
        key: value for key, value in table.items() if key not in ("family", "description", "source")
    }
    family = table.get("family")
    if family not in FAMILIES:
        raise ValueError(f"{where}: family must be one of {', '.join(FAMILIES)}, got {family!r}")
    try:
        for key in set(FORMAT_PARAMETERS) & set(parameters):
            inner = parameters[key]
            parameters[key] = (
                _from_table(f"{where}: {key}", inner) if isinstance(inner, dict) else parse(inner)
            )
        return FAMILIES[family](**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
