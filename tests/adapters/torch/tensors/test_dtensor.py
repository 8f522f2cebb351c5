"""DTensor: two processes round their shards to the bits of the whole tensor."""

import pytest
import torch
from qemu_swalp_torch import Averager, quantize_optimizer
from qemu_swalp_torch.tensors.arrays import TensorQuantizer

from qemu_swalp import RandomBits
from qemu_swalp.training import Quantizer, Recipe
from tests.helpers.ranks import results_of

FORMATS = ["e4m3fn", "bfp8", "bfp<8,axis=0>", "bfp<8,axis=-1>", "bfp<8,axis=1,size=4>", "nvfp4"]
SCALED = [
    "bfp8",
    "bfp<8,axis=0>",
    "bfp<8,axis=1>",
    "nvfp4",
    "nvfp4_torchao",
    "int<8,zero_point>",
    "int<5,axis=0>",
    "int<6,zero_point,axis=1>",
    "mxfp4",
    "block<e2m1fn,scale=e8m0fnu>",
    "block<e2m1fn,axis=0,scale=e4m3fn>",
]
PLACEMENTS = ["shard 0", "shard 1", "replicate"]
SHAPE = (5, 7)  # uneven: 3 and 2 rows, 4 and 3 columns


def train(format, parameter):
    """Three steps of SGD with momentum, every tensor in the format."""
    recipe = Recipe(*[format] * 5, accumulator="bf16/stochastic")
    opt = quantize_optimizer(torch.optim.SGD([parameter], 0.125, momentum=0.5), recipe, seed=7)
    averager = Averager([("p", parameter)])
    averager.attach(opt)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        gradient = torch.randn(SHAPE, generator=generator)
        parameter.grad = (
            gradient if type(parameter) is torch.nn.Parameter else like(gradient, parameter)
        )
        opt.step()
    state = opt.state[parameter]
    return [parameter, state["momentum_buffer"], state["qemu_accumulator"], averager.average()["p"]]


def like(x, parameter):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, parameter.device_mesh, parameter.placements)


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


ODD = ("plain", "NaN", "infinity", "negative", "zeros", "one row")


def special(kind):
    x = 3 * start()
    if kind == "NaN":
        x[4, 1] = torch.nan
    if kind == "infinity":
        x[0, 2], x[3, 3] = torch.inf, -torch.inf
    return {"negative": -x.abs() - 1, "zeros": torch.zeros(SHAPE), "one row": x[:1]}.get(kind, x)


def stochastic(x, format):
    quantizer = TensorQuantizer.of(Quantizer(format), "p", "weight")
    return quantizer(x, RandomBits(3, 4, 5))


def work(rank, ranks, folder):
    import torch.distributed as distributed
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = distributed.device_mesh.init_device_mesh("cpu", (ranks,))
    placements = dict(zip(PLACEMENTS, (Shard(0), Shard(1), Replicate()), strict=True))
    results = {}
    for name, placement in placements.items():
        for format in FORMATS:
            parameter = torch.nn.Parameter(distribute_tensor(start(), mesh, [placement]))
            version = parameter._version
            results[name, format] = [t.detach().full_tensor() for t in train(format, parameter)]
            results[name, format].append(torch.tensor(parameter._version > version))
        for format in SCALED:
            for odd in ODD:
                shards = distribute_tensor(special(odd), mesh, [placement])
                results[name, format, odd] = stochastic(shards, format).full_tensor()
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the first of two processes has."""
    return results_of(work, 2, tmp_path_factory.mktemp("shards"))[0]


@pytest.mark.parametrize("format", SCALED)
def test_scales_are_those_of_the_whole(same, results, format):
    """Also with NaN and infinities, and with shards that have no elements."""
    for odd in ODD:
        whole = stochastic(special(odd), format)
        for placement in PLACEMENTS:
            same(results[placement, format, odd], whole)


def test_shards_have_the_bits_of_the_whole(same, results):
    for format in FORMATS:
        whole = train(format, torch.nn.Parameter(start()))
        for placement in PLACEMENTS:
            *tensors, version_moved = results[placement, format]
            assert version_moved
            for a, b in zip(whole, tensors, strict=True):
                same(a, b)


@pytest.fixture
def mesh():
    import torch.distributed as distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_what_is_refused(mesh):
    from qemu_swalp_torch.tensors.dtensor import round_shard
    from torch.distributed.tensor import DTensor, Partial, distribute_tensor

    from qemu_swalp.training import Averaging

    whole = distribute_tensor(start(), mesh)
    with pytest.raises(
        TypeError, match="p is a DTensor, and NumPy keeps exact averages; pass dtype=torch"
    ):
        Averager([("p", whole)], Averaging(exact="fixed<8,6>"))
    partial = DTensor.from_local(start(), mesh, [Partial()])
    with pytest.raises(ValueError, match="where its placements are Shard or Replicate, got"):
        round_shard(partial, Quantizer("bfp8", "nearest_even"), None)
    with pytest.raises(TypeError, match="x must be a DTensor, got Tensor"):
        round_shard(start(), Quantizer("bf16/stochastic"), None)
