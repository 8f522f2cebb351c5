"""An all-reduce of gradients in low precision, as a communication hook of
DistributedDataParallel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from qemu_swalp._util.checks import check_int
from qemu_swalp.interop.torch import array_of, tensor_of
from qemu_swalp.training import Quantizer, TensorRandomBits, apply
from qemu_swalp.training.seeds import seed_for

if TYPE_CHECKING:
    from torch.distributed import GradBucket  # type: ignore[attr-defined]


class LowPrecisionAllReduce:
    """What `quantize_all_reduce` returns: its settings, and the number of reductions made, in
    `state_dict`.
    """

    def __init__(
        self, model: DistributedDataParallel, sent: Quantizer, partial: Quantizer | None, seed: int
    ) -> None:
        self.sent, self.partial, self.seed = sent, partial, seed
        self.group = model.process_group
        self.step = 0
        self.indices = {id(p): index for index, p in enumerate(model.parameters())}

    def state_dict(self) -> dict[str, int]:
        """For an exact resume of stochastic rounding."""
        return {"seed": self.seed, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of `state_dict`."""
        check_int("state['step']", state["step"], 0, 2**32 - 1)
        check_int("state['seed']", state["seed"], 0, 2**64 - 1)
        self.seed, self.step = state["seed"], state["step"]

    def reduce(self, bucket: GradBucket) -> Future[Tensor]:
        """Send what this rank adds; on its arrival at all ranks, add in their order."""
        ranks, rank = distributed.get_world_size(self.group), distributed.get_rank(self.group)
        draws = [
            TensorRandomBits(self.seed, self.indices[id(p)], self.step) for p in bucket.parameters()
        ]
        self.step += bucket.is_last()
        buffer, gradients = bucket.buffer(), bucket.gradients()
        buffer.div_(ranks)
        for gradient, draw in zip(gradients, draws, strict=True):
            _round_(gradient, self.sent, draw, f"all_reduce.sent.{rank}")
        arrived = [torch.empty_like(buffer) for _ in range(ranks)]
        work = distributed.all_gather(arrived, buffer, group=self.group, async_op=True)
        partial = self.partial

        def added(_: Any) -> Tensor:
            total = arrived[0]
            for hop, part in enumerate(arrived[1:], start=1):
                total.add_(part)
                if partial is not None:
                    for gradient, draw in zip(gradients, draws, strict=True):
                        start = gradient.storage_offset() - buffer.storage_offset()
                        window = total[start : start + gradient.numel()].view(gradient.shape)
                        _round_(window, partial, draw, f"all_reduce.partial.{hop}")
            return buffer.copy_(total)

        gathered = work.get_future()
        # `then` of a future that is done calls the function here. Else a thread of gloo calls and
        # drops it, which aborts the process if the interpreter ends meanwhile.
        if not gathered.done():
            gathered.wait()
        future: Future[Tensor] = gathered.then(added)
        return future


def _round_(x: Tensor, quantizer: Quantizer, draw: TensorRandomBits, role: str) -> None:
    x.copy_(tensor_of(apply(quantizer, array_of(x), draw, role)))


def quantize_all_reduce(
    model: DistributedDataParallel,
    sent: Quantizer | str,
    *,
    partial: Quantizer | str | None = None,
    seed: int | None = None,
) -> LowPrecisionAllReduce:
    """Have DistributedDataParallel average gradients as a network of low precision would.

    Each rank sends its gradient, divided by the number of ranks, rounded; s_1 = Q(g_1/n), s_r =
    P(s_{r-1} + Q(g_r/n)), and every rank gets s_n. The order of the ranks is that of a ring's hops,
    and the same for all elements, so that the sum has the same bits wherever it is made. Each
    parameter is rounded by itself, whatever bucket it travels in. (The emulation gathers all
    contributions, which takes more traffic than an all-reduce, and memory for each rank.)

    Parameters
    ----------
    model : what DistributedDataParallel returned; it takes one communication hook, once.
    sent : Quantizer or `FORMAT/ROUNDING` string, Q. partial : P, of the partial sums; None keeps
        them in the gradients' dtype.
    seed : of the random bits, which depend on (seed, rank or hop, index of the parameter in the
        model, number of the reduction). None: another one for each call in this process.

    Raises
    ------
    TypeError: if `model` is not a DistributedDataParallel, or a quantizer is not one.
    RuntimeError: of PyTorch, if the model has a communication hook already.

    >>> import torch, torch.distributed as distributed
    >>> distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> model = torch.nn.parallel.DistributedDataParallel(linear)
    >>> hook = quantize_all_reduce(model, "e4m3fn/nearest_even")
    >>> model(torch.tensor([[1.3]])).backward()
    >>> linear.weight.grad.item(), hook.step
    (1.25, 1)
    >>> distributed.destroy_process_group()
    """
    if not isinstance(model, DistributedDataParallel):
        raise TypeError(
            "model must be a torch.nn.parallel.DistributedDataParallel, "
            f"got {type(model).__module__}.{type(model).__qualname__}"
        )
    quantizers = Quantizer.parse(sent), None if partial is None else Quantizer.parse(partial)
    with seed_for("all-reduce", seed) as drawn:
        state = LowPrecisionAllReduce(model, *quantizers, drawn)
    # A lambda, since PyTorch compares the annotations of hooks with its own types.
    model.register_comm_hook(state, lambda state, bucket: state.reduce(bucket))
    return state
