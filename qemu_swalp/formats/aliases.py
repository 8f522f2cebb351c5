"""What others call the formats: NumPy, ml_dtypes, PyTorch, ONNX, OCP, IEEE, MLIR, CUDA, Triton.

Aliases are read wherever a format is, and never printed. Upper and lower case, "_" and "-" do not
count, nor does a library's prefix, as in "torch.float16".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .builtin_names import BUILTIN, string_of

ALIASES: dict[str, tuple[str, ...]] = {
    "fp16": ("float16", "half", "f16", "binary16", "e5m10"),
    "bf16": ("bfloat16", "bfloat", "e8m7"),
    "tf32": ("tensorfloat32", "tfloat32", "e8m10"),
    "float<8,23>": ("float32", "single", "fp32", "f32", "binary32", "e8m23"),
    "float<11,52>": ("float64", "double", "fp64", "f64", "binary64", "e11m52"),
    "e5m2": (
        "float8_e5m2",
        "fp8_e5m2",
        "f8E5M2",
        "OCP_E5M2",
        "__nv_fp8_e5m2",
        "CUDA_R_8F_E5M2",
        "float8e5",
        "fp8e5",
    ),
    "squeezed<e5m2>": ("s2fp8",),
    "e4m3": ("float8_e4m3", "f8E4M3"),
    "e3m4": ("float8_e3m4", "f8E3M4"),
    "e4m3fn": (
        "float8_e4m3fn",
        "fp8_e4m3fn",
        "fp8_e4m3",
        "f8E4M3FN",
        "F8_E4M3",
        "OCP_E4M3",
        "__nv_fp8_e4m3",
        "CUDA_R_8F_E4M3",
        "float8e4nv",
        "fp8e4nv",
    ),
    "e4m3fnuz": ("float8_e4m3fnuz", "fp8_e4m3fnuz", "f8E4M3FNUZ", "float8e4b8", "fp8e4b8"),
    "e5m2fnuz": ("float8_e5m2fnuz", "fp8_e5m2fnuz", "f8E5M2FNUZ", "float8e5b16", "fp8e5b16"),
    "e4m3b11fnuz": ("float8_e4m3b11fnuz", "fp8_e4m3b11fnuz", "f8E4M3B11FNUZ", "e4m3b11"),
    "e2m3fn": (
        "float6_e2m3fn",
        "fp6_e2m3fn",
        "fp6_e2m3",
        "float6_e2m3",
        "e2m3",
        "f6E2M3FN",
        "OCP_E2M3",
        "__nv_fp6_e2m3",
    ),
    "e3m2fn": (
        "float6_e3m2fn",
        "fp6_e3m2fn",
        "fp6_e3m2",
        "float6_e3m2",
        "e3m2",
        "f6E3M2FN",
        "OCP_E3M2",
        "__nv_fp6_e3m2",
    ),
    "e2m1fn": (
        "float4_e2m1fn",
        "fp4_e2m1fn",
        "fp4_e2m1",
        "float4_e2m1",
        "e2m1",
        "float4_e2m1fn_x2",
        "f4E2M1FN",
        "OCP_E2M1",
        "__nv_fp4_e2m1",
        "CUDA_R_4F_E2M1",
    ),
    "e8m0fnu": (
        "float8_e8m0fnu",
        "fp8_e8m0fnu",
        "fp8_e8m0",
        "float8_e8m0",
        "e8m0",
        "ue8m0",
        "f8E8M0FNU",
        "OCP_E8M0",
        "CUDA_R_8F_UE8M0",
    ),
    "mxfp8_e4m3": ("mxfp8", "mxfp8_e4m3fn"),
    "mxfp6_e3m2": ("mxfp6_e3m2fn",),
    "mxfp6_e2m3": ("mxfp6_e2m3fn",),
    "mxfp4": ("mxfp4_e2m1", "mxfp4_e2m1fn"),
    "nvfp4": ("nvfp4_e2m1",),
    "nf4": ("normalfloat4",),
}
"""Format → its aliases, as their makers write them."""

AMBIGUOUS: dict[str, tuple[str, ...]] = {
    "fp8": ("e4m3fn", "e5m2"),
    "float8": ("e4m3fn", "e5m2"),
    "f8": ("e4m3fn", "e5m2", "float64"),
    "fp6": ("e3m2fn", "e2m3fn"),
    "float6": ("e3m2fn", "e2m3fn"),
    "f6": ("e3m2fn", "e2m3fn"),
    "fp4": ("e2m1fn", "mxfp4", "nvfp4", "nf4"),
    "float4": ("e2m1fn", "mxfp4", "nvfp4", "nf4"),
    "f4": ("e2m1fn", "float32"),
    "mxfp6": ("mxfp6_e3m2", "mxfp6_e2m3"),
    "float": ("float32", "float64"),
}
"""Names that stand for more than one format, and what may be meant."""

_PREFIX = re.compile(
    r"^(?:torch|np|numpy|jnp|jax\.numpy|ml_dtypes|tf|tensorflow|tl|(?:onnx\.)?TensorProto)\."
)


def _normalized(name: str) -> str:
    return re.sub(r"[_\-\s]", "", _PREFIX.sub("", name)).lower()


def _by_normalized_name() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for format, names in (*((name, (name,)) for name in BUILTIN), *ALIASES.items()):
        for name in names:
            key = _normalized(name)
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), format)))
    return found | AMBIGUOUS


_FORMATS = _by_normalized_name()
_EXACT = {alias: format for format, aliases in ALIASES.items() for alias in aliases}


@lru_cache(maxsize=4096)
def meanings_of(name: str) -> tuple[str, ...]:
    """The formats that an alias may stand for: one, or several where it is ambiguous, or none.

    >>> meanings_of("torch.float8_e4m3fn"), meanings_of("FLOAT8E4M3FN"), meanings_of("Half")
    (('e4m3fn',), ('e4m3fn',), ('fp16',))
    >>> meanings_of("fp8"), meanings_of("E4M3"), meanings_of("uint8"), meanings_of("fp7")
    (('e4m3fn', 'e5m2'), ('e4m3', 'e4m3fn'), ('fixed<8,0,unsigned>', 'int<8,zero_point>'), ())
    """
    if name == "E4M3":  # OCP writes so what ml_dtypes calls float8_e4m3fn, not float8_e4m3
        return ("e4m3", "e4m3fn")
    plain = _PREFIX.sub("", name)
    if plain in _EXACT:
        return (_EXACT[plain],)
    key = _normalized(name)
    if key in _FORMATS:
        return _FORMATS[key]
    if match := re.fullmatch(r"binary(\d+)p(\d+)([su][ef])", key):  # the draft of IEEE P3109
        return ("p3109_k{}p{}{}".format(*match.groups()),)
    if string_of(plain.lower()):
        return (plain.lower(),)
    return integers_called(key)


def integers_called(name: str) -> tuple[str, ...]:
    """What an integer dtype may stand for: integers as they are, or under a scale.

    >>> integers_called("int8"), integers_called("uint16"), integers_called("bool")
    (('fixed<8,0>', 'int<8>'), ('fixed<16,0,unsigned>', 'int<16,zero_point>'), ())
    """
    match = re.fullmatch(r"(u?)int(\d+)", name)
    if match is None:
        return ()
    unsigned, bits = bool(match[1]), int(match[2])
    plain = f"fixed<{bits},0,unsigned>" if unsigned else f"fixed<{bits},0>"
    scaled = f"int<{bits},zero_point>" if unsigned else f"int<{bits}>"
    return (plain,) * (2 - unsigned <= bits <= 32) + (scaled,) * (2 <= bits <= 16)


def remedy_for(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have been meant for, "; did you mean …?", or "".

    Only names of the same kind are told: if the letters before the first digit are those of some
    format, all told begin with them; else with letters that differ little. Names with the same
    digits come first.

    known : names of formats; aliases are added.

    >>> remedy_for("e4m3fm", BUILTIN), remedy_for("flaot16", BUILTIN), remedy_for("fp5", BUILTIN)
    ("; did you mean 'e4m3fn'?", "; did you mean 'float16'?", '')
    """
    from difflib import SequenceMatcher  # late: no call that succeeds needs it

    def similarity(a: str, b: str) -> float:
        return SequenceMatcher(None, a, b).ratio()

    def digits(name: str) -> list[str]:
        return re.findall(r"\d+", name)

    name = name.lower()
    choices = dict.fromkeys((*known, *_EXACT, *AMBIGUOUS))
    same_kind = [choice for choice in choices if _kind(choice) == _kind(name)]
    near = same_kind or [c for c in choices if similarity(_kind(name), _kind(c)) > 0.65]
    near = [choice for choice in near if digits(choice) == digits(name)]
    layout = re.fullmatch(r"(?:f|fp|float)?\d*_?e(\d+)m(\d+)", name)
    if layout and not near:
        return f"; did you mean 'float<{layout[1]},{layout[2]}>'?"
    near = near or [c for c in same_kind if c not in AMBIGUOUS and len(digits(c)) == 1]
    best = max(near, key=lambda choice: similarity(name, choice.lower()), default="")
    if similarity(name, best.lower()) <= 0.6:
        return ""
    return f"; did you mean {' or '.join(map(repr, AMBIGUOUS.get(best, (best,))))}?"


def _kind(name: str) -> str:
    return re.split(r"[\d<]", name.lower(), maxsplit=1)[0].strip("_-")
