"""What `generate.py` writes about formats."""

from .arithmetic import arithmetic_file
from .blocks import blocks_file
from .elements import (
    codes_file,
    policies_file,
    round_files,
    stochastic_file,
    strings_file,
    variants_file,
)
from .scaled import ggml_file, given_file, scaled_file, searches_file, tables_file
from .sums import sums_file
from .writing import table

__all__ = [
    "arithmetic_file",
    "blocks_file",
    "codes_file",
    "ggml_file",
    "given_file",
    "policies_file",
    "round_files",
    "scaled_file",
    "searches_file",
    "stochastic_file",
    "strings_file",
    "sums_file",
    "table",
    "tables_file",
    "variants_file",
]
