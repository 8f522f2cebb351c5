"""What NumPy, ml_dtypes, PyTorch, ONNX, OCP and others call the formats and roundings."""

from __future__ import annotations

import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.formats.aliases import ALIASES, AMBIGUOUS
from qemu_swalp.rounding import ALIASES as ROUNDINGS

FLOAT32, FLOAT64 = "float<8,23>", "float<11,52>"
EXPECTED = {
    "fp16": "float16 half Half FP16 f16 binary16 torch.float16 np.float16 torch.half",
    "bf16": "bfloat16 BFLOAT16 torch.bfloat16 jnp.bfloat16 BF16",
    "tf32": "TF32 tensorfloat32",
    FLOAT32: "float32 single fp32 f32 FP32 binary32 torch.float32",
    FLOAT64: "float64 double fp64 f64 binary64 TensorProto.DOUBLE",
    "e5m2": "float8_e5m2 fp8_e5m2 FLOAT8E5M2 f8E5M2 F8_E5M2 torch.float8_e5m2 E5M2",
    "e4m3": "e4m3 float8_e4m3 f8E4M3",
    "e4m3fn": "float8_e4m3fn fp8_e4m3 fp8e4m3 FLOAT8E4M3FN f8E4M3FN F8_E4M3 __nv_fp8_e4m3 E4M3FN",
    "e4m3fnuz": "float8_e4m3fnuz FLOAT8E4M3FNUZ torch.float8_e4m3fnuz f8E4M3FNUZ",
    "e5m2fnuz": "float8_e5m2fnuz FLOAT8E5M2FNUZ",
    "e4m3b11fnuz": "float8_e4m3b11fnuz f8E4M3B11FNUZ",
    "e2m3fn": "float6_e2m3fn fp6_e2m3 e2m3 E2M3",
    "e3m2fn": "float6_e3m2fn fp6_e3m2 e3m2 E3M2",
    "e2m1fn": "float4_e2m1fn fp4_e2m1 e2m1 float4_e2m1fn_x2 FLOAT4E2M1 torch.float4_e2m1fn_x2",
    "e8m0fnu": "float8_e8m0fnu e8m0 E8M0 FLOAT8E8M0 float8_e8m0",
    "mxfp8_e4m3": "mxfp8 MXFP8 MXFP8_E4M3 mxfp8-e4m3",
    "mxfp6_e3m2": "MXFP6_E3M2 mxfp6_e3m2fn",
    "mxfp4": "MXFP4 mxfp4_e2m1",
    "mxint8": "MXINT8",
    "nvfp4": "NVFP4",
    "p3109_k8p3se": "Binary8p3se binary8p3se",
    "posit16": "Posit16 POSIT16",
}


@pytest.mark.parametrize(
    ("name", "alias"), [(name, alias) for name, all_ in EXPECTED.items() for alias in all_.split()]
)
def test_aliases(name: str, alias: str) -> None:
    assert q.parse(alias) == q.parse(name)


@pytest.mark.parametrize("format", ALIASES)
def test_every_alias_of_the_table_is_read_and_never_printed(format: str) -> None:
    for alias in ALIASES[format]:
        assert q.parse(alias) == q.parse(format)
        assert str(q.parse(alias)) == str(q.parse(format))
        assert alias not in q.names()


def test_aliases_within_formats_and_quantizers() -> None:
    mx = q.parse("block<float4_e2m1fn,axis=-1,size=32,scale=float8_e8m0fnu>")
    assert mx == q.parse("mxfp4")
    assert q.parse("int<8,axis=0,scale=bfloat16>") == q.parse("int<8,axis=0,scale=bf16>")
    assert q.parse("codebook<0,1,dtype=float64>").dtype == "float64"
    assert str(q.Quantizer("float8_e4m3fn/rne")) == "e4m3fn/nearest_even"


DTYPES = [
    (np.float16, "fp16"),
    (np.dtype("float32"), FLOAT32),
    (np.dtype(">f8"), FLOAT64),
    (np.single, FLOAT32),
    (ml_dtypes.bfloat16, "bf16"),
    (np.dtype(ml_dtypes.bfloat16), "bf16"),
    (np.dtype(ml_dtypes.float8_e4m3), "e4m3"),
    (ml_dtypes.float8_e4m3fn, "e4m3fn"),
    (ml_dtypes.float8_e5m2fnuz, "e5m2fnuz"),
    (ml_dtypes.float6_e2m3fn, "e2m3fn"),
    (ml_dtypes.float4_e2m1fn, "e2m1fn"),
    (ml_dtypes.float8_e8m0fnu, "e8m0fnu"),
]


@pytest.mark.parametrize(("dtype", "name"), DTYPES)
def test_dtype_objects(dtype: object, name: str) -> None:
    assert q.parse(dtype) == q.parse(name)
    assert q.Quantizer.parse(dtype).format == q.parse(name)


def test_a_dtype_is_accepted_wherever_a_format_is() -> None:
    x = np.float32([0.1, 3.0])
    fp8 = ml_dtypes.float8_e4m3fn
    assert (q.quantize(x, fp8) == q.quantize(x, "e4m3fn")).all()
    assert (q.encode(x, fp8, "rne") == q.encode(x, "e4m3fn", "rne")).all()
    assert q.packed_bytes(3, fp8) == 3
    assert q.Block(fp8, axis=-1, size=32, scale=np.float32) == q.Block(
        "e4m3fn", axis=-1, size=32, scale="float32"
    )


def test_dtype_objects_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for dtype, name in (
        (torch.float16, "fp16"),
        (torch.half, "fp16"),
        (torch.bfloat16, "bf16"),
        (torch.float32, FLOAT32),
        (torch.float8_e4m3fn, "e4m3fn"),
        (torch.float8_e5m2fnuz, "e5m2fnuz"),
        (torch.float4_e2m1fn_x2, "e2m1fn"),
        (torch.float8_e8m0fnu, "e8m0fnu"),
    ):
        assert q.parse(dtype) == q.parse(name)
    with pytest.raises(ValueError, match="dtype int8 may stand for several formats; choose one of"):
        q.parse(torch.int8)
    with pytest.raises(ValueError, match="unknown format 'complex64'"):
        q.parse(torch.complex64)


@pytest.mark.parametrize(
    ("library", "dtypes"),
    [
        ("jax", "import jax.numpy as m; dtypes = m.bfloat16, m.float16, m.float8_e4m3fn"),
        ("tensorflow", "import tensorflow as m; dtypes = m.bfloat16, m.float16"),
    ],
)
def test_dtype_objects_of_other_libraries(library: str, dtypes: str) -> None:
    pytest.importorskip(library)
    code = f"{dtypes}\nimport qemu_swalp as q\nprint(*map(q.parse, dtypes))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert result.split()[:2] == ["bf16", "fp16"]


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("fp8", "'e4m3fn', 'e5m2'"),
        ("FP8", "'e4m3fn', 'e5m2'"),
        ("float8", "'e4m3fn', 'e5m2'"),
        ("fp6", "'e3m2fn', 'e2m3fn'"),
        ("fp4", "'e2m1fn', 'mxfp4', 'nvfp4', 'nf4'"),
        ("mxfp6", "'mxfp6_e3m2', 'mxfp6_e2m3'"),
        ("E4M3", "'e4m3', 'e4m3fn'"),
        ("F8E4M3", "'e4m3', 'e4m3fn'"),
        ("float", "'float32', 'float64'"),
        ("uint8", "'fixed<8,0,unsigned>', 'int<8,zero_point>'"),
        (np.int8, "'fixed<8,0>', 'int<8>'"),
        (np.dtype("uint16"), "'fixed<16,0,unsigned>', 'int<16,zero_point>'"),
    ],
)
def test_ambiguous_names_list_what_may_be_meant(name: object, candidates: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"; choose one of {candidates}")) as caught:
        q.parse(name)
    for candidate in re.findall(r"'([^']+)'", str(caught.value).partition("; ")[2]):
        q.parse(candidate)


def test_an_ambiguous_name_may_be_registered() -> None:
    assert q.register("fp8", "e5m2") == q.parse("fp8")
    q.unregister("fp8")
    with pytest.raises(ValueError, match="already stands for"):
        q.register("half", "bf16")
    assert set(AMBIGUOUS).isdisjoint(q.names())


KINDS = ("bfp", "mxfp", "posit", "takum", "lns", "int", "msfp")


@pytest.mark.parametrize(
    "name", ["fp5", "fp9", "fp12", "float12", "float20", "bf8", "e9", "fp", "tf16", "fp17", "x8"]
)
def test_no_format_of_another_kind_is_suggested(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown format '{name}'") as caught:
        q.parse(name)
    suggested = re.findall(r"did you mean '([^']+)'", str(caught.value))
    assert not any(text.startswith(KINDS) for text in suggested)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("e4m3fm", "e4m3fn"),
        ("bpf8", "bfp8"),
        ("posti8", "posit8"),
        ("flaot16", "float16"),
        ("bfloat_16x", "bfloat16"),
        ("mfxp4", "mxfp4"),
        ("nvpf4", "nvfp4"),
        ("e5m3", "float<5,3>"),
        ("takun8", "takum8"),
        ("float8_e4m3fnz", "float8_e4m3fnuz"),
    ],
)
def test_what_a_misspelt_name_suggests(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"; did you mean '{re.escape(meant)}'"):
        q.parse(name)
    q.parse(meant)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixed<8>", "missing a required argument: 'fraction'; its form is fixed<word,fraction,["),
        ("fixed<8.6>", "'fraction'; its form is fixed<word,fraction,[signed=true],[symmetric="),
        ("float<4.3>", "'mantissa'; its form is float<exponent,mantissa,[bias=…],"),
        ("posit<8.2>", "word must be an integer from 2 to 16, got 8.2; its form is posit<word,[es"),
        ("fixed<8,6,colour=red>", "fixed has no parameter 'colour'; its form is fixed<word,"),
        ("takum<8,lineer>", "takum has no parameter 'lineer'; did you mean 'linear'?; its form"),
        ("fixed", "'fixed' is a family of formats; give parameters: fixed<word,fraction,["),
        ("block<e2m1fm,axis=-1>", "unknown format 'e2m1fm'; did you mean 'e2m1fn'?"),
        ("bfp<8,0,1,2,3,4,5>", "too many positional arguments; its form is bfp<word,"),
    ],
)
def test_errors_tell_the_form_of_the_family(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        q.parse(text)
    assert "__init__" not in str(caught.value)


@pytest.mark.parametrize("alias", ["rne", "RNE", "roundTiesToEven", "ties_to_even", "nearest_even"])
def test_aliases_of_roundings(alias: str) -> None:
    assert q.Rounding.parse(alias) == q.Rounding("nearest_even")
    assert q.Rounding.parse("rtz").mode == "toward_zero"
    assert q.Rounding.parse("TowardNegative").mode == "toward_negative"
    assert q.Rounding.parse("sr<8>") == q.Rounding("stochastic_a", 8)
    for mode, aliases in ROUNDINGS.items():
        assert {q.Rounding.parse(text).mode for text in aliases} == {mode}


def test_remedies_work_when_they_are_followed() -> None:
    with pytest.raises(ValueError, match="did you mean 'nearest_even'"):
        q.parse("int8/nearest")
    x, scope = np.float32([0.3]), {"quantize": q.quantize, "RandomBits": q.RandomBits, "seed": 0}
    for text in ("int8/rne", "e4m3fn/stochastic", "float16/sr<8>"):
        with pytest.raises(ValueError, match="is a quantizer, FORMAT/ROUNDING") as caught:
            q.parse(text)
        call = str(caught.value).partition("as in ")[2]
        assert eval(call, scope | {"x": x}).shape == (1,)


def test_no_framework_is_imported_for_a_dtype() -> None:
    code = "import sys, qemu_swalp as q; q.parse('torch.float16'); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert "False" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
