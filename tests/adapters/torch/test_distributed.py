"""Two and three processes: data parallel, sharded, resumed by another number of them, to the bits
of a single one.

All numbers are chosen so that what PyTorch computes (products, reductions over ranks) is exact:
weights of 8 bits, small integers for data, errors that are multiples of 6. What is left is what
this package does, which must not differ.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import torch.distributed as distributed
from qemu_swalp_torch import SGD, Averager, quantize_all_reduce, quantize_gemms, quantize_optimizer
from torch import nn

from qemu_swalp import quantize
from qemu_swalp.training import EMA, LAWA, Recipe, TensorRandomBits
from tests.helpers.ranks import results_of

WEIGHT = "fixed<8,4>"
RECIPES = {
    "one scale a row": Recipe(
        WEIGHT,
        gradient="bfp<8,axis=0>/stochastic",
        momentum="bfp<8,axis=0>/stochastic",
        average="bfp<9,axis=0>/stochastic",
    ),
    "one scale a tensor": Recipe(
        weight=WEIGHT,
        gradient="bfp8/stochastic",
        momentum="bfp<6>/stochastic",
        average="bfp<9>/stochastic",
    ),
    "blocks across shards": Recipe(
        weight=WEIGHT,
        gradient="mxfp4/stochastic",
        momentum="bfp<8,axis=0,size=2>/stochastic",
        average="nvfp4/stochastic",
    ),
    "accumulator": Recipe(
        weight="fixed<6,2>/stochastic",
        gradient="e5m2/stochastic",
        momentum="e4m3fn/stochastic",
        accumulator="float<8,9>/stochastic",
        average="fixed<9,5>/stochastic",
    ),
    "operands": Recipe(
        WEIGHT,
        operands={
            "input": "bfp<3,axis=-1,size=2>/nearest_even",
            "wgrad.input": None,
            "weight": "bfp<4>/nearest_even",
        },
    ),
}
KINDS = ("hooks", "native")
RUNS = [
    ("one scale a row", "hooks"),
    ("one scale a row", "native"),
    ("one scale a tensor", "native"),
    ("blocks across shards", "hooks"),
    ("accumulator", "native"),
    ("operands", "hooks"),
]
STEPS, HALF = 3, 2


def network():
    """6 → 5 → 2: shards are uneven, and among 3 ranks the last one's of the second layer are
    empty.
    """
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-32, 33, p.shape, generator=generator) / 16)
    return model


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(-2, 3, (6, 6), generator=generator).float()
    return x, 6 * torch.randint(-2, 3, (6, 2), generator=generator) / 64


def layer_in_16_bits():
    """6 → 2 in bfloat16, whose gradients are exact in it, summed over ranks, too."""
    model = nn.Linear(6, 2, dtype=torch.bfloat16)
    with torch.no_grad():
        for p, value in zip(model.parameters(), network()[2].parameters(), strict=True):
            p.copy_(value[..., :1].expand_as(p) if p.ndim > 1 else value)
    return model


IN_16_BITS = Recipe(
    "fixed<8,4>/stochastic",
    gradient="bfp<7,axis=0>/stochastic",
    momentum="bfp<7>/stochastic",
    average="bfp<9>/stochastic",
)


class Run:
    """Training on this rank's part of every batch; `finish` makes single tensors of what it is left
    with.
    """

    def __init__(self, model, recipe, kind, rank=0, ranks=1, scale=1, lr=0.125):
        self.model, self.rank, self.ranks, self.scale = model, rank, ranks, scale
        options = {"lr": lr, "momentum": 0.5}
        if recipe.operands:
            quantize_gemms(model, recipe)
        if kind == "native":
            self.optimizer = SGD(model.parameters(), **options, recipe=recipe, seed=7)
        else:
            self.optimizer = quantize_optimizer(
                torch.optim.SGD(model.parameters(), **options), recipe, seed=7
            )
        self.averagers = [
            Averager(model, quantizer=recipe.average, seed=3),
            Averager(model),
            Averager(model, EMA(decay=0.75, quantizer=recipe.average, seed=4)),
            Averager(model, LAWA(size=2)),
        ]
        for averager in self.averagers:
            averager.attach(self.optimizer)

    def steps(self, first, last):
        for step in range(first, last):
            dtype = next(self.model.parameters()).dtype
            x, error = (part.chunk(self.ranks)[self.rank].to(dtype) for part in batch(step))
            self.optimizer.zero_grad()
            (self.model(x) * error).sum().backward()
            if self.scale != 1:
                torch._foreach_div_([p.grad for p in self.model.parameters()], self.scale)
            self.optimizer.step()
        return self

    def state(self):
        """All that a checkpoint must hold."""
        from torch.distributed.checkpoint.state_dict import (
            get_model_state_dict,
            get_optimizer_state_dict,
        )

        return {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
            "averagers": {
                str(i): averager.state_dict() for i, averager in enumerate(self.averagers)
            },
        }

    def load(self, folder):
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import (
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        state = self.state()
        checkpoint.load(state, checkpoint_id=folder)
        set_model_state_dict(self.model, state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        for i, averager in enumerate(self.averagers):
            averager.load_state_dict(state["averagers"][str(i)])
        return self

    def finish(self):
        found = {
            name.removeprefix("module."): p.detach() for name, p in self.model.named_parameters()
        }
        for i, p in enumerate(self.model.parameters()):
            found |= {f"{key} {i}": value for key, value in self.optimizer.state[p].items()}
        for i, averager in enumerate(self.averagers):
            found |= {
                f"average {i} {name.removeprefix('module.')}": v
                for name, v in averager.average().items()
            }
        with self.averagers[0].swap():
            found |= {
                f"swapped {i}": p.detach().clone() for i, p in enumerate(self.model.parameters())
            }
        return {
            name: v.full_tensor() if hasattr(v, "full_tensor") else v.clone()
            for name, v in found.items()
        }


def sharded(mesh, model=None):
    from torch.distributed.fsdp import fully_shard

    model = network() if model is None else model
    for module in (*model.children(), model):
        fully_shard(module, mesh=mesh)
    return model


def work(rank, ranks, folder):
    from torch.distributed import checkpoint

    mesh = distributed.device_mesh.init_device_mesh("cpu", (ranks,))
    results = {}
    for name, kind in RUNS:
        run = Run(sharded(mesh), RECIPES[name], kind, rank, ranks).steps(0, HALF)
        if name == "one scale a row" and ranks == 2:
            checkpoint.save(run.state(), checkpoint_id=f"{folder}/{kind}-{ranks}")
        results["sharded", name, kind] = run.steps(HALF, STEPS).finish()
        model = nn.parallel.DistributedDataParallel(network())
        results["replicated", name, kind] = (
            Run(model, RECIPES[name], kind, rank, ranks).steps(0, STEPS).finish()
        )
    for name, options in REDUCTIONS.items():
        results["reduced", name] = reduced(options, rank, ranks)
    for kind in KINDS:
        for how, model in (
            ("sharded", sharded(mesh, layer_in_16_bits())),
            ("replicated", nn.parallel.DistributedDataParallel(layer_in_16_bits())),
        ):
            run = Run(model, IN_16_BITS, kind, rank, ranks, lr=0.1).steps(0, STEPS)
            results["16 bits", how, kind] = run.finish()
        if ranks == 3:  # the checkpoint that two ranks have made
            run = Run(sharded(mesh), RECIPES["one scale a row"], kind, rank, ranks).load(
                f"{folder}/{kind}-2"
            )
            results["resumed", kind] = run.steps(HALF, STEPS).finish()
    return results


REDUCTIONS = {
    "nearest": {"sent": "e4m3fn/nearest_even"},
    "stochastic": {"sent": "bfp<4,axis=0>/stochastic"},
    "partial": {"sent": "bfp<4>/stochastic", "partial": "float<4,2>/stochastic"},
}


def contributions(rank, step):
    generator = torch.Generator().manual_seed(10 * rank + step)
    return [torch.randn(shape, generator=generator) for shape in ((5, 6), (5,), (2, 5), (2,))]


def reduced(options, rank, ranks):
    """Gradients after each of two low-precision all-reduces; small buckets, so that there are
    several.
    """
    model = nn.parallel.DistributedDataParallel(network(), bucket_cap_mb=1e-5)
    hook = quantize_all_reduce(model, **options, seed=5)
    found = []
    for step in range(2):
        model.zero_grad()
        weights = sum(
            (p * g).sum()
            for p, g in zip(model.parameters(), contributions(rank, step), strict=True)
        )
        (model(torch.zeros(1, 6)).sum() * 0 + weights).backward()
        found.append({str(i): p.grad.clone() for i, p in enumerate(model.parameters())})
    assert hook.state_dict() == {"seed": hook.seed, "step": 2}
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the ranks of two and of three processes have."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, {ranks: results_of(work, ranks, folder) for ranks in (2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("name", "kind"), RUNS)
@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_parallel_runs_have_the_bits_of_a_single_one(same, results, how, kind, name, ranks):
    single = Run(network(), RECIPES[name], kind, scale=ranks).steps(0, STEPS).finish()
    for rank in range(ranks):
        same(results[1][ranks][rank][how, name, kind], single)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_16_bit_parameters_are_rounded_once_on_every_rank(same, results, how, kind, ranks):
    """As in one process, and as in float32 with the same gradients."""
    options = {"scale": ranks, "lr": 0.1}  # whose updates bfloat16 does not hold
    single = Run(layer_in_16_bits(), IN_16_BITS, kind, **options).steps(0, STEPS).finish()
    in_float32 = Run(layer_in_16_bits().float(), IN_16_BITS, kind, **options).steps(0, STEPS)
    same(as_float32(single), as_float32(in_float32.finish()))
    for rank in range(ranks):
        found = results[1][ranks][rank]["16 bits", how, kind]
        assert found["weight"].dtype == torch.bfloat16
        same(as_float32(found), as_float32(single))


def as_float32(tensors):
    return {name: x.float() for name, x in tensors.items() if not name.startswith("swapped")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_ranks_is_resumed_by_three_and_by_one(same, results, kind):
    folder, found = results
    recipe = RECIPES["one scale a row"]
    unbroken = Run(network(), recipe, kind, scale=2).steps(0, HALF)
    unbroken.scale = 3
    for rank in range(3):
        same(
            found[3][rank]["resumed", kind],
            unbroken.steps(HALF, STEPS).finish() if not rank else unbroken.finish(),
        )
    alone = Run(network(), recipe, kind, scale=2).load(f"{folder}/{kind}-2").steps(HALF, STEPS)
    same(alone.finish(), found[2][0]["sharded", "one scale a row", kind])


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_low_precision_all_reduce_by_hand(same, results, name, ranks):
    sent, partial = REDUCTIONS[name]["sent"], REDUCTIONS[name].get("partial")

    def rounded(x, quantizer, place, step, role):
        format, _, rounding = quantizer.partition("/")
        return quantize(
            x,
            format,
            rounding,
            random=TensorRandomBits(5, place, step)(f"all_reduce.{role}"),
        )

    for step in range(2):
        parts = [
            [
                rounded(g / ranks, sent, place, step, f"sent.{rank}")
                for place, g in enumerate(contributions(rank, step))
            ]
            for rank in range(ranks)
        ]
        expected = {}
        for place in range(4):
            total = parts[0][place]
            for hop in range(1, ranks):
                total = total + parts[hop][place]
                total = rounded(total, partial, place, step, f"partial.{hop}") if partial else total
            expected[str(place)] = total
        for rank in range(ranks):
            same(results[1][ranks][rank]["reduced", name][step], expected)


def test_errors():
    with pytest.raises(
        TypeError, match=r"model must be a .*DistributedDataParallel, got torch\.nn\.mod"
    ):
        quantize_all_reduce(nn.Linear(1, 1), "bf16/stochastic")


SCRIPT = textwrap.dedent("""
    import os, sys, torch
    from qemu_swalp.training import Recipe, swalp
    from qemu_swalp_torch import Averager, quantize_activations, quantize_gemms, quantize_optimizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    state, operands = {"exp_avg_sq": "float<8,7>"}, {"input": "bfp<6,axis=-1>"}
    recipe = Recipe(**swalp(8).to_dict(), state=state, operands=operands)
    relus = quantize_activations(model, recipe, modules=torch.nn.ReLU)
    places = [relus, quantize_gemms(model, recipe)]
    opt = quantize_optimizer(torch.optim.Adam(model.parameters(), 0.01), recipe)
    averager = Averager(model, quantizer="bfp<9>", start=5)
    averager.attach(opt)
    file, steps = sys.argv[1], int(sys.argv[2])
    parts = {"model": model, "opt": opt, "averager": averager, "0": places[0], "1": places[1]}
    first = 0
    if os.path.exists(file):
        saved = torch.load(file, weights_only=True)
        first = saved.pop("step")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for step in range(first, steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        opt.step()
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"step": step + 1, **states}, file + ".new")
        os.replace(file + ".new", file)
        print(step, flush=True)
""")


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    """SIGKILL wherever it meets the process, some steps after the start."""
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run(
        [*command, str(tmp_path / "unbroken"), "30"], check=True, stdout=subprocess.DEVNULL
    )
    with subprocess.Popen(
        [*command, str(tmp_path / "killed"), "100000"], stdout=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline().strip() != "7":
            assert process.poll() is None
        time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / "killed", weights_only=True)
    assert 8 <= saved["step"] < 30
    subprocess.run(
        [*command, str(tmp_path / "killed"), "30"], check=True, stdout=subprocess.DEVNULL
    )
    files = [torch.load(tmp_path / name, weights_only=True) for name in ("unbroken", "killed")]
    assert repr_bits(files[0]) == repr_bits(files[1])


def repr_bits(value):
    """A nested state with tensors as bytes."""
    if isinstance(value, dict):
        return {key: repr_bits(v) for key, v in value.items()}
    if isinstance(value, list):
        return [repr_bits(v) for v in value]
    return (value.dtype, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value
