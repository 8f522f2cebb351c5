"""Checkpoints of others that are damaged: refused by words, whatever the damage."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import qemu_swalp as q
from qemu_swalp.storage.layouts import values_of
from qemu_swalp.storage.tensor_files import write_tensors

CONFIGURATIONS = {
    "config_groups must be an object": {"config_groups": [1]},
    "config_groups.a must be an object": {"config_groups": {"a": 3}},
    "config_groups.a.weights must be an object": {"config_groups": {"a": {"weights": 3}}},
    "a.weights.num_bits must be a number of bits": {
        "config_groups": {"a": {"weights": {"num_bits": [4]}}}
    },
    "a.weights.block_structure must be two lengths": {
        "config_groups": {"a": {"weights": {"block_structure": "x"}}}
    },
    "weight_block_size must be two lengths": {"weight_block_size": [128]},
    "bits must be a number of bits": {"bits": "four"},
    "quantization_config must be an object": 3,
}


@pytest.mark.parametrize("words", CONFIGURATIONS)
def test_damaged_configurations(words: str, tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"quantization_config": CONFIGURATIONS[words]}))
    with pytest.raises(ValueError, match=rf"^{config}: .*{words}.*, got"):
        q.load_checkpoint(tmp_path)
    config.write_text(json.dumps({"quantization_config": {"config_groups": {"W4A16": ["fc"]}}}))
    assert list(q.load_checkpoint(tmp_path)) == ["fc.weight"]


PARTS = {
    "integers": {
        "w.weight_packed": np.zeros((64, 8), np.int32),
        "w.weight_scale": np.ones((64, 2), np.float32),
        "w.weight_shape": np.array([64, 64]),
        "w.weight_zero_point": np.zeros((8, 2), np.int32),
        "w.weight_g_idx": np.arange(64, dtype=np.int32) // 32,
    },
    "mxfp4": {
        "w.weight_packed": np.zeros((64, 32), np.uint8),
        "w.weight_scale": np.ones((64, 2), np.uint8),
    },
    "nvfp4": {
        "w.weight_packed": np.zeros((64, 32), np.uint8),
        "w.weight_scale": np.ones((64, 4), ml_dtypes.float8_e4m3fn),
        "w.weight_global_scale": np.ones(1, np.float32),
    },
    "gpt-oss": {
        "w_proj_blocks": np.zeros((4, 8, 2, 16), np.uint8),
        "w_proj_scales": np.ones((4, 8, 2), np.uint8),
    },
    "gptq": {
        "w.qweight": np.zeros((8, 64), np.int32),
        "w.scales": np.ones((2, 64), np.float16),
        "w.qzeros": np.zeros((2, 8), np.int32),
        "w.g_idx": np.arange(64, dtype=np.int32) // 32,
    },
    "awq": {
        "w.qweight": np.zeros((64, 8), np.int32),
        "w.scales": np.ones((2, 64), np.float16),
        "w.qzeros": np.zeros((2, 8), np.int32),
    },
    "deepseek": {
        "w.weight": np.zeros((64, 64), ml_dtypes.float8_e4m3fn),
        "w.weight_scale_inv": np.ones((1, 1), np.float32),
    },
    "int8": {
        "w.weight": np.zeros((64, 64), np.int8),
        "w.weight_scale": np.ones((64, 1), np.float32),
        "w.weight_zero_point": np.zeros((64, 1), np.int8),
    },
}
SHAPES = [(), (0,), (1,), (64,), (0, 0), (64, 0), (0, 64), (1, 1), (2, 64), (3, 5), (1, 2, 2, 1)]
DTYPES = ["int32", "int64", "uint8", "int8", "bool", "float16", "float32", "float64"]
DTYPES += ["bfloat16", "float8_e4m3fn", "float8_e8m0fnu"]


@pytest.mark.parametrize("layout", PARTS)
def test_parts_of_any_shape_and_dtype_are_read_or_refused(layout: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "m.safetensors", PARTS[layout]
    write_tensors(path, whole)
    assert values_of(next(iter(q.load_checkpoint(path).values()))).size
    for part, x in whole.items():
        others = [np.ones(shape, x.dtype) for shape in SHAPES]
        others += [np.ones(x.shape, np.float32).astype(dtype) for dtype in DTYPES]
        for other in others:
            write_tensors(path, whole | {part: other})
            refusal = ""
            try:
                state = q.load_checkpoint(path)
            except ValueError as error:
                refusal = str(error)
            else:
                for stored in state.values():
                    values_of(stored)
            assert refusal.startswith(str(path) if refusal else "")


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float8_e4m3fn", "uint8"])
def test_values_under_scales_of_8_bits_are_bfloat16(dtype: str, tmp_path: Path) -> None:
    codes = np.ones((64, 64), np.float32).astype(ml_dtypes.float8_e4m3fn)
    one = np.full((1, 1), 127, np.uint8) if dtype == "uint8" else np.ones((1, 1)).astype(dtype)
    path = tmp_path / "m.safetensors"
    write_tensors(path, {"w.weight": codes, "w.weight_scale_inv": one})
    values = q.load_checkpoint(path)["w.weight"].decode()
    assert values.dtype.name == "bfloat16"
    assert (values.astype(np.float32) == 1).all()


def test_an_index_of_shards_that_are_no_files_of_arrays(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(ValueError, match="is no file of arrays, whose names end in"):
        q.load_checkpoint(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        q.load_checkpoint(tmp_path)


def test_tensors_of_torch_save_that_are_lost_by_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"m": [torch.ones(1), {"b": (torch.zeros(2),)}], "epoch": 3}, path)
    state = q.load_checkpoint(path)
    assert {name: x.tolist() for name, x in state.items()} == {"m.0": [1.0], "m.1.b.0": [0.0, 0.0]}
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"x\.pt: two tensors are called a\.b; rename one"):
        q.load_checkpoint(path)
    for x in (torch.ones(2, 2).to_sparse(), torch.empty(2, device="meta")):
        torch.save({"a": x}, path)
        with pytest.raises(ValueError, match=r"x\.pt: a is no dense tensor with values"):
            q.load_checkpoint(path)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"x\.pt: not a file of tensors") as refused:
        q.load_checkpoint(path)
    assert "\x1b" not in str(refused.value)
