"""Which steps of SGD are one launch, and that they have the bits of steps on the host.
`tests/kernels/test_stand_in.py` runs it with the plugin.
"""

from __future__ import annotations

import pytest
import torch
from qemu_swalp_torch import SGD

from tests.helpers.gpu_steps import RECIPES, parameters, stepped
from tests.stand_in import cupy_module


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("last", [False, True], ids=["", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_step_is_one_launch(dtype: torch.dtype, last: bool, recipe: str) -> None:
    cupy_module.LAUNCHED.clear()
    got = stepped(dtype, last, "cuda", RECIPES[recipe])
    assert [name for name, _ in cupy_module.LAUNCHED] == ["qs_sgd"] * 3
    expected = stepped(dtype, last, "cpu", RECIPES[recipe])
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert all(x.dtype == dtype for x in got)


def test_memory_formats_stay() -> None:
    (p, *_) = parameters(torch.bfloat16, True, "cuda")
    optimizer = SGD([p], lr=0.1, momentum=0.9, recipe=RECIPES["swalp"], seed=1)
    p.grad = torch.ones_like(p.detach())
    optimizer.step()
    (velocity,) = optimizer.state[p].values()
    assert p.stride() == velocity.stride() == (45, 1, 15, 5)


def test_gradients_that_lie_otherwise_are_stepped_to_the_same_bits() -> None:
    found = []
    for device in ("cuda", "cpu"):
        (p, *_) = parameters(torch.float32, True, device)
        p.grad = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape).to(device)
        SGD([p], lr=0.1, recipe=RECIPES["swalp"], seed=1).step()
        found.append(p.detach().cpu())
    assert torch.equal(*found)
