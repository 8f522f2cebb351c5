"""`qemu-swalp quantize FILE --format F` and `qemu-swalp dequantize FILE --out FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from .. import (
    Analysis,
    Format,
    QuantizedTensor,
    RandomBits,
    Rounding,
    analyze,
    packed_bytes,
    save_compressed_tensors,
    save_gguf,
    save_state,
    stream_id,
)
from .._util.checks import check_patterns
from .._util.extras import FILES, GGUF, require
from ..formats.base import OVERFLOWS
from ..ops.arguments import policy_of
from ..storage.checkpoints import Checkpoint, open_checkpoint
from ..storage.layouts import Stored, values_of
from ..storage.operand_axes import OperandAxes, format_for_operand
from .error_table import Report
from .formats import add_load, load, read_format
from .output import add_json, asks_for_json, print_json
from .tensors import (
    READ,
    WRITTEN,
    check_suffix,
    in_a_dtype_for,
    is_floating,
    write_file,
)

CONVOLUTIONS = {"torch": {"sum": 1, "out": 0}, "keras": {"sum": -2, "out": -1}}
"""The library → axes of its convolutions' kernels, (O, C, …) and (…, C, O)."""


def add_commands(commands: Any) -> None:
    """Add both to the subparsers."""
    command = commands.add_parser(
        "quantize",
        help="round the tensors of a file: errors, and bytes before and after",
        description=(
            "Round each floating tensor of a file or a checkpoint, and tell what becomes of it:"
            " its signal to quantization noise ratio, and its greatest error. The shares of"
            " elements that saturate, become zero and stay as they are follow. Then come how many"
            " are not finite before or after (these count in no error), and the bytes before and"
            " after, scales included. The file itself is only read."
        ),
    )
    command.add_argument("file", metavar="FILE", type=Path, help=READ)
    command.add_argument(
        "--format", metavar="F", required=True, help="a name (mxfp4) or parameters (bfp<8,axis=0>)"
    )
    command.add_argument(
        "--rounding", metavar="R", default="nearest_even", help="mode (default: %(default)s)"
    )
    command.add_argument(
        "--overflow", choices=OVERFLOWS, help="beyond the range (default: what the format says)"
    )
    command.add_argument(
        "--seed",
        metavar="N",
        type=int,
        help="of stochastic rounding; tensor i draws from the stream stream_id('weight', i)",
    )
    command.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="round only the tensors of such names (shell style); may be repeated",
    )
    command.add_argument(
        "--convolutions",
        choices=tuple(CONVOLUTIONS),
        help=(
            "arrays of three axes or more are kernels as this library has them. Axis -1 of a block"
            " format is their input channels, which a product sums over, and -2 their outputs"
        ),
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write codes and scales to a .safetensors file, and the other tensors as they are",
    )
    command.add_argument(
        "--layout",
        choices=("qemu_swalp", "compressed-tensors", "gguf"),
        help=(
            "with --out: as this package reads it (default), or as compressed-tensors does, which"
            " transformers and vLLM load: --out is a folder then; or a .gguf file"
        ),
    )
    command.add_argument(
        "--activations",
        action="store_true",
        help=(
            "with --layout compressed-tensors: say that what these weights are multiplied by is"
            " rounded to 8 bits as it comes (W8A8)"
        ),
    )
    command.add_argument(
        "--own-dtypes",
        action="store_true",
        help="with --out: codes and scales in the file's own dtypes (F8_E4M3, F4, …), where it can",
    )
    add_load(command)
    add_json(command)
    command.set_defaults(run=_quantize)
    back = commands.add_parser(
        "dequantize",
        help="the values of a file that holds codes",
        description=(
            "Write the values of a file that `quantize --out` wrote, or of a checkpoint of"
            " compressed-tensors, DeepSeek, gpt-oss, GPTQ, AWQ or GGUF."
        ),
    )
    back.add_argument("file", metavar="FILE", type=Path, help=READ)
    back.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help=f"file to write: {', '.join(WRITTEN)}",
    )
    add_load(back)
    back.set_defaults(run=_dequantize)


@dataclass(frozen=True)
class _Settings:
    format: Format
    rounding: Rounding
    overflow: Any
    seed: int | None
    kernels: OperandAxes | None

    def format_for(self, name: str, shape: tuple[int, ...]) -> Format:
        """The format along the axes of a tensor."""
        layouts = None if self.kernels is None or len(shape) < 3 else {name: self.kernels}
        try:
            return format_for_operand(name, self.format, shape, layouts)
        except ValueError as error:
            raise ValueError(
                f"{error}. Here: --convolutions {' or '.join(CONVOLUTIONS)}, or --only"
            ) from error

    def random(self, index: int) -> RandomBits | None:
        return None if self.seed is None else RandomBits(self.seed, stream_id("weight", index))


def _quantize(chosen: argparse.Namespace) -> int:
    load(chosen.load)
    settings = _settings(chosen)
    _check_out(chosen)
    report, state = Report(), dict[str, Stored]()
    earlier: dict[tuple[str, bool], tuple[str, str]] = {}
    """(an array's first name, whether asked for) → (the name it was read by, why passed over)."""
    with open_checkpoint(chosen.file) as tensors:
        check_patterns("--only", chosen.only or (), tensors.names)
        for index, name in enumerate(_with_progress(tensors)):
            asked = chosen.only is None or any(fnmatchcase(name, p) for p in chosen.only)
            array = tensors.first[name], asked
            if array in earlier:
                same, reason = earlier[array]
                reason = reason or f"the same as {same}"
                if chosen.out is not None:
                    state[name] = state[same]
            else:
                stored, reason = _read(tensors, name, asked, settings, chosen.out is not None)
                earlier[array] = name, reason
                if not reason:
                    x = values_of(stored)
                    report.add(name, stored, _analysis(settings, index, name, x))
                    if chosen.out is not None:
                        stored = _quantized(settings, index, name, x)
                if chosen.out is not None:
                    state[name] = stored
            if reason:
                report.passed_over.setdefault(reason, []).append(name)
    if not report.lines:
        raise ValueError(f"{chosen.file}: nothing to round: {report.text() or 'it has no tensor'}")
    if chosen.out is not None:
        if chosen.layout == "compressed-tensors":
            save_compressed_tensors(
                chosen.out, state, metadata=tensors.metadata, activations=chosen.activations
            )
        elif chosen.layout == "gguf":
            save_gguf(chosen.out, state, metadata=tensors.metadata)
        else:
            save_state(chosen.out, state, metadata=tensors.metadata, own_dtypes=chosen.own_dtypes)
    if asks_for_json(chosen):
        print_json(report.record() | {"written": None if chosen.out is None else str(chosen.out)})
        return 0
    print(report.text() + (f"\n\nwritten: {chosen.out}" if chosen.out is not None else ""))
    return 0


def _check_out(chosen: argparse.Namespace) -> None:
    """The options of what is written. ValueError if one would have no effect."""
    others = chosen.layout in ("compressed-tensors", "gguf")
    if chosen.activations and chosen.layout != "compressed-tensors":
        raise ValueError("--activations goes with --layout compressed-tensors; give that too")
    if chosen.out is None:
        for option, given in (("--own-dtypes", chosen.own_dtypes), ("--layout", chosen.layout)):
            if given:
                raise ValueError(f"{option} tells how --out is written; give --out too")
        return
    if others and chosen.own_dtypes:
        raise ValueError("--own-dtypes goes with --layout qemu_swalp; leave it out")
    if chosen.layout == "gguf":
        check_suffix(chosen.out, ".gguf")
        require("gguf", GGUF)
        return
    if others and chosen.out.suffix == ".safetensors":
        raise ValueError(f"--layout compressed-tensors writes a folder, got the file {chosen.out}")
    if not others:
        check_suffix(chosen.out, ".safetensors")
    require("safetensors", FILES)


def _settings(chosen: argparse.Namespace) -> _Settings:
    """The options, checked before anything is read."""
    settings = _Settings(
        read_format(chosen.format),
        Rounding.parse(chosen.rounding),
        chosen.overflow,
        chosen.seed,
        CONVOLUTIONS.get(chosen.convolutions),
    )
    policy_of(settings.format, settings.overflow)
    settings.random(0)
    if settings.rounding.stochastic and settings.seed is None:
        raise ValueError(f"--rounding {settings.rounding} needs --seed")
    return settings


def _with_progress(tensors: Checkpoint) -> Iterator[str]:
    bar = require("tqdm", FILES).tqdm(
        tensors.names, unit="tensor", leave=False, dynamic_ncols=True, disable=None
    )
    with bar:
        for name in bar:
            bar.set_postfix_str(name[-40:])
            yield name


def _read(
    tensors: Checkpoint, name: str, asked: bool, settings: _Settings, reading: bool
) -> tuple[Stored, str]:
    """(the tensor as it is stored, why it is passed over, or "")."""
    if not asked:
        return tensors.read(name) if reading else np.empty(0), "not asked for"
    x = tensors.read(name)
    if not is_floating(x):
        return x, f"of dtype {x.dtype}"
    format = settings.format_for(name, x.shape)
    try:
        packed_bytes(x.shape, format)
    except ValueError as error:
        return x, str(error)
    return x, ""


def _analysis(settings: _Settings, index: int, name: str, x: np.ndarray) -> Analysis:
    format = settings.format_for(name, x.shape)
    return analyze(
        in_a_dtype_for(x, format),
        format,
        settings.rounding,
        random=settings.random(index),
        overflow=settings.overflow,
    )


def _quantized(settings: _Settings, index: int, name: str, x: np.ndarray) -> QuantizedTensor:
    format = settings.format_for(name, x.shape)
    try:
        return QuantizedTensor.of(
            in_a_dtype_for(x, format),
            format,
            settings.rounding,
            random=settings.random(index),
            overflow=settings.overflow,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _dequantize(chosen: argparse.Namespace) -> int:
    load(chosen.load)
    check_suffix(chosen.out, *WRITTEN)
    with open_checkpoint(chosen.file) as tensors:
        state = {name: values_of(tensors.read(name)) for name in _with_progress(tensors)}
    write_file(chosen.out, state, tensors.metadata)
    print(f"{len(state)} tensor{'s' * (len(state) != 1)}; written: {chosen.out}")
    return 0
