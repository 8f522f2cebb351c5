"""Bad input of the optimizers, and what importing does."""

import subprocess
import sys
import textwrap

import pytest
import torch
from qemu_swalp_torch import SGD, quantize_optimizer, unquantize_optimizer

from qemu_swalp.training import Recipe, swalp


def sgd(shape=(2, 3), **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.full(shape, 0.3))], 0.1, **options)


class Odd(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def odd_parameter():
    return torch.Tensor._make_wrapper_subclass(Odd, (2,), requires_grad=True)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: quantize_optimizer(3, swalp(8)),
            TypeError,
            "opt must be a torch.optim.Optimizer, got builtins.int",
        ),
        (
            lambda: quantize_optimizer(sgd(), 8),
            TypeError,
            r"recipe must be a .*Recipe, such as swalp\(8\)",
        ),
        (
            lambda: quantize_optimizer(sgd(), "bfp8"),
            ValueError,
            "the name of a preset, one of swalp8, .*; got 'bfp8'",
        ),
        (
            lambda: quantize_optimizer(sgd(), swalp(8), seed=-1),
            ValueError,
            "seed must be from 0 to 184467440737",
        ),
        (
            lambda: quantize_optimizer(sgd(), swalp(8), seed=1.0),
            TypeError,
            "seed must be an integer",
        ),
        (
            lambda: quantize_optimizer(quantize_optimizer(sgd((3,)), swalp(8)), swalp(8)),
            ValueError,
            "this SGD is already quantized; call unquantize_optimizer on it first",
        ),
        (
            lambda: quantize_optimizer(SGD([torch.zeros(1)]), swalp(8)),
            ValueError,
            "this SGD is already quantized",
        ),
        (
            lambda: quantize_optimizer(sgd(), swalp(8), capturable=1),
            TypeError,
            "capturable must be True or False, got 1",
        ),
        (
            lambda: SGD([torch.zeros(1)], differentiable=1),
            TypeError,
            "differentiable must be True or False, got 1",
        ),
        (
            lambda: SGD([torch.zeros(1)], foreach=1),
            TypeError,
            "foreach must be True or False, got 1",
        ),
        (
            lambda: SGD([torch.zeros(1)], fused="yes"),
            TypeError,
            "fused must be True or False, got 'yes'",
        ),
        (
            lambda: quantize_optimizer(
                sgd(), Recipe("bf16/stochastic", overrides={"*.bias": None})
            ),
            ValueError,
            (
                r"the recipe has overrides by parameter name \(\*\.bias\), but .* have no names;"
                r" pass model= or named"
            ),
        ),
        (
            lambda: quantize_optimizer(
                sgd(), Recipe("bf16/stochastic", overrides={"x": None}), model=torch.nn.Linear(1, 1)
            ),
            ValueError,
            (
                r"parameter 0 of param_groups\[0\], of shape \(2, 3\), is not among the 2 named"
                r" parameters; pass the model that"
            ),
        ),
        (
            lambda: quantize_optimizer(
                sgd(), swalp(8), model=torch.nn.Linear(1, 1), named_parameters=[]
            ),
            TypeError,
            "model and named_parameters exclude each other",
        ),
        (
            lambda: quantize_optimizer(sgd((3,)), Recipe(weight="bfp<8,axis=1>/stochastic")),
            ValueError,
            (
                r"param_groups\[0\]\['params'\]\[0\], role weight: bfp<8,axis=1> names axis 1, .*"
                r" by an override"
            ),
        ),
        (
            lambda: quantize_optimizer(
                torch.optim.SGD([torch.zeros(1, dtype=torch.float16)]),
                Recipe(state={"s": "bf16/stochastic"}),
            ),
            TypeError,
            "role s: an array of float16 cannot represent the values of bf16",
        ),
        (
            lambda: quantize_optimizer(
                torch.optim.SGD([("w", torch.zeros(1, dtype=torch.complex64))]), swalp(8)
            ),
            TypeError,
            "w, role weight: expected an array of float16",
        ),
        (
            lambda: quantize_optimizer(torch.optim.SGD([odd_parameter()]), swalp(8)),
            TypeError,
            (
                r"is a .*\.Odd, a tensor subclass whose storage is its own; .* needs a"
                r" torch.Tensor, torch.nn.Parameter or DTensor: convert it"
            ),
        ),
        (
            lambda: unquantize_optimizer(sgd()),
            ValueError,
            "an optimizer that quantize_optimizer was called on, got SGD",
        ),
        (
            lambda: unquantize_optimizer(SGD([torch.zeros(1)])),
            ValueError,
            "an optimizer that quantize_optimizer was",
        ),
        (
            lambda: SGD([torch.zeros(1)], lr=-0.1),
            ValueError,
            "learning_rate must be at least 0, got -0.1",
        ),
        (
            lambda: SGD([torch.zeros(1)], lr="x"),
            TypeError,
            "learning_rate must be a number, got 'x'",
        ),
        (
            lambda: SGD([torch.zeros(1)], lr=torch.ones(2)),
            ValueError,
            r"lr must be a number or a tensor of one element, got shape \(2,\)",
        ),
        (
            lambda: SGD([torch.zeros(1)], momentum=-1),
            ValueError,
            "momentum must be at least 0, got -1",
        ),
        (
            lambda: SGD([torch.zeros(1)], weight_decay=-1),
            ValueError,
            "weight_decay must be at least 0",
        ),
        (
            lambda: SGD([torch.zeros(1)], nesterov=True),
            ValueError,
            "nesterov=True needs momentum > 0 and dampening = 0",
        ),
        (
            lambda: SGD([torch.zeros(1)], nesterov=1),
            TypeError,
            "nesterov must be True or False, got 1",
        ),
        (
            lambda: SGD([{"params": [torch.zeros(1)], "momentum": -1}]),
            ValueError,
            "momentum must be at least 0",
        ),
        (
            lambda: SGD([torch.zeros(1)], recipe=Recipe("bf16/stochastic", overrides={"a": None})),
            ValueError,
            "have no names; .* from .name, parameter. pairs",
        ),
        (
            lambda: SGD([torch.zeros(1)], recipe=None),
            TypeError,
            "recipe must be a qemu_swalp.training.Recipe",
        ),
    ],
)
def test_arguments(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: quantize_optimizer(torch.optim.SGD([p], 0.1), swalp(8).resolve(out=0)),
        lambda p: SGD([p], recipe=swalp(8).resolve(out=0)),
    ],
    ids=["hooks", "native"],
)
def test_sparse_gradients_are_refused_before_anything_changes(make):
    p, q = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(3, 2))
    opt = make(q)
    opt.add_param_group({"params": [p]})
    q.grad, p.grad = torch.full((3, 2), 0.3), torch.ones(3, 2).to_sparse()
    with pytest.raises(
        RuntimeError, match=r"the gradient of .* is sparse .*; quantization takes dense ones: make"
    ):
        opt.step()
    assert q.tolist() == [[1, 1]] * 3
    assert torch.equal(q.grad, torch.full((3, 2), 0.3))


def test_a_failed_call_changes_nothing():
    good, bad = (
        torch.nn.Parameter(torch.full((2, 3), 0.3)),
        torch.nn.Parameter(torch.full((3,), 0.3)),
    )
    opt = torch.optim.SGD([good, bad], 0.1)
    groups = [dict(group) for group in opt.param_groups]
    with pytest.raises(ValueError, match="axis 1"):
        quantize_optimizer(opt, Recipe(weight="bfp<8,axis=1>/stochastic"))
    assert opt.param_groups == groups
    assert good.tolist() == torch.full((2, 3), 0.3).tolist()
    assert not opt._optimizer_step_pre_hooks


def test_an_added_group_without_names_is_refused_at_the_step():
    p = torch.nn.Parameter(torch.ones(2))
    recipe = Recipe("bf16/stochastic", overrides={"a": None})
    opt = quantize_optimizer(torch.optim.SGD([p], 0.1), recipe, named_parameters=[("a", p)])
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match=r"the parameters of param_groups\[1\] have no names"):
        opt.step()


def test_without_pytorch_the_import_names_the_extra():
    script = textwrap.dedent("""
        import sys
        sys.modules["torch"] = None
        try:
            import qemu_swalp_torch
        except ImportError as error:
            print(error)
    """)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (
        "qemu_swalp_torch needs PyTorch; install it with: pip install 'qemu-swalp[torch]'"
        in run.stdout
    )


def test_the_import_loads_no_distributed_tensors():
    script = textwrap.dedent("""
        import sys
        import qemu_swalp_torch
        assert "torch.distributed.tensor" not in sys.modules
        assert "tensorflow" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", script], check=True)
