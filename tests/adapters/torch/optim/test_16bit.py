"""16-bit parameters and state: updates are computed in float32 and rounded once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from qemu_swalp_torch import SGD, Averager, quantize_optimizer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from qemu_swalp.training import Recipe

NEAR, RANDOM = "bf16/nearest_even", "bf16/stochastic"
STATE = {"exp_avg_sq": NEAR, "square_avg": NEAR, "max_exp_avg_sq": NEAR}
RECIPE = Recipe(weight=RANDOM, momentum=NEAR, state=STATE)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, foreach=False),
    "SGD-foreach": lambda p: torch.optim.SGD(p, 1e-2, 0.9, weight_decay=0.1, foreach=True),
    "SGD-fused": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 1e-3, foreach=False, amsgrad=True),
    "AdamW-foreach": lambda p: torch.optim.AdamW(p, 1e-3, foreach=True),
    "AdamW-fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-3),
    "ours": lambda p: SGD(p, 1e-2, 0.9, weight_decay=0.1, recipe=RECIPE, seed=3),
}


def quantized(kind: str, params: Any, recipe: Recipe = RECIPE) -> torch.optim.Optimizer:
    opt = OPTIMIZERS[kind](params)
    return opt if kind == "ours" else quantize_optimizer(opt, recipe, seed=3)


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((64, 3), (5,), ())
    values = (torch.randn(s, generator=generator).bfloat16() for s in shapes)
    return [nn.Parameter(value.to(dtype)) for value in values]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(s, generator=generator).bfloat16() for s in ((64, 3), (5,), ())]


def tensors_of(opt: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State by parameter and key, without the step counters."""
    return {
        f"{i} {key}": value
        for i, state in opt.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key not in ("step", "mu_product")
    }


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("way", ["plain", "closure", "compiled"])
def test_equals_a_float32_run_that_is_rounded_to_bfloat16(kind, way):
    narrow, wide = parameters(torch.bfloat16), parameters(torch.float32)
    for params in (narrow, wide):
        opt = quantized(kind, params)
        step = torch.compile(opt.step, backend="eager") if way == "compiled" else opt.step
        for n in range(4):

            def closure(params: Any = params, n: int = n) -> float:
                for p, g in zip(params, gradients(n), strict=True):
                    p.grad = g.to(p.dtype)
                return 0.5

            if way == "closure":
                assert step(closure) == 0.5
            else:
                closure()
                step()
        if params is narrow:
            state = tensors_of(opt)
    for p, q in zip(narrow, wide, strict=True):
        assert p.dtype == torch.bfloat16
        assert torch.equal(p.float(), q)
    assert state.keys() == tensors_of(opt).keys()
    for key, value in tensors_of(opt).items():
        assert state[key].dtype == torch.bfloat16
        assert torch.equal(state[key].float(), value), key


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_count(ours, dtype):
    w = nn.Parameter(torch.ones(4096, dtype=dtype))
    recipe: Any = "bf16_sr" if dtype == torch.bfloat16 else Recipe(weight="fp16/stochastic")
    rate = 1e-4 if dtype == torch.bfloat16 else 1e-5
    plain = torch.optim.SGD([w], rate)
    opt = SGD([w], rate, recipe=recipe) if ours else quantize_optimizer(plain, recipe)
    for _ in range(200):
        w.grad = torch.ones_like(w)
        opt.step()
    assert w.float().mean().item() == pytest.approx(1 - 200 * rate, abs=20 * rate)


@pytest.mark.parametrize("recipe", [Recipe(gradient="e5m2/stochastic"), Recipe()])
def test_weights_without_a_quantizer_keep_the_behaviour_of_pytorch(recipe):
    w, v = (nn.Parameter(torch.ones(8, dtype=torch.bfloat16)) for _ in range(2))
    opt, plain = torch.optim.Adam([w], 1e-4), torch.optim.Adam([v], 1e-4)
    if recipe != Recipe():
        quantize_optimizer(opt, recipe)
    for _ in range(3):
        for p, o in ((w, opt), (v, plain)):
            p.grad = torch.ones_like(p)
            o.step()
    assert torch.equal(w, v)


def test_mixed_parameters_share_an_optimizer():
    narrow, wide = nn.Parameter(torch.ones(8).bfloat16()), nn.Parameter(torch.ones(8))
    opt = quantize_optimizer(torch.optim.Adam([narrow, wide], 1e-3), RECIPE)
    state = None
    for _ in range(3):
        for p in (narrow, wide):
            p.grad = torch.full_like(p, 0.5)
        opt.step()
        assert state is None or opt.state[narrow] is state
        state = opt.state[narrow]
    assert list(opt.state) in ([narrow, wide], [wide, narrow])
    assert opt.param_groups[0]["params"][0] is narrow
    assert (opt.state[narrow]["step"], opt.state[wide]["step"]) == (3, 3)
    assert opt.state[narrow]["exp_avg"].dtype == torch.bfloat16
    assert opt.state[narrow]["step"].dtype == torch.float32


class Raises(torch.optim.SGD):
    """Fails in the middle of its step."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.detach().add_(1)
        if self.state_dict()["state"] and getattr(self, "fails", False):
            raise RuntimeError("out of luck")


def test_a_step_that_raises_changes_nothing():
    w = nn.Parameter(torch.ones(8).bfloat16())
    opt = quantize_optimizer(Raises([w], 0.1, momentum=0.9), RECIPE)
    w.grad = torch.ones_like(w)
    opt.step()
    before, state = w.detach().clone(), copy.deepcopy(opt.state_dict())
    opt.fails = True
    with pytest.raises(RuntimeError, match="out of luck"):
        opt.step()
    assert torch.equal(w, before)
    assert opt.param_groups[0]["params"] == [w]
    assert torch.equal(
        opt.state_dict()["state"][0]["momentum_buffer"], state["state"][0]["momentum_buffer"]
    )
    opt.fails = False
    opt.step()
    assert w.dtype == torch.bfloat16
    assert not torch.equal(w, before)


def test_a_closure_that_raises_changes_nothing():
    w = nn.Parameter(torch.ones(8).bfloat16())
    opt = quantize_optimizer(torch.optim.SGD([w], 0.1), RECIPE)

    def closure() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert w.tolist() == [1.0] * 8
    assert opt.param_groups[0]["params"] == [w]


class WritesItself(torch.optim.SGD):
    """Holds its parameters elsewhere too, and writes into them there."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, lr)
        self.weights = tuple(params)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.weights:
            p.sub_(p.grad, alpha=0.1)


def test_an_optimizer_that_writes_past_param_groups_is_refused():
    opt = quantize_optimizer(
        WritesItself([w := nn.Parameter(torch.ones(2).bfloat16())], 0.1), RECIPE
    )
    w.grad = torch.ones_like(w)
    with pytest.raises(RuntimeError, match=r"wrote into param_groups\[0\].*float32 parameters"):
        opt.step()


def test_a_differentiable_step_is_refused_at_set_up():
    w = nn.Parameter(torch.ones(2).bfloat16())
    opt = torch.optim.SGD([w], 0.1, differentiable=True)
    with pytest.raises(ValueError, match=r"differentiable=True .* convert the model to float32"):
        quantize_optimizer(opt, RECIPE)
    assert "qemu_recipe" not in opt.param_groups[0]


def test_differentiable_steps_of_our_sgd():
    w = nn.Parameter(torch.ones(4).bfloat16())
    lr = torch.tensor(0.1, requires_grad=True)
    p = w.clone()
    opt = SGD([p], lr, 0.9, differentiable=True, recipe=RECIPE)
    p.grad = torch.ones_like(p)
    opt.step()
    p.float().sum().backward()
    assert lr.grad.item() == -4
    assert p.dtype == opt.state[p]["momentum_buffer"].dtype == torch.bfloat16


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_sees_rounded_weights_in_its_closure(search):
    w = nn.Parameter(torch.full((4,), 3.0).bfloat16())
    opt = torch.optim.LBFGS([w], 0.3, max_iter=4, line_search_fn=search)
    quantize_optimizer(opt, Recipe(weight=RANDOM))
    seen = []

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = w.float().square().sum()
        loss.backward()
        seen.append(loss.item())
        return loss

    opt.step(closure)
    assert len(set(seen)) > 1
    assert w.float().square().sum() < seen[0]
    assert opt.state[w]["d"].dtype == torch.bfloat16
    opt.step(closure)
    assert opt._params is opt.param_groups[0]["params"]
    assert w.float().abs().max() < 1


@pytest.mark.parametrize("kind", ["SGD-fused", "AdamW-fused"])
def test_fused_steps_under_a_grad_scaler(kind):
    results = []
    recipe = Recipe(
        weight="fp16/stochastic", gradient="e5m2/stochastic", momentum="fp16/nearest_even"
    )
    for dtype in (torch.float16, torch.float32):
        w = nn.Parameter(torch.linspace(-1, 1, 64).half().to(dtype))
        opt = quantized(kind, [w], recipe)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for scale in (1.0, torch.inf, 1.0):
            opt.zero_grad()
            scaler.scale((w * torch.arange(64, dtype=dtype) * scale / 64).sum()).backward()
            scaler.step(opt)
            scaler.update()
        results.append((w.detach().float(), w.grad.float()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_accumulators_are_rounded_once():
    recipe = Recipe(weight="e4m3fn/stochastic", accumulator=RANDOM)
    runs = []
    for dtype in (torch.bfloat16, torch.float32):
        w = nn.Parameter(torch.ones(256, dtype=dtype))
        opt = quantize_optimizer(torch.optim.SGD([w], 1e-4), recipe, seed=0)
        for _ in range(5):
            w.grad = torch.ones_like(w)
            opt.step()
        assert opt.state[w]["qemu_accumulator"].dtype == dtype
        runs.append((w.detach().float(), opt.state[w]["qemu_accumulator"].float()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert len(runs[0][1].unique()) > 1


def test_attributes_and_hooks_of_others_see_the_optimizer_and_the_stored_weights():
    w = nn.Parameter(torch.ones(8).bfloat16())
    w.label = "matrix"

    class Counts(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.count = getattr(self, "count", 0) + 1
            self.param_groups[0]["k"] = self.count
            assert self.param_groups[0]["params"][0].label == "matrix"
            return super().step(closure)

    opt = quantize_optimizer(Counts([w], 0.1), RECIPE)
    seen = []
    opt.register_step_post_hook(lambda o, *_: seen.append((o, w.detach().clone())))
    averager = Averager([("w", w)])
    averager.attach(opt)
    torch.optim.lr_scheduler.StepLR(opt, 1)
    for _ in range(2):
        w.grad = torch.ones_like(w)
        opt.step()
    assert (opt.count, opt.param_groups[0]["k"]) == (2, 2)
    assert [o for o, _ in seen] == [opt, opt]
    assert torch.equal(seen[-1][1], w)
    assert averager.n_averaged == 2


def test_float32_state_of_a_checkpoint_stays_float32():
    w = nn.Parameter(torch.ones(8).bfloat16())
    opt = quantize_optimizer(torch.optim.Adam([w], 1e-3), Recipe(weight=RANDOM))
    w.grad = torch.ones_like(w)
    opt.step()
    opt.state[w]["exp_avg_sq"] = opt.state[w]["exp_avg_sq"].float()
    opt.step()
    assert opt.state[w]["exp_avg_sq"].dtype == torch.float32
    assert opt.state[w]["exp_avg"].dtype == torch.bfloat16


def test_resume_is_exact(tmp_path):
    def train(params: list[nn.Parameter], opt: torch.optim.Optimizer, steps: range) -> None:
        for n in steps:
            for p, g in zip(params, gradients(n), strict=True):
                p.grad = g.clone()
            opt.step()

    whole = parameters(torch.bfloat16)
    train(whole, quantized("AdamW-fused", whole), range(4))
    first = parameters(torch.bfloat16)
    opt = quantized("AdamW-fused", first)
    train(first, opt, range(2))
    torch.save((opt.state_dict(), [p.data for p in first]), tmp_path / "c.pt")
    state, weights = torch.load(tmp_path / "c.pt", weights_only=True)
    second = [nn.Parameter(w) for w in weights]
    opt = quantized("AdamW-fused", second)
    opt.load_state_dict(state)
    train(second, opt, range(2, 4))
    for p, q in zip(whole, second, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", ["SGD", "AdamW-foreach"])
def test_a_compiled_step_compiles_no_more_often_than_in_float32(kind):
    counts = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.compiler.reset()
        graphs = []

        def backend(graph: Any, inputs: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph.forward

        params = parameters(dtype)
        step = torch.compile(quantized(kind, params).step, backend=backend)
        for n in range(6):
            for p, g in zip(params, gradients(n), strict=True):
                p.grad = g.to(dtype)
            step()
        counts.append(len(graphs))
    assert counts[0] == counts[1]


def float32_elements() -> int:
    """Of all live tensors of 1,000 elements."""
    gc.collect()
    kinds = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor))
    return sum(x.numel() for x in kinds if x.dtype == torch.float32 and x.numel() == 1000)


def test_no_float32_memory_stays_between_steps():
    before = float32_elements()
    w = nn.Parameter(torch.ones(1000).bfloat16())
    opt = quantize_optimizer(torch.optim.AdamW([w], 1e-3), RECIPE)
    for _ in range(2):
        w.grad = torch.ones_like(w)
        opt.step()
    assert float32_elements() == before


@pytest.mark.parametrize("ours", [False, True])
def test_shards_are_rounded_once(ours):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh, runs = init_device_mesh("cpu", (1,)), []
        for shard in (False, True):
            w, before = torch.ones(250, 4).bfloat16(), float32_elements()
            p = nn.Parameter(distribute_tensor(w, mesh, [Shard(0)]) if shard else w)
            opt: Any = (
                SGD([p], 1e-4, 0.9, recipe=RECIPE, seed=0) if ours else torch.optim.AdamW([p], 1e-4)
            )
            opt = opt if ours else quantize_optimizer(opt, RECIPE, seed=0)
            for _ in range(5):
                p.grad = torch.ones_like(p)
                opt.step()
            assert float32_elements() == before
            key = "momentum_buffer" if ours else "exp_avg"
            assert opt.state[p][key].dtype == torch.bfloat16
            runs.append(p.full_tensor() if shard else p)
        assert torch.equal(*runs)
        assert len(runs[0].unique()) > 1
    finally:
        distributed.destroy_process_group()
