"""Rounding of each elementwise operation in a model's layers."""

from __future__ import annotations

from typing import Any

from qemu_swalp.training import Recipe

from ..calls.sites import put, take_off
from ..layers.selection import Selection
from ..sections import check_section


def quantize_elementwise(
    model: Any,
    recipe: Recipe | str,
    *,
    exclude: Selection = (),
    uncovered: str = "raise",
    seed: int | None = None,
) -> Any:
    """Round each elementwise operation that the layers of a model compute, forward and backward.

    This emulates a vector unit that computes in bfloat16, or a softmax with an 8-bit exponential.
    Each sum, difference, product, quotient, root and function value is rounded before the next
    operation uses it; sums of rows are rounded term by term. Sums, differences, products, quotients
    and roots are rounded once from their exact values; exp, log, tanh and others from the backend's
    float64 values. `qemu_swalp.training.functional` has the operations of each function, the same
    as in PyTorch.

    Rounded are softmax, the normalizations, nonlinearities, `Add` and its kin, average pooling, the
    gates of recurrent layers and dropout's multiplication. So are, in layers of your own, the
    functions of `keras.ops` and the operators + - * / ** of tensors. A bias that is added to a
    product belongs to that product. What gradients add where a number is used several times, as by
    broadcasting and gathering, is not rounded, nor are moving statistics and metrics. Second
    derivatives are refused.

    The loss is rounded where a model computes it, in `compute_loss`. That is the one that `compile`
    is given or a subclass computes, with its weights, regularizers, and what `add_loss` adds. It
    goes by the name "loss" in `exclude`, and "loss/elementwise" in overrides. A loss that a
    training loop of your own computes past `model.compute_loss` stays as it is.

    Parameters
    ----------
    model : any model, functional, sequential or subclassed; its layers' dtype policies are
        replaced. Compile it afterwards.
    recipe : its section `elementwise`, or the name of a preset. The operations of layer `norm1` go
        by the name `norm1/elementwise` in its overrides.
    exclude : layers that are left out, by type, name or predicate.
    uncovered : what to do about a function that is not rounded: "raise", "warn" or "ignore". One of
        Keras, such as `keras.ops.cumsum`, is seen at each call; one of the backend itself, such as
        `tf.exp`, in the layer's first.
    seed : of the random bits, which depend on (seed, operation, place of the layer in the model,
        number of its calls in training, or otherwise). None: another one for each model that is
        given none in this process, the same in the next run.

    Returns
    -------
    the model. It is saved, loaded and cloned with its rounding; `unquantize_elementwise` takes it
    off.

    Raises
    ------
    TypeError: if `model` is not a Keras model or `recipe` not a recipe; in a call, if a dtype does
        not represent the values of a format.
    ValueError: if there is nothing to round; if the operations are rounded already; if a pattern
        matches nothing; if a layer was quantized by Keras.

    Eagerly all three backends have the bits of the core. Under XLA on TensorFlow sums of rows are
    unrolled, term by term: leave `jit_compile` off there.

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Softmax()])
    >>> model = quantize_elementwise(model, Recipe(elementwise="e4m3fn/nearest_even"))
    >>> keras.ops.convert_to_numpy(model(np.float32([[1.0, 2.0, 4.0]]))).tolist()
    [[0.0390625, 0.109375, 0.8125]]
    """
    return put(
        model,
        "elementwise",
        check_section(recipe, "elementwise", "quantize_elementwise"),
        exclude=exclude,
        seed=seed,
        uncovered=uncovered,
    )


def unquantize_elementwise(model: Any) -> Any:
    """The model without rounding of its elementwise operations: inverse of
    `quantize_elementwise`.
    """
    return take_off(model, "elementwise")
