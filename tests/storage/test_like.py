"""Values of codes that come back like the arrays of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qemu_swalp as q


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
