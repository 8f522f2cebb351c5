"""`show --plot`, `compare`, `quantize` and `dequantize`: what they print and write, and what they
say of bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qemu_swalp as q
from qemu_swalp.cli import main
from qemu_swalp.cli.pictures import SCALES, magnitude_range, values_by_binade
from tests.cli.test_cli import complaint, output
from tests.helpers.backends import same_bits
from tests.helpers.formats import PARAMETRIZED

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((24, 64)).astype(np.float32)
STATE = {
    "a.weight": WEIGHT,
    "a.bias": WEIGHT[0].astype(ml_dtypes.bfloat16),
    "b.weight": WEIGHT[:8].astype(np.float16),
    "c.weight": np.where(WEIGHT > 2, np.inf, WEIGHT).astype(np.float64),
    "steps": np.array(3),
    "mask": WEIGHT > 0,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    return path


def rows(text: str) -> dict[str, list[str]]:
    """Lines of a table by their first cell, cells apart by two spaces."""
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in text.splitlines()
        if line.strip()
    ]
    return {row[0]: row[1:] for row in cells}


def is_picture(path: Path) -> bool:
    """Whether it is a PNG with more than one color, in each third of its height."""
    image = pytest.importorskip("matplotlib.image").imread(path)
    return path.read_bytes()[:4] == b"\x89PNG" and all(
        part.std() > 0.01 for part in np.array_split(image, 3)
    )


# Quantize


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


# Compare and show


def test_compare_prints_ranges_and_errors(capsys: Capture, model: Path) -> None:
    text = output(
        capsys, "compare", "e4m3fn", "mxfp4", "takum8", "--file", str(model), "--seed", "4"
    )
    ranges, normal, heavy, own = text.split("\n\n")
    assert rows(ranges)["e4m3fn"] == ["8", "448", "2^-9", "17.8", "253", "8"]
    assert rows(ranges)["mxfp4"] == ["4", "6·2^S", "0.5·2^S", "3.6", "15", "2"]
    rng = np.random.default_rng(4)
    for part, title, x in (
        (normal, "normal", rng.standard_normal((256, 256))),
        (heavy, "heavy-tailed", rng.standard_t(3, (256, 256))),
    ):
        assert part.splitlines()[0] == title
        for name in ("e4m3fn", "mxfp4"):
            a = q.analyze(x.astype(np.float32), name, overflow="saturate")
            cells = rows(part)[name]
            assert cells[:3] == [
                f"{a.bits_per_element:.2f}",
                f"{a.sqnr_db:.2f}",
                f"{a.max_abs_error:.3g}",
            ]
            assert cells[-1] == f"{a.mean_error:.2g}"
    assert own.splitlines()[0] == "model.safetensors"
    floating = [x for x in STATE.values() if x.dtype.kind not in "bi"]
    total = sum((q.analyze(x, "mxfp4", overflow="saturate") for x in floating), q.Analysis())
    assert rows(own)["mxfp4"][1] == f"{total.sqnr_db:.2f}"


@pytest.mark.parametrize(
    "name", ["e4m3fn", "bf16", "mxfp4", "takum8", "fixed<32,16>", "codebook<-2,-1>", "binary"]
)
def test_show_draws(
    capsys: Capture, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert output(capsys, "show", name, "--plot").endswith(".png\n")
    assert f"written: {tmp_path / 'mine.png'}" in output(
        capsys, "show", name, "--plot", str(tmp_path / "mine.png")
    )
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 2
    assert all(map(is_picture, pictures))


def test_compare_draws(capsys: Capture, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "c.png"
    output(
        capsys, "compare", "e4m3fn", "fixed<8,4>", "bfp8", "--plot", str(path), "--file", str(model)
    )
    assert is_picture(path)
    assert len(SCALES) == 33


@pytest.mark.parametrize("name", [*q.names(), *PARAMETRIZED])
def test_values_by_binade(name: str) -> None:
    f = q.parse(name)
    element = f.element if isinstance(f, q.Block) else f
    assert isinstance(element, q.ElementFormat)
    low, high = magnitude_range(element)
    if element.value_count > 2**16:
        return
    values = np.array(element.values())
    magnitudes = np.abs(values[values != 0])
    assert (low, high) == (magnitudes.min(), magnitudes.max())
    binades, counts = values_by_binade(element)
    for e, count in zip(binades.tolist(), counts.tolist(), strict=True):
        assert count == ((values >= 2.0**e) & (values < 2.0 ** (e + 1))).sum()
    assert counts.sum() == (values > 0).sum()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "e4m3fn", "--plot", "x.jpg"], "--plot writes a PNG file, got 'x.jpg'"),
        (
            ["show", "e4m3fn", "--plot", "/no/such/folder/x.png"],
            "No such file or directory: '/no/such/folder/x.png'",
        ),
        (["compare", "e4m3fn", "e4m3f"], "unknown format 'e4m3f'; did you mean 'e4m3fn'?"),
        (["compare"], "the following arguments are required: FORMAT"),
        (["compare", "exponent<8>"], "exponent<8> is neither an element format nor a block format"),
        (["compare", "e4m3fn", "--seed", "-1"], "seed must be from 0"),
        (
            ["compare", "e4m3fn", "--rounding", "up"],
            "rounding must be one of stochastic, nearest_even",
        ),
        (
            ["compare", "e4m3fn", "--file", "{folder}/ints.npy"],
            "ints.npy: none of its tensors is floating",
        ),
        (["quantize", "{folder}/x.npy"], "the following arguments are required: --format"),
        (
            ["quantize", "{folder}/x.npy", "--format", "mxfp5"],
            "unknown format 'mxfp5'; did you mean",
        ),
        (
            ["quantize", "{folder}/x.npy", "--format", "e4m3fn", "--rounding", "stochastic"],
            "needs --seed",
        ),
        (
            ["quantize", "{folder}/x.npy", "--format", "e4m3fn", "--seed", "some"],
            "invalid int value: 'some'",
        ),
        (
            ["quantize", "{folder}/x.npy", "--format", "e4m3fn", "--overflow", "infinity"],
            "needs a format with infinities",
        ),
        (
            ["quantize", "{folder}/x.npy", "--format", "e4m3fn", "--out", "q.npz"],
            "a file name that ends in .safetensors",
        ),
        (
            [
                "quantize",
                "{folder}/x.npy",
                "--format",
                "e4m3fn",
                "--out",
                "{folder}/no/q.safetensors",
            ],
            "cannot write",
        ),
        (["quantize", "{folder}/absent.npy", "--format", "e4m3fn"], "No such file"),
        (["quantize", "{folder}/absent.safetensors", "--format", "e4m3fn"], "No such file"),
        (
            ["quantize", "{folder}/x.bin", "--format", "e4m3fn"],
            "x.bin: not a file of tensors that torch.load",
        ),
        (
            ["quantize", "{folder}/x.txt", "--format", "e4m3fn"],
            "expected a folder, an index of shards (.index.json) or a file name that ends in .npy",
        ),
        (
            ["quantize", "{folder}/text.npy", "--format", "e4m3fn"],
            "text.npy: not a file that numpy.save or numpy.savez",
        ),
        (
            ["quantize", "{folder}/empty.npy", "--format", "e4m3fn"],
            "empty.npy: not a file that numpy.save or numpy.savez",
        ),
        (
            ["quantize", "{folder}/text.npz", "--format", "e4m3fn"],
            "text.npz: not a file that numpy.save or numpy.savez",
        ),
        (["quantize", "{folder}/cut.npz", "--format", "e4m3fn"], "cut.npz: "),
        (
            ["quantize", "{folder}/flipped.npz", "--format", "e4m3fn"],
            "flipped.npz: a cannot be read",
        ),
        (
            ["quantize", "{folder}/objects.npy", "--format", "e4m3fn"],
            "objects.npy: not a file that numpy.save",
        ),
        (["quantize", "{folder}/text.safetensors", "--format", "e4m3fn"], "no safetensors file"),
        (
            [
                "quantize",
                "{folder}/nan.npy",
                "--format",
                "fixed<8,6>",
                "--out",
                "{folder}/q.safetensors",
            ],
            "nan: fixed<8,6> has no code for nan, which x[1] is",
        ),
        (
            [
                "quantize",
                "{folder}/text_too.npz",
                "--format",
                "e4m3fn",
                "--out",
                "{folder}/q.safetensors",
            ],
            "text is of dtype <U1, which safetensors files cannot hold",
        ),
        (
            ["dequantize", "{folder}/plain.safetensors"],
            "the following arguments are required: --out",
        ),
        (
            ["dequantize", "{folder}/two.safetensors", "--out", "{folder}/y.npy"],
            "an .npy file holds one tensor",
        ),
        (
            ["dequantize", "{folder}/two.safetensors", "--out", "{folder}/y.npz"],
            "which .npz files cannot hold; write a",
        ),
        (
            ["dequantize", "{folder}/two.safetensors", "--out", "{folder}/y.txt"],
            "ends in .npy or .npz or .safetensors",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    capsys: Capture, tmp_path: Path, arguments: list[str], words: str
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
    assert words in complaint(capsys, *(argument.format(folder=tmp_path) for argument in arguments))
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("tqdm", "files", ["quantize", "x.npy", "--format", "e4m3fn"]),
        (
            "safetensors",
            "files",
            ["quantize", "x.npy", "--format", "e4m3fn", "--out", "q.safetensors"],
        ),
        ("matplotlib", "experiments", ["show", "e4m3fn", "--plot"]),
        ("matplotlib", "experiments", ["compare", "e4m3fn", "--plot"]),
    ],
)
def test_a_missing_requirement_names_the_extra(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    extra: str,
    arguments: list[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", WEIGHT)
    text = complaint(capsys, *arguments)
    assert f"needs {module}" in text
    assert f"pip install 'qemu-swalp[{extra}]'" in text
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_progress_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, model: Path
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["quantize", str(model), "--format", "e4m3fn"]) == 0
    assert "/6 [" in capsys.readouterr().err


# What was asked for and cannot be done


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
