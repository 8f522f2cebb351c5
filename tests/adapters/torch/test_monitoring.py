"""Figures of a run against the core's analysis of the same numbers; watching changes nothing."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from qemu_swalp_torch import (
    SGD,
    Averager,
    Monitor,
    emulate,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from qemu_swalp_torch.tensors.observers import OBSERVERS
from torch import nn

from qemu_swalp import RandomBits, stream_id
from qemu_swalp.ops.analysis import analyze
from qemu_swalp.training import Recipe

NEAREST = Recipe(
    weight="fixed<8,4>/nearest_even",
    momentum="bfp<8,axis=0>/stochastic",
    gradient="e4m3fn/stochastic",
)
ACTIVATIONS = Recipe(
    activation="fixed<6,2>/stochastic",
    error="float<3,2>/stochastic",
    operands={"input": "fixed<4,2>/nearest_even"},
)


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def test_places_of_a_model_have_the_figures_of_the_core():
    model = mlp()
    quantize_activations(model, ACTIVATIONS, modules=nn.ReLU, seed=3)
    quantize_gemms(model, ACTIVATIONS, exclude="0")
    x, seen = 4 * torch.randn(50, 4), {}
    for place in (0, 1):
        model[place].register_forward_hook(
            lambda module, i, output: seen.update({module: output.detach()})
        )
    with Monitor() as monitor:
        model(x).sum().backward()
    rows = {(row["place"], row["role"]): row for row in monitor.rows()}
    assert list(rows) == [
        ("1", "activation"),
        ("2", "forward.input"),
        ("2", "wgrad.input"),
        ("1", "error"),
    ]
    expected = {
        "activation": analyze(
            seen[model[0]].relu(),
            "fixed<6,2>",
            "stochastic",
            random=RandomBits(3, stream_id("activation", 2), 0),
        ),
        "forward.input": analyze(seen[model[1]], "fixed<4,2>"),
        "wgrad.input": analyze(seen[model[1]].t(), "fixed<4,2>"),
    }
    for (_, role), row in rows.items():
        if role in expected:
            assert row["saturated"] == expected[role].share_saturated
            assert row["flushed"] == expected[role].share_flushed
            assert row["nonfinite"] == expected[role].share_nonfinite
            assert row["sqnr_db"] == pytest.approx(expected[role].sqnr_db)
    assert rows["2", "forward.input"]["saturated"] > 0
    assert rows["1", "error"]["quantizer"] == "float<3,2>/stochastic_a"
    assert rows["1", "error"]["lost_updates"] is None


def trained(kind, watched, steps=6):
    model = mlp()
    make = {
        "hooks": lambda p: quantize_optimizer(
            torch.optim.SGD(p, 0.05, momentum=0.5, foreach=False), NEAREST, seed=0
        ),
        "native": lambda p: SGD(p, 0.05, 0.5, recipe=NEAREST, seed=0),
    }[kind]
    opt = make(list(model.named_parameters()))
    averager = Averager(model, quantizer="bfp<9>/stochastic", seed=0)
    averager.attach(opt)
    gradients = []
    opt.register_step_pre_hook(lambda *_: gradients.append(model[0].weight.grad.clone()))
    monitor = Monitor(opt)
    with monitor if watched else nullcontext():
        for step in range(steps):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            (model(x) - x[:, :2]).square().mean().backward()
            opt.step()
    return model, averager, monitor, gradients


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_watching_changes_no_bit(same, kind):
    (model, averager, *_), (other, another, *_) = trained(kind, True), trained(kind, False)
    same(dict(model.state_dict()), dict(other.state_dict()))
    same(averager.average(), another.average())
    assert not OBSERVERS


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_an_optimizer_has_a_row_for_each_parameter_and_role(kind):
    rows = {(row["place"], row["role"]): row for row in trained(kind, True)[2].rows()}
    names = [name for name, _ in mlp().named_parameters()]
    roles = ("gradient", "momentum", "weight")
    assert set(rows) == {(name, role) for name in names for role in roles} | {("all", "average")}


@pytest.mark.parametrize("kind", ["hooks", "native"])
def test_updates_that_are_lost(kind):
    """A weight on 1/16 that moves by less than 1/32 stays."""
    w = nn.Parameter(torch.full((4,), 1.0))
    recipe = Recipe(weight="fixed<8,4>/nearest_even")
    opt = (
        SGD([("w", w)], 0.5, recipe=recipe)
        if kind == "native"
        else quantize_optimizer(torch.optim.SGD([("w", w)], 0.5), recipe)
    )
    with Monitor(opt) as monitor:
        for _ in range(3):
            w.grad = torch.tensor([0.0, 0.05, 0.07, 1.0])
            opt.step()
    (row,) = monitor.rows()
    assert row["lost_updates"] == 1 / 3
    assert row["gradient_to_noise"] == math.inf
    monitor.reset()
    assert monitor.rows() == []


def test_what_happens_unwatched_is_no_update():
    w = nn.Parameter(torch.ones(2))
    opt = SGD([("w", w)], 0.5, recipe=Recipe(weight="fixed<8,4>/nearest_even"))
    monitor = Monitor(opt)
    for weight in (1.0, 2.0):
        nn.init.constant_(w, weight)
        w.grad = torch.zeros(2)
        with monitor:
            opt.step()
    assert math.isnan(monitor.rows()[0]["lost_updates"])


def test_gradient_to_noise_is_mean_square_over_the_trace_of_the_covariance():
    _, _, monitor, gradients = trained("native", True)
    stacked = np.stack([g.double().numpy().reshape(-1) for g in gradients])
    (row,) = [
        row for row in monitor.rows() if (row["place"], row["role"]) == ("0.weight", "weight")
    ]
    assert row["gradient_to_noise"] == pytest.approx(
        (stacked.mean(0) ** 2).sum() / stacked.var(0, ddof=1).sum()
    )


def test_a_plain_optimizer_has_its_gradients_watched():
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(opt) as monitor:
        for _ in range(2):
            opt.zero_grad()
            model(torch.randn(3, 4)).square().sum().backward()
            opt.step()
    assert [row["place"] for row in monitor.rows()] == [
        f"param_groups[0]['params'][{i}]" for i in range(4)
    ]
    assert all(row["quantizer"] is None and row["gradient_to_noise"] > 0 for row in monitor.rows())


@pytest.mark.parametrize("given", ["Monitor", "quantize_gemms", "quantize_optimizer", "later"])
def test_parameters_are_called_by_the_models_names(given):
    """By whatever call the model became known, before the optimizer or after it."""
    model = mlp()
    ready = Recipe(weight="fixed<8,4>/nearest_even")
    if given == "quantize_gemms":
        quantize_gemms(model, ACTIVATIONS)
    opt = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    quantize_optimizer(opt, ready, model=model if given == "quantize_optimizer" else None)
    if given == "later":
        quantize_gemms(model, ACTIVATIONS)
    with Monitor(opt, model if given == "Monitor" else None) as monitor:
        for _ in range(2):
            model(torch.randn(3, 4)).square().sum().backward()
            opt.step()
    rows = [row for row in monitor.rows() if row["role"] == "weight"]
    assert [row["place"] for row in rows] == [name for name, _ in model.named_parameters()]
    assert all(row["gradient_to_noise"] > 0 for row in rows)


def test_the_whole_model_names_what_a_part_of_it_owns_too():
    model = mlp()
    quantize_gemms(model[0], ACTIVATIONS)
    opt = quantize_optimizer(torch.optim.SGD(model[0].parameters(), 0.1), "bf16_sr")
    for whole, names in ((None, ["weight", "bias"]), (model, ["0.weight", "0.bias"])):
        with Monitor(opt, whole) as monitor:
            model[0](torch.randn(3, 4)).square().sum().backward()
            opt.step()
        assert [r["place"] for r in monitor.rows() if r["role"] == "weight"] == names


@pytest.mark.parametrize("compiled", [False, True])
def test_every_section_of_a_recipe_is_followed(compiled):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    recipe = Recipe(
        activation="e4m3fn",
        weight="bf16",
        momentum="bf16",
        average="bf16",
        operands={"input": "e4m3fn"},
        elementwise="fixed<6,2>/stochastic",
    )
    handle = emulate(model, opt, recipe, average=True)
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    with Monitor(opt) as monitor:
        run(torch.randn(3, 4)).square().sum().backward()
        opt.step()
    seen = {(row["place"], row["role"]) for row in monitor.rows()}
    assert seen >= {
        ("0", "forward.input"),
        ("0", "activation"),
        ("1", "forward.function"),
        ("1", "backward.multiply"),
        ("0.weight", "momentum"),
        ("0.bias", "weight"),
        ("all", "average"),
    }
    handle.remove()
    torch._dynamo.reset()


def test_elementwise_operations_have_the_figures_of_the_core():
    model = nn.Tanh()
    quantize_elementwise(model, Recipe(elementwise="fixed<6,2>/stochastic"), seed=5)
    x = torch.randn(400)
    with Monitor() as monitor:
        watched = model(x)
    (row,) = monitor.rows()
    random = RandomBits(5, stream_id("forward.function.0", 0), 0)
    expected = analyze(x.double().tanh(), "fixed<6,2>", "stochastic", random=random)
    assert (row["place"], row["role"]) == ("", "forward.function")
    assert row["flushed"] == expected.share_flushed > 0
    assert row["sqnr_db"] == pytest.approx(expected.sqnr_db)
    other = nn.Tanh()
    quantize_elementwise(other, Recipe(elementwise="fixed<6,2>/stochastic"), seed=5)
    assert torch.equal(watched, other(x))


def test_the_table_is_empty_where_nothing_was_seen():
    monitor = trained("hooks", True, steps=1)[2]
    assert any(math.isnan(row["lost_updates"] or 0) for row in monitor.rows())
    assert "nan" not in str(monitor)


def test_a_compiled_model_is_watched_too():
    torch._dynamo.reset()
    model = mlp()
    quantize_activations(model, ACTIVATIONS, modules=nn.ReLU)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with Monitor() as monitor:
        compiled(torch.randn(3, 4)).sum().backward()
    assert {(row["place"], row["role"]) for row in monitor.rows()} == {
        ("1", "activation"),
        ("1", "error"),
    }
    torch._dynamo.reset()


def test_scalars_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    monitor = trained("native", True)[2]
    with SummaryWriter(tmp_path) as writer:
        monitor.write(writer, 7)
    events = EventAccumulator(str(tmp_path)).Reload()
    (row,) = [
        row for row in monitor.rows() if (row["place"], row["role"]) == ("0.weight", "weight")
    ]
    for figure in ("saturated", "flushed", "sqnr_db", "lost_updates", "gradient_to_noise"):
        (event,) = events.Scalars(f"0.weight/weight/{figure}")
        assert (event.step, event.value) == (7, pytest.approx(row[figure]))


def test_every_figure_is_written_as_a_scalar():
    monitor, written = trained("hooks", True)[2], {}

    class Writer:
        def add_scalar(self, tag, value, step):
            written[tag] = (value, step)

    monitor.write(Writer(), 3)
    for row in monitor.rows():
        for figure, value in row.items():
            if isinstance(value, float):
                assert written.pop(f"{row['place']}/{row['role']}/{figure}") == (value, 3)
    assert not written


def test_the_table_has_a_line_for_each_row():
    _, _, monitor, _ = trained("hooks", True)
    lines = str(monitor).splitlines()
    assert lines[0].split("  ")[0] == "place"
    assert len(lines) == 2 + len(monitor.rows())


def test_errors():
    with pytest.raises(
        TypeError, match=r"optimizer must be a torch\.optim\.Optimizer or None, got int"
    ):
        Monitor(3)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or None, got .*int"):
        Monitor(None, 3)
    with Monitor() as monitor, pytest.raises(RuntimeError, match="is watching already"):
        monitor.__enter__()
    assert not OBSERVERS


def test_numbers_that_diverged_are_counted() -> None:
    """BLK-13: infinities and NaN before rounding, whatever the format makes of them."""
    weight = torch.nn.Parameter(torch.ones(64))
    optimizer = quantize_optimizer(torch.optim.SGD([("w", weight)], 1.0), Recipe(gradient="mxfp4"))
    weight.grad = torch.ones(64)
    weight.grad[3], weight.grad[40] = math.inf, math.nan
    with Monitor(optimizer) as monitor:
        optimizer.step()
    (row,) = (row for row in monitor.rows() if row["role"] == "gradient")
    assert row["nonfinite"] == 2 / 64
    assert "non-finite" in str(monitor)
    assert torch.isnan(weight).all()
