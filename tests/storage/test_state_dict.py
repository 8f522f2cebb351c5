"""State dicts as codes, and the files that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import qemu_swalp as q
from qemu_swalp.reference.context import element_of
from tests.helpers.backends import Backend, same_bits
from tests.helpers.formats import FAR_APART, OTHERS, OWN, OWN_BLOCKS, PARAMETRIZED, RULED

State = dict[str, Any]


ALL = [*q.names(), *PARAMETRIZED, *OWN, *RULED, *OTHERS, *OWN_BLOCKS]


def source(f: q.Format, shape: tuple[int, ...] = (5, 37)) -> np.ndarray:
    """Numbers of many sizes, with whatever else the format has codes for, in a dtype that holds
    it.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 12, shape)
    x.flat[:2] = 0.0, -0.0
    if isinstance(f, q.ElementFormat):
        x.flat[2:6] = f.max, f.min, np.inf, -np.inf
        x.flat[6] = np.nan if f.has_nan else 1.0
        return x
    return x.astype(np.float64 if element_of(f).precision > 24 else np.float32)


@pytest.mark.parametrize("name", ALL)
def test_every_format_comes_back(name: str, tmp_path: Path) -> None:
    """COD-5, COD-7: codes and values, bit for bit; the file has the bytes that `packed_bytes`
    says.
    """
    f = q.parse(name)
    if not isinstance(f, q.Block | q.ElementFormat):
        return
    x = source(f)
    rounding = "nearest_even" if name in FAR_APART else "stochastic"
    state = q.quantize_state_dict({"w": x}, f, rounding, seed=3)
    q.save_state(tmp_path / "a.safetensors", state)
    back = q.load_state(tmp_path / "a.safetensors")["w"]
    assert (back.format, back.dtype, back.shape) == (f, str(x.dtype), x.shape)
    for ours, theirs in zip(
        np.atleast_1d(state["w"].codes) if isinstance(f, q.ElementFormat) else state["w"].codes,
        np.atleast_1d(back.codes) if isinstance(f, q.ElementFormat) else back.codes,
        strict=True,
    ):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.dtype == theirs.dtype and (ours == theirs).all())
    stream = q.stream_id("weight", 0)
    assert same_bits(
        back.decode(), q.quantize(x, f, rounding, random=q.RandomBits(3, stream))
    ).all()
    stored = load_file(tmp_path / "a.safetensors")
    assert sum(part.nbytes for part in stored.values()) == back.nbytes == q.packed_bytes(x.shape, f)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 1, 40)])
@pytest.mark.parametrize(
    "name", ["e4m3fn", "fixed<7,2>", "bfp<5,axis=-1,size=16>", "nvfp4", "int<4,zero_point>"]
)
def test_every_shape_comes_back(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.full(shape, 0.7, np.float32)
    q.save_state(tmp_path / "a", q.quantize_state_dict({"w": x}, name))
    back = q.load_state(tmp_path / "a")["w"].decode()
    assert back.shape == shape
    assert (back == q.quantize(x, name)).all()


def test_dtypes_and_what_is_kept(tmp_path: Path) -> None:
    """The four source dtypes come back as such; arrays without a format, of any dtype, as they
    were, in order.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    state: State = {
        "steps": np.array(7),
        "b.bias": x[0],
        "z": np.float16(x),
        "a": x.astype(ml_dtypes.bfloat16).T,
        "kept.bias": x.astype(ml_dtypes.bfloat16)[:, ::2],
        "d": np.float64(x),
        "mask": x > 0,
    }
    coded = q.quantize_state_dict(state, {"d": "posit8", "*.bias": None, "*": "e4m3fn"})
    assert [n for n, v in coded.items() if isinstance(v, q.QuantizedTensor)] == ["z", "a", "d"]
    q.save_state(tmp_path / "m.safetensors", coded)
    back = q.dequantize_state_dict(q.load_state(tmp_path / "m.safetensors"))
    assert list(back) == list(state)
    for name, kept in state.items():
        assert back[name].dtype == kept.dtype
        assert back[name].shape == kept.shape
    for name, format in (("z", "e4m3fn"), ("a", "e4m3fn"), ("d", "posit8")):
        assert same_bits(back[name], q.quantize(state[name], format)).all()
    for name in ("steps", "b.bias", "kept.bias", "mask"):
        assert back[name].tobytes() == state[name].tobytes()
    with safe_open(tmp_path / "m.safetensors", "numpy") as file:
        assert file.get_tensor("kept.bias").tolist() == state["kept.bias"].tolist()
        arrays = json.loads(file.metadata()["qemu_swalp"])["arrays"]
    assert arrays["d"] | {"crc32": 0} == {
        "format": "posit<8,2>",
        "shape": [4, 6],
        "dtype": "float64",
        "crc32": 0,
    }
    assert arrays["mask"]["format"] is None


def test_every_library(backend: Backend, tmp_path: Path) -> None:
    """The codes and the file are those of NumPy."""
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
    q.save_state(
        tmp_path / "numpy",
        q.quantize_state_dict({"w": x, "b": x}, {"w": "mxfp4"}, "stochastic", seed=1),
    )
    with backend.context("float32"):
        given = {"w": backend.array(x), "b": backend.array(x)}
        q.save_state(
            tmp_path / "other", q.quantize_state_dict(given, {"w": "mxfp4"}, "stochastic", seed=1)
        )
    assert (tmp_path / "other").read_bytes() == (tmp_path / "numpy").read_bytes()


def test_a_state_dict_of_pytorch(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    state = model.state_dict()
    q.save_state(tmp_path / "m", q.quantize_state_dict(state, {"0.*": "bfp<8,axis=0>"}))
    back = q.dequantize_state_dict(q.load_state(tmp_path / "m"))
    assert back["1.num_batches_tracked"].dtype == np.int64
    assert back["1.running_var"].dtype == ml_dtypes.bfloat16
    weight = q.quantize(state["0.weight"], "bfp<8,axis=0>").float().numpy()
    assert (back["0.weight"].astype(np.float32) == weight).all()


def test_tensors_draw_from_streams_of_their_own() -> None:
    x = np.full(64, 0.3, np.float32)
    state = q.quantize_state_dict({"a": x, "b": x.copy()}, "fixed<8,0>", "stochastic", seed=5)
    assert (state["a"].codes != state["b"].codes).any()
    assert (
        state["a"].codes
        == q.quantize_state_dict({"a": x}, "fixed<8,0>", "stochastic", seed=5)["a"].codes
    ).all()
