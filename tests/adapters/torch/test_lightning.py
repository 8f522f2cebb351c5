"""Averages in Lightning's loop: interrupted, resumed, several, with any of the optimizers."""

import pytest
import torch
from qemu_swalp_torch import Averager, quantize_activations, quantize_optimizer, update_bn
from qemu_swalp_torch.lightning import average_callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qemu_swalp.training import EMA, Recipe, swalp

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

NEAREST = {"weight": "bfp<8,axis=0>", "activation": "bfp8", "error": "bfp8"}
RECIPE = Recipe(**(swalp(8).to_dict() | NEAREST))
STEPS, BATCH = 6, 4


def loader():
    x = torch.randn(STEPS * BATCH, 5, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :2]), BATCH)


class Module(lightning.LightningModule):
    """Raises in the training step or validation of that number."""

    def __init__(self, fail_at=None, fail_in_validation=False):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
        self.net, self.other = nn.Sequential(*layers), nn.Linear(1, 1)
        quantize_activations(self.net, RECIPE, modules=nn.ReLU)
        self.fail_at, self.fail_in_validation = fail_at, fail_in_validation
        self.seen = []

    def configure_optimizers(self):
        return quantize_optimizer(
            torch.optim.SGD(self.net.parameters(), 0.05, momentum=0.9), RECIPE, seed=3
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        if index == self.fail_at:
            raise ArithmeticError("interrupted")
        x, y = batch
        return (self.net(x) - y).square().mean()

    def validation_step(self, batch, index):
        self.seen.append({k: v.clone() for k, v in self.net.state_dict().items()})
        if self.fail_in_validation:
            raise KeyboardInterrupt

    def test_step(self, batch, index):
        self.validation_step(batch, index)

    def predict_step(self, batch, index):
        self.validation_step(batch, index)


def trainer(folder, *callbacks, **options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        limit_val_batches=1,
        **{"max_epochs": 1, "enable_checkpointing": False, **options},
    )


def state(module):
    return {k: v.clone() for k, v in module.net.state_dict().items()}


def test_each_step_counts_once_after_an_exception(tmp_path):
    module = Module(fail_at=3)
    averager = Averager(module.net)
    callback = average_callback(averager)
    with pytest.raises(ArithmeticError):
        trainer(tmp_path, callback).fit(module, loader())
    assert averager.n_averaged == 3
    assert not averager.attached
    module.fail_at = None
    trainer(tmp_path, callback).fit(module, loader())
    assert averager.n_averaged == 3 + STEPS
    trainer(tmp_path, average_callback(averager)).fit(module, loader())
    assert averager.n_averaged == 3 + 2 * STEPS


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_an_interrupted_validation_gives_the_iterate_back(same, tmp_path, error):
    module = Module(fail_in_validation=error is not None)
    averager = Averager(module.net)
    callback = average_callback(averager)
    weights = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            weights.append(state(module))

    runner = trainer(tmp_path, callback, Watch())
    if error:
        with pytest.raises(SystemExit):
            runner.fit(module, loader(), loader())
    else:
        runner.fit(module, loader(), loader())
    same(module.seen[0] | averager.average(), module.seen[0])
    same(state(module), weights[-1])
    assert not averager.swapped
    module.fail_in_validation = False
    trainer(tmp_path, callback).fit(module, loader(), loader())
    assert averager.n_averaged == 2 * STEPS


def test_several_averages_are_kept_saved_and_resumed(same, tmp_path):
    def parts():
        module = Module()
        averagers = [
            Averager(module.net),
            Averager(module.net, EMA(decay=0.5)),
            Averager(module.net, EMA(decay=0.75)),
        ]
        return module, averagers, [average_callback(averager) for averager in averagers]

    module, unbroken, callbacks = parts()
    trainer(tmp_path, *callbacks, max_epochs=2).fit(module, loader(), loader())
    same(module.seen[1] | unbroken[0].average(), module.seen[1])
    half, _, callbacks = parts()
    first = trainer(tmp_path, *callbacks)
    first.fit(half, loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed, averagers, callbacks = parts()
    trainer(tmp_path, *callbacks, max_epochs=2).fit(
        resumed, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False
    )
    for ours, theirs in zip(averagers, unbroken, strict=True):
        assert ours.n_averaged == 2 * STEPS
        same(ours.average(), theirs.average())
    other = Module()
    with pytest.raises(ValueError, match=r"the checkpoint has no state of the average .*0.125"):
        trainer(tmp_path, average_callback(Averager(other.net, EMA(decay=0.125)))).fit(
            other, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False
        )


def test_two_averages_of_one_model_cannot_both_be_shown(same, tmp_path):
    module = Module()
    mean, ema = Averager(module.net), Averager(module.net, EMA(decay=0.5))
    callbacks = [average_callback(averager, validate=True) for averager in (mean, ema)]
    with pytest.raises(ValueError, match=r"shows one average of a model, .* pass validate=False"):
        trainer(tmp_path, *callbacks).fit(module, loader())
    chosen = average_callback(mean), average_callback(ema, validate=True)
    trainer(tmp_path, *chosen).fit(module, loader(), loader())
    same(module.seen[0] | ema.average(), module.seen[0])


@pytest.mark.parametrize("call", ["validate", "test", "predict"])
def test_the_average_is_shown_to(same, tmp_path, call):
    module = Module()
    averager = Averager(module.net)
    runner = trainer(tmp_path, average_callback(averager), limit_test_batches=1)
    runner.fit(module, loader())
    iterate = state(module)
    getattr(runner, call)(module, loader())
    same(module.seen[0] | averager.average(), module.seen[0])
    same(state(module), iterate)


@pytest.mark.parametrize("how", ["inputs", "call_fn"])
def test_batch_normalization_is_refreshed_for_the_average(same, tmp_path, how):
    module = Module()
    averager = Averager(module.net)
    call_fn = (lambda net, batch: net(batch[0])) if how == "call_fn" else None
    callback = average_callback(averager, batchnorm_data=loader(), call_fn=call_fn)
    trainer(tmp_path, callback).fit(module, loader(), loader())
    iterate = state(module)
    fresh = Module()
    from qemu_swalp_torch import disabled

    averager.apply_to(fresh.net)
    with disabled(fresh):
        update_bn(loader(), fresh.net)
    same(module.seen[0], state(fresh))
    assert not torch.equal(module.seen[0]["1.running_mean"], iterate["1.running_mean"])


def test_the_optimizer_is_chosen(tmp_path):
    class Two(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return torch.optim.SGD(self.other.parameters(), 0.1), super().configure_optimizers()

        def training_step(self, batch, index):
            first, second = self.optimizers()
            second.zero_grad()
            self.manual_backward((self.net(batch[0]) - batch[1]).square().mean())
            second.step()
            if index % 2:
                self.manual_backward(self.other(batch[0][:, :1]).sum())
                first.step()

    module = Two()
    averager, other = Averager(module.net), Averager(module.other)
    callbacks = average_callback(averager, optimizer=1), average_callback(other)
    trainer(tmp_path, *callbacks).fit(module, loader())
    assert (averager.n_averaged, other.n_averaged) == (STEPS, STEPS // 2)
    with pytest.raises(ValueError, match="optimizer=2 is the index of none of the trainer's 2 opt"):
        trainer(tmp_path, average_callback(averager, optimizer=2)).fit(module, loader())


def test_errors():
    averager = Averager(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="validate must be True or False, got 1"):
        average_callback(averager, validate=1)
    with pytest.raises(TypeError, match="optimizer must be an integer from 0"):
        average_callback(averager, optimizer="sgd")
    with pytest.raises(TypeError, match="name must be a string or None, got 3"):
        average_callback(averager, name=3)
    with pytest.raises(TypeError, match="batchnorm_data needs an averager of a module"):
        average_callback(Averager({"p": torch.zeros(1)}), batchnorm_data=[])
