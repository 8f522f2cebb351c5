"""Number formats: which values exist, and how they are coded and named."""

from .base import ElementFormat, Format, Overflow
from .binade import BinadeFormat
from .block import Block
from .codebook import Codebook
from .fixed import Fixed
from .floating import Float
from .levels import levels
from .logarithmic import Logarithmic
from .p3109 import P3109
from .parser import names, parse
from .posit import Posit
from .registry import load_formats, register, unregister
from .scale import Exponent
from .scale_rules import BlockView, register_scale_rule, unregister_scale_rule
from .scaled_integers import bfp, integer
from .squeezed import Squeezed
from .table import TableFormat
from .takum import Takum

__all__ = [
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
    "Overflow",
    "P3109",
    "Posit",
    "Squeezed",
    "TableFormat",
    "Takum",
    "bfp",
    "integer",
    "levels",
    "load_formats",
    "names",
    "parse",
    "register",
    "register_scale_rule",
    "unregister",
    "unregister_scale_rule",
]
