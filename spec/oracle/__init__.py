"""semantics.md as exact rational arithmetic: scalar, slow and plain, the judge of every faster
implementation.

A number enters and leaves as a Python float, which holds every source value exactly and carries
NaN, the infinities and -0; in between it is a `Fraction`. No binade is computed to round: a grid is
a monotone function of an integer, its *place*, and the neighbours of x are found by bisection. The
standard library is the only import.
"""

from .arithmetic import OPERATIONS, operate
from .blocks import Bfp, Blocks, quantize_blocks
from .elements import Candidates, Element, Grid
from .exact import (
    DETERMINISTIC,
    NAN,
    POLICIES,
    REACH,
    STOCHASTIC,
    TIES,
    binade,
    carrier,
    is_negative,
    power,
)
from .families import BINARY32, P3109, Fixed, Float
from .formats import FAMILIES, POSITIONAL, Format, formats, spell, tables
from .irrational import Bounds
from .randombits import WORD, element_word, philox, stream_id, stream_key
from .rounding import (
    Rule,
    out_of_range,
    parse_rule,
    quantize,
    range_check,
    round_to_grid,
    takes_away,
)
from .scaled import Block, Exponent, Int, Scaled, quantize_scaled
from .sums import Accumulation, part_key, sum_of_products
from .tables import Codebook, Table
from .tapered import Logarithmic, Posit, Takum

__all__ = [
    "DETERMINISTIC",
    "NAN",
    "POLICIES",
    "REACH",
    "STOCHASTIC",
    "TIES",
    "binade",
    "carrier",
    "is_negative",
    "power",
    "Bounds",
    "Candidates",
    "Element",
    "Grid",
    "BINARY32",
    "Codebook",
    "Fixed",
    "Float",
    "Logarithmic",
    "P3109",
    "Posit",
    "Table",
    "Takum",
    "Rule",
    "out_of_range",
    "parse_rule",
    "quantize",
    "range_check",
    "round_to_grid",
    "takes_away",
    "Bfp",
    "Blocks",
    "quantize_blocks",
    "WORD",
    "element_word",
    "philox",
    "stream_id",
    "stream_key",
    "FAMILIES",
    "Format",
    "POSITIONAL",
    "formats",
    "spell",
    "tables",
    "Block",
    "Exponent",
    "Int",
    "Scaled",
    "quantize_scaled",
    "Accumulation",
    "part_key",
    "sum_of_products",
    "OPERATIONS",
    "operate",
]
