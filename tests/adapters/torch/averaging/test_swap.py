"""A swap is undone by its end, by `restore()` or at the next use; never by garbage collection."""

import copy
import gc
import pickle
from contextlib import ExitStack, contextmanager

import pytest
import torch
from qemu_swalp_torch import Averager, quantize_optimizer, update_bn
from torch import nn

from qemu_swalp.training import EMA, SWAG, swalp

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


class Run:
    """A quantized training with an average, and a plain optimizer with `attached=False`."""

    def __init__(self, attached=True):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        quantize_optimizer(self.optimizer, swalp(8), seed=0)
        self.averager = Averager(self.model)
        if attached:
            self.averager.attach(self.optimizer)

    def step(self, n=1):
        for _ in range(n):
            self.optimizer.zero_grad()
            self.model(X).square().mean().backward()
            self.optimizer.step()
        return self

    def state(self):
        tensors = *self.model.named_parameters(), *self.model.named_buffers()
        return {name: x.detach().clone() for name, x in tensors}


def drop(averager):
    """A context that is entered, and then forgotten."""
    averager.swap().__enter__()


def drop_stack(averager):
    ExitStack().enter_context(averager.swap())


@pytest.mark.parametrize("abandon", [drop, drop_stack])
def test_an_abandoned_swap_is_undone_by_the_next_forward_to_the_bits_of_a_run_without(
    same, abandon
):
    undisturbed, run = Run().step(6), Run().step(3)
    iterate = run.state()
    abandon(run.averager)
    gc.collect()
    assert run.averager.swapped
    assert not torch.equal(run.model[0].weight, iterate["0.weight"])
    run.step(3)
    gc.collect()
    same(run.state(), undisturbed.state())
    same(run.averager.average(), undisturbed.averager.average())


@pytest.mark.parametrize("abandon", [drop, drop_stack])
@pytest.mark.parametrize(
    "use", ["restore", "update", "swap", "step", "load", "state_dict", "part", "state of a part"]
)
def test_or_by_the_next_use_of_the_averager(same, abandon, use):
    run = Run(attached=use == "step").step(3)
    run.averager.update()
    run.averager.average()
    nn.init.constant_(run.model[0].weight, 0.5)
    iterate = run.state()
    abandon(run.averager)
    if use == "restore":
        run.averager.restore()
        run.averager.restore()
    elif use == "update":
        run.averager.update()
    elif use == "swap":
        with run.averager.swap():
            pass
    elif use == "load":
        run.averager.load_state_dict(run.averager.state_dict())
    elif use == "state_dict":
        assert torch.equal(run.model.state_dict()["0.weight"], iterate["0.weight"])
    elif use == "part":
        run.model[0](torch.ones(1, run.model[0].in_features))
    elif use == "state of a part":
        assert torch.equal(run.model[0].state_dict()["weight"], iterate["0.weight"])
    else:
        run.optimizer.zero_grad()
        run.optimizer.step()
        assert run.averager.average()
    same(run.state(), iterate)
    assert not run.averager.swapped


@pytest.mark.parametrize(
    "read",
    [
        lambda model: dict(model.named_parameters()),
        lambda model: dict(copy.deepcopy(model).named_parameters()),
        lambda model: dict(pickle.loads(pickle.dumps(model)).named_parameters()),
        lambda model: dict(nn.Sequential(model, nn.ReLU())[0].named_parameters()),
        lambda model: {f"0.{k}": x for k, x in copy.deepcopy(model[0]).named_parameters()},
        lambda model: dict(zip(model.state_dict(), model.parameters(), strict=False)),
        lambda model: {
            name.removeprefix("0."): x for name, x in nn.Sequential(model).named_parameters()
        },
        lambda model: {f"{n}.weight": m.weight for n, m in model.named_modules() if n},
    ],
    ids=["named_parameters", "deepcopy", "pickle", "within", "part", "parameters", "whole", "walk"],
)
def test_or_by_whoever_reads_the_parameters(same, read):
    run = Run().step(3)
    iterate = run.state()
    drop(run.averager)
    gc.collect()
    assert not torch.equal(run.model[0].weight, iterate["0.weight"])
    assert torch.equal(read(run.model)["0.weight"], iterate["0.weight"])
    same(run.state(), iterate)
    for module in run.model.modules():
        assert not {"named_parameters", "named_modules", "__reduce_ex__"} & set(module.__dict__)


@pytest.mark.parametrize("use", ["forward", "state_dict", "restore", "forget_swap"])
def test_what_ends_an_abandoned_swap_leaves_the_modules_their_own_readers(use):
    run = Run().step(3)
    modules = list(run.model.modules())
    before = [set(module.__dict__) for module in modules]
    drop(run.averager)
    gc.collect()
    assert "named_parameters" in run.model.__dict__
    if use == "forward":
        run.model(X)
    else:
        getattr(run.model if use == "state_dict" else run.averager, use)()
    assert [set(module.__dict__) for module in modules] == before


def test_an_average_that_was_trained_on_is_read_as_it_is():
    run = Run(attached=False).step(3)
    run.averager.update()
    nn.init.zeros_(run.model[0].weight)
    run.averager.update()
    drop(run.averager)
    with torch.no_grad():
        run.model[0].weight.fill_(7)
    assert copy.deepcopy(run.model)[0].weight.unique().tolist() == [7]
    with pytest.raises(RuntimeError, match="was trained on since"):
        run.averager.update()


def test_hooks_of_others_are_called_and_ours_go_with_the_next_forward(same):
    run, called = Run().step(3), []
    iterate = run.state()
    drop(run.averager)
    run.model.register_state_dict_pre_hook(lambda *_: called.append("state_dict"))
    same(dict(run.model.state_dict()), dict(run.model.state_dict()))
    assert called == ["state_dict"] * 2
    same(run.state(), iterate)
    run.model(X)
    for module in run.model.modules():
        hooks = [*module._forward_pre_hooks.values(), *module._state_dict_pre_hooks.values()]
        assert len(hooks) == (module is run.model)


def test_a_second_swap_a_step_and_an_update_while_one_stands_are_refused_and_change_nothing(same):
    run = Run().step(3)

    def evaluation():
        with run.averager.swap():
            yield

    iterate, generator = run.state(), evaluation()
    next(generator)
    average = run.state()
    with pytest.raises(RuntimeError, match=r"swap\(\) within swap\(\): .* call restore\(\)"):
        drop(run.averager)
    with pytest.raises(RuntimeError, match=r"update within swap\(\)"):
        run.averager.update()
    run.optimizer.zero_grad()
    run.model(X).sum().backward()
    average = run.state()
    with pytest.raises(RuntimeError, match=r"optimizer.step\(\) within swap\(\)"):
        run.optimizer.step()
    same(run.state(), average)
    generator.close()
    same(run.state(), iterate)


def test_a_collected_generator_throws_away_no_training(same):
    run = Run(attached=False)
    run.averager.update()
    run.step(2)

    @contextmanager
    def evaluation():
        with run.averager.swap():
            yield

    context = evaluation()
    context.__enter__()
    run.step(2)  # nobody tells the averager
    trained = run.state()
    del context
    gc.collect()
    same(run.state(), trained)
    with pytest.raises(
        RuntimeError, match=r"trained on since; restore\(\) puts .* forget_swap\(\)"
    ):
        run.averager.update()
    run.averager.forget_swap()
    run.averager.update()
    same(run.state(), trained)


def test_restore_after_training_on_gives_the_iterate_back(same):
    run = Run(attached=False).step(2)
    iterate = run.state()
    run.averager.update()
    drop(run.averager)
    nn.init.zeros_(run.model[0].weight)
    run.averager.restore()
    same(run.state(), iterate)


def test_averages_of_one_model_do_not_swap_into_each_other(same):
    run = Run().step(1)
    other = Averager(run.model, EMA(decay=0.5))
    other.attach(run.optimizer)
    part = Averager(run.model[2])
    apart = Averager(nn.Linear(1, 1))
    run.step(2)
    part.update()
    iterate = run.state()
    with run.averager.swap():
        for averager in (other, part):
            with pytest.raises(RuntimeError, match=r"update within swap\(\)"):
                averager.update()
        with pytest.raises(RuntimeError, match=r"swap\(\) within swap\(\)"):
            drop(other)
        apart.update()
        with apart.swap():
            pass
    same(run.state(), iterate)
    drop(other)
    with run.averager.swap():
        same(run.averager.average(), dict(run.model.named_parameters()))
    same(run.state(), iterate)


def test_a_copy_of_a_model_with_an_abandoned_average_is_a_model_of_its_own(same):
    run = Run().step(2)
    drop(run.averager)
    with torch.no_grad():
        run.model[0].weight += 1  # an average that was trained on is copied as it is
    clone = copy.deepcopy(run.model)
    before = {k: v.clone() for k, v in clone.named_parameters()}
    run.averager.restore()
    with torch.no_grad():
        clone(X)
        run.model(X)
    same(dict(clone.named_parameters()), before)
    assert not torch.equal(run.model[0].weight, clone[0].weight)


def test_a_swap_decorates_and_is_used_again(same):
    run = Run().step(2)
    iterate, swap, seen = run.state(), run.averager.swap(), []

    @swap
    def evaluate():
        seen.append(run.model[0].weight.clone())
        update_bn([X], run.model)

    for _ in range(2):
        evaluate()
    same(run.state(), iterate)
    same(seen[0], run.averager.average()["0.weight"])
    same(seen[0], seen[1])


def test_samples_of_swag_are_shown_by_a_swap(same):
    model = nn.Linear(3, 2)
    averager = Averager(model, SWAG(rank=2))
    for step in range(4):
        nn.init.constant_(model.weight, step)
        averager.update()
    iterate, sample = model.weight.detach().clone(), averager.sample(1)
    assert not torch.equal(sample["weight"], averager.average()["weight"])
    with averager.swap(sample):
        same(model.weight, sample["weight"])
    same(model.weight, iterate)
    wrong = {"weight": torch.zeros(1, 3)}
    words = r"weight has shape \(2, 3\) in model, \(1, 3\)"
    with pytest.raises(ValueError, match=words), averager.swap(wrong):
        pass
    with pytest.raises(TypeError, match=r"sample\(\) needs the policy .*SWAG, .* has Averaging"):
        Averager(model).sample()


class TestCopies:
    def test_a_copy_says_that_it_is_not_attached(self):
        run = Run().step(2)
        assert run.averager.attached
        with pytest.warns(UserWarning, match="copy of an Averager is attached to no optimizer"):
            model, optimizer, averager = copy.deepcopy((run.model, run.optimizer, run.averager))
        assert not averager.attached
        assert averager.n_averaged == 2
        averager.attach(optimizer)
        model(X).sum().backward()
        optimizer.step()
        assert (averager.n_averaged, run.averager.n_averaged) == (3, 2)

    def test_a_copy_of_one_that_was_not_attached_says_nothing(self, recwarn):
        averager = Averager(nn.Linear(1, 1))
        assert copy.deepcopy(averager).attached is False
        assert not recwarn.list

    def test_within_a_swap_none_is_made(self):
        run = Run().step(1)
        with run.averager.swap(), pytest.raises(RuntimeError, match=r"copied within swap\(\)"):
            copy.deepcopy(run.averager)
