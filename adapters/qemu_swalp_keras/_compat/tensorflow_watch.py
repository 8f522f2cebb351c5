"""Operations that TensorFlow is told to compute, seen where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .operation_names import OURS

TRACED_BEFORE = " in a tf.function that was traced before the model was rounded"


class TensorFlowWatch:
    """Within it see(name, is_floating) is called for each operation, also while a graph is traced;
    and see(name, True, frames, TRACED_BEFORE) for those of a `tf.function` that was traced before,
    frames being None where it is called now.

    TensorFlow tells of such a function by its name where it is called eagerly; and of none that is
    called in a graph, whose operations are looked at in the end.
    """

    def __init__(self, see: Callable[..., None]) -> None:
        from tensorflow.python.eager import context
        from tensorflow.python.framework import op_callbacks, ops
        from tensorflow.python.util.compat import as_str_any

        self.see, self.context, self.callbacks = see, context.context(), op_callbacks
        self.text = as_str_any
        self.graph = None if context.executing_eagerly() else ops.get_default_graph()
        self.before = 0 if self.graph is None else len(self.graph.get_operations())
        self.made: set[tuple[str, str]] = set()
        """(kind, name) of what was made in graphs within."""

    def __enter__(self) -> TensorFlowWatch:
        self.callbacks.add_op_callback(self.callback)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.callbacks.remove_op_callback(self.callback)
        if kind is not None or self.graph is None:
            return
        for operation in self.graph.get_operations()[self.before :]:
            if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
                frames = [(frame.filename, frame.name) for frame in reversed(operation.traceback)]
                for each in self._computed_by(operation.get_attr("f").name):
                    self.see(each, True, frames, TRACED_BEFORE)

    def callback(
        self,
        op_type: Any,
        inputs: Any,
        attributes: Any,
        outputs: Any,
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        name = self.text(op_type)
        if graph is not None:
            self.made.add((name, self.text(op_name)))
        if self.context.has_function(name):
            for each in self._computed_by(name):
                self.see(each, True, None, TRACED_BEFORE)
        else:
            self.see(name, any(x.dtype.is_floating for x in inputs))

    def _computed_by(self, name: str) -> Iterator[str]:
        """Floating operations within a `tf.function`, and those that it calls; but for what was
        made within, and ours. A function is traced by whoever calls it first.
        """
        from tensorflow.python.framework import dtypes

        waiting, done = [name], set()
        while waiting:
            name = waiting.pop()
            if name in done or not self.context.has_function(name):
                continue
            done.add(name)
            for node in self.context.get_function_def(name).node_def:
                waiting += [value.func.name for value in node.attr.values() if value.func.name]
                one = node.attr["T"].type if "T" in node.attr else 0  # 0, too, of several dtypes
                is_floating = dtypes.as_dtype(one or dtypes.float32).is_floating
                seen = OURS in node.name or (node.op, node.name) in self.made
                if is_floating and not seen:
                    yield node.op
