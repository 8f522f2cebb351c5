"""The average in the model for a while, and what the model held before.

What was saved is kept by the averager, and put back by `with`, by `restore()`, or at the next use
of model or averager; never because Python happened to collect an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ContextDecorator
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn

from .._compat import version_of
from .source import Source
from .tensors import check_fit, copy_into

Holder = TypeVar("Holder")

READERS = ("named_parameters", "named_modules", "__reduce_ex__")
"""Methods of a module by which others read its parameters: copies and pickles included, and modules
that it is a part of.
"""


class Swap(AbstractContextManager[Holder], ContextDecorator, Generic[Holder]):
    """What `Averager.swap` returns. One that is dropped without being left changes nothing."""

    def __init__(self, holder: Holder, begin: Callable[[Swap[Holder]], Saved]) -> None:
        self.holder, self.begin = holder, begin
        self.saved: Saved | None = None

    def __enter__(self) -> Holder:
        self.saved = self.begin(self)
        return self.holder

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        saved, self.saved = self.saved, None
        if saved is None or not saved.stands:
            return
        if kind is GeneratorExit and saved.was_trained():
            # Python closes a generator that it collects: too late to throw away what came since.
            saved.owner = _nobody
            return
        saved.restore()


class Saved:
    """The values that a swap took out of a model.

    Parameters
    ----------
    owner : the `Swap`. tensors : what is to be put back. watched : those of them that the average
        was written into, once it was. model : the module they are of, if any.
    """

    def __init__(self, owner: Swap[Any], tensors: Mapping[str, Tensor], model: Any) -> None:
        self.tensors = dict(tensors)
        self.values = {name: x.detach().clone() for name, x in self.tensors.items()}
        self.versions: dict[str, int] = {}
        self.model, self.stands = model, True
        self.at_next_use: list[Any] = []
        self.shadowed: list[tuple[nn.Module, str]] = []
        self.owner: Callable[[], Swap[Any] | None] = ref(owner, self._abandoned)
        STANDING.add(self)

    def watch(self, names: Iterable[str]) -> None:
        """From now on it is known whether these are written."""
        self.versions = {name: version_of(self.tensors[name]) for name in names}

    def was_trained(self) -> bool:
        """Whether somebody has written into the average since."""
        return any(version_of(self.tensors[name]) != v for name, v in self.versions.items())

    def restore(self) -> None:
        """Put everything back, once."""
        if self.stands:
            copy_into(self.values, self.tensors)
            self.forget()

    def forget(self) -> None:
        """Keep what the model holds."""
        self.stands, self.values = False, {}
        STANDING.discard(self)
        self._unshadow()

    def settle(self, what: str) -> None:
        """Restore what an abandoned swap took out.

        RuntimeError if the swap still stands, or the average was trained since.
        """
        if self.owner() is not None:
            raise RuntimeError(
                f"{what} within swap(): the model holds the average now; leave the swap first, or"
                " call restore() if it was abandoned"
            )
        if self.was_trained():
            raise RuntimeError(
                f"{what} after a swap() that was abandoned: the average in the model was trained"
                " on since; restore() puts back the weights from before the swap, forget_swap()"
                " keeps those in the model"
            )
        self.restore()

    def _abandoned(self, owner: Any) -> None:
        """The swap is gone: restore as soon as the model, or a part of it, is used, read, copied or
        saved.
        """
        if self.stands and isinstance(self.model, nn.Module):
            for module in self.model.modules():
                self.at_next_use += [
                    module.register_forward_pre_hook(_AtNextForward(self), prepend=True),
                    module.register_state_dict_pre_hook(  # type: ignore[no-untyped-call]
                        _AtNextUse(self)
                    ),
                ]
                for name in READERS:
                    if name not in module.__dict__:
                        module.__dict__[name] = partial(self._read, module, name)
                        self.shadowed.append((module, name))

    def _read(self, module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
        """In place of a reader of a module."""
        self.restore_unless_trained()
        self._unshadow()
        return getattr(module, name)(*args, **kwargs)

    def _unshadow(self) -> None:
        """Give the modules their own readers back."""
        for module, name in self.shadowed:
            module.__dict__.pop(name, None)
        self.shadowed = []

    def restore_unless_trained(self) -> None:
        """Put everything back, unless the average was trained on: the averager tells then."""
        if self.stands and not self.was_trained():
            with torch.no_grad():
                self.restore()

    def leave_model(self) -> None:
        """Take the hooks off the model, once nothing is to be restored."""
        if not self.stands:
            for handle in self.at_next_use:
                handle.remove()
            self.at_next_use = []


class _AtNextUse:
    """Pre-hook of `state_dict` that restores; copies of the model have one without effect.

    It stays where it is: PyTorch is going through the hooks that it is among.
    """

    def __init__(self, saved: Saved | None) -> None:
        self.saved = saved

    def __call__(self, *_: Any) -> None:
        if self.saved is not None:
            self.saved.restore_unless_trained()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (None,)


class _AtNextForward(_AtNextUse):
    """Pre-hook of `forward` that does so too, and takes all of them off."""

    def __call__(self, *_: Any) -> None:
        super().__call__()
        if self.saved is not None:
            self.saved.leave_model()


STANDING: WeakSet[Saved] = WeakSet()
"""Swaps that are not left yet, of all averagers."""


class Swaps:
    """The swaps of one averager, of which one at most stands."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.saved: Saved | None = None

    @property
    def stands(self) -> bool:
        """Whether the model holds the average."""
        return self.saved is not None and self.saved.stands

    def begin(self, owner: Swap[Any], weights: Mapping[str, Tensor]) -> Saved:
        """Put weights into the model. ValueError where they do not fit, RuntimeError where a swap
        stands.
        """
        self.settle("swap()")
        targets = self.source.tensors()
        check_fit(weights, targets)
        saved = Saved(owner, self.source.all_buffers() | targets, self.source.model)
        try:
            copy_into(weights, targets)
        except BaseException:
            saved.restore()
            raise
        saved.watch(weights)
        self.saved = saved
        return saved

    def settle(self, what: str) -> None:
        """Undo abandoned swaps of this averager, and of others that hold one of its tensors.

        RuntimeError where one stands.
        """
        for saved in self._standing():
            saved.settle(what)

    def iterate(self) -> dict[str, Tensor]:
        """As `Averager.iterate`."""
        tensors, standing = self.source.tensors(), self._standing()
        if standing:
            tensors = self.source.all_buffers() | tensors
        before = {id(s.tensors[name]): x for s in standing for name, x in s.values.items()}
        return {name: before.get(id(x), x).detach().clone() for name, x in tensors.items()}

    def _standing(self) -> list[Saved]:
        """Swaps of this averager, and of others that hold one of its tensors."""
        if not STANDING:
            return []
        ids = {id(x) for x in self.source.tensors().values()}
        return [
            saved
            for saved in list(STANDING)
            if saved is self.saved or any(id(x) in ids for x in saved.tensors.values())
        ]

    def restore(self) -> None:
        """Put back what the model held."""
        if self.saved is not None:
            self.saved.restore()

    def forget(self) -> None:
        """Keep what the model holds."""
        if self.saved is not None:
            self.saved.forget()


def _nobody() -> None:
    return None
