"""Overrides of an optimizer match something; excluded layers stay in full precision."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from qemu_swalp_keras import SGD, QuantizedOptimizer, emulate

from qemu_swalp.training import Phases, Recipe
from tests.adapters.keras.conftest import apply, network


def recipe(*patterns: str) -> Recipe:
    return Recipe("bfp8", overrides=dict.fromkeys(patterns))


def made(kind: Any, given: Any, **options: Any) -> Any:
    return SGD(recipe=given, **options) if kind is SGD else kind("sgd", given, **options)


def left_out(optimizer: Any) -> list[str]:
    return [entry.name for entry in optimizer._entries if entry.recipe.weight is None]


def unbuilt() -> Any:
    return keras.Sequential([layers.Dense(4, name="a"), layers.Dense(3, name="b")], name="net")


@pytest.mark.parametrize("kind", [QuantizedOptimizer, SGD])
def test_a_pattern_that_matches_nothing_is_refused_when_the_optimizer_is_built(kind: Any) -> None:
    model = network()
    words = "'\\*/haed/kernel' of overrides matches none of 5 names.* net/head/kernel.* model="
    optimizer = made(kind, recipe("*/haed/kernel", "head/operands"))
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            optimizer.build(model.trainable_variables)
    again = kind.from_config(made(kind, recipe("*/haed/kernel")).get_config())
    with pytest.raises(ValueError, match="matches none of 4"):
        again.build(model.trainable_variables)
    optimizer = made(kind, recipe("*/head/kernel", "head/operands", "*/output"))
    optimizer.build(model.trainable_variables)
    assert left_out(optimizer) == ["net/head/kernel"]


def test_each_phase_is_looked_at() -> None:
    optimizer = QuantizedOptimizer("sgd", Phases({0: "swalp8", 9: recipe("no/*")}))
    with pytest.raises(ValueError, match="'no/\\*' of overrides"):
        optimizer.build(network().trainable_variables)


@pytest.mark.parametrize("kind", [QuantizedOptimizer, SGD])
def test_a_model_gives_names_of_frozen_layers_and_positions(kind: Any) -> None:
    model = network()
    model.layers[0].trainable = False
    given = recipe("*hidden/kernel", "loss/*", "@layers[-1]")
    with pytest.raises(ValueError, match="'no' of overrides matches none"):
        made(kind, recipe("no"), model=model)
    optimizer = made(kind, given, model=model)
    config = optimizer.get_config()
    optimizer.build(model.trainable_variables)
    assert left_out(optimizer) == ["net/head/kernel", "net/head/bias"]
    assert optimizer.get_config() == config
    again = kind.from_config(config)
    again.build(model.trainable_variables)
    assert left_out(again) == ["net/head/kernel", "net/head/bias"]


def test_configs_of_before_are_taken_as_they_are() -> None:
    config = QuantizedOptimizer("sgd", recipe("frozen/*")).get_config()
    del config["names_checked"], config["left_out"]
    QuantizedOptimizer.from_config(config).build(network().trainable_variables)


def test_excluded_layers_that_are_not_built_yet_stay_in_full_precision() -> None:
    model, optimizer = emulate(unbuilt(), "sgd", recipe(), exclude="b")
    with pytest.raises(ValueError, match=r"call model.build\(input_shape\)"):
        optimizer.get_config()
    model.build((None, 2))
    saved = optimizer.get_config()
    optimizer.build(model.trainable_variables)
    assert left_out(optimizer) == ["net/b/kernel", "net/b/bias"]
    assert saved == optimizer.get_config()


def test_a_pattern_of_a_model_that_is_not_built_yet_is_looked_at_when_it_is() -> None:
    model, optimizer = emulate(unbuilt(), "sgd", recipe("net/c/kernel"))
    model.build((None, 2))
    with pytest.raises(ValueError, match="'net/c/kernel' of overrides"):
        optimizer.build(model.trainable_variables)


def tower(name: str) -> Any:
    x = keras.Input((2,))
    return keras.Model(x, layers.Dense(2, name="fc")(x), name=name)


def test_layers_that_share_a_path_are_told_apart() -> None:
    x = keras.Input((2,))
    towers = [tower("left"), tower("right")]
    model = keras.Model(x, towers[1](towers[0](x)))
    assert len({v.path for v in model.variables}) == 2
    model, optimizer = emulate(model, keras.optimizers.SGD(0.1), recipe(), exclude="right/fc")
    variables = model.trainable_variables
    optimizer.build(variables)
    again = QuantizedOptimizer.from_config(optimizer.get_config())
    again.build(variables)
    for each in (optimizer, again):
        assert [e.recipe.weight is None for e in each._entries] == [False, False, True, True]
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    apply(optimizer, [np.zeros(v.shape, "float32") for v in variables], variables)
    assert np.array_equal(before[2], keras.ops.convert_to_numpy(variables[2]))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="pass model= too"):
        QuantizedOptimizer("sgd", recipe(), exclude="b")
    with pytest.raises(TypeError, match="model must be a Keras model or layer"):
        QuantizedOptimizer("sgd", recipe(), model=3)
    with pytest.raises(ValueError, match="exclude: 'heda' matches none"):
        QuantizedOptimizer("sgd", recipe(), model=network(), exclude="heda")


@pytest.mark.parametrize("another", [False, True])
def test_a_config_of_other_variables_is_refused(another: bool) -> None:
    """Whether there are fewer, or others in their places."""
    named = [layers.Dense(n, name=name) for n, name in ((5, "hidden"), (3, "head"), (2, "last"))]
    model = keras.Sequential([layers.Input((4,)), *named])
    model.get_layer("last").trainable = False
    optimizer = QuantizedOptimizer("sgd", "swalp8", model=model, exclude=["head"])
    config = optimizer.get_config()
    model.get_layer("hidden").trainable, model.get_layer("last").trainable = False, another
    words = r"leaves out variables \[2, 3\] of .* make the optimizer anew with model="
    with pytest.raises(ValueError, match=words):
        QuantizedOptimizer.from_config(config).build(model.trainable_variables)


def stack(*names: str | None) -> Any:
    """Of layers whose variables have the same shapes, with automatic names for None."""
    model = keras.Sequential([layers.Dense(5, name=name) for name in names])
    model.build((None, 5))
    return model


def swapped(model: Any, frozen: int, instead: int) -> Any:
    """With one layer frozen in place of another."""
    model.layers[frozen].trainable, model.layers[instead].trainable = True, False
    return model


def saved(model: Any, frozen: int, exclude: str) -> dict[str, Any]:
    model.layers[frozen].trainable = False
    config: dict[str, Any] = SGD(0.1, recipe="swalp8", model=model, exclude=exclude).get_config()
    return json.loads(json.dumps(config))  # type: ignore[no-any-return]


@pytest.mark.parametrize("names", [("a", "head", "c"), (None, None, None)], ids=["own", "numbers"])
def test_a_config_of_other_variables_of_the_same_shapes_is_refused(names: Any) -> None:
    model = stack(*names)
    config = saved(model, 2, model.layers[1].name)
    SGD.from_config(config).build(model.trainable_variables)
    others = swapped(model, 2, 0).trainable_variables
    with pytest.raises(ValueError, match=r"leaves out variables \[2, 3\] of .*/kernel \(5, 5\), "):
        SGD.from_config(config).build(others)


def test_a_config_of_one_layer_alone_is_not_that_of_another() -> None:
    model = stack("head", "c")
    config = saved(model, 1, "head")
    with pytest.raises(ValueError, match="as after layers were frozen"):
        SGD.from_config(config).build(swapped(model, 1, 0).trainable_variables)


def test_a_config_is_that_of_a_model_made_again_whatever_its_automatic_numbers() -> None:
    first, second = stack(None, None), stack(None, None)
    assert first.layers[1].name != second.layers[1].name
    config = SGD(0.1, recipe="swalp8", model=first, exclude=first.layers[1].name).get_config()
    again = SGD.from_config(config)
    again.build(second.trainable_variables)
    assert left_out(again) == [v.path for v in second.layers[1].trainable_variables]


@pytest.mark.parametrize("order", [(1, 0), (0, 2), (2, 0)], ids=str)
def test_a_config_is_not_that_of_layers_in_another_order(order: tuple[int, int]) -> None:
    """Nor of others between which one was left out, though their names have new numbers too."""
    first, second = stack(None, None), stack(None, None, None)
    config = SGD(0.1, recipe="swalp8", model=first, exclude=first.layers[1].name).get_config()
    variables = [v for i in order for v in second.layers[i].trainable_variables]
    with pytest.raises(ValueError, match="make the optimizer anew with model="):
        SGD.from_config(config).build(variables)


@pytest.mark.parametrize("of", [4, [[4, 5], [5], [5, 3], [3]]])
def test_a_config_that_does_not_tell_of_which_variables_is_refused(of: Any) -> None:
    config = SGD(0.1, recipe="swalp8", model=network(), exclude="head").get_config()
    del config["left_out_among"]
    with pytest.raises(
        ValueError, match=r"leaves out variables \[2, 3\], and does not tell of which"
    ):
        SGD.from_config({**config, "left_out_of": of})
    SGD.from_config({**config, "left_out": [], "left_out_of": of}).build(network().variables)
