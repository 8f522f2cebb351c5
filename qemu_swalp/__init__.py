"""qemu_swalp: a framework-agnostic quantization emulator for low-precision training.

>>> import numpy as np, qemu_swalp as q
>>> q.quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
[0.1015625, 1.25, 448.0]
"""

from .formats import (
    P3109,
    BinadeFormat,
    Block,
    Codebook,
    ElementFormat,
    Exponent,
    Fixed,
    Float,
    Format,
    Logarithmic,
    Posit,
    TableFormat,
    Takum,
    bfp,
    integer,
    load_formats,
    names,
    parse,
    register,
    unregister,
)
from .kernels import get_num_threads, set_num_threads
from .ops.accumulation import Accumulation
from .ops.analysis import Analysis, UpdateAnalysis, analyze, analyze_update
from .ops.elementwise import add, divide, multiply, sqrt, subtract, sum
from .ops.encode import BlockCodes, decode, encode
from .ops.matmul import matmul
from .ops.pack import pack, packed_bytes, unpack
from .ops.quantize import quantize
from .ops.quantizer import Quantizer
from .random_bits import RandomBits, stream_id
from .rounding import Rounding
from .storage.ml_dtypes import from_ml_dtypes, to_ml_dtypes
from .storage.safetensors import load_state, save_state
from .storage.state_dict import QuantizedTensor, dequantize_state_dict, quantize_state_dict

__version__ = "0.1.0"

__all__ = [
    "Accumulation",
    "Analysis",
    "BinadeFormat",
    "Block",
    "BlockCodes",
    "Codebook",
    "QuantizedTensor",
    "ElementFormat",
    "Exponent",
    "Fixed",
    "Float",
    "Format",
    "Logarithmic",
    "P3109",
    "Posit",
    "Quantizer",
    "RandomBits",
    "Rounding",
    "TableFormat",
    "Takum",
    "UpdateAnalysis",
    "add",
    "analyze",
    "analyze_update",
    "bfp",
    "decode",
    "dequantize_state_dict",
    "divide",
    "encode",
    "quantize_state_dict",
    "from_ml_dtypes",
    "get_num_threads",
    "integer",
    "load_formats",
    "load_state",
    "matmul",
    "multiply",
    "names",
    "pack",
    "packed_bytes",
    "parse",
    "quantize",
    "register",
    "save_state",
    "set_num_threads",
    "sqrt",
    "stream_id",
    "subtract",
    "sum",
    "to_ml_dtypes",
    "unpack",
    "unregister",
]
