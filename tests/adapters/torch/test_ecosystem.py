"""Inside the training loops of others, to the bits of a loop of one's own. Each example runs where
its package is.
"""

import pytest
import torch
from qemu_swalp_torch import SGD, Averager, quantize_activations, quantize_gemms, quantize_optimizer
from qemu_swalp_torch.lightning import average_callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from qemu_swalp.training import Recipe, swalp
from tests.helpers.trainer import trainer_of

RECIPE = Recipe(**swalp(8).to_dict(), operands={"input": "bfp<6,axis=-1>/stochastic"})
STEPS, BATCH = 6, 4
LENGTH = {"max_steps": STEPS, "per_device_train_batch_size": BATCH}


class Net(nn.Module):
    """Returns what Hugging Face's Trainer asks for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        quantize_activations(self.layers, RECIPE, modules=nn.ReLU, seed=0)
        quantize_gemms(self.layers, RECIPE, seed=0)

    def forward(self, x, labels=None):
        y = self.layers(x)
        return (
            {"logits": y} if labels is None else {"loss": (y - labels).square().mean(), "logits": y}
        )


def data():
    x = torch.randn(STEPS * BATCH, 5, generator=torch.Generator().manual_seed(1))
    return x, x[:, :2].contiguous()


def optimizer_of(model):
    return quantize_optimizer(
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), RECIPE, seed=3
    )


@pytest.fixture
def by_hand():
    """Weights and average of a plain loop."""
    model = Net()
    optimizer, averager = optimizer_of(model), Averager(model)
    averager.attach(optimizer)
    for x, y in zip(*(part.split(BATCH) for part in data()), strict=True):
        optimizer.zero_grad()
        model(x, y)["loss"].backward()
        optimizer.step()
    return dict(model.state_dict()), averager.average()


def test_accelerate(same, by_hand, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    loader = DataLoader(TensorDataset(*data()), BATCH)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer_of(model), loader)
    averager = Averager(model)
    averager.attach(optimizer.optimizer)
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        accelerator.backward(prepared(x, y)["loss"])
        optimizer.step()
        if step == 2:
            accelerator.save_state(tmp_path)
    same(dict(model.state_dict()), by_hand[0])
    same(averager.average(), by_hand[1])
    accelerator.load_state(tmp_path)
    assert optimizer.param_groups[0]["qemu_step"] == 3


def test_hugging_face_trainer_with_an_optimizer(same, by_hand, tmp_path):
    model = Net()
    optimizer, averager = optimizer_of(model), Averager(model)
    averager.attach(optimizer)
    trainer_of(tmp_path, model, data(), LENGTH, optimizers=(optimizer, None)).train()
    same(dict(model.state_dict()), by_hand[0])
    same(averager.average(), by_hand[1])


def test_hugging_face_trainer_with_an_optimizer_class_resumes_to_the_same_bits(
    same, on_grid, tmp_path
):
    def trainer(folder):
        model = Net()
        kind = SGD, {"lr": 0.1, "momentum": 0.9, "recipe": RECIPE, "seed": 3}
        return model, trainer_of(folder, model, data(), LENGTH, optimizer_cls_and_kwargs=kind)

    (unbroken, first), (resumed, second) = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    first.train()
    assert all(on_grid(p, RECIPE.weight) for p in unbroken.parameters())
    for handle in sites(resumed):  # calls are no part of a model's state_dict
        handle.calls = 3
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    same(dict(resumed.state_dict()), dict(unbroken.state_dict()))


def sites(model):
    from qemu_swalp_torch.model.handle import sites_of

    return sites_of(model)


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_lightning(same, by_hand, tmp_path, automatic):
    pytest.importorskip("lightning", reason="lightning is not installed")
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.validated = Net(), []
            self.automatic_optimization = automatic

        def configure_optimizers(self):
            return optimizer_of(self.net)

        def training_step(self, batch, index):
            loss = self.net(*batch)["loss"]
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, index):
            self.validated.append({k: v.clone() for k, v in self.net.state_dict().items()})

    module, loader = Module(), DataLoader(TensorDataset(*data()), BATCH)
    averager = Averager(module.net)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        callbacks=[average_callback(averager)],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
    )
    trainer.fit(module, loader, loader)
    same(dict(module.net.state_dict()), by_hand[0])
    same(averager.average(), by_hand[1])
    same(module.validated[0], by_hand[1])
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    same(
        {name.removeprefix("net."): value for name, value in saved["state_dict"].items()},
        by_hand[0],
    )
    (state,) = [state for state in saved["callbacks"].values() if "n_averaged" in state]
    other = Averager(Net())
    average_callback(other).load_state_dict(state)
    same(other.average(), by_hand[1])


def test_the_callback_takes_an_averager():
    with pytest.raises(TypeError, match=r"averager must be a qemu_swalp_torch\.Averager, got int"):
        average_callback(3)
