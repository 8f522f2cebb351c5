"""`qemu-swalp quantize` and `dequantize`, on files."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qemu_swalp as q
from qemu_swalp.cli import main
from tests.cli.models import STATE, WEIGHT, Capture, rows
from tests.cli.test_cli import complaint, output
from tests.helpers.backends import same_bits


def test_quantize_prints_the_analysis_of_each_tensor(capsys: Capture, model: Path) -> None:
    before = model.read_bytes()
    text = output(capsys, "quantize", str(model), "--format", "mxfp4")
    found = rows(text)
    assert list(found)[:2] == ["tensor", "───────────────"[: len("a.weight")]]
    for name in ("a.weight", "a.bias", "b.weight", "c.weight"):
        a = q.analyze(STATE[name], "mxfp4")
        shape, dtype, *figures, size, packed = found[name]
        assert (shape, dtype) == ("×".join(map(str, STATE[name].shape)), str(STATE[name].dtype))
        shares = (a.share_saturated, a.share_flushed, a.share_unchanged)
        assert figures == [
            f"{a.sqnr_db:.2f}",
            f"{a.max_abs_error:.3g}",
            *(f"{100 * share:.2f} %" for share in shares),
            str(a.count - a.compared),
        ]
        assert (size, packed) == (
            f"{STATE[name].nbytes:,}",
            f"{q.packed_bytes(STATE[name].shape, 'mxfp4'):,}",
        )
    floating = [STATE[name] for name in ("a.weight", "a.bias", "b.weight", "c.weight")]
    total = sum((q.analyze(x, "mxfp4") for x in floating), q.Analysis())
    assert found["total"][0] == f"{total.sqnr_db:.2f}"
    assert found["total"][-2:] == [
        f"{sum(x.nbytes for x in floating):,}",
        f"{total.stored_bytes:,}",
    ]
    infinite = np.isinf(STATE["c.weight"]).reshape(24, 2, 32).any(-1)
    assert int(found["c.weight"][-3]) == 32 * infinite.sum() > 0  # the whole block becomes NaN
    assert "passed over, of dtype int64: steps" in text
    assert "passed over, of dtype bool: mask" in text
    assert model.read_bytes() == before


def test_quantize_reads_npy_and_npz(capsys: Capture, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", WEIGHT)
    np.savez(tmp_path / "two.npz", x=WEIGHT, y=WEIGHT.astype(np.float16), z=np.arange(3))
    one = rows(output(capsys, "quantize", str(tmp_path / "one.npy"), "--format", "e4m3fn"))
    assert one["one"][0] == "24×64"
    assert "total" not in one
    text = output(
        capsys, "quantize", str(tmp_path / "two.npz"), "--format", "e4m3fn", "--only", "[xz]"
    )
    assert rows(text)["x"] == one["one"]
    np.savez(
        tmp_path / "odd.npz",
        big=WEIGHT.astype(">f4"),
        none=WEIGHT[:0],
        one=WEIGHT[0, 0],
        text=np.array(["a"]),
    )
    odd = output(capsys, "quantize", str(tmp_path / "odd.npz"), "--format", "e4m3fn")
    assert rows(odd)["big"] == one["one"]
    assert rows(odd)["none"][1:5] == ["–", "0", "–", "–"]
    assert len(rows(odd)["one"]) == len(one["one"]) - 1  # its shape has no axes
    assert "passed over, of dtype <U1: text" in odd
    assert "passed over, not asked for: y" in text
    assert "passed over, of dtype int64: z" in text


def test_quantize_writes_codes_and_dequantize_their_values(
    capsys: Capture, model: Path, tmp_path: Path
) -> None:
    out, back = tmp_path / "q.safetensors", tmp_path / "back.safetensors"
    options = (
        *("--rounding", "stochastic", "--seed", "7", "--overflow", "saturate"),
        *("--only", "*.weight", "--out", str(out)),
    )
    assert f"written: {out}" in output(
        capsys, "quantize", str(model), "--format", "bfp<8,axis=0>", *options
    )
    state = q.load_state(out)
    assert sorted(name for name, x in state.items() if isinstance(x, q.QuantizedTensor)) == [
        "a.weight",
        "b.weight",
        "c.weight",
    ]
    assert f"6 tensors; written: {back}" in output(
        capsys, "dequantize", str(out), "--out", str(back)
    )
    values = load_file(back)
    names = list(q.load_state(out))
    for name, x in STATE.items():
        if name.endswith("weight"):
            bits = q.RandomBits(7, q.stream_id("weight", names.index(name)))
            assert same_bits(
                values[name],
                q.quantize(x, "bfp<8,axis=0>", "stochastic", random=bits, overflow="saturate"),
            ).all()
        else:
            assert values[name].dtype == x.dtype
            assert values[name].tobytes() == x.tobytes()
    first = out.read_bytes()
    output(capsys, "quantize", str(model), "--format", "bfp<8,axis=0>", *options)
    assert out.read_bytes() == first


def test_quantize_may_replace_the_file_it_reads(capsys: Capture, model: Path) -> None:
    output(capsys, "quantize", str(model), "--format", "e4m3fn", "--out", str(model))
    assert (q.load_state(model)["a.weight"].decode() == q.quantize(WEIGHT, "e4m3fn")).all()


def test_files_in_a_rule_of_ones_own(capsys: Capture, tmp_path: Path) -> None:
    """What a command writes with --load it reads with it; without it the error tells so."""
    own, out, back = tmp_path / "own.py", tmp_path / "q.safetensors", tmp_path / "back.npz"
    lines = ("import qemu_swalp as q", "q.register_scale_rule('halved_cli', lambda b: b.amax / 2)")
    own.write_text("\n".join(lines))
    np.savez(tmp_path / "w.npz", w=WEIGHT)
    format = "block<e2m1fn,axis=-1,size=16,scale=float<8,23>,rule=halved_cli>"
    files = (str(tmp_path / "w.npz"), "--format", format, "--out", str(out))
    try:
        output(capsys, "quantize", *files, "--load", str(own))
        expected = q.quantize(WEIGHT, format)
        q.unregister_scale_rule("halved_cli")
        for command in (("dequantize", str(out), "--out", str(back)), ("quantize", *files)):
            assert "register_scale_rule first, for the command line" in complaint(capsys, *command)
        output(capsys, "dequantize", str(out), "--out", str(back), "--load", str(own))
        assert same_bits(np.load(back)["w"], expected).all()
    finally:
        q.unregister_scale_rule("halved_cli")
    own.rename(tmp_path / "own.txt").write_bytes(b"\x89\xff")
    options = ("--format", "e4m3fn", "--load", str(tmp_path / "own.txt"))
    assert "own.txt: not a TOML file: " in complaint(capsys, "quantize", files[0], *options)


def test_tied_weights_are_rounded_and_stored_once(capsys: Capture, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    w, out = torch.tensor(WEIGHT).bfloat16(), tmp_path / "q.safetensors"
    torch.save({"emb": w, "head": w, "part": w[:2], "other": w.clone()}, tmp_path / "m.pt")
    for source in (tmp_path / "m.pt", out):  # out has codes with the tie itself
        options = (
            "--format",
            "e4m3fn",
            "--rounding",
            "stochastic",
            "--seed",
            "1",
            "--out",
            str(out),
        )
        record = json.loads(output(capsys, "quantize", str(source), *options, "--json"))
        assert [line["tensor"] for line in record["tensors"]] == ["emb", "part", "other"]
        assert record["passed_over"] == {"the same as emb": ["head"]}
        state = q.load_checkpoint(out)
        assert state["head"] is state["emb"]
        assert state["other"] is not state["emb"]
    only = ("--only", "head", "--format", "mxfp4", "--out", str(out))
    output(capsys, "quantize", str(tmp_path / "m.pt"), *only)
    state = q.load_checkpoint(out)
    assert state["emb"].dtype.name == "bfloat16"
    assert str(state["head"].format) == "mxfp4"
    torch.save(dict.fromkeys(("emb", "head", "again"), w), tmp_path / "m.pt")
    both = ("--only", "head", "--only", "again", "--format", "mxfp4", "--out", str(out))
    record = json.loads(output(capsys, "quantize", str(tmp_path / "m.pt"), *both, "--json"))
    assert record["passed_over"] == {"not asked for": ["emb"], "the same as head": ["again"]}
    state = q.load_checkpoint(out)
    assert state["again"] is state["head"]
    other = ("--only", "bias", "--format", "mxfp4", "--out", str(out))
    torch.save({"emb": w, "head": w, "bias": w.clone()}, tmp_path / "m.pt")
    output(capsys, "quantize", str(tmp_path / "m.pt"), *other)
    output(capsys, "quantize", str(out), *other)  # ties of what is not rounded are kept as well
    state = q.load_checkpoint(out)
    assert state["head"] is state["emb"]


def test_without_out_no_tensor_is_kept(capsys: Capture, tmp_path: Path) -> None:
    peaks = []
    for count in (2, 10):
        path = tmp_path / f"{count}.safetensors"
        save_file({f"w{i}": np.ones((256, 256), np.float32) for i in range(count)}, path)
        tracemalloc.start()
        output(capsys, "quantize", str(path), "--format", "e4m3fn")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 256 * 256 * 4


def test_tensors_that_a_format_does_not_suit(capsys: Capture, model: Path, tmp_path: Path) -> None:
    """Too few axes: passed over and named. Too narrow a dtype: widened. No wide enough one: an
    error.
    """
    out = tmp_path / "q.safetensors"
    options = ("--overflow", "saturate", "--out", str(out))
    text = output(capsys, "quantize", str(model), "--format", "fp8_128x128", *options)
    assert (
        "passed over, fp8_128x128 names axis -2, which an array of 1 dimensions does not have:"
        " a.bias" in text
    )
    assert q.load_state(out)["a.bias"].dtype == ml_dtypes.bfloat16
    output(
        capsys,
        "quantize",
        str(model),
        "--format",
        "takum8",
        "--only",
        "b.weight",
        "--out",
        str(out),
    )
    coded = q.load_state(out)["b.weight"]
    assert (coded.dtype, STATE["b.weight"].dtype) == ("float64", np.float16)
    assert (coded.decode() == q.quantize(STATE["b.weight"].astype(np.float64), "takum8")).all()
    words = "defined by float32 steps"
    output(capsys, "quantize", str(model), "--format", "nvfp4")  # float64 goes back to float32
    assert words in complaint(
        capsys,
        "quantize",
        str(model),
        "--format",
        "block<fixed<30,0>,scale=float<8,23>,second=float<8,23>>",
    )


def test_dequantize_to_numpy_files(capsys: Capture, tmp_path: Path) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "q.safetensors"
    np.save(source, WEIGHT)
    output(capsys, "quantize", str(source), "--format", "posit8", "--out", str(out))
    for name in ("back.npy", "back.npz"):
        output(capsys, "dequantize", str(out), "--out", str(tmp_path / name))
    expected = q.quantize(WEIGHT, "posit8")
    assert (np.load(tmp_path / "back.npy") == expected).all()
    assert (np.load(tmp_path / "back.npz")["x"] == expected).all()


def test_npz_files_have_every_name(capsys: Capture, tmp_path: Path) -> None:
    """Also those of arguments of np.savez."""
    state: dict[str, np.ndarray] = {
        name: np.full(3, i, np.float16) for i, name in enumerate(("file", "allow_pickle"))
    }
    state |= {"args": np.array(1.5), "a/b": np.ones((2, 0), ">i4").T}
    save_file(
        {name: np.ascontiguousarray(x) for name, x in state.items()}, tmp_path / "x.safetensors"
    )
    options = ("--out", str(tmp_path / "back.npz"))
    output(capsys, "dequantize", str(tmp_path / "x.safetensors"), *options)
    back = q.load_checkpoint(tmp_path / "back.npz")
    assert back.keys() == state.keys()
    assert all((back[name] == x).all() for name, x in state.items())


def test_progress_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, model: Path
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["quantize", str(model), "--format", "e4m3fn"]) == 0
    assert "/6 [" in capsys.readouterr().err


def test_8_bit_floats_are_rounded_by_their_values_or_kept(capsys: Capture, tmp_path: Path) -> None:
    file, out = tmp_path / "c.safetensors", tmp_path / "q.safetensors"
    codes = WEIGHT.astype(ml_dtypes.float8_e4m3fn)
    save_file({"w": codes, "n": WEIGHT}, file)
    command = ("quantize", str(file), "--format", "mxfp4", "--out", str(out))
    text = output(capsys, *command)
    assert rows(text)["w"][:2] == ["24×64", "e4m3fn"]
    values = codes.astype(np.float32)
    assert same_bits(q.load_state(out)["w"].decode(), q.quantize(values, "mxfp4")).all()
    output(capsys, *command, "--only", "n")
    kept = q.load_state(out)["w"]
    assert str(kept.format) == "e4m3fn"
    assert (kept.codes == codes.view(np.uint8)).all()
    assert "2 tensors" in output(
        capsys, "dequantize", str(out), "--out", str(tmp_path / "b.safetensors")
    )


def test_aliases_are_formats_and_roundings_of_the_command_line(
    capsys: Capture, model: Path
) -> None:
    command = ("quantize", str(model), "--only", "a.weight", "--format")
    assert output(capsys, *command, "float8_e4m3fn", "--rounding", "rne") == output(
        capsys, *command, "e4m3fn"
    )
    assert "choose one of 'e4m3fn', 'e5m2'" in complaint(capsys, "show", "fp8")


def test_columns_that_say_the_same_of_all_tensors_are_left_out(
    capsys: Capture, tmp_path: Path
) -> None:
    name = "encoder.layers.0.self_attention.query.weight"
    np.savez(tmp_path / "two.npz", **{name: WEIGHT, "y": WEIGHT})
    command = ("quantize", str(tmp_path / "two.npz"), "--format", "e4m3fn")
    text = output(capsys, *command)
    assert "dtype" not in text
    assert "not finite" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert name in "".join(line[:22].strip() for line in text.splitlines())
