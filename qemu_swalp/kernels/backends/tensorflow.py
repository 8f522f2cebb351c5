"""TensorFlow tensors, eager and in graphs: on a CPU the kernels are an operation of TensorFlow, and
under XLA a custom call.

Importing this module registers the operation, as loading a SavedModel needs that was traced with
the kernels. Functions that are traced while a model is being saved use the reference
implementation, and need no package where they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import tensorflow as tf

from ...arrays import Array
from ...arrays._tensorflow import NAMESPACE, under_xla
from ...arrays.dtypes import SourceDtype
from ...random_bits import RandomBits
from ...reference.context import Target
from ...reference.given_scales import Given
from .. import cpu
from ..gpu.availability import OTHERS
from ..stored_call import share_threads, stored_call, warn_of_refusal
from .base import KernelBackend


@cache
def refusal() -> str:
    """Why TensorFlow cannot call the kernels, as a clause; "" if it can."""
    if cpu.library() is None:
        return cpu.refusal()
    if tf.config.list_physical_devices("GPU"):
        return "TensorFlow has a GPU, on which a graph may run"

    def register() -> str:
        from . import tensorflow_op

        share_threads()
        return tensorflow_op.register()

    return _refusal_of(register, "TensorFlow")


@cache
def xla_refusal() -> str:
    """Why graphs of TensorFlow, which XLA may compile, cannot call the kernels; "" if they can."""

    def register() -> str:
        from . import tensorflow_op

        return tensorflow_op.register_with_xla()

    return refusal() or _refusal_of(register, "TensorFlow in graphs and under XLA")


def _refusal_of(register: Callable[[], str], library: str) -> str:
    try:
        reason = register()
    except Exception as error:  # whichever a version without these interfaces raises
        reason = str(error)
    if reason:
        reason = f"TensorFlow {tf.__version__} does not accept the kernels ({reason})"
        warn_of_refusal(library, reason)
    return reason


class TensorflowBackend(KernelBackend):
    """Tensors where there is no GPU: on which device a graph will run, nobody knows in tracing."""

    def accepts(self, x: Any, out: Any = None) -> bool:
        if out is not None or refusal():
            return False
        from .tensorflow_op import in_save_context

        return not in_save_context()

    def refusals(self) -> dict[str, str]:
        return {
            "eager as an operation": refusal(),
            "in graphs as that, and under XLA as a custom call": xla_refusal(),
            **OTHERS,
        }

    def quantize(
        self,
        x: Array,
        dtype: SourceDtype,
        target: Target,
        random: RandomBits | Array | None,
        out: Array | None,
        given: Given | None = None,
    ) -> Array | None:
        from . import tensorflow_op

        x = tf.convert_to_tensor(x)
        if x.shape.rank == 0:  # blocks need an axis
            result = self.quantize(tf.reshape(x, [1]), dtype, target, random, out, given)
            return None if result is None else tf.reshape(result, [])
        kind, operands = _operands(random, x)
        scales, words = _words_of(given)
        operands += words
        call = stored_call(dtype, target, x.shape.rank, kind, scales)
        if call is None:
            return None
        if tf.executing_eagerly():
            return tensorflow_op.apply(x, operands, call)
        if xla_refusal():
            return None
        if under_xla():
            return tensorflow_op.apply_under_xla(x, *operands, call=call)
        return tensorflow_op.apply_in_graph(x, operands, call)


def _operands(random: RandomBits | Array | None, x: Any) -> tuple[str, list[Any]]:
    if random is None:
        return "none", []
    if isinstance(random, RandomBits):
        place = [random.offset // 4, random.offset % 4, *random.key]
        return "counters", [tf.constant(place, tf.uint32), _word(random.step)]
    return "words", [tf.bitcast(tf.reshape(random, tf.shape(x)), tf.uint32)]


def _words_of(given: Given | None) -> tuple[str, list[Any]]:
    """(kind of the scales, their bits and the zero points as 32-bit words)."""
    if given is None:
        return "none", []
    scales = tf.reshape(tf.stop_gradient(given.scales), [-1])
    if scales.dtype.size < 4:
        scales = tf.cast(scales, tf.float32)
    words = [tf.reshape(tf.bitcast(scales, tf.uint32), [-1])]
    if given.zero_points is not None:
        words.append(tf.bitcast(tf.reshape(given.zero_points, [-1]), tf.uint32))
    return scales.dtype.name, words


def _word(step: Any) -> Any:
    word = NAMESPACE.as_words(step)
    return tf.constant(word, tf.uint32) if isinstance(word, int) else word


BACKEND = TensorflowBackend()
refusal()
