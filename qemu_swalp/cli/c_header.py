"""Vectors and codes as a C header."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from .. import BinadeFormat, ElementFormat, Format, TableFormat, decode

MOST_BITS = 12
"""Of the codes whose values are listed too."""

Field = tuple[str, int, np.ndarray]
"""Name, bits and unsigned numbers."""


def c_header(name: str, title: str, format: Format, fields: Iterable[Field]) -> str:
    """A header for C99 and C++: an array for each field, all under one prefix; of element formats
    of few bits also the values of all codes.

    name : of the format, which the prefix is made of.
    title : for the comment at the top.
    """
    fields = list(fields)
    prefix = re.sub(r"\W+", "_", name).strip("_").upper()
    if not re.match("[A-Z]", prefix):
        prefix = f"FORMAT_{prefix}"
    guard = f"{prefix}_VECTORS_H"
    lines = [
        f"/* {title.replace('*/', '* /')} */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <stdint.h>",
        f"#define {prefix}_COUNT {fields[0][2].size}",
        *(f"#define {prefix}_{field.upper()}_BITS {bits}" for field, bits, _ in fields),
        *(line for each in (*fields, *_values(format)) for line in _array(prefix, *each)),
        f"#endif /* {guard} */",
    ]
    return "\n".join(lines) + "\n"


def _values(format: Format) -> Iterator[Field]:
    """The bits of the values of all codes, in the least floating dtype of C that holds them."""
    if not isinstance(format, ElementFormat) or format.bits > MOST_BITS:
        return
    codes = np.arange(1 << format.bits)
    if isinstance(format, TableFormat):
        codes = codes[: len(format.meanings)]
    elif not isinstance(format, BinadeFormat):
        return
    for dtype in (np.float32, np.float64):
        try:
            values = decode(codes, format, dtype)
        except TypeError:
            continue
        width = values.dtype.itemsize
        yield "value", 8 * width, values.view(f"u{width}")
        return


def _array(prefix: str, field: str, bits: int, numbers: np.ndarray) -> Iterator[str]:
    """The lines of an array of unsigned integers."""
    width = next(width for width in (8, 16, 32, 64) if bits <= width)
    mask = (1 << bits) - 1
    listed = [f"0x{int(n) & mask:0{-(-bits // 4)}x}u" for n in numbers.reshape(-1)]
    if width == 64:
        listed = [f"{text}ll" for text in listed]
    count = max(1, 96 // (len(listed[0]) + 2))
    name = f"{prefix}_{field.upper()}[{len(listed)}]"
    yield f"static const uint{width}_t {name} = {{"
    for i in range(0, len(listed), count):
        yield f"  {', '.join(listed[i : i + count])},"
    yield "};"
