"""`quantize` with its gradient: the core's bits on the running backend, eager and traced."""

import keras
import numpy as np
import pytest
from keras import ops
from qemu_swalp_keras import quantize

import qemu_swalp
from qemu_swalp import RandomBits
from qemu_swalp.training import Quantizer
from tests.helpers.keras_native import BACKEND, MODES, normal, numpy, pull_back, same, traced

X, UPSTREAM = normal((3, 5), 1), normal((3, 5), 2)
FORMATS = ("e4m3fn", "bfp<4,axis=0>", "fixed<8,4>", "codebook<-1,0.25,2>")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", FORMATS)
def test_has_the_cores_bits_forward_and_backward(mode, format):
    bits, other = RandomBits(2**64 - 1, 2, 3), RandomBits(4, offset=3)

    def both(x, upstream):
        return pull_back(
            lambda x: quantize(
                x,
                format,
                "stochastic",
                random=bits,
                backward="e5m2/stochastic_b<8>",
                backward_random=other,
            ),
            x,
            upstream,
        )

    y, gradient = traced(both, mode)(ops.convert_to_tensor(X), ops.convert_to_tensor(UPSTREAM))
    same(y, qemu_swalp.quantize(X, format, "stochastic", random=bits))
    same(gradient, qemu_swalp.quantize(UPSTREAM, "e5m2", "stochastic_b<8>", random=other))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [0, 7, 2**31 - 1])
def test_the_step_may_be_traced(mode, step):
    def both(x, upstream, step):
        return pull_back(
            lambda x: quantize(
                x,
                "e4m3fn",
                "stochastic",
                random=RandomBits(1, 2, step),
                backward="bf16/stochastic",
                backward_random=RandomBits(1, 3, step),
            ),
            x,
            upstream,
        )

    y, gradient = traced(both, mode)(
        ops.convert_to_tensor(X),
        ops.convert_to_tensor(UPSTREAM),
        ops.convert_to_tensor(step, "int32"),
    )
    same(y, qemu_swalp.quantize(X, "e4m3fn", "stochastic", random=RandomBits(1, 2, step)))
    same(
        gradient, qemu_swalp.quantize(UPSTREAM, "bf16", "stochastic", random=RandomBits(1, 3, step))
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_greatest_step(mode):
    bits = RandomBits(1, 2, 2**32 - 1)
    y = traced(lambda x: quantize(x, "e4m3fn", "stochastic", random=bits), mode)(
        ops.convert_to_tensor(X)
    )
    same(y, qemu_swalp.quantize(X, "e4m3fn", "stochastic", random=bits))


def test_straight_through_is_exact_also_for_signed_zeros_and_beyond_the_range():
    x = ops.convert_to_tensor(np.float32([1e9, -0.0, 0.3, -7.0]))
    upstream = np.float32([-0.0, 1e-40, 3.3, -1e30])
    y, gradient = pull_back(lambda x: quantize(x, "e4m3fn"), x, ops.convert_to_tensor(upstream))
    same(gradient, upstream)
    same(y, qemu_swalp.quantize(numpy(x), "e4m3fn"))


def test_format_none_rounds_the_gradient_alone():
    for backward in ("e5m2/nearest_even", Quantizer("e5m2/nearest_even")):
        y, gradient = pull_back(
            lambda x, q=backward: quantize(x, None, backward=q),
            ops.convert_to_tensor(X),
            ops.convert_to_tensor(UPSTREAM),
        )
        same(y, X)
        same(gradient, qemu_swalp.quantize(UPSTREAM, "e5m2"))


def test_can_be_differentiated_twice():
    x = ops.convert_to_tensor(np.float32([0.3, 0.7]))

    def cube(x):
        return quantize(x, "fixed<8,2>", backward="fixed<8,4>/nearest_even") ** 3

    def slope(x):
        if BACKEND == "torch":
            import torch

            return torch.autograd.grad(cube(x).sum(), x, create_graph=True)[0]
        return pull_back(cube, x, ops.ones_like(x))[1]

    same(pull_back(slope, x, ops.ones_like(x))[1], np.float32([6 * 0.25, 6 * 0.75]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_dtypes(dtype):
    x = ops.cast(X, dtype)
    y, gradient = pull_back(
        lambda x: quantize(x, "e4m3fn", backward="e5m2/nearest_even"), x, ops.cast(UPSTREAM, dtype)
    )
    assert (
        keras.backend.standardize_dtype(y.dtype)
        == keras.backend.standardize_dtype(gradient.dtype)
        == dtype
    )
    same(ops.cast(y, "float32"), qemu_swalp.quantize(numpy(ops.cast(x, "float32")), "e4m3fn"))
    exact = numpy(ops.cast(ops.cast(UPSTREAM, dtype), "float32"))
    same(ops.cast(gradient, "float32"), qemu_swalp.quantize(exact, "e5m2"))


def test_gradients_of_a_gather():
    """TensorFlow hands them over as slices, not as a tensor."""
    _, gradient = pull_back(
        lambda x: ops.take(quantize(x, "e4m3fn", backward="fixed<8,1>/nearest_even"), [0, 0, 2], 0),
        ops.convert_to_tensor(X),
        ops.convert_to_tensor(UPSTREAM),
    )
    dense = np.zeros_like(X)
    dense[0], dense[2] = UPSTREAM[0] + UPSTREAM[1], UPSTREAM[2]
    same(gradient, qemu_swalp.quantize(dense, "fixed<8,1>"))


@pytest.mark.parametrize("format", FORMATS)
def test_lengths_that_a_trace_leaves_open(format):
    if BACKEND != "tensorflow":
        pytest.skip("JAX and PyTorch know every length")
    import tensorflow as tf

    for jit in (False, True):
        traced = tf.function(
            lambda x: quantize(x, format, "stochastic", random=RandomBits(3)),
            autograph=False,
            jit_compile=jit,
            input_signature=[tf.TensorSpec([None, 5], tf.float32)],
        )
        for length in (3, 2, 0):
            same(
                traced(X[:length]),
                qemu_swalp.quantize(X[:length], format, "stochastic", random=RandomBits(3)),
            )


def test_errors():
    x = ops.ones((2,))
    for call, kind, words in (
        (
            lambda: quantize([1.0], "bf16"),
            TypeError,
            f"x must be a {BACKEND} tensor, got builtins.list; convert it by",
        ),
        (
            lambda: quantize(keras.Input((2,)), "bf16"),
            TypeError,
            "in a functional model use the layer Quantize",
        ),
        (
            lambda: quantize(x, "bf16", "stochastic"),
            ValueError,
            r"bf16/stochastic_a needs random=RandomBits\(seed",
        ),
        (
            lambda: quantize(x, "bf16", backward="bf16/stochastic"),
            ValueError,
            "bf16/stochastic_a needs backward_random=",
        ),
        (lambda: quantize(x, "bf17"), ValueError, "unknown format 'bf17'; did you mean 'bf16'"),
        (lambda: quantize(x, "bf16", backward=3), TypeError, "a quantizer must be a Quantizer"),
        (lambda: quantize(ops.ones((2,), "int32"), "bf16"), TypeError, "got dtype int32"),
        (
            lambda: quantize(ops.ones((2,), "float16"), "bf16"),
            TypeError,
            "an array of float16 cannot represent",
        ),
        (lambda: quantize(x, "bfp<8,axis=1>"), ValueError, "axis"),
    ):
        with pytest.raises(kind, match=words):
            call()
