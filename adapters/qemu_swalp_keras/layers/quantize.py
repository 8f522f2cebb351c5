"""The layer that rounds activations and errors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops, tree

from qemu_swalp import Format, stream_id
from qemu_swalp._util.checks import check_int
from qemu_swalp.arrays.dtypes import source_dtype
from qemu_swalp.formats import Block
from qemu_swalp.ops.arguments import check_representable
from qemu_swalp.training import Quantizer
from qemu_swalp.training.seeds import seed_for

from ..backend import as_step, count_of, is_exported_plain, of_replica, untraced
from .straight_through import Rule, straight_through

Rounding: TypeAlias = Quantizer | Format | str | None

EVALUATION = 1 << 30
"""First step of the random bits of calls that do not train (clause RNG-5)."""


@keras.saving.register_keras_serializable(package="qemu_swalp")
class Quantize(keras.layers.Layer):
    """Rounds its inputs in the forward pass, and their gradients in the backward pass.

    a = Q_A(x) and e = Q_E(∂L/∂a): steps 1 and 2 of algorithm 2 of Yang et al. 2019. It rounds in
    training and in inference, in the dtype of the input, and passes masks, integers and shapes on.
    Random bits depend on (seed, role, place, mode, number of calls in the mode) alone. The layer
    counts its calls with `training=True` in the variable `calls`. It counts all others, as in
    validation, in `evaluations`, so that these do not change the training (clause RNG-5, modes 0
    and 1). Both are saved with the model: a resumed run has the bits of an unbroken one.

    Parameters
    ----------
    activation, error : Quantizer, Format or `FORMAT/ROUNDING` string (a format alone is rounded
        to nearest, ties to even) of the value and of its gradient; None passes it on.
    seed : of the random bits, 0..2^64-1. None: another one for each layer of this process, the
        same at each run of the program; `get_config` and saved models keep it.
        Each replica of `tf.distribute` draws bits of its own.
    place : number of the layer in the model, 0..2^32-1: two layers that must not share their noise
        need two places. Needed where the rounding is stochastic.
    later : {number of a step of the optimizer: (activation, error) from there on}, as `emulate`
        gives it under phases, and changes by it.
    scaled : whether the loss is scaled for other layers in float16. Errors that float16 cannot hold
        are then not rounded, whatever the dtype, so that loss scaling sees them.

    Inputs : a tensor of float16, bfloat16, float32 or float64, or tensors in tuples, lists and
        dicts, each with random bits of its own. Outputs : the same structure, shapes and dtypes.

    Raises
    ------
    TypeError: if a tensor's dtype cannot represent the values of the format.
    ValueError: if the rounding is stochastic and `place` is missing; if a tensor lacks the axis of
        a block format.

    >>> import keras, numpy as np
    >>> layer = Quantize("fixed<8,1>/nearest_even", "e5m2", place=1)
    >>> keras.ops.convert_to_numpy(layer(np.float32([0.3, 0.7]))).tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        activation: Rounding = None,
        error: Rounding = None,
        *,
        seed: int | None = None,
        place: int | None = None,
        later: Mapping[Any, tuple[Rounding, Rounding]] | None = None,
        scaled: bool = False,
        **options: Any,
    ) -> None:
        given = {0: (activation, error), **{int(n): pair for n, pair in (later or {}).items()}}
        phases = tuple(
            (step, tuple(None if q is None else Quantizer.parse(q) for q in given[step]))
            for step in sorted(given)
        )
        quantizers = [q for _, pair in phases for q in pair]
        stochastic = any(q is not None and q.rounding.stochastic for q in quantizers)
        if place is not None:
            check_int("place", place, 0, 2**32 - 1)
        elif stochastic:
            raise ValueError(
                f"stochastic rounding ({', '.join(str(q) for q in quantizers if q is not None)})"
                " needs place=, an integer that no other Quantize layer of this seed has"
            )
        super().__init__(autocast=False, **options)
        with seed_for("activations", seed) as self.seed:
            self.place, self._phases, self.scaled = place, phases, scaled
        self.go_to(0)
        self.supports_masking = True
        self.calls = self._counter("calls", 0)
        self.evaluations = self._counter("evaluations", 0)
        self.enabled = self._counter("enabled", 1)
        self.built = True

    def go_to(self, step: int) -> None:
        """Round as from a step of the optimizer on."""
        phase = bisect_right(self._phases, step, key=lambda phase: phase[0]) - 1
        self._since, (self.activation, self.error) = self._phases[phase]
        pair = (self.activation, self.error)
        self.stochastic = any(q is not None and q.rounding.stochastic for q in pair)

    def _counter(self, name: str, value: int) -> Any:
        # "int": TensorFlow keeps variables of int32 in host memory, where XLA cannot reach them.
        return self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype="int",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @untraced
    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if self.activation is None and is_exported_plain():
            return inputs
        enabled = ops.convert_to_tensor(self.enabled)
        step: Any = 0
        if self.stochastic:
            counter = self.calls if training else self.evaluations
            # A copy: on PyTorch the conversion shares memory.
            count = count_of(counter) + 0
            counter.assign(count + enabled)
            step = as_step(count if training else count + EVALUATION)
        return self._rounded(inputs, step, enabled, "")

    def _rounded(self, x: Any, step: Any, enabled: Any, suffix: str) -> Any:
        """Tensors in tuples, lists and dicts; each has its own stream."""
        if isinstance(x, dict):
            return type(x)(
                (key, self._rounded(v, step, enabled, f"{suffix}.{key}")) for key, v in x.items()
            )
        if isinstance(x, tuple | list):
            parts = [self._rounded(v, step, enabled, f"{suffix}.{i}") for i, v in enumerate(x)]
            return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
        if x is None or not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
            return x
        return straight_through(
            x,
            self._rule("activation" + suffix, self.activation),
            self._rule("error" + suffix, self.error),
            (step, step),
            enabled,
        )

    def _rule(self, role: str, quantizer: Quantizer | None) -> Rule | None:
        if quantizer is None:
            return None
        label = (self.name, role)
        if self.place is None or not quantizer.rounding.stochastic:
            return Rule(quantizer, label=label, scaled=self.scaled)
        stream = stream_id(role + of_replica(), self.place)
        return Rule(quantizer, self.seed, stream, label=label, scaled=self.scaled)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return tree.map_structure(self._spec, inputs)

    def _spec(self, x: Any) -> Any:
        if x is None:
            return None
        dtype = keras.backend.standardize_dtype(x.dtype)
        quantizers = [q for _, pair in self._phases for q in pair]
        for quantizer in quantizers if keras.backend.is_float_dtype(dtype) else ():
            if quantizer is not None:
                check_representable(quantizer.format, source_dtype(dtype))
                if isinstance(quantizer.format, Block):
                    quantizer.format.extents(len(x.shape))
        return keras.KerasTensor(x.shape, dtype=dtype)

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call as it is: the backward pass needs nothing of the forward, and a second call
        would count twice.
        """
        return layer_call

    def save_own_variables(self, store: Any) -> None:
        store["calls"] = keras.ops.convert_to_numpy(self.calls)
        store["evaluations"] = keras.ops.convert_to_numpy(self.evaluations)
        if len(self._phases) > 1:
            store["since"] = np.array(self._since)

    def load_own_variables(self, store: Any) -> None:
        self.calls.assign(store["calls"][()])
        if "evaluations" in store.keys():  # noqa: SIM118  (no mapping; older files lack it)
            self.evaluations.assign(store["evaluations"][()])
        if "since" in store.keys():  # noqa: SIM118
            self.go_to(int(store["since"][()]))

    def get_config(self) -> dict[str, Any]:
        plain = {
            str(step): [None if q is None else str(q) for q in pair] for step, pair in self._phases
        }
        own: dict[str, Any] = dict(zip(("activation", "error"), plain.pop("0"), strict=True))
        own |= {"seed": self.seed, "place": self.place}
        own |= {"scaled": True} if self.scaled else {}
        return {**super().get_config(), **own, **({"later": plain} if plain else {})}
