"""Private API of PyTorch is touched in `qemu_swalp_torch._compat` alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import qemu_swalp_torch
import torch
from qemu_swalp_torch import _compat
from torch import nn

from tests.adapters.torch.compat.conftest import changed

PACKAGE = Path(qemu_swalp_torch.__file__).parent
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_of_ours(trees: list[ast.Module]) -> set[str]:
    """Private names that the package itself defines: functions, classes, modules, attributes."""
    ours = set(NAMED_TUPLES) | {path.stem for path in PACKAGE.rglob("*.py")}
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                ours.add(name)
            case ast.Attribute(attr=name, value=ast.Name(id="self"), ctx=ast.Store()):
                ours.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                ours.add(name)
    return ours


def private_uses(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Private names of others that a file imports, reads as attributes, or asks for by strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                parts = [part for alias in names for part in alias.name.split(".")]
            case ast.ImportFrom(module=module, names=names, level=0):
                if (module or "").startswith("qemu_swalp"):
                    continue
                parts = [*(module or "").split("."), *(alias.name for alias in names)]
            case ast.Attribute(attr=name):
                parts = [name]
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr")):
                parts = [str(a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)]
            case _:
                continue
        yield from (part for part in parts if is_private(part) and part not in ours)


def private_uses_by_file(package: Path) -> dict[str, list[str]]:
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    ours = names_of_ours(list(trees.values()))
    uses = {str(p.relative_to(package)): list(private_uses(t, ours)) for p, t in trees.items()}
    return {file: found for file, found in uses.items() if found}


def test_private_api_is_touched_in_one_place():
    assert {Path(file).parts[0] for file in private_uses_by_file(PACKAGE)} == {"_compat"}


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from torch._C import Graph",
        "from torch.nn.modules.conv import _ConvNd",
        "optimizer._optimizer_step_post_hooks.clear()",
        "torch._C._current_graph_task_id()",
        "getattr(module, '_compiled_call_impl', None)",
    ],
)
def test_the_search_knows_private_api(source):
    assert list(private_uses(ast.parse(source), NAMED_TUPLES))


def test_base_classes():
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.LazyConv2d):
        assert issubclass(kind, _compat.ConvNd), changed("ConvNd")
    for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        assert issubclass(kind, _compat.ConvTransposeNd), changed("ConvTransposeNd")
    assert not issubclass(nn.Conv2d, _compat.ConvTransposeNd), changed("ConvTransposeNd")
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, _compat.BatchNorm), changed("BatchNorm")
    assert issubclass(nn.InstanceNorm2d, _compat.NormBase), changed("NormBase")
    assert issubclass(_compat.BatchNorm, _compat.NormBase), changed("NormBase")
    for kind in (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d):
        assert issubclass(kind, _compat.AVERAGE_POOLS), changed("AVERAGE_POOLS")
    assert not issubclass(nn.MaxPool2d, _compat.AVERAGE_POOLS), changed("AVERAGE_POOLS")


def test_what_the_core_touches():
    """`arrays/_torch.py`, `kernels/backends/torch.py` and `interop/torch.py`, which see tensors
    without this adapter.
    """
    from torch._compile import _disable_dynamo
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        pass

    depth = torch._C._len_torch_dispatch_stack
    with Mode():
        assert depth() == 1, changed("_len_torch_dispatch_stack")
    assert depth() == 0, changed("_len_torch_dispatch_stack")
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    seen = []
    torch.func.vmap(lambda x: seen.append(wrapped(x)) or x)(torch.zeros(2))
    assert seen == [True], changed("is_functorch_wrapped_tensor")
    assert not wrapped(torch.zeros(2)), changed("is_functorch_wrapped_tensor")
    active = []
    torch.func.grad(lambda x: active.append(_compat.transforms_are_active()) or x)(torch.ones(()))
    torch.func.vmap(lambda x: active.append(_compat.transforms_are_active()) or x)(torch.ones(2))
    assert active == [True, True], changed("transforms_are_active")
    assert not _compat.transforms_are_active(), changed("transforms_are_active")
    count = torch.zeros(())

    def counted(x):
        with _compat.outside_transforms():
            count.add_(1)
        return x

    torch.func.grad(counted)(torch.ones(()))
    assert count == 1, changed("_DisableFuncTorch")
    assert _disable_dynamo(lambda x: x + 1)(1) == 2, changed("_disable_dynamo")
