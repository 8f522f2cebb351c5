"""Quantized SGD, averaging and schedules as pure functions (SWALP algorithms 1 and 2)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

import qemu_swalp as q
from qemu_swalp.training import (
    SGD,
    Averaging,
    Quantizer,
    Recipe,
    SWALPSchedule,
    TensorRandomBits,
    due,
    fixed_point,
    swalp,
)

RNG = np.random.default_rng(0)
W0 = {
    "fc.weight": RNG.standard_normal((4, 3)).astype(np.float32),
    "fc.bias": RNG.standard_normal(3).astype(np.float32),
}
GRADIENTS = [
    {name: RNG.standard_normal(w.shape).astype(np.float32) for name, w in W0.items()}
    for _ in range(20)
]


def run(optimizer: SGD, params=W0, gradients=GRADIENTS):  # type: ignore[no-untyped-def]
    state = optimizer.init(params)
    for g in gradients:
        params, state = optimizer.update(params, g, state)
    return params, state


@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
        {"weight_decay": 0.1},
        {"momentum": 0.8, "weight_decay": 0.01, "maximize": True},
    ],
)
def test_full_precision_is_torch_sgd(hyper: dict[str, float]) -> None:
    """The update rule is PyTorch's; it contracts products, we do not, so float64 and a tolerance of
    its last bits.
    """
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(w.astype(np.float64))) for w in W0.values()]
    theirs = torch.optim.SGD(tensors, lr=0.1, **hyper)
    for g in GRADIENTS:
        for t, v in zip(tensors, g.values(), strict=True):
            t.grad = torch.from_numpy(v.astype(np.float64))
        theirs.step()
    ours, _ = run(
        SGD(0.1, **hyper),
        {n: w.astype(np.float64) for n, w in W0.items()},  # type: ignore[arg-type]
        [{n: v.astype(np.float64) for n, v in g.items()} for g in GRADIENTS],
    )
    for t, w in zip(tensors, ours.values(), strict=True):
        np.testing.assert_allclose(t.detach().numpy(), w, rtol=1e-13, atol=1e-14)


def test_algorithm_2_step_by_step() -> None:
    """v_t = ρ·Q_M(v_{t-1}) + Q_G(g_t); w_t = Q_W(w_{t-1} - α·v_t), written out with the quantizers'
    own random bits.
    """
    recipe = Recipe(
        weight="bfp<8,axis=0>/stochastic",
        gradient="bfp<6,axis=0>/stochastic",
        momentum="e4m3fn/nearest_even",
    )
    optimizer = SGD(0.05, momentum=0.9, weight_decay=1e-3, recipe=recipe, seed=11)
    params, state = run(optimizer)
    for tensor, name in enumerate(W0):
        w, kept = W0[name], None
        for t, g in enumerate(GRADIENTS):
            draw = TensorRandomBits(11, tensor, t)
            noisy = (
                q.quantize(g[name], "bfp<6,axis=0>", "stochastic", random=draw("gradient"))
                + 1e-3 * w
            )
            v = noisy if kept is None else 0.9 * kept + noisy
            kept = q.quantize(v, "e4m3fn")
            w = q.quantize(w - 0.05 * v, "bfp<8,axis=0>", "stochastic", random=draw("weight"))
        assert (params[name] == w).all()
        assert (state.slots[name].velocity == kept).all()
    assert state.step == 20


def test_update_changes_nothing_in_place() -> None:
    before = {n: w.copy() for n, w in W0.items()}
    run(SGD(0.1, momentum=0.9, recipe=swalp(8).resolve(out=0)))
    assert all((W0[n] == before[n]).all() for n in W0)


def test_weights_live_on_the_grid_and_an_accumulator_keeps_small_updates() -> None:
    tiny = [{n: np.full_like(w, 0.01) for n, w in W0.items()}] * 50
    recipe = Recipe(weight="fixed<8,4>/nearest_even")
    on_grid = {n: q.quantize(w, "fixed<8,4>") for n, w in W0.items()}
    stuck, _ = run(SGD(0.1, recipe=recipe), on_grid, tiny)
    assert all((stuck[n] == on_grid[n]).all() for n in W0)
    moved, state = run(
        SGD(
            0.1,
            recipe=Recipe(
                weight="fixed<8,4>/nearest_even", accumulator="fixed<24,20>/nearest_even"
            ),
        ),
        on_grid,
        tiny,
    )
    for n in W0:
        accumulator = state.slots[n].accumulator
        np.testing.assert_allclose(accumulator, on_grid[n] - 0.05, atol=1e-4)
        assert (moved[n] == q.quantize(accumulator, "fixed<8,4>")).all()


def test_overrides_by_name() -> None:
    recipe = Recipe(weight="fixed<4,2>/toward_zero", overrides={"*.bias": None})
    params, _ = run(SGD(0.1, recipe=recipe))
    float_params, _ = run(SGD(0.1))
    assert (params["fc.bias"] == float_params["fc.bias"]).all()
    assert set((params["fc.weight"] * 4 % 1).ravel().tolist()) == {0.0}


def test_streams_do_not_depend_on_other_tensors() -> None:
    recipe = fixed_point(8, 4)
    both, _ = run(SGD(0.1, recipe=recipe, seed=5))
    first = {"fc.weight": W0["fc.weight"]}
    alone, _ = run(
        SGD(0.1, recipe=recipe, seed=5), first, [{"fc.weight": g["fc.weight"]} for g in GRADIENTS]
    )
    assert (alone["fc.weight"] == both["fc.weight"]).all()
    other, _ = run(SGD(0.1, recipe=recipe, seed=6))
    assert (other["fc.weight"] != both["fc.weight"]).any()


# Averaging


def _exact(weight: list[float]) -> None:
    averaging = Averaging(exact="fixed<8,6>")  # type: ignore[arg-type]
    with np.errstate(invalid="ignore"):
        averaging.update({"w": np.float32(weight)}, averaging.init(), 1)


@given(st.integers(0, 10), st.integers(1, 5), st.booleans())
def test_due(start: int, cycle: int, include: bool) -> None:
    steps = [t for t in range(1, 40) if due(t, start, cycle, include)]
    assert steps == [
        t for t in range(max(start, 1), 40) if (t - start) % cycle == 0 and (t > start or include)
    ]


@pytest.mark.parametrize("fraction", [2, 6])
def test_averages_of_low_precision_weights_are_exact(fraction: int) -> None:
    rng = np.random.default_rng(fraction)
    iterates = rng.integers(-128, 128, (5000, 7)) * 2.0**-fraction
    plain, exact = Averaging(), Averaging(exact=q.Fixed(8, fraction))
    a, b = plain.init(), exact.init()
    for t, w in enumerate(iterates, 1):
        a = plain.update({"w": w.astype(np.float32)}, a, t)
        b = exact.update({"w": w.astype(np.float32)}, b, t)
    mean = (iterates.sum(axis=0) / 5000).astype(np.float32)
    assert (plain.average(a)["w"] == mean).all()
    assert (exact.average(b)["w"] == mean).all()
    assert b.value is not None
    assert b.value["w"].dtype == np.int64


def test_average_in_low_precision() -> None:
    averaging = Averaging(quantizer=Quantizer("fixed<12,9>/nearest_even"))
    state = averaging.init()
    for t in range(1, 101):
        state = averaging.update({"w": np.float32([0.5 if t % 2 else 1.0])}, state, t)
    average = averaging.average(state)["w"]
    assert average == q.quantize(average, "fixed<12,9>")
    assert abs(average[0] - 0.75) < 0.01


def test_start_and_cycle() -> None:
    averaging = Averaging(start=4, cycle=3)
    state = averaging.init()
    for t in range(1, 12):
        state = averaging.update({"w": np.float32([t])}, state, t)
    assert state.n_averaged == 2
    assert averaging.average(state)["w"] == (7 + 10) / 2


# Recipes


def test_recipes_are_plain_strings() -> None:
    recipe = Recipe(
        weight="bfp8/stochastic",
        momentum="fixed<8,6>/to_odd",
        state={"exp_avg_sq": "bf16/nearest_even", "step": None},
        overrides={"*.bias": None, "head.*": Recipe(weight="e4m3fn/stochastic_b<4>")},
    )
    plain = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(plain) == recipe
    assert hash(Recipe.from_dict(plain)) == hash(recipe)
    assert recipe.of("head.weight").weight == Quantizer("e4m3fn", "stochastic_b<4>")
    assert recipe.of("conv.weight").quantizer("exp_avg_sq") == Quantizer("bf16", "nearest_even")


def test_swalp_recipe() -> None:
    recipe = swalp(6, "big")
    assert {
        recipe.quantizer(role) for role in ("weight", "activation", "error", "gradient", "momentum")
    } == {Quantizer("bfp6/stochastic")}
    assert recipe.average is None
    assert str(swalp().weight) == "bfp<8,axis=out>/stochastic_a"
    assert str(swalp().activation) == "bfp<8,axis=0>/stochastic_a"


def test_schedule_shape() -> None:
    schedule = SWALPSchedule(0.1, start=150, swa_learning_rate=0.05)
    assert schedule(0) == schedule(75) == 0.1
    assert schedule(105) == pytest.approx(0.1 * (1 - 0.99 / 2))
    assert schedule(135) == schedule(149.9) == pytest.approx(0.001)
    assert schedule(150) == schedule(10_000) == pytest.approx(0.05)
    assert SWALPSchedule(0.1, start=0)(0) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: SGD(-0.1), ValueError, "learning_rate must be at least 0, got -0.1"),
        (lambda: SGD("0.1"), TypeError, "learning_rate must be a number"),
        (lambda: SGD(0.1, momentum=-1), ValueError, "momentum must be at least 0"),
        (lambda: SGD(0.1, nesterov=True), ValueError, "nesterov=True needs momentum > 0"),
        (
            lambda: SGD(0.1).update(W0, {"x": W0["fc.bias"]}, SGD(0.1).init(W0)),
            ValueError,
            "must have the same names",
        ),
        (lambda: Averaging(cycle=0), ValueError, "cycle must be from 1"),
        (
            lambda: Averaging(exact="e4m3fn"),
            TypeError,
            "exact must be a fixed-point format",
        ),
        (
            lambda: Averaging(exact="fixed<8,6>", quantizer="bfp8/stochastic"),
            ValueError,
            "exclude each other",
        ),
        (
            lambda: Averaging(start=3).average(Averaging().init()),
            ValueError,
            "nothing averaged yet: averaging starts after step 3",
        ),
        (lambda: _exact([0.3]), ValueError, "needs finite weights on the grid of fixed<8,6>"),
        (lambda: _exact([float("nan")]), ValueError, "needs finite weights"),
        (lambda: _exact([float("inf")]), ValueError, "needs finite weights"),
        (lambda: Recipe(weight=3), TypeError, "a quantizer must be"),
        (lambda: Recipe(weight="bfp8/nearst_even"), ValueError, "did you mean 'nearest_even'"),
        (
            lambda: Recipe(overrides={"*": Recipe(overrides={"*": None})}),
            TypeError,
            "without overrides",
        ),
        (
            lambda: Recipe.from_dict({"weigth": "bfp8"}),
            ValueError,
            "a recipe has the keys .*; got weigth",
        ),
        (lambda: swalp(8, "medium"), ValueError, "block must be 'small' or 'big'"),
        (
            lambda: run(SGD(0.1, recipe=swalp(8))),
            ValueError,
            r"recipe names axes by the word 'out', .*as in recipe\.resolve\(out=0\)",
        ),
        (lambda: SWALPSchedule(0, 10), ValueError, "learning rates must be positive"),
        (lambda: SWALPSchedule(0.1, -1), ValueError, "start must be at least 0"),
        (lambda: SWALPSchedule(0.1, 10, decay_start=0.9), ValueError, "decay_start < decay_end"),
        (lambda: SWALPSchedule(0.1, 10, floor=0), ValueError, "floor must be above 0"),
    ],
)
def test_errors(make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make()
