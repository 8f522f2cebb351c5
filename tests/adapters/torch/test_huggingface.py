"""transformers' Trainer and Accelerate: uninterrupted, resumed and with evaluation the same bits in
every section of a recipe.
"""

import gc
import shutil
import weakref

import pytest
import torch
from qemu_swalp_torch import (
    Averager,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from qemu_swalp_torch.huggingface import checkpoint_callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qemu_swalp.training import EMA, Recipe
from tests.helpers.trainer import trainer_of

RECIPE = Recipe(
    weight="fixed<8,5>/stochastic",
    gradient="fixed<8,7>/stochastic",
    momentum="fixed<8,7>/stochastic",
    activation="fixed<8,4>/stochastic",
    error="fixed<8,7>/stochastic",
    operands={"input": "fixed<8,5>/stochastic", "error": "fixed<8,7>/stochastic"},
    elementwise="bf16/stochastic",
)
STEPS, BATCH = 6, 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 2))

    def forward(self, x, labels=None):
        y = self.layers(x)
        return {"loss": (y - labels).square().mean(), "logits": y}


class Parts:
    """A model, all of whose sections are rounded, its optimizer and its average."""

    def __init__(self):
        self.model = Net()
        self.handles = [
            call(self.model, RECIPE)
            for call in (quantize_activations, quantize_gemms, quantize_elementwise)
        ]
        sgd = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.optimizer = quantize_optimizer(sgd, RECIPE)
        self.averager = Averager(self.model, start=1, quantizer="fixed<9,6>/stochastic")

    def results(self):
        return {
            **self.model.state_dict(),
            **{f"average.{k}": v for k, v in self.averager.average().items()},
        }


def data():
    x = torch.randn(STEPS * BATCH, 5, generator=torch.Generator().manual_seed(1))
    return x, x[:, :2].contiguous()


def trainer(folder, parts, *callbacks, evaluates=False):
    arguments = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": 2,
    }
    return trainer_of(
        folder,
        parts.model,
        data(),
        arguments,
        optimizers=(parts.optimizer, None),
        callbacks=list(callbacks) or [checkpoint_callback(parts.averager, parts.handles)],
    )


def test_a_trainer_uninterrupted_resumed_and_with_evaluation(same, tmp_path):
    runs = [Parts() for _ in range(3)]  # three seeds: those of the first come by its checkpoint
    trainer(tmp_path / "a", runs[0]).train()
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    trainer(tmp_path / "b", runs[1]).train(resume_from_checkpoint=checkpoint)
    trainer(tmp_path / "c", runs[2], evaluates=True).train(resume_from_checkpoint=checkpoint)
    for run in runs[1:]:
        same(run.results(), runs[0].results())
        assert [h.state_dict()["layers.0"]["training"] for h in run.handles[:2]] == [STEPS] * 2


def fail(folder, parts, callback):
    """A training that ends by an exception after its third step."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    class Fails(transformers.TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == 3:
                raise ArithmeticError

    with pytest.raises(ArithmeticError):
        trainer(folder, parts, callback, Fails()).train()


def test_each_step_counts_once_after_an_exception(tmp_path):
    parts = Parts()
    ours = checkpoint_callback(parts.averager)
    for folder, callback in ("a", ours), ("b", checkpoint_callback(parts.averager)):
        fail(tmp_path / folder, parts, callback)
    assert parts.averager.step == 6
    trainer(tmp_path / "last", parts, ours).train()
    assert parts.averager.step == 6 + STEPS
    assert not parts.averager.attached


def test_an_exception_keeps_no_average_in_memory(tmp_path):
    parts = Parts()
    averager = weakref.ref(parts.averager)
    fail(tmp_path, parts, checkpoint_callback(parts.averager))
    del parts
    gc.collect()
    assert averager() is None


def test_several_averages_are_resumed_and_two_callbacks_refused(same, tmp_path):
    def parts():
        part = Parts()
        part.ema = Averager(part.model, EMA(decay=0.5))
        return part, checkpoint_callback([part.averager, part.ema], part.handles)

    (first, saving), (second, loading) = parts(), parts()
    trainer(tmp_path / "a", first, saving).train()
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    trainer(tmp_path / "b", second, loading).train(resume_from_checkpoint=checkpoint)
    same(second.results(), first.results())
    same(second.ema.average(), first.ema.average())
    both = checkpoint_callback(first.averager), checkpoint_callback(first.ema)
    with pytest.raises(ValueError, match="2 checkpoint_callbacks, which would write one file"):
        trainer(tmp_path / "c", first, *both).train()
    with pytest.raises(ValueError, match="of 2 averagers and 3 handles, this callback of 1 aver"):
        checkpoint_callback(first.averager).load(checkpoint)


def test_a_moved_checkpoint_is_refused_and_loaded_by_name(same, tmp_path):
    first, second = Parts(), Parts()
    trainer(tmp_path / "a", first).train()
    shutil.move(tmp_path / "a", tmp_path / "b")
    checkpoint = str(tmp_path / "b" / "checkpoint-3")
    with pytest.raises(ValueError, match="if the checkpoint was moved, call load"):
        trainer(tmp_path / "c", Parts()).train(resume_from_checkpoint=checkpoint)
    resumed = trainer(tmp_path / "c", second)
    (callback,) = (c for c in resumed.callback_handler.callbacks if hasattr(c, "load"))
    callback.load(checkpoint)
    resumed.train(resume_from_checkpoint=checkpoint)
    same(second.results(), first.results())


def test_accelerate_resumes_with_evaluation_to_the_same_bits(same, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def run(resumed=False, evaluates=False):
        parts, accelerator = Parts(), accelerate.Accelerator(cpu=True)
        loader = DataLoader(TensorDataset(*data()), BATCH)
        model, optimizer, loader = accelerator.prepare(parts.model, parts.optimizer, loader)
        accelerator.register_for_checkpointing(parts.averager, *parts.handles)
        parts.averager.attach(parts.optimizer)
        if resumed:
            accelerator.load_state(tmp_path)
        for step, (x, y) in enumerate(loader):
            if resumed and step < 3:
                continue
            optimizer.zero_grad()
            accelerator.backward(model(x, y)["loss"])
            optimizer.step()
            if evaluates:
                with torch.no_grad():
                    model.eval()(x, y)
                model.train()
            if step == 2 and not resumed:
                accelerator.save_state(tmp_path)
        return parts.results()

    unbroken = run()
    same(run(resumed=True), unbroken)
    same(run(resumed=True, evaluates=True), unbroken)


def test_arguments():
    with pytest.raises(TypeError, match=r"qemu_swalp_torch\.Averager, several of them or None"):
        checkpoint_callback(3)
    with pytest.raises(TypeError, match="handles must be what quantize_activations"):
        checkpoint_callback(None, [3])
