"""Every optimizer of `torch.optim`, in each of its ways: rounded to a format that represents every
number of the dtype, it gives the bits of the optimizer that is not rounded.
"""

import copy
import io
import pickle

import pytest
import torch
from qemu_swalp_torch import quantize_optimizer
from torch import nn

from qemu_swalp.training import Recipe

EXACT = {torch.float32: "float<8,23>", torch.float64: "float<11,52>"}
COUNTS = ("step", "eta", "mu", "mu_product")
"""State of the optimizers that counts, which no recipe rounds."""

OPTIONS = {
    "Adadelta": [{}, {"rho": 0.95, "weight_decay": 0.1, "maximize": True}],
    "Adafactor": [{}, {"weight_decay": 0.1, "maximize": True, "beta2_decay": -1.0, "d": 2.0}],
    "Adagrad": [{}, {"lr_decay": 0.5, "weight_decay": 0.1, "initial_accumulator_value": 0.1}],
    "Adam": [{}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}],
    "AdamW": [{}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}],
    "Adamax": [{}, {"weight_decay": 0.1, "maximize": True}],
    "ASGD": [{}, {"t0": 2, "lambd": 0.01, "weight_decay": 0.1, "maximize": True}],
    "Muon": [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.2}],
    "NAdam": [{}, {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.006}],
    "RAdam": [{}, {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}],
    "RMSprop": [{}, {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "maximize": True}],
    "Rprop": [{}, {"etas": (0.4, 1.3), "step_sizes": (1e-3, 1.0), "maximize": True}],
    "SGD": [
        {},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "nesterov": True},
    ],
    "LBFGS": [
        {"lr": 0.5, "max_iter": 4, "history_size": 3},
        {"max_iter": 4, "line_search_fn": "strong_wolfe"},
    ],
}
"""The options of an optimizer that change its arithmetic."""
FUSED = ("Adagrad", "Adam", "AdamW", "SGD")
ONE_WAY = ("LBFGS", "Muon")
NOT_DIFFERENTIABLE = ("Adafactor", *ONE_WAY)
CHOICES = [(kind, options) for kind, choices in OPTIONS.items() for options in choices]
LAST = [(kind, choices[-1]) for kind, choices in OPTIONS.items()]
CASES = [
    (kind, options, way)
    for kind, options in CHOICES
    for way in ("", "foreach", "fused", "tensor lr")
    if (way != "fused" or kind in FUSED)
    and (way not in ("foreach", "tensor lr") or kind not in ONE_WAY)
]


class Run:
    """A training with an optimizer, rounded exactly or not at all."""

    def __init__(
        self, kind, options, way="", *, rounded, dtype=torch.float32, change=False, **roles
    ):
        torch.manual_seed(0)
        bias = kind != "Muon"
        self.kind, self.rounded = kind, rounded
        self.model = nn.Sequential(nn.Linear(6, 5, bias), nn.Tanh(), nn.Linear(5, 3, bias))
        self.model.to(dtype)
        self.x, self.y = torch.randn(16, 6, dtype=dtype), torch.randn(16, 3, dtype=dtype)
        first, second = self.model[0].parameters(), self.model[2].parameters()
        groups = [{"params": [*first]}, {"params": [*second], "lr": 0.03}]
        if way == "tensor lr":
            options = {"lr": torch.tensor(0.01), "foreach": False, **options}
            groups[1]["lr"] = torch.tensor(0.03)
        elif way:
            options = {way: True, **options}
        elif kind not in ONE_WAY:
            options = {"foreach": False, **options}
        if kind == "LBFGS":
            groups = self.model.parameters()
        self.optimizer = getattr(torch.optim, kind)(groups, **options)
        if rounded:
            roles = roles or dict.fromkeys(("weight", "gradient"), EXACT[dtype])
            names = state_names(kind, options) if "weight" in roles else ()
            recipe = Recipe(**roles, state=dict.fromkeys(names, EXACT.get(dtype)))
            quantize_optimizer(self.optimizer, recipe, seed=0, allow_recipe_change=change)

    def closure(self):
        self.optimizer.zero_grad()
        loss = (self.model(self.x) - self.y).square().mean()
        loss.backward()
        return loss

    def step(self, steps=1):
        """What the closures of these steps return."""
        losses = []
        for number in range(steps):
            if self.kind == "LBFGS" or number % 2:
                losses.append(self.optimizer.step(self.closure).detach())
            else:
                losses.append(self.closure().detach())
                assert self.optimizer.step() is None
        return losses

    def tensors(self):
        """Weights, gradients and state of the optimizer's own."""
        found = {f"weight {i}": p.detach() for i, p in enumerate(self.model.parameters())}
        found |= {f"gradient {i}": p.grad for i, p in enumerate(self.model.parameters())}
        for i, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                for j, part in enumerate(value if isinstance(value, list) else [value]):
                    if not key.startswith("qemu_") and part is not None:
                        found[f"{key} {i} {j}"] = torch.as_tensor(part).detach()
        return found


def state_names(kind, options):
    """What the optimizer keeps beside counters."""
    p = torch.ones(2, 2, requires_grad=True)
    optimizer = getattr(torch.optim, kind)([p], **options)

    def closure():
        p.grad = p.detach() / 3
        return p.sum()

    closure()
    optimizer.step(closure)
    return [
        name
        for name, value in optimizer.state[p].items()
        if name not in COUNTS and isinstance(value, torch.Tensor | list)
    ]


def identity(case):
    return "-".join(map(str, case.values())) if isinstance(case, dict) else str(case)


def test_every_optimizer_is_tried():
    optimizers = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert optimizers == {"Optimizer", "SparseAdam", *OPTIONS}


@pytest.mark.parametrize(("kind", "options", "way"), CASES, ids=identity)
def test_an_exact_format_changes_no_bit(same, kind, options, way):
    plain, exact = (Run(kind, options, way, rounded=rounded) for rounded in (False, True))
    for a, b in zip(exact.step(3), plain.step(3), strict=True):
        same(a, b)
    same(exact.tensors(), plain.tensors())
    assert exact.optimizer.param_groups[0]["qemu_step"] == 3


@pytest.mark.parametrize("how", ["state_dict", "plain state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize(("kind", "options"), LAST, ids=identity)
def test_a_run_goes_on_as_the_plain_one_does(same, kind, options, how):
    """Saved, copied or pickled after two steps; or begun without rounding."""
    plain, exact = (Run(kind, options, rounded=rounded) for rounded in (False, True))
    plain.step(2)
    exact.step(2)
    source = plain if how == "plain state_dict" else exact
    if "state_dict" in how:
        file = io.BytesIO()
        torch.save((source.model.state_dict(), source.optimizer.state_dict()), file)
        model, optimizer = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        again = Run(kind, options, rounded=True, change=source is plain)
        again.model.load_state_dict(model)
        again.optimizer.load_state_dict(optimizer)
    elif how == "deepcopy":
        again = copy.deepcopy(exact)
    else:
        again = pickle.loads(pickle.dumps(exact))
    plain.step(2)
    again.step(2)
    same(again.tensors(), plain.tensors())


@pytest.mark.parametrize(("kind", "options"), LAST, ids=identity)
def test_an_accumulator_that_is_exact_changes_no_bit(same, kind, options):
    plain = Run(kind, options, rounded=False)
    roles = dict.fromkeys(("weight", "accumulator"), "float<8,23>")
    exact = Run(kind, options, rounded=True, **roles)
    plain.step(3)
    exact.step(3)
    same(exact.tensors(), plain.tensors())


@pytest.mark.parametrize(("kind", "options"), LAST, ids=identity)
def test_float64(same, kind, options):
    runs = [Run(kind, options, rounded=rounded, dtype=torch.float64) for rounded in (False, True)]
    for run in runs:
        run.step(3)
    same(runs[1].tensors(), runs[0].tensors())


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [case for case in CASES if case[:2] in LAST and case[2] != "tensor lr"],
    ids=identity,
)
def test_gradients_alone_leave_the_16_bit_step_to_the_optimizer(same, kind, options, way):
    """Where weights or state are rounded the step is made in float32: `test_16bit`."""
    if kind == "LBFGS":
        options = {"lr": 1e-2, "max_iter": 2}
    for dtype, format in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        plain = Run(kind, options, way, rounded=False, dtype=dtype)
        exact = Run(kind, options, way, rounded=True, dtype=dtype, gradient=format)
        plain.step(3)
        exact.step(3)
        same(exact.tensors(), plain.tensors())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind, options in CHOICES if kind not in NOT_DIFFERENTIABLE],
    ids=identity,
)
def test_a_differentiable_step_has_the_gradients_of_the_plain_one(same, kind, options):
    results = []
    for rounded in (False, True):
        torch.manual_seed(0)
        leaves = [torch.randn(3, 2, requires_grad=True) for _ in range(3)]
        weights, factor = [x.clone() for x in leaves[:2]], leaves[2]
        optimizer = getattr(torch.optim, kind)(
            [{"params": weights[:1]}, {"params": weights[1:], "lr": 0.03}],
            **options,
            differentiable=True,
        )
        if rounded:
            roles = dict.fromkeys(("weight", "gradient"), "float<8,23>")
            state = dict.fromkeys(state_names(kind, options), "float<8,23>")
            quantize_optimizer(optimizer, Recipe(**roles, state=state))
        for p in weights:
            p.grad = factor * p.clone()
        optimizer.step()  # a second one fails in PyTorch: some write into state that was saved
        loss = sum(p.square().sum() for p in weights)
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)  # SGD detaches one
        results.append([*weights, *gradients])
    for plain, exact in zip(*results, strict=True):
        same(exact, plain)


def sparse_training(kind):
    """A step of an embedding with sparse gradients, and what it trains."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"table": nn.Embedding(5, 3, sparse=True), "fc": nn.Linear(3, 2, bias=False)}
    )
    named = [*model.named_parameters()][: 1 if kind == "SparseAdam" else 2]
    optimizer = getattr(torch.optim, kind)(named, lr=0.1)

    def step():
        model.zero_grad()
        model["fc"](model["table"](torch.tensor([1, 3, 1]))).square().sum().backward()
        optimizer.step()

    return model, optimizer, step


@pytest.mark.parametrize("kind", ["SGD", "Adagrad"])
def test_parameters_with_sparse_gradients_left_out_are_as_in_the_plain_run(same, kind):
    results = []
    for rounded in (False, True):
        model, optimizer, step = sparse_training(kind)
        if rounded:
            recipe = Recipe(
                weight="float<8,23>", gradient="float<8,23>", overrides={"table.*": None}
            )
            quantize_optimizer(optimizer, recipe)
        step()
        step()
        results.append({name: p.detach() for name, p in model.named_parameters()})
    same(*results)


@pytest.mark.parametrize("kind", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients_are_refused(kind):
    _, optimizer, step = sparse_training(kind)
    quantize_optimizer(optimizer, Recipe(weight="float<8,23>"))
    with pytest.raises(RuntimeError, match=r"sparse.*make the embedding with sparse=False, or"):
        step()


def test_complex_parameters_are_refused_or_left_out_by_name(same):
    results = []
    for rounded in (False, True):
        torch.manual_seed(0)
        named = [("w", nn.Parameter(torch.randn(3))), ("c", nn.Parameter(torch.randn(3) * 1j))]
        optimizer = torch.optim.Adam(named, amsgrad=True)
        roles = dict.fromkeys(("weight", "gradient"), "float<8,23>")
        if rounded:
            with pytest.raises(
                TypeError, match=r"c, role weight: .* got dtype complex64; .*overri"
            ):
                quantize_optimizer(optimizer, Recipe(**roles))
            quantize_optimizer(optimizer, Recipe(**roles, overrides={"c": None}))
        for _ in range(3):
            for _, p in named:
                p.grad = p.detach() / 3
            optimizer.step()
        results.append({name: p.detach() for name, p in named})
    same(*results)


def test_capturable_is_refused_on_a_cpu_as_pytorch_refuses_it():
    p = nn.Parameter(torch.ones(2))
    optimizer = quantize_optimizer(
        torch.optim.Adam([p], capturable=True), Recipe(weight="float<8,23>")
    )
    p.grad = torch.ones(2)
    with pytest.raises(AssertionError, match="capturable=True"):
        optimizer.step()
