"""Looking at a model between two training steps does not change the training."""

import contextlib
import copy
import pickle

import pytest
import torch
from qemu_swalp_torch import (
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

import qemu_swalp as q
from qemu_swalp.training import Recipe

RECIPE = Recipe(
    activation="fixed<8,3>/stochastic",
    error="fixed<8,5>/stochastic",
    operands={"input": "fixed<8,4>/stochastic", "error": "fixed<8,6>/stochastic"},
    elementwise="bf16/stochastic",
    weight="fixed<8,5>/stochastic",
)


class Net(nn.Module):
    """Has a frozen part, which may run without gradient, and a part that may be recomputed."""

    def __init__(self, frozen="eval", recomputed=None, contexts=None):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Sequential(nn.Linear(4, 6), nn.SiLU())
        self.body = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.SiLU())
        self.head = nn.Linear(6, 2)
        self.kind, self.recomputed, self.contexts = frozen, recomputed, contexts
        self.frozen.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        with torch.no_grad() if self.kind == "no_grad" else contextlib.nullcontext():
            h = self.frozen(x)
        if self.recomputed is None:
            return self.head(self.body(h))
        h = h.detach().requires_grad_()  # reentrant checkpointing asks for it
        options = {"context_fn": self.contexts} if self.contexts else {}
        reentrant = self.recomputed == "reentrant"
        return self.head(checkpoint(self.body, h, use_reentrant=reentrant, **options))


def quantized(model):
    return [
        quantize_activations(model, RECIPE, seed=1),
        quantize_gemms(model, RECIPE, seed=1),
        quantize_elementwise(model, RECIPE, seed=1),
    ]


def batch(i):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(i))


def nothing(model, i):
    pass


def evaluation(model, i):
    with torch.no_grad():
        model.eval()(batch(90 + i))
    model.train()


def evaluation_with_gradient(model, i):
    model.eval()(batch(90 + i))
    model.train()


def no_grad_alone(model, i):
    with torch.no_grad():
        model(batch(90 + i))


def inference_mode(model, i):
    with torch.inference_mode():
        model(batch(90 + i))
        model.eval()(batch(90 + i))
    model.train()


def a_part_without_gradient(model, i):
    with torch.no_grad():
        model.body(torch.ones(2, 6))


def a_forward_that_fails(model, i):
    with torch.no_grad():
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 9))
        model.body(torch.ones(2, 6))


LOOKS = [
    evaluation,
    evaluation_with_gradient,
    no_grad_alone,
    inference_mode,
    a_part_without_gradient,
    a_forward_that_fails,
]


def trained(look, frozen="eval", recomputed=None, with_contexts=False, run=lambda model: model):
    model = Net(frozen, recomputed)
    handles = quantized(model)
    if with_contexts:
        model.contexts = handles[0].checkpoint_contexts
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = quantize_optimizer(torch.optim.SGD(parameters, 0.1), RECIPE, seed=1)
    forward = run(model)
    for i in range(3):
        optimizer.zero_grad()
        for part in (2 * i, 2 * i + 1):  # two forwards and backwards a step
            forward(batch(part)).square().mean().backward()
            look(model, i)
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("frozen", ["eval", "no_grad"])
@pytest.mark.parametrize("look", LOOKS)
def test_it_does_not_change_the_weights(same, look, frozen):
    same(trained(look, frozen), trained(nothing, frozen))


@pytest.mark.parametrize("contexts", [False, True])
@pytest.mark.parametrize("frozen", ["eval", "no_grad"])
@pytest.mark.parametrize("mode", ["reentrant", "not reentrant"])
def test_nor_does_it_under_recomputation(same, mode, frozen, contexts):
    if contexts and mode == "reentrant":
        pytest.skip("contexts are of the other kind")
    result = trained(evaluation, frozen, mode, contexts)
    same(result, trained(nothing, frozen))


@pytest.mark.parametrize("frozen", ["eval", "no_grad"])
def test_nor_does_it_in_compiled_models(same, frozen):
    def compiled(model):
        return torch.compile(model, fullgraph=True, backend="aot_eager")

    same(trained(evaluation, frozen, run=compiled), trained(nothing, frozen))


def test_a_mode_that_changes_before_the_backward_is_that_of_the_forward(same):
    results = []
    for recomputed in (None, "not reentrant"):
        model = Net("no_grad", recomputed)
        handles = quantized(model)
        model.contexts = handles[0].checkpoint_contexts
        loss = model(batch(0)).sum()
        model.eval()
        loss.backward()
        results.append({name: p.grad for name, p in model.body.named_parameters()})
    same(*results)


def test_frozen_parts_have_other_noise_at_each_call_and_the_same_again():
    def outputs():
        model, found = Net(), []
        quantized(model)
        model.frozen.register_forward_hook(lambda m, i, output: found.append(output.clone()))
        for _ in range(3):
            model(torch.full((64, 4), 0.3))
        return found

    first, second = outputs(), outputs()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_each_mode_has_the_steps_that_are_documented(same):
    model = nn.Sequential(nn.ReLU())
    quantize_activations(model, Recipe(activation="fixed<8,1>/stochastic"), seed=9)
    x = torch.rand(50)
    for mode, (training, gradient) in enumerate(
        [(True, True), (False, True), (True, False), (False, False)]
    ):
        model.train(training)
        for n in range(2):
            random = q.RandomBits(9, q.stream_id("activation", 1), mode * 2**30 + n)
            with torch.set_grad_enabled(gradient):
                same(model(x), q.quantize(x, "fixed<8,1>", "stochastic", random=random))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_modes_of_its_own(same, copied):
    model = Net()
    quantized(model)
    model(batch(0))
    other = copied(model)
    evaluation(model, 0)
    model.eval()
    same(other(batch(1)), model.train()(batch(1)))


def test_nothing_stays_behind():
    model = Net()
    before = {name: len(vars(m)["_forward_hooks"]) for name, m in model.named_modules()}
    for handle in quantized(model):
        handle.remove()
    assert before == {name: len(m._forward_hooks) for name, m in model.named_modules()}
    assert not model._forward_hooks_always_called
    assert not model._forward_pre_hooks
