"""Built-in presets, operands of a recipe, and recipes as tables."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from qemu_swalp import Accumulation, Hadamard, RandomBits, quantize
from qemu_swalp.training import (
    OPERANDS,
    SGD,
    SUMS,
    Recipe,
    as_recipe,
    presets,
    recipe,
    recipe_names,
    register_recipe,
    swalp,
)
from qemu_swalp.training.presets import registry

PRESETS = (
    "swalp8",
    "bf16_sr",
    "bf16_kahan",
    "dorefa",
    "hbfp8",
    "wage",
    "mxfp4",
    "nvfp4",
    "fp4_all_the_way",
    "quartet",
    "fp8_hybrid",
    "fp8_delayed",
    "fp8_ibm",
    "s2fp8",
    "fp8_deepseek",
    "mxfp8",
)


def test_presets_have_their_names_and_cite_their_sources() -> None:
    assert recipe_names()[: len(PRESETS)] == PRESETS
    for name in PRESETS:
        assert "arXiv" in (inspect.getdoc(getattr(presets, name)) or "")


@pytest.mark.parametrize("name", PRESETS)
def test_each_is_plain_strings_and_rounds_matrices(name: str) -> None:
    ready = recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(ready.to_dict()))) == ready == as_recipe(name)
    x = np.random.default_rng(0).standard_normal((40, 150)).astype(np.float32)
    for role in ("weight", "activation", "error", "gradient", "momentum", "accumulator", *OPERANDS):
        quantizer = ready.quantizer(role)
        if quantizer is not None and not quantizer.rounding.stochastic:
            assert np.isfinite(quantizer(x)).all()


def test_nvfp4_rounds_errors_stochastically_and_weights_in_tiles_that_both_products_share() -> None:
    nvfp4 = recipe("nvfp4")
    stochastic = [name for name, q in nvfp4.operands if q.rounding.stochastic]
    assert stochastic == ["dgrad.error", "wgrad.error"]
    x = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    forward, dgrad = nvfp4.quantizer("forward.weight"), nvfp4.quantizer("dgrad.weight")
    assert forward is not None
    assert dgrad is not None
    assert (forward(x) == dgrad(np.ascontiguousarray(x.T)).T).all()


def test_mxfp8_never_saturates() -> None:
    quantizer = recipe("mxfp8").quantizer("forward.input")
    assert quantizer is not None
    x = np.float32([[1.9999, 0.01] * 16])
    assert abs(quantizer(x)[0, 0] - 2) < 2**-4


def test_bf16_kahan_keeps_what_bf16_weights_lose() -> None:
    """Small updates add up, and weights stay bf16; plain bf16 stands still."""
    steps = {
        name: SGD(1e-4, recipe=ready, seed=0)
        for name, ready in (("kahan", "bf16_kahan"), ("plain", Recipe("bf16/nearest_even")))
    }
    params = {"w": np.ones(64, np.float32)}
    ends = {}
    for name, sgd in steps.items():
        state, weights = sgd.init(params), params
        for _ in range(200):
            weights, state = sgd.update(weights, {"w": np.ones(64, np.float32)}, state)
        ends[name] = weights["w"]
        assert (quantize(weights["w"], "bf16") == weights["w"]).all()
    assert (ends["plain"] == 1).all()
    assert np.abs(ends["kahan"] - 0.98).max() < 2**-8


@pytest.mark.parametrize("rate", [1e-1, 1e-3])
def test_bf16_kahan_beside_the_papers_algorithm(rate: float) -> None:
    """Both lie about as near the exact sums as bf16 can; plain bf16 ten times as far."""
    rng, n = np.random.default_rng(0), 500
    start = bf16(rng.standard_normal(n) * 0.05)
    gradients = bf16((rng.standard_normal((400, n)) + 0.5) * 0.1)
    exact = start - rate * gradients.astype(np.float64).sum(0)
    sgd = SGD(rate, recipe="bf16_kahan", seed=0)
    weights, state = {"w": start}, sgd.init({"w": start})
    plain, w, c = start, start, np.zeros(n, np.float32)
    for gradient in gradients:
        weights, state = sgd.update(weights, {"w": gradient}, state)
        update = bf16(-rate * gradient)
        plain = bf16(plain + update)
        y = bf16(update - c)  # algorithm 5 of Zamirai et al., every result in bf16
        s = bf16(w + y)
        c = bf16(bf16(s - w) - y)
        w = s
    nearest, ours, papers, lost = (
        np.sqrt(np.mean((x - exact) ** 2)) for x in (bf16(exact), weights["w"], w, plain)
    )
    assert ours < nearest * 1.01
    assert papers < nearest * 1.3
    assert lost > nearest * 10
    assert (weights["w"] == w).mean() > 0.75


def bf16(x: np.ndarray) -> np.ndarray:
    return quantize(np.float32(x), "bf16")


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8", "fp8_deepseek"])
def test_which_layers_stay_in_float(name: str) -> None:
    layers = ["a", "b", "c"]
    whole = recipe(name, last=None)
    assert whole.overrides == ()
    head = recipe(name, last="@layers[-1]")
    assert head.at_layers(layers) == replace(whole, overrides={"c.*": None})  # type: ignore[arg-type]


@given(arrays(np.float32, (3, 8), elements=st.floats(-2, 2, width=32)))
def test_dorefa_is_the_papers_quantizer(x: np.ndarray) -> None:
    """Equations 5 to 9: inputs, tanh-normalized weights; weights as the model gives them."""
    ready = recipe("dorefa", weights=3, activations=4, gradients=5)

    def quantize_k(r: np.ndarray, k: int) -> np.ndarray:
        return np.round((2**k - 1) * r) / (2**k - 1)

    of = dict(ready.operands)
    clipped = np.clip(x.astype(np.float64), 0, 1)
    assert np.allclose(of["forward.input"](x), quantize_k(clipped, 4), atol=1e-6) or near(
        clipped * 15
    )
    tanh = np.tanh(x)
    if np.abs(tanh).max() > 1e-3:
        t = tanh / np.abs(tanh).max()
        expected = 2 * quantize_k(t.astype(np.float64) / 2 + 0.5, 3) - 1
        assert np.allclose(of["forward.weight"](t), expected, atol=1e-6) or near(
            (t.astype(np.float64) / 2 + 0.5) * 7
        )


def near(steps: np.ndarray) -> bool:
    """Whether a number is half way between two steps, but for float32."""
    return bool((np.abs(steps % 1 - 0.5) < 1e-5).any())


def test_wage_by_bits() -> None:
    """The default is 2-8-8-8; other lengths go to the roles that they are of."""
    assert recipe("wage") == recipe("wage", weights=2, activations=8, gradients=8, errors=8)
    other = recipe("wage", activations=4, errors=6).to_dict()
    assert other["activation"] == "fixed<4,3,symmetric>/nearest_even"
    assert other["accumulator"] == recipe("wage").to_dict()["accumulator"]
    with pytest.raises(ValueError, match="the bits of a number of WAGE must be from 2 to 16"):
        recipe("wage", weights=1)


@given(
    arrays(np.float32, 9, elements=st.floats(-1000, 1000, width=32)),
    st.sampled_from([2, 6, 8, 16]),
)
def test_wage_scales_errors_by_the_next_power_of_two(x: np.ndarray, bits: int) -> None:
    """Equation 8 and E of the authors' code, times the scale that it drops."""
    quantizer = recipe("wage", errors=bits).quantizer("error")
    assert quantizer is not None
    amax = np.abs(x).max().astype(np.float64)
    if amax < 2.0**-100:
        return
    shift, steps = np.exp2(np.round(np.log2(amax))), 2.0 ** (bits - 1)
    expected = np.clip(np.rint(x / shift * steps), 1 - steps, steps - 1) / steps * shift
    np.testing.assert_array_equal(quantizer(x), expected.astype(np.float32))


def test_dorefa_errors_are_unbiased_and_scaled_by_sample() -> None:
    quantizer = recipe("dorefa").quantizer("wgrad.error")
    assert quantizer is not None
    x = np.float32([[1.0, 0.3], [-8.0, 0.1]]).repeat(1 << 13, axis=1)
    rounded = quantizer(x, random=RandomBits(0))
    grid = np.abs(rounded / [[1], [8]] * 63)
    assert np.allclose(grid % 2, 1, atol=1e-4)
    assert np.allclose(rounded.reshape(2, 2, -1).mean(2), [[1, 0.3], [-8, 0.1]], atol=2e-2)


def test_operands_by_name_and_by_kind() -> None:
    made = Recipe(
        operands={
            "error": "e5m2/nearest_even",
            "wgrad.error": None,
            "forward.input": "bf16/nearest_even",
        }
    )
    assert made.to_dict() == {
        "operands": {"forward.input": "bf16/nearest_even", "dgrad.error": "e5m2/nearest_even"}
    }
    assert made.quantizer("wgrad.error") is None
    assert made.of("fc.operands") == made
    assert hash(made) == hash(Recipe.from_dict(made.to_dict()))


def test_sums_by_name_and_all_alike() -> None:
    some = Recipe(sums={"wgrad.sum": "fp16/to_odd; chunk=8", "dgrad.sum": None})
    assert some.to_dict() == {"sums": {"wgrad.sum": "fp16/to_odd; chunk=8"}}
    assert some.accumulation("forward.sum") is None
    assert str(some.accumulation("wgrad.sum")) == "fp16/to_odd; chunk=8"
    all_alike = Recipe(sums=Accumulation("fp16/to_odd", product="bf16/to_odd"))
    assert [name for name, _ in all_alike.sums] == list(SUMS)
    assert Recipe.from_dict(json.loads(json.dumps(all_alike.to_dict()))) == all_alike
    assert str(some).splitlines()[2:] == [
        "wgrad.sum (chunk=8)  fp16    to_odd",
        "wgrad.sum of chunks  fp16    to_odd",
    ]
    assert str(all_alike).splitlines()[3] == "forward.sum of products  bf16    to_odd"


def test_recipes_print_as_tables() -> None:
    made = Recipe(
        weight="bfp8/stochastic",
        state={"exp_avg_sq": "bf16/stochastic", "step": None},
        overrides={"*.bias": None, "head.*": Recipe(weight="e4m3fn/to_odd")},
    )
    assert str(made).splitlines()[2:] == [
        "weight          bfp8            stochastic_a",
        "exp_avg_sq      bf16            stochastic_a",
        "*.bias          full precision",
        "head.*: weight  e4m3fn          to_odd",
    ]
    assert str(Recipe()).splitlines()[2:] == ["all   full precision"]


def test_a_registered_recipe_goes_by_its_name() -> None:
    made = register_recipe("ours", swalp(6))
    try:
        assert register_recipe("ours", swalp(6)) == recipe("ours") == made
        assert as_recipe("ours") is made
        with pytest.raises(ValueError, match="'ours' stands for another recipe already"):
            register_recipe("ours", swalp(5))
    finally:
        del registry._PRESETS["ours"]


def test_errors() -> None:
    for call, kind, words in (
        (lambda: recipe("mxfp9"), ValueError, "did you mean 'mxfp"),
        (
            lambda: as_recipe("bfp8"),
            ValueError,
            r"Recipe\(weight='bfp8'\), or the name of a preset, one of swalp8, ",
        ),
        (lambda: as_recipe(None), TypeError, "got None"),
        (
            lambda: register_recipe("mine", "bfp8"),
            TypeError,
            "register_recipe needs a name, which is a string, and a Recipe, got 'mine'",
        ),
        (
            lambda: Recipe(operands={"grad": "bf16/stochastic"}),
            ValueError,
            "the name of an operand must be one of forward.input",
        ),
        (lambda: Recipe(operands={"input": 3}), TypeError, "a quantizer must be"),
        (
            lambda: Recipe(sums={"forward": "fp16/stochastic"}),
            ValueError,
            "the name of a sum must be one of forward.sum",
        ),
        (lambda: Recipe(sums="bfp8/stochastic"), ValueError, "sum must be of an element format"),
    ):
        with pytest.raises(kind, match=words):
            call()


@given(
    arrays(
        np.float32,
        (3, 32),
        elements=st.floats(-1000, 1000, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6),
    ),
    st.integers(0, 99),
)
def test_mxfp4_is_algorithm_2_of_tseng(x: np.ndarray, step: int) -> None:
    """Its scale, rounded down, of the operand; elements shrunk by 3/4 after scaling."""
    quantizer = recipe("mxfp4").quantizer("wgrad.input")
    assert quantizer is not None
    random = RandomBits(seed=1, step=step)
    amax = np.abs(x).max(axis=1, keepdims=True)
    scale = np.exp2(np.floor(np.log2(np.where(amax > 0, amax, 1))) - 2).astype(np.float32)
    element = quantize(np.float32(0.75) * x / scale, "e2m1fn", "stochastic", random=random)
    differs = np.frexp(0.75 * amax.astype(np.float64))[0] == 0.75
    found = quantizer(np.float32(0.75) * x, random=random)
    np.testing.assert_array_equal(found[~differs[:, 0]], (element * scale)[~differs[:, 0]])


def test_no_number_of_mxfp4_is_clipped() -> None:
    """The mean over many draws is 3/4 of the operand, that of the greatest numbers too."""
    quantizer = recipe("mxfp4").quantizer("dgrad.error")
    assert quantizer is not None
    x = np.float32(0.75) * np.linspace(-7.9, 7.9, 32, dtype=np.float32)
    draws = [quantizer(x, random=RandomBits(seed=0, step=step)) for step in range(4000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), x, atol=0.1)


def test_options_of_presets() -> None:
    assert recipe("mxfp4", hadamard=32).transform("wgrad") == Hadamard(32, "random")
    assert recipe("fp8_ibm", loss_scale=64).factor("dgrad.error") == 64
    assert recipe("fp8_deepseek", promoted=True).accumulation("wgrad.sum") is not None
    assert recipe("hbfp8").sections == ("products",)
    assert recipe("hbfp8", weights=16).sections == ("optimizer", "products")
    signs = "+++-+------+-+--"
    assert recipe("nvfp4", signs=signs).transform("wgrad") == Hadamard(16, signs)
    with pytest.raises(TypeError, match=r"no option 'hadamrad'; it has hadamard, forward"):
        recipe("mxfp4", hadamrad=32)


def test_positions_of_products_need_no_model_elsewhere() -> None:
    assert recipe("fp8_ibm").in_section("optimizer").overrides == ()
    mixed = Recipe(weight="bf16", overrides={"@layers[0]": Recipe(weight="fp16")})
    assert mixed.in_section("optimizer") == mixed
