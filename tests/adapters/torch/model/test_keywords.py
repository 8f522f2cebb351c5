"""Functions of PyTorch called by their keywords, as `torch.baddbmm(x, batch1=a, batch2=b)`: what
they give is that of the call by place.
"""

import pytest
import torch
from qemu_swalp_torch import UncoveredError, quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe
from tests.helpers.dispatched import ALL

torch.manual_seed(0)
A, B, M = torch.randn(3, 4), torch.randn(4, 5), torch.randn(3, 5)
BATCH, OTHER, SUM = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 3, 5)
V, W, S = torch.randn(4), torch.rand(4) + 0.5, torch.randn(3)
IMAGE, KERNEL = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3)
HIDDEN = torch.zeros(1, 3, 4)
LSTM = [p.detach() for p in nn.LSTM(4, 4).parameters()]
aten = torch.ops.aten

PRODUCTS = {
    "mm": (lambda: torch.mm(input=A, mat2=B), lambda: A.mm(B)),
    "bmm": (lambda: BATCH.bmm(mat2=OTHER), lambda: BATCH @ OTHER),
    "mv": (lambda: A.mv(vec=V), lambda: A @ V),
    "dot": (lambda: V.dot(tensor=W), lambda: V @ W),
    "matmul": (lambda: torch.matmul(A, x2=B), lambda: A @ B),
    "addmm": (
        lambda: M.addmm(mat1=A, mat2=B, beta=2, alpha=3),
        lambda: torch.addmm(M, A, B, beta=2, alpha=3),
    ),
    "addmv": (lambda: S.addmv(mat=A, vec=V), lambda: S.addmv(A, V)),
    "baddbmm": (
        lambda: torch.baddbmm(input=SUM, batch1=BATCH, batch2=OTHER, beta=0.5),
        lambda: SUM.baddbmm(BATCH, OTHER, beta=0.5),
    ),
    "addbmm": (lambda: M.addbmm(batch1=BATCH, batch2=OTHER), lambda: M.addbmm(BATCH, OTHER)),
    "addmm_": (lambda: M.clone().addmm_(mat1=A, mat2=B), lambda: M.addmm(A, B)),
    "addbmm_": (
        lambda: M.clone().addbmm_(batch1=BATCH, batch2=OTHER),
        lambda: M.addbmm(BATCH, OTHER),
    ),
    "out": (lambda: torch.mm(A, mat2=B, out=torch.empty(3, 5)), lambda: A @ B),
    "multi_dot": (lambda: torch.linalg.multi_dot(tensors=[A, B]), lambda: A @ B),
    "einsum": (
        lambda: aten.einsum(equation="ij,jk->ik", tensors=[A, B]),
        lambda: torch.einsum("ij,jk->ik", A, B),
    ),
    "tensordot": (lambda: torch.tensordot(a=A, b=B, dims=1), lambda: A @ B),
    "tensordot of axes": (
        lambda: aten.tensordot(A, B, dims_self=[1], dims_other=[0]),
        lambda: A @ B,
    ),
    "conv2d": (
        lambda: torch.conv2d(input=IMAGE, weight=KERNEL, padding=1),
        lambda: F.conv2d(IMAGE, KERNEL, None, 1, 1),
    ),
    "conv_transpose2d": (
        lambda: torch.conv_transpose2d(IMAGE, weight=KERNEL, dilation=2, stride=2),
        lambda: F.conv_transpose2d(IMAGE, KERNEL, None, 2, 0, 0, 1, 2),
    ),
    "lstm": (
        lambda: torch.lstm(
            input=BATCH,
            hx=(HIDDEN, HIDDEN),
            params=LSTM,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=False,
            batch_first=False,
        )[0],
        lambda: torch.lstm(BATCH, (HIDDEN, HIDDEN), LSTM, True, 1, 0.0, False, False, False)[0],
    ),
}
ELEMENTWISE = {
    "sum": (lambda: torch.sum(A, axis=0, keepdims=True), lambda: A.sum(0, True)),
    "mean": (lambda: A.mean(axis=1, keepdims=True), lambda: A.mean(1, True)),
    "var": (lambda: A.var(axis=0, keepdims=True), lambda: A.var(0, keepdim=True)),
    "std": (lambda: torch.std(A, axis=0, correction=0), lambda: A.std(0, correction=0)),
    "softmax": (lambda: torch.softmax(A, axis=0), lambda: A.softmax(0)),
    "add": (lambda: torch.add(x1=A, x2=A, alpha=3), lambda: A.add(A, alpha=3)),
    "pow": (lambda: torch.pow(self=2.0, exponent=A), lambda: 2.0**A),
    "lerp": (lambda: torch.lerp(A, end=2 * A, weight=0.3), lambda: A.lerp(2 * A, 0.3)),
    "addcmul": (
        lambda: torch.addcmul(input=A, tensor1=A, tensor2=W, value=0.3),
        lambda: A.addcmul(A, W, value=0.3),
    ),
    "addcdiv_": (
        lambda: A.clone().addcdiv_(tensor1=A, tensor2=W),
        lambda: A.addcdiv(A, W),
    ),
    "dropout": (lambda: torch.dropout(A, p=0.0, train=True), lambda: F.dropout(A, 0.0)),
    "layer_norm": (
        lambda: torch.layer_norm(A, normalized_shape=(4,), weight=W, bias=V, cudnn_enable=False),
        lambda: F.layer_norm(A, (4,), W, V),
    ),
    "layer_norm by place": (
        lambda: torch.layer_norm(A, (4,), W, V, 1e-3, False),
        lambda: F.layer_norm(A, (4,), W, V, 1e-3),
    ),
    "group_norm": (
        lambda: torch.group_norm(IMAGE, 2, W, V, 1e-5, False),
        lambda: F.group_norm(IMAGE, 2, W, V),
    ),
    "batch_norm": (
        lambda: torch.batch_norm(IMAGE, W, V, V, W, False, 0.1, 1e-5, False),
        lambda: F.batch_norm(IMAGE, V, W, W, V),
    ),
    "batch_norm by keyword": (
        lambda: torch.batch_norm(
            IMAGE,
            weight=None,
            bias=V,
            running_mean=V,
            running_var=W,
            training=False,
            momentum=0.1,
            eps=1e-5,
            cudnn_enabled=True,
        ),
        lambda: F.batch_norm(IMAGE, V, W, None, V),
    ),
    "aten.batch_norm": (
        lambda: aten.batch_norm(IMAGE, W, V, V, W, False, 0.1, 1e-5, False),
        lambda: F.batch_norm(IMAGE, V, W, W, V),
    ),
    "instance_norm": (
        lambda: torch.instance_norm(IMAGE, W, V, None, None, True, 0.1, 1e-5, False),
        lambda: F.instance_norm(IMAGE, None, None, W, V),
    ),
}
BFLOAT = Recipe(elementwise="bf16/nearest_even")


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self):
        return self.function()


def rounded(function, products):
    model = Calls(function)
    if products:
        quantize_gemms(model, ALL, attention=True)
    else:
        quantize_elementwise(model, BFLOAT)
    return model()


@pytest.mark.parametrize("name", [*PRODUCTS, *ELEMENTWISE])
def test_keywords_are_those_of_pytorch(name):
    by_keyword, by_place = {**PRODUCTS, **ELEMENTWISE}[name]
    torch.testing.assert_close(by_keyword(), by_place())
    got, wanted = (rounded(function, name in PRODUCTS) for function in (by_keyword, by_place))
    assert torch.equal(got, wanted)
    assert name == "dropout" or not torch.equal(got, by_place())


@pytest.mark.parametrize("name", ["baddbmm", "addmm_", "addcmul", "batch_norm"])
def test_compiled_too(name):
    by_keyword, by_place = {**PRODUCTS, **ELEMENTWISE}[name]
    wanted, model = rounded(by_place, name in PRODUCTS), Calls(by_keyword)
    if name in PRODUCTS:
        quantize_gemms(model, ALL, attention=True)
    else:
        quantize_elementwise(model, BFLOAT)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(), wanted)


def test_unknown_keywords_have_pytorchs_error():
    for function in (
        lambda: torch.mm(A, B, dims=1),
        lambda: torch.conv2d(IMAGE, KERNEL, pading=1),
        lambda: torch.exp(A, alpha=1),
        lambda: torch.tensordot(A, B, 1, axis=3),
    ):
        with pytest.raises(TypeError) as plain:
            function()
        for products in (True, False):
            with pytest.raises(TypeError) as error:
                rounded(function, products)
            assert str(error.value) == str(plain.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda: F.rrelu(A),
        lambda: torch.zeros(3).index_put((torch.tensor([0, 0]),), S[:2], accumulate=True),
        lambda: torch.zeros(3).index_put_((torch.tensor([0, 0]),), S[:2], True),
        lambda: torch.zeros(4).scatter(0, torch.zeros(4, dtype=torch.long), 0.3, reduce="add"),
        lambda: torch.round(A, decimals=1),
        lambda: torch.bincount(torch.tensor([0, 0, 1]), S),
        lambda: torch.native_dropout(A, 0.3, True)[0],
    ],
    ids=["rrelu", "index_put", "index_put_", "scatter", "round", "bincount", "native_dropout"],
)
def test_what_adds_or_multiplies_by_an_argument_is_told(function):
    with pytest.raises(UncoveredError, match="'elementwise' could not be applied"):
        rounded(function, False)


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.zeros(3).index_put((torch.tensor([0, 1]),), S[:2]) + S,
        lambda: torch.zeros(4).scatter(0, torch.zeros(4, dtype=torch.long), V) + V,
        lambda: torch.round(A) + A,
        lambda: torch.bincount(torch.tensor([0, 0, 1]), minlength=4) + V,
    ],
    ids=["index_put", "scatter", "round", "bincount"],
)
def test_what_does_not_is_not(function):
    rounded(function, False)
