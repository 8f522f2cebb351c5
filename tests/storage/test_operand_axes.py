"""Codes along the axes that layers sum over, and tied weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import qemu_swalp_keras
import qemu_swalp_torch
import torch
from safetensors.numpy import load_file, save_file

import qemu_swalp as q
from qemu_swalp.training import Recipe
from tests.cli.test_cli import complaint, output

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((64, 64, 3, 3)).astype(np.float32)


def test_short_blocks_are_refused_and_the_remedy_helps() -> None:
    with pytest.raises(ValueError, match=r"^conv, .*more than 3 of its 32 .* layouts=\{'conv'"):
        q.quantize_state_dict({"conv": KERNEL}, "mxfp4")
    with pytest.raises(ValueError, match="more than 9 of its 16384 elements"):
        q.quantize_state_dict({"conv": KERNEL}, "fp8_128x128")
    layouts = {"conv": {"sum": 1, "out": 0}}
    coded = q.quantize_state_dict({"conv": KERNEL}, "mxfp4", layouts=layouts)["conv"]
    assert coded.nbytes * 8 / KERNEL.size == 4.25
    rows = np.moveaxis(KERNEL, 1, -1)
    assert (np.moveaxis(coded.decode(), 1, -1) == q.quantize(rows, "mxfp4")).all()
    short = q.quantize_state_dict({"conv": KERNEL}, "mxfp4", layouts={"conv": {"sum": -1}})["conv"]
    assert (short.decode() == q.quantize(KERNEL, "mxfp4")).all()
    tiles = q.quantize_state_dict({"conv": KERNEL}, "fp8_128x128", layouts=layouts)["conv"]
    assert tiles.codes.scales.shape == (1, 1, 3, 3)


def test_what_layouts_lack_is_refused() -> None:
    state = {"conv": KERNEL, "bias": KERNEL[0, :, 0, 0]}
    with pytest.raises(ValueError, match=r"^conv, .* do not say which those are .*'cnov'"):
        q.quantize_state_dict(state, "mxfp4", layouts={"cnov": {"sum": 1}})
    with pytest.raises(ValueError, match=r"^conv, .* names axis -2"):
        q.quantize_state_dict(state, "fp8_128x128", layouts={"conv": {"sum": 1}})
    given = {"conv": {"sum": 1, "out": 0}}
    words = q.quantize_state_dict(state, "block<e4m3fn,axis=out>", layouts=given)
    assert [str(x.format) for x in words.values()] == [
        "block<e4m3fn,axis=-4>",
        "block<e4m3fn,axis=0>",
    ]
    for format in ("e4m3fn", "bfp8"):  # without axes, nothing is asked
        assert str(q.quantize_state_dict(state, format, layouts={})["conv"].format) == format


MODULES = {
    "linear": (torch.nn.Linear(48, 40), (2, 48)),
    "conv": (torch.nn.Conv2d(48, 40, 3), (2, 48, 5, 5)),
    "conv in groups": (torch.nn.Conv1d(96, 40, 3, groups=2), (2, 96, 5)),
    "depthwise": (torch.nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5)),
    "transposed": (torch.nn.ConvTranspose2d(48, 40, 3), (2, 48, 5, 5)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("format", ["mxfp4", "fp8_1x128", "block<e4m3fn,axis=(-2,-1),size=16>"])
def test_codes_are_those_of_the_operand_in_pytorch(name: str, format: str) -> None:
    """A layer whose weight is rounded in its product gives what it gives with the decoded codes."""
    module, shape = MODULES[name]
    model = torch.nn.Sequential(module)
    x = torch.tensor(RNG.standard_normal(shape), dtype=torch.float32)
    layouts = qemu_swalp_torch.operand_layouts(model)
    state = q.quantize_state_dict(model.state_dict(), {"*.weight": format}, layouts=layouts)
    plain = {n: torch.as_tensor(v) for n, v in q.dequantize_state_dict(state).items()}
    handle = qemu_swalp_torch.quantize_gemms(model, Recipe(operands={"weight": format}))
    rounded = model(x)
    handle.remove()
    model.load_state_dict(plain)
    assert (model(x) == rounded).all()


def test_layouts_of_pytorch_leave_out_what_no_axis_tells() -> None:
    layers = torch.nn.ModuleDict(
        {
            "groups": torch.nn.ConvTranspose1d(4, 4, 3, groups=2),
            "norm": torch.nn.LayerNorm((3, 4)),
            "embedding": torch.nn.Embedding(5, 4),
        }
    )
    assert qemu_swalp_torch.operand_layouts(layers) == {"embedding.weight": {"sum": 1, "out": 0}}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Dense(40, name="dense"), (48,)),
        (keras.layers.Conv2D(40, 3, name="conv"), (5, 5, 48)),
        (keras.layers.Conv1D(40, 3, groups=2, name="groups"), (5, 96)),
        (keras.layers.Conv2DTranspose(40, 3, name="transposed"), (5, 5, 48)),
        (keras.layers.DepthwiseConv2D(3, name="depthwise"), (5, 5, 48)),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 4, 8), name="heads"), (5, 48)),
        (keras.layers.EinsumDense("abc,dec->abde", (None, 4, 8), name="last"), (5, 48)),
        (keras.layers.EinsumDense("abde,dec->abc", (None, 40), name="joined"), (5, 3, 64)),
        (keras.layers.EinsumDense("abed,dec->abc", (None, 40), name="turned"), (5, 12, 32)),
        (keras.layers.EinsumDense("adb,dbc->adc", (4, 40), name="apart"), (4, 48)),
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="multiplied"), (5, 5, 48)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("format", ["mxfp4", "int<8,axis=-2>", "nvfp4"])
def test_codes_are_those_of_the_operand_in_keras(
    layer: Any, shape: tuple[int, ...], format: str
) -> None:
    model = keras.Sequential([keras.Input(shape), layer])
    x = keras.ops.convert_to_tensor(RNG.standard_normal((2, *shape)).astype(np.float32))
    path = next(v.path for v in model.weights if v.name == "kernel")
    layouts = qemu_swalp_keras.operand_layouts(model)
    state = {path: np.asarray(layer.kernel)}
    values = q.quantize_state_dict(state, format, layouts=layouts)[path].decode()
    qemu_swalp_keras.quantize_gemms(model, Recipe(operands={"weight": format}))
    rounded = np.asarray(model(x))
    qemu_swalp_keras.unquantize_gemms(model)
    layer.kernel.assign(values)
    assert (np.asarray(model(x)) == rounded).all()


def test_layouts_of_keras() -> None:
    """Sums over two axes, and channels that share an axis with a multiplier, are tuples."""
    for layer, shape, found in (
        (
            keras.layers.EinsumDense("abed,dec->abc", (None, 40), name="n"),
            (5, 16, 3),
            {"sum": (1, 0), "out": 2},
        ),
        (
            keras.layers.EinsumDense("abc,cd->abd", (None, 40), name="n"),
            (5, 16),
            {"sum": 0, "out": 1},
        ),
        (
            keras.layers.EinsumDense("abc,cde->abde", (None, 4, 2), name="n"),
            (5, 16),
            {"sum": 0, "out": (1, 2)},
        ),
        (
            keras.layers.DepthwiseConv1D(3, depth_multiplier=2, name="n"),
            (5, 4),
            {"sum": (), "out": (-2, -1)},
        ),
    ):
        model = keras.Sequential([keras.Input(shape), layer])
        layouts = qemu_swalp_keras.operand_layouts(model)
        assert layouts == {layer.kernel.path: found}
    separable = keras.layers.SeparableConv2D(8, 3, name="s")
    model = keras.Sequential([keras.Input((5, 5, 4)), separable])
    by_name = {
        path.split("/")[-1]: x for path, x in qemu_swalp_keras.operand_layouts(model).items()
    }
    assert by_name == {
        "depthwise_kernel": {"sum": -1, "out": -2},
        "pointwise_kernel": {"sum": -2, "out": -1},
    }


def test_blocks_that_would_go_beyond_the_innermost_axis() -> None:
    """32 of 4 heads of 24 begin in one and end in the next: no block format has such codes."""
    state, layouts = {"w": np.ones((4, 24, 8), np.float32)}, {"w": {"sum": (0, 1), "out": 2}}
    with pytest.raises(ValueError, match=r"of 32 along the axes \(-3, -2\).* of length 24"):
        q.quantize_state_dict(state, "mxfp4", layouts=layouts)
    for name, found in (
        ("block<e2m1fn,axis=sum,size=8,scale=e8m0fnu>", "axis=-2,size=8"),
        ("int<8,axis=(out,sum)>", "axis=(-1,-3,-2)"),
        ("block<e4m3fn,axis=(-2,-1),size=(4,12),scale=bf16>", "axis=(-1,-2),size=(4,12)"),
    ):
        assert found in str(q.quantize_state_dict(state, name, layouts=layouts)["w"].format)


def test_layouts_of_all_axes_keep_one_block_for_each_output() -> None:
    """An operand of shape (1, 6) under bfp8 along its outputs has 6 scales, not one."""
    x = np.float32(2.0 ** np.arange(6)) * (1 + RNG.random(6, np.float32))
    for sizes in ((), (1,)):
        for word, axis in (("out", -2), ("sum", -1)):
            found = {"sum": (), "out": ()} | {word: tuple(range(2 + len(sizes)))}
            state = {"w": x.reshape(2, 3, *sizes)}
            (coded,) = q.quantize_state_dict(
                state, f"bfp<8,axis={axis}>", layouts={"w": found}
            ).values()
            rows = q.quantize(x.reshape(6, 1), "bfp<8,axis=0>")
            assert (coded.decode().reshape(6, 1) == rows).all()
            assert coded.codes.scales.size == 6
    both = q.quantize_state_dict(state, "bfp<8,axis=(sum,out)>", layouts={"w": found})["w"]
    assert both.codes.scales.size == 1


def test_the_command_asks_for_the_library(capsys: Capture, tmp_path: Path) -> None:
    source, out = tmp_path / "m.safetensors", tmp_path / "q.safetensors"
    save_file({"conv": KERNEL, "fc": KERNEL[:, :, 0, 0]}, source)
    command = ("quantize", str(source), "--format", "mxfp4")
    assert "--convolutions torch or keras" in complaint(capsys, *command)
    output(capsys, *command, "--convolutions", "torch", "--out", str(out))
    layouts = {"conv": {"sum": 1, "out": 0}, "fc": {"sum": 1, "out": 0}}
    expected = q.quantize_state_dict(load_file(source), "mxfp4", layouts=layouts)
    for name, x in q.load_state(out).items():
        assert (x.decode() == expected[name].decode()).all()


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_tied_weights_are_stored_once(rounding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 32))
    model[1].weight = model[0].weight
    for formats in ({"*weight": "mxfp4"}, {"*bias": "e4m3fn"}):
        state = q.quantize_state_dict(model.state_dict(), formats, rounding, seed=1)
        q.save_state(path, state)
        assert not any(name.startswith("1.weight") for name in load_file(path))
        back = q.load_state(path)
        assert list(back) == list(state)
        assert back["1.weight"] is back["0.weight"]
        assert back["1.bias"] is not back["0.bias"]
        assert list(q.load_checkpoint(path)) == list(state)
    apart = q.quantize_state_dict(model.state_dict(), {"0.weight": "mxfp4", "1.weight": "nvfp4"})
    q.save_state(path, apart)
    assert str(q.load_state(path)["1.weight"].format) == "nvfp4"


def test_damaged_ties(tmp_path: Path) -> None:
    x = np.ones(4, np.float32)
    path = tmp_path / "a"
    q.save_state(path, {"one": x, "two": x})
    whole = path.read_bytes()
    assert b"same_as" in whole
    path.write_bytes(whole.replace(rb'"same_as\": \"one', rb'"same_as\": \"oen'))
    with pytest.raises(ValueError, match="damaged: two is said to be the same as 'oen'"):
        q.load_state(path)
