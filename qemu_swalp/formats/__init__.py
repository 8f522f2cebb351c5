"""Layer 1: which values exist."""

from .base import ElementFormat, Format, Overflow
from .binade import BinadeFormat
from .block import Block, bfp
from .codebook import Codebook
from .fixed import Fixed
from .floating import Float
from .registry import load_formats, names, parse, register, unregister

__all__ = [
    "BinadeFormat", "Block", "Codebook", "ElementFormat", "Fixed", "Float", "Format", "Overflow", "bfp",
    "load_formats", "names", "parse", "register", "unregister",
]
