"""The formats and modes that ml_dtypes and gfloat have, by our names: the judges of the oracle and
of the package.
"""

from __future__ import annotations

from typing import Any

import gfloat.formats  # type: ignore[import-untyped]
import ml_dtypes
import numpy as np
from gfloat import RoundMode
from gfloat.types import Domain, FormatInfo  # type: ignore[import-untyped]


def ieee_like(name: str, bits: int, precision: int, bias: int) -> FormatInfo:
    """gfloat's description of a format with infinities and a full set of NaN."""
    return FormatInfo(
        name,
        bits,
        precision,
        bias=bias,
        is_signed=True,
        domain=Domain.Extended,
        has_nz=True,
        num_high_nans=2 ** (precision - 1) - 1,
        has_subnormals=True,
        is_twos_complement=False,
    )


def fnuz(name: str, precision: int, bias: int) -> FormatInfo:
    """gfloat's description of a format whose only NaN is the code of -0."""
    return FormatInfo(
        name,
        8,
        precision,
        bias=bias,
        is_signed=True,
        domain=Domain.Finite,
        has_nz=False,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=False,
    )


GFLOAT: dict[str, FormatInfo] = {
    "fp16": gfloat.formats.format_info_binary16,
    "bf16": gfloat.formats.format_info_bfloat16,
    "tf32": ieee_like("tf32", 19, 11, 127),
    "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e4m3": ieee_like("e4m3", 8, 4, 7),
    "e3m4": ieee_like("e3m4", 8, 5, 3),
    "e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "e4m3fnuz": fnuz("e4m3fnuz", 4, 8),
    "e5m2fnuz": fnuz("e5m2fnuz", 3, 16),
    "e4m3b11fnuz": fnuz("e4m3b11fnuz", 4, 11),
    "e2m3fn": gfloat.formats.format_info_ocp_e2m3,
    "e3m2fn": gfloat.formats.format_info_ocp_e3m2,
    "e2m1fn": gfloat.formats.format_info_ocp_e2m1,
    "e8m0fnu": gfloat.formats.format_info_ocp_e8m0,
    "fixed8_6": gfloat.formats.format_info_ocp_int8,
}
MODES = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "toward_positive": RoundMode.TowardPositive,
    "toward_negative": RoundMode.TowardNegative,
}
VARIANTS = {
    "stochastic_a": RoundMode.StochasticFastest,
    "stochastic_b": RoundMode.StochasticFast,
    "stochastic_c": RoundMode.Stochastic,
}
ML_DTYPES: dict[str, tuple[Any, str]] = {
    "fp16": (np.float16, "infinity"),
    "bf16": (ml_dtypes.bfloat16, "infinity"),
    "e5m2": (ml_dtypes.float8_e5m2, "infinity"),
    "e4m3": (ml_dtypes.float8_e4m3, "infinity"),
    "e3m4": (ml_dtypes.float8_e3m4, "infinity"),
    "e4m3fn": (ml_dtypes.float8_e4m3fn, "nan"),
    "e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, "nan"),
    "e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, "nan"),
    "e4m3b11fnuz": (ml_dtypes.float8_e4m3b11fnuz, "nan"),
    "e2m3fn": (ml_dtypes.float6_e2m3fn, "saturate"),
    "e3m2fn": (ml_dtypes.float6_e3m2fn, "saturate"),
    "e2m1fn": (ml_dtypes.float4_e2m1fn, "saturate"),
    "e8m0fnu": (ml_dtypes.float8_e8m0fnu, "nan"),
}
"""Name → (dtype, the overflow policy of its casts)."""
