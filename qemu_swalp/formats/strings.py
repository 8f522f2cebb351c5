"""How parameters are written in a format's string (clause STR-1)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping


def string_with_parameters(
    family: str, parameters: object, derived: Mapping[str, object], variadic: str = ""
) -> str:
    """`family<arguments>`, the arguments being the fields of a dataclass.

    Required fields, and those of metadata "positional", are written by position; the others by name
    where they differ from their default.

    Parameters
    ----------
    derived : the defaults that follow from other fields, by name.
    variadic : the field whose entries are all written by position, if there is one.
    """
    parts: list[str] = []
    for field in dataclasses.fields(parameters):  # type: ignore[arg-type]
        value = getattr(parameters, field.name)
        if field.name == variadic:
            parts += [literal(entry) for entry in value]
        elif field.default is dataclasses.MISSING or field.metadata.get("positional"):
            parts.append(literal(value))
        elif value == derived.get(field.name, field.default):
            continue
        else:
            parts.append(field.name if value is True else f"{field.name}={literal(value)}")
    return f"{family}<{','.join(parts)}>"


def literal(value: object) -> str:
    """A value as the parser reads it.

    >>> literal(True), literal(2.0), literal(0.5), literal((-2, -1)), literal((0,))
    ('true', '2', '0.5', '(-2,-1)', '0')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, tuple):
        return literal(value[0]) if len(value) == 1 else "(" + ",".join(map(literal, value)) + ")"
    return str(value)


def form_of(family: str, constructor: Callable[..., object]) -> str:
    """The form of a family's strings, for errors: options in square brackets, with their defaults.

    >>> from qemu_swalp import Fixed
    >>> form_of("fixed", Fixed)
    'fixed<word,fraction,[signed=true],[symmetric=false],[overflow=saturate]>'
    """
    parts = []
    for name, parameter in inspect.signature(constructor).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            parts.append(f"{name},…")
        elif parameter.default is parameter.empty:
            parts.append(name)
        else:
            default = "…" if parameter.default is None else literal(parameter.default)
            parts.append(f"[{name}={default}]")
    return f"{family}<{','.join(parts)}>"
