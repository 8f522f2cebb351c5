"""qemu_swalp: a framework-agnostic quantization emulator for low-precision training.

>>> import numpy as np, qemu_swalp as q
>>> q.quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
[0.1015625, 1.25, 448.0]
"""

from .accumulation import Accumulation
from .analysis import Analysis, UpdateAnalysis, analyze, analyze_update
from .arithmetic import add, divide, multiply, sqrt, subtract, sum
from .coded import Coded, decode_state, encode_state
from .codes import BlockCodes, decode, encode
from .files import load_state, save_state
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
from .packing import pack, packed_bytes, unpack
from .products import matmul
from .quantization import quantize
from .quantizer import Quantizer
from .randombits import RandomBits, stream_id
from .rounding import Rounding
from .views import from_ml_dtypes, to_ml_dtypes

__version__ = "0.1.0"

__all__ = [
    "Accumulation", "Analysis", "BinadeFormat", "Block", "BlockCodes", "Codebook", "Coded", "ElementFormat",
    "Exponent", "Fixed", "Float", "Format", "Logarithmic", "P3109", "Posit", "Quantizer", "RandomBits", "Rounding",
    "TableFormat", "Takum", "UpdateAnalysis", "add", "analyze", "analyze_update", "bfp", "decode", "decode_state",
    "divide", "encode", "encode_state", "from_ml_dtypes", "get_num_threads", "integer", "load_formats",
    "load_state", "matmul", "multiply", "names", "pack", "packed_bytes", "parse", "quantize", "register",
    "save_state", "set_num_threads", "sqrt", "stream_id", "subtract", "sum", "to_ml_dtypes", "unpack", "unregister",
]
