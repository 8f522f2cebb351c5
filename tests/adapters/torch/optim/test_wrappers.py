"""Optimizers that stand around another one, and optimizers with ways of their own."""

import importlib.util
import io
from collections import OrderedDict
from contextlib import nullcontext

import pytest
import torch
from qemu_swalp_torch import (
    SGD,
    SWALPLR,
    Averager,
    CyclicSWALR,
    disabled,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
    unquantize_optimizer,
)
from torch import nn

from qemu_swalp.training import Recipe, SWASchedule, swalp

RECIPE = Recipe("bfp<8,axis=0>/stochastic", momentum="bfp<8,axis=0>/stochastic")


class BareLookahead(torch.optim.Optimizer):
    """Lookahead (Zhang et al. 2019) as it is often written: without `Optimizer.__init__`."""

    def __init__(self, optimizer, k=2, alpha=0.5):
        self.optimizer, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups, self.state = optimizer.param_groups, {}
        self.defaults = optimizer.defaults
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            fast = [p for group in self.param_groups for p in group["params"]]
            for slow, p in zip(self.slow, fast, strict=True):
                p.copy_(slow.lerp_(p, self.alpha))


class Lookahead(BareLookahead):
    """The same with `Optimizer.__init__`, so that hooks run."""

    def __init__(self, optimizer, **options):
        groups = optimizer.param_groups
        torch.optim.Optimizer.__init__(self, groups, optimizer.defaults)
        super().__init__(optimizer, **options)


def trained(wrap, steps=4, recipe=RECIPE):
    """A model, what was quantized, and an averager on it."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    inner = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    wrapper = wrap(inner)
    assert quantize_optimizer(wrapper, recipe, seed=0) is wrapper
    averager = Averager(model, seed=0)
    averager.attach(wrapper)
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        wrapper.zero_grad()
        model(x).square().mean().backward()
        wrapper.step()
    return model, inner, averager, wrapper


def by_accelerate(optimizer):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    return accelerate.Accelerator(cpu=True).prepare(optimizer)


def by_lightning(optimizer):
    core = pytest.importorskip("lightning.pytorch.core.optimizer", reason="no lightning")
    from lightning.pytorch.strategies import SingleDeviceStrategy

    wrapper = core.LightningOptimizer(optimizer)

    class Plain(SingleDeviceStrategy):
        def optimizer_step(self, optimizer, closure, **_):
            optimizer.step()

    wrapper._strategy = Plain()
    return wrapper


def by_fabric(optimizer):
    fabric = pytest.importorskip("lightning.fabric", reason="lightning is not installed")
    return fabric.Fabric(accelerator="cpu").setup_optimizers(optimizer)


@pytest.mark.parametrize("wrap", [by_accelerate, by_lightning, by_fabric])
def test_wrappers_that_pass_on_give_the_bits_of_the_optimizer_within(same, on_grid, wrap):
    expected, _, average, _ = trained(lambda optimizer: optimizer)
    model, inner, averager, wrapper = trained(wrap)
    same(dict(model.named_parameters()), dict(expected.named_parameters()))
    same(averager.average(), average.average())
    assert averager.n_averaged == inner.param_groups[0]["qemu_step"] == 4
    assert all(on_grid(p, RECIPE.weight) for p in model.parameters())
    with pytest.raises(ValueError, match="this SGD is already quantized"):
        quantize_optimizer(wrapper, RECIPE)
    assert unquantize_optimizer(wrapper) is wrapper
    assert "qemu_recipe" not in inner.param_groups[0]


@pytest.mark.parametrize("how", ["given", "of the optimizer"])
def test_names_that_a_wrapped_model_gives(on_grid, how):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    recipe = Recipe("fixed<8,4>", overrides={"1.*": None})
    of = wrapped.named_parameters() if how == "of the optimizer" else wrapped.parameters()
    optimizer = torch.optim.SGD(of, 0.1)
    named = wrapped.named_parameters() if how == "given" else None
    quantize_optimizer(optimizer, recipe, named_parameters=named)
    assert on_grid(model[0].weight, recipe.weight)
    assert not on_grid(model[1].weight, recipe.weight)
    with pytest.raises(ValueError, match=r"'2.\*' of overrides .* nearest are 0.weight"):
        quantize_optimizer(
            torch.optim.SGD(wrapped.named_parameters()), Recipe("bf16", overrides={"2.*": None})
        )


def test_a_part_that_a_model_calls_module_keeps_its_name(on_grid):
    """Where the model is known; of pairs alone nobody can tell it from DDP's."""
    model = nn.Sequential(OrderedDict(module=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    recipe = Recipe("fixed<8,4>", overrides={"module.0.*": None})
    quantize_optimizer(torch.optim.SGD(model.parameters(), 0.1), recipe, model=model)
    assert not on_grid(model.module[0].weight, recipe.weight)
    assert on_grid(model.module[1].weight, recipe.weight)


def test_fabrics_modules_have_the_names_of_those_within():
    fabric = pytest.importorskip("lightning.fabric", reason="lightning is not installed")
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    wrapped = fabric.Fabric(accelerator="cpu").setup(model)
    assert list(Averager(wrapped).parameters) == [name for name, _ in model.named_parameters()]
    recipe = Recipe(operands={"input": "bfp8"})
    assert quantize_gemms(wrapped, recipe, exclude="0").names == ["1"]


def test_a_wrapper_with_hooks_rounds_its_own_weights_and_the_state_within(on_grid):
    model, inner, averager, _ = trained(Lookahead)
    assert averager.n_averaged == 4
    for p in model.parameters():
        assert on_grid(p, RECIPE.weight)
        assert on_grid(inner.state[p]["momentum_buffer"], RECIPE.momentum)


def test_a_wrapper_without_hooks_is_refused_and_the_inner_optimizer_named():
    p = nn.Parameter(torch.ones(2))
    bare = BareLookahead(torch.optim.SGD([p], 0.1))
    words = (
        r"BareLookahead, which runs no step hooks and wraps a SGD: pass .* attribute 'optimizer'"
    )
    with pytest.raises(TypeError, match="opt must be a .*" + words):
        quantize_optimizer(bare, RECIPE)
    with pytest.raises(TypeError, match="optimizer must be a .*" + words):
        Averager({"p": p}).attach(bare)
    quantize_optimizer(bare.optimizer, RECIPE)

    class Empty(torch.optim.Optimizer):
        def __init__(self):
            self.param_groups = []

    with pytest.raises(TypeError, match=r"no step hooks; have its class call Optimizer.__init__"):
        quantize_optimizer(Empty(), RECIPE)

    class Holder:
        def __init__(self):
            self.inner = torch.optim.SGD([p], 0.1)

    with pytest.raises(TypeError, match=r"Holder, which runs no step hooks .* attribute 'inner'"):
        Averager({"p": p}).attach(Holder())


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024, algorithm 1), with the modes of its authors' code."""

    def __init__(self, params, lr, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum, "train_mode": False, "k": 0})

    @torch.no_grad()
    def _go(self, train, weight):
        for group in self.param_groups:
            if group["train_mode"] is not train:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight(group["momentum"]))
                group["train_mode"] = train

    def train(self):
        self._go(True, lambda momentum: 1 - momentum)

    def eval(self):
        self._go(False, lambda momentum: 1 - 1 / momentum)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["momentum"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])


def test_schedule_free_in_evaluation():
    p = nn.Parameter(torch.ones(3))
    optimizer = ScheduleFree([p], 0.1)
    with pytest.warns(
        UserWarning, match=r"ScheduleFree.eval\(\) puts an average .* no recipe roun"
    ):
        quantize_optimizer(optimizer, Recipe("fixed<8,4>"))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"or never into training; call its train\(\) before"):
        optimizer.step()
    optimizer.train()
    optimizer.step()
    optimizer.eval()
    before, steps = p.detach().clone(), optimizer.param_groups[0]["qemu_step"]
    with pytest.raises(RuntimeError, match=r"put into evaluation by eval\(\)"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.param_groups[0]["qemu_step"] == steps == 1
    unquantize_optimizer(optimizer)
    with pytest.raises(ValueError, match=r"holds its average .* call its train\(\) before quantiz"):
        quantize_optimizer(optimizer, Recipe("fixed<8,4>"))
    assert torch.equal(p, before)


def test_state_that_torchao_keeps_in_8_bits():
    optim = pytest.importorskip("torchao.optim", reason="torchao is not installed")
    model = nn.Linear(128, 64)
    recipe = Recipe("bfp8", momentum="bfp8")
    optimizer = quantize_optimizer(optim.AdamW8bit(model.parameters(), lr=0.01), recipe)
    model(torch.randn(4, 128)).sum().backward()
    words = r"state 'exp_avg' of .* as a torchao.*OptimState8bit, .* momentum cannot round them"
    with torch.compiler.set_stance("force_eager"), pytest.raises(TypeError, match=words):
        optimizer.step()
    weights = quantize_optimizer(optim.AdamW8bit(nn.Linear(128, 64).parameters()), Recipe("bfp8"))
    assert "qemu_step" in weights.param_groups[0]


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_surgery_on_parameters_with_an_accumulator(kind):
    recipe = Recipe("fixed<8,4>", accumulator="bf16")
    p = nn.Parameter(torch.ones(1))
    if kind == "native":
        optimizer = SGD([p], 0.125, recipe=recipe)
    else:
        optimizer = quantize_optimizer(torch.optim.SGD([p], 0.125), recipe)
    p.grad = torch.ones(1)
    optimizer.step()
    grown = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer.state[grown] = optimizer.state.pop(p)
    optimizer.param_groups[0]["params"][0] = grown
    grown.grad = torch.ones(3)
    with pytest.raises(
        RuntimeError, match=r"has shape \(3,\), and its accumulator \(1,\); what exc"
    ):
        optimizer.step()
    assert grown.tolist() == [1.0, 2.0, 3.0]
    del optimizer.state[grown]["qemu_accumulator"]
    optimizer.step()
    assert grown.tolist() == [0.875, 1.875, 2.875]


@pytest.mark.parametrize(
    "quantize",
    [
        lambda model: quantize_activations(model, swalp(8), modules=nn.ReLU),
        lambda model: quantize_gemms(model, Recipe(operands={"input": "bfp8"})),
        lambda model: quantize_elementwise(model, Recipe(elementwise="bf16")),
    ],
    ids=["activations", "products", "elementwise"],
)
@pytest.mark.filterwarnings("ignore")
def test_export_to_onnx_says_how(quantize):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Softmax(-1)).eval()
    quantize(model)
    x = torch.ones(1, 3)
    with pytest.raises(RuntimeError, match=r"as in: with disabled\(model\): torch.onnx.export"):
        torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False)
    installed = importlib.util.find_spec("onnx") is not None
    missing = pytest.raises(Exception, match="onnx is not installed")  # which the last step needs
    with disabled(model), nullcontext() if installed else missing:
        torch.onnx.export(model, (x,), io.BytesIO(), dynamo=False)
    model(x)


def test_the_exporter_that_traces_says_how_too(monkeypatch):
    """It tries torch.export in several ways, torch.compile's among them."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    for strict in (True, False):
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
        quantize_activations(model, swalp(8), modules=nn.ReLU)
        with pytest.raises(RuntimeError, match=r"as in: with disabled\(model\): torch.onnx"):
            torch.export.export(model, (torch.ones(1, 3),), strict=strict)


@pytest.mark.parametrize("kind", [SWALPLR, CyclicSWALR])
def test_a_schedule_whose_optimizer_got_another_group(kind):
    options = {"high": 0.1, "low": 0.01, "cycle": 2} if kind is CyclicSWALR else {}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    scheduler = kind(optimizer, swa_start=4, **options)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    optimizer.step()
    words = f"has 2 param_groups now, and had 1 when this {kind.__name__} was made"
    with pytest.raises(ValueError, match=words):
        scheduler.step()


def test_the_cyclic_schedule_by_groups():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    scheduler = CyclicSWALR(optimizer, swa_start=2, cycle=3, high=[0.1, 0.3], low=0.05)
    cores = SWASchedule(0.1, 2, 3, 0.1, 0.05), SWASchedule(0.2, 2, 3, 0.3, 0.05)
    for step in range(10):
        assert scheduler.get_last_lr() == [core(step) for core in cores]
        if step == 5:
            state = scheduler.state_dict()
        optimizer.step()
        scheduler.step()
    again = CyclicSWALR(optimizer, swa_start=2, cycle=3, high=[0.1, 0.3], low=0.05)
    again.load_state_dict(state)
    optimizer.step()
    again.step()
    assert again.get_last_lr() == [core(6) for core in cores]
    with pytest.raises(ValueError, match="low must be one number, or one for each of the 2 param"):
        CyclicSWALR(optimizer, swa_start=2, cycle=3, high=0.1, low=[0.1])
    with pytest.raises(ValueError, match="rates must be positive, and low at most high"):
        CyclicSWALR(optimizer, swa_start=2, cycle=3, high=0.1, low=0.2)
