"""Layer 1: which values exist."""

from .base import ElementFormat, Format, Overflow
from .binade import BinadeFormat
from .block import Block, bfp, integer
from .codebook import Codebook
from .fixed import Fixed
from .floating import Float
from .logarithmic import Logarithmic
from .p3109 import P3109
from .posit import Posit
from .registry import load_formats, names, parse, register, unregister
from .scale import Exponent
from .table import TableFormat
from .takum import Takum

__all__ = [
    "BinadeFormat",
    "Block",
    "Codebook",
    "ElementFormat",
    "Exponent",
    "Fixed",
    "Float",
    "Format",
    "Logarithmic",
    "Overflow",
    "P3109",
    "Posit",
    "TableFormat",
    "Takum",
    "bfp",
    "integer",
    "load_formats",
    "names",
    "parse",
    "register",
    "unregister",
]
