"""The kernels within JAX's transformations: the same bits as outside, by the custom call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qemu_swalp as q
from qemu_swalp import kernels
from qemu_swalp.kernels import stored_call
from qemu_swalp.kernels.backends import jax as backend
from tests.helpers.processes import run_alone

X = np.random.default_rng(0).standard_normal((4, 16, 24)).astype(np.float32)
RANDOM = q.RandomBits(2**40 + 3, q.stream_id("weight", 5), 7, offset=6)
FORMAT = "bfp<8,axis=0>"


def rounded(x: Any, step: Any = 7) -> Any:
    return q.quantize(x, FORMAT, "stochastic", random=RANDOM.at(step))


def calls_in(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """(calls of the kernels that came from programs, result)."""
    before = stored_call.calls()
    result = jax.block_until_ready(function(*arguments))
    return stored_call.calls() - before, result


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_vmap(axis: int) -> None:
    calls, result = calls_in(jax.jit(jax.vmap(rounded, in_axes=axis)), X)
    assert calls == 1
    for i, part in enumerate(np.moveaxis(X, axis, 0)):
        assert np.array_equal(result[i], rounded(part))


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_vmap_over_steps(axes: tuple[int | None, int | None]) -> None:
    x = jnp.asarray(X if axes[0] == 0 else X[0])
    steps = jnp.arange(4) if axes[1] == 0 else 3
    calls, result = calls_in(jax.vmap(rounded, in_axes=axes), x, steps)
    assert calls == 1
    for i in range(4):
        expected = rounded(X[i] if axes[0] == 0 else X[0], i if axes[1] == 0 else 3)
        assert np.array_equal(result[i], expected)


def test_vmap_of_vmap() -> None:
    def function(x: Any, step: Any) -> Any:
        return jax.vmap(jax.vmap(rounded, (0, None)), (None, 0))(x, step)

    steps = np.arange(3)
    for how in (function, jax.jit(function)):
        calls, result = calls_in(how, X, steps)
        assert calls == 1
        for i in range(3):
            for k in range(4):
                assert np.array_equal(result[i, k], rounded(X[k], i))
    with kernels.disabled():
        assert np.array_equal(jax.jit(lambda x, s: function(x, s))(X, steps), result)


def test_vmap_of_given_words() -> None:
    words = np.random.default_rng(1).integers(0, 2**32, X.shape, dtype=np.uint32)

    def function(x: Any, w: Any) -> Any:
        return q.quantize(x, FORMAT, "stochastic", random=w)

    _, result = calls_in(jax.vmap(function), X, words)
    assert all(np.array_equal(result[i], function(X[i], words[i])) for i in range(4))


def test_vmap_of_given_scales() -> None:
    """Some operands are mapped, others shared; what is no zero point makes its block NaN."""
    format = "int<4,zero_point,axis=0>"
    scales = np.random.default_rng(1).uniform(0.1, 0.3, (4, 16)).astype(np.float32)
    points = np.random.default_rng(1).integers(0, 17, (16,))

    def function(x: Any, s: Any, z: Any) -> Any:
        return q.quantize(x, format, scales=s, zero_points=z)

    for axes in ((0, 0, None), (0, None, None), (None, 0, None)):
        operands = [
            each if axis == 0 or i == 2 else each[0]
            for i, (each, axis) in enumerate(zip((X, scales, points), axes, strict=True))
        ]
        mapped = jax.jit(jax.vmap(function, axes))
        calls, result = calls_in(mapped, *operands)
        assert calls == 1
        with kernels.disabled():
            expected = jax.jit(jax.vmap(lambda *given: function(*given), axes))(*operands)
        assert np.array_equal(result, expected, equal_nan=True)
        assert np.isnan(result).any(axis=(0, 2)).tolist() == (points > 15).tolist()


def test_scan_counts_its_own_steps() -> None:
    def body(x: Any, step: Any) -> Any:
        x = rounded(x * 1.5, step)
        return x, x

    calls, (_, each) = calls_in(lambda: jax.lax.scan(body, jnp.asarray(X), jnp.arange(5)))
    assert calls == 5
    x = X
    for step in range(5):
        x = rounded(x * np.float32(1.5), step)
        assert np.array_equal(each[step], x)


def test_no_gradient() -> None:
    """As without the kernels: the derivative of rounding is 0; a straight-through estimator is the
    adapter's.
    """
    for how in (lambda f: f, jax.jit):
        calls, gradient = calls_in(how(jax.grad(lambda x: (rounded(x) * x).sum())), X)
        assert calls == 1
        assert np.array_equal(gradient, rounded(X))
        with kernels.disabled():
            assert np.array_equal(how(jax.grad(lambda x: (rounded(x) * x).sum()))(X), gradient)
    _, tangent = jax.jvp(jax.jit(rounded), (X,), (X,))
    assert not tangent.any()


def test_donated_arrays() -> None:
    step = jax.jit(lambda x: (rounded(x), x.sum()), donate_argnums=0)
    x = jnp.asarray(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where a CPU cannot use the memory
        for _ in range(3):
            before = np.array(x)
            x, _ = step(x)
            assert np.array_equal(x, rounded(before))


def test_one_program_serves_every_step_and_stream() -> None:
    q.quantize(jnp.asarray(X), FORMAT, "stochastic", random=RANDOM)
    before = backend._compiled._cache_size()
    for step in range(3):
        for stream in range(3):
            random = q.RandomBits(step, stream, step, offset=5 * step)
            got = q.quantize(jnp.asarray(X), FORMAT, "stochastic", random=random)
            assert np.array_equal(got, q.quantize(X, FORMAT, "stochastic", random=random))
    assert backend._compiled._cache_size() == before


def test_shapes() -> None:
    for shape in ((), (1,), (0,), (3, 0, 2), (1, 1, 5), (2,) * 8):
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        for format in ("e4m3fn", "bfp8", "mxfp4", "block<e4m3fn,axis=0,scale=fp16>"):
            for how in (jax.jit, lambda f: f):
                got = how(lambda a, format=format: q.quantize(a, format))(jnp.asarray(x))
                assert np.array_equal(got, q.quantize(x, format)), (shape, format)


def test_nine_axes_of_blocks_do_without() -> None:
    x = np.random.default_rng(2).standard_normal((2,) * 9).astype(np.float32)
    calls, got = calls_in(lambda: q.quantize(jnp.asarray(x), "bfp<8,axis=(0,2,4,6,8)>"))
    assert calls == 0
    assert np.array_equal(got, q.quantize(x, "bfp<8,axis=(0,2,4,6,8)>"))


def test_threads() -> None:
    """Programs that run side by side, each on several threads of ours."""
    before = q.get_num_threads()
    x = np.random.default_rng(3).standard_normal((8, 300, 700)).astype(np.float32)
    expected = [rounded(part) for part in x]
    compiled = jax.jit(rounded)
    try:
        for threads in (1, 4):
            q.set_num_threads(threads)
            with ThreadPoolExecutor(4) as pool:
                got = list(pool.map(lambda part: np.asarray(compiled(part)), [*x, *x]))
            assert all(np.array_equal(a, b) for a, b in zip(got, expected * 2, strict=True))
    finally:
        q.set_num_threads(before)


def test_export_needs_no_package(tmp_path: Path) -> None:
    """An exported program is the reference implementation, also for other platforms and shapes."""
    shape = jax.export.symbolic_shape("a, 16, 24")
    exported = jax.export.export(jax.jit(rounded), platforms=["cpu", "cuda", "tpu"])(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    assert np.array_equal(exported.call(X), rounded(X))
    (tmp_path / "program").write_bytes(exported.serialize())
    np.savez(tmp_path / "arrays.npz", x=X, rounded=rounded(X))
    run_alone(
        f"""
        import sys
        sys.modules["qemu_swalp"] = None
        import jax, numpy as np
        program = jax.export.deserialize(bytearray(open("{tmp_path}/program", "rb").read()))
        arrays = np.load("{tmp_path}/arrays.npz")
        assert np.array_equal(program.call(arrays["x"]), arrays["rounded"])
        """
    )


def test_kernels_can_be_disabled() -> None:
    with kernels.disabled():
        calls, got = calls_in(jax.jit(lambda x: rounded(x)), X)
    assert calls == 0
    assert np.array_equal(got, rounded(X))


def test_a_version_that_refuses_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and the reference implementation."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise NotImplementedError("unknown API version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    backend.refusal.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"JAX uses the reference.*unknown API version"):
            calls, got = calls_in(lambda: rounded(jnp.asarray(X)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rounded(jnp.asarray(X))
    finally:
        backend.refusal.cache_clear()
    assert calls == 0
    assert np.array_equal(got, rounded(X))


def test_a_call_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_call, "fingerprint", lambda: 1)
    stored_call.stored_call.cache_clear()
    try:
        with pytest.raises(Exception, match="another version of qemu_swalp"):
            jax.block_until_ready(jax.jit(lambda x: q.quantize(x, "e4m3fn"))(X))
    finally:
        stored_call.stored_call.cache_clear()


SHARDED = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    import qemu_swalp as q
    from qemu_swalp.kernels import stored_call

    x = np.random.default_rng(0).standard_normal((8, 16, 24)).astype("float32")

    def rounded(x):
        return q.quantize(x, "bfp<8,axis=0>", "stochastic", random=q.RandomBits(1, 2, 3))

    def check(calls, got, parts=1):
        before = check.calls
        for part, result in zip(np.split(x, parts), np.split(np.asarray(got), parts)):
            assert np.array_equal(rounded(part), result)
        check.calls = stored_call.calls()
        assert check.calls - before == calls, (check.calls - before, calls)

    def in_64_bits(x):
        with jax.enable_x64(True):
            return rounded(x.astype("float64")).astype("float32")

    check.calls = 0
    check(1, rounded(jnp.asarray(x)))
    check(1, rounded(jax.device_put(x, jax.devices()[2])))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
    for spec in (P("a", "b"), P(None, ("a", "b"))):  # XLA divides the array: no kernels
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        check(0, rounded(placed))
        check(0, jax.jit(rounded)(placed))
        check(0, jax.jit(in_64_bits)(placed))
    both = P(("a", "b"))
    sharded = jax.shard_map(rounded, mesh=mesh, in_specs=both, out_specs=both)
    check(4, jax.jit(sharded)(x), 4)
    check(4, sharded(x), 4)
    check(4, jax.pmap(rounded)(x.reshape(4, 2, 16, 24)).reshape(x.shape), 4)
    half = jax.shard_map(rounded, mesh=mesh, in_specs=P("a"), out_specs=P("a"), axis_names={"a"})
    check(0, jax.jit(half)(x), 2)
"""


def test_several_devices() -> None:
    run_alone(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=4")


def test_after_a_fork() -> None:
    run_alone(
        """
        import os, warnings
        import jax, numpy as np
        import qemu_swalp as q

        x = np.random.default_rng(0).standard_normal((300, 700)).astype("float32")
        expected = q.quantize(x, "mxfp4")
        assert np.array_equal(q.quantize(jax.numpy.asarray(x), "mxfp4"), expected)
        warnings.simplefilter("ignore")  # JAX's own threads are not in the child
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(q.quantize(x, "mxfp4"), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        """
    )


def test_without_the_library() -> None:
    """`cpu.refusal` says why; no warning, as for NumPy."""
    run_alone(
        """
        import warnings
        import jax.numpy as jnp, numpy as np
        import qemu_swalp as q
        from qemu_swalp.kernels import cpu

        cpu.library, cpu.refusal = lambda: None, lambda: "no compiled kernels"
        warnings.simplefilter("error")
        from qemu_swalp.kernels.backends import jax as backend

        assert q.quantize(jnp.float32([0.1]), "e4m3fn").tolist() == [0.1015625]
        assert backend.refusal() == "no compiled kernels"
        """
    )
