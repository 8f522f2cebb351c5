"""Batch-normalization statistics of a model whose weights were averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qemu_swalp.training.moments import PooledMoments

from .._compat import BatchNorm


@torch.no_grad()
def update_bn(
    loader: Iterable[Any],
    model: nn.Module,
    *,
    call_fn: Callable[[nn.Module, Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Set running mean and variance of every batch normalization to those of all data that the
    loader gives.

    Mean and unbiased variance are pooled over the elements of all batches, whatever their sizes
    (`torch.optim.swa_utils.update_bn` weights batches equally). As there, the model runs in
    training mode, so each layer sees what batch statistics make of the ones before. Without batch
    normalization nothing is run.

    Parameters
    ----------
    loader : batches: a tensor, or a list or tuple whose first item is the model's input. Wrap it to
        see progress, as in `tqdm(loader)`.
    model : any module. Its modes are as before at the end; after an exception so are all running
        statistics.
    call_fn : called as call_fn(model, batch) instead, for models of several inputs.
    device : where to move the input first (not with call_fn).

    Raises
    ------
    ValueError: if the loader gives no batch.
    TypeError: if a batch is not of the form above.

    >>> import torch
    >>> model = torch.nn.BatchNorm1d(1)
    >>> update_bn([torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[6.0], [8.0]])], model)
    >>> model.running_mean.item(), model.running_var.item(), model.num_batches_tracked.item()
    (4.0, 10.0, 2)
    """
    layers = [module for module in model.modules() if _tracks(module)]
    if not layers:
        return
    pools = [_Pool() for _ in layers]
    before = [[buffer.clone() for buffer in layer.buffers(recurse=False)] for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    hooks = [
        layer.register_forward_pre_hook(pool) for layer, pool in zip(layers, pools, strict=True)
    ]
    batches = 0
    try:
        model.train()
        for batch in loader:
            if call_fn is None:
                model(_input_of(batch, device))
            else:
                call_fn(model, batch)
            batches += 1
        if not batches:
            raise ValueError("loader must give at least one batch, got none")
    except BaseException:
        for layer, kept in zip(layers, before, strict=True):
            for buffer, value in zip(layer.buffers(recurse=False), kept, strict=True):
                buffer.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    for layer, pool in zip(layers, pools, strict=True):
        pool.write(layer, batches)


class _Pool:
    """Pools the moments of a layer's inputs by channel, in float64."""

    def __init__(self) -> None:
        self.moments = PooledMoments()

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        variance, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0)
        count = x.numel() // x.shape[1]
        self.moments.add(count, mean, variance * count)

    def write(self, layer: nn.Module, batches: int) -> None:
        """Write into the layer's buffers, unless no batch reached the layer."""
        if self.moments.count:
            layer.get_buffer("running_mean").copy_(self.moments.mean)
            layer.get_buffer("running_var").copy_(self.moments.variance(unbiased=True))
            layer.get_buffer("num_batches_tracked").fill_(batches)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, BatchNorm) and module.running_mean is not None


def _input_of(batch: Any, device: torch.device | str | None) -> Tensor:
    x = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            "a batch must be a tensor, or a list or tuple that begins with one, got "
            f"{type(batch).__qualname__}; pass call_fn=lambda model, batch: model(...)"
        )
    return x if device is None else x.to(device)
