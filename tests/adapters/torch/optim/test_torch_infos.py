"""PyTorch's own grid of its optimizers' options, through which its tests run: rounded to a format
that represents every number of the dtype, each gives the bits of the plain optimizer.
"""

import warnings

import pytest
import torch
from qemu_swalp_torch import quantize_optimizer

from qemu_swalp.training import Recipe

from .test_exact_format import COUNTS, OPTIONS

EXACT = "float<8,23>"


def choices(name):
    """All options, each in every way that PyTorch lists."""
    pytest.importorskip("expecttest", reason="PyTorch's lists of tests need expecttest")
    from torch.testing._internal.common_optimizers import optim_db

    (info,) = (info for info in optim_db if info.optim_cls.__name__ == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = [given.kwargs for given in info.optim_inputs_func(device=torch.device("cpu"))]
    ways = [{}]
    ways += [{"foreach": True}] if "foreach" in info.supported_impls else []
    ways += [{"fused": True}] if "cpu" in info.supports_fused_on else []
    return [options | way for options in grid for way in ways]


def trained(kind, options, states=None):
    """Weights, gradients and losses of three steps, and what the optimizer keeps; rounded if the
    names of its states are given.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (4, 2)) if kind is torch.optim.Muon else ((3, 4), (4,), ())
    weights = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    optimizer = kind(weights, **options)
    if states is not None:
        recipe = Recipe(weight=EXACT, gradient=EXACT, state=dict.fromkeys(states, EXACT))
        quantize_optimizer(optimizer, recipe, seed=0)

    def closure():
        optimizer.zero_grad()
        loss = sum((p.sin() + 0.3 * p.square()).sum() for p in weights)
        loss.backward()
        return loss

    found = {f"loss {i}": optimizer.step(closure).detach() for i in range(3)}
    for i, p in enumerate(weights):
        found |= {f"weight {i}": p.detach(), f"gradient {i}": p.grad}
    kept = {
        name
        for state in optimizer.state.values()
        for name, value in state.items()
        if name not in COUNTS and isinstance(value, torch.Tensor | list)
    }
    return found, kept


@pytest.mark.parametrize("name", OPTIONS)
def test_an_exact_format_changes_no_bit_of_pytorchs_grid(same, name):
    kind = getattr(torch.optim, name)
    for options in choices(name):
        plain, states = trained(kind, options)
        exact, _ = trained(kind, options, states)
        same(exact, plain)
