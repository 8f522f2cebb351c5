"""Models as nobody would have registered them: each product is rounded, compiled too."""

import copy

import pytest
import torch
from qemu_swalp_torch import quantize_gemms
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.helpers.dispatched import ALL, Watch


def weight(*shape):
    return nn.Parameter(torch.randn(*shape) / 4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(16, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 16, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x):
        y = self.fc(self.embedding(x.abs().long()[:, 0]))
        return self.out(y) + y @ self.embedding.weight.T


class Experts(nn.Module):
    """Mixture of experts, chosen by index."""

    def __init__(self):
        super().__init__()
        self.router, self.up, self.down = nn.Linear(8, 3), weight(3, 8, 16), weight(3, 16, 8)

    def forward(self, x):
        gates = self.router(x).softmax(-1)
        chosen = gates.argmax(-1)
        y = torch.zeros_like(x)
        for e in range(3):
            rows = (chosen == e).nonzero()[:, 0]
            part = F.gelu(x[rows] @ self.up[e]) @ self.down[e]
            y = y.index_add(0, rows, part * gates[rows, e, None])
        return y + torch.bmm(x[:, None], self.up[chosen]).squeeze(1) @ self.down[0]


class Loop(nn.Module):
    """A recurrent network of one's own, part of it into memory that is there."""

    def __init__(self):
        super().__init__()
        self.w, self.u, self.b = weight(8, 8), weight(8, 8), weight(8)

    def forward(self, x):
        h = torch.zeros_like(x)
        for _ in range(3):
            h = torch.tanh(torch.addmm(self.b, x, self.w) + h.mm(self.u))
        with torch.no_grad():
            found = torch.empty_like(x)
            torch.addmm(self.b, h, self.w, out=found)
        return h + found


class Unregistered(nn.Module):
    """Parameters in a dict and in a list, as `nn.Parameter` or not."""

    def __init__(self):
        super().__init__()
        plain = torch.randn(8, 8, requires_grad=True)
        self.fc, self.kept = nn.Linear(8, 8), {"a": plain, "b": [weight(8, 8)]}

    def forward(self, x):
        return F.linear(F.relu(self.fc(x) @ self.kept["a"]), self.kept["b"][0])


class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(8, 8), weight(2, 8), weight(8, 2)

    def forward(self, x):
        return (
            self.base(x) + x @ self.a.T @ self.b.T + F.linear(x, self.base.weight + self.b @ self.a)
        )


class Vmapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.w = nn.Linear(8, 8), weight(3, 8, 8)

    def forward(self, x):
        y = torch.vmap(lambda w, row: w @ row)(self.w, self.fc(x)[:3])
        return y + torch.vmap(lambda row: F.linear(row, self.w[0]))(x[:3])


class Scan(nn.Module):
    """A state space model."""

    def __init__(self):
        super().__init__()
        self.inner, self.gates, self.rate = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.decay, self.conv = weight(8, 4), nn.Conv1d(8, 8, 3, padding=2, groups=8)

    def forward(self, x):
        x, z = self.inner(x[None]).chunk(2, -1)
        x = F.silu(self.conv(x.mT)[..., : x.shape[1]].mT)
        into, out = self.gates(x).chunk(2, -1)
        rate, h, found = F.softplus(self.rate(x)), x.new_zeros(1, 8, 4), []
        for t in range(x.shape[1]):
            step = torch.einsum("bd,bn->bdn", rate[:, t] * x[:, t], into[:, t])
            h = torch.exp(rate[:, t, :, None] * -self.decay.abs()) * h + step
            found.append(torch.einsum("bdn,bn->bd", h, out[:, t]))
        return torch.stack(found, 1) * F.silu(z)


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets, self.values = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = x[None, None]
        grid = torch.zeros(1, *x.shape[2:], 2) + self.offsets(x).permute(0, 2, 3, 1) / 8
        return F.grid_sample(self.values(x), grid, align_corners=False)


class Splines(nn.Module):
    """A Kolmogorov-Arnold layer."""

    def __init__(self):
        super().__init__()
        self.knots, self.c, self.base = torch.linspace(-1, 1, 5), weight(8, 8, 5), nn.Linear(8, 8)

    def forward(self, x):
        basis = torch.relu(1 - (x[..., None] - self.knots).abs() * 2)
        y = self.base(F.silu(x)) + torch.einsum("bik,oik->bo", basis, self.c)
        return y + F.linear(basis.reshape(x.shape[0], -1), self.c.reshape(8, -1))


class Generated(nn.Module):
    """A weight that another layer computes."""

    def __init__(self):
        super().__init__()
        self.made, self.of, self.fc = nn.Linear(4, 64), weight(4), nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) @ self.made(self.of).reshape(8, 8)


class Containers(nn.Module):
    """Parameters in containers, and weights that parametrizations compute."""

    def __init__(self):
        super().__init__()
        self.list = nn.ParameterList([weight(8, 8), weight(8, 8)])
        self.dict = nn.ParameterDict({"a": weight(8, 8)})
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.tied = nn.Linear(8, 8)
        nn.utils.parametrize.register_parametrization(self.tied, "weight", Symmetric())

    def forward(self, x):
        y = torch.tanh(x @ self.list[0] @ self.list[1] @ self.dict["a"])
        return self.tied(self.spectral(self.normed(y))) @ self.tied.weight


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


class Functions(nn.Module):
    """Products by names that few use."""

    def __init__(self):
        super().__init__()
        self.fc, self.w, self.kernel = nn.Linear(8, 8), weight(8, 8), weight(8, 4)

    def forward(self, x):
        w, y = self.w, self.fc(x)
        y = torch.linalg.multi_dot([y, w, w]) + torch.chain_matmul(y, w, w)
        y = y + torch.inner(y, w) + torch.vmap(lambda row: w @ row)(y)
        y = y + torch.cond(y.sum() > 0, lambda x: x @ w, lambda x: x @ w.T, (y,))
        y = y + torch.outer(y[:, 0], w[0]) + torch.kron(y[:, :1], w[0])  # elementwise
        y = y + checkpoint(lambda x: torch.tanh(x @ w), y, use_reentrant=True)
        y = y + checkpoint(lambda x: torch.tanh(x @ w), y, use_reentrant=False)
        columns = F.unfold(y[None, None, :8], 2)
        columns = self.kernel[:, :1].expand(8, 4).T @ (self.kernel @ columns)
        return F.fold(columns, (8, 8), 2) + y[:8]


MODELS = (
    *(Tied, Experts, Loop, Unregistered, LoRA, Vmapped, Scan, Deformable, Splines, Generated),
    *(Containers, Functions),
)


@pytest.mark.parametrize("kind", MODELS)
def test_the_operands_of_every_product_lie_on_the_grid(kind):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(9, 8, requires_grad=True)
    quantize_gemms(model, ALL, attention=True)
    with Watch() as watch:
        model(x).square().mean().backward()
    assert watch.seen > 3
    assert not watch.bad


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not Functions])
def test_those_of_second_derivatives_too(kind):
    """`Functions` has reentrant checkpointing, which has none."""
    torch.manual_seed(0)
    model = kind()
    quantize_gemms(model, ALL, attention=True)
    with Watch() as watch:
        loss, weights = model(torch.randn(9, 8)).square().mean(), [*model.parameters()]
        found = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        sum(g.square().sum() for g in found if g is not None).backward()
    assert watch.seen > 6
    assert not watch.bad


def test_graphs_in_pieces_have_the_same_bits(same):
    """Rows that are chosen by value break a graph; what is called between two is not compiled."""
    torch.manual_seed(0)
    model, x, found = Experts(), torch.randn(9, 8), []
    quantize_gemms(model, ALL, attention=True)
    for run in (model, torch.compile(model, backend="eager")):
        y = run(x)
        found.append((y, *torch.autograd.grad(y.sum(), [*model.parameters()])))
    for a, b in zip(*found, strict=True):
        same(a, b)


MOVED = {
    "copied": copy.deepcopy,
    "to": lambda model: model.to("cpu", torch.float32),
    "doubled and back": lambda model: model.double().float(),
    "data parallel": nn.DataParallel,  # without a GPU it calls the model
}


@pytest.mark.parametrize("how", MOVED)
def test_moved_models(how):
    torch.manual_seed(0)
    model = Containers()
    quantize_gemms(model, ALL, attention=True)
    model = MOVED[how](model)
    with Watch() as watch:
        model(torch.randn(9, 8)).square().mean().backward()
    assert watch.seen > 3
    assert not watch.bad


def test_on_the_meta_device():
    model = nn.Linear(8, 8)
    quantize_gemms(model, ALL)
    assert model.to("meta")(torch.empty(2, 8, device="meta")).shape == (2, 8)


def test_replicas_are_refused_by_words():
    """As `nn.DataParallel` makes them where it has several GPUs."""
    model = nn.Sequential(nn.Linear(8, 8))
    handle = quantize_gemms(model, ALL)
    with pytest.raises(TypeError, match=r"'the model', whose counters.*DistributedDataParallel"):
        model._replicate_for_data_parallel()
    handle.remove()
    model._replicate_for_data_parallel()
