"""What is averaged: the model as it is now, by the tensors that are asked for."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from qemu_swalp_torch import Averager, quantize_optimizer
from torch import nn

from qemu_swalp.training import ASWA, EMA, LAWA, SWAG, Averaging, swalp


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def fill(model, value):
    for p in model.parameters():
        nn.init.constant_(p, value)


def values(average):
    return {name: x.flatten()[0].item() for name, x in average.items()}


class TestTheModelAsItIs:
    def test_a_replaced_head_is_followed(self):
        model = network()
        averager = Averager(model)
        model[2] = nn.Linear(4, 2)
        fill(model, 2.0)
        averager.update()
        assert values(averager.average())["2.weight"] == 2.0
        model[2] = nn.Linear(4, 2)
        fill(model, 4.0)
        averager.update()
        assert values(averager.average())["2.weight"] == 3.0
        with averager.swap():
            assert model[2].bias.tolist() == [3.0, 3.0]

    def test_or_refused_by_name_where_it_does_not_fit(self, same):
        model = network()
        averager = Averager(model)
        averager.update()
        before = averager.average()
        model[2] = nn.Linear(4, 1)
        with pytest.raises(ValueError, match=r"2.weight has shape \(1, 4\) now, \(2, 4\) in"):
            averager.update()
        with pytest.raises(ValueError, match=r"2.weight has shape \(1, 4\) in model, \(2, 4\)"):
            averager.swap().__enter__()
        model[2] = nn.Linear(4, 2, bias=False)
        with pytest.raises(ValueError, match=r"in one only: 2.bias"):
            averager.update()
        with pytest.raises(ValueError, match=r"no parameter 2.bias any more, which was averaged"):
            averager.average()
        model[2] = nn.Linear(4, 2)
        same(averager.average(), before)

    def test_load_state_dict_with_assign_is_followed(self):
        model = network()
        averager = Averager(model)
        loaded = {name: torch.full_like(x, 5) for name, x in model.state_dict().items()}
        model.load_state_dict(loaded, assign=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        averager.attach(optimizer)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert set(values(averager.average()).values()) == {4.5}

    @pytest.mark.parametrize("change", ["assign", "head"])
    def test_a_parameter_that_the_optimizer_no_longer_trains_is_named(self, change):
        model = network()
        optimizer = quantize_optimizer(torch.optim.SGD(model.parameters(), 0.5), swalp(8))
        averager = Averager(model)
        averager.attach(optimizer)
        if change == "head":
            model[2] = nn.Linear(4, 2)
        else:
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        with pytest.raises(RuntimeError, match=r"2.weight, 2.bias in the model is another tensor"):
            optimizer.step()

    def test_an_optimizer_of_other_parameters_is_refused(self):
        averager = Averager(dict(network().named_parameters()))
        with pytest.raises(ValueError, match=r"this SGD has none of the averaged parameters 0"):
            averager.attach(torch.optim.SGD(network().parameters(), 0.1))

    @pytest.mark.parametrize("of", ["pairs", "submodule"])
    def test_tensors_that_nobody_trains_any_more_are_told_of(self, of):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        averager = Averager(model.named_parameters() if of == "pairs" else model[2])
        averager.attach(optimizer)
        if of == "pairs":
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        else:
            model[2] = nn.Linear(4, 2)
        model(torch.ones(2, 3)).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()  # one alone may be made to please a schedule
        with pytest.warns(UserWarning, match=r"no gradient for .*weight, .* averager of the whole"):
            optimizer.step()

    def test_a_layer_added_to_the_optimizer_is_trained_and_averaged(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        averager = Averager(model)
        averager.attach(optimizer)
        model[2] = nn.Linear(4, 2)
        optimizer.add_param_group({"params": list(model[2].parameters())})
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert averager.n_averaged == 1

    @pytest.mark.parametrize(
        "policy", [Averaging(), EMA(decay=0.5), LAWA(size=2), SWAG(rank=2)], ids=str
    )
    def test_fully_shard_is_followed_at_any_time(self, same, policy):
        from torch.distributed.fsdp import fully_shard

        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            results = []
            for when in (None, 0, 2):
                torch.manual_seed(0)
                model = nn.Linear(3, 5)
                averager = Averager(model, policy)
                for step in range(4):
                    if step == when:
                        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
                        fully_shard(model, mesh=mesh)
                    with torch.no_grad():
                        for p in model.parameters():
                            p.add_(0.5)
                    averager.update()
                average = averager.average()
                results.append(
                    {k: x.full_tensor() if when is not None else x for k, x in average.items()}
                )
                with averager.swap():
                    held = model.weight
                    whole = held.full_tensor() if when is not None else held
                    assert torch.equal(whole, results[-1]["weight"])
                if when == 2:
                    plain = Averager(nn.Linear(3, 5), policy)
                    plain.load_state_dict(averager.state_dict())
                    same(plain.average(), results[0])
                    averager.load_state_dict(plain.state_dict())
                    same({k: x.full_tensor() for k, x in averager.average().items()}, results[0])
            same(results[1], results[0])
            same(results[2], results[0])
        finally:
            distributed.destroy_process_group()

    @pytest.mark.parametrize("shape", [(2, 2), (300, 300)], ids=str)
    def test_the_state_goes_where_the_model_is(self, shape):
        """As after a checkpoint that was restored before the model was moved."""
        p = nn.Parameter(torch.ones(shape))
        model = nn.ParameterDict({"p": p})
        averager = Averager(model, EMA(decay=0.5, nonfinite="include"))
        averager.update()
        model.to("meta")
        model["p"] = nn.Parameter(torch.ones(shape, device="meta"))
        averager.update()
        assert averager.average()["p"].device.type == "meta"

    def test_wrappers_have_no_part_in_names(self, same):
        model = network()
        compiled = torch.compile(model, backend="eager")
        averager, plain = Averager(compiled), Averager(model)
        averager.update()
        plain.load_state_dict(averager.state_dict())
        same(plain.average(), averager.average())
        averager.apply_to(model)


class TestChoices:
    def test_buffers(self):
        model = network()
        averager, without = Averager(model, buffers=True), Averager(model)
        for step in range(1, 4):
            model[1].running_mean.fill_(step)
            model[1].num_batches_tracked.fill_(step)
            averager.update()
            without.update()
        assert averager.average()["1.running_mean"].tolist() == [2.0] * 4
        assert "1.num_batches_tracked" not in averager.average()
        assert set(averager.average()) - set(without.average()) == {
            "1.running_mean",
            "1.running_var",
        }
        with averager.swap():
            assert model[1].running_mean.tolist() == [2.0] * 4
        assert model[1].running_mean.tolist() == [3.0] * 4
        other = network()
        averager.apply_to(other)
        assert other[1].running_mean.tolist() == [2.0] * 4
        resumed = Averager(network(), buffers=True)
        resumed.load_state_dict(averager.state_dict())
        with pytest.raises(ValueError, match=r"averages other parameters: 1.running_mean, 1.run"):
            without.load_state_dict(averager.state_dict())

    def test_trainable_parameters_only(self):
        model = network()
        model[0].requires_grad_(False)
        averager = Averager(model, trainable_only=True)
        averager.update()
        assert set(averager.average()) == {"1.weight", "1.bias", "2.weight", "2.bias"}
        both = Averager(model, trainable_only=True, buffers=True)
        assert "1.running_var" in both.parameters
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="must have trainable floating-point parameters to av"):
            Averager(model, trainable_only=True)
        with pytest.raises(TypeError, match="trainable_only must be True or False, got 1"):
            Averager(model, trainable_only=1)

    def test_several_at_once(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        averagers = [Averager(model, EMA(decay=d, warmup=True)) for d in (0.5, 0.99)]
        for averager in averagers:
            averager.attach(optimizer)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert [averager.n_averaged for averager in averagers] == [1, 1]

    def test_attaching_twice_is_refused(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        averager = Averager(model)
        handle = averager.attach(optimizer)
        with pytest.raises(ValueError, match="attached to this SGD already, and would count each"):
            averager.attach(optimizer)
        handle.remove()
        with averager.attach(optimizer):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        optimizer.step()
        assert averager.n_averaged == 1

    def test_a_step_of_a_subclass_counts_once_also_after_one_that_raised(self):
        class Nested(torch.optim.SGD):
            fails = False

            @torch.no_grad()
            def step(self, closure=None):
                super().step(closure)
                if self.fails:
                    raise ArithmeticError
                for p in self.param_groups[0]["params"]:
                    p.mul_(2)

        p = nn.Parameter(torch.ones(1))
        optimizer = Nested([p], 0.0)
        averager = Averager({"p": p})
        averager.attach(optimizer)
        for fails in (False, True, False):
            p.grad, optimizer.fails = torch.ones(1), fails
            try:
                optimizer.step()
            except ArithmeticError:
                continue
        assert averager.n_averaged == 2
        assert averager.average()["p"].item() == 3.0


class TestComplex:
    @pytest.mark.parametrize(
        "policy",
        [
            Averaging(),
            Averaging(quantizer="fixed<12,8>/stochastic"),
            EMA(decay=0.5),
            LAWA(size=2),
            SWAG(rank=2),
            ASWA(score=lambda params: 1.0, accept_ties=True),
        ],
        ids=lambda policy: type(policy).__name__,
    )
    @pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
    def test_complex_parameters_are_averaged_by_their_parts(self, same, policy, dtype):
        p = nn.Parameter(torch.zeros(3, 2, dtype=dtype))
        averager, resumed = Averager({"p": p}, policy), Averager({"p": p}, policy)
        state, generator = policy.init(), torch.Generator().manual_seed(0)
        for step in range(1, 5):
            with torch.no_grad():
                p.copy_(torch.randn(3, 2, generator=generator, dtype=dtype))
            averager.update()
            parts = torch.view_as_real(p.detach()).numpy().copy()
            state = policy.update({"p": parts}, state, step)
        average = averager.average()["p"]
        assert average.dtype == averager.dtype_of("p") == dtype
        same(torch.view_as_real(average), policy.average(state)["p"])
        resumed.load_state_dict(averager.state_dict())
        same(torch.view_as_real(resumed.average()["p"]), policy.average(state)["p"])
        iterate = p.detach().clone()
        with averager.swap():
            assert torch.equal(p, average)
        assert torch.equal(p, iterate)


class TestNonfinite:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
    def test_is_refused_or_skipped(self, dtype):
        p, q = nn.Parameter(torch.ones(2, dtype=dtype)), nn.Parameter(torch.ones(2))
        refusing = Averager({"p": p, "q": q})
        skipping = Averager({"p": p, "q": q}, nonfinite="skip")
        for averager in (refusing, skipping):
            averager.update()
        with torch.no_grad():
            p[1] = math.nan
        skipping.update()
        with pytest.raises(ValueError, match="NaN in p, which would stay in it; make Averaging wi"):
            refusing.update()
        with torch.no_grad():
            p.fill_(3)
        for averager in (refusing, skipping):
            averager.update()
            assert averager.n_averaged == 2
            assert averager.average()["p"].tolist() == [2.0, 2.0]
        assert skipping.step == 3

    def test_a_refused_iterate_leaves_the_average_in_an_attached_run(self):
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], 1.0)
        averager = Averager({"p": p})
        averager.attach(optimizer)
        for gradient in (1.0, np.inf):
            p.grad = torch.full((2,), gradient)
            if gradient == 1.0:
                optimizer.step()
        with pytest.raises(ValueError, match="needs finite weights, and after step 2"):
            optimizer.step()
        assert averager.average()["p"].tolist() == [0.0, 0.0]

    def test_on_shards_all_ranks_decide_alike(self):
        from torch.distributed.fsdp import fully_shard

        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            model = nn.Linear(3, 5)
            fully_shard(model, mesh=distributed.device_mesh.init_device_mesh("cpu", (1,)))
            averager = Averager(model, nonfinite="skip")
            averager.update()
            with torch.no_grad():
                model.weight.to_local()[0, 0] = math.inf
            averager.update()
            assert averager.n_averaged == 1
        finally:
            distributed.destroy_process_group()
