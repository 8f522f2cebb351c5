"""Rounding of the operands of a model's matrix products."""

from __future__ import annotations

from typing import Any

from qemu_swalp._util.checks import check_bool
from qemu_swalp.training import Recipe

from ..calls.sites import check_model, put, take_off
from ..layers.selection import Selection
from ..sections import check_section


def quantize_gemms(
    model: Any,
    recipe: Recipe | str,
    *,
    exclude: Selection = (),
    attention: bool = False,
    uncovered: str = "raise",
    seed: int | None = None,
) -> Any:
    """Round what the matrix products of a model multiply: each operand of each product by itself.

    A layer makes three products: its output from input and weight; its input's gradient (dgrad)
    from error and weight; its weight's gradient (wgrad) from error and input. The error is the
    gradient of its output. Where the recipe has `sums`, each is accumulated as its accumulation
    says; else in the tensors' own dtype. Gradients pass straight through the roundings. Weights
    themselves stay as they are: rounding those is the optimizer's part.

    Under delayed scaling scales and histories are trainable variables of the layers, which the
    optimizer overwrites with the next ones, as in Keras's own float8 training.

    While a layer of the model is called, every call of these functions of `keras.ops` is rounded:
    `matmul`, `einsum`, `dot`, `tensordot`, `inner`, `vdot`, the convolutions and
    `dot_product_attention`. That is so in layers of Keras and in a user's own. Those that a
    functional model calls outside of its layers go by the model's name, those in `compute_loss` by
    the name "loss". The operand that is a variable, or made of one by casts, transposes, reshapes
    or slices, is the weight; where neither is, both are inputs.

    Parameters
    ----------
    model : any model, functional, sequential or subclassed; its layers' dtype policies are
        replaced. Compile it afterwards.
    recipe : its `operands` and `sums` count here, or the name of a preset such as "mxfp8". Those of
        layer `fc1` go by the name `fc1/operands` in its overrides.
    exclude : layers whose own products are left out, by type, name or predicate, as in
        exclude=("head", keras.layers.Embedding). A layer within another is named as in
        "attention/query".
    attention : whether products of two activations are rounded too, both operands as inputs, such
        as q·kᵀ and p·v.
    uncovered : what to do about products that a layer makes past Keras, by functions of the backend
        itself such as `tf.matmul`: "raise" in its first call, "warn" or "ignore".
    seed : of the random bits, which depend on (seed, operand, place of the layer in the model,
        product within its call, number of its calls). None: another one for each model that is
        given none in this process, the same in the next run.

    Returns
    -------
    the model. It is saved, loaded and cloned with its rounding; `unquantize_gemms` takes it off.

    Raises
    ------
    TypeError: if `model` is not a Keras model or `recipe` not a recipe.
    ValueError: if there is nothing to round; if the products are rounded already; if a pattern of
        `exclude` matches no layer, or one of the recipe's `overrides` no name; if a layer was
        quantized by Keras; if the recipe names layers by position and one is not built; under
        delayed scaling, if a product is made several times in a step, or under replicas.

    UncoveredError: in the first call of a layer that multiplies past Keras.

    The operator @ of tensors is `keras.ops.matmul`. Sparse tensors are multiplied as dense ones,
    and so the gradient of a weight that meets one is dense.

    Second derivatives, as of a gradient penalty, are those of the rounded gradient, and their own
    products are not rounded; through sums in low precision they are refused.

    >>> import keras, numpy as np
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.layers.Input((2,)), dense])
    >>> model = quantize_gemms(model, Recipe(operands={"input": "fixed<8,1>"}))
    >>> keras.ops.convert_to_numpy(model(np.float32([[0.6, 0.3]]))).tolist()
    [[1.0]]
    """
    check_bool("attention", attention)
    check_model(model)
    recipe = check_section(recipe, "products", "quantize_gemms")
    return put(
        model,
        "products",
        recipe,
        exclude=exclude,
        seed=seed,
        attention=attention,
        uncovered=uncovered,
    )


def unquantize_gemms(model: Any) -> Any:
    """The model without rounding of its products: inverse of `quantize_gemms`."""
    return take_off(model, "products")
