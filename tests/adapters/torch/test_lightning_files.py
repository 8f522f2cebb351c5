"""What Lightning's checkpoints hold of weights and averages, and what goes on from them, to the
bit.
"""

import pytest
import torch
from qemu_swalp_torch import Averager
from qemu_swalp_torch.lightning import average_callback
from torch.utils.data import DataLoader, TensorDataset

from qemu_swalp.training import EMA
from tests.adapters.torch.test_lightning import BATCH, STEPS, Module, loader, state, trainer

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


def parts(save_average, **options):
    module = Module()
    averager = Averager(module.net, EMA(decay=0.5))
    return module, averager, average_callback(averager, save_average=save_average, **options)


def fitted(tmp_path, callback, module, *more, **options):
    runner = trainer(tmp_path, callback, *more, **options)
    runner.fit(module, loader(), loader())
    return runner


def weights_of(path):
    saved = torch.load(path, weights_only=False)["state_dict"]
    return {k.removeprefix("net."): x for k, x in saved.items() if k.startswith("net.")}


def test_checkpoints_hold_the_average_or_the_iterate_and_both_resume(same, tmp_path):
    whole, averager, callback = parts(save_average=False)
    fitted(tmp_path, callback, whole, max_epochs=2)
    for saved_average in (True, False):
        module, half, callback = parts(saved_average)
        runner = fitted(tmp_path, callback, module)
        path = tmp_path / f"{saved_average}.ckpt"
        runner.save_checkpoint(path)
        shown = state(module) | (half.average() if saved_average else {})
        same(weights_of(path), shown)
        same(state(Module.load_from_checkpoint(path, weights_only=False)), shown)
        for save_average in (True, False):
            resumed, ours, callback = parts(save_average)
            options = {"ckpt_path": path, "weights_only": False}
            trainer(tmp_path, callback, max_epochs=2).fit(resumed, loader(), loader(), **options)
            same(state(resumed), state(whole))
            same(ours.average(), averager.average())
            assert ours.n_averaged == averager.n_averaged == 2 * STEPS


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("save_average", [True, False])
def test_a_file_that_is_saved_while_the_average_is_shown(
    same, tmp_path, save_average, weights_only
):
    """It holds what it holds at other times; of a refreshed batch normalization what fits."""
    path = tmp_path / "net.ckpt"

    class Saves(lightning.Callback):
        def on_validation_batch_end(self, trainer, module, *_):
            trainer.save_checkpoint(path, weights_only=weights_only)

    module, averager, callback = parts(save_average, batchnorm_data=loader())
    fitted(tmp_path, callback, module, Saves())
    shown = module.seen[0] if save_average else state(module)
    same(weights_of(path), shown)
    assert not torch.equal(state(module)["0.weight"], averager.average()["0.weight"])
    if not weights_only:
        resumed, ours, callback = parts(save_average)
        begun = []
        look = lightning.callbacks.LambdaCallback(
            on_train_start=lambda *_: begun.extend([state(resumed), ours.average()])
        )
        options = {"ckpt_path": path, "weights_only": False}
        trainer(tmp_path, callback, look).fit(resumed, loader(), **options)
        same(begun[0], state(module))
        same(begun[1], averager.average())


@pytest.mark.parametrize("saving_first", [True, False])
def test_a_file_of_one_average_that_is_saved_while_another_is_shown(same, tmp_path, saving_first):
    path = tmp_path / "net.ckpt"

    class Saves(lightning.Callback):
        def on_validation_batch_end(self, trainer, module, *_):
            trainer.save_checkpoint(path)

    module = Module()
    shown, saved = Averager(module.net, EMA(decay=0.25)), Averager(module.net, EMA(decay=0.75))
    ours = [average_callback(shown, validate=True), average_callback(saved, save_average=True)]
    ours = ours[::-1] if saving_first else ours
    fitted(tmp_path, ours[0], module, ours[1], Saves())
    iterate, average = state(module), saved.average()
    same({k: x for k, x in module.seen[0].items() if k in average}, shown.average())
    same(weights_of(path), iterate | average)
    states = torch.load(path, weights_only=False)["callbacks"].values()
    same(next(s["iterate"] for s in states if "iterate" in s), iterate)


def test_tied_weights_hold_the_average_under_each_of_their_names(same, tmp_path):
    module, averager, callback = parts(save_average=True)
    module.other.weight = module.net[0].weight
    runner = fitted(tmp_path, callback, module)
    runner.save_checkpoint(tmp_path / "net.ckpt")
    held = torch.load(tmp_path / "net.ckpt", weights_only=False)["state_dict"]
    average = averager.average()["0.weight"]
    for name in ("net.0.weight", "other.weight"):
        same({name: held[name]}, {name: average})
    assert held["net.0.weight"].data_ptr() == held["other.weight"].data_ptr()


class Resumable(DataLoader):
    """Which goes on where it was: Lightning asks those that can."""

    taken = 0

    def __iter__(self):
        begin = self.taken % len(self)
        for index, batch in enumerate(super().__iter__()):
            if index >= begin:
                self.taken = index + 1
                yield batch

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def resumable():
    x = torch.randn(STEPS * BATCH, 5, generator=torch.Generator().manual_seed(1))
    return Resumable(TensorDataset(x, x[:, :2]), BATCH)


@pytest.mark.parametrize("save_average", [True, False])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_checkpoint_from_amid_an_epoch(same, tmp_path, accumulated, save_average):
    saver = {"dirpath": tmp_path, "filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
    options = {"enable_checkpointing": True, "accumulate_grad_batches": accumulated}
    whole, averager, callback = parts(save_average)
    every = lightning.callbacks.ModelCheckpoint(**saver)
    runner = trainer(tmp_path, callback, every, max_epochs=2, **options)
    runner.fit(whole, resumable())
    step = STEPS // accumulated // 2
    module, ours, callback = parts(save_average)
    resumed = trainer(tmp_path, callback, max_epochs=2, **options)
    path = tmp_path / f"step={step}.ckpt"
    resumed.fit(module, resumable(), ckpt_path=path, weights_only=False)
    same(state(module), state(whole))
    same(ours.average(), averager.average())
    assert ours.n_averaged == averager.n_averaged == 2 * STEPS // accumulated


def test_lightning_tells_of_data_that_does_not_go_on(tmp_path):
    module, _, callback = parts(save_average=False)

    class Saves(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if index == 1:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    trainer(tmp_path, callback, Saves()).fit(module, loader())
    module, _, callback = parts(save_average=False)
    options = {"ckpt_path": tmp_path / "mid.ckpt", "weights_only": False}
    with pytest.warns(UserWarning, match="ended before the epoch ended and your dataloader is not"):
        trainer(tmp_path, callback).fit(module, loader(), **options)


def test_errors(tmp_path):
    module, averager, callback = parts(save_average=True)
    second = average_callback(Averager(module.net), save_average=True)
    with pytest.raises(ValueError, match=r"one average .*two callbacks have save_average=True"):
        fitted(tmp_path, callback, module, second)
    with pytest.raises(TypeError, match="save_average must be True or False"):
        average_callback(averager, save_average=1)
    averager.update()
    with pytest.raises(ValueError, match="model lacks the averaged parameters nowhere"):
        averager.set_iterate({"nowhere": torch.zeros(1)})
    for kept in ({}, {"0.weight": averager.iterate()["0.weight"]}):
        with pytest.raises(ValueError, match=r"the iterate lacks .*3\.bias"):
            averager.set_iterate(kept)
    with averager.swap(), pytest.raises(RuntimeError, match=r"set_iterate\(\) within swap"):
        averager.set_iterate({})
    runner = fitted(tmp_path, callback, module)
    module.net, module.kept = torch.nn.Identity(), [module.net]
    with pytest.raises(ValueError, match="the checkpoint has it under no name"):
        runner.save_checkpoint(tmp_path / "net.ckpt")
