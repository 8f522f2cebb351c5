"""An averager's hooks on the steps of an optimizer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

from torch import Tensor
from torch.optim import Optimizer

from qemu_swalp.interop.torch import untraced

from .._compat import run_first_before_step, version_of
from ..optim.grad_scaler import step_is_skipped
from ..optim.no_step import has_gradients, has_placeholders, is_no_step
from ..tensors.custom_ops import refuse_capture
from .source import Source
from .swap import Swaps


class Attachment:
    """What `Averager.attach` returns: `remove()` ends it, as does leaving it as a context.

    Parameters
    ----------
    optimizer : one that runs its hooks. begin : called before a step. count : called with this
        attachment after each step that is one; of nested steps, where a subclass calls
        `super().step`, after the outer one.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        begin: Callable[[], None],
        count: Callable[[Attachment], None],
    ) -> None:
        self.optimizer, self.begin, self.count = ref(optimizer), begin, count
        self.trained: dict[str, Tensor] = {}
        """The averaged parameters that the optimizer has."""
        self.untouched = 0
        """How many steps in a row had nothing for any of these."""
        self.running: list[tuple[int, bool]] = []
        """Of each step that has begun: depth of its call, and whether it is none."""
        self.versions: dict[int, int] = {}
        """id → version of each parameter of the optimizer, when the step began."""
        self.had_state = False
        self.placeholders: bool | None = None
        """Whether the optimizer's state is of a step that was none; None: to be found out."""
        before = optimizer.register_step_pre_hook(self._before_step)
        # First, so that an abandoned swap is undone before anybody reads the weights.
        run_first_before_step(optimizer, before)
        self.handles = [
            before,
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        ]

    def of(self, optimizer: Optimizer) -> bool:
        """Whether it counts the steps of this optimizer."""
        return bool(self.handles) and self.optimizer() is optimizer

    def remove(self) -> None:
        """Count no more steps."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def check_trained(self, parameters: Mapping[str, Tensor]) -> None:
        """RuntimeError where a parameter that the optimizer had was exchanged for one that it has
        not.
        """
        params = trained_by(self.optimizer())
        lost = [
            name
            for name, p in parameters.items()
            if name in self.trained and p.requires_grad and id(p) not in params
        ]
        if lost:
            raise RuntimeError(
                f"{', '.join(lost)} in the model is another tensor than when the averager was"
                " attached, and the optimizer does not train it; after a module was replaced, or"
                " fully_shard or load_state_dict(assign=True) was called, make an optimizer of the"
                " model's parameters and attach the averager to it"
            )

    @untraced
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        is_none = is_no_step(optimizer, args, kwargs)
        if not is_none and self.placeholders is not False:
            if self.placeholders or has_placeholders(optimizer):
                optimizer.state.clear()
            self.placeholders = False
        had_state, depth = bool(optimizer.state), _depth()
        # Steps that began as deep as this one, or deeper, have raised.
        self.running = [step for step in self.running if step[0] < depth]
        if not self.running:
            self.begin()
            self.versions = _versions(optimizer)
        self.running.append((depth, is_none))
        self.had_state = had_state

    @untraced
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        refuse_capture("an average", "call update() after each replay")
        _, is_none = self.running.pop() if self.running else (0, False)
        if is_none and optimizer.state and not self.had_state:
            self.placeholders = True
        if self.running or step_is_skipped(optimizer):
            return
        self._check_touched()
        # Some optimizers take the gradients away in a step, and some write through `data`.
        is_none = is_none or not (has_gradients(optimizer) or _versions(optimizer) != self.versions)
        if not is_none:
            self.count(self)

    def _after_load(self, optimizer: Optimizer) -> None:
        self.placeholders = None

    def _check_touched(self) -> None:
        """Warn where two steps in a row had nothing for any of the averaged parameters: one alone
        may be made to please a schedule.
        """
        trained = {name: p for name, p in self.trained.items() if p.requires_grad}
        if not trained or any(
            p.grad is not None or version_of(p) != self.versions.get(id(p))
            for p in trained.values()
        ):
            self.untouched = 0
            return
        self.untouched += 1
        if self.untouched == 2:
            names = list(trained)
            more = f" and {len(names) - 8} more" if names[8:] else ""
            warnings.warn(
                f"two steps found no gradient for {', '.join(names[:8])}{more}, which are averaged;"
                " if the model has other tensors in their place by now, make an averager of the"
                " whole model, which follows it",
                stacklevel=2,
            )


def _depth() -> int:
    """How many calls this one is within."""
    frame, depth = inspect.currentframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


class Attachments:
    """The optimizers whose steps one averager counts."""

    def __init__(self, source: Source, swaps: Swaps) -> None:
        self.source, self.swaps = source, swaps
        self._attachments: list[Attachment] = []

    def standing(self) -> list[Attachment]:
        """Those that were not removed, of optimizers that still exist."""
        return [a for a in self._attachments if a.handles and a.optimizer() is not None]

    def check(self, optimizer: Optimizer) -> None:
        """ValueError where its steps are counted already, or it trains nothing that is averaged."""
        if any(attachment.of(optimizer) for attachment in self.standing()):
            raise ValueError(
                f"the averager is attached to this {type(optimizer).__name__} already, and would"
                " count each step twice; call remove() of the handle that the first attach() gave"
            )
        parameters = self.source.tensors()
        if trained_by(optimizer).isdisjoint(id(p) for p in parameters.values()):
            raise ValueError(
                f"this {type(optimizer).__name__} has none of the averaged parameters"
                f" {', '.join(parameters)}; make optimizer and averager of the model as it is now"
            )

    def add(self, optimizer: Optimizer, count: Callable[[Attachment], None]) -> Attachment:
        """Count the optimizer's steps."""
        attachment = Attachment(optimizer, lambda: self.swaps.settle("optimizer.step()"), count)
        params = trained_by(optimizer)
        attachment.trained = {n: p for n, p in self.source.tensors().items() if id(p) in params}
        self._attachments = [*self.standing(), attachment]
        return attachment


def _versions(optimizer: Optimizer) -> dict[int, int]:
    return {id(p): version_of(p) for group in optimizer.param_groups for p in group["params"]}


def trained_by(optimizer: Optimizer | None) -> set[int]:
    """The ids of the parameters of an optimizer."""
    groups = [] if optimizer is None else optimizer.param_groups
    return {id(p) for group in groups for p in group["params"]}
