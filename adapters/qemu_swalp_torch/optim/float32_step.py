"""A step that computes in float32 for 16-bit parameters, so that its results are rounded once.

An optimizer stores its results in the dtype of the parameters: to the nearest 16-bit number, before
our rounding could see them. Here a stand-in makes the step, a copy of the optimizer that has the
same numbers in float32. `Optimizer.step` lets a pre-hook replace the arguments of the step
function, the optimizer among them. The optimizer itself changes at the end, so a step that raises
leaves weights and state of its 16-bit parameters as they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from qemu_swalp.interop.torch import is_dtensor

from .._compat import keep_step_hooks, version_of
from .param_plan import Entry, is_16bit

Key = TypeVar("Key", bound=Hashable)

COUNTERS = frozenset(("step", "eta", "mu", "mu_product"))
"""State that PyTorch's optimizers keep in float32 whatever the dtype of the parameter."""


class Float32Step:
    """The stand-in of an optimizer for its steps, and the way of the numbers there and back.

    It has the parameters of the entries in float32 and shares the others with the optimizer. Of the
    optimizer's step hooks it has those of the handles: others see the optimizer itself, once.
    Between steps its float32 tensors hold no memory; the objects stay, since `torch.compile` would
    otherwise compile every step anew.
    """

    def __init__(self, optimizer: Optimizer, entries: Iterable[Entry]) -> None:
        self.optimizer = optimizer
        self.labels = {entry.parameter: entry.label for entry in entries}
        self.copies: dict[Tensor, Tensor] = {}
        self.kept: dict[Tensor, dict[str, Tensor]] = {p: {} for p in self.labels}
        """Tensors of the stand-in's state, empty between steps."""
        self.stand_in: Optimizer = object.__new__(type(optimizer))

    def fits(self, entries: Iterable[Entry]) -> bool:
        """Whether it is of these entries."""
        return [id(p) for p in self.labels] == [id(entry.parameter) for entry in entries]

    @torch.no_grad()
    def begin(self, handles: Iterable[RemovableHandle]) -> None:
        """Make the stand-in what the optimizer is, in float32."""
        optimizer = self.optimizer
        self.copies = {p: _in_float32(p, self.copies.get(p)) for p in self.labels}
        for p, copy in self.copies.items():
            copy.requires_grad_(p.requires_grad)
            copy.__dict__ |= p.__dict__
        self.load_gradients()
        groups = [
            {**group, "params": [self.copies.get(p, p) for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        state: defaultdict[Any, Any] = defaultdict(dict)
        for p, values in optimizer.state.items():
            if p in self.copies:
                kept = self.kept[p]
                state[self.copies[p]] = {k: _widened(v, kept.get(k)) for k, v in values.items()}
            else:
                state[p] = values
        # LBFGS has its only list of parameters as an attribute too.
        lists = {
            id(ours["params"]): theirs["params"]
            for ours, theirs in zip(optimizer.param_groups, groups, strict=True)
        }
        self.stand_in.__dict__.clear()
        self.stand_in.__dict__ |= {
            name: lists.get(id(value), value) for name, value in optimizer.__dict__.items()
        }
        self.stand_in.param_groups, self.stand_in.state = groups, state
        keep_step_hooks(self.stand_in, handles)
        self.attributes = dict(self.stand_in.__dict__)

    def end(self) -> None:
        """Free the memory of the stand-in's tensors."""
        self.stand_in.param_groups, self.stand_in.state = [], defaultdict(dict)
        self.attributes = {}
        self.copies = _emptied(self.copies)
        self.kept = {p: _emptied(state) for p, state in self.kept.items()}

    def entry(self, entry: Entry) -> Entry:
        """The entry with the stand-in's parameter."""
        return entry._replace(parameter=self.copies.get(entry.parameter, entry.parameter))

    @torch.no_grad()
    def load_gradients(self) -> None:
        """Hand the parameters' gradients to the stand-in."""
        for p, copy in self.copies.items():
            copy.grad = None if p.grad is None else p.grad.to(torch.float32)
        self._note_versions()

    @torch.no_grad()
    def show_weights(self) -> None:
        """Put the stand-in's weights into the model, which a closure is about to evaluate."""
        self._check_untouched()
        for p, copy in self.copies.items():
            p.copy_(copy)
        self._note_versions()

    @torch.no_grad()
    def store(self, gradients: Iterable[Tensor]) -> None:
        """Take over what the stand-in computed: exact where it was rounded, else to the nearest.

        `gradients` are the stand-in's parameters whose gradients were rounded. RuntimeError where
        the optimizer wrote into a parameter of its own accord.
        """
        self._check_untouched()
        rounded = {id(copy) for copy in gradients}
        for p, copy in self.copies.items():
            p.copy_(copy)
            if copy.grad is None:
                p.grad = None
            elif id(copy) in rounded and p.grad is not None:
                p.grad.copy_(copy.grad)
            if copy in self.stand_in.state:
                self._store_state(p, self.stand_in.state.pop(copy), self.optimizer.state[p])
        self.optimizer.state.update(self.stand_in.state)
        for ours, theirs in zip(
            self.optimizer.param_groups, self.stand_in.param_groups, strict=True
        ):
            ours.update({key: value for key, value in theirs.items() if key != "params"})
        for name, value in self.stand_in.__dict__.items():
            if value is not self.attributes.get(name):
                setattr(self.optimizer, name, value)

    def _store_state(self, p: Tensor, computed: dict[str, Any], stored: dict[str, Any]) -> None:
        """Put a parameter's computed state into what the optimizer stores, in its dtypes."""
        for key in [key for key in stored if key not in computed]:
            del stored[key]
        self.kept[p] = {}
        for key, value in computed.items():
            stored[key] = _narrowed(value, stored.get(key), p, key)
            if isinstance(value, Tensor) and stored[key] is not value:
                self.kept[p][key] = value

    def _note_versions(self) -> None:
        self.versions = {p: version_of(p) for p in self.copies}

    def _check_untouched(self) -> None:
        for p, version in self.versions.items():
            if version_of(p) != version:
                raise RuntimeError(
                    f"{type(self.optimizer).__name__}.step wrote into {self.labels[p]}"
                    f" ({p.dtype}) itself, not through param_groups, so its update cannot be"
                    " computed in float32 and rounded once; give the optimizer float32 parameters,"
                    " or quantize the optimizer within it instead"
                )


def _emptied(tensors: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The tensors without memory; not DTensors, whose shards cannot be exchanged."""
    empty = {key: tensor for key, tensor in tensors.items() if not is_dtensor(tensor)}
    for tensor in empty.values():
        tensor.grad = None
        tensor.data = tensor.new_empty(0)
    return empty


def _in_float32(x: Tensor, kept: Tensor | None) -> Tensor:
    """x in float32; in the object kept from the last step, where it may be refilled."""
    value = x.detach().to(torch.float32)
    if kept is None or is_dtensor(x):
        return value
    kept.data = value
    return kept


def _widened(value: Any, kept: Tensor | None) -> Any:
    """A value of the state with its 16-bit tensors in float32."""
    if isinstance(value, Tensor):
        return _in_float32(value, kept) if is_16bit(value) else value
    return [_widened(item, None) for item in value] if isinstance(value, list) else value


def _narrowed(value: Any, before: Any, p: Tensor, key: str) -> Any:
    """A computed value of the state in the dtype that it was stored in, new ones in that of p."""
    if isinstance(value, list):
        dtype = next((x.dtype for x in before or () if isinstance(x, Tensor)), p.dtype)
        return [x.to(dtype) if _is_computed(x) else x for x in value]
    if not _is_computed(value):
        return value
    if isinstance(before, Tensor) and before.dtype != value.dtype:
        return before.copy_(value) if before.shape == value.shape else value.to(before.dtype)
    is_scalar = value.ndim == 0 and p.ndim > 0
    stays = isinstance(before, Tensor) or key in COUNTERS or is_scalar
    return value if stays else value.to(p.dtype)


def _is_computed(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32
