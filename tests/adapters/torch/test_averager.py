"""The average: exact, in place, and at the right steps."""

import copy
import io
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu_swalp_torch import SGD, Averager, quantize_optimizer, update_bn

from qemu_swalp.training import Averaging, Recipe, due, swalp


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 5), cycle=st.integers(1, 3), include=st.booleans(), seed=st.integers(0, 100))
def test_is_the_exact_mean_of_the_iterates_that_are_due(start, cycle, include, seed):
    p = parameter(0.0, 0.0)
    averager = Averager({"p": p}, start=start, cycle=cycle, include_start=include)
    generator = torch.Generator().manual_seed(seed)
    taken = []
    for step in range(12):
        with torch.no_grad():
            p.copy_(torch.randint(-128, 128, (2,), generator=generator) / 64)
        averager.update(step)
        if due(step, start, cycle, include):
            taken.append([Fraction(v) for v in p.tolist()])
    assert averager.n_averaged == len(taken)
    mean = [float(sum(column) / len(taken)) for column in zip(*taken, strict=True)]
    assert averager.average()["p"].tolist() == torch.tensor(mean, dtype=torch.float64).float().tolist()


@pytest.mark.parametrize("quantizer", [None, "bfp<9>/stochastic", "fixed<9,6>/nearest_even"])
@pytest.mark.parametrize("shape", [(), (3,), (300, 300)], ids=str)
def test_equals_the_core_on_numpy(same, quantizer, shape):
    p = torch.nn.Parameter(torch.zeros(shape))
    averager = Averager([("p", p)], quantizer=quantizer, seed=3)
    core = Averaging(quantizer=quantizer, seed=3)
    state = core.init()
    for step in range(1, 4):
        with torch.no_grad():
            p.copy_(torch.randn(shape))
        averager.update()
        state = core.update({"p": p.detach().numpy().copy()}, state, step)
    same(averager.average()["p"], core.average(state)["p"])
    averager.average()["p"].zero_()
    same(averager.average()["p"], core.average(state)["p"])


@pytest.mark.parametrize(("weights", "dtype", "kept"), [
    (torch.bfloat16, None, torch.float32), (torch.float16, None, torch.float32), (torch.float32, None, torch.float32),
    (torch.float64, None, torch.float64), (torch.float32, torch.float64, torch.float64),
])
def test_sums_are_float32_whatever_the_model(weights, dtype, kept):
    p = parameter(1.0, 3.0, dtype=weights)
    averager = Averager([("p", p)], dtype=dtype)
    for _ in range(1000):
        averager.update()
    assert averager.average()["p"].dtype == kept
    assert averager.average()["p"].tolist() == [1.0, 3.0]


class TestAttached:
    @pytest.mark.parametrize("averager_first", [True, False])
    @pytest.mark.parametrize("copied", [True, False])
    def test_averages_rounded_weights_after_each_step(self, on_grid, averager_first, copied):
        p = torch.nn.Parameter(torch.randn(4))
        opt = torch.optim.SGD([p], 0.1)
        averager = Averager([("p", p)])
        if averager_first and not copied:
            averager.attach(opt)
        quantize_optimizer(opt, Recipe(weight="fixed<8,2>"))
        if copied:
            p, opt = copy.deepcopy((p, opt))
            averager = Averager([("p", p)])
        if copied or not averager_first:
            averager.attach(opt)
        seen = []
        opt.register_step_post_hook(lambda *_: seen.append(p.detach().clone()))
        for _ in range(4):
            p.grad = torch.full_like(p, 0.7)
            opt.step()
        assert all(on_grid(w, "fixed<8,2>") for w in seen)
        assert averager.n_averaged == 4
        assert torch.equal(averager.average()["p"], sum(seen) / 4)

    def test_with_the_native_sgd_and_removal(self):
        p = parameter(1.0)
        opt = SGD([p], 0.5)
        averager = Averager([("p", p)], include_start=True)
        handle = averager.attach(opt)
        p.grad = torch.ones(1)
        opt.step()
        handle.remove()
        opt.step()
        assert averager.n_averaged == 2
        assert averager.average()["p"].item() == 0.75

    def test_steps_that_a_fused_optimizer_skips_do_not_count(self):
        p = parameter(1.0)
        opt = quantize_optimizer(torch.optim.SGD([p], 0.5, fused=True), swalp(8))
        averager = Averager([("p", p)])
        averager.attach(opt)
        scaler = torch.amp.GradScaler("cpu")
        for factor in (1.0, torch.inf):
            opt.zero_grad()
            scaler.scale(p.sum() * factor).backward()
            scaler.step(opt)
            scaler.update()
        assert averager.n_averaged == 1


class TestSwap:
    def trained(self):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).bfloat16()
        averager = Averager(model)
        for _ in range(3):
            for p in model.parameters():
                torch.nn.init.normal_(p)
            averager.update()
        return model, averager

    def test_is_exact_both_ways_in_place(self, same):
        model, averager = self.trained()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        average, pointers = averager.average(), [p.data_ptr() for p in model.parameters()]
        versions = [p._version for p in model.parameters()]
        with averager.swap() as inside:
            assert inside is averager
            for name, p in model.named_parameters():
                assert torch.equal(p, average[name].to(p.dtype))
        assert pointers == [p.data_ptr() for p in model.parameters()]
        assert all(p._version > version for p, version in zip(model.parameters(), versions, strict=True))
        same({k: v.float() for k, v in before.items()}, {k: v.float() for k, v in model.state_dict().items()})
        same(average, averager.average())

    def test_restores_after_an_exception_buffers_included(self, same):
        model, averager = self.trained()
        model.float()
        before = {k: v.clone() for k, v in model.state_dict().items()}

        def interrupted():
            with averager.swap():
                update_bn([torch.randn(8, 2)], model)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        same(before, dict(model.state_dict()))
        with averager.swap():
            pass

    def test_refuses_updates_and_nesting_inside(self):
        _, averager = self.trained()
        with averager.swap():
            with pytest.raises(RuntimeError, match=r"swap\(\) within swap\(\)"), averager.swap():
                pass
            with pytest.raises(RuntimeError, match=r"update within swap\(\)"):
                averager.update()


def test_apply_to_another_model(same):
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, dtype=torch.float64)
    averager = Averager(model)
    averager.update()
    averager.apply_to(other)
    same({k: v.double() for k, v in model.state_dict().items()}, dict(other.state_dict()))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match="model lacks the averaged parameters bias; it has weight"):
        averager.apply_to(torch.nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match=r"weight has shape \(2, 3\) in model, \(2, 2\) in the average"):
        averager.apply_to(torch.nn.Linear(3, 2))
    same(before, dict(other.state_dict()))


@pytest.mark.parametrize("quantizer", [None, "bfp<9>/stochastic"])
def test_resumes_bit_for_bit(same, quantizer):
    def step(p, averager, n):
        with torch.no_grad():
            p.copy_(torch.randn(5, generator=torch.Generator().manual_seed(n)))
        averager.update()

    p, q = torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.zeros(5))
    a, b = (Averager([("p", x)], start=1, cycle=2, quantizer=quantizer) for x in (p, q))
    for n in range(5):
        step(p, a, n)
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    for n in range(5, 9):
        step(p, a, n)
        step(q, b, n)
    assert a.n_averaged == b.n_averaged == 4
    same(a.average(), b.average())


def test_mismatched_and_damaged_checkpoints_are_refused_whole(same):
    averager = Averager([("p", parameter(1.0, 2.0))])
    averager.update()
    before = averager.average()
    for other, words in ((Averager([("p", parameter(1.0, 2.0))], cycle=3), "has cycle=3, this averager cycle=1"),
                         (Averager([("p", parameter(1.0, 2.0))], quantizer="bf16"), "quantizer='bf16/stochastic_a'"),
                         (Averager([("q", parameter(1.0, 2.0))]), "averages other parameters: p, q in one only"),
                         (Averager([("p", parameter(1.0))]), r"p has shape \(2,\), in the checkpoint \(1,\)")):
        other.update(3)
        with pytest.raises(ValueError, match=words):
            averager.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="must have the keys start, cycle"):
        averager.load_state_dict({"step": 1})
    same(before, averager.average())


def test_errors():
    p = parameter(1.0)
    with pytest.raises(ValueError, match="nothing averaged yet"):
        Averager([("p", p)]).average()
    with pytest.raises(ValueError, match="nothing averaged yet"), Averager([("p", p)]).swap():
        pass
    with pytest.raises(ValueError, match="cycle must be from 1"):
        Averager([("p", p)], cycle=0)
    with pytest.raises(TypeError, match=r"dtype must be a floating torch\.dtype or None, got torch\.int32"):
        Averager([("p", p)], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"must have floating-point parameters to average, got \['p'\]"):
        Averager({"p": torch.zeros(2, dtype=torch.int8)})
    with pytest.raises(TypeError, match=r"got the pair \('p', int\)"):
        Averager({"p": 3})
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, got int"):
        Averager([("p", p)]).attach(3)
    averager = Averager([("p", p)])
    averager.update(4)
    with pytest.raises(ValueError, match="step must be above the last one, 4, got 4"):
        averager.update(4)
