"""Steps of SGD that a GPU makes in one launch: of tensors in several orders and dtypes."""

from __future__ import annotations

from typing import Any

import torch
from qemu_swalp_torch import SGD

from qemu_swalp.training import Recipe, swalp

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
    """Of many shapes."""
    made = []
    for i, shape in enumerate(SHAPES):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype)
        if last and x.ndim in (4, 5):
            layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
            x = x.contiguous(memory_format=layout)
        made.append(torch.nn.Parameter(x.to(device)))
    return made


def stepped(dtype: torch.dtype, last: bool, device: str, recipe: Recipe) -> list[torch.Tensor]:
    """Parameters and state after three steps. last : whether tensors of four axes and more are in
    channels_last.
    """
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
