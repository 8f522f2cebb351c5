"""Floats of 8 bits and fewer in the dtypes that safetensors has for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

import qemu_swalp as q
from tests.helpers.backends import same_bits

FLOAT8 = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("library", ["ml_dtypes", "torch"])
def test_8_bit_floats_are_stored_as_they_are(dtype: str, library: str, tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16).T
    x: Any = codes.view(getattr(ml_dtypes, dtype))
    if library == "torch":
        torch = pytest.importorskip("torch")
        x = torch.tensor(codes).view(getattr(torch, dtype))
    w = np.ones(3, np.float32)
    state = q.quantize_state_dict({"x": x, "w": w, "one": x[0, 0]}, "mxfp4")
    q.save_state(tmp_path / "a", state)
    back = q.load_state(tmp_path / "a")
    assert back["x"].dtype == getattr(ml_dtypes, dtype)
    assert (back["x"].view(np.uint8) == codes).all()
    assert back["one"].shape == ()


@pytest.mark.parametrize("dtype", ["float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"])
def test_floats_of_few_bits_are_stored_packed(dtype: str, tmp_path: Path) -> None:
    bits = int(dtype[5])
    codes = np.arange(64, dtype=np.uint8).reshape(4, 16) % (1 << bits)
    x = codes.view(getattr(ml_dtypes, dtype))
    path = tmp_path / "a"
    q.save_state(path, {"x": x}, metadata={"format": "pt"})
    assert (q.load_state(path)["x"].view(np.uint8) == codes).all()
    with safe_open(path, "numpy") as file:
        stored = file.get_slice("x")
        assert stored.get_dtype() == {6: f"F6_{dtype[7:11].upper()}", 4: "F4"}[bits]
        assert stored.get_shape() == [4, 16]
        assert file.metadata()["format"] == "pt"
    assert path.read_bytes().endswith(q.pack(codes, bits).tobytes())


def test_dtypes_that_safetensors_lacks_are_named(tmp_path: Path) -> None:
    x = np.ones(3, ml_dtypes.float8_e3m4)
    with pytest.raises(ValueError, match="x is of dtype float8_e3m4, which safetensors files"):
        q.save_state(tmp_path / "a", {"x": x})
    x = np.ones(3, ml_dtypes.float6_e2m3fn)
    with pytest.raises(ValueError, match="x has 3 elements of 6 bits, which are no whole bytes"):
        q.save_state(tmp_path / "a", {"x": x})
    assert not list(tmp_path.iterdir())


OWN_DTYPES = {
    "e4m3fn": ["F8_E4M3"],
    "mxfp4": ["F4", "F8_E8M0"],
    "mxfp6_e3m2": ["F6_E3M2", "F8_E8M0"],
    "nvfp4": ["F4", "F8_E4M3", "F32"],
    "block<e5m2,axis=0,scale=bf16>": ["F8_E5M2", "BF16"],
    "fp16": ["F16"],
    "int<8,axis=0,zero_point>": ["U8", "F32", "U8"],
    "bfp8": ["U8", "U8"],
    "posit8": ["U8"],
}


@pytest.mark.parametrize("name", OWN_DTYPES)
def test_codes_in_the_dtypes_of_the_file(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    path = tmp_path / "a.safetensors"
    state = q.quantize_state_dict({"w": x, "odd": x[0, :3]}, {"w": name, "odd": "e2m1fn"})
    q.save_state(path, state, own_dtypes=True)
    with safe_open(path, "numpy") as file:
        stored = [f"w.{part}" for part in ("codes", "scales", "second", "zero_points")]
        dtypes = [file.get_slice(part).get_dtype() for part in stored if part in set(file.keys())]
        assert dtypes == OWN_DTYPES[name]
        if dtypes[0] != "U8":
            assert file.get_slice("w.codes").get_shape() == [4, 64]
        assert file.get_slice("odd.codes").get_dtype() == "U8"
    for back in (q.load_state(path), q.load_checkpoint(path)):
        for array, tensor in state.items():
            assert same_bits(back[array].decode(), tensor.decode()).all()


@pytest.mark.parametrize("own_dtypes", [False, True])
@pytest.mark.parametrize("name", [*OWN_DTYPES, "bf16", "float<8,23>"])
def test_scalars_and_arrays_without_elements(name: str, own_dtypes: bool, tmp_path: Path) -> None:
    path, arrays = tmp_path / "a", {"one": np.float32(2.5), "none": np.zeros((0, 32), np.float32)}
    state = q.quantize_state_dict(arrays, name)
    q.save_state(path, state, own_dtypes=own_dtypes)
    for array, tensor in q.load_state(path).items():
        assert tensor.shape == arrays[array].shape
        assert same_bits(tensor.decode(), state[array].decode()).all()


def test_codes_of_another_dtype_are_damaged(tmp_path: Path) -> None:
    """Those of a scalar say that they are a row, as they did before they kept their shape."""
    q.save_state(
        tmp_path / "a", q.quantize_state_dict({"x": np.float32(1)}, "e4m3fn"), own_dtypes=True
    )
    text = (tmp_path / "a").read_bytes().replace(b'"shape": [], "data', b'"shape": [1],"data')
    (tmp_path / "b").write_bytes(text)
    with pytest.raises(ValueError, match=r"damaged: x\.codes: .* got dtype float8_e4m3fn"):
        q.load_state(tmp_path / "b")
