"""Runs saved at each step, the step 0 included, and resumed in every order: the bits of a run that
was neither.

`torch.distributed.checkpoint.state_dict` makes a step that is none where an optimizer has no state.
"""

import copy
import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
from qemu_swalp_torch import SGD, Averager, quantize_optimizer
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from qemu_swalp.training import Recipe, swalp

STEPS = 3
ACCUMULATOR = Recipe(
    "e4m3fn/stochastic", momentum="bfp<8>/stochastic", accumulator="bf16/stochastic"
)
ADAM = Recipe("bfp<8,axis=0>/stochastic", momentum="bfp<8,axis=0>/stochastic")
OPTIMIZERS = {
    "plain": lambda p: quantize_optimizer(torch.optim.SGD(p, 0.1), swalp(8), seed=0),
    "dampened": lambda p: quantize_optimizer(
        torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5), swalp(8), seed=0
    ),
    "decaying": lambda p: quantize_optimizer(
        torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1), swalp(8), seed=0
    ),
    "Adamax": lambda p: quantize_optimizer(
        torch.optim.Adamax(p, 0.05, weight_decay=0.1), ADAM, seed=0
    ),
    "tensor rate": lambda p: quantize_optimizer(
        torch.optim.SGD(p, torch.tensor(0.1)), swalp(8), seed=0
    ),
    "accumulator": lambda p: quantize_optimizer(
        torch.optim.SGD(p, 0.1, momentum=0.9), ACCUMULATOR, seed=0
    ),
    "Adam": lambda p: quantize_optimizer(torch.optim.Adam(p, 0.05), ADAM, seed=0),
    "NAdam": lambda p: quantize_optimizer(torch.optim.NAdam(p, 0.05), ADAM, seed=0),
    "ASGD": lambda p: quantize_optimizer(torch.optim.ASGD(p, 0.05), "swalp8", seed=0),
    "Rprop": lambda p: quantize_optimizer(torch.optim.Rprop(p, 0.05), "swalp8", seed=0),
    "ours": lambda p: SGD(p, 0.1, recipe=swalp(8), seed=3),
    "ours, dampened": lambda p: SGD(p, 0.1, 0.9, 0.5, recipe=swalp(8), seed=0),
    "ours, accumulator": lambda p: SGD(p, 0.1, 0.9, recipe=ACCUMULATOR, seed=0),
    "ours, full precision": lambda p: SGD(p, 0.1),
    "unquantized SGD": lambda p: torch.optim.SGD(p, 0.1),
}
each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


class Run:
    def __init__(self, kind, sharded=False):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        if sharded:
            from torch.distributed.fsdp import fully_shard

            for module in (self.model[0], self.model[2], self.model):
                fully_shard(module, mesh=sharded)
        self.optimizer = OPTIMIZERS[kind](self.model.parameters())
        self.averager = Averager(self.model, quantizer="bfp<9>/stochastic", seed=0)
        self.averager.attach(self.optimizer)
        self.done = 0

    def step(self):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(self.done))
        self.optimizer.zero_grad()
        self.model(x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def save(self):
        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
            "averager": self.averager.state_dict(),
        }

    def restore(self, saved, order):
        for part in order:
            if part == "model":
                set_model_state_dict(self.model, saved["model"])
            elif part == "optimizer":
                set_optimizer_state_dict(self.model, self.optimizer, saved["optimizer"])
            else:
                self.averager.load_state_dict(saved["averager"])

    def result(self):
        found = {name: p.detach() for name, p in self.model.named_parameters()}
        found |= {f"average {name}": x for name, x in self.averager.average().items()}
        for i, p in enumerate(self.model.parameters()):
            found |= {
                f"{key} {i}": x
                for key, x in self.optimizer.state.get(p, {}).items()
                if isinstance(x, torch.Tensor)
            }
        return {
            name: x.full_tensor() if hasattr(x, "full_tensor") else x.clone()
            for name, x in found.items()
        }


def uninterrupted(kind):
    run = Run(kind)
    for _ in range(STEPS):
        run.step()
    return run.result()


@each_optimizer
def test_saving_at_each_step_changes_nothing(same, kind):
    run = Run(kind)
    for _ in range(STEPS):
        run.save()
        run.step()
    run.save()
    assert run.averager.n_averaged == STEPS
    same(run.result(), uninterrupted(kind))


@each_optimizer
@pytest.mark.parametrize("first", range(STEPS))
def test_a_run_resumes_in_every_order_from_every_step(same, kind, first):
    expected, run = uninterrupted(kind), Run(kind)
    for _ in range(first):
        run.step()
    saved = copy.deepcopy(run.save())
    for order in permutations(saved):
        resumed = Run(kind)
        resumed.restore(copy.deepcopy(saved), order)
        assert resumed.averager.n_averaged == first
        resumed.done = first
        while resumed.done < STEPS:
            resumed.step()
        same(resumed.result(), expected)


@pytest.fixture
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["plain", "accumulator", "Adam", "ours", "unquantized SGD"])
def test_sharded_runs_are_saved_to_files_and_resumed(same, mesh, tmp_path, kind):
    expected = uninterrupted(kind)
    for order in (("averager", "model", "optimizer"), ("optimizer", "averager", "model")):
        run = Run(kind, mesh)
        for step in range(STEPS):
            folder = tmp_path / f"{order[0]}-{step}"
            checkpoint.save(run.save(), checkpoint_id=folder)
            run.step()
        same(run.result(), expected)
        for first in range(STEPS):
            resumed = Run(kind, mesh)
            saved = resumed.save()
            checkpoint.load(saved, checkpoint_id=tmp_path / f"{order[0]}-{first}")
            resumed.restore(saved, order)
            resumed.done = first
            while resumed.done < STEPS:
                resumed.step()
            same(resumed.result(), expected)


def test_an_average_on_an_unquantized_adamw_counts_true_steps():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    averager = Averager(model)
    averager.attach(optimizer)
    get_optimizer_state_dict(model, optimizer)
    assert averager.n_averaged == 0
    fresh = torch.optim.AdamW(model.parameters(), 0.1)
    averager.attach(fresh)
    set_optimizer_state_dict(model, fresh, get_optimizer_state_dict(model, optimizer))
    assert averager.n_averaged == 0


PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adam": lambda p: torch.optim.Adam(p, torch.tensor(0.01), weight_decay=0.3, amsgrad=True),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.3),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("saved_at", [0, 1, 2])
@pytest.mark.parametrize("order", ["attach first", "attach between", "attach last", "plain"])
def test_an_averaged_run_of_an_unquantized_optimizer_resumes(same, kind, saved_at, order):
    """Also one that was saved before its first step, where PyTorch leaves a placeholder."""
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    class Plain:
        def __init__(self, attached=True):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
            self.optimizer = PLAIN[kind](self.model.parameters())
            self.averager = Averager(self.model)
            Averager(self.model[0]).attach(self.optimizer)  # of which the other is not told
            if attached:
                self.averager.attach(self.optimizer)

        def step(self, n):
            for _ in range(n):
                self.optimizer.zero_grad()
                self.model(inputs).square().mean().backward()
                self.optimizer.step()
            return self

        def saved(self):
            state = get_optimizer_state_dict(self.model, self.optimizer)
            return copy.deepcopy([self.model.state_dict(), state, self.averager.state_dict()])

    whole, run = Plain().step(4), Plain().step(saved_at)
    model, optimizer, average = run.saved()
    if order == "plain":
        model, optimizer, average = copy.deepcopy(
            [run.model.state_dict(), run.optimizer.state_dict(), run.averager.state_dict()]
        )
    fresh = Plain(attached=order in ("attach first", "plain"))
    if order == "plain":
        fresh.optimizer.load_state_dict(optimizer)
        fresh.model.load_state_dict(model)
    elif order == "attach between":
        get_optimizer_state_dict(fresh.model, fresh.optimizer)
        fresh.averager.attach(fresh.optimizer)
        fresh.model.load_state_dict(model)
        set_optimizer_state_dict(fresh.model, fresh.optimizer, optimizer)
    else:
        set_optimizer_state_dict(fresh.model, fresh.optimizer, optimizer)
        fresh.model.load_state_dict(model)
    if order == "attach last":
        fresh.averager.attach(fresh.optimizer)
    fresh.averager.load_state_dict(average)
    for each in (fresh.step(4 - saved_at), run.step(4 - saved_at)):
        same(dict(each.model.named_parameters()), dict(whole.model.named_parameters()))
        same(each.averager.average(), whole.averager.average())
        assert each.averager.n_averaged == 4


@pytest.mark.parametrize(
    ("eps", "dtype"), [(0.0, torch.float32), (1e-8, torch.float16)], ids=["no eps", "float16"]
)
def test_looking_for_a_placeholder_writes_nothing_into_the_weights(same, eps, dtype):
    """At a rate of 0 and without gradients Adam divides 0 by 0, where eps is none or underflows."""
    results = []
    for averaged in (False, True):
        p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
        optimizer = torch.optim.Adam([p], 0.5, eps=eps)
        for _ in range(2):
            p.grad = torch.ones_like(p)
            optimizer.step()
            if averaged:  # the next step looks whether this is a placeholder
                optimizer.load_state_dict(optimizer.state_dict())
                Averager({"p": p}).attach(optimizer)
        results.append({"p": p.detach()})
    assert not results[0]["p"].isnan().any()
    same(*results)


def test_true_steps_at_a_rate_of_0_or_with_zero_gradients_count():
    model = nn.Linear(2, 1)
    optimizer = quantize_optimizer(torch.optim.SGD(model.parameters(), 0.0), swalp(8), seed=0)
    averager = Averager(model)
    averager.attach(optimizer)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    for p in model.parameters():
        p.grad.zero_()
    optimizer.step()
    assert averager.n_averaged == optimizer.param_groups[0]["qemu_step"] == 2


@pytest.mark.parametrize("closure", [None, lambda: None], ids=["plain", "closure"])
@pytest.mark.parametrize("kind", ["Adam", "accumulator", "ours", "unquantized SGD"])
def test_steps_without_gradients_do_not_count(same, kind, closure):
    """As programs make them before their first, to please a schedule."""
    expected, run = uninterrupted(kind), Run(kind)
    for _ in range(STEPS):
        run.optimizer.step(closure)
        run.step()
    assert run.averager.n_averaged == STEPS
    same(run.result(), expected)


def test_state_of_a_training_before_quantization_is_no_placeholder():
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], 0.125, momentum=0.5)
    p.grad = torch.ones(3)
    optimizer.step()
    quantize_optimizer(optimizer, Recipe("fixed<16,8>"), seed=0)
    p.grad = torch.zeros(3)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].tolist() == [0.5] * 3


def test_accelerate_saves_and_resumes_at_each_step(same, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def prepared():
        run = Run("Adam")
        accelerator = accelerate.Accelerator(cpu=True)
        run.model, run.optimizer = accelerator.prepare(run.model, run.optimizer)
        with pytest.raises(ValueError, match="attached to this Adam already"):
            run.averager.attach(run.optimizer)
        accelerator.register_for_checkpointing(run.averager)
        return run, accelerator

    expected = uninterrupted("Adam")
    run, accelerator = prepared()
    for step in range(STEPS):
        accelerator.save_state(tmp_path / str(step))
        run.step()
    same(run.result(), expected)
    for first in range(STEPS):
        resumed, accelerator = prepared()
        accelerator.load_state(tmp_path / str(first))
        resumed.done = first
        while resumed.done < STEPS:
            resumed.step()
        same(resumed.result(), expected)


SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
from tests.adapters.torch.test_resume import STEPS, Run

folder, order = Path(sys.argv[1]), sys.argv[2].split(",")
run, files = Run("accumulator"), sorted(folder.glob("*.pt"))
if files:
    run.restore(torch.load(files[-1], weights_only=True), order)
    run.done = len(files)
while run.done < STEPS:
    run.step()
    torch.save(run.save(), folder / f"{run.done}.pt.new")
    (folder / f"{run.done}.pt.new").rename(folder / f"{run.done}.pt")
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
torch.save(run.result(), folder / "result")
"""


def test_a_run_killed_after_each_step_and_resumed_by_another_process(same, tmp_path):
    orders = ["optimizer,averager,model", "averager,model,optimizer", "model,optimizer,averager"]
    for order, end in zip(orders, ["killed", "killed", "finished"], strict=True):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), order, end]
        found = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
        assert found.returncode == (-signal.SIGKILL if end == "killed" else 0)
    same(torch.load(tmp_path / "result", weights_only=True), uninterrupted("accumulator"))
