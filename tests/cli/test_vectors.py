"""`qemu-swalp vectors`, and `--json` of the commands that print tables."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.cli import main

FORMATS = [
    *("e4m3fn", "e2m1fn", "posit8", "nf4", "bf16", "fixed<24,10>", "e8m0fnu"),
    *("mxfp4", "nvfp4", "int<8,zero_point,axis=0>", "bfp<8>"),
    "block<nf4,axis=-1,size=4,scale=float<8,23>>",
]


def written(path: Path, *arguments: str) -> str:
    assert main(["vectors", *arguments, "--out", str(path)]) == 0
    return path.read_text()


def numbers(listed: list[str], dtype: Any, shape: list[int]) -> np.ndarray:
    dtype = np.dtype(dtype)
    bits = np.array([int(text, 16) for text in listed], f"u{dtype.itemsize}")
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic_b<8>"])
def test_json_says_what_quantize_does(name: str, rounding: str, tmp_path: Path) -> None:
    content = json.loads(written(tmp_path / "v.json", name, "--rounding", rounding))
    shape = content["shape"]
    inputs, outputs = (
        numbers(content[key], content["dtype"], shape) for key in ("inputs", "outputs")
    )
    words = numbers(content["words"], np.uint32, shape) if "words" in content else None
    assert (words is None) == (rounding == "nearest_even")
    format = q.Quantizer.parse(content["quantizer"]).format
    assert format == q.parse(name)
    expected = q.quantize(inputs, format, rounding, random=words)
    np.testing.assert_array_equal(expected, outputs)
    codes = q.encode(inputs, format, rounding, random=words)
    parts = codes._asdict() if isinstance(codes, q.BlockCodes) else {"codes": codes}
    for key, part in parts.items():
        assert (part is None) == (key not in content)
        if part is not None:
            assert (numbers(content[key], part.dtype, part.shape) == part).all()
    if isinstance(format, q.ElementFormat) and format.value_count <= 1024:
        assert set(format.values()) <= set(outputs[np.isfinite(outputs)].tolist())


PROGRAM = r"""
#include <stdio.h>
#include "vectors.h"
int main(void) {{
  int wrong = 0;
  for (int i = 0; i < {prefix}_COUNT; i++) {check}
  printf("%d %d %d", {prefix}_COUNT, {prefix}_CODE_BITS, wrong);
  return sizeof {prefix}_INPUT / sizeof *{prefix}_INPUT != {prefix}_COUNT;
}}
"""


@pytest.mark.parametrize(
    ("name", "prefix", "listed"),
    [
        ("e4m3fn", "E4M3FN", True),
        ("nf4", "NF4", True),
        ("posit<12,1>", "POSIT_12_1", True),
        ("fixed<24,10>", "FIXED_24_10", False),
        ("mxfp4", "MXFP4", False),
        ("nvfp4", "NVFP4", False),
        ("int<8,zero_point,axis=0>", "INT_8_ZERO_POINT_AXIS_0", False),
    ],
)
def test_a_c_compiler_takes_the_header(
    name: str, prefix: str, listed: bool, tmp_path: Path
) -> None:
    """It has no warning, and codes have the values that rounding gives, except for -0 of numbers
    whose code is that of 0.
    """
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    text = written(tmp_path / "vectors.h", name, "--rounding", "stochastic_b<8>")
    content = json.loads(written(tmp_path / "v.json", name, "--rounding", "stochastic_b<8>"))
    value = f"{prefix}_VALUE[{prefix}_CODE[i]]"
    out = f"{prefix}_OUTPUT[i]"
    wrong_if = f"({out} & 0x7fffffffu) <= 0x7f800000u && {value} != {out}"  # NaN have payloads
    check = f"wrong += {wrong_if};" if listed else "wrong += 0;"
    assert (f"{prefix}_VALUE" in text) == listed
    (tmp_path / "m.c").write_text(PROGRAM.format(prefix=prefix, check=check))
    flags = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable")
    command = ["cc", *flags, "-Wno-unused-variable", "m.c", "-o", "m"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ran = subprocess.run(["./m"], cwd=tmp_path, check=True, capture_output=True, text=True)
    count, bits, wrong = map(int, ran.stdout.split())
    assert (count, bits) == (len(content["inputs"]), q.parse(name).bits)
    signs = sum(int(out, 16) == 1 << 31 for out in content["outputs"])
    assert wrong in (0, signs)


@pytest.mark.parametrize("name", FORMATS)
def test_lines_for_readmemh(name: str, tmp_path: Path) -> None:
    """Both files have the same lines; fields have the widths that the comment says."""
    memh = written(tmp_path / "v.memh", name, "--dtype", "float64" if "24" in name else "float32")
    head, address, *lines = memh.splitlines()
    assert head.startswith("// ")
    assert address == "@0"
    fields = [part.split() for part in head.partition("bits: ")[2].split(", ")]
    digits = sum(-(-int(bits) // 4) for _, bits in fields)
    assert {len(line) for line in lines} == {digits}
    assert fields[0][0] == "input"
    assert fields[-1] == ["code", str(q.parse(name).bits)]
    if "24" not in name:
        assert written(tmp_path / "v.hex", name).splitlines() == lines
        first = np.array([int(line[:8], 16) for line in lines], np.uint32).view(np.float32)
        if isinstance(q.parse(name), q.ElementFormat):
            width = (int(fields[-1][1]) + 3) // 4
            last = [int(line[-width:], 16) for line in lines]
            assert q.encode(first, name, "nearest_even").tolist() == last


def test_a_format_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import qemu_swalp as q\n"
        "q.register('own_vectors_test', q.Codebook([-2, -0.5, 0, 1]))\n"
        "q.register_rounding('own_vectors_mode', lambda f: f.above_half)\n"
    )
    try:
        content = json.loads(
            written(
                tmp_path / "v.json",
                *("own_vectors_test", "--load", str(tmp_path / "own.py")),
                *("--rounding", "own_vectors_mode", "--count", "0"),
            )
        )
        assert content["quantizer"].endswith("/own_vectors_mode")
        assert {int(code, 16) for code in content["codes"]} == {0, 1, 2, 3}
    finally:
        q.unregister("own_vectors_test")
        q.unregister_rounding("own_vectors_mode")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("e4m3fn", "--out", "v.txt"), "--out must end in .json, .hex, .memh, .h, got 'v.txt'"),
        (("e4m3fn", "--out", "v.hex", "--count", "-1"), "--count must not be negative, got -1"),
        (("bf16", "--out", "v.hex", "--dtype", "float16"), "cannot represent the values of bf16"),
        (("e2m1fn", "--out", "v.hex", "--overflow", "nan"), "needs a format with NaN"),
        (("bfp<8,axis=out>", "--out", "v.hex"), "by the word 'out'"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vectors", *arguments]) == 2
    assert words in capsys.readouterr().err


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_json_of_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = printed(capsys, "formats")
    assert [record["name"] for record in listed["formats"]] == list(q.names())
    e4m3 = next(record for record in listed["formats"] if record["name"] == "e4m3fn")
    assert (e4m3["max"], e4m3["min_positive"], e4m3["nan"]) == (448.0, 2.0**-9, True)
    assert "float8_e4m3fn" in listed["aliases"]["e4m3fn"]
    shown = printed(capsys, "show", "e5m2")
    values = {record["code"]: record["value"] for record in shown["codes"]}
    assert (values[0x3C], values[0x7C], values[0x80]) == (1.0, "inf", "-0.0")
    assert shown["properties"]["family"] == "float"
    assert printed(capsys, "show", "block<nf4,scale=float<8,23>>")["properties"]["element"] == "nf4"
    compared = printed(capsys, "compare", "e4m3fn", "mxfp4")
    assert [record["format"] for record in compared["ranges"]] == ["e4m3fn", "mxfp4"]
    assert compared["errors"]["normal"][1]["bits_per_element"] == 4.25
    x = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, exact=np.ones(32, np.float32), n=np.arange(3))
    told = printed(capsys, "quantize", str(tmp_path / "x.npz"), "--format", "mxfp4")
    by_name = {record["tensor"]: record for record in told["tensors"]}
    assert math.isclose(by_name["x"]["sqnr_db"], q.analyze(x, "mxfp4").sqnr_db)
    assert by_name["exact"]["sqnr_db"] is None
    assert by_name["x"]["shape"] == [4, 32]
    assert told["passed_over"] == {"of dtype int64": ["n"]}
    assert told["total"]["count"] == 160


def test_json_of_info(capsys: pytest.CaptureFixture[str]) -> None:
    known = printed(capsys, "info")
    assert known["versions"]["qemu_swalp"] == q.__version__
    assert known["libraries"]["numpy"]["version"] == np.__version__
    assert "qemu_swalp_torch" in known["adapters"]
