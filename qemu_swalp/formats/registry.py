"""Formats by name, by string and by TOML file (clause STR-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from os import PathLike
from typing import Any

from .._util.checks import suggestion
from .base import FAMILIES, Format
from .names import ALIASES, BUILTIN, named

_NAMES = {
    canonical_string: name for name, canonical_string in BUILTIN.items() if name not in ALIASES
}

NESTED = ("element", "scale", "second")
"""Parameters that are formats."""

_registered: dict[str, Format] = {}


def parse(text: str | Format) -> Format:
    """The format that a name or a string stands for; a `Format` is returned as it is.

    >>> parse("e5m2").max, str(parse("bfp<8,axis=0>")), parse("fixed<8,6,unsigned>") == parse("fixed<8,6,signed=false>")
    (57344.0, 'bfp<8,axis=0>', True)
    """
    if isinstance(text, Format):
        return text
    if not isinstance(text, str):
        raise TypeError(f"a format must be a string or a Format, got {text!r}")
    name = text.strip()
    if name in _registered:
        return _registered[name]
    canonical_string = named(name)
    if canonical_string is not None:
        return _spelled(canonical_string)
    if "/" in name:
        format, _, rounding = name.partition("/")
        raise ValueError(
            f"{name!r} is a quantizer, FORMAT/ROUNDING, where a format is expected; give the"
            f" rounding by itself, as in quantize(x, {format!r}, {rounding!r})"
        )
    if "<" not in name:
        near = suggestion(name.lower(), names(), 0.5)
        raise ValueError(
            f"unknown format {name!r}{near}; qemu_swalp.names() lists the names, and "
            f"{', '.join(f'{family}<…>' for family in FAMILIES)} are parametrized"
        )
    return _spelled(name)


def names() -> tuple[str, ...]:
    """Names of all formats: built in, then registered."""
    return (*BUILTIN, *_registered)


def register(name: str, format: Format | str) -> Format:
    """Give a format a name, for `parse` and everything that takes format strings. Returns the
    format.

    ValueError where the name already stands for a different format. The string of the format
    remains its full canonical_string, so what was saved under it can be read where the name is not
    registered.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]*", name):
        raise ValueError(
            "a format name starts with a letter and goes on with letters, digits and _ . -, got"
            f" {name!r}"
        )
    parsed = parse(format)
    if _known(name) and parse(name) != parsed:
        raise ValueError(
            f"the name {name!r} already stands for {parse(name).canonical_string()}; choose another"
        )
    if named(name) is None:
        _registered[name] = parsed
        _spelled.cache_clear()
    return parsed


def unregister(name: str) -> None:
    """Forget a registered name. KeyError unless it is one."""
    del _registered[name]
    _spelled.cache_clear()


def load_formats(path: str | PathLike[str]) -> dict[str, Format]:
    """Register every `[formats.NAME]` table of a TOML file; returns them by name.

    A table holds `family` and that family's parameters, and may hold `description` and `source`.
    Where a parameter is a format, it is a string or a table. Nothing is registered unless all of
    the file is right.
    """
    import tomllib

    with open(path, "rb") as file:
        try:
            tables = tomllib.load(file).get("formats")
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: not a TOML file: {error}") from error
    if not isinstance(tables, dict) or not all(
        isinstance(table, dict) for table in tables.values()
    ):
        raise ValueError(f"{path}: expected tables named [formats.NAME]")
    formats = {
        name: _from_table(f"{path}: [formats.{name}]", table) for name, table in tables.items()
    }
    for name, format in formats.items():
        if _known(name) and parse(name) != format:
            raise ValueError(
                f"{path}: the name {name!r} already stands for {parse(name).canonical_string()};"
                " choose another"
            )
    for name, format in formats.items():
        register(name, format)
    return formats


def _from_table(where: str, table: dict[str, Any]) -> Format:
    parameters = {
        key: value for key, value in table.items() if key not in ("family", "description", "source")
    }
    family = table.get("family")
    if family not in FAMILIES:
        raise ValueError(f"{where}: family must be one of {', '.join(FAMILIES)}, got {family!r}")
    try:
        for key in set(NESTED) & set(parameters):
            inner = parameters[key]
            parameters[key] = (
                _from_table(f"{where}: {key}", inner) if isinstance(inner, dict) else parse(inner)
            )
        return FAMILIES[family](**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def builtin_name(format: Format) -> str | None:
    """The built-in name of a format, if it has one."""
    return _NAMES.get(format.canonical_string())


def _known(name: str) -> bool:
    return name in _registered or named(name) is not None


@lru_cache(maxsize=4096)
def _spelled(text: str) -> Format:
    return _Parser(text).whole()


class _Parser:
    """`head<item,…>` where an item is [key=]literal and a literal a number, word, tuple or
    format.
    """

    token = re.compile(r"\s*(?:([<>(),=])|([^<>(),=\s]+))")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = [a or b for a, b in self.token.findall(text)]
        self.at = 0

    def whole(self) -> Format:
        value = self.literal()
        if self.at < len(self.tokens) or not isinstance(value, Format):
            raise self.error(f"unexpected {self.peek()!r}" if self.peek() else "it names no format")
        return value

    def error(self, what: str) -> ValueError:
        return ValueError(
            f"cannot read the format {self.text!r}: {what}; formats look like fixed<8,6> or "
            "float<4,3,specials=fn>"
        )

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.error(f"expected {expected or 'more'!r}, got {token or 'the end'!r}")
        self.at += 1
        return token

    def literal(self) -> Any:
        if self.peek() == "(":
            return tuple(value for _, value in self.items("(", ")"))
        word = self.next()
        if self.peek() == "<":
            return self.format(word)
        if re.match(r"[+-]?\.?\d", word):
            try:
                return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
            except ValueError:
                raise self.error(f"{word!r} is not a number") from None
        if word in ("true", "false"):
            return word == "true"
        return parse(word) if _known(word) else word

    def items(self, opening: str, closing: str) -> Iterator[tuple[str, Any]]:
        self.next(opening)
        while self.peek() != closing:
            key = ""
            if self.at + 1 < len(self.tokens) and self.tokens[self.at + 1] == "=":
                key = self.next()
                self.next("=")
            yield key, self.literal()
            if self.peek() != closing:
                self.next(",")
        self.next(closing)

    def format(self, family: str) -> Format:
        constructor = FAMILIES.get(family)
        if constructor is None:
            raise self.error(
                f"unknown family {family!r}, known are {', '.join(FAMILIES)}"
                + suggestion(family, FAMILIES)
            )
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for key, value in self.items("<", ">"):
            if key:
                named[key] = value
            elif isinstance(value, str):
                named |= {"signed": False} if value == "unsigned" else {value: True}
            else:
                positional.append(value)
        try:
            return constructor(*positional, **named)
        except TypeError as error:
            raise self.error(str(error)) from error
