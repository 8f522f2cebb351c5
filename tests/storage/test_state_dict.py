"""State dicts of codes, and their files: every format comes back bit for bit, and nothing damaged
is read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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


# What is refused


def written(path: Path) -> Path:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 11)).astype(np.float32)
    formats = {
        "block": "bfp<5,axis=0>",
        "two": "nvfp4",
        "zero": "int<4,zero_point>",
        "table": "codebook<-1,0,1>",
    }
    state = {**dict.fromkeys(formats, w), "plain": w, "n": np.array(3)}
    q.save_state(path, q.quantize_state_dict(state, formats))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "m.safetensors")


def test_every_flipped_byte_is_noticed(file: Path) -> None:
    """A file with any byte changed is refused, or (in the header's own spaces) reads the same."""
    whole, expected = file.read_bytes(), q.load_state(file)
    rng = np.random.default_rng(0)
    at = rng.permutation(len(whole))[:400]
    refused = 0
    for i in at.tolist():
        file.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << rng.integers(8))]) + whole[i + 1 :])
        try:
            found = q.load_state(file)
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017
            refused += 1
            continue
        for name, x in expected.items():
            values = found[name].decode() if isinstance(x, q.QuantizedTensor) else found[name]
            assert (values == (x.decode() if isinstance(x, q.QuantizedTensor) else x)).all()
    assert refused > 390
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="no safetensors file"):
        q.load_state(file)


def rewrite(file: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], object]) -> None:
    """The same file after a change to its tensors and metadata."""
    with safe_open(file, "numpy") as opened:
        content = json.loads(opened.metadata()["qemu_swalp"])
    tensors = load_file(file)
    change(tensors, content)
    save_file(
        tensors, file, {"qemu_swalp": content if isinstance(content, str) else json.dumps(content)}
    )


def of(name: str, **changes: Any) -> Callable[[Any, Any], None]:
    return lambda tensors, content: content["arrays"][name].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t, c: c.update(version=2),
            "have the version 2, and this qemu_swalp reads 1; use the release",
        ),
        (lambda t, c: c.pop("version"), "have the version None"),
        (
            lambda t, c: c.update(arrays=[]),
            "must give each of the arrays by crc32, dtype, format, shape",
        ),
        (lambda t, c: c["arrays"]["two"].pop("shape"), "must give each of the arrays by"),
        (lambda t, c: t.pop("two.second"), "damaged: it lacks two.second"),
        (lambda t, c: t.pop("plain"), "damaged: it lacks plain"),
        (lambda t, c: c["arrays"].pop("plain"), "damaged: it holds, unannounced, plain"),
        (lambda t, c: t.update(more=t["n"]), "holds, unannounced, more"),
        (
            of("table", format="codebok<1,2>"),
            "table: cannot read the format 'codebok<1,2>': unknown family",
        ),
        (of("table", format=3), "table: a format must be a string, a dtype or a Format, got 3"),
        (
            of("table", format="e4m3fn"),
            "table.codes: 33 codes of 8 bits are packed in a uint8 array of shape",
        ),
        (of("block", format="mxfp4"), "block.codes: 33 codes of 4 bits are packed"),
        (
            of("block", format="bfp<5,axis=2>"),
            "block: .* names axis 2, which an array of 2 dimensions",
        ),
        (
            of("block", shape=[4, 11]),
            r"block.codes: 44 codes of 5 bits .* \(28,\), got uint8 of shape \(21,",
        ),
        (of("block", shape=[11, 3]), "block.scales: 11 codes of 8 bits are packed"),
        (of("block", shape=[-3, 11]), "block: each length of shape must be from 0"),
        (of("block", shape="3"), "block: shape must be a list of integers, got '3'"),
        (of("two", shape=[33, 1]), "two.scales: 33 codes of 8 bits"),
        (of("block", dtype="int8"), "block: expected an array of float16"),
        (of("two", dtype="float64"), "two: nvfp4 is defined by float32 steps"),
        (
            of("plain", shape=[11, 3]),
            r"plain must be float32 of shape \[11, 3\], got float32 of shape \[3, 11\]",
        ),
        (of("plain", dtype="int32"), "plain must be int32"),
        (of("block", dtype="float64"), "damaged: block does not have the checksum"),
        (of("block", crc32=1), "damaged: block does not have the checksum 1"),
        (
            lambda t, c: t.update({"block.codes": t["block.codes"] ^ 1}),
            "damaged: block does not have the checksum",
        ),
        (lambda t, c: t["plain"].fill(0), "damaged: plain does not have the checksum"),
        (
            lambda t, c: t["table.codes"].fill(255),
            "damaged: table.codes has set bits after its last code",
        ),
        (
            lambda t, c: t["table.codes"][:8].fill(255),
            "table.codes has the code 3, and ternary has 3",
        ),
        (
            lambda t, c: t.update({"zero.zero_points": t["zero.zero_points"].astype(np.int8)}),
            "got int8 of shape",
        ),
    ],
)
def test_damaged_and_mismatched_files(file: Path, change: Any, words: str) -> None:
    rewrite(file, change)
    with pytest.raises(ValueError, match=rf"^{file}: .*{words}"):
        q.load_state(file)


def test_other_files(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"w": np.ones(3, np.float32)}, other)
    with pytest.raises(
        ValueError, match="no state dict of qemu_swalp: its metadata lack the key 'qemu_swalp'"
    ):
        q.load_state(other)
    save_file({"w": np.ones(3, np.float32)}, other, {"qemu_swalp": "{"})
    with pytest.raises(ValueError, match="are not JSON"):
        q.load_state(other)
    other.write_text("hello")
    with pytest.raises(ValueError, match="no safetensors file"):
        q.load_state(other)
    with pytest.raises(FileNotFoundError):
        q.load_state(tmp_path / "absent")


def test_what_cannot_be_written_changes_nothing(file: Path) -> None:
    before = file.read_bytes()
    x = np.ones(3, np.float32)
    coded = q.quantize_state_dict({"w": x}, "e4m3fn")
    for state, error, words in (
        (coded | {"w.codes": x}, ValueError, "two arrays would be stored as 'w.codes'"),
        ({"w": [1.0]}, TypeError, "expected an array of numpy"),
        (
            coded | {"t": np.array(["a"])},
            ValueError,
            "t is of dtype <U1, which safetensors files cannot hold",
        ),
    ):
        with pytest.raises(error, match=words):
            q.save_state(file, state)
    with pytest.raises(OSError, match=r"cannot write .*absent"):
        q.save_state(file.parent / "absent" / "m", coded)
    assert file.read_bytes() == before


def test_a_file_may_be_replaced_while_it_is_read(file: Path) -> None:
    """The new file takes the name once it is whole; who has the old one open goes on reading it."""
    old = file.read_bytes()
    with file.open("rb") as reader:
        q.save_state(file, q.quantize_state_dict({"w": np.ones(3, np.float32)}, "e4m3fn"))
        assert reader.read() == old
    assert list(q.load_state(file)) == ["w"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_cannot_be_encoded() -> None:
    x = np.ones(3, np.float32)
    for state, formats, error, words in (
        ({"w": x}, {"*": "e4m3f"}, ValueError, "did you mean 'e4m3fn'"),
        ({"w": x}, "fp8_128x128", ValueError, "^w: fp8_128x128 names axis -2"),
        ({"w": x * np.nan}, "fixed<8,6>", ValueError, r"^w: fixed<8,6> has no code for nan"),
        (
            {"w": x.astype(np.float16)},
            "bf16",
            TypeError,
            "^w: an array of float16 cannot represent the values of bf16",
        ),
        ({"w": [1.0]}, "bf16", TypeError, "expected an array of numpy"),
    ):
        with pytest.raises(error, match=words):
            q.quantize_state_dict(state, formats)
    with pytest.raises(ValueError, match=r"^w: rounding stochastic_a needs random="):
        q.quantize_state_dict({"w": x}, "bf16", "stochastic")


@pytest.mark.parametrize("module", ["safetensors", "ml_dtypes"])
def test_a_missing_requirement_names_the_extra(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = q.quantize_state_dict(
        {"w": np.ones(3, ml_dtypes.bfloat16), "b": np.ones(3, ml_dtypes.bfloat16)}, {"w": "e4m3fn"}
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}, .* pip install 'qemu-swalp\[files\]'"):
        q.save_state(tmp_path / "m", state)


# Names that match nothing, other libraries, 8-bit floats


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        (
            {"zzz": "e4m3fn"},
            "formats: 'zzz' matches none of 3 names; the nearest are 'fc.weight', 'fc.bias', 'n'",
        ),
        ({"*.wieght": "e4m3fn"}, "'*.wieght' matches none of 3 names; the nearest are 'fc.weight'"),
        ({"*.weight": "bf16", "zz*": None}, "'zz*' matches none of 3 names"),
        ({"n": "e4m3fn"}, "formats: 'n' matches no floating array, so nothing would be in e4m3fn"),
        ({"*": "bf16", "gone": "e4m3f"}, "did you mean 'e4m3fn'"),
    ],
)
def test_patterns_without_effect(formats: dict[str, str], words: str) -> None:
    x = np.ones(3, np.float32)
    state = {"fc.weight": x, "fc.bias": x, "n": np.int64(3)}
    with pytest.raises(ValueError, match=re.escape(words)):
        q.quantize_state_dict(state, formats)
    assert q.quantize_state_dict(state, {"n": None, "*": "bf16"})["n"] == 3


def test_values_come_back_like_a_model() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
    model[0].to(torch.bfloat16)
    state = model.state_dict()
    quantized = q.quantize_state_dict(state, {"0.weight": "mxfp4", "*": "bf16"})
    for like in (model, state):
        back = q.dequantize_state_dict(quantized, like=like)
        assert list(back) == list(state)
        for name, x in state.items():
            assert isinstance(back[name], torch.Tensor)
            assert (back[name].dtype, back[name].shape) == (x.dtype, x.shape)
    assert back["0.weight"].float().numpy().tolist() == (
        q.quantize(state["0.weight"].float(), "mxfp4").tolist()
    )
    model.load_state_dict(back)


def test_values_come_back_like_a_loaded_file(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {
        "w": torch.randn(3, 4),
        "f8": torch.randn(4).to(torch.float8_e4m3fn),
        "n": torch.tensor(3),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
    }
    q.save_state(tmp_path / "a", q.quantize_state_dict(state, {"w": "bfp<8,axis=0>"}))
    back = q.dequantize_state_dict(q.load_state(tmp_path / "a"), like=state)
    for name in ("n", "flag", "none", "f8"):
        same = back[name].float() == state[name].float()
        assert same.all()
        assert back[name].dtype == state[name].dtype
    assert torch.equal(back["w"], q.quantize(state["w"], "bfp<8,axis=0>"))


@pytest.mark.parametrize("library", ["jax", "tensorflow"])
def test_values_come_back_like_arrays_of(library: str) -> None:
    module = pytest.importorskip("jax.numpy" if library == "jax" else library)
    quantized = q.quantize_state_dict({"w": np.float32([[0.1, 3.0]])}, "e4m3fn")
    for dtype in (module.float32, module.bfloat16):
        like = module.zeros((1, 2), dtype)
        back = q.dequantize_state_dict(quantized, like={"w": like})["w"]
        assert type(back) is type(like)
        assert back.dtype == like.dtype
        assert np.asarray(back).astype(np.float32).tolist() == [[0.1015625, 3.0]]


@pytest.mark.parametrize(
    ("like", "error", "words"),
    [
        ({"v": np.zeros(2)}, ValueError, "like has no array named 'w'; the nearest are v"),
        ({"w": np.zeros(3)}, ValueError, r"w must have the shape of that in like=, \(3,\), got"),
        ({"w": np.zeros(2, np.float16)}, ValueError, "w has numbers that float16, its dtype in"),
        (3, TypeError, "like must be a model with state_dict"),
    ],
)
def test_what_cannot_be_like(like: Any, error: type[Exception], words: str) -> None:
    quantized = q.quantize_state_dict({"w": np.float32([1e6, 3.0])}, "bf16")
    with pytest.raises(error, match=words):
        q.dequantize_state_dict(quantized, like=like)


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
