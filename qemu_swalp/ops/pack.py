"""Bit-packed codes (clause COD-5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from .._util.checks import check_int
from ..arrays import Array, host, namespace_of
from ..formats import Block, Exponent, Format, Squeezed, parse
from ..reference.blocks import blocks_shape
from .codes import BlockCodes, code_width


@overload
def pack(codes: BlockCodes, format: Format | str | int) -> BlockCodes: ...


@overload
def pack(codes: Array, format: Format | str | int) -> np.ndarray: ...


def pack(codes: Any, format: Format | str | int) -> Any:
    """Codes as one stream of bits, in a NumPy uint8 array of shape (⌈count·bits/8⌉,): its `nbytes`
    is the true size.

    codes : integer array of NumPy, CuPy, PyTorch, TensorFlow or JAX; or `BlockCodes` of a block
        format, whose streams come as `BlockCodes`, one for each part.
    format : the format of the codes, or the number of bits of each, 1..32.

    Code i, in C order, is bits i·b to (i + 1)·b - 1 of the stream, its lowest bit first. Bit j of
    the stream is bit j mod 8 of byte ⌊j/8⌋, and the last byte is filled up with zeros. Raises
    TypeError for what is no such array, ValueError for a code of more bits (negative integers count
    as two's complement) and for parts that the format does not have.

    >>> from qemu_swalp import encode
    >>> packed = pack(encode([0.5, -6.0, 3.0], "e2m1fn"), "e2m1fn")
    >>> [hex(byte) for byte in packed.tolist()], packed.nbytes
    (['0xf1', '0x5'], 2)
    >>> streams = pack(encode([0.5, -6.0, 3.0], "mxfp4"), "mxfp4")
    >>> streams.codes.tolist(), streams.scales.tolist()
    ([241, 5], [127])
    """
    if isinstance(codes, BlockCodes):
        block = _block(format)
        shape = namespace_of(codes.codes).shape(codes.codes)
        parts = packed_parts(shape, block)
        _check_parts(codes, block, parts)
        return BlockCodes(
            **{name: pack(getattr(codes, name), bits) for name, (bits, _) in parts.items()}
        )
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


@overload
def unpack(
    packed: BlockCodes, format: Format | str | int, shape: int | Sequence[int]
) -> BlockCodes: ...


@overload
def unpack(packed: Array, format: Format | str | int, shape: int | Sequence[int]) -> np.ndarray: ...


def unpack(packed: Any, format: Format | str | int, shape: int | Sequence[int]) -> Any:
    """The codes of a stream that `pack` wrote, as a NumPy array of that shape, in the dtype of
    `encode`. Of the streams of a block format it is `BlockCodes` for an array of that shape.

    Raises ValueError where a stream does not have the ⌈count·bits/8⌉ bytes of its shape, or the
    format has not these parts.

    >>> import numpy as np
    >>> unpack(np.uint8([0xF1, 0x05]), "e2m1fn", 3).tolist()
    [1, 15, 5]
    """
    if isinstance(packed, BlockCodes):
        block = _block(format)
        parts = packed_parts(shape, block)
        _check_parts(packed, block, parts)
        by_part = {
            name: unpack(getattr(packed, name), bits, lengths)
            for name, (bits, lengths) in parts.items()
        }
        if isinstance(block.scale, Exponent):
            by_part["scales"] = signed(by_part["scales"], block.scale.bits)
        return BlockCodes(**by_part)
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
    unpacked = groups.ravel()[:count] & ((1 << width) - 1)
    return unpacked.astype(f"uint{code_width(width)}").reshape(lengths)


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
    if isinstance(parsed, Squeezed):
        parts["squeeze"] = (32, (2,))
    if isinstance(parsed, Block):
        blocks = blocks_shape(lengths, parsed)
        parts["scales"] = (parsed.scale.bits, blocks)
        if parsed.second is not None:
            parts["second"] = (parsed.second.bits, (1,) * len(lengths))
        if parsed.zero_point_bits is not None:
            parts["zero_points"] = (parsed.zero_point_bits, blocks)
    return parts


def signed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement integers of so many bits, in the dtype of the same width."""
    half = 1 << (bits - 1)
    return ((codes.astype(np.int32) ^ half) - half).astype(f"int{8 * codes.dtype.itemsize}")


def _block(format: Format | str | int) -> Block:
    """The block format that BlockCodes go with."""
    parsed = None if isinstance(format, int) else parse(format)
    if not isinstance(parsed, Block):
        raise TypeError(f"BlockCodes go with a block format, such as 'mxfp4', got {format}")
    return parsed


def _check_parts(codes: BlockCodes, format: Block, parts: Mapping[str, object]) -> None:
    """ValueError unless the codes have just the parts of the format."""
    for name, part in codes._asdict().items():
        if (part is not None) != (name in parts):
            verb = "lack" if name in parts else "have"
            raise ValueError(f"the codes {verb} {name}, and {format} has {', '.join(parts)}")


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
            f"the codes of {parsed} are BlockCodes, as encode gives them, with a stream for each"
            " part; of a single part give the bits: pack(c.codes, format.element)"
        )
    return parsed.bits


def _host(codes: Array) -> np.ndarray:
    """An integer array on the host."""
    if isinstance(codes, tuple):
        raise TypeError(
            "codes must be one integer array or BlockCodes, got a tuple; give BlockCodes(*codes)"
        )
    array = host("codes", codes)
    if array.dtype.kind not in "iu":
        raise TypeError(f"codes must be an integer array, got dtype {array.dtype}")
    return array
