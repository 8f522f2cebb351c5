"""Delayed scaling in two processes: the greatest number of all ranks enters the history, so that
all ranks quantize alike, and as a single process does.
"""

import pytest
import torch
from qemu_swalp_torch import quantize_gemms
from torch import distributed, nn

from qemu_swalp.training import Recipe
from qemu_swalp.training.delayed import Delayed
from tests.helpers.ranks import results_of

E4M3 = "block<e4m3fn,scale=float<8,23>>"
KINDS = ("input", "weight", "error")
RECIPE = Recipe(
    operands=dict.fromkeys(KINDS, E4M3), scaling=dict.fromkeys(KINDS, Delayed(history=4))
)
WAYS = ("ddp", "ddp compiled", "ddp first", "fsdp", "fsdp compiled")


def run(wrap, rank, ranks):
    """Scales of all operands after four steps; each rank has its part of a batch of 6."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    called, handle = wrap(model)
    for step in range(4):
        x = torch.randn(6, 4, generator=generator) * 3.0**step
        called(x.chunk(ranks)[rank]).square().sum().backward()
    return {name: record["scales"] for name, record in handle.state_dict().items()}


def wrapped(way):
    def wrap(model):
        if way == "ddp first":
            called = nn.parallel.DistributedDataParallel(model)
            return called, quantize_gemms(called, RECIPE)
        handle = quantize_gemms(model, RECIPE)
        if way.startswith("fsdp"):
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
            fully_shard(model, mesh=mesh)
            return torch.compile(model, backend="eager") if "compiled" in way else model, handle
        if way == "ddp compiled":
            model = torch.compile(model, backend="eager")
        return nn.parallel.DistributedDataParallel(model), handle

    return wrap


def work(rank, ranks, folder):
    found = {way: run(wrapped(way), rank, ranks) for way in WAYS}
    found["apart"] = run(lambda model: (model, quantize_gemms(model, RECIPE)), rank, ranks)
    found["join"] = joined(rank)
    return found


def joined(rank):
    """What is said where ranks have one and two batches."""
    called, _ = wrapped("ddp")(nn.Sequential(nn.Linear(4, 4)))
    try:
        with called.join():
            for _ in range(1 + rank):
                called(torch.ones(2, 4)).sum().backward()
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return results_of(work, 2, tmp_path_factory.mktemp("scales"))


@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_have_the_scales_of_a_single_process(results, way):
    """Which sums up its products in another order."""
    single = run(lambda model: (model, quantize_gemms(model, RECIPE)), 0, 1)
    first, second = (result[way] for result in results)
    assert first == second
    assert first.keys() == single.keys()
    for name, scales in single.items():
        for operand, record in scales.items():
            for key, value in record.items():
                assert first[name][operand][key] == pytest.approx(value, rel=1e-5)


def test_models_that_are_not_parallel_have_scales_of_their_own(results):
    assert results[0]["apart"] != results[1]["apart"]


def test_join_is_refused_by_words(results):
    """Else the rank with more batches would wait for ever."""
    for result in results:
        assert "within DistributedDataParallel.join(); give all ranks as many" in result["join"]
