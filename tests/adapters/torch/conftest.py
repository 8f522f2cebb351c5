"""A small training problem, quantized optimizers of every kind, and what it means to lie on a
grid.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import qemu_swalp
from qemu_swalp.training import Recipe, swalp

BLOCK = "bfp<8,axis=0>/stochastic"
ADAM = Recipe(
    weight=BLOCK, gradient=BLOCK, momentum=BLOCK, state={"exp_avg_sq": "float<8,7>/nearest_even"}
)

OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], Recipe]] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=False), swalp(8)),
    "SGD-nesterov": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        swalp(8, "big"),
    ),
    "SGD-plain": (
        lambda p: torch.optim.SGD(p, 0.1, maximize=True),
        Recipe(weight="fixed<8,5>/stochastic"),
    ),
    "SGD-foreach": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=True), swalp(8)),
    "SGD-fused": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True), swalp(8)),
    "SGD-accumulator": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        Recipe(weight="e4m3fn/stochastic", momentum=BLOCK, accumulator="bf16/stochastic"),
    ),
    "SGD-native": (None, swalp(8)),
    "Adam": (lambda p: torch.optim.Adam(p, 0.05, foreach=False), ADAM),
    "Adam-foreach": (lambda p: torch.optim.Adam(p, 0.05, foreach=True, amsgrad=True), ADAM),
    "Adam-fused": (lambda p: torch.optim.Adam(p, 0.05, fused=True), ADAM),
    "AdamW": (lambda p: torch.optim.AdamW(p, 0.05), ADAM),
    "AdamW-fused": (lambda p: torch.optim.AdamW(p, 0.05, fused=True), ADAM),
    "RMSprop": (
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
        Recipe(
            weight=BLOCK, gradient=BLOCK, momentum=BLOCK, state={"square_avg": "bf16/stochastic"}
        ),
    ),
    "Adagrad": (
        lambda p: torch.optim.Adagrad(p, 0.1),
        Recipe(weight=BLOCK, gradient="e5m2/stochastic", state={"sum": "bf16/stochastic"}),
    ),
    "Adagrad-fused": (
        lambda p: torch.optim.Adagrad(p, 0.1, fused=True),
        Recipe(weight=BLOCK, state={"sum": "bf16/stochastic"}),
    ),
    "ASGD": (
        lambda p: torch.optim.ASGD(p, 0.05),
        Recipe(weight=BLOCK, gradient=BLOCK, state={"ax": "bf16/stochastic"}),
    ),
    "Adadelta": (
        lambda p: torch.optim.Adadelta(p, 1.0),
        Recipe(
            weight=BLOCK,
            gradient=BLOCK,
            state={"square_avg": "bf16/stochastic", "acc_delta": "bf16/stochastic"},
        ),
    ),
    "Adafactor": (
        lambda p: torch.optim.Adafactor(p, 0.05),
        Recipe(
            weight=BLOCK,
            gradient=BLOCK,
            state={"row_var": "bf16/stochastic", "col_var": "bf16/stochastic"},
        ),
    ),
    "Adamax": (
        lambda p: torch.optim.Adamax(p, 0.05),
        Recipe(weight=BLOCK, gradient=BLOCK, momentum=BLOCK, state={"exp_inf": "bf16/stochastic"}),
    ),
    "NAdam": (lambda p: torch.optim.NAdam(p, 0.05), ADAM),
    "RAdam": (lambda p: torch.optim.RAdam(p, 0.05), ADAM),
    "Rprop": (
        lambda p: torch.optim.Rprop(p, 0.05),
        Recipe(
            weight=BLOCK,
            gradient=BLOCK,
            state={"prev": "bf16/stochastic", "step_size": "bf16/stochastic"},
        ),
    ),
    "Muon": (
        lambda p: torch.optim.Muon(p, 0.05),
        Recipe(weight="fixed<8,5>/stochastic", gradient=BLOCK, momentum=BLOCK),
    ),
    "LBFGS": (
        lambda p: torch.optim.LBFGS(p, 0.5, max_iter=3, history_size=3),
        Recipe(
            weight="bfp8/stochastic",
            gradient="bf16/stochastic",
            state={"old_dirs": "bf16/stochastic"},
        ),
    ),
    "LBFGS-wolfe": (
        lambda p: torch.optim.LBFGS(p, 1, max_iter=3, line_search_fn="strong_wolfe"),
        Recipe(weight="fixed<8,6>/stochastic", accumulator="bf16/stochastic"),
    ),
}


class Training:
    """A model, its optimizer and its data; `step()` makes one step, in one of several ways."""

    def __init__(self, kind: str, way: str = "plain", seed: int = 0) -> None:
        import qemu_swalp_torch as adapter

        make, self.recipe = OPTIMIZERS[kind]
        generator = torch.Generator().manual_seed(seed)
        bias = kind != "Muon"
        self.model = nn.Sequential(nn.Linear(6, 5, bias), nn.Tanh(), nn.Linear(5, 3, bias))
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 2)
        self.x, self.y = (
            torch.randn(16, 6, generator=generator),
            torch.randn(16, 3, generator=generator),
        )
        if make is None:
            self.optimizer = adapter.SGD(
                self.model.parameters(), 0.1, 0.9, recipe=self.recipe, seed=5
            )
        else:
            self.optimizer = adapter.quantize_optimizer(
                make(self.model.parameters()), self.recipe, seed=5
            )
        self.way = way
        self.compiled = (
            torch.compile(self.optimizer.step, backend="eager") if way == "compiled" else None
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=way == "scaler")

    def loss(self) -> Any:
        self.optimizer.zero_grad()
        return (self.model(self.x) - self.y).square().mean()

    def closure(self) -> Any:
        loss = self.loss()
        loss.backward()
        return loss

    def step(self) -> None:
        if self.way == "compiled":
            self.closure()
            self.compiled()
        elif self.way == "closure":
            self.optimizer.step(self.closure)
        elif self.way == "keyword":
            self.optimizer.step(closure=self.closure)
        else:
            self.scaler.scale(self.loss()).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def tensors(self) -> dict[str, Any]:
        """All that must be equal in equal trainings."""
        found = {f"weight {i}": p.detach() for i, p in enumerate(self.model.parameters())}
        for i, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                parts = value if isinstance(value, list) else [value]
                found |= {
                    f"{key} {i} {j}": part
                    for j, part in enumerate(parts)
                    if isinstance(part, torch.Tensor)
                }
        return found


@pytest.fixture
def training() -> type[Training]:
    return Training


@pytest.fixture
def same() -> Callable[..., None]:
    """Assert that two tensors or arrays, or dicts of them, have the same bits."""

    def check(a: Any, b: Any) -> None:
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                check(a[key], b[key])
            return
        if isinstance(a, torch.Tensor) and a.dtype == b.dtype == torch.bfloat16:
            a, b = (t.detach().view(torch.int16) for t in (a, b))  # NumPy has no bfloat16
        a, b = (np.asarray(t.detach() if isinstance(t, torch.Tensor) else t) for t in (a, b))
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes(), f"{a} != {b}"

    return check


@pytest.fixture
def same_every_way(same: Callable[..., None]) -> Callable[..., None]:
    """Assert that a model, once quantized, has the same outputs and gradients eager, compiled and
    recomputed.
    """

    def check(eager: nn.Module, quantized: Callable[[nn.Module], None], x: torch.Tensor) -> None:
        compiled, recomputed = copy.deepcopy(eager), copy.deepcopy(eager)
        for model in (eager, compiled, recomputed):
            quantized(model)
        ways: list[tuple[nn.Module, Callable[..., Any]]] = [
            (eager, eager),
            (compiled, torch.compile(compiled, fullgraph=True, backend="aot_eager")),
            (recomputed, lambda x: checkpoint(recomputed, x, use_reentrant=False)),
        ]
        for _ in range(2):
            found = []
            for model, run in ways:
                model.zero_grad()
                y = run(x)
                y.square().sum().backward()
                found.append({"output": y} | {name: p.grad for name, p in model.named_parameters()})
            same(found[1], found[0])
            same(found[2], found[0])

    return check


@pytest.fixture
def on_grid() -> Callable[..., bool]:
    """Whether a tensor holds values of a format, or of a quantizer's format, alone; output channels
    are axis 0.
    """

    def check(x: Any, format: Any) -> bool:
        x = x.detach()
        format = qemu_swalp.parse(format if isinstance(format, str) else format.format)
        return torch.equal(qemu_swalp.quantize(x, format.resolve(out=0)), x)

    return check


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _compiled_anew() -> Iterator[None]:
    """Dynamo counts recompilations of a function, `torch.nn.Module`'s own too, over all tests."""
    yield
    torch._dynamo.reset()
