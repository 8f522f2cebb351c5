"""Operations that TensorFlow, JAX and PyTorch compute beneath Keras, seen where they are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from traceback import walk_stack
from typing import Any, NamedTuple

import keras

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

_FUNCTIONS = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "digamma"),
    *("sqrt", "rsqrt", "square", "pow", "add", "sub", "mul", "div", "cumsum", "cumprod"),
)

ELEMENTWISE = {
    "tensorflow": (
        *(name.capitalize() for name in _FUNCTIONS),
        *("AddV2", "AddN", "RealDiv", "DivNoNan", "MulNoNan", "FloorDiv", "FloorMod"),
        *("SquaredDifference", "Reciprocal", "Inv", "Erfinv", "Ndtri", "Sigmoid", "Softplus"),
        *("Softsign", "Softmax", "LogSoftmax", "Elu", "Selu", "LeakyRelu", "Xlogy", "Xdivy"),
        *("Sum", "Mean", "Prod", "CumulativeLogsumexp", "EuclideanNorm", "L2Loss", "LRN"),
        *("AvgPool", "AvgPool3D", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
        *("SegmentSum", "UnsortedSegmentSum", "SegmentMean"),
    ),
    "jax": (
        *_FUNCTIONS,
        *("rem", "integer_pow", "cbrt", "exp2", "logistic", "erf_inv", "reduce_sum"),
        *("reduce_prod", "cumlogsumexp", "reduce_window_sum", "scatter-add", "scatter_add"),
    ),
    "torch": (
        *_FUNCTIONS,
        *("rsub", "fmod", "remainder", "floor_divide", "reciprocal", "exp2", "log2", "log10"),
        *("erfinv", "sigmoid", "_softmax", "_log_softmax", "softplus", "elu", "celu", "gelu"),
        *("silu", "mish", "leaky_relu", "hardsigmoid", "hardswish", "log_sigmoid_forward"),
        *("logsumexp", "sum", "mean", "prod", "var", "std", "var_mean", "std_mean", "norm"),
        *("linalg_vector_norm", "native_layer_norm", "native_group_norm", "native_batch_norm"),
        *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "avg_pool2d"),
        *("avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "addcmul", "addcdiv"),
        *("lerp", "hypot", "logaddexp", "logaddexp2", "xlogy", "sinc", "mse_loss"),
        *("smooth_l1_loss", "huber_loss", "nll_loss_forward", "binary_cross_entropy"),
        *("nansum", "logcumsumexp", "cosine_similarity", "_fused_rms_norm"),
    ),
}
"""Operations by which the backends compute new numbers one by one, or add them up."""


class Seen(NamedTuple):
    """A floating operation that a backend computes."""

    section: str
    """Of a recipe: "products" or "elementwise"."""
    operation: str
    layer: str
    """JAX: the name that `layer_scope` was given; "" outside of any, and of the others."""


def section_of(name: str) -> str | None:
    """Of a recipe, that which rounds an operation of the running backend; None: none does."""
    backend = keras.backend.backend()
    if name in PRODUCTS[backend]:
        return "products"
    return "elementwise" if name in ELEMENTWISE[backend] else None


@contextmanager
def dispatched_operations(note: Callable[[Seen], None]) -> Iterator[None]:
    """Within it note(operation) is called for each floating product that TensorFlow or PyTorch is
    told to compute in this thread, also while a graph is traced; and for each elementwise operation
    that a user's code calls past Keras.
    """

    def see(name: str, is_floating: bool) -> None:
        section = section_of(name) if is_floating else None
        frames = (frame.f_code for frame, _ in walk_stack(None))
        callers = ((code.co_filename, code.co_name) for code in frames)
        if section == "products" or (section and is_users(callers)):
            note(Seen(section, name, ""))

    if keras.backend.backend() == "torch":
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                name = function.overloadpacket.__name__
                see(
                    name if name.endswith("__") else name.rstrip("_"),
                    any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in args),
                )
                return function(*args, **(kwargs or {}))

        with Watch():  # type: ignore[no-untyped-call]
            yield
        return
    from tensorflow.python.framework import op_callbacks

    def callback(kind: Any, inputs: Any, *_: Any, **__: Any) -> None:
        name = kind.decode() if isinstance(kind, bytes) else kind
        see(name, any(x.dtype.is_floating for x in inputs))

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


def operations_in_program(program: Any) -> list[Seen]:
    """The floating products in what `jax.make_jaxpr` traced, but for those within the name scope
    `OURS`; and the elementwise operations that a user's code calls past Keras.
    """
    import jax
    from jax import numpy as jnp
    from jax._src.source_info_util import user_frames

    def is_program(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")

    def found(program: Any, layer: str, known: bool | None) -> Iterator[Seen]:
        for equation in program.eqns:
            stack = str(equation.source_info.name_stack)
            if OURS in re.sub(_LAYER, "", stack):
                continue
            within = [*re.findall(_LAYER, stack), ""][-2] if re.search(_LAYER, stack) else layer
            name, users = equation.primitive.name, known
            is_floating = any(
                hasattr(made.aval, "dtype") and jnp.issubdtype(made.aval.dtype, jnp.inexact)
                for made in equation.outvars
            )
            section = section_of(name) if is_floating else None
            if users is None:
                frames = user_frames(equation.source_info.traceback)
                users = is_users((frame.file_name, frame.function_name) for frame in frames)
            if section == "products" or (section and users):
                yield Seen(section, name, within.replace("|", "/"))
            # What is jitted was traced wherever it was called first.
            inherited = users if name in ("jit", "pjit") else known
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
                if is_program(value):
                    yield from found(getattr(value, "jaxpr", value), within, inherited)

    return list(found(program.jaxpr, "", None))


_LAYER = r"qemu_swalp_layer<([^>]*)>"


def layer_scope(name: str) -> AbstractContextManager[Any]:
    """Within it JAX traces the layer of that name."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    return jax.named_scope(f"qemu_swalp_layer<{name.replace('/', '|')}>")


def is_users(frames: Iterable[tuple[str, str]]) -> bool:
    """Whether a call comes from code of a user: the first frame beyond the backend, from the
    innermost on, is neither Keras's nor ours.
    """
    for file, function in frames:
        if function not in _MODES and not file.startswith(_BACKENDS):
            return not file.startswith(_LIBRARIES)
    return False


def is_called_by_a_library() -> bool:
    """Whether the function that asks was called by JAX, whose functions are compiled once for all
    who call them, or by what draws TensorFlow's random numbers. Others of TensorFlow pass the
    operators of its variables on.
    """
    file = sys._getframe(2).f_code.co_filename
    return file.startswith(_OF_JAX) or file.endswith(_RANDOM_OF_TENSORFLOW)


_MODES = ("__torch_function__", "__torch_dispatch__", "callback", "see")
"""Functions of ours that the backend calls around each of its own."""
_SITE = Path(keras.__file__).parents[1]
_BACKENDS = tuple(
    f"{_SITE / name}/" for name in ("tensorflow", "torch", "jax", "jaxlib", "numpy", "ml_dtypes")
)
_OF_JAX = tuple(f"{_SITE / name}/" for name in ("jax", "jaxlib"))
_RANDOM_OF_TENSORFLOW = ("python/ops/random_ops.py", "python/ops/stateless_random_ops.py")
_LIBRARIES = (
    f"{_SITE / 'keras'}/",
    f"{Path(__file__).parents[1]}/",
    f"{Path(sys.modules['qemu_swalp'].__file__ or '').parent}/",
)
