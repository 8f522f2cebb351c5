"""What einsum computes that is no product is rounded as the elementwise operations and sums that
it stands for; repeated indices take diagonals.
"""

import numpy as np
import pytest
from keras import layers, ops
from qemu_swalp_keras import quantize_elementwise, quantize_gemms

from qemu_swalp.training import Recipe
from tests.helpers.keras_native import normal, numpy, pull_back, same

X = normal((3, 4, 4), 1)
OPERANDS = {"bij": X, "bii": X, "b": X[:, 0, 0], "bk": X[:, 1]}
ELEMENTWISE = {
    "bij,bij->jbi": lambda x, y: ops.transpose(x * y, (2, 0, 1)),
    "bij,b->bij": lambda x, v: x * v[:, None, None],
    "b,bij->ijb": lambda v, x: ops.transpose(v[:, None, None] * x, (1, 2, 0)),
    "bij->jb": lambda x: ops.transpose(ops.sum(x, 1)),
    "bii->b": lambda x: ops.sum(ops.diagonal(x, axis1=1, axis2=2), -1),
    "bij,bk->bi": lambda x, v: ops.sum(x, 2) * ops.sum(v, 1)[:, None],
}
"""By equation, what it computes of its operands."""


class Calling(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(*inputs)


def operands(equation):
    parts = equation.partition("->")[0].split(",")
    return [ops.convert_to_tensor(OPERANDS[part]) for part in parts]


@pytest.mark.parametrize("equation", ELEMENTWISE)
def test_elementwise_parts_are_rounded_one_by_one(equation):
    found = []
    for function in (lambda *x: ops.einsum(equation, *x), ELEMENTWISE[equation]):
        layer = quantize_elementwise(Calling(function), Recipe(elementwise="fixed<8,3>"))
        x, *others = operands(equation)
        y = layer([x, *others])
        upstream = ops.full(y.shape, 0.3)
        found.append(pull_back(lambda x, layer=layer, o=others: layer([x, *o]), x, upstream))
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)
    plain = numpy(ops.einsum(equation, *operands(equation)))
    assert not np.array_equal(numpy(found[0][0]), plain)


@pytest.mark.parametrize("equation", ELEMENTWISE)
def test_they_are_no_products(equation):
    layer = Calling(lambda *x: ops.einsum(equation, *x))
    plain = layer(operands(equation))
    quantize_gemms(layer, Recipe(operands={"input": "fixed<8,3>"}), attention=True)
    same(layer(operands(equation)), plain)


@pytest.mark.parametrize("equation", ["bii,bk->ik", "bk,bii->ki"])
def test_products_of_diagonals_are_rounded(equation):
    form = "fixed<8,3>"
    layer = Calling(lambda *x: ops.einsum(equation, *x))
    quantize_gemms(layer, Recipe(operands={"input": form}), attention=True)
    rounded = [np.round(numpy(x) * 8) / 8 for x in operands(equation)]
    same(layer(operands(equation)), np.einsum(equation, *rounded))
