"""Functions written out operation by operation: without rounding they are PyTorch's, gradients
included.
"""

import pytest
import torch
from qemu_swalp_torch import UncoveredError, quantize_elementwise, quantize_gemms
from torch import nn
from torch.nn import functional as F

from qemu_swalp.training import Recipe

NEARLY = Recipe(elementwise="float<11,50>/nearest_even")
CLASSES, SOME = torch.tensor([1, 0, -100, 2]), torch.tensor([0.5, 2.0, 1.0])
PROBABILITIES = torch.full((4, 3), 1 / 3, dtype=torch.float64)
SIGNS = torch.tensor([[1.0, 0.0, 1.0]] * 4, dtype=torch.float64)
CALLS = {
    **{
        f"cross_entropy {options}": lambda x, o=options: F.cross_entropy(
            x,
            o.get("targets", CLASSES),
            SOME.double() if o.get("weighted") else None,
            **o["options"],
        )
        for options in (
            {"options": {}},
            {"options": {"reduction": "sum"}, "weighted": True},
            {"options": {"reduction": "none", "label_smoothing": 0.1}},
            {"options": {"label_smoothing": 0.2}, "weighted": True},
            {"options": {"ignore_index": 0}, "targets": torch.tensor([1, 0, 0, 2])},
        )
    },
    "l1_loss with weights": lambda x: F.l1_loss(x, SIGNS, weight=SOME.double().expand(4, 3)),
    "huber_loss with weights": lambda x: F.huber_loss(x, SIGNS, weight=SOME.double().expand(4, 3)),
    "soft targets": lambda x: F.cross_entropy(x, PROBABILITIES, label_smoothing=0.1),
    "nll_loss": lambda x: F.nll_loss(F.log_softmax(x, 1), CLASSES, SOME.double()),
    "mse_loss": lambda x: F.mse_loss(x, SIGNS, weight=SOME.double().expand(4, 3)),
    "l1_loss": lambda x: F.l1_loss(x, SIGNS, reduction="sum"),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, SIGNS, beta=0.3),
    "smooth_l1_loss, beta 0": lambda x: F.smooth_l1_loss(x, SIGNS, beta=0.0),
    "huber_loss": lambda x: F.huber_loss(x, SIGNS, delta=0.7),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), SIGNS),
    "bce with logits": lambda x: F.binary_cross_entropy_with_logits(
        x, SIGNS, pos_weight=SOME.double()
    ),
    "kl_div": lambda x: F.kl_div(F.log_softmax(x, 1), SIGNS, reduction="batchmean"),
    "kl_div of logarithms": lambda x: F.kl_div(
        F.log_softmax(x, 1), PROBABILITIES.log(), log_target=True
    ),
    "avg_pool1d": lambda x: F.avg_pool1d(x[None], 2, 1),
    "avg_pool1d, padded": lambda x: F.avg_pool1d(x[None], 3, 2, 1, count_include_pad=False),
    "avg_pool1d, ceiling": lambda x: F.avg_pool1d(x[None], 2, 2, ceil_mode=True),
    "avg_pool2d": lambda x: F.avg_pool2d(x[None], (2, 3), padding=1, divisor_override=5),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x[None], (3, 2)),
    "adaptive, one": lambda x: F.adaptive_avg_pool1d(x[None], 1),
    "instance_norm": lambda x: F.instance_norm(x[None], weight=SOME.double()[[0, 1, 2, 0]]),
    "var": lambda x: x.var(1) + x.var(1, correction=0) + x.var(False),
    "std": lambda x: torch.std(x, 0, keepdim=True),
    "norms": lambda x: x.norm(dim=1) + x.norm(1, 1) + x.norm(3, 1) + x.norm(float("inf"), 1),
    "torch.linalg's": lambda x: (
        torch.linalg.norm(x) + torch.linalg.norm(x, 3, dim=1) + torch.linalg.vector_norm(x, 1)
    ),
    "normalize": lambda x: F.normalize(x),
    "logsumexp": lambda x: x.logsumexp((0, 1)) + torch.logsumexp(x, 1, keepdim=True),
    "powers": lambda x: (
        x**2 + x**3 - x.abs() ** 0.5 / (x.abs() + 1) ** -0.5 + 2**x + x.abs() ** 1.7
    ),
    "power of a tensor": lambda x: x.abs() ** SOME.double(),
    "reciprocals": lambda x: 1 / (x + 5) - (x + 5).reciprocal() + 2 - x + (x + 5).rsqrt(),
    "broadcast": lambda x: x * x[:1] / (x[:, :1] + 9) - x[0] + x.sum(0, keepdim=True),
    "of a scalar": lambda x: (
        x * x.sum().sum() + x.mean().mean(-1) + x.sum().logsumexp(0) + F.mse_loss(x[0, 0], x[1, 1])
    ),
    "scaled sums": lambda x: torch.add(x, x, alpha=0.3) - torch.sub(x, x * 2, alpha=2),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.4) + torch.addcdiv(x, x, x + 9, value=2),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "in place": lambda x: (x + 0).mul_(3).add_(x).div_(2).sub_(1),
    **{
        name: (lambda f: lambda x: f(x))(getattr(F, name))
        for name in (
            *("elu", "celu", "selu", "mish", "softplus", "leaky_relu", "hardswish", "logsigmoid"),
            *("hardsigmoid", "softsign", "tanhshrink", "gelu", "silu"),
        )
    },
    "softplus with constants": lambda x: F.softplus(x, 2, 1),
    "prelu": lambda x: F.prelu(x, SOME.double()),
    **{
        name: (lambda f: lambda x: f(x / 4))(getattr(torch, name))
        for name in (
            *("exp", "exp2", "expm1", "log1p", "sin", "cos", "tan", "asin", "acos", "atan"),
            *("sinh", "cosh", "asinh", "atanh", "erf", "erfc", "tanh", "sigmoid"),
        )
    },
    "logarithms": lambda x: (x + 5).log() + (x + 5).log2() + (x + 5).log10() + (x + 5).acosh(),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x[:1] + 0.5, eps=1.3),
    "cosine_similarity of columns": lambda x: torch.cosine_similarity(x, x * x, 0),
    "pairwise_distance": lambda x: F.pairwise_distance(x, SIGNS) + F.pairwise_distance(x, x * x, 3),
    "dist": lambda x: torch.dist(x, SIGNS) + x.dist(SIGNS, 1),
    "margin_ranking_loss": lambda x: F.margin_ranking_loss(x, -x, 2 * SIGNS - 1, 0.3),
    "hinge_embedding_loss": lambda x: F.hinge_embedding_loss(x, SIGNS - 2 * (SIGNS < 1), 0.4),
    "cosine_embedding_loss": lambda x: F.cosine_embedding_loss(
        x, x * x, torch.tensor([1, -1, 1, -1]), 0.1, reduction="none"
    ),
    "triplet_margin_loss": lambda x: F.triplet_margin_loss(x, SIGNS, -SIGNS, p=3, swap=True),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, 2 * SIGNS - 1, reduction="sum"),
    "multilabel_soft_margin_loss": lambda x: F.multilabel_soft_margin_loss(x, SIGNS, SOME.double()),
    "multi_margin_loss": lambda x: F.multi_margin_loss(x, CLASSES.clamp(0), 2, 0.7, SOME.double()),
    "multi_margin_loss of one": lambda x: F.multi_margin_loss(x[0], CLASSES[0]),
    "gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, SIGNS, x[:, 0] ** 2, True, 0.2),
    "poisson_nll_loss": lambda x: F.poisson_nll_loss(x, 4 * SIGNS, full=True),
    "poisson_nll_loss of rates": lambda x: F.poisson_nll_loss(x.exp(), SIGNS, log_input=False),
    "moments": lambda x: torch.stack([*torch.var_mean(x, 1), *torch.std_mean(x, 1, correction=0)]),
    "moments of all": lambda x: torch.stack([*torch.var_mean(x, False)]),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x) + x.logaddexp(x),
    "outer": lambda x: x[0].outer(x[1]) + torch.ger(x[1], x[2]),
    "softmin": lambda x: F.softmin(x, 1),
    "gumbel_softmax": lambda x: torch.manual_seed(3) and F.gumbel_softmax(x, 0.7),
    "hard gumbel_softmax": lambda x: torch.manual_seed(3) and F.gumbel_softmax(x, hard=True),
    "weight_norm": lambda x: torch._weight_norm(x, x[:, :1], 0),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("call", CALLS)
def test_without_rounding_it_is_pytorchs(call):
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64).clamp(-2, 2).requires_grad_()
    results = []
    for rounded in (False, True):
        model = Function(CALLS[call])
        if rounded:
            quantize_elementwise(model, NEARLY)
        y = model(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for expected, found in zip(*results, strict=True):
        # PyTorch's hardsigmoid multiplies by a float32 constant
        tolerance = 1e-7 if call == "hardsigmoid" else 1e-9
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


ROWS = torch.tensor([[0.0, 0, 0, 0], [2, 2, 2, 2], [1, 2, -3, 0.5]], dtype=torch.float64)
"""Low precision has rows of zeros, and of equal numbers, where full precision has none."""

KINKS = torch.tensor(
    [-800.0, -20, -6, -3, -2, -1, -0.5, -0.0, 0, 0.5, 1, 2, 3, 6, 20, 800], dtype=torch.float64
)
"""Where pieces of nonlinearities meet, and where exponentials are infinite."""

EDGES = {
    "norm": (lambda x: x.norm(dim=1), ROWS),
    "norms": (lambda x: x.norm(1, 1) + x.norm(1.5, 1) + x.norm(3, 1), ROWS),
    "norm of all": (lambda x: torch.linalg.norm(x * 0), ROWS),
    "normalize": (lambda x: F.normalize(x), ROWS),
    "normalize, p = 3": (lambda x: F.normalize(x, 3), ROWS),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, torch.ones_like(x)), ROWS),
    "std": (lambda x: x.std(1) + x.std(1, unbiased=False), ROWS),
    "softmax of none": (lambda x: F.softmax(x[:, :0], 1), ROWS),
    "prelu of a scalar": (lambda x: F.prelu(x[2, 2], torch.full((1,), 0.3).double()), ROWS),
    "power 0": (lambda x: x**0, ROWS),
    "power of a tensor": (lambda x: x ** torch.tensor([0.0, 1, 2, 3]).double(), ROWS),
    "power of a number": (lambda x: 10000 ** (x / 9) + (-2.0) ** x.round(), ROWS),
    "powers of 0": (lambda x: 0.0 ** x.abs(), ROWS),
    "kl_div": (lambda x: F.kl_div(x, ROWS.abs().T[:3].T.new_zeros(4), reduction="none"), ROWS),
    "bce": (
        lambda x: F.binary_cross_entropy((x - 0.5).sign() / 2 + 0.5 + 0 * x, (x <= 0.5).double()),
        KINKS,
    ),
    "bce with logits": (
        lambda x: F.binary_cross_entropy_with_logits(x, (x < 0).double(), reduction="none"),
        KINKS,
    ),
    "logaddexp": (lambda x: torch.logaddexp(x, x.flip(0)), KINKS),
    "logaddexp of infinities": (
        lambda x: x + torch.logaddexp(*torch.full((2, 5), -torch.inf).double()).exp(),
        KINKS[-5:],
    ),
    "softplus": (lambda x: F.softplus(x, 1, 20), KINKS),
    **{
        name: ((lambda f: lambda x: f(x))(getattr(F, name)), KINKS)
        for name in (
            *("elu", "celu", "selu", "mish", "leaky_relu", "hardswish", "hardsigmoid", "relu6"),
            *("logsigmoid", "softsign", "gelu", "silu", "hardtanh"),
        )
    },
}


@pytest.mark.parametrize("call", EDGES)
def test_at_zero_and_where_pieces_meet(call):
    function, x = EDGES[call]
    results = []
    for rounded in (False, True):
        model, leaf = Function(function), x.clone().requires_grad_()
        if rounded:
            quantize_elementwise(model, NEARLY)
        y = model(leaf)
        results.append((y, *torch.autograd.grad(y.sum(), leaf)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_targets_below_zero_have_no_divergence():
    model = Function(lambda x: F.kl_div(x, torch.tensor([-1.0, 0.0, 1.0]), reduction="none"))
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    assert torch.isnan(model(torch.zeros(3))).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.cumsum(0), "cumsum"),
        (lambda x: torch.special.i0(x), "i0"),
        (lambda x: x.prod(), "prod"),
    ],
)
def test_an_operation_that_is_not_known_is_named(function, name):
    model = Function(lambda x: function(x) + 1)
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    with pytest.raises(UncoveredError, match=rf"the model itself: {name}\. Exclude"):
        model(torch.randn(4, 3))


@pytest.mark.parametrize("p", [0, -1, "nuc"])
def test_norms_of_other_orders_are_refused(p):
    model = Function(lambda x: x.norm(p) + 1)
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    with pytest.raises(ValueError, match=f"norms of positive order are rounded, got p={p!r}"):
        model(torch.randn(4, 3))


def test_norms_of_matrices_of_other_orders_are_refused():
    model = Function(lambda x: torch.linalg.norm(x, 2))
    quantize_elementwise(model, Recipe(elementwise="bf16"))
    with pytest.raises(ValueError, match="norms of matrices are rounded with ord=None or 'fro'"):
        model(torch.randn(4, 3))


def test_an_outer_product_of_activations_is_elementwise(same):
    """Rotary angles are positions times frequencies: in 8 bits they would mean nothing."""
    x = torch.linspace(1.1, 300.7, 6)
    model = Function(lambda x: x[:, None] @ x[None] + torch.einsum("i,j->ij", x, x))
    quantize_gemms(model, Recipe(operands={"input": "e4m3fn"}), attention=True, uncovered="raise")
    with pytest.raises(ValueError, match="made no product of those"):
        quantize_gemms(Function(lambda x: x[:, None] @ x[None]), "mxfp8", attention=True).model(x)
    model = nn.ModuleList([Function(lambda x: x[:, None] @ x[None]), nn.Linear(1, 1)])
    quantize_gemms(model, Recipe(operands={"input": "e4m3fn"}), attention=True)
    same(model[0](x), x[:, None] * x)


def test_another_modules_parameter_is_a_weight(same):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(3, 4)

        def forward(self, x):
            return F.linear(x, self.embedding.weight)

    model, x = Tied(), torch.randn(2, 4)
    quantize_gemms(model, Recipe(operands={"weight": "fixed<4,1>"}))
    rounded = (model.embedding.weight.detach() * 2).round().clamp(-8, 7) / 2
    same(model(x).detach(), F.linear(x, rounded))


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_reductions_of_every_spelling(same):
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    recipe = Recipe(elementwise="bf16")
    for options, reduction in (
        ({"reduce": False}, "none"),
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
    ):
        found = []
        for given in (options, {"reduction": reduction}):
            model = Function(lambda x, given=given: F.mse_loss(x, y, **given))
            quantize_elementwise(model, recipe)
            found.append(model(x))
        same(*found)
    model = Function(lambda x: F.mse_loss(x, y, reduction="avg"))
    quantize_elementwise(model, recipe)
    with pytest.raises(ValueError, match="reduction must be one of none, mean, sum, got 'avg'"):
        model(x)


@pytest.mark.parametrize("operator", [lambda x: x + 1, lambda x: 2 / x, lambda x: x**2])
def test_operators_keep_the_words_of_an_error(operator):
    model = Function(operator)
    quantize_elementwise(model, Recipe(elementwise="tf32"))
    with pytest.raises(ValueError, match="bfloat16 cannot represent the values of"):
        model(torch.ones(2, dtype=torch.bfloat16))


def test_a_product_keeps_the_words_of_an_error():
    model = Function(lambda x: x @ x)
    quantize_gemms(model, Recipe(operands={"input": "tf32"}), attention=True)
    with pytest.raises(ValueError, match="bfloat16 cannot represent the values of"):
        model(torch.ones(2, 2, dtype=torch.bfloat16))


def test_a_layer_that_multiplies_nothing_passes_weights_on():
    """`nn.Tanh` of a parameter is a weight, though nothing within the layer is looked at."""
    recipe = Recipe(operands={"weight": "fixed<8,1>/nearest_even"})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.tanh, self.norm = nn.Parameter(torch.ones(2, 2)), nn.Tanh(), nn.ReLU()

        def forward(self, x):
            return self.norm(x) @ self.tanh(self.w)

    model = Net()
    quantize_gemms(model, recipe)
    assert model(torch.full((1, 2), 0.25)).tolist() == [[0.5, 0.5]]  # tanh(1) = 0.76 becomes 1
    assert not quantize_gemms(nn.Sequential(nn.ReLU()), Recipe(allow_empty=True)).handles
