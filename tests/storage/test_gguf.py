"""GGUF files, read by the package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qemu_swalp as q
from tests.cli.test_cli import complaint, output
from tests.helpers.backends import same_bits

gguf = pytest.importorskip("gguf")

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((3, 4, 64)) * 2.0 ** RNG.integers(-6, 6, (3, 4, 1))).astype(np.float32)
FORMATS = {
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
    "q5_0": "Q5_0",
    "q5_1": "Q5_1",
    "q8_0": "Q8_0",
    "mxfp4": "MXFP4",
    "int<8,axis=-1,size=32,scale=fp16>": "Q8_0",
    "int<4,axis=-1,size=32,scale=fp16>": "Q4_0",
    "block<e2m1fn,axis=2,size=32,scale=e8m0fnu,rule=rceil>": "MXFP4",
}


def read(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    tensors = gguf.GGUFReader(path).tensors
    return {
        t.name: (
            t.tensor_type.name,
            t.data if t.tensor_type.name == "I32" else gguf.dequantize(t.data, t.tensor_type),
        )
        for t in tensors
    }


@pytest.mark.parametrize("format", FORMATS)
def test_the_package_reads_what_is_written(format: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    coded = q.quantize_state_dict({"a.weight": X, "norm": X[0, 0]}, {"*.weight": format})
    q.save_gguf(path, coded, architecture="llama", metadata={"llama.block_count": 2, "x": "y"})
    found = read(path)
    kind, values = found["a.weight"]
    assert kind == FORMATS[format]
    expected = coded["a.weight"].decode()
    assert (values == expected).all()
    assert kind == "MXFP4" or same_bits(values, expected).all()  # whose -0 is 0 there
    assert found["norm"][0] == "F32"
    assert (found["norm"][1] == X[0, 0]).all()
    fields = gguf.GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "llama"
    assert (fields["llama.block_count"].contents(), fields["x"].contents()) == (2, "y")
    assert same_bits(q.load_checkpoint(path)["a.weight"], values).all()
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_the_bytes_are_those_of_the_package(name: str, tmp_path: Path) -> None:
    rounding = "nearest_away" if name == "q8_0" else "nearest_up"
    q.save_gguf(tmp_path / "m.gguf", q.quantize_state_dict({"w": X}, name, rounding))
    (tensor,) = gguf.GGUFReader(tmp_path / "m.gguf").tensors
    theirs = gguf.quantize(X.copy(), gguf.GGMLQuantizationType[name.upper()])
    assert (tensor.data.reshape(theirs.shape) == theirs).all()


def test_an_array_without_elements(tmp_path: Path) -> None:
    coded = q.quantize_state_dict({"none": X[:0], "w" * 63: X}, "q4_0")
    q.save_gguf(tmp_path / "m.gguf", coded)
    back = q.load_checkpoint(tmp_path / "m.gguf")
    assert back["none"].shape == X[:0].shape
    assert (back["w" * 63] == coded["w" * 63].decode()).all()


def test_plain_arrays_and_formats_of_16_bits(tmp_path: Path) -> None:
    state: dict[str, Any] = q.quantize_state_dict({"h": X, "b": X}, {"h": "fp16", "b": "bf16"})
    state |= {"n": np.arange(3, dtype=np.int32), "bf": X.astype(ml_dtypes.bfloat16)}
    q.save_gguf(tmp_path / "m.gguf", state)
    found = read(tmp_path / "m.gguf")
    assert {name: kind for name, (kind, _) in found.items()} == {
        "h": "F16",
        "b": "BF16",
        "n": "I32",
        "bf": "BF16",
    }
    assert (found["h"][1] == q.quantize(X, "fp16")).all()
    for name in ("b", "bf"):
        assert (found[name][1] == q.quantize(X, "bf16")).all()
    assert found["n"][1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("x", "format", "words"),
    [
        (X, "bfp8", "w, in bfp8, has no type in GGUF files"),
        (X, "nvfp4", "has no type"),
        (X, "e4m3fn", "w, in e4m3fn, has no type"),
        (X, "int<8,zero_point,axis=-1,size=32,scale=fp16>", "has no type"),
        (X, "block<fixed<4,0>,axis=0,size=32,scale=fp16,rule=ggml_signed>", "has no type"),
        (X[..., :40], "q4_0", "rows of 40 elements, which blocks of 32 do not fill"),
        (X[None, None], "q4_0", "5 axes"),
        (np.full((1, 32), np.nan, np.float32), "mxfp4", "blocks of NaN"),
    ],
)
def test_what_has_no_place_is_refused(
    x: np.ndarray, format: str, words: str, tmp_path: Path
) -> None:
    coded = {"w": q.QuantizedTensor.of(x, format)}
    with pytest.raises(ValueError, match=words):
        q.save_gguf(tmp_path / "m.gguf", coded)
    assert not list(tmp_path.iterdir())


def test_other_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of dtype bool, has no type"):
        q.save_gguf(tmp_path / "m.gguf", {"w": np.array([True])})
    with pytest.raises(TypeError, match="must be a str, int, float or bool"):
        q.save_gguf(tmp_path / "m.gguf", {"w": X}, metadata={"k": [1]})  # type: ignore[dict-item]
    with pytest.raises(OSError, match=r"there is no folder .*no; make it first"):
        q.save_gguf(tmp_path / "no" / "m.gguf", {"w": X})
    with pytest.raises(ValueError, match="ww has more than the 63 bytes that ggml keeps"):
        q.save_gguf(tmp_path / "m.gguf", {"w" * 64: X})
    assert not list(tmp_path.iterdir())


def test_the_command_writes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, path = tmp_path / "x.npz", tmp_path / "m.gguf"
    np.savez(source, w=X)
    command = ("quantize", str(source), "--format", "q4_0", "--layout", "gguf", "--out")
    output(capsys, *command, str(path), "--rounding", "nearest_up")
    assert (read(path)["w"][1] == q.quantize(X, "q4_0", "nearest_up")).all()
    assert ".gguf" in complaint(capsys, *command, str(tmp_path / "m.safetensors"))
    assert "--own-dtypes" in complaint(capsys, *command, str(path), "--own-dtypes")
