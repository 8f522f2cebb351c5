"""What `qemu-swalp` refuses of files, and names that match nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import qemu_swalp as q
from qemu_swalp.cli import main
from tests.cli.models import WEIGHT, Capture
from tests.cli.test_cli import complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("show e4m3fn --plot x.jpg", "--plot writes a PNG file, got 'x.jpg'"),
        (
            "show e4m3fn --plot /no/such/folder/x.png",
            "No such file or directory: '/no/such/folder/x.png'",
        ),
        ("compare e4m3fn e4m3f", "unknown format 'e4m3f'; did you mean 'e4m3fn'?"),
        ("compare", "the following arguments are required: FORMAT"),
        ("compare exponent<8>", "exponent<8> is neither an element format nor a block format"),
        ("compare e4m3fn --seed -1", "seed must be from 0"),
        ("compare e4m3fn --rounding up", "rounding must be one of stochastic, nearest_even"),
        ("compare e4m3fn --file {folder}/ints.npy", "ints.npy: none of its tensors is floating"),
        ("quantize {folder}/x.npy", "the following arguments are required: --format"),
        ("quantize {folder}/x.npy --format mxfp5", "unknown format 'mxfp5'; did you mean"),
        ("quantize {folder}/x.npy --format e4m3fn --rounding stochastic", "needs --seed"),
        ("quantize {folder}/x.npy --format e4m3fn --seed some", "invalid int value: 'some'"),
        (
            "quantize {folder}/x.npy --format e4m3fn --overflow infinity",
            "needs a format with infinities",
        ),
        (
            "quantize {folder}/x.npy --format e4m3fn --out q.npz",
            "a file name that ends in .safetensors",
        ),
        ("quantize {folder}/x.npy --format e4m3fn --out {folder}/no/q.safetensors", "cannot write"),
        ("quantize {folder}/absent.npy --format e4m3fn", "No such file"),
        ("quantize {folder}/absent.safetensors --format e4m3fn", "No such file"),
        ("quantize {folder}/x.bin --format e4m3fn", "x.bin: not a file of tensors that torch.load"),
        (
            "quantize {folder}/x.txt --format e4m3fn",
            "expected a folder, an index of shards (.index.json) or a file name that ends in .npy",
        ),
        (
            "quantize {folder}/text.npy --format e4m3fn",
            "text.npy: not a file that numpy.save or numpy.savez",
        ),
        (
            "quantize {folder}/empty.npy --format e4m3fn",
            "empty.npy: not a file that numpy.save or numpy.savez",
        ),
        (
            "quantize {folder}/text.npz --format e4m3fn",
            "text.npz: not a file that numpy.save or numpy.savez",
        ),
        ("quantize {folder}/cut.npz --format e4m3fn", "cut.npz: "),
        ("quantize {folder}/flipped.npz --format e4m3fn", "flipped.npz: a cannot be read"),
        (
            "quantize {folder}/objects.npy --format e4m3fn",
            "objects.npy: not a file that numpy.save",
        ),
        ("quantize {folder}/text.safetensors --format e4m3fn", "no safetensors file"),
        (
            "quantize {folder}/nan.npy --format fixed<8,6> --out {folder}/q.safetensors",
            "nan: fixed<8,6> has no code for nan, which x[1] is",
        ),
        (
            "quantize {folder}/text_too.npz --format e4m3fn --out {folder}/q.safetensors",
            "text is of dtype <U1, which safetensors files cannot hold",
        ),
        ("dequantize {folder}/plain.safetensors", "the following arguments are required: --out"),
        (
            "dequantize {folder}/two.safetensors --out {folder}/y.npy",
            "an .npy file holds one tensor",
        ),
        (
            "dequantize {folder}/two.safetensors --out {folder}/y.npz",
            "which .npz files cannot hold; write a",
        ),
        (
            "dequantize {folder}/two.safetensors --out {folder}/y.txt",
            "ends in .npy or .npz or .safetensors",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    capsys: Capture, tmp_path: Path, arguments: str, words: str
) -> None:
    np.save(tmp_path / "x.npy", WEIGHT)
    np.save(tmp_path / "ints.npy", np.arange(3))
    np.save(tmp_path / "nan.npy", np.float32([1, np.nan]))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "whole.npz", a=WEIGHT)
    np.savez(tmp_path / "text_too.npz", a=WEIGHT, text=np.array(["a"]))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:100])
    (tmp_path / "flipped.npz").write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    for name in ("text.npy", "text.npz", "text.safetensors", "x.bin", "x.txt"):
        (tmp_path / name).write_text("hello, this is text")
    (tmp_path / "empty.npy").write_bytes(b"")
    save_file({"w": WEIGHT}, tmp_path / "plain.safetensors")
    q.save_state(
        tmp_path / "two.safetensors",
        q.quantize_state_dict({"w": WEIGHT.astype(ml_dtypes.bfloat16), "b": WEIGHT}, "e4m3fn"),
    )
    there = sorted(tmp_path.iterdir())
    assert words in complaint(capsys, *arguments.format(folder=tmp_path).split())
    assert sorted(tmp_path.iterdir()) == there


def test_a_file_is_no_format_unless_it_is_called_so(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("int8", "weights"):
        (tmp_path / name).mkdir()
    assert main(["show", "int8"]) == 0
    capsys.readouterr()
    assert "'weights' is a file or folder where a format is" in complaint(capsys, "show", "weights")


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("tqdm", "files", "quantize x.npy --format e4m3fn"),
        ("safetensors", "files", "quantize x.npy --format e4m3fn --out q.safetensors"),
        ("matplotlib", "experiments", "show e4m3fn --plot"),
        ("matplotlib", "experiments", "compare e4m3fn --plot"),
    ],
)
def test_a_missing_requirement_names_the_extra(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    extra: str,
    arguments: str,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", WEIGHT)
    text = complaint(capsys, *arguments.split())
    assert f"needs {module}" in text
    assert f"pip install 'qemu-swalp[{extra}]'" in text
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_patterns_that_match_nothing_are_refused(
    capsys: Capture, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    command = ("quantize", str(model), "--format", "mxfp4", "--out", str(out), "--only")
    text = complaint(capsys, *command, "a.wieght")
    assert "--only: 'a.wieght' matches none of 6 names; the nearest are 'a.weight'" in text
    assert "--only: 'zzz' matches none" in complaint(capsys, *command, "a.*", "--only", "zzz")
    text = complaint(capsys, *command, "steps")
    assert "nothing to round: passed over, not asked for:" in text
    assert "of dtype int64: steps" in text
    assert not out.exists()
