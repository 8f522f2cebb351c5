"""Layouts of quantized checkpoints: which stored arrays are the parts of one array of the model, by
their names and dtypes, and what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .float_layouts import fp4_or_fp6, gpt_oss, nvfp4_in_two_scales, tiles, under_scales
from .integer_layouts import awq_or_gptq, packed_integers
from .scaled_arrays import ELEMENTS, elements
from .sources import Source
from .state_dict import QuantizedTensor

Stored = np.ndarray | QuantizedTensor


def values_of(x: Stored) -> np.ndarray:
    """The values of an array, which may be stored as codes."""
    return x.decode() if isinstance(x, QuantizedTensor) else x


class Layout(NamedTuple):
    """How one array is stored.

    codes : the ending of the part that has the codes. dtypes : which it can have. needs, optional :
        the endings of the others. ending : what the array's own name has in place of these. read :
        the array of its name, of its parts by their endings and of what config.json says.
    """

    codes: str
    dtypes: tuple[str, ...]
    needs: tuple[str, ...]
    read: Callable[[str, Mapping[str, np.ndarray], Mapping[str, Any]], Stored]
    optional: tuple[str, ...] = ()
    ending: str = ""


FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
LAYOUTS = (
    Layout("_packed", ("int32",), ("_scale", "_shape"), packed_integers, ("_zero_point", "_g_idx")),
    Layout("_packed", ("uint8",), ("_scale",), fp4_or_fp6, ("_global_scale",)),
    Layout("_blocks", ("uint8",), ("_scales",), gpt_oss),
    Layout(
        ".qweight", ("int32",), (".scales",), awq_or_gptq, (".qzeros", ".g_idx"), ending=".weight"
    ),
    Layout("", FLOAT8, ("_scale_inv",), tiles),
    Layout("", ("uint8",), ("_scale", "_scale_2"), nvfp4_in_two_scales),
    Layout("", (*FLOAT8, "int8"), ("_scale",), under_scales, ("_zero_point",)),
)
"""compressed-tensors, gpt-oss, GPTQ and AWQ, DeepSeek, ModelOpt; the first that fits counts."""

NEVER_ALONE = (
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".qweight",
    ".qzeros",
    "_proj_blocks",
    "_proj_scales",
)
"""Endings of parts that say nothing by themselves."""


def arrays_of(source: Source, config: Mapping[str, Any]) -> dict[str, Callable[[], Stored]]:
    """The arrays of a checkpoint: by name what reads each, one for all names of an array, in the
    order of their codes.

    Raises ValueError if an array lacks a part, or if two have one name.
    """
    names = set(source.names)
    found = {name: fit for name in source.names if (fit := _fit(source, name, names))}
    taken = {part for _, parts in found.values() for part in parts.values()}
    arrays: dict[str, Callable[[], Stored]] = {}
    by_memory: dict[str, Callable[[], Stored]] = {}
    quantized: dict[str, tuple[str, Callable[[], Stored]]] = {}
    for stored, (layout, parts) in found.items():
        name = stored.removesuffix(layout.codes) + layout.ending
        quantized[stored] = name, _reader(source, name, layout, parts, config)
        if name == stored:  # another name of these codes is one of the array
            by_memory.setdefault(source.same_as.get(stored, stored), quantized[stored][1])
    for stored in source.names:
        if stored in quantized:
            name, read = quantized[stored]
        elif stored not in taken:
            if stored.endswith(NEVER_ALONE):
                raise ValueError(
                    f"damaged: {stored} is one part of a quantized array, and the others are"
                    " missing or of dtypes that do not go with it"
                )
            memory = source.same_as.get(stored, stored)
            name, read = stored, by_memory.setdefault(memory, _plain_reader(source, stored))
        else:
            continue
        if name in arrays:
            raise ValueError(f"damaged: it holds {name} twice, once as it is and once in parts")
        arrays[name] = read
    return arrays


def _fit(source: Source, name: str, names: set[str]) -> tuple[Layout, dict[str, str]] | None:
    """The layout whose codes an array of that name has, and the names of the parts."""
    for layout in LAYOUTS:
        stem = name.removesuffix(layout.codes)
        needed = {part: stem + part for part in layout.needs}
        if (
            name.endswith(layout.codes)
            and names.issuperset(needed.values())
            and source.dtype(name) in layout.dtypes
        ):
            optional = {part: stem + part for part in layout.optional if stem + part in names}
            return layout, {layout.codes: name} | needed | optional
    return None


def _reader(
    source: Source, name: str, layout: Layout, parts: Mapping[str, str], config: Mapping[str, Any]
) -> Callable[[], Stored]:
    def read() -> Stored:
        return layout.read(name, {p: source.read(stored) for p, stored in parts.items()}, config)

    return read


def _plain_reader(source: Source, name: str) -> Callable[[], Stored]:
    def read() -> Stored:
        x = source.read(name)
        return elements(x) if x.dtype.name in ELEMENTS else x

    return read
