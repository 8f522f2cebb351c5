"""qemu_swalp: a framework-agnostic quantization emulator for low-precision training.

>>> import numpy as np, qemu_swalp as q
>>> q.quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
[0.1015625, 1.25, 448.0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .formats import (
        P3109 as P3109,
        BinadeFormat as BinadeFormat,
        Block as Block,
        BlockView as BlockView,
        Codebook as Codebook,
        ElementFormat as ElementFormat,
        Exponent as Exponent,
        Fixed as Fixed,
        Float as Float,
        Format as Format,
        Logarithmic as Logarithmic,
        Posit as Posit,
        Squeezed as Squeezed,
        TableFormat as TableFormat,
        Takum as Takum,
        bfp as bfp,
        integer as integer,
        load_formats as load_formats,
        names as names,
        parse as parse,
        register as register,
        register_scale_rule as register_scale_rule,
        unregister as unregister,
        unregister_scale_rule as unregister_scale_rule,
    )
    from .kernels import (
        get_num_threads as get_num_threads,
        set_num_threads as set_num_threads,
    )
    from .ops.accumulation import (
        Accumulation as Accumulation,
    )
    from .ops.analysis import (
        Analysis as Analysis,
        UpdateAnalysis as UpdateAnalysis,
        analyze as analyze,
        analyze_update as analyze_update,
    )
    from .ops.calibrate import (
        Calibration as Calibration,
        Calibrator as Calibrator,
        calibrate as calibrate,
    )
    from .ops.codes import (
        BlockCodes as BlockCodes,
    )
    from .ops.decode import (
        decode as decode,
    )
    from .ops.elementwise import (
        add as add,
        divide as divide,
        multiply as multiply,
        sqrt as sqrt,
        subtract as subtract,
        sum as sum,
    )
    from .ops.encode import (
        encode as encode,
    )
    from .ops.hadamard import (
        Hadamard as Hadamard,
        hadamard_transform as hadamard_transform,
    )
    from .ops.kernel_paths import (
        kernel_paths as kernel_paths,
    )
    from .ops.matmul import (
        matmul as matmul,
    )
    from .ops.pack import (
        pack as pack,
        packed_bytes as packed_bytes,
        unpack as unpack,
    )
    from .ops.quantize import (
        quantize as quantize,
    )
    from .ops.quantizer import (
        Quantizer as Quantizer,
    )
    from .random_bits import (
        RandomBits as RandomBits,
        stream_id as stream_id,
    )
    from .rounding import (
        Fractions as Fractions,
        Rounding as Rounding,
        register_rounding as register_rounding,
        unregister_rounding as unregister_rounding,
    )
    from .storage.checkpoints import load_checkpoint as load_checkpoint
    from .storage.compressed_tensors import save_compressed_tensors as save_compressed_tensors
    from .storage.gguf_files import save_gguf as save_gguf
    from .storage.ml_dtypes import (
        from_ml_dtypes as from_ml_dtypes,
        to_ml_dtypes as to_ml_dtypes,
    )
    from .storage.safetensors import (
        load_state as load_state,
        save_state as save_state,
    )
    from .storage.state_dict import (
        QuantizedTensor as QuantizedTensor,
        dequantize_state_dict as dequantize_state_dict,
        quantize_state_dict as quantize_state_dict,
    )

__version__ = "0.1.0"

_HOMES = {
    "formats": (
        "P3109",
        "BinadeFormat",
        "Block",
        "BlockView",
        "Codebook",
        "ElementFormat",
        "Exponent",
        "Fixed",
        "Float",
        "Format",
        "Logarithmic",
        "Posit",
        "Squeezed",
        "TableFormat",
        "Takum",
        "bfp",
        "integer",
        "load_formats",
        "names",
        "parse",
        "register",
        "register_scale_rule",
        "unregister",
        "unregister_scale_rule",
    ),
    "kernels": ("get_num_threads", "set_num_threads"),
    "ops.accumulation": ("Accumulation",),
    "ops.analysis": ("Analysis", "UpdateAnalysis", "analyze", "analyze_update"),
    "ops.calibrate": ("Calibration", "Calibrator", "calibrate"),
    "ops.codes": ("BlockCodes",),
    "ops.decode": ("decode",),
    "ops.elementwise": ("add", "divide", "multiply", "sqrt", "subtract", "sum"),
    "ops.encode": ("encode",),
    "ops.hadamard": ("Hadamard", "hadamard_transform"),
    "ops.kernel_paths": ("kernel_paths",),
    "ops.matmul": ("matmul",),
    "ops.pack": ("pack", "packed_bytes", "unpack"),
    "ops.quantize": ("quantize",),
    "ops.quantizer": ("Quantizer",),
    "random_bits": ("RandomBits", "stream_id"),
    "rounding": ("Fractions", "Rounding", "register_rounding", "unregister_rounding"),
    "storage.ml_dtypes": ("from_ml_dtypes", "to_ml_dtypes"),
    "storage.checkpoints": ("load_checkpoint",),
    "storage.compressed_tensors": ("save_compressed_tensors",),
    "storage.gguf_files": ("save_gguf",),
    "storage.safetensors": ("load_state", "save_state"),
    "storage.state_dict": ("QuantizedTensor", "dequantize_state_dict", "quantize_state_dict"),
}
"""Module → the public names that live there, loaded when they are first used."""

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

_RENAMED = {
    "Coded": "QuantizedTensor",
    "encode_state": "quantize_state_dict",
    "decode_state": "dequantize_state_dict",
}
"""Names of the first drafts, which go on with a warning."""

_PARTS = ("formats", "kernels", "ops", "random_bits", "rounding", "storage", "training")

__all__ = sorted(_MODULE_OF.keys() - {"sum"})  # `from qemu_swalp import *` leaves Python's `sum`


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        warnings.warn(f"qemu_swalp.{name} is called {new} now", DeprecationWarning, stacklevel=2)
        return __getattr__(new)
    if name in _PARTS:
        return import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF, *_PARTS})
