"""qemu_swalp: a framework-agnostic quantization emulator for low-precision training.

>>> import numpy as np, qemu_swalp as q
>>> q.quantize(np.float32([0.1, 1.3, 500.0]), "e4m3fn").tolist()
[0.1015625, 1.25, 448.0]
"""

from .codes import BlockCodes, decode, encode
from .formats import (
    BinadeFormat,
    Block,
    Codebook,
    ElementFormat,
    Fixed,
    Float,
    Format,
    bfp,
    load_formats,
    names,
    parse,
    register,
    unregister,
)
from .quantization import quantize
from .randombits import RandomBits, stream_id
from .rounding import Rounding

__version__ = "0.1.0"

__all__ = [
    "BinadeFormat", "Block", "BlockCodes", "Codebook", "ElementFormat", "Fixed", "Float", "Format", "RandomBits",
    "Rounding", "bfp", "decode", "encode", "load_formats", "names", "parse", "quantize", "register", "stream_id",
    "unregister",
]
