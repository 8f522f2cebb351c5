"""The kernels in TensorFlow, eager, in graphs and under XLA: the bits of NumPy's, by the operation
or the custom call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import stored_call
from qemu_swalp.kernels.backends import tensorflow as backend, tensorflow_op
from tests.helpers.processes import run_alone

X = np.random.default_rng(0).standard_normal((4, 16, 24)).astype(np.float32)
RANDOM = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 7, offset=6)
FORMAT = "bfp<8,axis=0>"
MODES: dict[str, Callable[..., Any]] = {
    "eager": lambda function, **how: function,
    "graph": partial(tf.function, autograph=False),
    "autograph": tf.function,
    "xla": partial(tf.function, autograph=False, jit_compile=True),
}


def rounded(x: Any, step: Any = 7) -> Any:
    return q.quantize(x, FORMAT, "stochastic", random=RANDOM.at(step))


def calls_in(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """(calls of the kernels that came from programs, result)."""
    before = stored_call.calls()
    result = function(*arguments)
    return stored_call.calls() - before, result


@pytest.fixture(params=MODES)
def compiled(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return MODES[request.param]


def test_step_of_a_tensor(compiled: Callable[..., Any]) -> None:
    function = compiled(rounded)
    for dtype in (tf.int64, tf.int32, tf.uint32):
        calls, got = calls_in(function, tf.constant(X), tf.constant(2**31 - 1, dtype))
        assert calls == 1
        assert np.array_equal(got, rounded(X, 2**31 - 1))


def test_given_words(compiled: Callable[..., Any]) -> None:
    words = np.random.default_rng(1).integers(0, 2**32, X.shape, dtype=np.uint32)
    function = compiled(lambda x, w: q.quantize(x, FORMAT, "stochastic", random=w))
    for given in (words, words.view(np.int32)):
        calls, got = calls_in(function, tf.constant(X), tf.constant(given))
        assert calls == 1
        assert np.array_equal(got, q.quantize(X, FORMAT, "stochastic", random=words))


def test_no_gradient(compiled: Callable[..., Any]) -> None:
    """As without the kernels: none flows; a straight-through estimator is the adapter's."""

    @compiled
    def gradients(x: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = rounded(x)
            product = y * x
        return tape.gradient(product, x), tape.gradient(y, x)

    calls, (of_product, of_rounding) = calls_in(gradients, tf.constant(X))
    assert calls == 1
    assert np.array_equal(of_product, rounded(X))
    assert of_rounding is None
    with tf.GradientTape() as tape:  # the tape around the function
        x = tf.constant(X)
        tape.watch(x)
        product = compiled(lambda x: rounded(x) * x)(x)
    assert np.array_equal(tape.gradient(product, x), rounded(X))


def test_shapes(compiled: Callable[..., Any]) -> None:
    for shape in ((), (1,), (0,), (3, 0, 2), (1, 1, 5), (2,) * 8):
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        for format in ("e4m3fn", "bfp8", "mxfp4", "block<e4m3fn,axis=0,scale=fp16>"):
            got = compiled(lambda a, format=format: q.quantize(a, format))(tf.constant(x))
            assert np.array_equal(got, q.quantize(x, format)), (shape, format)


def test_open_lengths() -> None:
    """One trace for all lengths, empty ones among them."""
    signature = [tf.TensorSpec([None, None, 24])]
    for jit in (False, True):
        function = tf.function(rounded, autograph=False, jit_compile=jit, input_signature=signature)
        for length in (1, 5, 16):
            calls, got = calls_in(function, tf.constant(X[:, :length]))
            assert calls == 1
            assert np.array_equal(got, rounded(np.ascontiguousarray(X[:, :length])))
        assert function(tf.zeros((0, 16, 24))).shape == (0, 16, 24)


@pytest.mark.parametrize("lengths", [[4, 16, 24], [None, 16, 24], [None, None, None]])
def test_a_function_that_ran_without_xla_is_called_under_it(lengths: list[int | None]) -> None:
    """Its graph is compiled as it is, in branches, loops and other functions too."""
    inner = tf.function(rounded, input_signature=[tf.TensorSpec(lengths)])
    calls, got = calls_in(inner, tf.constant(X))
    assert calls == 1
    middle = tf.function(lambda x, again: tf.cond(again, lambda: inner(inner(x)), lambda: inner(x)))
    words = tf.function(lambda x, w: q.quantize(x, FORMAT, "stochastic", random=w))
    w = tf.constant(np.random.default_rng(1).integers(0, 2**32, X.shape, dtype=np.uint32))
    words(tf.constant(X), w)

    @tf.function(jit_compile=True)
    def outer(x: Any, again: Any) -> Any:
        total = tf.zeros_like(x)
        for _ in tf.range(2):
            total += middle(x, again)
        return total, words(x, w)

    calls, (total, with_words) = calls_in(outer, tf.constant(X), tf.constant(True))
    assert calls > 0  # XLA makes equal calls once
    assert np.array_equal(total, 2 * rounded(rounded(X)))
    assert np.array_equal(with_words, words(tf.constant(X), w))
    assert np.array_equal(inner(tf.constant(X)), got)


def test_an_xla_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs, which XLA may compile, use the reference implementation; eager calls do not."""
    monkeypatch.setattr(tensorflow_op, "register_with_xla", lambda: "no GetXlaFfiApi")
    backend.xla_refusal.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"TensorFlow in graphs and under XLA uses the ref"):
            calls, got = calls_in(tf.function(lambda x: rounded(x)), tf.constant(X))
        assert calls_in(rounded, tf.constant(X))[0] == 1
    finally:
        monkeypatch.undo()
        backend.xla_refusal.cache_clear()
        assert backend.xla_refusal() == ""
    assert calls == 0
    assert np.array_equal(got, rounded(X))


def test_what_others_read_is_not_overwritten(compiled: Callable[..., Any]) -> None:
    variable = tf.Variable(X)

    @compiled
    def function(x: Any) -> Any:
        y = x * 1.0
        return rounded(y), y, rounded(variable), rounded(y + 0.0)

    one, y, two, three = function(tf.constant(X))
    for got in (one, two, three):
        assert np.array_equal(got, rounded(X))
    assert np.array_equal(y, X)
    assert np.array_equal(variable, X)


def test_loops_and_branches() -> None:
    for jit in (False, True):

        @tf.function(jit_compile=jit)
        def function(x: Any, count: Any) -> Any:
            for step in tf.range(count):
                if tf.equal(step % 2, 0):
                    x = rounded(x * 1.5, step)
            return x

        calls, got = calls_in(function, tf.constant(X), tf.constant(4))
        assert calls == 2
        x = X
        for step in (0, 2):
            x = rounded(x * np.float32(1.5), step)
        assert np.array_equal(got, x)


def test_pipelines_and_maps() -> None:
    data = tf.data.Dataset.from_tensor_slices(X).map(rounded, num_parallel_calls=4)
    calls, parts = calls_in(list, data)
    assert calls == 4
    assert all(np.array_equal(part, rounded(X[i])) for i, part in enumerate(parts))
    assert np.array_equal(tf.map_fn(rounded, tf.constant(X)), parts)
    assert np.array_equal(tf.vectorized_map(rounded, tf.constant(X)), parts)


def test_replicas() -> None:
    """Each replica of a MirroredStrategy calls the kernels."""
    run_alone(
        """
        import numpy as np, tensorflow as tf
        import qemu_swalp as q
        from qemu_swalp.kernels import stored_call

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        x = np.random.default_rng(0).standard_normal((16, 24)).astype("float32")
        with strategy.scope():
            variable = tf.Variable(x)

        @tf.function
        def step():
            return strategy.run(lambda: q.quantize(variable, "bfp<8,axis=0>"))

        for result in strategy.experimental_local_results(step()):
            assert np.array_equal(result, q.quantize(x, "bfp<8,axis=0>"))
        assert stored_call.calls() == 2
        """
    )


def test_threads(compiled: Callable[..., Any]) -> None:
    before = q.get_num_threads()
    x = np.random.default_rng(3).standard_normal((4, 300, 700)).astype(np.float32)
    expected = [rounded(part) for part in x]
    function = compiled(rounded)
    try:
        for threads in (1, 4):
            q.set_num_threads(threads)
            with ThreadPoolExecutor(4) as pool:
                got = list(pool.map(lambda part: function(tf.constant(part)).numpy(), [*x, *x]))
            assert all(np.array_equal(a, b) for a, b in zip(got, expected * 2, strict=True))
    finally:
        q.set_num_threads(before)


def test_kernels_can_be_disabled(compiled: Callable[..., Any]) -> None:
    with kernels.disabled():
        calls, got = calls_in(compiled(lambda x: rounded(x)), tf.constant(X))
    assert calls == 0
    assert np.array_equal(got, rounded(X))


SAVED = """
    import sys
    sys.modules["qemu_swalp"] = None
    import numpy as np, tensorflow as tf

    def check():
        program = tf.saved_model.load("{path}/model").signatures["serving_default"]
        arrays = np.load("{path}/arrays.npz")
        (got,) = program(tf.constant(arrays["x"])).values()
        assert np.array_equal(got, arrays["rounded"])
"""


def test_saved_programs_need_no_package(tmp_path: Path) -> None:
    """What is traced while it is saved is the reference implementation, if it ran before or not."""
    np.savez(tmp_path / "arrays.npz", x=X, rounded=rounded(X))
    module = tf.Module()
    module.call = tf.function(rounded, input_signature=[tf.TensorSpec([None, 16, 24])])
    calls, _ = calls_in(module.call, tf.constant(X))
    assert calls == 1
    tf.saved_model.save(module, tmp_path / "model", signatures=module.call)
    run_alone(SAVED.format(path=tmp_path) + "    check()")


def test_a_concrete_function_that_is_saved_needs_the_package(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", x=X, rounded=rounded(X))
    module = tf.Module()
    module.call = tf.function(rounded)
    concrete = module.call.get_concrete_function(tf.TensorSpec([None, 16, 24]))
    tf.saved_model.save(module, tmp_path / "model", signatures=concrete)
    script = """
    try:
        check()
    except Exception as error:
        assert "Op type not registered 'QemuSwalpQuantize'" in str(error), error
    else:
        raise AssertionError
    del sys.modules["qemu_swalp"]
    import qemu_swalp.kernels.backends.tensorflow
    check()
    """
    run_alone(SAVED.format(path=tmp_path) + script)


def test_a_new_eager_context() -> None:
    """As tests of TensorFlow's and Keras's own begin one."""
    run_alone("""
        import numpy as np
        import tensorflow as tf
        from tensorflow.python.eager import context

        import qemu_swalp as q
        from qemu_swalp.kernels import stored_call

        def rounded():
            function = tf.function(lambda a: q.quantize(a, "bfp<8,axis=0>"), autograph=False)
            return function(tf.constant(x)).numpy()

        x = np.arange(8, dtype=np.float32) / 3
        for calls in (1, 2):
            assert np.array_equal(rounded(), q.quantize(x, "bfp<8,axis=0>"))
            assert stored_call.calls() == calls
            context._reset_context()
    """)


def test_a_version_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and the reference implementation."""
    monkeypatch.setattr(tensorflow_op, "register", lambda: "TensorFlow's library lacks TF_GetInput")
    backend.refusal.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"TensorFlow uses the reference.*lacks TF_GetInput"):
            calls, got = calls_in(rounded, tf.constant(X))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rounded(tf.constant(X))
    finally:
        monkeypatch.undo()
        backend.refusal.cache_clear()
        monkeypatch.setattr(tensorflow_op, "register", lambda: "")
        assert backend.refusal() == ""
    assert calls == 0
    assert np.array_equal(got, rounded(X))


def test_a_call_of_another_version_is_refused(
    compiled: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_call, "fingerprint", lambda: 1)
    stored_call.stored_call.cache_clear()
    try:
        with pytest.raises(tf.errors.OpError, match="another version of qemu_swalp"):
            compiled(lambda x: q.quantize(x, "e4m3fn"))(tf.constant(X))
    finally:
        stored_call.stored_call.cache_clear()
