"""qemu_swalp for PyTorch: quantized training and SWALP averaging on one's own model and optimizer.

>>> import torch
>>> from torch import nn
>>> from qemu_swalp.training import swalp
>>> from qemu_swalp_torch import Averager, disabled, quantize_activations, quantize_optimizer
>>> _ = torch.manual_seed(0)
>>> model, recipe = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), swalp(8)
>>> opt = quantize_optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), recipe)
>>> handle = quantize_activations(model, recipe, modules=nn.ReLU)
>>> averager = Averager(model, start=20)
>>> hook = averager.attach(opt)
>>> x = torch.randn(64, 4)
>>> for _ in range(40):
...     opt.zero_grad()
...     loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
...     loss.backward()
...     opt.step()
>>> with averager.swap(), disabled(model):
...     bool(nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)) < 0.1), averager.n_averaged
(True, 20)
"""

from warnings import warn

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "qemu_swalp_torch needs PyTorch; install it with: pip install 'qemu-swalp[torch]'"
    ) from _error

from .averaging.averager import Averager
from .averaging.lr_scheduler import SWALPLR, CyclicSWALR
from .averaging.scoring import scored_by
from .averaging.update_bn import update_bn
from .distributed import LowPrecisionAllReduce, quantize_all_reduce
from .emulation.emulate import Emulation, emulate
from .model.activations import quantize_activations
from .model.backward_coverage import watch_backwards as _watch_backwards
from .model.coverage import UncoveredError
from .model.elementwise import quantize_elementwise, register_elementwise
from .model.handle import SiteHandle, disabled
from .model.matmuls import quantize_gemms, register_gemms
from .model.recomputation import follow_checkpoints as _follow_checkpoints
from .model.selection import COMPUTING_MODULES, GEMM_MODULES, Matmul
from .model.tracing import (
    follow_branches as _follow_branches,
    follow_flex_attention as _follow_flex_attention,
    refuse_tracing as _refuse_tracing,
)
from .monitoring import Monitor
from .optim.layouts import operand_layouts
from .optim.sgd import SGD
from .optim.wrap import quantize_optimizer, unquantize_optimizer, watch_copies as _watch_copies
from .tensors.straight_through import quantize

_follow_checkpoints()
_refuse_tracing()
_follow_branches()
_follow_flex_attention()
_watch_backwards()
_watch_copies()

_RENAMED = {"quantize_steps": quantize_elementwise, "register_steps": register_elementwise}


def __getattr__(name: str) -> object:
    """Names of the first drafts, for one release."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn(
        f"qemu_swalp_torch.{name} is called {_RENAMED[name].__name__} since version 0.2; the old"
        " name goes in version 0.3",
        DeprecationWarning,
        stacklevel=2,
    )
    return _RENAMED[name]


__all__ = [
    "COMPUTING_MODULES",
    "Emulation",
    "GEMM_MODULES",
    "SGD",
    "SWALPLR",
    "Averager",
    "CyclicSWALR",
    "LowPrecisionAllReduce",
    "Matmul",
    "Monitor",
    "SiteHandle",
    "UncoveredError",
    "disabled",
    "emulate",
    "operand_layouts",
    "quantize",
    "quantize_activations",
    "quantize_all_reduce",
    "quantize_gemms",
    "quantize_optimizer",
    "quantize_elementwise",
    "register_gemms",
    "register_elementwise",
    "scored_by",
    "unquantize_optimizer",
    "update_bn",
]
