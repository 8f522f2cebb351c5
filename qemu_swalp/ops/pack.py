"""Bit-packed codes (clause COD-5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .._util.checks import check_int
from ..arrays import Array, host
from ..formats import Block, Format, parse
from ..reference.blocks import blocks_shape
from .encode import code_width


def pack(codes: Array, format: Format | str | int) -> np.ndarray:
    """Codes as one stream of bits, in a NumPy uint8 array of shape (⌈count·bits/8⌉,): its `nbytes`
    is the true size.

    codes : integer array of NumPy, CuPy, PyTorch, TensorFlow or JAX.
    format : the format of the codes, or the number of bits of each, 1..32. The codes of a block
        format are packed part by part: `pack(c.codes, format.element)`, `pack(c.scales,
        format.scale.bits)`.

    Code i, in C order, is bits i·b to (i + 1)·b - 1 of the stream, its lowest bit first; bit j of
    the stream is bit j mod 8 of byte ⌊j/8⌋, and the last byte is filled up with zeros. Raises
    TypeError for what is no such array, ValueError for a code of more bits (negative integers count
    as two's complement).

    >>> from qemu_swalp import encode
    >>> packed = pack(encode([0.5, -6.0, 3.0], "e2m1fn"), "e2m1fn")
    >>> [hex(byte) for byte in packed.tolist()], packed.nbytes
    (['0xf1', '0x5'], 2)
    """
    width = _width(format)
    code_width(width)  # refuses more than 32 bits
    array = _host(codes)
    if array.size and not -(1 << (width - 1)) <= int(array.min()) <= int(array.max()) < 1 << width:
        raise ValueError(
            f"codes must be of at most {width} bits, got {int(array.min())} to {int(array.max())}"
        )
    flat = array.ravel().astype(np.int64) & ((1 << width) - 1)
    groups = np.zeros((-(-flat.size // 8), 8), np.int64)  # eight codes fill `width` bytes
    groups.ravel()[: flat.size] = flat
    stream = np.zeros((groups.shape[0], width), np.uint8)
    for place, byte, shift in _overlaps(width):
        part = groups[:, place] << shift if shift >= 0 else groups[:, place] >> -shift
        stream[:, byte] |= (part & 0xFF).astype(np.uint8)
    return stream.ravel()[: _bytes(flat.size, width)]


def unpack(packed: Array, format: Format | str | int, shape: int | Sequence[int]) -> np.ndarray:
    """The codes of a stream that `pack` wrote, as a NumPy array of that shape, in the dtype of
    `encode`.

    Raises ValueError where the stream does not have the ⌈count·bits/8⌉ bytes of that shape.

    >>> import numpy as np
    >>> unpack(np.uint8([0xF1, 0x05]), "e2m1fn", 3).tolist()
    [1, 15, 5]
    """
    width = _width(format)
    code_width(width)  # refuses more than 32 bits
    lengths = _lengths(shape)
    count = math.prod(lengths)
    array = _host(packed)
    if array.dtype != np.uint8 or array.shape != (_bytes(count, width),):
        raise ValueError(
            f"{count} codes of {width} bits are packed in a uint8 array of shape "
            f"({_bytes(count, width)},), got {array.dtype} of shape {array.shape}"
        )
    stream = np.zeros((-(-count // 8), width), np.uint8)
    stream.ravel()[: array.size] = array
    groups = np.zeros((stream.shape[0], 8), np.int64)
    for place, byte, shift in _overlaps(width):
        part = stream[:, byte].astype(np.int64)
        groups[:, place] |= part >> shift if shift >= 0 else part << -shift
    codes = groups.ravel()[:count] & ((1 << width) - 1)
    return codes.astype(f"uint{code_width(width)}").reshape(lengths)


def packed_bytes(shape: int | Sequence[int], format: Format | str | int) -> int:
    """Bytes of the packed codes of an array of that shape; an integer stands for an array of so
    many elements.

    Of a block format the sum over its parts: the codes of the elements, of the scales, of the
    array's scale and the zero points, each packed by itself.

    >>> packed_bytes(1000, "e2m1fn"), packed_bytes((10, 100), "posit<5,1>")
    (500, 625)
    >>> packed_bytes((10, 64), "mxfp4")
    340
    """
    if isinstance(format, int):
        return _bytes(_count(shape), _width(format))
    return sum(_bytes(_count(part), bits) for bits, part in packed_parts(shape, format).values())


def packed_parts(
    shape: int | Sequence[int], format: Format | str
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The parts of the codes of an array of that shape, by their names in `BlockCodes`: (bits of
    each code, shape).

    >>> packed_parts((10, 64), "mxfp4")
    {'codes': (4, (10, 64)), 'scales': (8, (10, 2))}
    """
    parsed, lengths = parse(format), _lengths(shape)
    parts = {"codes": (parsed.bits, lengths)}
    if isinstance(parsed, Block):
        blocks = blocks_shape(lengths, parsed)
        parts["scales"] = (parsed.scale.bits, blocks)
        if parsed.second is not None:
            parts["second"] = (parsed.second.bits, (1,) * len(lengths))
        if parsed.rule == "minmax":
            parts["zero_points"] = (parsed.bits, blocks)
    return parts


def _lengths(shape: int | Sequence[int]) -> tuple[int, ...]:
    lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for length in lengths:
        check_int("each length of shape", length, 0, 2**63 - 1)
    return lengths


def _count(shape: int | Sequence[int]) -> int:
    return math.prod(_lengths(shape))


def _bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def _overlaps(width: int) -> list[tuple[int, int, int]]:
    """(place of a code among eight, byte that it reaches into, how far left it is shifted
    there).
    """
    return [
        (place, byte, place * width - 8 * byte)
        for place in range(8)
        for byte in range(place * width // 8, ((place + 1) * width - 1) // 8 + 1)
    ]


def _width(format: Format | str | int) -> int:
    if isinstance(format, int):
        check_int("format, as a number of bits,", format, 1, 32)
        return format
    parsed = parse(format)
    if isinstance(parsed, Block):
        raise TypeError(
            f"the codes of {parsed} are element codes and scales; pack each: "
            "pack(c.codes, format.element) and pack(c.scales, format.scale.bits)"
        )
    return parsed.bits


def _host(codes: Array) -> np.ndarray:
    """An integer array on the host."""
    if isinstance(codes, tuple):
        raise TypeError(
            "codes must be one integer array, got a tuple; pack the codes and the scales of a block"
            " format each by itself"
        )
    array = host("codes", codes)
    if array.dtype.kind not in "iu":
        raise TypeError(f"codes must be an integer array, got dtype {array.dtype}")
    return array
