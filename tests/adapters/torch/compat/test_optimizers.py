"""Contracts of the private API of PyTorch that `qemu_swalp_torch._compat.optimizers` touches.

A failure here says that this release of PyTorch changed an item: mend that item, and nothing else.
"""

import pytest
import torch
from qemu_swalp_torch import _compat
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.adapters.torch.compat.conftest import changed


def test_has_step_hooks():
    class Without(torch.optim.Optimizer):
        def __init__(self):
            self.param_groups = []

    with_hooks = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    assert _compat.has_step_hooks(with_hooks), changed("has_step_hooks")
    assert not _compat.has_step_hooks(Without()), changed("has_step_hooks")
    with pytest.raises(AttributeError):
        Without().register_step_post_hook(print)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Rprop])
def test_step_without_hooks(kind):
    told, p = [], nn.Parameter(torch.ones(1))
    opt = kind([p], 0.1)
    opt.register_step_pre_hook(lambda *_: told.append("before"))
    opt.register_step_post_hook(lambda *_: told.append("after"))
    handle = register_optimizer_step_pre_hook(lambda *_: told.append("of all"))
    p.grad = torch.ones(1)
    try:
        _compat.step_without_hooks(opt)
        assert not told, changed("step_without_hooks")
        assert p.item() != 1, changed("step_without_hooks")
        opt.step()
    finally:
        handle.remove()
    assert sorted(told) == ["after", "before", "of all"]


def test_run_first_after_step():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_post_hook(lambda *_: order.append("earlier"))
    handle = opt.register_step_post_hook(lambda *_: order.append("ours"))
    _compat.run_first_after_step(opt, handle)
    opt.step()
    assert order == ["ours", "earlier"], changed("run_first_after_step")


def test_run_first_before_step():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_pre_hook(lambda *_: order.append("earlier"))
    handle = opt.register_step_pre_hook(lambda *_: order.append("ours"))
    _compat.run_first_before_step(opt, handle)
    opt.step()
    assert order == ["ours", "earlier"], changed("run_first_before_step")


def test_keep_step_hooks():
    order = []
    opt = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    opt.register_step_post_hook(lambda *_: order.append("theirs"))
    handle = opt.register_step_post_hook(lambda *_: order.append("ours"))
    copy = object.__new__(type(opt))
    copy.__dict__ |= opt.__dict__
    _compat.keep_step_hooks(copy, [handle])
    copy.step()
    assert order == ["ours"], changed("keep_step_hooks")
    opt.step()
    assert order == ["ours", "theirs", "ours"], changed("keep_step_hooks")


def test_a_pre_hook_may_replace_the_optimizer_that_steps():
    """`optim.float32_step` rests on it: documented of the arguments, the first among them."""
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    opt, other = torch.optim.SGD([p], 1.0), torch.optim.SGD([q], 1.0)
    seen = []
    opt.register_step_pre_hook(lambda o, args, kwargs: ((other, *args[1:]), kwargs))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append((o, args[0])))
    opt.step()
    item = "profile_hook_step: what pre-hooks return"
    assert (p.item(), q.item()) == (1, 0), changed(item)
    assert [(a is opt, b is other) for a, b in seen] == [(True, True)], changed(item)


def test_complete_lbfgs():
    p = nn.Parameter(torch.ones(2))
    opt = torch.optim.LBFGS([p])
    assert opt._params is opt.param_groups[0]["params"], changed("complete_lbfgs")
    del opt._params, opt._numel_cache
    _compat.complete_lbfgs(opt)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    opt.step(closure)
    assert p.abs().max() < 1, changed("complete_lbfgs")
