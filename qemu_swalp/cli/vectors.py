"""`qemu-swalp vectors FORMAT --out FILE`: conformance vectors of any format, for hardware and C."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import Block, BlockCodes, ElementFormat, Format, Rounding, encode, quantize
from ..arrays.dtypes import SOURCE_DTYPES
from ..formats.base import OVERFLOWS
from ..ops.arguments import check_representable, policy_of
from ..ops.codes import with_codes
from .c_header import c_header
from .formats import add_load, load, read_format

SUFFIXES = (".json", ".hex", ".memh", ".h")
DTYPES = ("float16", "float32", "float64")
FEW = 1024
"""Of more values an even sample is taken."""


class Vectors(NamedTuple):
    """An array and what becomes of it: NumPy arrays of one shape, but for the parts of `codes`."""

    format: Format
    quantizer: str
    inputs: np.ndarray
    words: np.ndarray | None
    outputs: np.ndarray
    codes: np.ndarray | BlockCodes


def add_commands(commands: Any) -> None:
    """Add `vectors` to the subparsers."""
    command = commands.add_parser(
        "vectors",
        help="write conformance vectors of a format: JSON, .hex, .memh or a C header",
        description=(
            "Write conformance vectors of a format, built in or of one's own. They are every value"
            " (of many, a sample) with its neighbours and the middles between. Both ends, subnormal"
            " numbers, specials that have a code, and random numbers follow; of block formats,"
            " blocks of many magnitudes. JSON has everything by name. Files .hex and .memh are for"
            " $readmemh, a vector to a line. Its fields stand one after the other in whole"
            " hexadecimal digits: input, random word (stochastic roundings), second scale, scale"
            " and zero point (blocks that have them), code. A .memh file begins with a comment that"
            " gives the fields and their bits, and with an address. A .h file has an array for each"
            " field, the results as bits of the dtype. Of element formats of up to 12 bits it has"
            " the values of all codes, too."
        ),
    )
    command.add_argument("format", metavar="FORMAT", help="a name or parameters")
    command.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help=", ".join(SUFFIXES)
    )
    command.add_argument(
        "--rounding", metavar="R", default="nearest_even", help="(default: %(default)s)"
    )
    command.add_argument("--overflow", choices=OVERFLOWS, help="(default: what the format says)")
    command.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the inputs (default: %(default)s)"
    )
    command.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=256,
        help="random inputs of element formats (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of random inputs and words (default: %(default)s)",
    )
    add_load(command)
    command.set_defaults(run=_vectors)


def _vectors(chosen: argparse.Namespace) -> int:
    load(chosen.load)
    format, rounding = with_codes(read_format(chosen.format)), Rounding.parse(chosen.rounding)
    writers = {".json": _json, ".hex": _hex, ".memh": _memh, ".h": _header}
    write = writers.get(chosen.out.suffix.lower())
    if write is None:
        raise ValueError(f"--out must end in {', '.join(SUFFIXES)}, got {str(chosen.out)!r}")
    for name in ("count", "seed"):
        if getattr(chosen, name) < 0:
            raise ValueError(f"--{name} must not be negative, got {getattr(chosen, name)}")
    policy_of(format, chosen.overflow)
    try:
        check_representable(format, SOURCE_DTYPES[chosen.dtype])
    except TypeError as error:
        raise ValueError(str(error)) from error
    rng, dtype = np.random.default_rng(chosen.seed), np.dtype(chosen.dtype)
    if isinstance(format, Block):
        inputs = _of_blocks(format, dtype, rng)
    elif isinstance(format, ElementFormat):
        inputs = _of_elements(format, dtype, chosen.count, rng)
    vectors = _run(inputs, format, rounding, chosen.overflow, rng)
    chosen.out.write_text(write(vectors), encoding="utf-8")
    print(f"{vectors.inputs.size} vectors; written: {chosen.out}")
    return 0


def _of_elements(
    format: ElementFormat, dtype: np.dtype[Any], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Numbers on both sides of wherever a mode steps."""
    values = np.array(_sample(format), np.float64)
    middles = (values[1:] + values[:-1]) / 2
    beyond = np.array([format.max, format.min]) * [[1.0], [1.5], [4.0]]
    least, most = np.log2([np.abs(values[values != 0]).min(), np.abs(values).max()])
    random = np.exp2(rng.uniform(least - 2, most + 1, count)) * rng.choice([-1, 1], count)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    special = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, np.nan], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.concatenate([values, middles, beyond.ravel()]).astype(dtype)
        around = [np.nextafter(near, dtype.type(end)) for end in (np.inf, -np.inf)]
        numbers = np.concatenate([near, *around, special, random.astype(dtype)])
    return np.unique(_bits(numbers)).view(dtype)


def _sample(format: ElementFormat) -> list[float]:
    """Values in ascending order, all of them if they are few."""
    if format.value_count <= 2**16:
        values = format.values()
        step = -(-len(values) // FEW)
        return sorted({*values[::step], values[-1], *values[:2]})
    powers = [s * 2.0**e for e in range(-40, 41) for s in (-1.375, -1.0, 1.0, 1.375)]
    return sorted(set(quantize(powers, format, overflow="saturate").tolist()))


def _of_blocks(format: Block, dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Blocks of many magnitudes, one of zeros; of formats whose blocks tell it, one with NaN."""
    named = [a for a in format.axis or () if isinstance(a, int)]
    ndim = max([2, *(a + 1 if a >= 0 else -a for a in named)])
    extents = format.extents(ndim)
    shape = [4 if extent == 1 else 2 * (extent or 4) for extent in extents]
    span = 6 if dtype == np.float16 else 12
    magnitude = rng.integers(-span, span, [*shape[:-1], 1])
    x = (rng.standard_normal(shape) * np.exp2(magnitude)).astype(dtype)
    if extents[0] is not None:
        x[: extents[0]] = 0
        if format.nonfinite == "block":
            x[-1, ..., -1] = np.nan
    return x


def _run(
    inputs: np.ndarray, format: Format, rounding: Rounding, overflow: Any, rng: np.random.Generator
) -> Vectors:
    """What becomes of the inputs; of element formats, of those that have a code."""
    words = rng.integers(0, 2**32, inputs.shape, np.uint32) if rounding.stochastic else None
    outputs = quantize(inputs, format, rounding, random=words, overflow=overflow)
    if isinstance(format, ElementFormat):
        lacking = (np.isnan(outputs) & (not format.has_nan)) | (
            np.isinf(outputs) & (not format.has_infinity)
        )
        inputs, outputs = inputs[~lacking], outputs[~lacking]
        words = None if words is None else words[~lacking]
    codes = encode(inputs, format, rounding, random=words, overflow=overflow)
    quantizer = f"{format.canonical_string()}/{rounding}"
    return Vectors(format, quantizer, inputs, words, outputs, codes)


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}")


def _json(vectors: Vectors) -> str:
    def listed(x: np.ndarray) -> list[str]:
        digits = 2 * x.dtype.itemsize
        return [f"0x{int(n):0{digits}x}" for n in _bits(np.ascontiguousarray(x)).reshape(-1)]

    content: dict[str, Any] = {
        "quantizer": vectors.quantizer,
        "dtype": vectors.inputs.dtype.name,
        "shape": list(vectors.inputs.shape),
        "inputs": listed(vectors.inputs),
        "outputs": listed(vectors.outputs),
    }
    if vectors.words is not None:
        content["words"] = listed(vectors.words)
    if isinstance(vectors.codes, BlockCodes):
        content["scale_shape"] = list(vectors.codes.scales.shape)
        parts = vectors.codes._asdict().items()
        content |= {name: listed(part) for name, part in parts if part is not None}
    else:
        content["codes"] = listed(vectors.codes)
    return json.dumps(content, indent=1) + "\n"


def _fields(vectors: Vectors) -> list[tuple[str, int, np.ndarray]]:
    """Name, bits and numbers of each field of a vector, those of blocks repeated."""
    format, shape, codes = vectors.format, vectors.inputs.shape, vectors.codes
    fields = [("input", 8 * vectors.inputs.dtype.itemsize, _bits(vectors.inputs))]
    if vectors.words is not None:
        fields.append(("word", 32, vectors.words))
    if not isinstance(format, Block) or not isinstance(codes, BlockCodes):
        return [*fields, ("code", format.bits, np.asarray(codes))]
    extents = format.extents(len(shape))
    blocks = np.ix_(
        *(np.arange(n) // (extent or n) for n, extent in zip(shape, extents, strict=True))
    )
    if codes.second is not None:
        fields.append(("second", 32, np.broadcast_to(codes.second, shape)))
    fields.append(("scale", format.scale.bits, codes.scales[blocks]))
    if codes.zero_points is not None:
        fields.append(("zero_point", format.zero_point_bits or 0, codes.zero_points[blocks]))
    return [*fields, ("code", format.bits, codes.codes)]


def _header(vectors: Vectors) -> str:
    output = ("output", 8 * vectors.outputs.dtype.itemsize, _bits(vectors.outputs))
    title = f"{vectors.quantizer} of {vectors.inputs.dtype.name}"
    return c_header(str(vectors.format), title, vectors.format, [*_fields(vectors), output])


def _hex(vectors: Vectors) -> str:
    columns = [
        [f"{int(n) & ((1 << bits) - 1):0{-(-bits // 4)}x}" for n in numbers.reshape(-1)]
        for _, bits, numbers in _fields(vectors)
    ]
    return "".join("".join(line) + "\n" for line in zip(*columns, strict=True))


def _memh(vectors: Vectors) -> str:
    fields = ", ".join(f"{name} {bits}" for name, bits, _ in _fields(vectors))
    head = f"// {vectors.quantizer} of {vectors.inputs.dtype.name}; bits: {fields}\n@0\n"
    return head + _hex(vectors)
