"""What is averaged of a model, as the model is now."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from qemu_swalp._util.checks import check_bool
from qemu_swalp.interop.torch import check_plain, is_dtensor
from qemu_swalp.training import Policy

from ..optim.layouts import layout_from, layouts_of
from ..tensors import model_names
from .tensors import Weights, named_tensors


class Source:
    """Floating and complex tensors of a model by name, found anew at each time.

    Parameters
    ----------
    model : a module; or named tensors, which stay those that they are.
    buffers : whether a module's buffers belong to it. trainable_only : whether of the parameters
        only those that require a gradient do.
    """

    def __init__(self, model: Weights, buffers: bool = False, trainable_only: bool = False) -> None:
        check_bool("buffers", buffers)
        check_bool("trainable_only", trainable_only)
        self.model = model if isinstance(model, nn.Module) else None
        self._given = {} if self.model is not None else named_tensors(model)
        self.buffers, self.trainable_only = buffers, trainable_only

    def tensors(self) -> dict[str, Tensor]:
        """What is averaged."""
        parameters = self._given if self.model is None else named_tensors(self.model)
        if self.trainable_only:
            parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        named = parameters | (self.all_buffers() if self.buffers else {})
        return {name: p for name, p in named.items() if p.is_floating_point() or p.is_complex()}

    def all_buffers(self) -> dict[str, Tensor]:
        """All buffers of a module; none of named tensors."""
        return {} if self.model is None else dict(model_names.named_buffers(self.model))

    def check(self, exact: bool) -> dict[str, Tensor]:
        """`tensors`, each of a kind that can be averaged; exact : on the host, in integers.

        TypeError, which names it, for one of another kind. ValueError if there is none.
        """
        found = self.tensors()
        if not found:
            names = named_tensors(self._given if self.model is None else self.model, self.buffers)
            trainable = " trainable" if self.trainable_only else ""
            raise ValueError(
                f"model must have{trainable} floating-point parameters to average, got"
                f" {sorted(names) or 'none'}"
            )
        for name, p in found.items():
            check_plain(p, name)
            if exact and (is_dtensor(p) or not p.is_cpu):
                where = "a DTensor" if is_dtensor(p) else f"on {p.device}"
                raise TypeError(
                    f"{name} is {where}, and NumPy keeps exact averages; pass dtype=torch.float64"
                    " instead of exact=, whose sums are as exact up to 2^53 quanta"
                )
        return found

    def with_layouts(self, rule: Policy) -> Policy:
        """A policy that knows the layouts of what is averaged, if its quantizer needs them.

        ValueError if one is not known.
        """
        if rule.quantizer is None or not rule.quantizer.axis_words:
            return rule
        found = self.tensors()
        modules = () if self.model is None else self.model.modules()
        texts = layouts_of(list(found.values()), modules)
        layouts = {
            name: layout
            for name, text in zip(found, texts, strict=True)
            if (layout := layout_from(text)[0]) is not None
        }
        rule = replace(rule, layouts={**layouts, **(rule.layouts or {})})
        for name, p in found.items():
            rule.of_tensor(name, p.shape)
        return rule
