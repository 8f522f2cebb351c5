"""The formats that have a name, and what their names stand for."""

from __future__ import annotations

import re
from functools import lru_cache

BUILTIN = {
    "fp16": "float<5,10>",
    "bf16": "float<8,7>",
    "tf32": "float<8,10>",
    "e5m2": "float<5,2>",
    "e4m3": "float<4,3>",
    "e3m4": "float<3,4>",
    "e4m3fn": "float<4,3,specials=fn>",
    "e4m3fnuz": "float<4,3,bias=8,specials=fnuz>",
    "e5m2fnuz": "float<5,2,bias=16,specials=fnuz>",
    "e4m3b11fnuz": "float<4,3,bias=11,specials=fnuz>",
    "e2m3fn": "float<2,3,specials=finite>",
    "e3m2fn": "float<3,2,specials=finite>",
    "e2m1fn": "float<2,1,specials=finite>",
    "e8m0fnu": "float<8,0,signed=false,zero=false,specials=fn,overflow=nan>",
    "p3109_k8p3se": "p3109<8,3>",
    "p3109_k8p3sf": "p3109<8,3,domain=finite>",
    "p3109_k8p4se": "p3109<8,4>",
    "p3109_k8p4sf": "p3109<8,4,domain=finite>",
    "posit8": "posit<8,2>",
    "posit16": "posit<16,2>",
    "takum8": "takum<8>",
    "takum16": "takum<16>",
    "takum_linear8": "takum<8,linear>",
    "takum_linear16": "takum<16,linear>",
    "lns8": "logarithmic<8,3>",
    "pot4": "logarithmic<4,0>",
    "binary": "codebook<-1,1>",
    "ternary": "codebook<-1,0,1>",
    "nf4": (
        "codebook<-1,-0.6961928009986877,-0.5250730514526367,-0.39491748809814453,-0.28444138169288635,"
        "-0.18477343022823334,-0.09105003625154495,0,0.07958029955625534,0.16093020141124725,0.24611230194568634,"
        "0.33791524171829224,0.44070982933044434,0.5626170039176941,0.7229568362236023,1>"
    ),
    "bfp4": "bfp<4>",
    "bfp6": "bfp<6>",
    "bfp8": "bfp<8>",
    "bfp16": "bfp<16>",
    "mxfp8_e4m3": "block<e4m3fn,axis=-1,size=32,scale=e8m0fnu>",
    "mxfp8_e5m2": "block<float<5,2,overflow=saturate>,axis=-1,size=32,scale=e8m0fnu>",
    "mxfp6_e3m2": "block<e3m2fn,axis=-1,size=32,scale=e8m0fnu>",
    "mxfp6_e2m3": "block<e2m3fn,axis=-1,size=32,scale=e8m0fnu>",
    "mxfp4": "block<e2m1fn,axis=-1,size=32,scale=e8m0fnu>",
    "mxint8": "block<fixed<8,6>,axis=-1,size=32,scale=e8m0fnu>",
    "nvfp4": (
        "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,rule=transformer_engine,second=float<8,23>>"
    ),
    "nvfp4_torchao": "block<e2m1fn,axis=-1,size=16,scale=e4m3fn,rule=torchao,second=float<8,23>>",
    "fp8_1x128": "block<e4m3fn,axis=-1,size=128,scale=float<8,23>>",
    "fp8_128x128": "block<e4m3fn,axis=(-2,-1),size=128,scale=float<8,23>>",
    "int8": "int<8>",
    "int4": "int<4>",
    "q4_0": "block<fixed<4,0>,axis=-1,size=32,scale=fp16,rule=ggml_signed>",
    "q4_1": "block<fixed<4,0,signed=false>,axis=-1,size=32,scale=fp16,rule=ggml_minimum>",
    "q5_0": "block<fixed<5,0>,axis=-1,size=32,scale=fp16,rule=ggml_signed>",
    "q5_1": "block<fixed<5,0,signed=false>,axis=-1,size=32,scale=fp16,rule=ggml_minimum>",
    "q8_0": "block<fixed<8,0,symmetric>,axis=-1,size=32,scale=fp16,rule=ggml>",
    "msfp12": "bfp<4,axis=-1,size=16>",
    "msfp13": "bfp<5,axis=-1,size=16>",
    "msfp14": "bfp<6,axis=-1,size=16>",
    "msfp15": "bfp<7,axis=-1,size=16>",
    "msfp16": "bfp<8,axis=-1,size=16>",
    "hbfp8": "bfp<8,axis=(-2,-1),size=24,scale_bits=10>",
    "hbfp12": "bfp<12,axis=(-2,-1),size=24,scale_bits=10>",
    "bm8_e2m5": "block<float<2,5,bias=2,specials=finite>,axis=(-2,-1),size=48>",
    "bm8_e4m3": "block<float<4,3,bias=8,specials=finite>,axis=(-2,-1),size=48>",
}
"""Name → canonical string; `spec/formats.toml` tells where each comes from."""

WITHOUT_A_PRINTED_NAME = {"msfp12", "msfp13", "msfp14", "msfp15", "msfp16", "hbfp8", "hbfp12"}
"""Names that are read and never printed: the string of these formats says more than the name."""

NAME_OF = {string: name for name, string in BUILTIN.items() if name not in WITHOUT_A_PRINTED_NAME}
"""Canonical string → the name that is printed for it."""

_PATTERNS = {
    r"bfp(\d+)": "bfp<{0}>",
    r"p3109_k(\d+)p(\d+)se": "p3109<{0},{1}>",
    r"p3109_k(\d+)p(\d+)sf": "p3109<{0},{1},domain=finite>",
    r"p3109_k(\d+)p(\d+)ue": "p3109<{0},{1},signed=false>",
    r"p3109_k(\d+)p(\d+)uf": "p3109<{0},{1},signed=false,domain=finite>",
    r"posit(\d+)": "posit<{0},2>",
    r"takum(\d+)": "takum<{0}>",
    r"takum_linear(\d+)": "takum<{0},linear>",
}


@lru_cache(maxsize=4096)
def string_of(name: str) -> str | None:
    """The canonical string that a built-in name, or a name by pattern, stands for; None for others.

    >>> string_of("bf16"), string_of("bfp12"), string_of("p3109_k5p2ue"), string_of("fp")
    ('float<8,7>', 'bfp<12>', 'p3109<5,2,signed=false>', None)
    """
    if name in BUILTIN:
        return BUILTIN[name]
    matches = ((re.fullmatch(pattern, name), string) for pattern, string in _PATTERNS.items())
    return next((string.format(*match.groups()) for match, string in matches if match), None)
