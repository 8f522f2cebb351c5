"""Private API of Keras, TensorFlow and JAX: all that this adapter touches of it, here alone.

Each item says what it is for. All were seen in Keras 3.15, TensorFlow 2.21 and JAX 0.10; for each
there is a contract test in `tests/adapters/keras/test_compat.py`, which fails where a release
changes it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from operator import attrgetter
from typing import Any

import keras
from keras import src as _keras
from keras.src import backend as _backend
from keras.src.backend.common import global_state as _global_state
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell as _ConvLSTMCell
from keras.src.models.functional import Functional as _Functional
from keras.src.saving.keras_saveable import KerasSaveable as _KerasSaveable
from keras.src.utils.tracking import no_automatic_dependency_tracking

ConvLSTMCell = _ConvLSTMCell
"""What holds the kernels of `ConvLSTM1D` to `ConvLSTM3D`."""

UpdateStep = Callable[[Any, Any, Any], None]
"""(gradient, variable, learning_rate), as an optimizer's `update_step`."""


# --- an optimizer's variables


def key_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """What an optimizer tells variables apart by, Keras's and TensorFlow's alike."""
    return optimizer._var_key(variable)


def index_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Index of a variable among those that an optimizer was built with."""
    return int(optimizer._get_variable_index(variable))


@no_automatic_dependency_tracking  # type: ignore[untyped-decorator]
def know_variables(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
    """What an optimizer's `build` does, but for the state that its options ask for."""
    for i, variable in enumerate(variables):
        optimizer._trainable_variables_indices[optimizer._var_key(variable)] = i
    optimizer._trainable_variables = list(variables)
    optimizer.built = True


def own_variables(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that an optimizer itself added, whatever its `variables` are."""
    return list(optimizer._variables)


def forget_variable(optimizer: keras.optimizers.Optimizer, variable: Any) -> None:
    """Take a variable from those that an optimizer added."""
    optimizer._untrack_variable(variable)


def calls_of_apply(optimizer: keras.optimizers.Optimizer) -> Any:
    """Variable that counts the calls of `apply`; `iterations` counts the updates, of which gradient
    accumulation makes fewer.
    """
    return optimizer._iterations


def float32_like(optimizer: keras.optimizers.Optimizer, variable: Any, name: str) -> Any:
    """A new float32 variable of an optimizer, with the shape and the device layout of another."""
    return optimizer.add_variable(
        variable.shape, dtype="float32", name=name, layout=getattr(variable, "_layout", None)
    )


@contextmanager
def recording_state(
    optimizer: keras.optimizers.Optimizer, record: Callable[[Any, str, Any], None]
) -> Iterator[Callable[..., Any]]:
    """Within it record(variable, name, state) is called for state that an optimizer makes like a
    variable. The value is the function that makes it.
    """
    add = optimizer.add_variable_from_reference

    def recorded(reference_variable: Any, name: str | None = None, **kwargs: Any) -> Any:
        state = add(reference_variable, name=name, **kwargs)
        record(reference_variable, name or "var", state)
        return state

    optimizer.add_variable_from_reference = recorded
    try:
        yield recorded
    finally:
        del optimizer.add_variable_from_reference


# --- an optimizer's update


def before_weight_decay(
    optimizer: keras.optimizers.Optimizer, function: Callable[[Sequence[Any]], None]
) -> Callable[[], None]:
    """Call function(variables) when gradients are complete, before the weights decay. The value
    ends it.
    """
    decay = optimizer._apply_weight_decay

    def apply_weight_decay(variables: Sequence[Any]) -> None:
        function(variables)
        decay(variables)

    optimizer._apply_weight_decay = apply_weight_decay
    return partial(delattr, optimizer, "_apply_weight_decay")


def without_weight_decay(optimizer: keras.optimizers.Optimizer) -> None:
    """Have an optimizer's own update see to weight decay."""
    optimizer._apply_weight_decay = lambda variables: None


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Whether weight decay applies to a variable."""
    return bool(optimizer.weight_decay) and bool(optimizer._use_weight_decay(variable))


def exclude_alike(optimizer: keras.optimizers.Optimizer, variable: Any, other: Any) -> None:
    """Exclude another variable from weight decay, if this one was excluded itself."""
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None) or set()
    if key_of(optimizer, variable) in excluded:
        optimizer._exclude_from_weight_decay = {*excluded, key_of(optimizer, other)}


def around_update(
    optimizer: keras.optimizers.Optimizer,
    before: Callable[[Any, Any], Any],
    after: Callable[[Any], None],
) -> Callable[[], None]:
    """Have each variable updated by before(gradient, variable), and after(variable) called then.
    The value ends it.

    `update_step` is what an optimizer defines; TensorFlow calls it after the all-reduce, in each
    replica. Keras's own optimizers for PyTorch update all variables at once instead.
    """
    if keras.backend.backend() != "torch":
        update_one = optimizer.update_step

        def update_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
            update_one(before(gradient, variable), variable, learning_rate)
            after(variable)

        optimizer.update_step = update_step
        return partial(delattr, optimizer, "update_step")
    update_all = optimizer._backend_update_step

    def backend_update_step(
        grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        gradients = [before(g, v) for g, v in zip(grads, variables, strict=True)]
        update_all(gradients, variables, learning_rate)
        for variable in variables:
            after(variable)

    optimizer._backend_update_step = backend_update_step
    return partial(delattr, optimizer, "_backend_update_step")


class ShowsMovingAverage:
    """A wrapper that has `use_ema`'s average from its inner optimizer, as `SwapEMAWeights` asks for
    it when loss scaling is around the wrapper.
    """

    inner_optimizer: Any

    @property
    def _model_variables_moving_average(self) -> list[Any]:
        average: list[Any] = self.inner_optimizer._model_variables_moving_average
        return average


def publicly(serialized: dict[str, Any]) -> dict[str, Any]:
    """A serialized optimizer by its public class: `keras.optimizers.SGD(…)` on PyTorch makes one of
    a class that other backends lack.
    """
    if serialized["module"].startswith("keras.src.backend."):
        return serialized | {"module": "keras.optimizers", "registered_name": None}
    return serialized


# --- models


def flat_layers(model: keras.layers.Layer, include_self: bool = True) -> list[Any]:
    """A layer and all layers within it, at any depth."""
    return list(model._flatten_layers(include_self=include_self))


def own_trainable_variables(layer: keras.layers.Layer) -> list[Any]:
    """The trainable variables of a layer itself, without those of layers within it; none before it
    is initialized.
    """
    return list(layer.__dict__.get("_trainable_variables", ()))


def input_layer_of(x: Any) -> keras.layers.InputLayer:
    """The layer that made a symbolic input of a model."""
    return x._keras_history.operation


def before_calls(
    model: keras.Model, names: Sequence[str], function: Callable[[], None]
) -> Callable[[], None]:
    """Have function() called before methods of a model. The value removes it again.

    `fit` and `train_on_batch` begin with `make_train_function()`, `evaluate` and `predict` and
    their kin with theirs.
    """
    for name in names:
        if not isinstance(model.__dict__.get(name), _Guarded):
            shadowed = {name: model.__dict__[name]} if name in model.__dict__ else {}
            model.__dict__[name] = _Guarded(getattr(model, name), shadowed)
        model.__dict__[name].functions.append(function)

    def remove() -> None:
        for name in names:
            guarded = model.__dict__.get(name)
            if isinstance(guarded, _Guarded) and function in guarded.functions:
                guarded.functions.remove(function)
                if not guarded.functions:
                    del model.__dict__[name]
                    model.__dict__.update(guarded.shadowed)

    return remove


class _Guarded:
    """A method of a model that calls other functions first."""

    def __init__(self, method: Callable[..., Any], shadowed: dict[str, Any]) -> None:
        self.method, self.shadowed = method, shadowed
        self.functions: list[Callable[[], None]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for function in list(self.functions):
            function()
        return self.method(*args, **kwargs)


def around_epoch_end(
    model: keras.Model, before: Callable[[], None], on_exception: Callable[[], None]
) -> Callable[[], None]:
    """In the present `fit`, have before() called after the last batch of an epoch, before its
    validation and `on_epoch_end`, and on_exception() when an evaluation raises. The value ends it,
    as does the next `fit`.

    After the last batch `fit` asks for the logs of the epoch. So does `evaluate`.
    """
    evaluate, logs_of = model.evaluate, model._get_metrics_result_or_logs
    shadowed = {name: model.__dict__.get(name) for name in ("evaluate", logs_of.__name__)}
    evaluating = 0

    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal evaluating
        evaluating += 1
        try:
            return evaluate(*args, **kwargs)
        except BaseException:
            on_exception()
            raise
        finally:
            evaluating -= 1

    def epoch_logs(logs: Any) -> Any:
        if not evaluating:
            before()
        return logs_of(logs)

    def remove() -> None:
        remove_guard()
        for name, function in shadowed.items():
            if function is None:
                model.__dict__.pop(name, None)
            else:
                model.__dict__[name] = function

    model.__dict__.update({"evaluate": guarded, logs_of.__name__: epoch_logs})
    remove_guard = before_calls(model, ["make_train_function"], remove)
    return remove


def reads_state_to_train() -> bool:
    """Whether JAX's trainer is reading the state of an optimizer, for a training step that takes it
    over. An exception is harmless then; one in the step would lose the weights.
    """
    frames = (frame for frame, _ in traceback.walk_stack(None))
    return any(frame.f_code.co_name == "_get_jax_state" for frame in islice(frames, 8))


def fit_was_interrupted() -> bool:
    """Whether the running `fit` is being left by an exception: on JAX it finalizes the weights then
    too.
    """
    exception = sys.exc_info()[1]
    if exception is None:
        return False
    raised = {frame for frame, _ in traceback.walk_tb(exception.__traceback__)}
    frames = (frame for frame, _ in traceback.walk_stack(None))
    fit = next((frame for frame in frames if frame.f_code.co_name == "fit"), None)
    return fit in raised


# --- backends


def on_each_replica(function: Callable[..., None], rows: Sequence[tuple[Any, ...]]) -> None:
    """TensorFlow: function(i, variable, *rest) of each row (variable, *rest), once for each replica
    of the running strategy, with what the replica holds.
    """
    import tensorflow as tf

    def update(strategy: Any, rows: list[tuple[Any, ...]]) -> None:
        for i, (first, *rest) in enumerate(rows):
            strategy.extended.update(first, partial(function, i), args=tuple(rest), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), list(rows)
    )


def traced_by_jax(x: Any) -> bool:
    """Whether x stands for a value in a function that JAX is tracing."""
    import jax

    return isinstance(x, jax.core.Tracer)


def called_on_host_by_jax(
    function: Callable[..., Any], operands: Sequence[Any], shape: Sequence[Any], dtype: str
) -> Any:
    """function(*operands) in a program of JAX, called on the host with NumPy's arrays.

    `jax.pure_callback` hands it arrays of JAX: reading them waits for the thread that runs the
    program, on a machine of one core for ever.
    """
    primitive = host_primitive()
    return primitive.bind(*operands, function=function, shape=tuple(shape), dtype=dtype)


@cache
def host_primitive() -> Any:
    """The primitive that `called_on_host_by_jax` binds."""
    import jax
    import numpy as np
    from jax.extend.core import Primitive
    from jax.interpreters import mlir

    primitive = Primitive("qemu_swalp_on_host")

    def called(function: Callable[..., Any], *arrays: Any) -> tuple[Any]:
        return (np.asarray(function(*map(np.asarray, arrays))),)

    def lowering(ctx: Any, *operands: Any, function: Callable[..., Any], **_: Any) -> Any:
        results, _, _ = mlir.emit_python_callback(
            ctx,
            partial(called, function),
            None,
            list(operands),
            ctx.avals_in,
            ctx.avals_out,
            has_side_effect=False,
            returns_token=False,
        )
        return results

    primitive.def_impl(lambda *xs, function, **_: jax.numpy.asarray(called(function, *xs)[0]))
    primitive.def_abstract_eval(
        lambda *_, shape, dtype, **__: jax.core.ShapedArray(shape, np.dtype(dtype))
    )
    mlir.register_lowering(primitive, lowering)
    return primitive


# --- products of layers: functions of the backend, and calls of layers


def backend_function(name: str) -> Callable[..., Any]:
    """The function of the running backend, as in "numpy.matmul", whatever stands in its place."""
    replaced = _replaced.get(name)
    return replaced if replaced is not None else attrgetter(name)(_backend)


def replace_backend_function(
    name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have Keras call make(function) in place of a function of its backend, in this process."""
    if name in _replaced:
        return
    *modules, last = name.split(".")
    function = backend_function(name)
    _replaced[name] = function
    setattr(attrgetter(".".join(modules))(_backend) if modules else _backend, last, make(function))


_replaced: dict[str, Callable[..., Any]] = {}


def function_in_place(name: str) -> Callable[..., Any]:
    """What Keras calls as a function of its backend: ours, where it was replaced."""
    function: Callable[..., Any] = attrgetter(name)(_backend)
    return function


def replace_private_function(
    name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """The same of a function of Keras itself, as in "ops.nn._normalize"."""
    module, _, last = name.rpartition(".")
    home = attrgetter(module)(_keras)
    setattr(home, last, make(getattr(home, last)))


def replace_method(
    kind: type[Any], name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have make(method) called for a method of a class of Keras."""
    setattr(kind, name, make(getattr(kind, name)))


def replace_operators(
    names: Sequence[str], make: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Have make(name, operator) called for operators of TensorFlow's or JAX's tensors, as in
    "__add__". Those of PyTorch are seen by a mode.
    """
    kinds: list[Any] = []
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        kinds = [tf.Tensor]
    elif keras.backend.backend() == "jax":
        import jax
        from jax._src.array import ArrayImpl

        kinds = [jax.core.Tracer, ArrayImpl]
    for kind in kinds:
        for name in names:
            setattr(kind, name, make(name, getattr(kind, name)))


def around_layer_calls(
    make_call: Callable[[Callable[..., Any]], Callable[..., Any]],
    before_lock: Callable[[Any], None],
) -> None:
    """Have make_call(Layer.__call__) called for each layer, and before_lock(layer) when one was
    built, while state can still be added to it.

    `stateless_call`, by which JAX trains, calls the model's `call` past its `__call__`: so that is
    wrapped there.
    """
    lock = keras.layers.Layer._lock_state
    stateless = keras.layers.Layer.stateless_call

    def stateless_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        shadowed = {"call": layer.__dict__["call"]} if "call" in layer.__dict__ else {}
        call = layer.call
        layer.__dict__["call"] = partial(make_call(lambda _, *a, **k: call(*a, **k)), layer)
        try:
            return stateless(layer, *args, **kwargs)
        finally:
            del layer.__dict__["call"]
            layer.__dict__.update(shadowed)

    def lock_state(layer: Any) -> None:
        before_lock(layer)
        lock(layer)

    keras.layers.Layer._lock_state = lock_state
    keras.layers.Layer.stateless_call = stateless_call
    keras.layers.Layer.__call__ = make_call(keras.layers.Layer.__call__)


def before_from_config(prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Have layers made from prepare(config): Keras keeps of a dtype policy there but its name."""
    from_config = keras.layers.Layer.from_config.__func__

    def prepared(cls: Any, config: dict[str, Any]) -> Any:
        return from_config(cls, prepare(config))

    keras.layers.Layer.from_config = classmethod(prepared)


OURS = "qemu_swalp"
"""Name scope in JAX's programs of what this adapter computes."""

PRODUCTS = {
    "tensorflow": (
        *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv", "Conv2D"),
        *("Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
        *("XlaDot", "XlaDotV2", "XlaConv", "XlaConvV2", "SparseMatMul", "FusedConv2D"),
    ),
    "jax": ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"),
    "torch": (
        *("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "addr"),
        *("linear", "convolution", "_convolution", "_trilinear", "_cdist_forward"),
        *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention"),
        *("_thnn_fused_lstm_cell", "lstm", "mkldnn_rnn_layer", "_cudnn_rnn", "_sparse_mm"),
    ),
}
"""Operations by which the backends multiply matrices."""


@contextmanager
def dispatched_products(note: Callable[[str], None]) -> Iterator[None]:
    """Within it note(operation) is called for each floating product that TensorFlow or PyTorch is
    told to compute in this thread, also while a graph is traced.
    """
    names = PRODUCTS[keras.backend.backend()]
    if keras.backend.backend() == "torch":
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                name = function.overloadpacket.__name__
                floats = any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in args)
                if name in names and floats:
                    note(name)
                return function(*args, **(kwargs or {}))

        with Watch():  # type: ignore[no-untyped-call]
            yield
        return
    from tensorflow.python.framework import op_callbacks

    def callback(kind: Any, inputs: Any, *_: Any, **__: Any) -> None:
        name = kind.decode() if isinstance(kind, bytes) else kind
        if name in names and any(x.dtype.is_floating for x in inputs):
            note(name)

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def products_in_program(function: Callable[..., Any], tensors: Sequence[Any]) -> list[str]:
    """The floating products that JAX traces in function(*tensors), but for those within the name
    scope `OURS`.
    """
    import jax
    import numpy as np

    def is_program(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")

    def found(program: Any) -> Iterator[str]:
        for equation in program.eqns:
            if OURS in str(equation.source_info.name_stack):
                continue
            name = equation.primitive.name
            if name in PRODUCTS["jax"] and np.issubdtype(
                equation.outvars[0].aval.dtype, np.inexact
            ):
                yield name
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
                if is_program(value):
                    yield from found(getattr(value, "jaxpr", value))

    return list(found(jax.make_jaxpr(function)(*tensors).jaxpr))


def keep_policies_of_functional_models(
    config_of: Callable[[Any], Any], give: Callable[[Any, Any], None]
) -> None:
    """Have functional models saved with config_of(model), unless that is None, and give(model,
    config) called when they are loaded and cloned: Keras keeps nothing of their dtype policies.
    """
    key = "rounding"

    def make_get_config(get_config: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(model: Any) -> dict[str, Any]:
            config = config_of(model)
            return {**get_config(model), **({} if config is None else {key: config})}

        return with_policy

    def make_from_config(from_config: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(cls: Any, config: dict[str, Any], *args: Any, **options: Any) -> Any:
            plain = {name: value for name, value in config.items() if name != key}
            model = from_config(cls, plain, *args, **options)
            if key in config:
                give(model, config[key])
            return model

        return with_policy

    def make_clone(clone: Callable[..., Any]) -> Callable[..., Any]:
        def with_policy(model: Any, *args: Any, **options: Any) -> Any:
            made, config = clone(model, *args, **options), config_of(model)
            if config is not None:
                give(made, config)
            return made

        return with_policy

    replace_method(_Functional, "get_config", make_get_config)
    replace_private_function("models.functional.functional_from_config", make_from_config)
    replace_private_function("models.cloning._clone_functional_model", make_clone)


def around_items_of_variables(
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Have make(function) called for variable[index]."""
    kind = keras.Variable
    kind.__getitem__ = make(kind.__getitem__)


def is_training(options: dict[str, Any]) -> bool:
    """Whether a layer that is called with these options trains: as it was told, else as the layers
    around it.
    """
    training = options.get("training")
    if training is None:
        context = _global_state.get_global_attribute("current_call_ctx")
        training = None if context is None else context.get_value("training")
    return trainer_trains() if training is None else bool(training)


def trainer_trains() -> bool:
    """Whether a model's `train_step` is running: a model whose `call` has no `training` is not
    told.
    """
    return any(f.f_code.co_name == "train_step" for f, _ in traceback.walk_stack(None))


class SavedState(keras.random.SeedGenerator, _KerasSaveable):
    """State of a layer that is a variable of it and saved with it, but none of its weights."""

    def _obj_type(self) -> str:
        return "Metric"  # of the kinds that Keras saves the nearest: a few variables

    def save_own_variables(self, store: Any) -> None:
        """Called when a model is saved."""
        store["state"] = keras.ops.convert_to_numpy(self.state)

    def load_own_variables(self, store: Any) -> None:
        """Called when it is loaded."""
        self.state.assign(store["state"][()])


def add_state(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Give a layer an attribute with state, also after it was built."""
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        setattr(layer, name, value)
    finally:
        if locked:
            tracker.lock()


def sublayers(layer: keras.layers.Layer) -> list[Any]:
    """The layers that a layer holds itself, not those within them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))
