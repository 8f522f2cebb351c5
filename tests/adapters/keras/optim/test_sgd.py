"""The same gradients give the bits of the NumPy core and of the PyTorch adapter."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import qemu_swalp_torch
import torch
from qemu_swalp_keras import SGD

import qemu_swalp.training as core
from qemu_swalp.training import Recipe, swalp
from tests.adapters.keras.conftest import apply, bits, same

STEPS = 25
RECIPES = {
    "float32": Recipe(),
    "swalp": swalp(8).resolve(out=0),
    "swalp-big-average": swalp(8, "big", average="bfp<9>/stochastic"),
    "accumulator": Recipe(
        weight="e4m3fn/stochastic",
        gradient="e5m2/stochastic",
        momentum="bf16/stochastic",
        accumulator="bf16/stochastic",
    ),
    "fixed": core.fixed_point(8, 5),
    "overrides": Recipe(
        weight="bfp8/stochastic",
        momentum="bfp8/stochastic",
        overrides={"b": Recipe(gradient="fixed<8,4>/nearest_even")},
    ),
}
HYPER = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"momentum": 0.7, "weight_decay": 0.01},
}


def problem() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(3)
    weights = {"a": rng.normal(size=(7, 5)).astype("f4"), "b": rng.normal(size=5).astype("f4")}
    gradients = [
        {k: (rng.normal(size=w.shape) * 2.0**-step).astype("f4") for k, w in weights.items()}
        for step in range(STEPS)
    ]
    gradients[0]["b"][:2] = -0.0, 0.0
    return weights, gradients


@pytest.mark.parametrize("hyper", HYPER.values(), ids=HYPER)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_weights_momenta_and_averages_equal_the_cores_and_torchs(
    recipe: Recipe, hyper: dict[str, float]
) -> None:
    params, gradients = problem()
    reference = core.SGD(0.1, recipe=recipe, seed=7, **hyper)
    averaging = core.Averaging(10, 3, quantizer=recipe.average, seed=7)
    state, average = reference.init(params), averaging.init()
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    other = qemu_swalp_torch.SGD(tensors.items(), 0.1, recipe=recipe, seed=7, **hyper)
    averager = qemu_swalp_torch.Averager(
        tensors, start=10, cycle=3, quantizer=recipe.average, seed=7
    )
    averager.attach(other)
    variables = [keras.Variable(v, name=k) for k, v in params.items()]
    optimizer = SGD(0.1, recipe=recipe, seed=7, swa_start=10, swa_cycle=3, **hyper)
    for step, gradient in enumerate(gradients, 1):
        params, state = reference.update(params, gradient, state)
        average = averaging.update(params, average, step)
        apply(optimizer, list(gradient.values()), variables)
        for name, p in tensors.items():
            p.grad = torch.tensor(gradient[name])
        other.step()
        assert same(variables, list(params.values())), step
        assert same(variables, [p.detach().numpy() for p in tensors.values()]), step
        for v, slots in zip(variables, state.slots.values(), strict=True):
            for name, expected in (
                ("momentum", slots.velocity),
                ("qemu_accumulator", slots.accumulator),
            ):
                held = [o for o in optimizer.variables if o.path.endswith(f"{v.name}_{name}")]
                assert len(held) == (expected is not None)
                assert expected is None or np.array_equal(bits(held[0]), bits(expected))
    assert optimizer.n_averaged == average.n_averaged == averager.n_averaged == 5
    expected = averaging.average(average)
    assert same(list(optimizer.average().values()), list(expected.values()))
    assert same([a.numpy() for a in averager.average().values()], list(expected.values()))


def test_include_start_at_zero_takes_the_initial_weights() -> None:
    params, gradients = problem()
    reference, averaging = (
        core.SGD(0.1, recipe=swalp(8).resolve(out=0), seed=2),
        core.Averaging(0, 2, True),
    )
    state = reference.init(params)
    average = averaging.update(params, averaging.init(), 0)
    variables = [keras.Variable(v, name=k) for k, v in params.items()]
    optimizer = SGD(
        0.1,
        recipe=swalp(8).resolve(out=0),
        seed=2,
        swa_start=0,
        swa_cycle=2,
        swa_include_start=True,
    )
    for step, gradient in enumerate(gradients[:5], 1):
        params, state = reference.update(params, gradient, state)
        average = averaging.update(params, average, step)
        apply(optimizer, list(gradient.values()), variables)
    assert optimizer.n_averaged == average.n_averaged == 3
    assert same(list(optimizer.average().values()), list(averaging.average(average).values()))


def test_excluded_variables_do_not_decay() -> None:
    params, gradients = problem()
    reference = core.SGD(0.1, weight_decay=0.5)
    decayed, _ = reference.update(params, gradients[0], reference.init(params))
    plain, _ = core.SGD(0.1).update(params, gradients[0], reference.init(params))
    variables = [keras.Variable(v, name=k) for k, v in params.items()]
    optimizer = SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["b"])
    apply(optimizer, list(gradients[0].values()), variables)
    assert same(variables, [decayed["a"], plain["b"]])


def test_signature_is_that_of_keras() -> None:
    import inspect

    ours, theirs = (inspect.signature(c.__init__).parameters for c in (SGD, keras.optimizers.SGD))
    assert [n for n in ours if ours[n].kind is not ours[n].KEYWORD_ONLY] == [
        n for n in theirs if n != "kwargs"
    ]
    assert all(ours[n].default == p.default for n, p in theirs.items() if n != "kwargs")
