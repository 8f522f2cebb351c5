"""Checkpoints of others, judged by the packages that define their layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert.converters import AutoAWQConverter, FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import safe_open
from safetensors.torch import save_file

import qemu_swalp as q
from qemu_swalp.storage.layouts import values_of
from tests.cli.test_cli import complaint, output

Capture = pytest.CaptureFixture[str]
ROWS, COLUMNS = 160, 256


def weight(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)


def scales(w: torch.Tensor, strategy: str, greatest: float) -> torch.Tensor:
    w = w.abs()
    if strategy == "tensor":
        return (w.max() / greatest).reshape(1)
    if strategy == "channel":
        return w.amax(1, keepdim=True) / greatest
    if strategy == "group":
        return w.reshape(ROWS, -1, 64).amax(2) / greatest
    return torch.tensor([[0.01, 0.02], [0.5, 0.007]]).to(w.dtype)


def compressed(
    kind: str, args: Mapping[str, Any], parts: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What compressed-tensors stores, and the values that it reads of that."""
    weights = QuantizationArgs(**{"num_bits": 4, "type": "float", **args})
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    compressor = BaseCompressor.get_value_from_registry(kind)
    stored = compressor.compress(dict(parts), scheme)
    values = compressor.decompress(dict(stored), scheme)["weight"]
    return {f"fc.{name}": x.contiguous() for name, x in stored.items()}, values


def of_compressed_tensors(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    w = weight(dtype)
    cases: dict[str, tuple[Any, ...]] = {}
    for strategy in ("tensor", "channel", "group", "block"):
        args: dict[str, Any] = {"num_bits": 8, "strategy": strategy}
        args |= {"group_size": 64} if strategy == "group" else {}
        args |= {"block_structure": [128, 128]} if strategy == "block" else {}
        parts = {"weight": w, "weight_scale": scales(w, strategy, 448)}
        cases[f"fp8 {strategy}"] = "float-quantized", args, parts
        parts = {"weight": w, "weight_scale": scales(w, strategy, 127)}
        cases[f"int8 {strategy}"] = "int-quantized", args | {"type": "int"}, parts
        if strategy != "block":
            for bits in (2, 3, 4, 8):
                parts = {"weight": w, "weight_scale": scales(w, strategy, 2 ** (bits - 1) - 1)}
                given = args | {"type": "int", "num_bits": bits}
                cases[f"w{bits}a16 {strategy}"] = "pack-quantized", given, parts
    for bits, kind in ((8, "int-quantized"), (4, "pack-quantized"), (3, "pack-quantized")):
        strategy = "channel" if bits == 8 else "group"
        scale = scales(w, strategy, 2 ** (bits - 1) - 1)
        zeros = torch.arange(scale.numel()).reshape(scale.shape) % 2**bits - 2 ** (bits - 1)
        args = {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": False}
        args |= {"group_size": 64} if strategy == "group" else {}
        parts = {"weight": w, "weight_scale": scale, "weight_zero_point": zeros.to(torch.int8)}
        cases[f"int{bits} with zero points"] = kind, args, parts
    powers = (2.0 ** (torch.arange(ROWS * COLUMNS // 32) % 7 - 4)).reshape(ROWS, -1).to(dtype)
    mx: dict[str, Any] = {"strategy": "group", "group_size": 32}
    parts = {"weight": w, "weight_scale": powers}
    cases["mxfp4"] = "mxfp4-pack-quantized", mx, parts
    cases["mxfp6"] = "mxfp6-pack-quantized", mx | {"num_bits": 6}, parts
    mxfp8 = mx | {"num_bits": 8, "scale_dtype": torch.uint8}
    cases["mxfp8"] = "mxfp8-quantized", mxfp8, {"weight": w, "weight_scale": powers / 64}
    second = torch.tensor([448 * 6 / 3.9])
    by_block = w.float().reshape(ROWS, -1, 16).abs().amax(2) / 6 * second
    parts = {"weight": w, "weight_scale": by_block.to(torch.float8_e4m3fn).float()}
    nvfp4 = {"strategy": "tensor_group", "group_size": 16}
    cases["nvfp4"] = "nvfp4-pack-quantized", nvfp4, parts | {"weight_global_scale": second}
    return cases


FORMATS = {
    "fp8 channel": "block<e4m3fn,axis=0,scale=bf16>",
    "fp8 block": "block<e4m3fn,axis=(-2,-1),size=128,scale=bf16>",
    "w4a16 group": "block<fixed<4,0>,axis=-1,size=64,scale=bf16>",
    "int4 with zero points": "int<4,zero_point,axis=-1,size=64,scale=bf16>",
    "mxfp4": "mxfp4",
    "mxfp6": "mxfp6_e2m3",
    "mxfp8": "mxfp8_e4m3",
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", of_compressed_tensors(torch.float32))
def test_compressed_tensors(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    stored, values = compressed(*of_compressed_tensors(dtype)[case])
    bias = torch.arange(ROWS).to(dtype)
    save_file(stored | {"fc.bias": bias}, tmp_path / "model.safetensors")
    state = q.load_checkpoint(tmp_path)
    assert sorted(state) == ["fc.bias", "fc.weight"]
    found = values_of(state["fc.weight"])
    assert str(found.dtype) == str(values.dtype).removeprefix("torch.")
    assert (found.astype(np.float32) == values.float().numpy()).all()
    if dtype == torch.bfloat16 and case in FORMATS:
        assert str(state["fc.weight"].format) == FORMATS[case]


def test_deepseek_tiles(tmp_path: Path) -> None:
    """Ragged tiles too; and tiles of the size that config.json says."""
    w = weight(torch.float32).to(torch.float8_e4m3fn)
    for size, config in (((128, 128), None), ((64, 32), {"weight_block_size": [64, 32]})):
        blocks = [-(-length // block) for length, block in zip(w.shape, size, strict=True)]
        inverse = torch.rand(blocks) + 0.01
        stored = {"fc.weight": w, "fc.weight_scale_inv": inverse}
        judge = FP8BlockDequantizer(targets=["fc"], weight_block_size=size, dtype=torch.float32)
        expected = judge.process(dict(stored))["fc.weight"]
        save_file(stored, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
        read = q.load_checkpoint(tmp_path)["fc.weight"]
        assert (read.decode() == expected.numpy()).all()
        assert read.format.size == (128 if config is None else (64, 32))


def test_gpt_oss_blocks(tmp_path: Path) -> None:
    """By the reader of transformers, which gives the transposed."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), generator=generator, dtype=torch.uint8)
    exponents = torch.randint(120, 130, (2, 6, 3), generator=generator, dtype=torch.uint8)
    stem = "model.layers.0.mlp.experts.gate_up_proj"
    save_file({f"{stem}_blocks": blocks, f"{stem}_scales": exponents}, tmp_path / "m.safetensors")
    read = q.load_checkpoint(tmp_path / "m.safetensors")[stem]
    expected = convert_moe_packed_tensors(blocks, exponents)
    assert (str(read.format), read.shape) == ("mxfp4", (2, 6, 96))
    assert (read.decode().astype(np.float32) == expected.float().numpy().transpose(0, 2, 1)).all()


def test_awq(tmp_path: Path) -> None:
    """By the converter of compressed-tensors, and its reader after it."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31 - 1, (128, 4), generator=generator, dtype=torch.int32)
    zeros = torch.randint(-(2**31), 2**31 - 1, (4, 4), generator=generator, dtype=torch.int32)
    step = (torch.rand(4, 32, generator=generator) + 0.1).half()
    stored = {"fc.qweight": words, "fc.qzeros": zeros, "fc.scales": step}
    save_file(stored, tmp_path / "m.safetensors")
    read = q.load_checkpoint(tmp_path / "m.safetensors")["fc.weight"]
    converted = AutoAWQConverter(bits=4, group_size=32, zero_point=True).process(dict(stored))
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=False, strategy="group", group_size=32
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    parts = {name.removeprefix("fc."): x for name, x in converted.items()}
    judge = BaseCompressor.get_value_from_registry("pack-quantized")
    expected = judge.decompress(parts, scheme)["weight"]
    assert (read.decode() == expected.numpy()).all()
    assert str(read.format) == "int<4,zero_point,axis=-1,size=32,scale=fp16>"


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", ["runs", "activations"])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq(bits: int, order: str, version: str, tmp_path: Path) -> None:
    """By the layout's definition, element by element."""
    rng = np.random.default_rng(0)
    inputs, outputs, groups, each = 64, 32, 4, 32 // bits
    words = rng.integers(0, 2**32, (inputs // each, outputs), np.uint32)
    zeros = rng.integers(0, 2**32, (groups, outputs // each), np.uint32)
    step = (rng.random((groups, outputs)) + 0.1).astype(np.float16)
    index = np.arange(inputs, dtype=np.int32) // (inputs // groups)
    index = rng.permutation(index) if order == "activations" else index
    expected = np.empty((outputs, inputs), np.float16)
    for i in range(inputs):
        for o in range(outputs):
            code = int(words[i // each, o]) >> (i % each * bits) & (2**bits - 1)
            zero = int(zeros[index[i], o // each]) >> (o % each * bits) & (2**bits - 1)
            zero += version == "gptq"
            expected[o, i] = np.float16(code - zero) * step[index[i], o]
    stored = {"qweight": words.view(np.int32), "qzeros": zeros.view(np.int32)}
    stored |= {"scales": step, "g_idx": index}
    save_file(
        {f"fc.{name}": torch.tensor(x) for name, x in stored.items()}, tmp_path / "m.safetensors"
    )
    config = {"quantization_config": {"bits": bits, "checkpoint_format": version}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = q.load_checkpoint(tmp_path)["fc.weight"]
    assert (values_of(read) == expected).all()


GGUF_KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


def test_gguf(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    w = weight(torch.float32).numpy()
    writer = gguf.GGUFWriter(path, "llama")
    expected = {}
    for kind in GGUF_KINDS:
        number = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(w, number)
        expected[kind] = gguf.dequantize(data, number)
        writer.add_tensor(kind, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    state = q.load_checkpoint(path)
    assert list(state) == list(GGUF_KINDS)
    for kind, x in state.items():
        assert (x == expected[kind]).all(), kind
    assert state["F16"].dtype == np.float16


FLOATS = {
    "F8_E4M3": "e4m3fn",
    "F8_E5M2": "e5m2",
    "F8_E8M0": "e8m0fnu",
    "F8_E4M3FNUZ": "e4m3fnuz",
    "F8_E5M2FNUZ": "e5m2fnuz",
    "F6_E2M3": "e2m3fn",
    "F6_E3M2": "e3m2fn",
    "F4": "e2m1fn",
}


def raw_file(path: Path, entries: Mapping[str, tuple[str, list[int], bytes]]) -> None:
    """A safetensors file, byte by byte."""
    header, data = {}, b""
    for name, (dtype, shape, stream) in entries.items():
        offsets = [len(data), len(data) + len(stream)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += stream
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_floats_of_few_bits_by_the_names_of_their_formats(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    entries, codes = {}, {}
    for dtype, name in FLOATS.items():
        bits = q.parse(name).bits
        codes[dtype] = np.arange(256, dtype=np.uint8).reshape(4, 64) & ((1 << bits) - 1)
        entries[dtype] = (dtype, [4, 64], q.pack(codes[dtype], bits).tobytes())
    entries["w"] = ("F32", [2], np.float32([1, 2]).tobytes())
    raw_file(path, entries)
    state = q.load_checkpoint(path)
    assert state["w"].tolist() == [1, 2]
    for dtype, name in FLOATS.items():
        assert str(state[dtype].format) == name
        assert (state[dtype].codes == codes[dtype]).all()
        found = state[dtype].decode()
        judge = codes[dtype].view(getattr(ml_dtypes, f"float{dtype[1]}_{name}"))
        assert np.array_equal(found, judge.astype(np.float32), equal_nan=True)


# Files and folders


def test_shards_by_their_index(tmp_path: Path) -> None:
    """Parts of one array may lie in different files."""
    stored, values = compressed(*of_compressed_tensors(torch.bfloat16)["fp8 channel"])
    first, second = (
        {"fc.weight": stored["fc.weight"]},
        {"fc.weight_scale": stored["fc.weight_scale"]},
    )
    save_file(first, tmp_path / "a.safetensors", {"format": "pt"})
    save_file(second | {"b": torch.ones(2)}, tmp_path / "b.safetensors", {"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    places = {
        "fc.weight": "a.safetensors",
        "fc.weight_scale": "b.safetensors",
        "b": "b.safetensors",
    }
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (tmp_path, index):
        state = q.load_checkpoint(path)
        assert list(state) == ["fc.weight", "b"]
        assert (state["fc.weight"].decode().astype(np.float32) == values.float().numpy()).all()
    for change, words in (
        ({"fc.weight": "c.safetensors"}, r"there is no file 'c\.safetensors' beside it"),
        ({"fc.weight": "../a.safetensors"}, "there is no file"),
        ({"x": "a.safetensors"}, r"damaged: a\.safetensors lacks x"),
    ):
        index.write_text(json.dumps({"weight_map": places | change}))
        with pytest.raises(ValueError, match=words):
            q.load_checkpoint(index)
    for text, words in (("{", "not JSON"), ("[]", "JSON object"), ("{}", "by weight_map")):
        index.write_text(text)
        with pytest.raises(ValueError, match=words):
            q.load_checkpoint(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match="found 2; give the file itself"):
        q.load_checkpoint(tmp_path)


class Custom:
    pass


def test_files_of_torch_save(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).bfloat16()
    path = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), path)
    for file in (path, tmp_path):
        state = q.load_checkpoint(file)
        assert list(state) == list(model.state_dict())
        for name, x in model.state_dict().items():
            assert (state[name].astype(np.float32) == x.float().numpy()).all()
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    assert "model.0.weight" in q.load_checkpoint(tmp_path / "last.pt")
    torch.save(torch.ones(3), tmp_path / "ones.pth")
    assert q.load_checkpoint(tmp_path / "ones.pth")["ones"].tolist() == [1, 1, 1]
    torch.save({"x": Custom()}, tmp_path / "objects.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("objects.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name}: not a file of tensors"):
            q.load_checkpoint(tmp_path / name)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match="It said: EOFError"):
        q.load_checkpoint(tmp_path / "empty.pt")
    with pytest.raises(FileNotFoundError):
        q.load_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize("first", ["embed", "head"])
def test_other_names_of_codes_and_parts(first: str, tmp_path: Path) -> None:
    """A tie is the array of the codes, whichever name is first; one of a part is what it holds."""
    codes, scale = torch.ones(2, 2).to(torch.float8_e4m3fn), torch.full((1, 1), 0.5)
    parts = {"embed.weight": codes, "embed.weight_scale_inv": scale}
    ties = {"head.weight": codes, "factor": scale, "again": scale}
    tensors = parts | ties if first == "embed" else ties | parts
    torch.save(tensors, tmp_path / "m.pt")
    state = q.load_checkpoint(tmp_path / "m.pt")
    assert list(state) == [name for name in tensors if not name.endswith("_inv")]
    assert state["head.weight"] is state["embed.weight"]
    assert (state["head.weight"].decode() == 0.5).all()
    assert state["again"] is state["factor"]
    assert state["factor"].tolist() == [[0.5]]


@pytest.mark.parametrize(("module", "file"), [("torch", "x.pt"), ("gguf", "x.gguf")])
def test_a_missing_requirement_names_the_extra(
    module: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}.*qemu-swalp\[{module}\]"):
        q.load_checkpoint(tmp_path / file)


def without(stored: dict[str, Any], ending: str) -> dict[str, Any]:
    return {name: x for name, x in stored.items() if not name.endswith(ending)}


DAMAGES = {
    "no scales": ("fp8 channel", lambda s: without(s, "fc.weight"), "others are missing"),
    "no codes": ("w4a16 group", lambda s: without(s, "_packed"), "others are missing"),
    "no shape": ("w4a16 group", lambda s: without(s, "_shape"), "others are missing"),
    "fewer scales": (
        "fp8 block",
        lambda s: s | {"fc.weight_scale": torch.ones(1, 3)},
        r"has scales of shape \(2, 2\), got \(1, 3\)",
    ),
    "scales of integers": (
        "fp8 channel",
        lambda s: s | {"fc.weight_scale": torch.ones(ROWS, 1, dtype=torch.int32)},
        "its scales are of dtype int32, expected one of float32",
    ),
    "another shape": (
        "w4a16 group",
        lambda s: s | {"fc.weight_shape": torch.tensor([ROWS, 999])},
        "hold 999 codes of no number of bits",
    ),
    "groups that do not divide": (
        "w4a16 group",
        lambda s: s | {"fc.weight_scale": torch.ones(ROWS, 3)},
        "cannot have 3 groups in a row",
    ),
    "fewer zero points": (
        "int4 with zero points",
        lambda s: s | {"fc.weight_zero_point": s["fc.weight_zero_point"][:, :2].contiguous()},
        "has zero_points of shape",
    ),
    "half of the codes": (
        "mxfp4",
        lambda s: s | {"fc.weight_packed": s["fc.weight_packed"][:, :100].contiguous()},
        "must have 16 bytes",
    ),
    "half of the codes of NVFP4": (
        "nvfp4",
        lambda s: s | {"fc.weight_packed": s["fc.weight_packed"][:, :100].contiguous()},
        "must have 8 bytes of codes for each scale",
    ),
    "two global scales": (
        "nvfp4",
        lambda s: s | {"fc.weight_global_scale": torch.ones(2)},
        "must be one number",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints(damage: str, tmp_path: Path) -> None:
    case, change, words = DAMAGES[damage]
    stored, _ = compressed(*of_compressed_tensors(torch.bfloat16)[case])
    path = tmp_path / "m.safetensors"
    save_file(change(stored), path)
    with pytest.raises(ValueError, match=rf"^{path}: .*{words}"):
        q.load_checkpoint(path)


def test_damaged_gptq_and_gguf(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    whole = {
        "fc.qweight": torch.zeros(8, 32, dtype=torch.int32),
        "fc.qzeros": torch.zeros(4, 4, dtype=torch.int32),
        "fc.scales": torch.ones(4, 32).half(),
        "fc.g_idx": torch.arange(64, dtype=torch.int32) // 16,
    }
    for change, words in (
        (
            {"fc.g_idx": torch.arange(64, dtype=torch.int32)},
            "a group, an integer from 0 to 3, for each",
        ),
        ({"fc.g_idx": torch.zeros(64)}, "for each of 64 columns, got float32"),
        ({"fc.qzeros": torch.zeros(4, dtype=torch.int32)}, "must be stored in matrices"),
        ({"fc.scales": -torch.ones(4, 32).half()}, "has scales below zero"),
        ({"fc.qzeros": torch.zeros(3, 4, dtype=torch.int32)}, "and zero points of shape"),
        ({"fc.scales": torch.ones(3, 32).half()}, "cannot have scales"),
        ({"fc.qzeros": torch.zeros(4, 3, dtype=torch.int32)}, "codes of 3 bits .* are not read"),
    ):
        save_file(whole | change, path)
        with pytest.raises(ValueError, match=words):
            q.load_checkpoint(path)
    save_file({"fc.qweight": whole["fc.qweight"]}, path)
    with pytest.raises(ValueError, match=r"fc\.qweight is one part of a quantized array"):
        q.load_checkpoint(path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ValueError, match=r"x\.gguf: not a GGUF file"):
        q.load_checkpoint(tmp_path / "x.gguf")


def test_names_that_only_look_like_parts(tmp_path: Path) -> None:
    """Floating arrays with partners of such names stay as they are."""
    stored = {"w": torch.ones(2), "w_scale": torch.ones(1), "x_blocks": torch.ones(3)}
    save_file(stored, tmp_path / "m.safetensors")
    assert sorted(q.load_checkpoint(tmp_path / "m.safetensors")) == sorted(stored)


# The commands


def test_commands_read_what_others_wrote(capsys: Capture, tmp_path: Path) -> None:
    stored, values = compressed(*of_compressed_tensors(torch.bfloat16)["mxfp4"])
    save_file(stored | {"steps": torch.tensor(3)}, tmp_path / "m.safetensors", {"format": "pt"})
    back, again = tmp_path / "back.safetensors", tmp_path / "again.safetensors"
    assert "2 tensors" in output(capsys, "dequantize", str(tmp_path), "--out", str(back))
    found = q.load_checkpoint(back)
    assert (found["fc.weight"].astype(np.float32) == values.float().numpy()).all()
    assert "m.safetensors" in output(
        capsys, "compare", "e4m3fn", "--file", str(tmp_path / "m.safetensors")
    )
    text = output(capsys, "quantize", str(tmp_path / "m.safetensors"), "--format", "mxfp4")
    assert "100.00 %" in text
    command = ("quantize", str(tmp_path / "m.safetensors"), "--format", "mxfp4")
    output(capsys, *command, "--out", str(again), "--own-dtypes")
    assert "--own-dtypes tells how --out" in complaint(capsys, *command, "--own-dtypes")
    for path in (back, again):
        with safe_open(path, "numpy") as file:
            assert file.metadata()["format"] == "pt"
    assert (values_of(q.load_checkpoint(again)["fc.weight"]) == found["fc.weight"]).all()
    (tmp_path / "config.json").write_text("[")
    assert "config.json: not JSON" in complaint(capsys, *command)
