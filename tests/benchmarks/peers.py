"""What other libraries offer for the cases, on arrays of the same values: float32 in, rounded
float32 out.

A peer has what it has: an own overflow policy, own block bounds, own random numbers (drawn within
the measured time). `test_benchmarks.py` says which of them give the numbers that we give.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module, metadata
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks.timing import Call


def ml_dtypes(case: str, rounding: str, x: np.ndarray) -> Call | None:
    """Casts to the dtype and back."""
    import ml_dtypes

    dtype = {"e4m3fn": ml_dtypes.float8_e4m3fn, "bf16": ml_dtypes.bfloat16}.get(case)
    if dtype is None or rounding == "stochastic":
        return None
    return lambda: x.astype(dtype).astype(np.float32)


def gfloat(case: str, rounding: str, x: np.ndarray) -> Call | None:
    """`round_ndarray`, with 32 random bits where it is stochastic."""
    import gfloat
    from gfloat import RoundMode, formats

    format = {
        "e4m3fn": formats.format_info_ocp_e4m3,
        "bf16": formats.format_info_bfloat16,
        "fixed": formats.format_info_ocp_int8,
    }.get(case)
    if format is None:
        return None
    if rounding == "nearest":
        return lambda: gfloat.round_ndarray(format, x, RoundMode.TiesToEven, sat=True)
    rng = np.random.default_rng(0)
    return lambda: gfloat.round_ndarray(
        format,
        x,
        RoundMode.StochasticFastest,
        sat=True,
        srnumbits=32,
        srbits=rng.integers(0, 1 << 32, x.shape, np.int64),
    )


def pychop(case: str, rounding: str, x: np.ndarray) -> Call | None:
    """`Chop`, `Chopf`, `Chopi` on NumPy arrays."""
    import pychop

    mode = {"nearest": 1, "stochastic": 5}[rounding]
    with redirect_stdout(StringIO()):  # some constructors talk
        if case in ("e4m3fn", "bf16"):
            return partial(pychop.Chop(*{"e4m3fn": (4, 3), "bf16": (8, 7)}[case], rmode=mode), x)
        if case == "fixed":
            return partial(pychop.Chopf(ibits=2, fbits=6, rmode=mode), x)
    if case != "int8 per row" or rounding == "stochastic":
        return None

    def calibrated() -> Any:
        integers = pychop.Chopi(bits=8, symmetric=True, per_channel=True, axis=0)
        return integers.dequantize(integers.quantize(x))

    return calibrated


def pychop_torch(case: str, rounding: str, x: Any) -> Call | None:
    """`mx_quantize` on tensors (on NumPy arrays it goes by a Python loop over the elements)."""
    import pychop

    name = {"mxfp8_e4m3": "mxfp8_e4m3", "mxfp4": "mxfp4_e2m1"}.get(case)
    if name is None or rounding == "stochastic":
        return None
    return lambda: pychop.mx_quantize(x, format=name, block_size=32, backend="torch")


def qtorch(case: str, rounding: str, x: Any) -> Call | None:
    """QPyTorch: floats, fixed point, block floating point."""
    from qtorch import quant

    return {
        "e4m3fn": lambda: quant.float_quantize(x, 4, 3, rounding),
        "bf16": lambda: quant.float_quantize(x, 8, 7, rounding),
        "fixed": lambda: quant.fixed_point_quantize(x, 8, 6, rounding=rounding),
        "bfp8 per row": lambda: quant.block_quantize(x, 8, 0, rounding),
        "bfp8 per column": lambda: quant.block_quantize(x, 8, 1, rounding),
        "bfp8 per tensor": lambda: quant.block_quantize(x, 8, -1, rounding),
    }.get(case)


def torch(case: str, rounding: str, x: Any) -> Call | None:
    """Casts to the dtype and back; fake quantization, with the scale of each row from its greatest
    magnitude.
    """
    import torch

    def per_row() -> Any:
        scales = x.abs().amax(1) / 127
        return torch.fake_quantize_per_channel_affine(
            x, scales, torch.zeros_like(scales, dtype=torch.int32), 0, -127, 127
        )

    calls: dict[str, Call] = {
        "e4m3fn": lambda: x.to(torch.float8_e4m3fn).to(torch.float32),
        "bf16": lambda: x.to(torch.bfloat16).to(torch.float32),
        "fixed": lambda: torch.fake_quantize_per_tensor_affine(x, 2**-6, 0, -128, 127),
        "int8 per row": per_row,
    }
    return None if rounding == "stochastic" else calls.get(case)


def torchao(case: str, rounding: str, x: Any) -> Call | None:
    """MX and NVFP4 tensors, made and dequantized."""
    if rounding == "stochastic" or case not in ("mxfp8_e4m3", "mxfp4", "nvfp4"):
        return None
    import torch
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    if case == "nvfp4":
        return lambda: NVFP4Tensor.to_nvfp4(
            x, per_tensor_scale=per_tensor_amax_to_scale(x.abs().amax())
        ).dequantize(torch.float32)
    element = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp4": torch.float4_e2m1fn_x2}[case]
    return lambda: MXTensor.to_mx(x, element, 32).dequantize(torch.float32)


class Peer(NamedTuple):
    """`calls` gives, for a case, a rounding and an array of the library, what to measure; None
    where it has nothing.

    distribution : by which pip installs it, and whose version is told. modules : what it must be
        able to import.
    """

    library: str
    distribution: str
    modules: tuple[str, ...]
    calls: Callable[[str, str, Any], Call | None]
    also: str = ""

    def missing(self) -> str:
        """Why it cannot be asked; "" if it can."""
        try:
            with (
                warnings.catch_warnings(),
                redirect_stdout(StringIO()),
                redirect_stderr(StringIO()),
            ):
                warnings.simplefilter("ignore")
                for module in self.modules:
                    import_module(module)
        except Exception as error:  # QPyTorch compiles when it is imported, and fails in many ways
            how = f"pip install {self.distribution}{self.also}"
            reason = (
                ""
                if isinstance(error, ModuleNotFoundError)
                else f"{type(error).__name__}: {error}; "
            )
            return f"not measured: {reason.splitlines()[0] if reason else ''}{how}"
        return ""

    def version(self) -> str:
        """Of the installed distribution."""
        return metadata.version(self.distribution)


PEERS = {
    "ml_dtypes": Peer("numpy", "ml_dtypes", ("ml_dtypes",), ml_dtypes),
    "gfloat": Peer("numpy", "gfloat", ("gfloat",), gfloat),
    "pychop": Peer("numpy", "pychop", ("pychop",), pychop),
    "torch's own": Peer("torch", "torch", ("torch",), torch),
    "qtorch": Peer("torch", "qtorch", ("qtorch.quant",), qtorch, " ninja, beside a C++ compiler"),
    "torchao": Peer("torch", "torchao", ("torchao.prototype.mx_formats.nvfp4_tensor",), torchao),
    "pychop on torch": Peer("torch", "pychop", ("torch", "pychop"), pychop_torch),
}
"""Name of the column → peer."""
