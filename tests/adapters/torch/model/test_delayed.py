"""Delayed scaling: scales follow the steps before, and are state that is saved."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from qemu_swalp_torch import Monitor, emulate, quantize_gemms
from torch import Tensor, nn

import qemu_swalp as q
from qemu_swalp.training import Recipe, recipe
from qemu_swalp.training.delayed import Delayed

E4M3 = "block<e4m3fn,scale=float<8,23>>"


def trained(
    model: nn.Module, xs: list[Tensor], call: Callable[..., Any] | None = None
) -> list[Any]:
    """Losses and gradients of some steps."""
    found = []
    for x in xs:
        model.zero_grad()
        y = (call or model)(x).square().sum()
        y.backward()
        found += [y.item(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return found


def inputs(count: int = 5) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(6, 8) * 3.0**i for i in range(count)]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("amax", ["max", "most_recent"])
@pytest.mark.parametrize("history", [1, 3])
def test_scales_by_hand(history: int, amax: str, lag: int) -> None:
    model = nn.Linear(8, 8, bias=False)
    nn.init.eye_(model.weight)
    delayed = Delayed(history, 1, amax, lag)
    quantize_gemms(model, Recipe(operands={"forward.input": E4M3}, scaling={"input": delayed}))
    seen: list[float] = []
    xs = inputs()
    xs[3] = xs[3] / 1000
    scale = np.float32(1)
    for x in xs:
        expected = q.quantize(x, E4M3, scales=float(scale))
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
        before = list(seen)
        seen.insert(0, x.abs().max().item())
        known = (before if lag else seen)[:history]
        if known:
            greatest = np.float32(known[0] if amax == "most_recent" else max(known))
            scale = np.float32(1) / (np.float32(448) / greatest / np.float32(2))


@pytest.mark.parametrize("amax", ["max", "most_recent"])
@pytest.mark.parametrize("margin", [-1, 0, 3])
def test_scales_of_tiny_and_of_no_numbers(margin: int, amax: str) -> None:
    """As TransformerEngine: no amax, or an infinite one, leaves the scale; what overflows is the
    greatest number.
    """
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    delayed = Delayed(2, margin, amax)
    quantize_gemms(model, Recipe(operands={"forward.input": E4M3}, scaling={"input": delayed}))
    factor, before = np.float32(1), np.float32(0)
    for x in np.float32([0, 1e-37, 1e-37, 3, 0, 2e-45, 0, 0, np.inf, 1, 0.01, 5]):
        expected = q.quantize(x, E4M3, scales=float(np.float32(1) / factor))
        assert model(torch.tensor([[x]])).item() == expected
        known = max(x, before) if amax == "max" else x
        with np.errstate(over="ignore", divide="ignore"):
            computed = np.float32(448) / known / np.float32(2.0**margin)
        if 0 < known < np.inf:
            factor = min(computed, np.finfo(np.float32).max)
        before = x


def test_evaluation_leaves_the_scales_alone() -> None:
    model, xs = nn.Linear(8, 4), inputs()
    handle = quantize_gemms(model, "fp8_delayed")
    trained(model, xs[:2])
    before = handle.state_dict()
    model.eval()
    with torch.no_grad():
        model(xs[4])
    model.train()
    scales = [state[""]["scales"] for state in (before, handle.state_dict())]
    assert scales[0] == scales[1]


def test_both_products_have_the_scale_of_the_forward() -> None:
    """The input of wgrad is the forward's, though the next scale is known by then."""
    model = nn.Linear(8, 4, bias=False)
    quantize_gemms(model, Recipe(operands={"input": E4M3}, scaling="delayed<1>"))
    x = inputs()[1]
    (gradient,) = trained(model, [x])[1:]
    error = 2 * q.quantize(x, E4M3, scales=1.0) @ model.weight.t().detach()
    torch.testing.assert_close(gradient, error.t() @ q.quantize(x, E4M3, scales=1.0))


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one() -> None:
    torch.manual_seed(1)
    model, xs = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), inputs(6)
    fresh = copy.deepcopy(model)
    handle = quantize_gemms(model, "fp8_delayed", seed=0)
    whole = trained(model, xs)
    first = quantize_gemms(fresh, "fp8_delayed", seed=0)
    begun = trained(fresh, xs[:3])
    saved = json.loads(json.dumps(first.state_dict()))
    first.remove()
    quantize_gemms(fresh, "fp8_delayed", seed=0).load_state_dict(saved)
    assert same(whole, begun + trained(fresh, xs[3:]))
    assert handle.state_dict()["0"]["scales"]["input"]["history"][0] == xs[5].abs().max().item()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_by_themselves(copied: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(1)
    model, xs = nn.Linear(8, 4), inputs()
    quantize_gemms(model, "fp8_delayed")
    trained(model, xs[:2])
    other = copied(model)
    trained(other, [xs[4]])
    again = copied(model)  # as it was: what its copy saw changed nothing
    assert same(trained(again, xs[2:4]), trained(model, xs[2:4]))


def test_compiled_and_recomputed_have_the_same_scales() -> None:
    """And the same numbers, but for the order of sums under scales that are no powers of two."""
    torch.manual_seed(1)
    plain, xs = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), inputs()

    def run(wrap: Callable[[nn.Module], Any]) -> tuple[list[Any], dict[str, Any]]:
        model = copy.deepcopy(plain)
        handle = quantize_gemms(model, "fp8_delayed", seed=0)
        return trained(model, xs, wrap(model)), handle.state_dict()

    eager, state = run(lambda model: model)
    for wrap in (
        lambda m: torch.compile(m, fullgraph=True, backend="aot_eager"),
        lambda m: lambda x: torch.utils.checkpoint.checkpoint(m, x, use_reentrant=False),
    ):
        found, scales = run(wrap)
        torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-5)
        for name in state:
            for kind in ("input", "weight"):
                assert scales[name]["scales"][kind] == state[name]["scales"][kind]
            errors = [s[name]["scales"]["error"]["history"] for s in (scales, state)]
            np.testing.assert_allclose(*errors, rtol=1e-5)


def test_the_table_names_the_scales() -> None:
    model = nn.Linear(8, 4)
    handle = emulate(model, None, recipe("fp8_delayed", history=16))
    trained(model, inputs(1))
    assert "scale of error" in str(handle)
    assert "delayed<16>" in str(handle)


def test_a_monitor_sees_what_the_scale_does() -> None:
    """Under a scale of the step before, most of numbers that grew 1,000 times saturates."""
    model, xs = nn.Linear(8, 4), inputs(1)
    quantize_gemms(model, "fp8_delayed")
    trained(model, xs)
    with Monitor() as monitor:
        trained(model, [xs[0] * 1000])
    saturated = {row["role"]: row["saturated"] for row in monitor.rows()}
    assert saturated["forward.input"] == saturated["wgrad.input"] > 0.9
    assert saturated["forward.weight"] == 0


def test_what_cannot_be_is_refused_in_words() -> None:
    model, xs = nn.Linear(8, 4), inputs(1)
    handle = quantize_gemms(model, "fp8_delayed")
    with pytest.raises(RuntimeError, match="one scale for all samples"):
        torch.func.vmap(model)(xs[0])
    handle.count_on("cpu")
    with pytest.raises(RuntimeError, match="count_on"):
        model(xs[0])
