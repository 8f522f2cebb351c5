"""`qemu-swalp compare` and `show`: ranges, errors and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp.cli.pictures import SCALES, magnitude_range, values_by_binade
from tests.cli.models import STATE, Capture, rows
from tests.cli.test_cli import output
from tests.helpers.formats import PARAMETRIZED


def is_picture(path: Path) -> bool:
    """Whether it is a PNG with more than one color, in each third of its height."""
    image = pytest.importorskip("matplotlib.image").imread(path)
    return path.read_bytes()[:4] == b"\x89PNG" and all(
        part.std() > 0.01 for part in np.array_split(image, 3)
    )


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
