"""Files in compressed-tensors' layout, read by that package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

import qemu_swalp as q
from qemu_swalp.storage.layouts import values_of
from tests.cli.test_cli import complaint, output

RNG = np.random.default_rng(0)
WEIGHT = (RNG.standard_normal((192, 256)) * 0.02).astype(np.float32)
FORMATS = {
    "block<e4m3fn,scale=float<8,23>>": "naive-quantized",
    "block<e4m3fn,axis=0,scale=float<8,23>>": "naive-quantized",
    "block<e4m3fn,axis=0,scale=bf16>": "naive-quantized",
    "block<e4m3fn,axis=-1,size=64,scale=fp16>": "naive-quantized",
    "fp8_128x128": "naive-quantized",
    "int8": "pack-quantized",
    "int<8,axis=0>": "pack-quantized",
    "int<8,zero_point,axis=0>": "pack-quantized",
    "int<8,axis=-1,size=64,scale=bf16>": "pack-quantized",
    "int<4,axis=-1,size=128>": "pack-quantized",
    "int<4,axis=0,scale=fp16>": "pack-quantized",
    "int<4,zero_point,axis=-1,size=32,scale=bf16>": "pack-quantized",
    "int<3,zero_point,axis=0>": "pack-quantized",
    "mxfp8_e4m3": "mxfp8-quantized",
    "mxfp6_e2m3": "mxfp6-pack-quantized",
    "mxfp4": "mxfp4-pack-quantized",
    "nvfp4": "nvfp4-pack-quantized",
    "nvfp4_torchao": "nvfp4-pack-quantized",
}


@pytest.mark.parametrize("format", FORMATS)
def test_the_package_reads_what_is_written(format: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    state = {"a.fc.weight": WEIGHT, "a.fc.bias": WEIGHT[0], "b.weight": WEIGHT[:64]}
    coded = q.quantize_state_dict(state, {"*.weight": format})
    q.save_compressed_tensors(tmp_path, coded, metadata={"format": "pt"})
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["model_type"] == "llama"
    config = QuantizationConfig.model_validate(said["quantization_config"])
    assert config.format == FORMATS[format]
    (scheme,) = config.config_groups.values()
    assert scheme.targets == ["a.fc", "b"]
    assert infer_module_format(torch.nn.Linear, scheme).value == FORMATS[format]
    stored = load_file(tmp_path / "model.safetensors")
    assert (stored["a.fc.bias"].numpy() == WEIGHT[0]).all()
    ours = q.load_checkpoint(tmp_path)
    for module in scheme.targets:
        parts = {n.removeprefix(f"{module}."): x for n, x in stored.items() if n.startswith(module)}
        reader = BaseCompressor.get_value_from_registry(config.format)
        values = reader.decompress(parts, scheme)["weight"].float().numpy()
        expected = coded[f"{module}.weight"].decode()
        if format.startswith("nvfp4"):  # a rounded divisor, and values in bf16
            assert (np.abs(values - expected) <= np.abs(expected) * 2.0**-8).all()
        elif "bf16" in format or "fp16" in format:
            dtype = torch.bfloat16 if "bf16" in format else torch.float16
            assert (values == torch.tensor(expected).to(dtype).float().numpy()).all()
        else:
            assert (values == expected).all()
        assert (values_of(ours[f"{module}.weight"]).astype(np.float32) == values).all()


@pytest.mark.parametrize(
    ("format", "layout"),
    [
        ("block<e4m3fn,axis=0,scale=bf16>", "float-quantized"),
        ("int8", "int-quantized"),
        ("int<8,axis=0>", "int-quantized"),
        ("int<8,zero_point,axis=0>", "int-quantized"),
        ("int<8,axis=-1,size=64>", "int-quantized"),
    ],
)
def test_weights_beside_activations_of_8_bits(format: str, layout: str, tmp_path: Path) -> None:
    coded = q.quantize_state_dict({"fc.weight": WEIGHT}, format)
    q.save_compressed_tensors(tmp_path, coded, activations=True)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    (scheme,) = QuantizationConfig.model_validate(said).config_groups.values()
    assert said["format"] == infer_module_format(torch.nn.Linear, scheme).value == layout
    assert scheme.input_activations.dynamic is True
    assert scheme.input_activations.num_bits == 8
    stored = load_file(tmp_path / "model.safetensors")
    parts = {name.removeprefix("fc."): x for name, x in stored.items()}
    assert parts["weight"].dtype == (torch.int8 if "int" in layout else torch.float8_e4m3fn)
    values = BaseCompressor.get_value_from_registry(layout).decompress(parts, scheme)["weight"]
    ours = q.load_checkpoint(tmp_path)["fc.weight"]
    assert (values.float().numpy() == values_of(ours).astype(np.float32)).all()
    dtype = torch.bfloat16 if "bf16" in format else torch.float32
    expected = torch.tensor(coded["fc.weight"].decode()).to(dtype)
    assert (values == expected).all()


def test_activations_go_with_8_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    coded = q.quantize_state_dict({"fc.weight": WEIGHT}, "int<4,axis=0>")
    with pytest.raises(ValueError, match="which go with weights in e4m3fn"):
        q.save_compressed_tensors(tmp_path / "new", coded, activations=True)
    assert not (tmp_path / "new").exists()
    source = tmp_path / "x.npz"
    np.savez(source, **{"fc.weight": WEIGHT})
    command = ("quantize", str(source), "--format", "int8", "--activations")
    assert "--activations goes with --layout" in complaint(capsys, *command)
    layout = ("--layout", "compressed-tensors", "--out", str(tmp_path / "out"))
    output(capsys, *command, *layout)
    assert q.load_checkpoint(tmp_path / "out")["fc.weight"].format == q.parse("int8").replace(
        element="fixed<8,0>"
    )


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_damaged_configuration_stays(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    coded = q.quantize_state_dict({"fc.weight": WEIGHT}, "mxfp4")
    with pytest.raises(ValueError, match=r"config\.json: .*JSON"):
        q.save_compressed_tensors(tmp_path, coded)
    assert [each.name for each in tmp_path.iterdir()] == [config.name]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_index_of_another_checkpoint_is_not_left_beside(name: str, tmp_path: Path) -> None:
    """Readers would go by it, and find the arrays as they were."""
    index = tmp_path / f"{name}.index.json"
    index.write_text('{"weight_map": {}}')
    with pytest.raises(ValueError, match=r"index\.json is the index of another checkpoint"):
        q.save_compressed_tensors(tmp_path, q.quantize_state_dict({"a.weight": WEIGHT}, "mxfp4"))
    assert [each.name for each in tmp_path.iterdir()] == [index.name]


@pytest.mark.parametrize("format", ["nvfp4", "nvfp4_torchao", "mxfp4", "fp8_128x128"])
def test_zeros_stay_zeros(format: str, tmp_path: Path) -> None:
    coded = q.quantize_state_dict({"fc.weight": np.zeros((128, 128), np.float32)}, format)
    q.save_compressed_tensors(tmp_path, coded)
    assert (values_of(q.load_checkpoint(tmp_path)["fc.weight"]) == 0).all()


def test_several_formats_are_groups_of_their_own(tmp_path: Path) -> None:
    state = {"a.weight": WEIGHT, "b.weight": WEIGHT}
    coded = q.quantize_state_dict(state, {"a.*": "mxfp4", "b.*": "nvfp4"})
    q.save_compressed_tensors(tmp_path / "new", coded)
    said = json.loads((tmp_path / "new" / "config.json").read_text())["quantization_config"]
    assert said["format"] == "mixed-precision"
    config = QuantizationConfig.model_validate(said)
    assert {s.targets[0]: s.format for s in config.config_groups.values()} == {
        "a": "mxfp4-pack-quantized",
        "b": "nvfp4-pack-quantized",
    }


@pytest.mark.parametrize(
    ("name", "x", "format", "words"),
    [
        ("fc.weight", WEIGHT, "bfp8", "in bfp8, has no place .* takes matrices"),
        ("fc.weight", WEIGHT, "e4m3fn", "in e4m3fn, has no place"),
        ("fc.weight", WEIGHT[0], "mxfp4", r"of shape \(256,\) in mxfp4, has no place"),
        ("fc.kernel", WEIGHT, "mxfp4", "names end in .weight"),
        ("fc.weight", WEIGHT[:, :40], "mxfp4", "rows of 40 elements, which groups of 32"),
        ("fc.weight", WEIGHT, "mxfp8_e5m2", "has no place"),
        ("fc.weight", WEIGHT, "int<8,axis=(0,1),size=32>", "has no place"),
        ("fc.weight", WEIGHT, "int<8,zero_point>", "has no place"),
        ("fc.weight", WEIGHT, "q4_0", "has no place"),
    ],
)
def test_what_has_no_place_is_refused(
    name: str, x: np.ndarray, format: str, words: str, tmp_path: Path
) -> None:
    coded = q.quantize_state_dict({name: x}, format)
    with pytest.raises(ValueError, match=words):
        q.save_compressed_tensors(tmp_path / "new", coded)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source, folder = tmp_path / "x.npz", tmp_path / "out"
    np.savez(source, **{"fc.weight": WEIGHT, "fc.bias": WEIGHT[0]})
    command = ("quantize", str(source), "--format", "mxfp4", "--layout", "compressed-tensors")
    assert "--layout tells how --out" in complaint(capsys, *command)
    output(capsys, *command, "--only", "*.weight", "--out", str(folder))
    expected = q.quantize(WEIGHT, "mxfp4")
    assert (q.load_checkpoint(folder)["fc.weight"].decode() == expected).all()
    assert "has no place" in complaint(capsys, *command, "--out", str(folder))  # the bias
