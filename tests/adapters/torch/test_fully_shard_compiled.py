"""Whole recipes under `fully_shard` in two processes: compiled, with the bits of eager ones."""

import pytest
import torch
from qemu_swalp_torch import emulate
from torch import distributed, nn

import qemu_swalp as q
from qemu_swalp.training import Recipe
from tests.helpers.ranks import results_of

WEIGHT = "fixed<8,6>"
OPERANDS = {"input": "bfp<6,axis=-1>", "weight": "e4m3fn", "error": "e5m2"}
RECIPES = {
    "everything": Recipe(
        activation="bfp<8>/stochastic",
        error="bfp<8>/stochastic",
        operands={name: f"{format}/stochastic" for name, format in OPERANDS.items()},
        elementwise="bf16",
        weight=f"{WEIGHT}/stochastic",
        momentum="fixed<8,6>/stochastic",
    ),
    "mxfp8": "mxfp8",
}
WAYS = ("eager", "aot_eager", "inductor")


def run(recipe, way, rank, ranks):
    """The weights after three steps; each rank has its part of a batch of 8."""
    from torch.distributed.fsdp import fully_shard

    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))
    x, optimizer = torch.randn(3, 8, 8), None
    mesh = distributed.device_mesh.init_device_mesh("cpu", (ranks,))
    for module in (model[0], model):
        fully_shard(module, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    emulate(model, optimizer, recipe, seed=3)
    called = model if way == "eager" else torch.compile(model, backend=way)
    for batch in x:
        called(batch.chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().full_tensor() for name, p in model.named_parameters()}


def work(rank, ranks, folder):
    ways = [(name, way) for name in RECIPES for way in (WAYS if name == "everything" else WAYS[:2])]
    return {(name, way): run(RECIPES[name], way, rank, ranks) for name, way in ways}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return results_of(work, 2, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("name", RECIPES)
def test_compiled_they_have_the_same_bits(same, results, name):
    first, second = results
    for way in WAYS if name == "everything" else WAYS[:2]:
        for parameter, value in first[name, "eager"].items():
            same(value, first[name, way][parameter])
            same(value, second[name, way][parameter])


def test_the_weights_lie_on_the_grid_and_have_moved(results):
    torch.manual_seed(0)
    before = nn.Linear(8, 8).weight
    weight = results[0]["everything", "inductor"]["0.weight"]
    assert torch.equal(weight, q.quantize(weight, WEIGHT))
    assert not torch.equal(weight, q.quantize(before.detach(), WEIGHT))
