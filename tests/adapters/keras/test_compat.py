"""What the adapter uses of Keras, TensorFlow and JAX that they do not promise: one contract test
for each item of `_compat`. A failure here names what a new release has changed.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import qemu_swalp_keras
from packaging.requirements import Requirement
from qemu_swalp_keras import _compat

from tests.adapters.keras.conftest import BACKEND, apply, data, network

OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "Nadam",
    "Adamax",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Lion",
    "Ftrl",
    "Adafactor",
    "Lamb",
    "Muon",
]


def variables() -> list[keras.Variable]:
    return [keras.Variable(np.ones(3, "f4"), name="a"), keras.Variable(np.ones(2, "f4"), name="b")]


def built(**options: Any) -> tuple[keras.optimizers.Optimizer, list[keras.Variable]]:
    optimizer, held = keras.optimizers.SGD(0.5, **options), variables()
    optimizer.build(held)
    return optimizer, held


def step(optimizer: keras.optimizers.Optimizer, held: list[keras.Variable]) -> None:
    apply(optimizer, [np.ones(v.shape, "f4") for v in held], held)


def test_key_of_and_index_of() -> None:
    optimizer, held = built()
    assert [_compat.index_of(optimizer, v) for v in held] == [0, 1]
    assert _compat.key_of(optimizer, held[0]) != _compat.key_of(optimizer, held[1])
    if BACKEND == "tensorflow":  # whose update steps see variables of TensorFlow
        assert _compat.index_of(optimizer, held[1].value) == 1
        assert _compat.key_of(optimizer, held[1]) == _compat.key_of(optimizer, held[1].value)


def test_know_variables() -> None:
    """An optimizer without state steps as after `build`."""
    optimizer, held = keras.optimizers.SGD(0.5, use_ema=True), variables()
    _compat.know_variables(optimizer, held)
    optimizer.use_ema = False
    step(optimizer, held)
    assert [keras.ops.convert_to_numpy(v).tolist() for v in held] == [[0.5] * 3, [0.5] * 2]
    assert optimizer.built
    assert len(optimizer.variables) == 2  # iterations and learning rate


def test_forget_variable() -> None:
    optimizer, held = built()
    extra = optimizer.add_variable_from_reference(held[0], "extra")
    assert any(v is extra for v in optimizer.variables)
    _compat.forget_variable(optimizer, extra)
    assert not any(v is extra for v in optimizer.variables)


def test_shows_moving_average() -> None:
    class Wrapper(_compat.ShowsMovingAverage):
        inner_optimizer, _ = built(use_ema=True)

    optimizer, held = built(use_ema=True)
    step(optimizer, held)
    Wrapper.inner_optimizer = optimizer
    average = Wrapper()._model_variables_moving_average
    assert [v.shape for v in average] == [v.shape for v in held]
    Wrapper.inner_optimizer, _ = built()
    assert not hasattr(Wrapper(), "_model_variables_moving_average")


def test_own_variables() -> None:
    optimizer, _ = built(momentum=0.9)
    assert _compat.own_variables(optimizer) == optimizer.variables
    assert len(optimizer.variables) == 4


def test_calls_of_apply() -> None:
    optimizer, held = built(gradient_accumulation_steps=2)
    for _ in range(3):
        step(optimizer, held)
    assert (int(_compat.calls_of_apply(optimizer)), int(optimizer.iterations)) == (3, 1)


def test_float32_like() -> None:
    optimizer, _ = built()
    narrow = keras.Variable(np.ones((2, 3)), dtype="bfloat16")
    wide = _compat.float32_like(optimizer, narrow, "name")
    assert (wide.shape, wide.dtype, wide.name) == ((2, 3), "float32", "name")
    assert wide is optimizer.variables[-1]
    assert BACKEND != "jax" or hasattr(narrow, "_layout")


def test_recording_state() -> None:
    optimizer, held = keras.optimizers.Adam(0.1), variables()[:1]
    records: list[Any] = []
    with _compat.recording_state(optimizer, lambda *record: records.append(record)) as add:
        optimizer.build(held)
        state = add(held[0], name="more")
    assert [(v, name) for v, name, _ in records] == [
        (held[0], "momentum"),
        (held[0], "velocity"),
        (held[0], "more"),
    ]
    assert records[2][2] is state
    optimizer.add_variable_from_reference(held[0], name="unrecorded")
    assert len(records) == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_weight_decay_and_around_update(name: str) -> None:
    """A step clips, then decays, then updates: gradients are complete at the update, and
    accumulators take the weights' place before the decay.
    """
    optimizer, held = (
        getattr(keras.optimizers, name)(0.1, clipvalue=0.5, weight_decay=0.5),
        variables(),
    )
    calls: list[str] = []

    def before(gradient: Any, variable: Any) -> Any:
        calls.append(f"before {float(keras.ops.max(gradient))}")
        return gradient

    _compat.before_weight_decay(optimizer, lambda decayed: calls.append(f"decay {len(decayed)}"))
    _compat.around_update(optimizer, before, lambda variable: calls.append("after"))
    step(optimizer, held)
    pairs = ["before 0.5", "after"] * 2
    assert calls == ["decay 2", *(sorted(pairs, reverse=True) if BACKEND == "torch" else pairs)]


def test_signatures_of_the_replaced_methods() -> None:
    optimizer = keras.optimizers.SGD(0.1)
    for method, names in (
        (optimizer.update_step, ["gradient", "variable", "learning_rate"]),
        (optimizer._apply_weight_decay, ["variables"]),
        (optimizer._backend_update_step, ["grads", "trainable_variables", "learning_rate"]),
    ):
        assert list(inspect.signature(method).parameters) == names


def test_without_weight_decay() -> None:
    optimizer, held = built(weight_decay=0.5)
    _compat.without_weight_decay(optimizer)
    step(optimizer, held)
    assert keras.ops.convert_to_numpy(held[0]).tolist() == [0.5] * 3


def test_decays_and_exclude_alike() -> None:
    optimizer, (a, b) = keras.optimizers.SGD(0.5, weight_decay=0.5), variables()
    optimizer.exclude_from_weight_decay(var_list=[a])
    c, d = variables()
    _compat.exclude_alike(optimizer, a, c)
    _compat.exclude_alike(optimizer, b, d)
    optimizer.build([a, b, c, d])
    assert [_compat.decays(optimizer, v) for v in (a, b, c, d)] == [False, True, False, True]
    assert not _compat.decays(*[x if i == 0 else x[0] for i, x in enumerate(built())])


def test_publicly() -> None:
    """What is saved on one backend loads on another."""
    saved = _compat.publicly(keras.saving.serialize_keras_object(keras.optimizers.SGD(0.5)))
    assert (saved["module"], saved["class_name"]) == ("keras.optimizers", "SGD")
    assert isinstance(keras.saving.deserialize_keras_object(saved), keras.optimizers.SGD)


def test_flat_layers_and_input_layer_of() -> None:
    x = keras.Input((2,), name="x")
    inner = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="dense")])
    model = keras.Model(x, inner(x))
    layers = _compat.flat_layers(model)
    assert model in layers
    assert model not in _compat.flat_layers(model, include_self=False)
    assert "dense" in [layer.name for layer in layers]
    assert _compat.input_layer_of(model.inputs[0]).name == "x"


def test_own_trainable_variables_and_conv_lstm_cell() -> None:
    layer = keras.layers.ConvLSTM2D(2, 3)
    assert _compat.own_trainable_variables(layer.cell) == []
    layer.build((None, 5, 8, 8, 4))
    assert _compat.own_trainable_variables(layer) == []
    assert type(layer.cell) is _compat.ConvLSTMCell
    names = [v.name for v in _compat.own_trainable_variables(layer.cell)]
    assert names == ["kernel", "recurrent_kernel", "bias"]
    assert _compat.own_trainable_variables(object.__new__(keras.layers.Layer)) == []


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow alone has replicas")
def test_on_each_replica() -> None:
    import tensorflow as tf

    v, seen = tf.Variable(1.0), []
    rows = [(v, tf.constant(2.0))]
    _compat.on_each_replica(lambda i, held, x: seen.append((i, held is v, float(x))), rows)
    assert seen == [(0, True, 2.0)]


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone has tracers")
def test_traced_by_jax() -> None:
    import jax

    seen = []
    jax.jit(lambda x: seen.append(_compat.traced_by_jax(x)) or x)(1.0)
    assert seen == [True]
    assert not _compat.traced_by_jax(jax.numpy.ones(1))


# --- products of layers


def test_replace_backend_function_and_backend_function() -> None:
    """Operations look up the backend's functions when they are called."""
    names = ["numpy.matmul", "numpy.einsum", "numpy.dot", "numpy.inner", "numpy.vdot"]
    names += ["numpy.tensordot", "nn.conv", "nn.depthwise_conv", "nn.separable_conv"]
    names += ["nn.conv_transpose", "nn.dot_product_attention", "lstm", "gru", "rnn"]
    assert all(callable(_compat.backend_function(name)) for name in names)
    calls: list[str] = []

    def make(function: Any) -> Any:
        def replaced(x: Any) -> Any:
            calls.append(function.__name__)
            return function(x)

        return replaced

    _compat.replace_backend_function("numpy.signbit", make)
    _compat.replace_backend_function("numpy.signbit", make)  # once is enough
    keras.ops.signbit(keras.ops.ones(1))
    assert calls == ["signbit"]
    assert _compat.backend_function("numpy.signbit").__name__ == "signbit"


def test_around_layer_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, calls = keras.layers.Layer, []
    for name in ("__call__", "_lock_state", "stateless_call"):
        monkeypatch.setattr(kind, name, getattr(kind, name))

    def make(call: Any) -> Any:
        def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(f"call {layer.name}")
            return call(layer, *args, **kwargs)

        return called

    _compat.around_layer_calls(make, lambda layer: calls.append(f"lock {layer.name}"))
    keras.layers.Dense(1, name="dense")(np.ones((1, 1), "f4"))
    assert calls == ["call dense", "lock dense"]
    del calls[:]
    layer = keras.layers.Dense(1, name="stateless")
    layer.build((1, 1))
    layer.stateless_call([v.value for v in layer.trainable_variables], [], np.ones((1, 1), "f4"))
    assert calls == ["lock stateless", "call stateless"]
    assert "call" not in layer.__dict__


def test_is_training() -> None:
    seen = []

    class Seeing(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            seen.append(_compat.is_training({}))
            return x

    layer = Seeing()
    for training in (True, False, None):
        layer(np.ones(1, "f4"), training=training)
    assert seen == [True, False, False]
    assert _compat.is_training({"training": True})
    assert not _compat.is_training({})


def test_before_from_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.layers.Layer, "from_config", keras.layers.Layer.from_config)
    _compat.before_from_config(lambda config: {**config, "units": 7})
    layer = keras.layers.Dense(3)
    assert type(layer).from_config(layer.get_config()).units == 7


def test_around_items_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.Variable, "__getitem__", keras.Variable.__getitem__)
    _compat.around_items_of_variables(lambda item: lambda v, index: (v, index))
    v = keras.Variable(np.ones(2, "f4"))
    assert v[1] == (v, 1)


def test_saved_state_and_add_state(tmp_path: Path) -> None:
    """State of a built layer: a variable of it, saved, and no weight."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    states = []
    for value in (5, 0):
        states.append(_compat.SavedState(seed=value))
        _compat.add_state(model.layers[0], "more", states[-1])
        if value:
            model.save_weights(tmp_path / "x.weights.h5")
            del model.layers[0]._seed_generators[:]
    model.load_weights(tmp_path / "x.weights.h5")
    assert keras.ops.convert_to_numpy(states[1].state).tolist() == [5, 0]
    assert len(model.variables) == 3
    assert len(model.weights) == 2


def test_sublayers() -> None:
    inner = keras.Sequential([keras.layers.Dense(1)], name="inner")
    assert _compat.sublayers(keras.Sequential([inner])) == [inner]


def test_the_pinned_range_contains_the_installed_keras() -> None:
    (pin,) = {
        str(r.specifier)
        for r in map(Requirement, requires("qemu-swalp") or ())
        if r.name == "keras"
    }
    assert Requirement(f"keras{pin}").specifier.contains(version("keras"))


# --- nothing private is touched elsewhere

PACKAGE = Path(qemu_swalp_keras.__file__).parent
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
}
FRAMEWORK_CLASSES = (
    keras.optimizers.Optimizer,
    keras.layers.Layer,
    keras.callbacks.Callback,
    keras.optimizers.schedules.LearningRateSchedule,
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def defined_here(*without: str) -> set[str]:
    """Private names that the adapter's classes define: methods, and attributes of self."""
    names = set()
    for tree in (tree for name, tree in TREES.items() if name not in without):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                names.add(node.attr)
    return names


def private_uses(tree: ast.AST, ours: set[str]) -> Iterator[str]:
    """Private attributes that are not ours, and private modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            (is_private(node.attr) and node.attr not in ours)
            or node.attr in ("__internal__", "src")
            or (node.attr == "core" and getattr(node.value, "id", "") == "jax")
        ):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            parts = f"{node.module}.{'.'.join(alias.name for alias in node.names)}".split(".")
            if parts[0] in ("keras", "tensorflow", "jax", "torch"):
                yield from (part for part in parts if is_private(part) or part == "src")


def test_private_api_is_used_in_compat_alone() -> None:
    ours = defined_here()
    uses = {name: sorted(set(private_uses(tree, ours))) for name, tree in TREES.items()}
    assert uses.pop("_compat.py"), "the search finds nothing any more"
    assert {name: found for name, found in uses.items() if found} == {}


def test_no_private_name_of_keras_is_overridden() -> None:
    theirs = {name for kind in FRAMEWORK_CLASSES for name in dir(kind) if is_private(name)}
    optimizer, _ = built()
    theirs |= {name for name in vars(optimizer) if is_private(name)}
    assert {name for name in defined_here("_compat.py") if is_private(name)} & theirs == set()


def test_each_item_of_compat_has_a_docstring_and_a_test() -> None:
    tested = ast.unparse(ast.parse(Path(__file__).read_text()))
    for node in TREES["_compat.py"].body:
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node), node.name
            assert f"_compat.{node.name}(" in tested, node.name


class Order(keras.callbacks.Callback):
    """Notes which hooks of a callback and of `_compat` come when."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append("begin")
        _compat.around_epoch_end(self.model, lambda: self.seen.append("before"), list)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append("batch")

    def on_test_begin(self, logs: Any = None) -> None:
        self.seen.append("test")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append("end")


def test_before_calls_and_around_epoch_end() -> None:
    model, seen = network(), []
    model.compile("sgd", loss="mse")
    remove = _compat.before_calls(model, ["make_train_function"], lambda: seen.append("first"))
    x, y = data(8)
    model.fit(x, y, validation_data=(x, y), callbacks=[Order(seen)], verbose=0)
    assert seen == ["first", "begin", "batch", "before", "test", "end"]
    remove()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert len(seen) == 6
    assert not {"make_train_function", "evaluate", "_get_metrics_result_or_logs"} & set(vars(model))


def test_fit_was_interrupted() -> None:
    """On JAX it finalizes the weights; a `fit` in the handler of another exception is none."""
    seen: list[bool] = []

    class Optimizer(keras.optimizers.SGD):
        def finalize_variable_values(self, var_list: Any) -> None:
            seen.append(_compat.fit_was_interrupted())

    model = network()
    model.compile(Optimizer(0.1), loss="mse")
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: 1 / 0)
    try:
        model.fit(*data(8), callbacks=[stop], verbose=0)
    except ZeroDivisionError:
        model.fit(*data(8), verbose=0)
    assert seen == ([True, False] if BACKEND == "jax" else [False])


def test_reads_state_to_train() -> None:
    seen: list[bool] = []

    class Optimizer(keras.optimizers.SGD):
        @property
        def variables(self) -> list[Any]:
            seen.append(_compat.reads_state_to_train())
            return super().variables

    model = network()
    model.compile(Optimizer(0.1), loss="mse")
    model.fit(*data(8), verbose=0)
    assert any(seen) == (BACKEND == "jax")
    seen.clear()
    model.evaluate(*data(8), verbose=0)
    assert not any(seen)
    assert model.optimizer.variables
    assert not any(seen)


def test_operators_private_functions_and_methods_can_be_replaced() -> None:
    """What Keras's own code calls is found where it was replaced, in calls that follow."""
    seen: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return function(*args, **options)

        return call

    x = keras.ops.convert_to_tensor([[1.0, 2.0]])
    home, plain = keras.src.ops.nn, keras.src.ops.nn._normalize
    try:
        _compat.replace_private_function("ops.nn._normalize", lambda f: noted("normalize", f))
        keras.layers.UnitNormalization()(x)
    finally:
        home._normalize = plain
    kind, call = (
        keras.layers.GroupNormalization,
        keras.layers.GroupNormalization._apply_normalization,
    )
    try:
        _compat.replace_method(kind, "_apply_normalization", lambda f: noted("group", f))
        keras.layers.GroupNormalization(1)(x)
    finally:
        kind._apply_normalization = call
    assert seen == ["normalize", "group"]
    assert _compat.function_in_place("numpy.add") is keras.src.backend.numpy.add


@pytest.mark.skipif(BACKEND == "torch", reason="a mode sees PyTorch's operators")
def test_operators_of_tensors_are_ours() -> None:
    """Of eager tensors and of traced ones."""
    from tests.helpers.keras_native import MODES, traced

    seen: list[str] = []
    x = keras.ops.convert_to_tensor([1.0, 2.0])
    kinds = {k for k in type(x).__mro__ if "__add__" in vars(k)}
    if BACKEND == "jax":
        import jax

        kinds.add(jax.core.Tracer)
    plain = {kind: kind.__add__ for kind in kinds}

    def noted(name: str, operator: Any) -> Any:
        return lambda a, b: (seen.append(name), operator(a, b))[1]

    try:
        _compat.replace_operators(["__add__"], noted)
        for mode in MODES:
            traced(lambda x: x + 2.0, mode)(x)
        assert seen == ["__add__"] * len(MODES)
    finally:
        for kind, operator in plain.items():
            kind.__add__ = operator


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_jax_calls_python_on_the_host() -> None:
    """Once for each run of a program, within loops too."""
    import jax

    def twice(x: Any) -> Any:
        assert type(x) is np.ndarray
        return 2 * x

    def step(x: Any, _: Any) -> Any:
        return _compat.called_on_host_by_jax(twice, [x], x.shape, "float32"), None

    assert _compat.host_primitive() is _compat.host_primitive()
    run = jax.jit(lambda x: jax.lax.scan(step, x, None, length=3)[0])
    assert run(np.float32([1.0, 2.0])).tolist() == [8.0, 16.0]


def test_policies_of_functional_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved in the config, and given to what is loaded and cloned."""
    from keras.src.models import cloning, functional

    monkeypatch.setattr(functional.Functional, "get_config", functional.Functional.get_config)
    for module, name in (
        (functional, "functional_from_config"),
        (cloning, "_clone_functional_model"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    given: list[str] = []
    _compat.keep_policies_of_functional_models(
        lambda model: f"of {model.name}", lambda model, config: given.append(config)
    )
    x = keras.layers.Input((2,))
    model = keras.Model(x, keras.ops.relu(x), name="graph")
    assert model.get_config()["rounding"] == "of graph"
    keras.Model.from_config(model.get_config())
    keras.models.clone_model(model)
    assert given == ["of graph"] * 2


@pytest.mark.skipif(BACKEND == "jax", reason="JAX's programs hold them")
def test_dispatched_products() -> None:
    """Of floating numbers, eagerly and while a graph is traced; no other operations."""
    from tests.helpers.keras_native import MODES, traced

    x = keras.ops.ones((2, 2))
    for mode in MODES:
        seen: list[str] = []
        with _compat.dispatched_products(seen.append):
            traced(lambda x: _compat.backend_function("numpy.matmul")(x + x, x), mode)(x)
        assert len(seen) == 1
        assert seen[0] in _compat.PRODUCTS[BACKEND]
        with _compat.dispatched_products(seen.append):
            keras.ops.cast(x, "float16")  # has a dtype among its arguments
    _compat.backend_function("numpy.matmul")(x, x)
    assert len(seen) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's programs")
def test_products_in_program() -> None:
    """Within functions that JAX compiles by themselves and loops too; ours are left out."""
    import jax
    import jax.numpy as jnp

    def function(x: Any) -> Any:
        with jax.named_scope(_compat.OURS):
            x = jnp.matmul(x, x)
        body = lambda carry, _: (jnp.einsum("ij,jk->ik", carry, carry), None)  # noqa: E731
        return jax.lax.scan(body, jnp.dot(x, x), None, length=2)

    assert _compat.products_in_program(function, [jnp.ones((2, 2))]) == ["dot_general"] * 2


def test_trainer_trains() -> None:
    """Within `fit` and not within `evaluate`, of a model whose `call` takes no `training`."""
    seen: list[bool] = []

    class Own(keras.Model):
        def build(self, shape: Any) -> None:
            self.w = self.add_weight(shape=(shape[-1], 1))

        def call(self, x: Any) -> Any:
            seen.append(_compat.trainer_trains())
            return keras.ops.matmul(x, self.w)

    model = Own()
    model.build((None, 4))
    model.compile("sgd", "mse")
    x, y = data(8, outputs=1)
    model.fit(x, y, verbose=0)
    assert any(seen)
    seen.clear()
    model.evaluate(x, y, verbose=0)
    assert seen
    assert not any(seen)
