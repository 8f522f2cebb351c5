"""`kernel_paths` says what `quantize` does, and the command line shows it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.cli import main
from qemu_swalp.ops import quantize as quantize_module

CASES = [
    ("e4m3fn", "nearest_even", None),
    ("mxfp4", "stochastic", None),
    ("nvfp4", "nearest_even", None),
    ("block<nf4,axis=-1,size=4,scale=float<8,23>>", "stochastic", None),
    ("block<posit8,axis=-1,size=4,top=1>", "stochastic_c<8>", None),
    ("block<e2m1fn,axis=-1,size=4,scale=e8m0fnu,rule=mse>", "stochastic", None),
    ("block<nf4,axis=-1,size=4,scale=float<8,23>,rule=mse>", "nearest_even", None),
    ("block<nf4,axis=-1,size=4,scale=float<8,23>,rule=mse>", "stochastic", None),
    ("q8_0", "nearest_away", None),
    ("q4_0", "nearest_away", None),
    ("e4m3fn", "nearest_up", None),
    ("int<8>", "nearest_even", 0.5),
    ("block<nf4,axis=-1,size=4,scale=float<8,23>>", "nearest_even", 0.5),
    ("block<nf4,axis=-1,size=4,scale=float<8,23>,rule=mse>", "stochastic", 0.5),
]
REFERENCE = {CASES[7], CASES[9]}


class Called(Exception):
    """The reference implementation was asked."""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("format", "rounding", "scale"), CASES)
def test_it_says_what_happens(
    monkeypatch: pytest.MonkeyPatch, format: str, rounding: str, scale: float | None, dtype: str
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise Called

    monkeypatch.setattr(quantize_module, "by_reference", refuse)
    try:
        paths = q.kernel_paths(format, rounding, dtype=dtype, given_scales=scale is not None)
    except TypeError as error:
        assert "cannot represent" in str(error)  # noqa: PT017
        return
    options: dict[str, Any] = {"random": q.RandomBits(0), "scales": scale}
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    arrays = {"numpy": x.astype(kind), "torch": torch.tensor(x).to(getattr(torch, dtype))}
    for library, array in arrays.items():
        if paths[library] == "compiled kernels":
            q.quantize(array, format, rounding, **options)
        else:
            assert paths[library].startswith("reference implementation: no kernel has")
            with pytest.raises(Called):
                q.quantize(array, format, rounding, **options)
    expected = (format, rounding, scale) in REFERENCE
    assert (paths["numpy"] != "compiled kernels") == expected
    assert (paths["jax"] != "compiled kernels") == expected


def test_without_kernels() -> None:
    with kernels.disabled():
        assert set(q.kernel_paths("mxfp4").values()) == {
            "reference implementation: QEMU_SWALP_KERNELS is off"
        }


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be"):
        q.kernel_paths("e4m3fn", dtype="int8")
    with pytest.raises(TypeError, match="cannot represent"):
        q.kernel_paths("bf16", dtype="float16")


def test_the_command_line_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "q4_0"])
    shown = capsys.readouterr().out
    assert "jax, cuda: no kernel has the scale rule ggml_signed" in shown
    main(["show", "block<nf4,axis=-1,size=64,scale=float<8,23>>"])
    assert "compiled kernels  numpy, torch, tensorflow, jax" in capsys.readouterr().out
