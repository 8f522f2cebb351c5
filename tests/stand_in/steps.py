"""Which steps of SGD are one launch, and that they have the bits of steps on the host.
`tests/kernels/test_stand_in.py` runs it with the plugin.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from qemu_swalp_torch import SGD

from qemu_swalp.training import Recipe, swalp
from tests.stand_in import cupy_module

RECIPES = {
    "swalp": swalp(8).resolve(out=0),
    "nearest": Recipe(weight="e4m3fn/nearest_even", momentum="e5m2/nearest_even"),
    "blocks of 32": Recipe(
        weight="mxfp8_e4m3/nearest_even", gradient="mxfp4/stochastic", momentum="e5m2/stochastic"
    ),
    "accumulator": Recipe(
        weight="bfp<8,axis=0>/stochastic", accumulator="bfp<8,axis=0>/nearest_even"
    ),
}
SHAPES = [(8, 5, 3, 3), (6, 3, 7, 7), (33, 16, 1, 1), (40,), (6, 130), (3, 4, 2, 5, 3), ()]


def parameters(dtype: torch.dtype, last: bool, device: str) -> list[torch.nn.Parameter]:
    made = []
    for i, shape in enumerate(SHAPES):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype)
        if last and x.ndim in (4, 5):
            layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
            x = x.contiguous(memory_format=layout)
        made.append(torch.nn.Parameter(x.to(device)))
    return made


def stepped(dtype: torch.dtype, last: bool, device: str, recipe: Recipe) -> list[torch.Tensor]:
    params = parameters(dtype, last, device)
    optimizer = SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3, recipe=recipe, seed=3)
    for step in range(3):
        for i, p in enumerate(params):
            generator = torch.Generator().manual_seed(100 * step + i)
            gradient = torch.randn(p.shape, generator=generator).to(dtype)
            p.grad = torch.empty_like(p.detach()).copy_(gradient.to(device))
        optimizer.step()
    state: list[Any] = [v for p in params for v in optimizer.state[p].values()]
    return [x.detach().cpu() for x in (*params, *state)]


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
