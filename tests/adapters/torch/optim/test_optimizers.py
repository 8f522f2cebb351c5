"""Every kind of optimizer, stepped in every way: weights on the grid, exact resume, equal
copies.
"""

import copy
import io
import pickle
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from qemu_swalp_torch import quantize_optimizer
from qemu_swalp_torch.optim.param_plan import MOMENTA

from qemu_swalp import quantize
from qemu_swalp.training import Recipe
from qemu_swalp.training.param_plan import rounded_states

KINDS = [
    "SGD",
    "SGD-nesterov",
    "SGD-plain",
    "SGD-foreach",
    "SGD-fused",
    "SGD-accumulator",
    "SGD-native",
    "Adam",
    "Adam-foreach",
    "Adam-fused",
    "AdamW",
    "AdamW-fused",
    "RMSprop",
    "Adagrad",
    "Adagrad-fused",
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adamax",
    "NAdam",
    "RAdam",
    "Rprop",
    "Muon",
    "LBFGS",
    "LBFGS-wolfe",
]
CASES = [
    (kind, way)
    for kind in KINDS
    for way in ("plain", "closure", "scaler")
    if way == "closure" or "LBFGS" not in kind
]
EXACT_WAYS = [
    kind for kind in KINDS if "LBFGS" not in kind and kind not in ("ASGD", "NAdam")
]  # PyTorch keeps their scalars as float32 tensors where it compiles


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_weights_gradients_and_state_are_on_the_grid_after_each_step(training, on_grid, kind, way):
    run = training(kind, way)
    recipe = run.recipe
    for _ in range(4):
        before = [p.detach().clone() for p in run.model.parameters()]
        assert kind == "SGD-native" or all(
            on_grid(p, recipe.weight) for p in before
        )  # that rounds first by a step
        run.step()
        assert any(
            not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True)
        )
        for p in run.model.parameters():
            assert on_grid(p, recipe.weight)
            if recipe.gradient and kind != "SGD-native":
                assert on_grid(p.grad, recipe.gradient)
            state = run.optimizer.state.get(p, {})
            quantizers = {
                **dict.fromkeys(("momentum_buffer", "exp_avg"), recipe.momentum),
                **dict(recipe.state),
                "qemu_accumulator": recipe.accumulator,
            }
            for name, quantizer in quantizers.items():
                value = state.get(name)
                for tensor in (
                    value if isinstance(value, list) else [] if value is None else [value]
                ):
                    assert quantizer is None or on_grid(tensor, quantizer), name
    assert run.optimizer.param_groups[0]["qemu_step"] == 4


@pytest.mark.parametrize(("kind", "way"), CASES)
def test_a_checkpoint_resumes_bit_for_bit(training, same, kind, way):
    run = training(kind, way)
    for _ in range(3):
        run.step()
    file = io.BytesIO()
    torch.save(
        {name: getattr(run, name).state_dict() for name in ("model", "optimizer", "scaler")}, file
    )
    for _ in range(3):
        run.step()

    again = training(kind, way)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again.model.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    again.scaler.load_state_dict(saved["scaler"])
    for _ in range(3):
        again.step()
    same(run.tensors(), again.tensors())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_quantized_and_equal(training, same, on_grid, kind, how):
    run = training(kind, "closure")
    run.step()
    if how == "pickle":
        other = training(kind, "closure")
        other.model, other.optimizer = pickle.loads(pickle.dumps((run.model, run.optimizer)))
    else:
        other = copy.copy(run)
        other.model, other.optimizer = copy.deepcopy((run.model, run.optimizer))
    for _ in range(2):
        run.step()
        other.step()
    assert all(on_grid(p, run.recipe.weight) for p in other.model.parameters())
    same(run.tensors(), other.tensors())
    other.optimizer.load_state_dict(run.optimizer.state_dict())  # the guard is back as well


@pytest.mark.parametrize("kind", EXACT_WAYS)
def test_the_way_of_stepping_changes_no_bit(training, same, kind):
    """The scale is a power of two, so scaling is exact."""
    torch._dynamo.reset()
    runs = [training(kind, way) for way in ("plain", "closure", "keyword", "scaler", "compiled")]
    for run in runs:
        for _ in range(3):
            run.step()
        same(runs[0].tensors(), run.tensors())


@pytest.mark.parametrize("kind", ["LBFGS", "LBFGS-wolfe"])
def test_every_evaluation_of_a_closure_sees_rounded_weights(training, on_grid, kind):
    run = training(kind, "closure")
    evaluations = 0

    def closure():
        nonlocal evaluations
        evaluations += 1
        assert all(on_grid(p, run.recipe.weight) for p in run.model.parameters())
        return run.closure()

    run.optimizer.step(closure)
    assert evaluations > 1


def test_a_step_with_lr_0_changes_nothing_after_the_first(training, same):
    """What a distributed checkpoint's load does to a fresh optimizer."""
    run = training("SGD", "plain")
    weights = [p.detach().clone() for p in run.model.parameters()]
    for group in run.optimizer.param_groups:
        group["lr"] = 0.0
    run.step()
    for before, p in zip(weights, run.model.parameters(), strict=True):
        same(before, p)


def test_weights_are_rounded_on_attaching_as_the_seed_says(training, same, on_grid):
    runs = [training("SGD", seed=0) for _ in range(2)]
    assert all(on_grid(p, runs[0].recipe.weight) for p in runs[0].model.parameters())
    same(runs[0].tensors(), runs[1].tensors())


def test_rounding_is_in_place_and_moves_the_version_counter():
    base = torch.randn(4, 3)
    for x in (torch.nn.Parameter(base.clone()), base.clone().t(), base[1:, 1], torch.tensor(0.3)):
        version, pointer = x._version, x.data_ptr()
        expected = quantize(x.detach().contiguous(), "fixed<8,2>")
        quantize_optimizer(torch.optim.SGD([x]), Recipe(weight="fixed<8,2>/nearest_even"))
        assert (x.data_ptr(), x._version > version) == (pointer, True)
        assert torch.equal(x, expected)


def test_parameters_without_gradient_are_left_alone(training):
    run = training("SGD")
    frozen = run.model[0].weight
    frozen.requires_grad_(False)
    with torch.no_grad():
        frozen.fill_(0.123)
    run.step()
    assert torch.equal(frozen, torch.full_like(frozen, 0.123))


@pytest.mark.parametrize("kind", ["SGD", "SGD-fused", "Adam", "Adam-fused", "SGD-native"])
def test_steps_that_the_scaler_skips_change_nothing(training, same, kind):
    run = training(kind, "scaler")
    run.step()
    before, count = (
        {k: v.clone() for k, v in run.tensors().items()},
        run.optimizer.param_groups[0]["qemu_step"],
    )
    run.scaler.scale(run.loss() * torch.inf).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    same(before, run.tensors())
    assert run.optimizer.param_groups[0]["qemu_step"] == count
    run.step()
    assert run.optimizer.param_groups[0]["qemu_step"] == count + 1


def test_unquantizing_leaves_a_plain_optimizer(training):
    from qemu_swalp_torch import unquantize_optimizer

    run = training("SGD-accumulator")
    run.step()
    assert unquantize_optimizer(run.optimizer) is run.optimizer
    assert not any(key.startswith("qemu") for group in run.optimizer.param_groups for key in group)
    assert not any("qemu_accumulator" in state for state in run.optimizer.state.values())
    plain = copy.deepcopy((run.model, run.optimizer))
    run.step()
    assert (
        plain[1].param_groups[0].keys()
        == torch.optim.SGD(run.model.parameters()).param_groups[0].keys()
    )
    assert type(run.optimizer.defaults) is dict


def test_a_subclass_that_calls_super_step_is_rounded_once_and_to_the_end(on_grid):
    from qemu_swalp_torch import quantize_optimizer

    class Decaying(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.mul_(0.999)
            return loss

    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # hooks the step of the base class too
    p = torch.nn.Parameter(torch.randn(4, 5))
    opt = quantize_optimizer(
        Decaying([p], 0.1, momentum=0.9), Recipe(weight="fixed<8,5>/stochastic")
    )
    for _ in range(3):
        opt.step(lambda: (opt.zero_grad(), (p * p).sum().backward()))
        assert on_grid(p, "fixed<8,5>")


def test_an_exception_in_a_closure_does_not_disarm_the_hooks(training, on_grid):
    run = training("SGD-accumulator", "closure")
    run.step()

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.optimizer.step(fail)
    run.step()
    assert all(on_grid(p, run.recipe.weight) for p in run.model.parameters())


def test_added_groups_are_quantized_and_saved(training, on_grid):
    run = training("SGD")
    run.step()
    layer = torch.nn.Linear(3, 3)
    extra = layer.weight
    run.optimizer.add_param_group({"params": [extra], "lr": 0.3})
    state = run.optimizer.state_dict()
    assert all(group["qemu_step"] == 1 for group in state["param_groups"])
    extra.grad = torch.ones_like(extra)
    run.optimizer.step()
    assert on_grid(extra, run.recipe.weight)


def test_a_pickled_optimizer_is_quantized_in_a_process_that_does_not_know_us(
    training, tmp_path, on_grid
):
    run = training("SGD")
    run.step()
    file = tmp_path / "pickle"
    file.write_bytes(pickle.dumps((run.model, run.optimizer)))
    script = textwrap.dedent(f"""
        import pickle, torch
        model, opt = pickle.load(open({str(file)!r}, "rb"))
        model(torch.ones(2, 6)).sum().backward()
        opt.step()
        torch.save(model.state_dict(), {str(file)!r})
    """)
    subprocess.run([sys.executable, "-c", script], check=True)
    assert all(on_grid(p, run.recipe.weight) for p in torch.load(file, weights_only=True).values())


def test_overrides_go_by_name(on_grid):
    from qemu_swalp_torch import quantize_optimizer

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    recipe = Recipe(
        weight="fixed<8,6>/stochastic",
        overrides={"*.bias": None, "1.*": Recipe(weight="fixed<8,2>/stochastic")},
    )
    for make in (
        lambda: quantize_optimizer(torch.optim.SGD(model.parameters(), 0.1), recipe, model=model),
        lambda: quantize_optimizer(
            torch.optim.SGD(model.parameters(), 0.1),
            recipe,
            named_parameters=model.named_parameters(),
        ),
        lambda: quantize_optimizer(torch.optim.SGD(model.named_parameters(), 0.1), recipe),
    ):
        torch.nn.init.normal_(model[0].bias)
        opt = copy.deepcopy(make())
        copied = dict(zip(("w0", "b0", "w1", "b1"), opt.param_groups[0]["params"], strict=True))
        for p in copied.values():
            p.grad = torch.full_like(p, 0.123)
        opt.step()
        assert on_grid(copied["w0"], "fixed<8,6>")
        assert not on_grid(copied["b0"], "fixed<8,6>")
        assert on_grid(copied["w1"], "fixed<8,2>")


def test_state_names_that_do_not_occur_are_warned_of():
    from qemu_swalp_torch import quantize_optimizer

    p = torch.nn.Parameter(torch.ones(2))
    opt = quantize_optimizer(
        torch.optim.Adam([p]),
        Recipe(weight="bf16/stochastic", state={"exp_avg_sqr": "bf16/stochastic"}),
    )
    p.grad = torch.ones(2)
    with pytest.warns(
        UserWarning,
        match=r"exp_avg_sqr, which Adam does not keep; it keeps exp_avg, exp_avg_sq, step",
    ):
        opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
        plain = quantize_optimizer(
            torch.optim.SGD([p], 0.1), "bf16_sr"
        )  # names what other optimizers keep
        plain.step()


def test_hooks_run_first_among_post_hooks(on_grid):
    from qemu_swalp_torch import quantize_optimizer

    p = torch.nn.Parameter(torch.randn(5))
    opt = torch.optim.SGD([p], 0.1)
    opt.register_step_post_hook(lambda *_: seen.append(p.detach().clone()))
    seen: list[torch.Tensor] = []
    quantize_optimizer(opt, Recipe(weight="fixed<8,4>/stochastic"))
    p.grad = torch.ones(5) / 3
    opt.step()
    assert on_grid(seen[0], "fixed<8,4>")


def test_named_states_of_a_momentum_role_share_its_quantizer():
    recipe = Recipe(momentum="bf16/stochastic", state={"exp_avg": "e5m2/stochastic"})
    states = {key: (role, str(q)) for key, role, q in rounded_states(recipe, MOMENTA)}
    assert states == {
        "momentum_buffer": ("momentum", "bf16/stochastic_a"),
        "exp_avg": ("momentum", "e5m2/stochastic_a"),
    }
