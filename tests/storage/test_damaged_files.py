"""Files and state dicts that are refused, whole, and by name."""

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
