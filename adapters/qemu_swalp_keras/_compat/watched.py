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

from .operation_names import OURS, sections_of
from .tensorflow_watch import TensorFlowWatch


class Seen(NamedTuple):
    """A floating operation that a backend computes."""

    section: str
    """Of a recipe: "products" or "elementwise"."""
    operation: str
    layer: str
    """JAX: the name that `layer_scope` was given; "" outside of any, and of the others."""


@contextmanager
def dispatched_operations(note: Callable[[Seen], None]) -> Iterator[None]:
    """Within it note(operation) is called for each floating product that TensorFlow or PyTorch is
    told to compute in this thread, also while a graph is traced; and for each elementwise operation
    that a user's code calls past Keras, and what may compute both: operators of other libraries,
    Python, a `tf.function` that was traced before.
    """

    def see(
        name: str,
        is_floating: bool,
        frames: Iterable[tuple[str, str]] | None = None,
        within: str = "",
        is_known: bool = True,
    ) -> None:
        sections = sections_of(name) if is_known else ("products", "elementwise")
        if not is_floating or not sections:
            return
        if frames is None:
            codes = (frame.f_code for frame, _ in walk_stack(None))
            frames = ((code.co_filename, code.co_name) for code in codes)
        users = is_users(frames)
        for section in sections:
            if users or (sections == ("products",) and not within):
                note(Seen(section, name + within, ""))

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
                    is_known=function.namespace in _KNOWN,
                )
                return function(*args, **(kwargs or {}))

        with Watch():  # type: ignore[no-untyped-call]
            yield
        return
    with TensorFlowWatch(see):
        yield


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
            sections = sections_of(name) if is_floating else ()
            if users is None:
                frames = user_frames(equation.source_info.traceback)
                users = is_users((frame.file_name, frame.function_name) for frame in frames)
            for section in sections:
                if users or sections == ("products",):
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
        if function not in _MODES and not file.startswith(_BACKENDS) and file != _OPERATORS:
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
_OPERATORS = str(Path(__file__).parents[1] / "calls" / "operators.py")
"""It stands before the operators of tensors, and passes on what it does not round."""
_SITE = Path(keras.__file__).parents[1]
_BACKENDS = tuple(
    f"{_SITE / name}/" for name in ("tensorflow", "torch", "jax", "jaxlib", "numpy", "ml_dtypes")
)
_KNOWN = ("aten", "prim", "prims", "qemu_swalp", "profiler", "c10d", "_c10d_functional", "_dtensor")
"""PyTorch's libraries of operators. Those of others may compute anything."""
_OF_JAX = tuple(f"{_SITE / name}/" for name in ("jax", "jaxlib"))
_RANDOM_OF_TENSORFLOW = ("python/ops/random_ops.py", "python/ops/stateless_random_ops.py")
_LIBRARIES = (
    f"{_SITE / 'keras'}/",
    f"{Path(__file__).parents[1]}/",
    f"{Path(sys.modules['qemu_swalp'].__file__ or '').parent}/",
)
