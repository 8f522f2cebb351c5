"""Batch-normalization statistics against those of all data at once."""

import pytest
import torch
from qemu_swalp_torch import update_bn
from torch import nn


@pytest.mark.parametrize("sizes", [[64, 8], [3, 3, 3], [2, 40]], ids=str)
@pytest.mark.parametrize("spatial", [(), (5,), (3, 2)], ids=str)
def test_statistics_are_those_of_all_data_pooled(sizes, spatial):
    layer = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[len(spatial)](4)
    data = torch.randn(sum(sizes), 4, *spatial) * 3 + torch.arange(sum(sizes)).reshape(
        -1, *[1] * (1 + len(spatial))
    )
    update_bn(data.split(sizes), layer)
    flat = data.double().movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(layer.running_mean.double(), flat.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var.double(), flat.var(0), rtol=1e-6, atol=0)
    assert layer.num_batches_tracked == len(sizes)


def test_it_is_not_pytorchs_mean_of_batch_means():
    data = [torch.zeros(64, 1), torch.full((8, 1), 9.0)]
    ours, theirs = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    update_bn(data, ours)
    torch.optim.swa_utils.update_bn(data, theirs)
    assert ours.running_mean.item() == 1.0
    assert theirs.running_mean.item() == 4.5


def test_modes_momenta_and_hooks_are_as_before():
    model = nn.Sequential(
        nn.BatchNorm1d(2, momentum=0.3), nn.Dropout(), nn.BatchNorm1d(2, track_running_stats=False)
    )
    model.eval()
    model[1].train()
    update_bn([torch.randn(4, 2)], model)
    assert [m.training for m in model.modules()] == [False, False, True, False]
    assert model[0].momentum == 0.3
    assert not model[0]._forward_pre_hooks


def test_an_exception_leaves_the_statistics_as_they_were(same):
    model = nn.Sequential(nn.BatchNorm1d(2)).eval()
    update_bn([torch.randn(4, 2)], model)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def loader():
        yield torch.randn(4, 2)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        update_bn(loader(), model)
    with pytest.raises(ValueError, match="loader must give at least one batch, got none"):
        update_bn([], model)
    with pytest.raises(TypeError, match=r"a batch must be a tensor, .* got dict; pass call_fn="):
        update_bn([{"x": torch.randn(4, 2)}], model)
    same(before, dict(model.state_dict()))
    assert not model.training
    assert not model[0]._forward_pre_hooks


def test_batches_of_other_forms():
    model = nn.Sequential(nn.BatchNorm1d(1))
    x = torch.tensor([[1.0], [3.0]])
    for batch, call in (([x, 0], None), ((x,), None), ({"x": x}, lambda m, b: m(b["x"]))):
        model[0].reset_running_stats()
        update_bn([batch], model, call_fn=call, device=torch.device("cpu"))
        assert model[0].running_mean.item() == 2.0


def test_a_model_without_batch_normalization_is_not_run():
    update_bn(iter(lambda: pytest.fail("read"), None), nn.Linear(1, 1))
