"""State dicts whose arrays are stored as codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .._util.checks import check_patterns, near_matches
from ..arrays import DTYPES, Array, host, namespace_of
from ..formats import Format, Overflow, parse
from ..ops.arguments import as_array
from ..ops.codes import BlockCodes
from ..ops.decode import decode
from ..ops.encode import encode
from ..ops.pack import packed_bytes
from ..random_bits import RandomBits, stream_id
from ..rounding import Rounding
from .host_arrays import converted_like, in_own_dtype, memory_of
from .operand_axes import OperandAxes, format_for_operand

Formats = Format | str | Mapping[str, Format | str | None]
"""One format, or patterns of names with a format each (None: left as it is)."""


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """An array as the codes of a format, on the host.

    format : of the codes. codes : as `encode` gives them, in NumPy. dtype : the source dtype, which
        `decode` gives.

    >>> quantized = QuantizedTensor.of([0.1, -7.0, 3.0], "mxfp4")
    >>> quantized.shape, quantized.nbytes, quantized.decode().tolist()
    ((3,), 3, [0.0, -6.0, 3.0])
    """

    format: Format
    codes: np.ndarray | BlockCodes
    dtype: str

    @staticmethod
    def of(
        x: Array,
        format: Format | str,
        rounding: Rounding | str = "nearest_even",
        *,
        random: RandomBits | Array | None = None,
        overflow: Overflow | None = None,
    ) -> QuantizedTensor:
        """The codes of `quantize(x, format, rounding, random=random, overflow=overflow)`; errors as
        of `encode`.
        """
        x, format = as_array(x), parse(format)
        codes = encode(x, format, rounding, random=random, overflow=overflow)
        here = (
            BlockCodes(*(None if part is None else host("x", part) for part in codes))
            if isinstance(codes, BlockCodes)
            else host("x", codes)
        )
        return QuantizedTensor(format, here, namespace_of(x).dtype(x))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple((self.codes.codes if isinstance(self.codes, BlockCodes) else self.codes).shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, scales included."""
        return packed_bytes(self.shape, self.format)

    def decode(self) -> np.ndarray:
        """The values, in NumPy; bfloat16 is ml_dtypes'."""
        values: np.ndarray = decode(self.codes, self.format, self.dtype)
        return values


def quantize_state_dict(
    state: Mapping[str, Array],
    formats: Formats,
    rounding: Rounding | str = "nearest_even",
    *,
    seed: int | None = None,
    overflow: Overflow | None = None,
    layouts: Mapping[str, OperandAxes] | None = None,
) -> dict[str, Any]:
    """A state dict with its floating arrays as `QuantizedTensor`; the others stay as they are.

    Parameters
    ----------
    state : names → arrays of any library.
    formats : a format for all floating arrays; or patterns of names (shell style, the first that
        matches counts) and the format of each. None is for arrays that stay as they are, as do
        those that no pattern matches.
    rounding, overflow : as for `quantize`.
    layouts : by name {"sum": the axis of a weight that its layer's product sums over, "out": that
        of its outputs}, as `operand_layouts(model)` of an adapter gives them. Axis -1 of a block
        format then is the sum's and -2 the outputs', so that codes are those of the operand that
        the layer multiplied. Several axes that it counts as one are a tuple, the innermost last,
        which blocks must fill.
    seed : of stochastic rounding; array i of the state draws from the stream `stream_id("weight",
        i)`.

    Returns
    -------
    names → `QuantizedTensor`, or the arrays of `state` themselves. Names of one array (tied
    weights) have one `QuantizedTensor`, which `save_state` stores once.

    Raises
    ------
    TypeError, ValueError: as `encode`, with the array's name.
    ValueError: if a pattern matches no name, or has a format and matches no floating array; if
        `layouts` lack an array; or, without them, if an array of three axes or more has only blocks
        that are shorter than their size.

    >>> import numpy as np
    >>> state = {"fc.weight": np.float32([[0.1, 0.2]]), "fc.bias": np.float32([0.3])}
    >>> quantized = quantize_state_dict(state, {"*.bias": None, "*": "e4m3fn"})
    >>> str(quantized["fc.weight"].format), quantized["fc.bias"].tolist()
    ('e4m3fn', [0.30000001192092896])
    >>> dequantize_state_dict(quantized)["fc.weight"].tolist()
    [[0.1015625, 0.203125]]
    >>> kernel = {"conv.weight": np.ones((8, 64, 3, 3), np.float32)}
    >>> layouts = {"conv.weight": {"sum": 1, "out": 0}}
    >>> str(quantize_state_dict(kernel, "mxfp4", layouts=layouts)["conv.weight"].format)
    'block<e2m1fn,axis=-3,size=32,scale=e8m0fnu>'
    """
    if isinstance(formats, Mapping):
        parsed = {p: None if f is None else parse(f) for p, f in formats.items()}
        _check_formats(parsed, state)
    quantized: dict[str, Any] = {}
    tied: dict[tuple[object, ...], QuantizedTensor] = {}
    for i, (name, x) in enumerate(state.items()):
        format = format_for(name, formats)
        if format is None or not _is_floating(x):
            quantized[name] = x
            continue
        shape = tuple(namespace_of(x).shape(x))
        format = format_for_operand(name, format, shape, layouts)
        same = (format, memory_of(x))
        if same in tied:
            quantized[name] = tied[same]
            continue
        random = None if seed is None else RandomBits(seed, stream_id("weight", i))
        try:
            quantized[name] = tied[same] = QuantizedTensor.of(
                x, format, rounding, random=random, overflow=overflow
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
    return quantized


def dequantize_state_dict(state: Mapping[str, Any], like: Any = None) -> dict[str, Any]:
    """The same with the values of what is `QuantizedTensor`.

    Parameters
    ----------
    state : names → `QuantizedTensor` or arrays, as `quantize_state_dict` and `load_state` give
        them.
    like : a model with a `state_dict` method, or a state dict with arrays of the same names and
        shapes. All of `state` gets their library and dtypes and, of PyTorch, their devices.

    Returns
    -------
    names → arrays: those of `QuantizedTensor` in NumPy, the others as they are; with `like`, all as
    there.

    Raises
    ------
    TypeError: if `like` is neither.
    ValueError: if `like` lacks a name, or has it in another shape or in a dtype that cannot hold
        the numbers exactly.

    >>> import numpy as np
    >>> quantized = quantize_state_dict({"w": np.float32([0.1, 3.0])}, "e2m1fn")
    >>> dequantize_state_dict(quantized, like={"w": np.zeros(2, np.float16)})["w"].dtype.name
    'float16'
    """
    values = {n: x.decode() if isinstance(x, QuantizedTensor) else x for n, x in state.items()}
    if like is None:
        return values
    templates = like.state_dict() if hasattr(like, "state_dict") else like
    if not isinstance(templates, Mapping):
        raise TypeError(f"like must be a model with state_dict() or a state dict, got {like!r}")
    for name in values:
        if name not in templates:
            near = ", ".join(near_matches(name, templates))
            raise ValueError(f"like has no array named {name!r}; the nearest are {near}")
    return {
        name: converted_like(name, in_own_dtype(name, x), templates[name])
        for name, x in values.items()
    }


def _is_floating(x: Array) -> bool:
    return namespace_of(x).dtype(x) in DTYPES


def _check_formats(formats: Mapping[str, Format | None], state: Mapping[str, Array]) -> None:
    """Raise ValueError if a pattern has no effect on any state dict of these names and dtypes."""
    if not state:
        return
    check_patterns("formats", formats, state)
    floating = [name for name, x in state.items() if _is_floating(x)]
    for pattern, format in formats.items():
        if format is not None and not any(fnmatchcase(name, pattern) for name in floating):
            raise ValueError(
                f"formats: {pattern!r} matches no floating array, so nothing would be in {format};"
                " leave it out"
            )


def format_for(name: str, formats: Formats) -> Format | None:
    """The format of the array of that name; None: it stays as it is."""
    if not isinstance(formats, Mapping):
        return parse(formats)
    matching = (format for pattern, format in formats.items() if fnmatchcase(name, pattern))
    format = next(matching, None)
    return None if format is None else parse(format)
