"""The schedule against the core's, group by group."""

import io

import pytest
import torch
from qemu_swalp_torch import SWALPLR

from qemu_swalp.training import SWALPSchedule


def optimizer(*rates):
    return torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates], lr=1
    )


@pytest.mark.parametrize(
    ("swa_lr", "each"), [(0.01, [0.01, 0.01]), ([0.02, 0.03], [0.02, 0.03]), (None, [None, None])]
)
def test_rates_are_the_cores(swa_lr, each):
    opt = optimizer(0.05, torch.tensor(0.1))
    scheduler = SWALPLR(opt, swa_start=20, swa_lr=swa_lr, decay_end=0.8)
    expected = [
        SWALPSchedule(float(torch.tensor(lr)) if i else lr, 20, swa, decay_end=0.8)
        for i, (lr, swa) in enumerate(zip((0.05, 0.1), each, strict=True))
    ]
    for epoch in range(30):
        assert opt.param_groups[0]["lr"] == expected[0](epoch)
        assert opt.param_groups[1]["lr"].item() == pytest.approx(expected[1](epoch), rel=1e-6)
        opt.step()
        scheduler.step()


def test_resumes():
    opt, again = optimizer(0.05), optimizer(0.05)
    a, b = SWALPLR(opt, swa_start=10, swa_lr=0.01), SWALPLR(again, swa_start=10, swa_lr=0.01)
    for _ in range(7):
        opt.step()
        a.step()
    file = io.BytesIO()
    torch.save([a.state_dict(), opt.state_dict()], file)
    file.seek(0)
    scheduler, optimizer_ = torch.load(file, weights_only=True)
    b.load_state_dict(scheduler)
    again.load_state_dict(optimizer_)
    for _ in range(5):
        for o, s in ((opt, a), (again, b)):
            o.step()
            s.step()
        assert a.get_last_lr() == b.get_last_lr()


def test_errors():
    for options, words in (
        ({"swa_lr": [0.1, 0.2]}, "one for each of the 1 param_groups"),
        ({"swa_lr": -1.0}, "must be positive"),
        ({"floor": 2}, "floor must be above 0"),
        ({"decay_start": 0.95}, "decay_start and decay_end"),
    ):
        opt = optimizer(0.05)
        with pytest.raises(ValueError, match=words):
            SWALPLR(opt, swa_start=10, **options)
        assert "initial_lr" not in opt.param_groups[0]
    with pytest.raises(ValueError, match="start must be at least 0"):
        SWALPLR(optimizer(0.05), swa_start=-1)
    with pytest.raises(ValueError, match="must be positive"):
        SWALPLR(optimizer(0.0), swa_start=10)
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, got int"):
        SWALPLR(3, swa_start=10)
