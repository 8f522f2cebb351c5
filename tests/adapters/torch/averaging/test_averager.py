"""The average: exact, in place, and at the right steps."""

import copy
import io
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st
from qemu_swalp_torch import SGD, Averager, quantize_optimizer, scored_by, update_bn

from qemu_swalp.training import ASWA, EMA, LAWA, SQWA, Averaging, Recipe, due, swalp


def parameter(*values, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


@settings(max_examples=30, deadline=None)
@given(
    start=st.integers(0, 5),
    cycle=st.integers(1, 3),
    include=st.booleans(),
    seed=st.integers(0, 100),
)
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
    assert (
        averager.average()["p"].tolist() == torch.tensor(mean, dtype=torch.float64).float().tolist()
    )


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


@pytest.mark.parametrize(
    ("weights", "dtype", "kept"),
    [
        (torch.bfloat16, None, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_sums_are_float32_whatever_the_model(weights, dtype, kept):
    p = parameter(1.0, 3.0, dtype=weights)
    averager = Averager([("p", p)], dtype=dtype)
    for _ in range(1000):
        averager.update()
    assert averager.average()["p"].dtype == kept
    assert averager.average()["p"].tolist() == [1.0, 3.0]


POLICIES = [
    EMA(start=1, decay=0.75),
    EMA(decay=0.9, quantizer="fixed<12,8>/stochastic", seed=3, warmup=True),
    LAWA(size=3),
    LAWA(cycle=2, size=2, quantizer="bfp<8>/stochastic", seed=1),
    SQWA(captures=2, quantizer="fixed<8,4>/nearest_even"),
    Averaging(exact="fixed<8,6>"),
    ASWA(score=lambda params: -abs(float(params["p"].reshape(-1)[0]))),
]


def grid_points(shape, seed):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)) / 64


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("shape", [(5,), (300, 300)], ids=str)
class TestPolicies:
    def test_equal_the_core_on_numpy_and_resume(self, same, policy, shape):
        p, q = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
        averager, resumed = Averager([("p", p)], policy), Averager([("p", q)], policy)
        state = policy.init()
        for step in range(1, 8):
            with torch.no_grad():
                p.copy_(grid_points(shape, step))
                q.copy_(p)
            if step == 5:
                file = io.BytesIO()
                torch.save(averager.state_dict(), file)
                file.seek(0)
                resumed.load_state_dict(torch.load(file, weights_only=True))
            averager.update()
            state = policy.update({"p": p.detach().numpy().copy()}, state, step)
            if step >= 5:
                resumed.update()
        same(averager.average()["p"], policy.average(state)["p"])
        same(resumed.average()["p"], policy.average(state)["p"])
        assert averager.n_averaged == resumed.n_averaged == state.n_averaged
        assert resumed.running.state.score == averager.running.state.score

    def test_keep_none_of_the_models_memory(self, same, policy, shape):
        p = torch.nn.Parameter(grid_points(shape, 0))
        averager = Averager([("p", p)], policy)
        averager.update(6)
        before = averager.average()
        with torch.no_grad():
            p.zero_()
        same(averager.average(), before)
        averager.average()["p"].fill_(9)
        same(averager.average(), before)


def test_a_score_of_the_model_sees_the_average_in_it(same):
    model = torch.nn.Linear(2, 1, bias=False)
    seen = []

    def evaluate(held):
        seen.append(held.weight.tolist())
        assert not torch.is_grad_enabled()
        return -abs(held.weight.sum().item() - 3)

    averager = Averager(model, ASWA(score=scored_by(model, evaluate)))
    for weight in (1.0, 2.0):
        torch.nn.init.constant_(model.weight, weight)
        averager.update()
    assert seen == [[[1.0, 1.0]], [[2.0, 2.0]], [[1.5, 1.5]]]
    assert model.weight.tolist() == [[2.0, 2.0]]
    assert averager.running.state.score == 0
    same(averager.average()["weight"], torch.full((1, 2), 1.5))


def test_exact_averages_of_float64_have_its_precision():
    p = parameter(1 / 64, dtype=torch.float64)
    averager = Averager([("p", p)], Averaging(exact="fixed<8,6>"))
    for value in (1 / 64, 1 / 32, 1 / 64):
        with torch.no_grad():
            p.fill_(value)
        averager.update()
    assert averager.average()["p"].item() == 4 / 64 / 3
    with torch.no_grad():
        p.fill_(0.01)
    with pytest.raises(ValueError, match="needs finite weights on the grid of fixed<8,6>"):
        averager.update()


class TestAttached:
    @pytest.mark.parametrize("averager_first", [True, False])
    @pytest.mark.parametrize("copied", [True, False])
    def test_averages_rounded_weights_after_each_step(self, on_grid, averager_first, copied):
        p = torch.nn.Parameter(torch.randn(4))
        opt = torch.optim.SGD([p], 0.1)
        averager = Averager([("p", p)])
        if averager_first and not copied:
            averager.attach(opt)
        quantize_optimizer(opt, Recipe(weight="fixed<8,2>/stochastic"))
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
        assert all(
            p._version > version for p, version in zip(model.parameters(), versions, strict=True)
        )
        same(
            {k: v.float() for k, v in before.items()},
            {k: v.float() for k, v in model.state_dict().items()},
        )
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
    with pytest.raises(
        ValueError, match=r"weight has shape \(2, 3\) in model, \(2, 2\) in the average"
    ):
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


@pytest.mark.parametrize("policy", [None, LAWA(size=2), EMA(decay=0.5)], ids=str)
def test_a_checkpoint_from_before_the_first_average_holds_none(same, policy):
    p = parameter(1.0, 2.0)
    early, other = Averager([("p", p)], policy), Averager([("p", p)], policy)
    state = early.state_dict()
    assert all(not value.any() for value in state["values"].values())
    other.update()
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="nothing averaged yet"):
        other.average()
    other.update()
    same(other.average()["p"], p)


def test_mismatched_and_damaged_checkpoints_are_refused_whole(same):
    averager = Averager([("p", parameter(1.0, 2.0))])
    averager.update()
    before = averager.average()
    for other, words in (
        (Averager([("p", parameter(1.0, 2.0))], cycle=3), "has cycle=3, this averager cycle=1"),
        (
            Averager([("p", parameter(1.0, 2.0))], quantizer="bf16/stochastic"),
            "quantizer='bf16/stochastic_a'",
        ),
        (Averager([("q", parameter(1.0, 2.0))]), "averages other parameters: p, q in one only"),
        (Averager([("p", parameter(1.0))]), r"p has shape \(2,\), in the checkpoint \(1,\)"),
    ):
        other.update(3)
        with pytest.raises(ValueError, match=words):
            averager.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="must have the keys rule, step"):
        averager.load_state_dict({"step": 1})
    same(before, averager.average())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda state: None, "the averager's state must be a dict, got None"),
        ({"rule": None}, r"state\['rule'\] must be a dict, got None"),
        ({"rule": {"seed": "x"}}, r"state\['rule'\]\['seed'\] must be an integer"),
        ({"values": None}, r"state\['values'\] must be a dict, got None"),
        ({"values": {"p": None}}, r"state\['values'\]\['p'\] must be a Tensor, got None"),
        ({"values": {"p": [1.0, 2.0]}}, r"state\['values'\]\['p'\] must be a Tensor, got \["),
        ({"values": {3: None}}, "averages other parameters: 3, p in one only"),
        ({"step": 1.5}, r"state\['step'\] must be an integer from -1 .*got 1\.5"),
        ({"step": True}, r"state\['step'\] must be an integer"),
        ({"n_averaged": None}, r"state\['n_averaged'\] at step 1 must be an integer"),
        (
            {"step": -1, "n_averaged": 5},
            r"state\['n_averaged'\] at step -1 must be from 0 to 0, got 5",
        ),
        ({"score": "x"}, r"state\['score'\] must be a number or None, got 'x'"),
    ],
)
def test_damaged_states_are_refused_whole(same, damage, words):
    averager = Averager([("p", parameter(1.0, 2.0))])
    averager.update()
    before = averager.average()
    state = averager.state_dict()
    with pytest.raises(ValueError, match=words):
        averager.load_state_dict(damage(state) if callable(damage) else state | damage)
    same(before, averager.average())
    averager.load_state_dict(state)


def test_errors():
    p = parameter(1.0)
    with pytest.raises(ValueError, match="nothing averaged yet"):
        Averager([("p", p)]).average()
    with pytest.raises(ValueError, match="nothing averaged yet"), Averager([("p", p)]).swap():
        pass
    with pytest.raises(ValueError, match="cycle must be from 1"):
        Averager([("p", p)], cycle=0)
    with pytest.raises(
        TypeError, match=r"dtype must be a floating torch\.dtype or None, got torch\.int32"
    ):
        Averager([("p", p)], dtype=torch.int32)
    with pytest.raises(
        ValueError, match=r"must have floating-point parameters to average, got \['p'\]"
    ):
        Averager({"p": torch.zeros(2, dtype=torch.int8)})
    with pytest.raises(TypeError, match=r"got the pair \('p', int\)"):
        Averager({"p": 3})
    with pytest.raises(
        TypeError, match=r"optimizer must be a torch.optim.Optimizer, got builtins.int"
    ):
        Averager([("p", p)]).attach(3)
    with pytest.raises(
        TypeError, match=r"policy must be a .*Policy, such as EMA.*, or None, got 0.9"
    ):
        Averager([("p", p)], 0.9)
    with pytest.raises(
        TypeError, match=r"exclude each other: give start, cycle, .* and seed to EMA"
    ):
        Averager([("p", p)], EMA(), start=3)
    with pytest.raises(
        TypeError, match=r"p is on meta, and NumPy keeps exact averages; pass dtype=torch\.float64"
    ):
        Averager([("p", torch.zeros(2, device="meta"))], Averaging(exact="fixed<8,6>"))
    averager = Averager([("p", p)])
    averager.update(4)
    with pytest.raises(ValueError, match="step must be above the last one, 4, got 4"):
        averager.update(4)
