"""Steps that the host reads nothing from, so that a CUDA graph can repeat them with fresh random
bits.
"""

import copy
import io

import pytest
import torch
from qemu_swalp_torch import (
    SGD,
    Averager,
    quantize_activations,
    quantize_elementwise,
    quantize_gemms,
    quantize_optimizer,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from qemu_swalp import RandomBits, kernels, quantize
from qemu_swalp.interop import torch as tensors
from qemu_swalp.training import Recipe, swalp

ops = torch.ops.aten
READS = (
    ops._local_scalar_dense,
    ops.nonzero,
    ops.equal,
    ops.is_nonzero,
    ops.masked_select,
    ops.unique_dim,
)
FORMATS = (
    "bf16",
    "e4m3fn",
    "e2m1fn",
    "fixed<8,6>",
    "bfp<8,axis=0>",
    "bfp<6,range=twos>",
    "mxfp8_e4m3",
    "nvfp4",
    "nf4",
    "posit<8,2>",
    "ternary",
)
ROLES = Recipe(
    **swalp(8).to_dict(),
    operands={"input": "bfp<6,axis=-1>/stochastic", "error": "e5m2/stochastic"},
)
OPTIMIZERS = {
    "plain": (torch.optim.SGD, {"foreach": False}),
    "foreach": (torch.optim.SGD, {"foreach": True}),
    "fused": (torch.optim.SGD, {"fused": True}),
    "ours": (SGD, {}),
}
WITH_ACCUMULATOR = Recipe(
    weight="e4m3fn/stochastic", momentum="bf16/stochastic", accumulator="fixed<16,12>/stochastic"
)


class NoReads(TorchDispatchMode):
    """What would make the host wait for a device is an error."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        reads = function.overloadpacket in READS
        if function.overloadpacket is ops.index:
            reads = any(index is not None and index.dtype == torch.bool for index in args[1])
        if reads:
            raise AssertionError(f"the host reads: {function}")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_device(monkeypatch):
    """CPU tensors stay tensors, and go by the reference implementation."""
    monkeypatch.setattr(tensors, "HOST_DTYPES", frozenset())
    with kernels.disabled():
        yield


def test_the_mode_finds_reads():
    x = torch.ones(3)
    for read in (
        lambda: x[0].item(),
        lambda: x[x > 0],
        lambda: bool(x.sum() > 0),
        lambda: x.nonzero(),
    ):
        with NoReads(), pytest.raises(AssertionError, match="the host reads"):
            read()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic", "stochastic_c<8>"])
@pytest.mark.usefixtures("as_on_a_device")
def test_a_rounding_takes_its_step_from_a_tensor(same, format, rounding):
    x = torch.randn(6, 64)
    for step in (3, 2**32 - 1):
        with NoReads():
            found = quantize(x, format, rounding, random=RandomBits(1, 2, torch.tensor(step)))
        same(found, quantize(x, format, rounding, random=RandomBits(1, 2, step)))


def test_tables_go_to_a_device_once():
    from qemu_swalp.arrays import namespace_of

    like = torch.empty(3, dtype=torch.int32, device="meta")
    xp = namespace_of(like)
    assert xp.table([1, 2, 3], 32, like) is xp.table([1, 2, 3], 32, like)
    assert xp.table([1, 2, 4], 32, like) is not xp.table([1, 2, 3], 32, like)


def parts(kind, recipe=ROLES, capturable=True, device="cpu", **options):
    """A model and its optimizer, which counts as it is told."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    make, own = OPTIMIZERS[kind]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | own | options
    if make is SGD:
        optimizer = SGD(model.parameters(), recipe=recipe, seed=3, capturable=capturable, **options)
    else:
        optimizer = quantize_optimizer(
            make(model.parameters(), **options), recipe, seed=3, capturable=capturable
        )
    return model, optimizer


def batch(i, device="cpu"):
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(i)).to(device)


def backward(model, i):
    model.zero_grad()
    model(batch(i)).square().mean().backward()


@pytest.mark.parametrize(
    "recipe",
    [
        ROLES,
        WITH_ACCUMULATOR,
        Recipe(weight="nvfp4/stochastic"),
    ],
    ids=["all roles", "accumulator", "weights"],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_reads_nothing_and_has_the_bits_of_one_that_does(same, kind, recipe):
    rate = torch.tensor(0.1) if kind == "ours" else 0.1
    (model, optimizer), (other, reading) = (
        parts(kind, recipe, capturable, lr=rate) for capturable in (True, False)
    )
    for i in range(3):
        backward(model, i)
        backward(other, i)
        with NoReads():
            optimizer.step()
        reading.step()
        same(dict(model.state_dict()), dict(other.state_dict()))
    step = optimizer.param_groups[0]["qemu_step"]
    assert (step.item(), reading.param_groups[0]["qemu_step"]) == (3, 3)


@pytest.mark.parametrize(
    "recipe",
    [
        ROLES,
        WITH_ACCUMULATOR,
    ],
    ids=["all roles", "accumulator"],
)
@pytest.mark.usefixtures("as_on_a_device")
def test_what_a_scaler_skips_is_skipped_on_the_device(same, recipe):
    runs = [parts("fused", recipe, capturable) for capturable in (True, False)]
    for found in (0.0, 1.0, 0.0):
        for model, optimizer in runs:
            backward(model, 1)
            model[0].weight.grad.div_(1 - found)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found)
        with NoReads():
            runs[0][1].step()
        runs[1][1].step()
        same(*(dict(model.state_dict()) for model, _ in runs))
        same(
            *(
                {f"{i} {k}": v for i, s in o.state_dict()["state"].items() for k, v in s.items()}
                for _, o in runs
            )
        )
    assert [int(optimizer.param_groups[0]["qemu_step"]) for _, optimizer in runs] == [2, 2]


class Checkpointed(nn.Module):
    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head, self.mode, self.context = nn.Linear(8, 3), mode, {}

    def forward(self, x):
        if self.mode is None:
            return self.head(self.body(x))
        return self.head(
            checkpoint(self.body, x, use_reentrant=self.mode == "reentrant", **self.context)
        )


@pytest.mark.parametrize("mode", [None, "reentrant", "not reentrant", "contexts"])
@pytest.mark.usefixtures("as_on_a_device")
def test_forward_and_backward_read_nothing_either(same, mode):
    results = []
    for unread in (True, False):
        model = Checkpointed(mode if unread else None)
        handles = [
            quantize_activations(model, ROLES, modules=nn.ReLU, seed=0),
            quantize_gemms(model, ROLES, seed=0),
        ]
        if mode == "contexts":
            model.context = {"context_fn": handles[0].checkpoint_contexts}
        if unread:
            for handle in handles:
                handle.count_on("cpu")
        for i in range(3):
            x = batch(i).requires_grad_()
            model.zero_grad()
            if unread:
                with NoReads():
                    model(x).square().mean().backward()
            else:
                model(x).square().mean().backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
        assert {record["training"] for record in handles[0].state_dict().values()} == {3}
    same(*results)


@pytest.mark.usefixtures("as_on_a_device")
def test_steps_within_functions_read_nothing_either(same):
    results = []
    for unread in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Softmax(-1)
        )
        handle = quantize_elementwise(model, Recipe(elementwise="bf16/stochastic"), seed=0)
        if unread:
            handle.count_on("cpu")
        for i in range(2):
            model.zero_grad()
            if unread:
                with NoReads():
                    model(batch(i)).square().mean().backward()
            else:
                model(batch(i)).square().mean().backward()
        results.append(
            {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())
        )
    same(*results)


@pytest.mark.parametrize("kind", ["plain", "ours"])
def test_checkpoints_and_copies_count_on(same, kind):
    def saved(optimizer):
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    model, optimizer = parts(kind)
    for i in range(2):
        backward(model, i)
        optimizer.step()
    state, weights = saved(optimizer), copy.deepcopy(model.state_dict())
    copied_model, copied = copy.deepcopy((model, optimizer))
    backward(model, 2)
    optimizer.step()
    backward(copied_model, 2)
    copied.step()
    same(dict(copied_model.state_dict()), dict(model.state_dict()))
    for capturable in (True, False):
        other_model, other = parts(kind, capturable=capturable)
        counter = other.param_groups[0]["qemu_step"]
        other_model.load_state_dict(weights)
        other.load_state_dict(copy.deepcopy(state))
        assert (other.param_groups[0]["qemu_step"] is counter) == capturable
        backward(other_model, 2)
        other.step()
        same(dict(other_model.state_dict()), dict(model.state_dict()))
        assert type(other.param_groups[0]["qemu_step"]) is (torch.Tensor if capturable else int)
    state["param_groups"][0]["qemu_step"] = torch.tensor([2])
    with pytest.raises(ValueError, match="the checkpoint is damaged"):
        other.load_state_dict(state)


def test_groups_count_each_for_itself():
    _, optimizer = parts("ours")
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    assert [int(group["qemu_step"]) for group in optimizer.param_groups] == [1, 1]


def test_by_default_it_is_as_the_optimizer_is():
    for capturable in (True, False):
        adam = torch.optim.Adam([nn.Parameter(torch.ones(2))], capturable=capturable)
        quantize_optimizer(adam, swalp(8))
        assert isinstance(adam.param_groups[0]["qemu_step"], torch.Tensor) == capturable


def test_what_counts_on_the_host_refuses_to_be_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for kind, remedy in (("plain", "quantize the optimizer"), ("ours", "make the optimizer")):
        model, optimizer = parts(kind, capturable=False)
        backward(model, 0)
        with pytest.raises(
            RuntimeError, match=f"a quantized step cannot be .*; {remedy} with capturable=True"
        ):
            optimizer.step()
        model, optimizer = parts(kind)
        backward(model, 0)
        optimizer.step()
    Averager(model).attach(optimizer)
    with pytest.raises(
        RuntimeError, match=r"an average cannot be captured .*; call update\(\) after each replay"
    ):
        optimizer.step()
    handle = quantize_activations(model, ROLES, modules=nn.ReLU)
    with pytest.raises(
        RuntimeError,
        match=r"stochastic rounding of '1' cannot be .*; call the handle's count_on\(dev",
    ):
        model(batch(0))
    handle.count_on("cpu")
    model(batch(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("kind", [*OPTIMIZERS, "Adam"])
def test_replays_of_a_cuda_graph_have_the_bits_of_eager_steps(same, kind):
    def made():
        if kind == "Adam":
            model, _ = parts("plain", device="cuda")
            adam = torch.optim.Adam(model.parameters(), 0.01, capturable=True)
            optimizer = quantize_optimizer(
                adam, Recipe(**swalp(8).to_dict(), state={"exp_avg_sq": "bf16/stochastic"}), seed=3
            )
        else:
            rate = {"lr": torch.tensor(0.1, device="cuda")} if kind == "ours" else {}
            model, optimizer = parts(kind, device="cuda", **rate)
        for handle in (
            quantize_activations(model, ROLES, modules=nn.ReLU, seed=1),
            quantize_gemms(model, ROLES, seed=2),
        ):
            handle.count_on("cuda")
        return model, optimizer

    def step(model, optimizer, x):
        optimizer.zero_grad(set_to_none=False)
        model(x).square().mean().backward()
        optimizer.step()

    (model, optimizer), eager = made(), made()
    x = batch(0, "cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # state is made before the capture
        step(model, optimizer, x)
    torch.cuda.current_stream().wait_stream(side)
    step(*eager, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(model, optimizer, x)
    seen = []
    for i in (1, 2, 3):
        x.copy_(batch(i, "cuda"))
        graph.replay()
        step(*eager, batch(i, "cuda"))
        seen.append(
            [{name: t.cpu() for name, t in m.state_dict().items()} for m in (model, eager[0])]
        )
    for ours, theirs in seen:
        same(ours, theirs)
    assert optimizer.param_groups[0]["qemu_step"].item() == 4
