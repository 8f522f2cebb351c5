"""Formats by name, string or dtype (clause STR-1)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .._util.checks import suggestion
from ..rounding import Rounding
from .aliases import integers_called, meanings_of, remedy_for
from .base import FAMILIES, Format, forget_on_redefinition
from .builtin_names import BUILTIN, string_of
from .dtypes import dtype_name
from .strings import form_of

FORMAT_PARAMETERS = ("element", "scale", "second")
"""Parameters that are formats."""

REGISTERED: dict[str, Format] = {}
"""The user's own names (`register`)."""


def parse(format: object) -> Format:
    """The format that a name, a string or a dtype stands for.

    Parameters
    ----------
    format : a built-in or registered name ("e4m3fn"), or a string with parameters ("fixed<8,6>"); a
        dtype of NumPy, ml_dtypes, PyTorch, TensorFlow or JAX. Or what NumPy, ml_dtypes, PyTorch,
        ONNX, OCP, IEEE, MLIR, CUDA and Triton call the format ("float16", "half", "bfloat16",
        "float8_e4m3fn", "FLOAT8E4M3FN", "fp8_e4m3", "f8E5M2", "binary32", "mxfp8"; the command
        `qemu-swalp formats` lists all). Case, "_" and "-" do not count in these aliases. A `Format`
        is returned as it is.

    Raises
    ------
    TypeError: if `format` is none of these.
    ValueError: if the name is unknown or stands for several formats, as "fp8" does, or if the
        string does not have the form of its family.

    >>> parse("e5m2").max, str(parse("bfp<8,axis=0>")), str(parse("float8_e4m3fn"))
    (57344.0, 'bfp<8,axis=0>', 'e4m3fn')
    >>> parse("fixed<8,6,unsigned>") == parse("fixed<8,6,signed=false>")
    True
    >>> import numpy as np
    >>> str(parse(np.float16)), str(parse(np.dtype("float32")))
    ('fp16', 'float<8,23>')
    """
    if isinstance(format, Format):
        return format
    text = format if isinstance(format, str) else dtype_name(format)
    if text is None:
        raise TypeError(f"a format must be a string, a dtype or a Format, got {format!r}")
    if not isinstance(format, str) and integers_called(text):
        raise _is_ambiguous(f"the dtype {text}", integers_called(text))
    return _parsed(text.strip())


def is_known(name: str) -> bool:
    """Whether a name is registered, built in or an alias of one format."""
    return name in REGISTERED or string_of(name) is not None or len(meanings_of(name)) == 1


def names() -> tuple[str, ...]:
    """Names of all formats: built in, then registered. (Aliases are not among them.)"""
    return (*BUILTIN, *REGISTERED)


@forget_on_redefinition
@lru_cache(maxsize=4096)
def _parsed(text: str) -> Format:
    if text in REGISTERED:
        format = REGISTERED[text]
        return format if format.is_current else _Parser(format.canonical_string()).whole()
    string = string_of(text)
    if string is not None:
        return _Parser(string).whole()
    if "/" in text:
        raise _is_quantizer(text)
    if "<" in text:
        return _Parser(text).whole()
    meanings = meanings_of(text)
    if len(meanings) == 1:
        return parse(meanings[0])
    if meanings:
        raise _is_ambiguous(repr(text), meanings)
    if text in FAMILIES:
        raise ValueError(
            f"{text!r} is a family of formats; give parameters: {form_of(text, FAMILIES[text])}"
        )
    raise ValueError(
        f"unknown format {text!r}{remedy_for(text, names())}; qemu_swalp.names() lists the"
        f" names, and {', '.join(f'{family}<…>' for family in FAMILIES)} are parametrized"
    )


def _is_ambiguous(what: str, meanings: tuple[str, ...]) -> ValueError:
    choices = ", ".join(map(repr, meanings))
    return ValueError(f"{what} may stand for several formats; choose one of {choices}")


def _is_quantizer(text: str) -> ValueError:
    """The error for FORMAT/ROUNDING where a format alone is expected, with a call that works."""
    format, _, after = (part.strip() for part in text.partition("/"))
    parse(format)
    rounding = Rounding.parse(after)
    random = ", random=RandomBits(seed)" if rounding.stochastic else ""
    return ValueError(
        f"{text!r} is a quantizer, FORMAT/ROUNDING, where a format is expected; give the rounding"
        f" by itself, as in quantize(x, {format!r}, {after!r}{random})"
    )


class _Parser:
    """Reads `head<item,…>`; an item is [key=]literal, a literal a number, word, tuple or format."""

    token = re.compile(r"\s*(?:([<>(),=])|([^<>(),=\s]+))")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = [a or b for a, b in self.token.findall(text)]
        self.position = 0

    def whole(self) -> Format:
        value = self.literal()
        if self.position < len(self.tokens) or not isinstance(value, Format):
            raise self.error(f"unexpected {self.peek()!r}" if self.peek() else "it names no format")
        return value

    def error(self, problem: str) -> ValueError:
        return ValueError(
            f"cannot read the format {self.text!r}: {problem}; formats look like fixed<8,6> or "
            "float<4,3,specials=fn>"
        )

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def next(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.error(f"expected {expected or 'more'!r}, got {token or 'the end'!r}")
        self.position += 1
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
        return word

    def items(self, opening: str, closing: str) -> Iterator[tuple[str, Any]]:
        self.next(opening)
        while self.peek() != closing:
            key = ""
            if self.position + 1 < len(self.tokens) and self.tokens[self.position + 1] == "=":
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
        signature = inspect.signature(constructor)
        parameters = list(signature.parameters)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for key, value in self.items("<", ">"):
            if key:
                named[key] = parse(value) if key in FORMAT_PARAMETERS else value
            elif value == "unsigned":
                named["signed"] = False
            elif isinstance(value, str) and not self.is_format(value, parameters, positional):
                named[value] = True
            else:
                positional.append(parse(value) if isinstance(value, str) else value)
        unknown = next((name for name in named if name not in parameters), None)
        if unknown is not None:
            near = suggestion(unknown, parameters)
            form = form_of(family, constructor)
            raise self.error(f"{family} has no parameter {unknown!r}{near}; its form is {form}")
        try:
            signature.bind(*positional, **named)
            return constructor(*positional, **named)
        except TypeError as error:
            raise self.error(f"{error}; its form is {form_of(family, constructor)}") from error

    @staticmethod
    def is_format(word: str, parameters: list[str], before: list[Any]) -> bool:
        """Whether a word without a key is a format, rather than a flag such as `symmetric`."""
        if word in parameters:
            return False
        expected = parameters[len(before)] if len(before) < len(parameters) else ""
        return expected in FORMAT_PARAMETERS or is_known(word)
